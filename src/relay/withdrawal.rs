//! What becomes of a stream whose start failed: it is taken back, unless another process has taken it over.

use std::sync::Arc;

use tokio::time::timeout;

use super::{Created, Relay, STORE_REST, lock, now_ms};
use crate::event::{Done, Event};
use crate::log::{Batch, Draft, LogId, Position, Refused};
use crate::store;

impl Relay {
    /// Forgets a stream whose provider was never called.
    pub async fn discard(self: &Arc<Self>, created: Created) {
        let Created { id, running, job } = created;
        lock(&self.running).remove(&id);
        self.metrics.streams_running.dec();
        let (relay, head) = (self.clone(), job.head);
        self.begin(async move {
            if relay.insist(|| relay.withdraw(id, head)).await == Ok(false) {
                running.leave();
            }
            running.finished.cancel();
        })
        .await;
    }

    /// Removes what there is of a log that could not be made.
    pub(super) async fn give_back(self: &Arc<Self>, id: LogId) {
        let relay = self.clone();
        self.begin(async move { _ = relay.insist(|| relay.withdraw(id, Position::START)).await }).await;
    }

    /// Sees something through that may have to wait for the store; the caller waits for it a moment only.
    async fn begin(&self, task: impl Future<Output = ()> + Send + 'static) {
        let _goes_on_alone = timeout(STORE_REST, self.tracker.spawn(task)).await;
    }

    /// Closes the log first: one that another process has taken over meanwhile refuses that and is not ours to remove,
    /// since clients may read it by now. False then.
    async fn withdraw(&self, id: LogId, mut head: Position) -> Result<bool, store::Error> {
        loop {
            let drafts = vec![Draft::own(&Event::Done(Done::cancelled("policy")), now_ms())];
            let batch = Batch { expected: head, epoch: head.epoch, drafts, seal: true };
            match self.store.append(id, batch).await {
                Ok(_) => break,
                // An append of ours was done, and only its answer was lost.
                Err(store::Error::Refused(Refused::Stale { head: now }))
                    if now.epoch == head.epoch && now > head =>
                {
                    head = now;
                }
                Err(store::Error::Refused(Refused::Stale { .. })) => return Ok(false),
                Err(store::Error::Refused(Refused::Closed)) => {
                    let page = self.store.read(id, Position::START, 0).await?;
                    if page.head.epoch > head.epoch {
                        return Ok(false);
                    }
                    break;
                }
                Err(store::Error::NotFound) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        self.store.remove(id).await.map(|()| true)
    }
}
