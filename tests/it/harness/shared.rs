//! One store for several nodes in this process, each of which can be cut off from it: what takeovers are tried on.
//!
//! Memory underneath. A node that is cut off gets `Unavailable` for everything; one that is paused waits, and what it asked
//! is done once it goes on. The logs that either wrote are orphans for the others from then on. Once it is back it may
//! find that its streams are another's. In bad weather calls are late, get lost on the way or on the way back, and
//! appends arrive twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use relaystream::log::{Bad, Batch, LogId, Page, Position, Refused};
use relaystream::store::memory::{Memory, Options};
use relaystream::store::{Claim, Error, Meta, Orphan, Span, Store};
use tokio::sync::{broadcast, watch};
use tokio::time::sleep;

use crate::seed::Random;

pub struct Shared {
    memory: Memory,
    /// Running logs, with whom they belong to and their plans.
    running: Mutex<BTreeMap<LogId, (usize, Bytes)>>,
    /// Nodes that are cut off.
    away: Mutex<BTreeSet<usize>>,
    /// Nodes that do not get on.
    paused: watch::Sender<BTreeSet<usize>>,
    /// Nodes whose messages do not get out, with how many have not.
    unheard: Mutex<BTreeMap<usize, u64>>,
    /// Nodes that are cut off as soon as they have made a log.
    doomed: Mutex<BTreeSet<usize>>,
    /// What chance does to calls; none: nothing.
    weather: Mutex<Option<Random>>,
}

/// What becomes of one call.
#[derive(Default)]
struct Fate {
    late: Duration,
    /// It never arrives.
    lost: bool,
    /// It is done, and nobody hears of it.
    unanswered: bool,
    /// It arrives again after this time.
    again: Option<Duration>,
}

impl Fate {
    fn of(random: &mut Random) -> Fate {
        let mut ms = |most| Duration::from_millis(random.below(most) as u64);
        let (late, again) = (ms(40), ms(3000));
        Fate {
            late: if random.chance(30) { late } else { Duration::ZERO },
            lost: random.below(1000) < 2,
            unanswered: random.below(1000) < 3,
            again: random.chance(10).then_some(again),
        }
    }
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
        Arc::new(Shared {
            memory: Memory::new(options),
            running: Mutex::default(),
            away: Mutex::default(),
            paused: watch::Sender::default(),
            unheard: Mutex::default(),
            doomed: Mutex::default(),
            weather: Mutex::default(),
        })
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

    pub fn pause(&self, id: usize) {
        self.paused.send_modify(|paused| _ = paused.insert(id));
    }

    pub fn go_on(&self, id: usize) {
        self.paused.send_modify(|paused| _ = paused.remove(&id));
    }

    /// From now on nobody hears what the node says.
    pub fn mute(&self, id: usize) {
        self.unheard.lock().unwrap().insert(id, 0);
    }

    /// Lets it be heard again.
    pub fn unmute(&self, id: usize) {
        self.unheard.lock().unwrap().remove(&id);
    }

    /// How many messages of a mute node were lost.
    pub fn unheard(&self, id: usize) -> u64 {
        self.unheard.lock().unwrap()[&id]
    }

    /// Cuts the node off as soon as it has made a log.
    pub fn cut_off_after_create(&self, id: usize) {
        self.doomed.lock().unwrap().insert(id);
    }

    /// From now on calls suffer what `random` says; none: they do not.
    pub fn set_weather(&self, random: Option<Random>) {
        *self.weather.lock().unwrap() = random;
    }

    fn is_away(&self, id: usize) -> bool {
        id == NOBODY || self.away.lock().unwrap().contains(&id)
    }

    fn is_taken_for_dead(&self, id: usize) -> bool {
        self.is_away(id) || self.paused.borrow().contains(&id)
    }

    fn fate(&self) -> Fate {
        self.weather.lock().unwrap().as_mut().map(Fate::of).unwrap_or_default()
    }

    /// Compares, fences and appends, in one step. Only who comes with a later epoch may go on with what another writes.
    fn append(&self, by: usize, log: LogId, batch: Batch) -> Result<Position, Error> {
        let mut running = self.running.lock().unwrap();
        let (seal, epoch) = (batch.seal, batch.epoch);
        let head = at_once(self.memory.read(log, Position::START, 0))?.head;
        if running.get(&log).is_some_and(|(owner, _)| *owner != by) && epoch <= head.epoch {
            return Err(Refused::Stale { head }.into());
        }
        let head = at_once(self.memory.append(log, batch))?;
        match running.get_mut(&log) {
            Some(_) if seal => _ = running.remove(&log),
            Some((owner, _)) => *owner = by,
            None => {}
        }
        Ok(head)
    }
}

/// What is in memory is there.
fn at_once<T>(answer: BoxFuture<'_, T>) -> T {
    answer.now_or_never().expect("memory does not wait")
}

impl Node {
    /// What the store answers, unless the node is cut off by then.
    fn answer<'a, T: Send + 'a>(
        &'a self,
        answer: BoxFuture<'a, Result<T, Error>>,
    ) -> BoxFuture<'a, Result<T, Error>> {
        async move {
            let fate = self.shared.fate();
            self.pass(&fate).await?;
            let answer = answer.await;
            self.reachable()?;
            if fate.unanswered { Err(Error::Unavailable("no answer".into())) } else { answer }
        }
        .boxed()
    }

    /// Comes through to the store, or not.
    async fn pass(&self, fate: &Fate) -> Result<(), Error> {
        let mut paused = self.shared.paused.subscribe();
        paused.wait_for(|paused| !paused.contains(&self.id)).await.expect("the store is there");
        if !fate.late.is_zero() {
            sleep(fate.late).await;
        }
        self.reachable()?;
        if fate.lost { Err(Error::Unavailable("lost on the way".into())) } else { Ok(()) }
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
                if self.shared.doomed.lock().unwrap().remove(&self.id) {
                    self.shared.cut_off(self.id);
                }
            }
            Ok(())
        };
        self.answer(created.boxed())
    }

    fn append(&self, log: LogId, batch: Batch) -> BoxFuture<'_, Result<Position, Error>> {
        let appended = async move {
            if let Some(after) = self.shared.fate().again {
                let (shared, id, batch) = (self.shared.clone(), self.id, batch.clone());
                tokio::spawn(async move {
                    sleep(after).await;
                    assert!(shared.append(id, log, batch).is_err(), "what arrives twice must count once");
                });
            }
            self.shared.append(self.id, log, batch)
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
        if let Some(unheard) = self.shared.unheard.lock().unwrap().get_mut(&self.id) {
            *unheard += 1;
            return async { Err(Error::Unavailable("mute".into())) }.boxed();
        }
        // Only once it was seen that the node may: memory publishes when it is asked to.
        let topic = topic.to_owned();
        self.answer(async move { self.shared.memory.publish(&topic, message).await }.boxed())
    }

    fn subscribe(&self, topic: &str) -> BoxFuture<'_, Result<broadcast::Receiver<Bytes>, Error>> {
        self.answer(self.shared.memory.subscribe(topic))
    }

    fn orphans(&self) -> BoxFuture<'_, Result<Vec<Orphan>, Error>> {
        async move {
            // Whoever takes one must hear of it: that is not left to chance.
            self.pass(&Fate { unanswered: false, ..self.shared.fate() }).await?;
            let mut running = self.shared.running.lock().unwrap();
            let left = running.iter_mut().filter(|(_, (owner, _))| self.shared.is_taken_for_dead(*owner));
            let taken = left.map(|(log, (owner, plan))| {
                *owner = self.id;
                let head = at_once(self.shared.memory.read(*log, Position::START, 0))?.head;
                Ok(Orphan { log: *log, head, plan: plan.clone() })
            });
            taken.collect()
        }
        .boxed()
    }

    fn disown(&self, log: LogId) -> BoxFuture<'_, Result<(), Error>> {
        let disowned = async move {
            let mut running = self.shared.running.lock().unwrap();
            if let Some((owner, _)) = running.get_mut(&log).filter(|(owner, _)| *owner == self.id) {
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
