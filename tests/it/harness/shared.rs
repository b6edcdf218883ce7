//! One store for several nodes in this process, each of which can be cut off from it: what takeovers are tried on.
//!
//! Memory underneath. A node that is cut off gets `Unavailable` for everything; the logs it wrote are orphans for the others
//! from then on. Once it is back it may find that its streams are another's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use relaystream::log::{Bad, Batch, LogId, Page, Position};
use relaystream::store::memory::{Memory, Options};
use relaystream::store::{Claim, Error, Meta, Orphan, Span, Store};
use tokio::sync::broadcast;

pub struct Shared {
    memory: Memory,
    /// Running logs, with whom they belong to and their plans.
    running: Mutex<BTreeMap<LogId, (usize, Bytes)>>,
    /// Nodes that are cut off.
    away: Mutex<BTreeSet<usize>>,
}

/// The store as one node sees it.
pub struct Node {
    shared: Arc<Shared>,
    id: usize,
}

/// Logs that were left on purpose belong to nobody.
const NOBODY: usize = usize::MAX;

impl Shared {
    pub fn new() -> Arc<Shared> {
        let options =
            Options { replay_window: Duration::from_secs(3600), total_bytes: 1 << 30, user_bytes: 0 };
        Arc::new(Shared { memory: Memory::new(options), running: Mutex::default(), away: Mutex::default() })
    }

    pub fn node(self: &Arc<Self>, id: usize) -> Arc<Node> {
        Arc::new(Node { shared: self.clone(), id })
    }

    pub fn cut_off(&self, id: usize) {
        self.away.lock().unwrap().insert(id);
    }

    pub fn let_back(&self, id: usize) {
        self.away.lock().unwrap().remove(&id);
    }

    fn is_away(&self, id: usize) -> bool {
        id == NOBODY || self.away.lock().unwrap().contains(&id)
    }
}

impl Node {
    /// What the store answers, unless the node is cut off by then.
    fn answer<'a, T: Send + 'a>(
        &'a self,
        answer: BoxFuture<'a, Result<T, Error>>,
    ) -> BoxFuture<'a, Result<T, Error>> {
        async move {
            self.reachable()?;
            let answer = answer.await;
            self.reachable()?;
            answer
        }
        .boxed()
    }

    fn reachable(&self) -> Result<(), Error> {
        if self.shared.is_away(self.id) { Err(Error::Unavailable("cut off".into())) } else { Ok(()) }
    }
}

impl Store for Node {
    fn create(&self, log: LogId, meta: Meta, plan: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        let owned = meta.trim_bytes.is_none();
        let created = async move {
            self.shared.memory.create(log, meta, Bytes::new()).await?;
            if owned {
                self.shared.running.lock().unwrap().insert(log, (self.id, plan));
            }
            Ok(())
        };
        self.answer(created.boxed())
    }

    fn append(&self, log: LogId, batch: Batch) -> BoxFuture<'_, Result<Position, Error>> {
        let appended = async move {
            let seal = batch.seal;
            let head = self.shared.memory.append(log, batch).await?;
            if seal {
                self.shared.running.lock().unwrap().remove(&log);
            }
            Ok(head)
        };
        self.answer(appended.boxed())
    }

    fn read(&self, log: LogId, after: Position, limit: usize) -> BoxFuture<'_, Result<Page, Error>> {
        self.answer(self.shared.memory.read(log, after, limit))
    }

    fn check(&self, log: LogId, position: Position) -> BoxFuture<'_, Result<Result<(), Bad>, Error>> {
        self.answer(self.shared.memory.check(log, position))
    }

    fn changed(&self, log: LogId, after: Position) -> BoxFuture<'_, Result<(), Error>> {
        self.answer(self.shared.memory.changed(log, after))
    }

    fn meta(&self, log: LogId) -> BoxFuture<'_, Result<Meta, Error>> {
        self.answer(self.shared.memory.meta(log))
    }

    fn remove(&self, log: LogId) -> BoxFuture<'_, Result<(), Error>> {
        let removed = async move {
            self.shared.running.lock().unwrap().remove(&log);
            self.shared.memory.remove(log).await
        };
        self.answer(removed.boxed())
    }

    fn claim(&self, key: &str, value: &str, ttl: Duration) -> BoxFuture<'_, Result<Claim, Error>> {
        self.answer(self.shared.memory.claim(key, value, ttl))
    }

    fn claimed(&self, key: &str) -> BoxFuture<'_, Result<Option<String>, Error>> {
        self.answer(self.shared.memory.claimed(key))
    }

    fn release(&self, key: &str, value: &str) -> BoxFuture<'_, Result<(), Error>> {
        self.answer(self.shared.memory.release(key, value))
    }

    fn list(&self, prefix: &str) -> BoxFuture<'_, Result<Vec<(String, String)>, Error>> {
        self.answer(self.shared.memory.list(prefix))
    }

    fn advance(&self, key: &str, by_us: i64) -> BoxFuture<'_, Result<Duration, Error>> {
        self.answer(self.shared.memory.advance(key, by_us))
    }

    fn publish(&self, topic: &str, message: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        // Only once it was seen that the node may: memory publishes when it is asked to.
        let topic = topic.to_owned();
        self.answer(async move { self.shared.memory.publish(&topic, message).await }.boxed())
    }

    fn subscribe(&self, topic: &str) -> BoxFuture<'_, Result<broadcast::Receiver<Bytes>, Error>> {
        self.answer(self.shared.memory.subscribe(topic))
    }

    fn orphans(&self) -> BoxFuture<'_, Result<Vec<Orphan>, Error>> {
        let found = async move {
            let taken: Vec<_> = {
                let mut running = self.shared.running.lock().unwrap();
                let left = running.iter_mut().filter(|(_, (owner, _))| self.shared.is_away(*owner));
                left.map(|(log, (owner, plan))| {
                    *owner = self.id;
                    (*log, plan.clone())
                })
                .collect()
            };
            let mut orphans = Vec::new();
            for (log, plan) in taken {
                let head = self.shared.memory.read(log, Position::START, 0).await?.head;
                orphans.push(Orphan { log, head, plan });
            }
            Ok(orphans)
        };
        self.answer(found.boxed())
    }

    fn disown(&self, log: LogId) -> BoxFuture<'_, Result<(), Error>> {
        let disowned = async move {
            if let Some((owner, _)) = self.shared.running.lock().unwrap().get_mut(&log) {
                *owner = NOBODY;
            }
            Ok(())
        };
        self.answer(disowned.boxed())
    }

    fn span(&self) -> Span {
        Span::Nodes
    }

    fn health(&self) -> Result<(), Error> {
        self.reachable()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        async { Ok(()) }.boxed()
    }

    fn held(&self) -> u64 {
        self.shared.memory.held()
    }

    fn sweep(&self) {
        self.shared.memory.sweep();
    }
}
