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
    accounts: Mutex<BTreeMap<String, Page>>,
}

/// What one user has spent since the process started.
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
}

/// One user's page, as a stream has it.
#[derive(Debug, Clone)]
pub struct Account {
    ledger: Arc<Ledger>,
    key: String,
}

impl Ledger {
    pub fn new(budgets: Budgets) -> Arc<Ledger> {
        Arc::new(Ledger { budgets, accounts: Mutex::default() })
    }

    pub fn account(self: &Arc<Self>, key: &str) -> Account {
        Account { ledger: self.clone(), key: key.to_owned() }
    }

    fn accounts(&self) -> MutexGuard<'_, BTreeMap<String, Page>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each budget with its window; None where there is no limit.
    fn windows(&self) -> [Option<(u64, Duration)>; 2] {
        let limited = |tokens: u64, window| (tokens > 0).then_some((tokens, window));
        [limited(self.budgets.per_minute, MINUTE), limited(self.budgets.per_day, DAY)]
    }
}

impl Account {
    /// How long until anything may be spent again; zero if something may now.
    pub fn wait(&self, now: Duration) -> Duration {
        let accounts = self.ledger.accounts();
        let Some(page) = accounts.get(&self.key) else { return Duration::ZERO };
        let waits = self.ledger.windows().into_iter().zip(page.whole_at).filter_map(|(budget, whole_at)| {
            let (tokens, window) = budget?;
            // The budget is spent while what is missing is a whole window; a token must fit.
            let token = window.div_f64(tokens as f64);
            Some((whole_at?.saturating_sub(now) + token).saturating_sub(window))
        });
        waits.max().unwrap_or_default()
    }

    /// Spends tokens as they arrive; false once a budget is used up.
    pub fn spend(&self, tokens: u64, now: Duration) -> bool {
        let mut accounts = self.ledger.accounts();
        let page = accounts.entry(self.key.clone()).or_default();
        let mut within = true;
        for (budget, whole_at) in self.ledger.windows().into_iter().zip(&mut page.whole_at) {
            let Some((limit, window)) = budget else { continue };
            let from = whole_at.filter(|at| *at > now).unwrap_or(now);
            let then = from + window.mul_f64(tokens as f64 / limit as f64);
            *whole_at = Some(then);
            within &= then - now <= window;
        }
        within
    }

    /// Gives back what was spent in advance and not used.
    pub fn refund(&self, tokens: u64) {
        let mut accounts = self.ledger.accounts();
        let Some(page) = accounts.get_mut(&self.key) else { return };
        for (budget, whole_at) in self.ledger.windows().into_iter().zip(&mut page.whole_at) {
            let (Some((limit, window)), Some(at)) = (budget, &whole_at) else { continue };
            *whole_at = at.checked_sub(window.mul_f64(tokens as f64 / limit as f64));
        }
    }

    /// Writes a finished stream down.
    pub fn settle(&self, usage: Usage) {
        let mut accounts = self.ledger.accounts();
        let spent = &mut accounts.entry(self.key.clone()).or_default().spent;
        spent.streams += 1;
        spent.input_tokens += usage.input_tokens;
        spent.output_tokens += usage.output_tokens;
        if usage.estimated {
            spent.estimated_tokens += usage.input_tokens + usage.output_tokens;
        }
    }

    pub fn spent(&self) -> Spent {
        self.ledger.accounts().get(&self.key).map(|page| page.spent).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        account.refund(30);
        assert!(account.spend(29, later));
    }

    #[test]
    fn the_day_counts_too() {
        let ledger = Ledger::new(Budgets { per_minute: 1000, per_day: 100 });
        let (account, now) = (ledger.account("a"), Duration::from_secs(1000));
        assert!(account.spend(100, now) && !account.spend(1, now + MINUTE));
        assert!(account.wait(now + MINUTE) > Duration::from_secs(600));
        account.settle(Usage { input_tokens: 3, output_tokens: 4, estimated: true, ..Usage::default() });
        assert_eq!(
            account.spent(),
            Spent { streams: 1, input_tokens: 3, output_tokens: 4, estimated_tokens: 7 }
        );
    }
}
