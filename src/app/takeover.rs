//! What processes that share a store do for one another: streams whose process is gone are gone on with, or ended.

use std::sync::Arc;
use std::time::Duration;

use super::{App, Phase};
use crate::relay::Plan;
use crate::relay::running::Stop;
use crate::store::{self, Orphan};

/// How often orphans are asked for.
const TICK: Duration = Duration::from_millis(500);

/// What becomes of a stream whose process is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRestart {
    Continue,
    /// It ends `interrupted`.
    Interrupt,
}

impl App {
    /// Takes over what is left behind, and hears what other processes ask for, for as long as it is polled.
    pub async fn cooperate(self: Arc<Self>) {
        let signals = async {
            loop {
                if let Err(error) = self.relay.exchange_signals().await {
                    tracing::warn!(%error, "other processes cannot be heard");
                }
                tokio::time::sleep(TICK).await;
            }
        };
        let orphans = async {
            let mut tick = tokio::time::interval(TICK);
            loop {
                tick.tick().await;
                // A failing store is told of by its health.
                let _next_time = self.take_over().await;
            }
        };
        tokio::join!(signals, orphans);
    }

    /// Goes on with the streams that nobody writes any more, or ends them.
    pub async fn take_over(self: &Arc<Self>) -> Result<(), store::Error> {
        if self.phase() != Phase::Serving {
            return Ok(());
        }
        for orphan in self.relay.store.orphans().await? {
            let (app, log) = (self.clone(), orphan.log);
            // Seen through even if the caller goes away meanwhile.
            let adopted = self.tracker.spawn(async move { app.adopt(orphan).await });
            match adopted.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(stream.id = %log, %error, "a stream could not be taken over")
                }
                Err(error) => tracing::error!(stream.id = %log, %error, "taking over a stream failed"),
            }
        }
        Ok(())
    }

    async fn adopt(self: &Arc<Self>, orphan: Orphan) -> Result<(), store::Error> {
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
            self.relay.bury(&orphan, "the server stopped before the answer was complete").await?;
            return match session {
                Some(session) => self.hub.close_what_ended(&session).await,
                None => Ok(()),
            };
        };
        // What runs already is not refused for being too much.
        let permit = self.running_permits.take(&plan.allowance);
        let account = self.ledger.account(&plan.allowance);
        let hold = plan.hold.clone();
        let created = self.relay.adopt(&orphan, plan, facts, route, account).await?;
        if let Some(hold) = hold {
            self.settle(hold, created.running.clone());
        }
        if let Some(session) = session {
            self.hub.reopened(&session, created.running.clone()).await?;
        }
        if let Some(by) = self.relay.was_stopped(orphan.log).await? {
            created.running.stop(Stop::Cancelled(by));
        }
        self.relay.launch(created, permit);
        Ok(())
    }
}
