//! Redis has lost what it had accepted, and the node that writes the log still has it.
//!
//! A lost tail is put back under the same ids: nobody else has written, or the append would have been fenced. A log that
//! is gone as a whole begins anew, with the same text under the next epoch: whoever read the old one is told so.

use std::sync::Arc;

use futures_util::StreamExt;
use tokio::time::Instant;

use super::copy::{Copy, Standing, begun};
use super::logs::{Append, Said};
use super::{Error, Node};
use crate::log::{Batch, Draft, LogId, Position, Record};

/// Records in one append.
const CHUNK: usize = 256;
/// Logs looked at at once.
const AT_ONCE: usize = 16;

impl Node {
    /// Puts back what this node wrote after `head`, and the seal.
    pub async fn put_back_tail(&self, copy: &Copy, head: Position, until: Instant) -> Result<(), Error> {
        let (records, closed) = copy.since(head.seq);
        tracing::warn!(log = %copy.id, records = records.len(), "Redis has lost the end of a log: it is put back");
        let (mut at, mut left) = (head, &records[..]);
        loop {
            let epoch = left.first().map_or(at.epoch, |first| first.position.epoch);
            let same = left.iter().take_while(|record| record.position.epoch == epoch).take(CHUNK).count();
            let (chunk, rest) = left.split_at(same);
            let batch = Batch { expected: at, epoch, drafts: drafts(chunk), seal: closed && rest.is_empty() };
            at = self.put_back(copy.id, batch, until).await?;
            left = rest;
            if left.is_empty() {
                return Ok(());
            }
        }
    }

    /// Makes a log anew that Redis has lost. `made`: how far that had come when it was broken off. Returns the copy that
    /// takes the place of this one.
    pub async fn put_back_all(
        self: &Arc<Self>,
        copy: &Arc<Copy>,
        made: Option<Position>,
        until: Instant,
    ) -> Result<Arc<Copy>, Error> {
        let (epoch, plan) = (copy.head().epoch.saturating_add(1), copy.plan());
        let meta = copy.meta().ok_or(Error::NotFound)?;
        let start = Position::new(epoch, 0);
        if made.is_none() {
            tracing::warn!(log = %copy.id, epoch, "Redis has lost a log: it is made anew");
            self.list_as_own(copy.id, until).await?;
            if !self.make(copy.id, &meta, &plan, start, until).await? {
                return Err(Error::NotFound);
            }
        }
        let anew = Copy::owned(copy.id, meta, plan, begun(start), self.ledger.clone());
        let (records, _) = copy.since(0);
        let done = made.map_or(0, |made| usize::try_from(made.seq).unwrap_or(usize::MAX)).min(records.len());
        let (there, missing) = records.split_at(done);
        anew.apply(Batch { expected: start, epoch, drafts: drafts(there), seal: false });
        for chunk in missing.chunks(CHUNK) {
            let batch = Batch { expected: anew.head(), epoch, drafts: drafts(chunk), seal: false };
            if let Err(error) = self.put_back(copy.id, batch.clone(), until).await {
                anew.uncount();
                return Err(error);
            }
            anew.apply(batch);
        }
        anew.used(self.now());
        self.running().insert(copy.id, anew.clone());
        copy.forget();
        Ok(anew)
    }

    async fn put_back(&self, log: LogId, batch: Batch, until: Instant) -> Result<Position, Error> {
        match self.send(log, &Append::new(self, batch), until).await? {
            Said::Lost => Err(Error::Unavailable("Redis lost the log once more".into())),
            said => said.head(),
        }
    }

    /// Looks whether Redis still has all that this node writes: after a time without a lease or a connection.
    pub async fn audit(self: &Arc<Self>) {
        // One at a time: connections may break faster than this takes.
        let _turn = self.auditing.lock().await;
        let owned: Vec<_> = self.running().values().filter(|copy| copy.is_owned()).cloned().collect();
        let look = |copy: Arc<Copy>| async move {
            let _turn = copy.writing.lock().await;
            if copy.standing() != Standing::Owned {
                return;
            }
            // An append of nothing: it is answered, and mended, like any other.
            let nothing = Append::nothing(self, copy.head());
            let listed = self.list_as_own(copy.id, self.patience()).await;
            let looked = self.append_in_turn(&copy, nothing).await;
            if let Err(error) = listed.and(looked.map(drop)) {
                tracing::warn!(log = %copy.id, %error, "a log of this node could not be looked after");
            }
        };
        futures_util::stream::iter(owned).for_each_concurrent(AT_ONCE, look).await;
        for copy in self.lease.closed_lately() {
            if let Err(error) = self.close_again(&copy).await {
                tracing::warn!(log = %copy.id, %error, "a log that was closed here could not be looked after");
            }
        }
    }

    /// A log that this node closed, and that Redis may have open again.
    async fn close_again(&self, copy: &Copy) -> Result<(), Error> {
        let until = self.patience();
        match self.send(copy.id, &Append::nothing(self, copy.head()), until).await? {
            Said::Accepted(head) | Said::Stale(head) if copy.check(head).is_ok() => {
                self.put_back_tail(copy, head, until).await
            }
            _ => Ok(()),
        }
    }

    /// Notes that this node writes the log, for those who come when it is dead.
    pub async fn list_as_own(&self, log: LogId, until: Instant) -> Result<(), Error> {
        self.list_as_of(&self.id, log, until).await
    }

    pub async fn list_as_of(&self, node: &str, log: LogId, until: Instant) -> Result<(), Error> {
        let (logs, name) = (self.written_by(node), log.to_string());
        self.insist(until, &self.scripts.own, &[&logs], &[name.as_bytes()]).await.map(drop)
    }
}

fn drafts(records: &[Record]) -> Vec<Draft> {
    records.iter().map(|record| Draft::clone(&record.draft)).collect()
}
