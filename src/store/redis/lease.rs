//! Who writes what: each node keeps a lease alive, and takes over what a dead one wrote.
//!
//! A node stops writing on its own clock before its lease ends, so that as a rule nobody writes beside it; what really
//! keeps it out is that appends name the node and the epoch. A log is taken by changing its node from the dead one to
//! oneself, which one of all that try can do. Every node's logs are listed in a set beside the leases: the list may hold
//! too much, never too little.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use redis::{Value, cmd};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use super::copy::Copy;
use super::encoding;
use super::{Error, Node, RUNNING_TTL};
use crate::log::{LogId, Position};
use crate::store::{Orphan, lock};

/// A node's stand-in for "nobody".
const NOBODY: &str = "nobody";
/// Logs taken over in one go; other nodes take the rest meanwhile.
const AT_ONCE: usize = 256;
/// Logs read back at the same time.
const READING: usize = 16;
/// After a beat that failed.
const REST: Duration = Duration::from_millis(200);
/// How long a log that was closed here is looked after: longer than a failover takes.
const CLOSED_LATELY_MS: u64 = 30_000;
/// How often the time to live of what runs here is renewed.
const RENEWAL: Duration = Duration::from_secs(6 * 3600);

#[derive(Default)]
pub struct Lease {
    /// Until when this node may write, in milliseconds by the store's own clock.
    until: AtomicU64,
    renewed: Notify,
    /// Logs that are over, to be taken off the list.
    over: Mutex<Vec<LogId>>,
    /// Closed here a short while ago, by the store's own clock, and still on the list: a failover may lose the seal.
    closed: Mutex<VecDeque<(u64, Arc<Copy>)>>,
    /// Taken over, and not told of yet.
    taken: Mutex<Vec<Orphan>>,
}

/// What came of trying to take a log.
enum Take {
    Won(Position, bytes::Bytes),
    Others,
    Over,
}

impl Lease {
    pub fn holds(&self, now: u64) -> bool {
        now < self.until.load(Relaxed)
    }

    /// Waits until this node may write.
    pub async fn wait(&self, now: impl Fn() -> u64, until: Instant) -> Result<(), Error> {
        let renewed = self.renewed.notified();
        tokio::pin!(renewed);
        loop {
            renewed.as_mut().enable();
            if self.holds(now()) {
                return Ok(());
            }
            if timeout_at(until, renewed.as_mut()).await.is_err() {
                return Err(Error::Unavailable("this node's lease could not be renewed".into()));
            }
            renewed.set(self.renewed.notified());
        }
    }

    pub fn is_closed(&self, copy: Arc<Copy>, now: u64) {
        lock(&self.closed).push_back((now, copy));
    }

    /// What can be taken off the list: what was closed before then, and what is no longer this node's.
    fn done_with(&self, closed_before: u64) -> Vec<LogId> {
        let mut closed = lock(&self.closed);
        let old = closed.partition_point(|(at, _)| *at < closed_before);
        let mut over = std::mem::take(&mut *lock(&self.over));
        over.extend(closed.drain(..old).map(|(_, copy)| copy.id));
        over
    }

    pub fn closed_lately(&self) -> Vec<Arc<Copy>> {
        lock(&self.closed).iter().map(|(_, copy)| copy.clone()).collect()
    }

    pub fn is_over(&self, log: LogId) {
        lock(&self.over).push(log);
    }
}

impl Node {
    pub fn lease_ms(&self) -> u64 {
        u64::try_from(self.options.lease.as_millis()).unwrap_or(u64::MAX)
    }

    fn leases(&self) -> String {
        self.key("{nodes}:leases")
    }

    /// The set of logs that a node writes; in the leases' slot.
    pub fn written_by(&self, node: &str) -> String {
        self.key(&format!("{{nodes}}:logs:{node}"))
    }

    /// Renews the lease for as long as the store lives.
    pub async fn keep_lease(self: Arc<Self>) {
        let mut generation = 0;
        loop {
            let last = std::mem::replace(&mut generation, self.commands.opened_after(0).await);
            match self.beat().await {
                Ok(unbroken) => {
                    if last != 0 && (last != generation || !unbroken) {
                        let node = self.clone();
                        self.tasks.spawn(async move { node.audit().await });
                    }
                    if last != generation {
                        self.look_at_policy().await;
                    }
                    self.clear_list(self.now().saturating_sub(CLOSED_LATELY_MS)).await;
                    sleep(self.options.lease / 3).await;
                }
                Err(_) => sleep(REST).await,
            }
        }
    }

    /// False if the lease had run out.
    async fn beat(&self) -> Result<bool, Error> {
        let (asked, lease) = (self.now(), self.lease_ms());
        let args: [&[u8]; 2] = [self.id.as_bytes(), &lease.to_string().into_bytes()];
        let answer = self.commands.run_script(&self.scripts.beat, &[&self.leases()], &args).await?;
        // A tenth for clocks that do not run alike.
        self.lease.until.store(asked + lease - lease / 10, Relaxed);
        self.lease.renewed.notify_waiters();
        Ok(encoding::integer(&answer)? == 1)
    }

    /// A Redis that makes room by itself would drop logs that run.
    async fn look_at_policy(&self) {
        let Ok(answer) = self.commands.call(cmd("INFO").arg("memory")).await else { return };
        if ["maxmemory_policy:allkeys", "maxmemory_policy:volatile"]
            .iter()
            .any(|policy| says(&answer, policy))
        {
            tracing::warn!("Redis may evict what runs: set its maxmemory-policy to noeviction");
        }
    }

    /// Takes what is over off the list of what this node writes.
    async fn clear_list(&self, closed_before: u64) {
        let over = self.lease.done_with(closed_before);
        if over.is_empty() {
            return;
        }
        let mut remove = cmd("SREM");
        remove.arg(self.written_by(&self.id));
        remove.arg(over.iter().map(ToString::to_string).collect::<Vec<_>>());
        if self.commands.call(&remove).await.is_err() {
            lock(&self.lease.over).extend(over);
        }
    }

    /// What nobody appends to for days must not be dropped while somebody is here for it. Not between two beats: it takes as
    /// long as there are logs.
    pub async fn renew_copies(self: Arc<Self>) {
        loop {
            sleep(RENEWAL).await;
            let logs: Vec<LogId> = self.running().keys().copied().collect();
            for log in logs {
                for key in [self.meta_key(log), self.log_key(log)] {
                    let ttl = RUNNING_TTL.as_millis().to_string();
                    // GT would leave keys without a time to live alone; a closed log's must not grow, and is not held here.
                    let _next_time = self.commands.call(cmd("PEXPIRE").arg(key).arg(ttl)).await;
                }
            }
        }
    }

    pub async fn orphans(self: &Arc<Self>) -> Result<Vec<Orphan>, Error> {
        let keys = [self.leases(), self.written_by(NOBODY)];
        let count = AT_ONCE.to_string();
        let answer = self.ask(&self.scripts.dead, &[&keys[0], &keys[1]], &[count.as_bytes()]).await?;
        let mut answer = encoding::array(answer)?.into_iter();
        let dead = names(answer.next())?;
        let mut found: Vec<(String, String)> =
            names(answer.next())?.into_iter().map(|log| (NOBODY.to_owned(), log)).collect();
        for node in dead.into_iter().filter(|node| *node != self.id) {
            let mut some = cmd("SRANDMEMBER");
            let logs = self.commands.call(some.arg(self.written_by(&node)).arg(AT_ONCE)).await?;
            let logs = names(Some(logs))?;
            if logs.is_empty() {
                let keys = [self.leases(), self.written_by(&node)];
                self.ask(&self.scripts.retire, &[&keys[0], &keys[1]], &[node.as_bytes()]).await?;
            }
            found.extend(logs.into_iter().map(|log| (node.clone(), log)));
        }
        let take = |(from, log): (String, String)| async move {
            if let Err(error) = self.take_over(&from, &log).await {
                tracing::warn!(log, %error, "a dead node's log could not be taken over yet");
            }
        };
        futures_util::stream::iter(found).for_each_concurrent(READING, take).await;
        Ok(std::mem::take(&mut *lock(&self.lease.taken)))
    }

    async fn take_over(self: &Arc<Self>, from: &str, name: &str) -> Result<(), Error> {
        let Ok(log) = name.parse::<LogId>() else {
            return self.unlist(from, name).await;
        };
        let mine = self.running().get(&log).is_some_and(|copy| copy.is_owned());
        if mine {
            return self.unlist(from, name).await;
        }
        self.list_as_own(log, Instant::now()).await?;
        match self.hand_over(log, from, &self.id).await? {
            Take::Won(head, plan) => {
                self.read_owned(log, plan.clone()).await?;
                self.unlist(from, name).await?;
                tracing::info!(log = %log, "taken over from a dead node");
                let orphan = Orphan { log, head, plan };
                lock(&self.lease.taken).push(orphan);
                Ok(())
            }
            // Whose it is by now has listed it before.
            Take::Others | Take::Over => {
                self.lease.is_over(log);
                self.unlist(from, name).await
            }
        }
    }

    /// Reads a log that this node writes from now on.
    async fn read_owned(self: &Arc<Self>, log: LogId, plan: bytes::Bytes) -> Result<(), Error> {
        let new = || Copy::followed(log, self.ledger.clone());
        let copy = self.running().entry(log).or_insert_with(new).clone();
        copy.used(self.now());
        copy.fall_behind();
        self.read_back_now(&copy).await?;
        copy.take_over(plan);
        self.stop_following(&copy);
        Ok(())
    }

    async fn hand_over(&self, log: LogId, from: &str, to: &str) -> Result<Take, Error> {
        let args: [&[u8]; 2] = [from.as_bytes(), to.as_bytes()];
        let answer = self.ask(&self.scripts.take, &[&self.meta_key(log)], &args).await?;
        let mut answer = encoding::array(answer)?.into_iter();
        let code = answer.next().ok_or_else(encoding::unexpected)?;
        Ok(match (encoding::integer(&code)?, answer.next(), answer.next()) {
            (1, Some(head), Some(plan)) => Take::Won(encoding::head(head)?, encoding::bulk(plan)?),
            (2, _, _) => Take::Others,
            _ => Take::Over,
        })
    }

    async fn unlist(&self, node: &str, name: &str) -> Result<(), Error> {
        self.commands.call(cmd("SREM").arg(self.written_by(node)).arg(name)).await.map(drop)?;
        Ok(())
    }

    /// Leaves a log to whoever asks next.
    pub async fn disown(self: &Arc<Self>, log: LogId) -> Result<(), Error> {
        let copy = self.running().get(&log).cloned();
        let Some(copy) = copy.filter(|copy| copy.is_owned()) else { return Ok(()) };
        let _turn = copy.writing.lock().await;
        self.list_as_of(NOBODY, log, self.patience()).await?;
        // First here: the next one to append would be the new writer.
        copy.give_up();
        self.hand_over(log, &self.id, NOBODY).await?;
        self.lease.is_over(log);
        self.read_back(copy.clone());
        Ok(())
    }

    /// Ends the lease: what this node wrote is an orphan at once.
    pub async fn leave(&self) -> Result<(), Error> {
        self.clear_list(u64::MAX).await;
        self.lease.until.store(0, Relaxed);
        let mut over = cmd("ZADD");
        self.commands.call(over.arg(self.leases()).arg("XX").arg(0).arg(&self.id)).await.map(drop)?;
        Ok(())
    }
}

fn names(value: Option<Value>) -> Result<Vec<String>, Error> {
    let values = encoding::array(value.ok_or_else(encoding::unexpected)?)?;
    Ok(values.into_iter().map(encoding::text).collect::<Result<_, _>>()?)
}

/// Whether an answer, of one server or of each, has this in its text.
fn says(answer: &Value, text: &str) -> bool {
    match answer {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).contains(text),
        Value::VerbatimString { text: said, .. } | Value::SimpleString(said) => said.contains(text),
        Value::Map(servers) => servers.iter().any(|(_, answer)| says(answer, text)),
        Value::Array(answers) => answers.iter().any(|answer| says(answer, text)),
        _ => false,
    }
}
