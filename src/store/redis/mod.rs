//! Logs in Redis or Valkey, for several nodes: a Redis Stream per log, an entry per event under its own position.
//!
//! Nodes are equal and know nothing of each other but what is in Redis. Each holds copies of the logs that it writes or
//! that somebody reads here, and serves its readers from those: Redis sees a node, never a viewer. ARCHITECTURE.md says
//! what the keys are and what happens when Redis fails.

mod address;
mod canary;
mod claims;
mod copy;
mod encoding;
mod gather;
mod lease;
mod link;
mod logs;
mod push;
mod reading;
mod restore;
mod scripts;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::address::Address;
use self::canary::Health;
use self::copy::{Copy, Standing};
use self::gather::Gather;
use self::lease::Lease;
use self::link::Link;
use self::push::{Listener, Push};
use self::scripts::Scripts;
use super::ledger::Ledger;
use super::{Answer, Claim, Error, Meta, Orphan, Span, Store, WEIGHT_UNIT, lock, units};
use crate::log::{Bad, Batch, LogId, Page, Position};

#[derive(Debug, Clone)]
pub struct Options {
    /// See `address`.
    pub url: String,
    /// Certificates in PEM to trust instead of the machine's.
    pub authority: Option<Vec<u8>>,
    /// What every key and channel begins with.
    pub prefix: String,
    /// How long a node that says nothing is taken for alive.
    pub lease: Duration,
    /// How long an append waits for Redis to come back.
    pub patience: Duration,
    /// Streams' appends leave together once in so long. Zero: each at once.
    pub gather: Duration,
    /// How long a finished log is kept after its end. Zero: as long as a running one that nobody writes.
    pub replay_window: Duration,
    /// All copies on this node together, in bytes. Zero: no limit.
    pub total_bytes: u64,
    /// The copies of one owner's logs, in bytes. Zero: no limit.
    pub user_bytes: u64,
}

/// A running log is dropped when nobody has written or watched it for this long.
const RUNNING_TTL: Duration = Duration::from_secs(7 * 86_400);
const SHORTEST_LEASE: Duration = Duration::from_secs(1);
const LONGEST_GATHER: Duration = Duration::from_secs(1);
/// How long a log that was forgotten on purpose is known to have been.
const TOMBSTONE_TTL: Duration = Duration::from_secs(3600);

pub struct Redis {
    node: Arc<Node>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What all tasks of the store share.
struct Node {
    options: Options,
    /// Names this process among the nodes, for as long as it runs.
    id: String,
    scripts: Scripts,
    commands: Arc<Link>,
    push: Push,
    running: Mutex<HashMap<LogId, Arc<Copy>>>,
    /// Copies of closed logs: all that can be evicted.
    closed: Cache<LogId, Arc<Copy>>,
    ledger: Arc<Ledger>,
    lease: Lease,
    health: Health,
    started: Instant,
    /// Counts calls, so that a repeated one is known as such.
    calls: AtomicU64,
    gather: Gather,
    /// Held by whoever looks after all that this node writes.
    auditing: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
}

impl Options {
    /// Whether a store can be opened with these, as far as that can be known without Redis. The reason of a failure names
    /// no secrets.
    pub fn check(&self) -> Result<(), String> {
        self.address().map(drop)
    }

    fn address(&self) -> Result<Address, String> {
        if self.lease < SHORTEST_LEASE {
            return Err(format!("a lease of less than {SHORTEST_LEASE:?} would be lost to every hiccup"));
        }
        if self.gather > LONGEST_GATHER {
            return Err(format!(
                "no reader wants to wait more than {LONGEST_GATHER:?} for appends to be gathered"
            ));
        }
        Address::parse(&self.url, self.authority.clone())
    }
}

impl Redis {
    /// Begins to connect, within the runtime that it is called in; `health` says when it has. Fails as
    /// [`Options::check`] does.
    pub fn open(options: Options) -> Result<Redis, String> {
        let address = options.address()?;
        let (sender, pushes) = mpsc::unbounded_channel();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let node = Arc::new(Node {
            id: ulid::Ulid::generate().to_string().to_lowercase(),
            scripts: Scripts::default(),
            health: Health::new(if address.is_cluster() { 16 } else { 1 }),
            commands: Link::new(address.clone(), None),
            push: Push::new(Link::new(address, Some(sender))),
            running: Mutex::default(),
            closed: closed_logs(&options),
            ledger: Arc::default(),
            lease: Lease::default(),
            started: Instant::now(),
            calls: AtomicU64::new(0),
            gather: Gather::new(options.gather),
            auditing: tokio::sync::Mutex::default(),
            tasks: tasks.clone(),
            options,
        });
        for link in [node.commands.clone(), node.push.link.clone()] {
            let stop = stop.clone();
            tasks.spawn(async move { link.run(&stop).await });
        }
        tasks.spawn(stop.clone().run_until_cancelled_owned(node.clone().listen(pushes)));
        tasks.spawn(stop.clone().run_until_cancelled_owned(node.clone().follow_again()));
        tasks.spawn(stop.clone().run_until_cancelled_owned(node.clone().keep_lease()));
        tasks.spawn(stop.clone().run_until_cancelled_owned(node.clone().renew_copies()));
        tasks.spawn(stop.clone().run_until_cancelled_owned(node.clone().sing()));
        Ok(Redis { node, tasks, stop })
    }
}

/// The cache takes half of the room at most: running logs cannot be evicted.
fn closed_logs(options: &Options) -> Cache<LogId, Arc<Copy>> {
    let cache = Cache::builder()
        .eviction_policy(EvictionPolicy::lru())
        .weigher(|_, copy: &Arc<Copy>| units(copy.weight()))
        .eviction_listener(|_, copy: Arc<Copy>, _| copy.uncount())
        .time_to_live(if options.replay_window.is_zero() { RUNNING_TTL } else { options.replay_window });
    match options.total_bytes {
        0 => cache.build(),
        bytes => cache.max_capacity((bytes / 2).div_ceil(WEIGHT_UNIT)).build(),
    }
}

impl Node {
    /// Milliseconds since the store was opened.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Names one call, however often it is repeated.
    fn nonce(&self) -> String {
        format!("{}:{}", self.id, self.calls.fetch_add(1, Relaxed))
    }

    fn running(&self) -> MutexGuard<'_, HashMap<LogId, Arc<Copy>>> {
        lock(&self.running)
    }

    /// The keys of a log lie in one slot of a cluster, and so does its channel.
    fn meta_key(&self, log: LogId) -> String {
        format!("{}{{{log}}}:meta", self.options.prefix)
    }

    fn log_key(&self, log: LogId) -> String {
        format!("{}{{{log}}}:log", self.options.prefix)
    }

    fn channel(&self, log: LogId) -> String {
        format!("{}{{{log}}}", self.options.prefix)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.options.prefix)
    }

    /// Forgets what nobody here needs any more. Looks again at what may have missed something.
    fn sweep(self: &Arc<Self>) {
        let now = self.now();
        let copies: Vec<Arc<Copy>> = self.running().values().cloned().collect();
        for copy in copies {
            match copy.standing() {
                Standing::Followed | Standing::Behind if self.unused(&copy, now) => self.drop_copy(&copy),
                Standing::Followed if self.due(&copy, now) => {
                    copy.fall_behind();
                    self.read_back(copy);
                }
                Standing::Behind => self.read_back(copy),
                _ => {}
            }
        }
        self.closed.run_pending_tasks();
        self.ledger.sweep();
        for (channel, listener) in self.push.listeners() {
            if matches!(listener, Listener::Topic(sender) if sender.receiver_count() == 0) {
                let node = self.clone();
                self.tasks.spawn(async move { node.push.unfollow_topic(&channel).await });
            }
        }
    }
}

impl Store for Redis {
    fn create(&self, log: LogId, meta: Meta, plan: Bytes) -> Answer<'_, ()> {
        self.node.create(log, meta, plan).boxed()
    }

    fn append(&self, log: LogId, batch: Batch) -> Answer<'_, Position> {
        self.node.append(log, batch).boxed()
    }

    fn read(&self, log: LogId, after: Position, limit: usize) -> Answer<'_, Page> {
        async move { self.node.copy(log).await?.read(after, limit) }.boxed()
    }

    fn check(&self, log: LogId, position: Position) -> Answer<'_, Result<(), Bad>> {
        self.node.check(log, position).boxed()
    }

    fn changed(&self, log: LogId, after: Position) -> Answer<'_, ()> {
        self.node.changed(log, after).boxed()
    }

    fn meta(&self, log: LogId) -> Answer<'_, Meta> {
        async move { self.node.copy(log).await?.meta().ok_or(Error::NotFound) }.boxed()
    }

    fn remove(&self, log: LogId) -> Answer<'_, ()> {
        self.node.remove(log).boxed()
    }

    fn claim(&self, key: &str, value: &str, ttl: Duration) -> Answer<'_, Claim> {
        let (key, value) = (key.to_owned(), value.to_owned());
        async move { self.node.claim(&key, &value, ttl).await }.boxed()
    }

    fn claimed(&self, key: &str) -> Answer<'_, Option<String>> {
        let key = key.to_owned();
        async move { self.node.claimed(&key).await }.boxed()
    }

    fn release(&self, key: &str, value: &str) -> Answer<'_, ()> {
        let (key, value) = (key.to_owned(), value.to_owned());
        async move { self.node.release(&key, &value).await }.boxed()
    }

    fn list(&self, prefix: &str) -> Answer<'_, Vec<(String, String)>> {
        let prefix = prefix.to_owned();
        async move { self.node.list(&prefix).await }.boxed()
    }

    fn advance(&self, key: &str, by_us: i64) -> Answer<'_, Duration> {
        let key = key.to_owned();
        async move { self.node.advance(&key, by_us).await }.boxed()
    }

    fn publish(&self, topic: &str, message: Bytes) -> Answer<'_, ()> {
        let topic = topic.to_owned();
        async move { self.node.publish(&topic, &message).await }.boxed()
    }

    fn subscribe(&self, topic: &str) -> Answer<'_, broadcast::Receiver<Bytes>> {
        let topic = topic.to_owned();
        async move { self.node.subscribe(&topic).await }.boxed()
    }

    fn orphans(&self) -> Answer<'_, Vec<Orphan>> {
        self.node.orphans().boxed()
    }

    fn disown(&self, log: LogId) -> Answer<'_, ()> {
        self.node.disown(log).boxed()
    }

    fn span(&self) -> Span {
        Span::Nodes
    }

    fn health(&self) -> Result<(), Error> {
        self.node.health.now(self.node.now())
    }

    fn close(&self) -> Answer<'_, ()> {
        async move {
            let left = self.node.leave().await;
            self.stop.cancel();
            self.tasks.close();
            self.tasks.wait().await;
            left
        }
        .boxed()
    }

    fn held(&self) -> u64 {
        self.node.ledger.total.load(Relaxed)
    }

    fn sweep(&self) {
        if !self.stop.is_cancelled() {
            self.node.sweep();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
