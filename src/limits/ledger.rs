//! What each user spends, in tokens: budgets for a minute and a day, and the counts behind `GET /v1/usage`.
//!
//! A budget is GCRA with the tokens as its cost: it refills steadily, all of it may be spent at once, and what an
//! answer costs is settled as it arrives. Pure: `now` is an argument, the time since
//! some fixed moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::event::Usage;

/// Budgets of each user, in tokens of requests and answers together. Zero is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budgets {
    pub per_minute: u64,
    pub per_day: u64,
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Default)]
pub struct Ledger {
    budgets: Budgets,
    accounts: Mutex<BTreeMap<String, Arc<Mutex<Page>>>>,
}

/// What one user has spent since the process started, or since its last stream but for a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Spent {
    pub streams: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// Tokens among these that no provider counted.
    pub estimated_tokens: u64,
}

#[derive(Debug, Default)]
struct Page {
    spent: Spent,
    /// When each budget, a minute's and a day's, will be whole again.
    whole_at: [Option<Duration>; 2],
    /// By how much that has moved since other nodes were last told, in microseconds.
    untold_us: [i64; 2],
    touched: Duration,
}

/// One user's page, as a stream has it.
#[derive(Debug, Clone)]
pub struct Account {
    budgets: Budgets,
    page: Arc<Mutex<Page>>,
}

/// A budget, and what of it may be spent at once now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Left {
    pub limit: u64,
    pub left: u64,
}

impl Budgets {
    /// Each budget with its window; None where there is no limit.
    fn windows(self) -> [Option<(u64, Duration)>; 2] {
        let limited = |tokens: u64, window| (tokens > 0).then_some((tokens, window));
        [limited(self.per_minute, MINUTE), limited(self.per_day, DAY)]
    }
}

impl Ledger {
    pub fn new(budgets: Budgets) -> Arc<Ledger> {
        Arc::new(Ledger { budgets, accounts: Mutex::default() })
    }

    /// Everybody who spends just now, or of whom other nodes have yet to be told.
    pub fn in_use(&self) -> Vec<(String, Account)> {
        let accounts = lock(&self.accounts);
        let used =
            accounts.iter().filter(|(_, page)| Arc::strong_count(page) > 1 || lock(page).untold_us != [0; 2]);
        used.map(|(key, page)| (key.clone(), Account { budgets: self.budgets, page: page.clone() })).collect()
    }

    pub fn account(&self, key: &str) -> Account {
        let mut accounts = lock(&self.accounts);
        let page = match accounts.get(key) {
            Some(page) => page.clone(),
            None => accounts.entry(key.to_owned()).or_default().clone(),
        };
        Account { budgets: self.budgets, page }
    }

    /// Forgets users of whom nothing was heard for so long that every budget is whole again.
    pub fn sweep(&self, now: Duration) {
        lock(&self.accounts)
            .retain(|_, page| Arc::strong_count(page) > 1 || now.saturating_sub(lock(page).touched) < DAY);
    }
}

impl Account {
    /// How long until anything may be spent again; zero if something may now.
    pub fn wait(&self, now: Duration) -> Duration {
        let page = lock(&self.page);
        let waits = self.budgets.windows().into_iter().zip(page.whole_at).filter_map(|(budget, whole_at)| {
            let (tokens, window) = budget?;
            // The budget is spent while what is missing is a whole window; a token must fit.
            let token = window.div_f64(tokens as f64);
            Some((whole_at?.saturating_sub(now) + token).saturating_sub(window))
        });
        waits.max().unwrap_or_default()
    }

    /// Spends tokens as they arrive; false once a budget is used up.
    pub fn spend(&self, tokens: u64, now: Duration) -> bool {
        if self.budgets == Budgets::default() {
            return true;
        }
        let mut page = lock(&self.page);
        page.touched = now;
        let mut within = true;
        for (at, budget) in self.budgets.windows().into_iter().enumerate() {
            let Some((limit, window)) = budget else { continue };
            let from = page.whole_at[at].filter(|at| *at > now).unwrap_or(now);
            let more = window.mul_f64(tokens as f64 / limit as f64);
            page.whole_at[at] = Some(from + more);
            page.untold_us[at] += more.as_micros() as i64;
            within &= from + more - now <= window;
        }
        within
    }

    /// Writes a finished stream down. `charged`: what was spent for it as it arrived, roughly; the difference to what it
    /// did cost is settled. None: nothing came of it.
    pub fn settle(&self, usage: Option<Usage>, charged: u64, now: Duration) {
        let cost = usage.map_or(0, |usage| usage.input_tokens + usage.output_tokens);
        if cost > charged {
            self.spend(cost - charged, now);
        }
        let mut page = lock(&self.page);
        page.touched = now;
        for (at, budget) in self.budgets.windows().into_iter().enumerate() {
            let (Some((limit, window)), Some(whole_at)) = (budget, page.whole_at[at]) else { continue };
            let back = window.mul_f64(charged.saturating_sub(cost) as f64 / limit as f64);
            page.whole_at[at] = whole_at.checked_sub(back);
            page.untold_us[at] -= back.as_micros() as i64;
        }
        let spent = &mut page.spent;
        spent.streams += 1;
        if let Some(usage) = usage {
            spent.input_tokens += usage.input_tokens;
            spent.output_tokens += usage.output_tokens;
            spent.estimated_tokens += if usage.estimated { cost } else { 0 };
        }
    }

    /// By how much each budget has moved since this was last asked, in microseconds; None where there is no limit.
    pub fn untold(&self) -> [Option<i64>; 2] {
        let untold = std::mem::take(&mut lock(&self.page).untold_us);
        let windows = self.budgets.windows();
        [windows[0].map(|_| untold[0]), windows[1].map(|_| untold[1])]
    }

    /// How far ahead each budget runs, all nodes taken together; what was spent here since they were told comes on top.
    pub fn correct(&self, ahead: [Duration; 2], now: Duration) {
        let mut page = lock(&self.page);
        for (at, ahead) in ahead.into_iter().enumerate() {
            let untold = Duration::from_micros(page.untold_us[at].max(0) as u64);
            page.whole_at[at] = Some(now + ahead + untold);
        }
    }

    pub fn spent(&self) -> Spent {
        lock(&self.page).spent
    }

    /// What is left of the budgets, a minute's and a day's; None where there is no limit.
    pub fn left(&self, now: Duration) -> [Option<Left>; 2] {
        let whole_at = lock(&self.page).whole_at;
        let mut left = self.budgets.windows().into_iter().zip(whole_at).map(|(budget, whole_at)| {
            let (limit, window) = budget?;
            let missing = whole_at.map_or(0.0, |at| at.saturating_sub(now).div_duration_f64(window));
            Some(Left { limit, left: (limit as f64 * (1.0 - missing.min(1.0))).round() as u64 })
        });
        [left.next().flatten(), left.next().flatten()]
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(input_tokens: u64, output_tokens: u64) -> Usage {
        Usage { input_tokens, output_tokens, ..Usage::default() }
    }

    #[test]
    fn a_budget_is_spent_and_refills() {
        let ledger = Ledger::new(Budgets { per_minute: 60, per_day: 0 });
        let (account, now) = (ledger.account("a"), Duration::from_secs(1000));
        assert!(account.spend(59, now) && account.wait(now).is_zero());
        assert!(account.spend(1, now));
        assert_eq!(account.wait(now).as_secs_f64().round() as u64, 1);
        assert!(!account.spend(1, now), "over");
        assert!(ledger.account("b").wait(now).is_zero());
        let later = now + Duration::from_secs(3);
        assert!(account.wait(later).is_zero() && account.spend(1, later));
        account.settle(Some(usage(3, 4)), 37, later);
        assert!(account.spend(29, later) && !account.spend(9, later), "30 were given back");
        account.settle(Some(usage(30, 30)), 0, later);
        assert_eq!(account.left(later), [Some(Left { limit: 60, left: 0 }), None]);
        assert_eq!(account.left(later + MINUTE * 3)[0], Some(Left { limit: 60, left: 60 }));
    }

    #[test]
    fn what_other_nodes_spend_counts_here() {
        let ledger = Ledger::new(Budgets { per_minute: 60, per_day: 0 });
        let (account, now) = (ledger.account("a"), Duration::from_secs(1000));
        account.spend(10, now);
        account.settle(Some(usage(2, 2)), 10, now);
        assert_eq!(account.untold(), [Some(4_000_000), None]);
        account.spend(5, now);
        // The others have spent 20 tokens beside the 4.
        account.correct([Duration::from_secs(24), Duration::ZERO], now);
        assert_eq!(account.left(now)[0], Some(Left { limit: 60, left: 31 }));
        assert_eq!((account.untold(), account.untold()), ([Some(5_000_000), None], [Some(0), None]));
    }

    #[test]
    fn the_day_counts_too() {
        let ledger = Ledger::new(Budgets { per_minute: 1000, per_day: 100 });
        let (account, now) = (ledger.account("a"), Duration::from_secs(1000));
        assert!(account.spend(100, now) && !account.spend(1, now + MINUTE));
        assert!(account.wait(now + MINUTE) > Duration::from_secs(600));
        account.settle(Some(Usage { estimated: true, ..usage(3, 4) }), 0, now);
        account.settle(None, 0, now);
        assert_eq!(
            account.spent(),
            Spent { streams: 2, input_tokens: 3, output_tokens: 4, estimated_tokens: 7 }
        );
    }

    #[test]
    fn who_was_not_heard_of_for_a_day_is_forgotten() {
        let ledger = Ledger::new(Budgets::default());
        let now = Duration::from_secs(1000);
        let kept = ledger.account("a");
        kept.settle(None, 0, now);
        ledger.account("b").settle(None, 0, now);
        ledger.sweep(now + DAY / 2);
        assert_eq!(ledger.account("b").spent().streams, 1);
        ledger.sweep(now + DAY);
        assert_eq!((ledger.account("a").spent().streams, ledger.account("b").spent().streams), (1, 0));
    }
}
