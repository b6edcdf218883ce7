//! What processes that share a store do for one another: streams whose process is gone are gone on with, or ended, and
//! limits of users hold for all of them together.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::{App, Phase};
use crate::config::OnRestart;
use crate::limits::ledger::Account;
use crate::log::LogId;
use crate::relay::running::Stop;
use crate::relay::{Plan, since_start};
use crate::store::{self, Orphan, Span};

/// How often orphans are asked for.
const TICK: Duration = Duration::from_millis(500);

/// No stream runs for longer than this: what counts it is forgotten then.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

impl App {
    /// What a process does before it listens: finds what the last one has left.
    pub async fn recover(self: &Arc<Self>) -> Result<(), store::Error> {
        self.take_over().await?;
        match self.relay.store.span() {
            Span::Restarts => self.hub.restore().await,
            // Other nodes know their sessions, and a new process has none.
            Span::Nodes | Span::Process => Ok(()),
        }
    }

    /// Takes over what is left behind, and hears what other nodes ask for, for as long as it is polled. Alone, a process has
    /// nobody to hear. What fails is tried again: a failing store is told of by its health.
    pub async fn cooperate(self: Arc<Self>) {
        if !self.has_peers() {
            return;
        }
        let orphans = async {
            let mut tick = tokio::time::interval(TICK);
            loop {
                tick.tick().await;
                let _next_time = self.take_over().await;
            }
        };
        let budgets = async {
            let mut tick = tokio::time::interval(TICK);
            loop {
                tick.tick().await;
                for (key, account) in self.ledger.in_use() {
                    if self.share_budget(&key, &account).await.is_err() {
                        break;
                    }
                }
            }
        };
        let bells = async {
            loop {
                let _again = self.hub.hear_bells().await;
                tokio::time::sleep(TICK).await;
            }
        };
        tokio::join!(self.relay.exchange_signals(), orphans, budgets, bells);
    }

    fn has_peers(&self) -> bool {
        self.relay.store.span() == Span::Nodes
    }

    /// Tells other nodes what a user has spent here, and hears what it has spent there.
    pub async fn share_budget(&self, key: &str, account: &Account) -> Result<(), store::Error> {
        if !self.has_peers() {
            return Ok(());
        }
        let untold = account.untold();
        let mut ahead = [Duration::ZERO; 2];
        for (at, window) in ["minute", "day"].into_iter().enumerate() {
            if let Some(by_us) = untold[at] {
                ahead[at] = self.relay.store.advance(&format!("budget/{window}/{key}"), by_us).await?;
            }
        }
        if untold != [None; 2] {
            account.correct(ahead, since_start());
        }
        Ok(())
    }

    /// Counts a running stream of the user among those of all nodes; false if there are too many. It counts until
    /// `uncount`, whoever writes it by then.
    pub(super) async fn count(&self, allowance: &str, id: LogId) -> Result<bool, store::Error> {
        let limit = self.limits.running_streams_per_user;
        if limit == 0 || !self.has_peers() {
            return Ok(true);
        }
        let store = &self.relay.store;
        let all = format!("running/{allowance}/");
        store.claim(&format!("{all}{id}"), "", LONGEST).await?;
        let within = store.list(&all).await?.len() as u64 <= limit;
        if !within {
            self.uncount(allowance, id).await?;
        }
        Ok(within)
    }

    pub(super) async fn uncount(&self, allowance: &str, id: LogId) -> Result<(), store::Error> {
        if !self.has_peers() {
            return Ok(());
        }
        self.relay.store.release(&format!("running/{allowance}/{id}"), "").await
    }

    /// Goes on with the streams that nobody writes any more, or ends them.
    pub async fn take_over(self: &Arc<Self>) -> Result<(), store::Error> {
        if self.phase() != Phase::Serving {
            return Ok(());
        }
        let found = self.relay.store.orphans().await?;
        // An orphan is told of once.
        let earlier = std::mem::take(&mut *self.not_yet_adopted());
        for orphan in earlier.into_iter().chain(found) {
            let (app, log) = (self.clone(), orphan.log);
            // Seen through even if the caller goes away meanwhile.
            let adopted = self.tracker.spawn(async move {
                match app.adopt(&orphan).await {
                    Err(store::Error::Unavailable(why)) => {
                        tracing::warn!(stream.id = %log, why, "a stream could not be taken over yet");
                        app.not_yet_adopted().push(orphan);
                    }
                    Err(error) => {
                        tracing::warn!(stream.id = %log, %error, "a stream could not be taken over")
                    }
                    Ok(()) => {}
                }
            });
            if let Err(error) = adopted.await {
                tracing::error!(stream.id = %log, %error, "taking over a stream failed");
            }
        }
        Ok(())
    }

    fn not_yet_adopted(&self) -> MutexGuard<'_, Vec<Orphan>> {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn adopt(self: &Arc<Self>, orphan: &Orphan) -> Result<(), store::Error> {
        let facts = self.relay.facts(orphan.log).await?;
        let session = match &facts.session {
            Some(name) => self.hub.get(&facts.tenant, name).await?,
            None => None,
        };
        let plan = Plan::parse(&orphan.plan).filter(|_| self.on_restart == OnRestart::Continue);
        let route = plan.as_ref().and_then(|plan| {
            let dialect = plan.request.original.as_ref().map(|original| original.dialect);
            self.settings.load().routes.resolve(&plan.request.model, dialect).ok()
        });
        let (Some(plan), Some(route)) = (plan, route) else {
            self.relay.bury(orphan, "the server stopped before the answer was complete").await?;
            return match session {
                Some(session) => self.hub.close_what_ended(&session).await,
                None => Ok(()),
            };
        };
        let stopped_by = self.relay.was_stopped(orphan.log).await?;
        // What runs already is not refused for being too much.
        let permit = self.running_permits.take(&plan.allowance);
        let account = self.ledger.account(&plan.allowance);
        let (allowance, hold) = (plan.allowance.clone(), plan.hold.clone());
        let created = self.relay.adopt(orphan, plan, route, account).await?;
        self.settle(allowance, hold, created.running.clone());
        if let Some(session) = session
            && let Err(error) = self.hub.reopened(&session, created.running.clone()).await
        {
            tracing::warn!(stream.id = %orphan.log, %error, "the room was not told of a stream that goes on");
        }
        if let Some(by) = stopped_by {
            created.running.stop(Stop::Cancelled(by));
        }
        self.relay.launch(created, permit);
        Ok(())
    }
}
