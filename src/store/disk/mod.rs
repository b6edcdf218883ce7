//! Logs on the disk: what was visible survives the process, however it ends.
//!
//! An append is written to the journal before it is shown; what `sync` adds is power loss. Finished logs are moved from the
//! journal into archives, where any number of them costs neither memory nor time at the start. One process at a time.
//!
//! `held` counts all logs, running and finished, wherever they lie, as they weigh in memory: that is what `total_bytes` and
//! `user_bytes` limit. Files are somewhat smaller, and larger for a while by what was trimmed or dropped. Claims
//! survive a restart by the wall clock; clocks and topics do not.
//!
//! `frame` and `record` are bytes, `files` the file system, `journal` and `archive(s)` the two kinds of files, `recovery`
//! what is read at the start, `logs` and `entry` what happens to a log, `keeper` the housekeeping.

mod archive;
mod archives;
mod entry;
pub mod files;
pub mod frame;
mod journal;
mod keeper;
mod logs;
pub mod offline;
pub mod record;
mod recovery;
pub mod text;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::FutureExt;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::broadcast;

use self::archives::Archives;
use self::entry::{Entry, Kept};
use self::files::{Directory, Hook, OpenError};
use self::journal::Journal;
use self::keeper::{Chores, Leftovers, until};
use self::logs::Logs;
use self::recovery::{Recovered, Told};
use super::coordination::Coordination;
use super::ledger::Ledger;
use super::{Answer, Claim, Error, Meta, Orphan, Span, Store, WEIGHT_UNIT, lock, ready, units};
use crate::log::{Bad, Batch, LogId, Page, Position};

pub use self::journal::Sync;

#[derive(Clone)]
pub struct Options {
    /// The data directory; made if there is none.
    pub path: PathBuf,
    pub sync: Sync,
    /// How long a finished log is kept after its end. Zero keeps it until bytes run out.
    pub retain: Duration,
    /// Finished logs together, in bytes. Zero: no limit of their own.
    pub retain_bytes: u64,
    /// All logs together, in bytes. Zero: no limit.
    pub total_bytes: u64,
    /// The logs of one owner together, in bytes. Zero: no limit.
    pub user_bytes: u64,
    /// Archived logs that stay in memory after they were read, in bytes.
    pub cache_bytes: u64,
    /// Finished logs of so many bytes make an archive; until then they are in memory, too.
    pub archive_bytes: u64,
    /// Of the journal's files.
    pub segment_bytes: u64,
    /// Lets a test decide what the disk does.
    pub hook: Option<Hook>,
}

impl Options {
    /// Without limits, for a directory.
    pub fn new(path: impl Into<PathBuf>) -> Options {
        Options {
            path: path.into(),
            sync: Sync::Os,
            retain: Duration::ZERO,
            retain_bytes: 0,
            total_bytes: 0,
            user_bytes: 0,
            cache_bytes: 32 << 20,
            archive_bytes: 16 << 20,
            segment_bytes: 16 << 20,
            hook: None,
        }
    }
}

pub struct Disk {
    logs: Arc<Logs>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Disk {
    /// Opens the directory, alone, and reads what was running when it was last used.
    pub fn open(options: &Options) -> Result<Disk, OpenError> {
        let directory = Arc::new(Directory::open(&options.path, options.hook.clone())?);
        let failed = |source| OpenError::Io { path: options.path.clone(), source };
        let recovered = recovery::read(&directory, true).map_err(failed)?;
        let archives = Archives::open(&directory).map_err(failed)?;
        let journal =
            Journal::open(directory, options.sync, options.segment_bytes, recovered.segments.clone())
                .map_err(failed)?;
        let mut logs = Logs {
            journal,
            live: Mutex::default(),
            hot: hot(options.cache_bytes),
            ledger: Arc::new(Ledger::default()),
            coordination: Coordination::default(),
            claiming: Mutex::default(),
            books: Mutex::default(),
            orphans: Mutex::default(),
            reads: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            chores: Chores::default(),
            archives,
            options: options.clone(),
        };
        let leftovers = restore(&mut logs, recovered).map_err(failed)?;
        let logs = Arc::new(logs);
        let (writing, keeping) = (logs.clone(), logs.clone());
        let threads = Mutex::new(vec![
            named("store-journal", move || writing.journal.run()).map_err(failed)?,
            named("store-keeper", move || keeper::run(&keeping, leftovers)).map_err(failed)?,
        ]);
        logs.chores.wake();
        Ok(Disk { logs, threads })
    }

    fn stop(&self) {
        let threads = std::mem::take(&mut *lock(&self.threads));
        self.logs.chores.stop();
        self.logs.journal.stop();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }

    /// An answer about a log: at once if it is in memory.
    fn with<'a, T: Send + 'a>(
        &'a self,
        log: LogId,
        read: impl FnOnce(&Entry, &Kept) -> T + Send + 'a,
    ) -> Answer<'a, T> {
        async move {
            let entry = self.logs.entry(log).await?;
            entry.look(|kept| read(&entry, kept))
        }
        .boxed()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.stop();
    }
}

fn named(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

fn hot(bytes: u64) -> Cache<LogId, Arc<Entry>> {
    Cache::builder()
        .eviction_policy(EvictionPolicy::lru())
        .weigher(|_, entry: &Arc<Entry>| units(entry.weight(&entry.kept())))
        .max_capacity(bytes / WEIGHT_UNIT)
        .build()
}

/// Puts what was recovered where it belongs.
fn restore(logs: &mut Logs, recovered: Recovered) -> io::Result<Leftovers> {
    if recovered.torn > 0 {
        tracing::warn!(
            bytes = recovered.torn,
            "the journal's torn tail was cut off: a write was interrupted"
        );
    }
    if recovered.flaws > 0 {
        tracing::error!(
            flaws = recovered.flaws,
            "the journal is damaged in places; their logs say so when read"
        );
    }
    let mut leftovers = Leftovers::default();
    logs.ledger.total.store(logs.archives.weight(), Relaxed);
    let unreadable = |error: Error| io::Error::other(error.to_string());
    for (log, places) in recovered.removed {
        if let Ok(Some((archive, entry))) = logs.archives.find(log) {
            logs.hide(&archive, &entry, 0);
        }
        logs.chores.remove(log);
        logs.chores.erase(log, places);
    }
    for (log, places) in recovered.archived {
        if let Some((archive, _)) = logs.archives.find(log).ok().flatten() {
            leftovers.add(log, archive.number, places);
        } else {
            logs.chores.erase(log, places);
        }
    }
    // What was read last is not known any more: the oldest go first.
    for archive in logs.archives.all() {
        archive.read_at.store(u64::from(archive.number), Relaxed);
        logs.reads.fetch_max(archive.number.into(), Relaxed);
    }
    let mut told: Vec<(LogId, Told)> = recovered.logs.into_iter().collect();
    told.sort_unstable_by_key(|(_, told)| told.sealed_ms);
    for (log, told) in told {
        let finished = told.sealed_ms.is_some() || told.damaged;
        // Archived right before the crash, which took the word for it.
        match if finished { logs.archives.find(log).map_err(unreadable)? } else { None } {
            Some((archive, _)) => leftovers.add(log, archive.number, told.places),
            None => revive(logs, log, told),
        }
    }
    let now = now_ms();
    for claimed in recovered.claims.into_values().filter(|claimed| claimed.until_ms > now) {
        let left = Duration::from_millis(claimed.until_ms - now);
        logs.coordination.claim(&claimed.key, &claimed.value, left);
    }
    Ok(leftovers)
}

fn revive(logs: &mut Logs, id: LogId, told: Told) {
    let Told { created, log, damaged, places, needs, bytes, .. } = told;
    let meta = created.meta;
    let account = logs.account(&meta.owner);
    // A damaged log is kept as long as a finished one, to say that it is damaged.
    let sealed_ms = told.sealed_ms.or_else(|| damaged.then(now_ms));
    let orphan = sealed_ms.is_none() && meta.trim_bytes.is_none();
    let kept = Kept { log, plan: created.plan, sealed_ms, damaged, places, needs, bytes, ..Kept::default() };
    let entry = Arc::new(Entry::new(id, meta, account, kept));
    let weight = entry.weight(&entry.kept());
    logs.ledger.replace(&entry.account, 0, weight);
    if sealed_ms.is_some() {
        logs.touch(&entry, &entry.kept());
        logs.count_finished(weight);
    }
    if orphan {
        lock(&logs.orphans).insert(id);
    }
    lock(&logs.live).insert(id, entry);
}

impl Store for Disk {
    fn create(&self, log: LogId, meta: Meta, plan: Bytes) -> Answer<'_, ()> {
        self.logs.create(log, meta, plan).boxed()
    }

    fn append(&self, log: LogId, batch: Batch) -> Answer<'_, Position> {
        self.logs.append(log, batch).boxed()
    }

    fn read(&self, log: LogId, after: Position, limit: usize) -> Answer<'_, Page> {
        self.with(log, move |entry, kept| {
            self.logs.touch(entry, kept);
            kept.log.read(after, limit)
        })
    }

    fn check(&self, log: LogId, position: Position) -> Answer<'_, Result<(), Bad>> {
        self.with(log, move |_, kept| kept.log.check(position))
    }

    fn changed(&self, log: LogId, after: Position) -> Answer<'_, ()> {
        async move {
            let entry = self.logs.entry(log).await?;
            let changed = entry.changed.notified();
            tokio::pin!(changed);
            loop {
                changed.as_mut().enable();
                if entry.look(|kept| kept.log.head().seq > after.seq || kept.log.closed())? {
                    return Ok(());
                }
                changed.as_mut().await;
                changed.set(entry.changed.notified());
            }
        }
        .boxed()
    }

    fn meta(&self, log: LogId) -> Answer<'_, Meta> {
        self.with(log, |entry, _| entry.meta.clone())
    }

    fn remove(&self, log: LogId) -> Answer<'_, ()> {
        self.logs.remove(log).boxed()
    }

    fn claim(&self, key: &str, value: &str, ttl: Duration) -> Answer<'_, Claim> {
        let _in_order = lock(&self.logs.claiming);
        let renews = self.logs.coordination.claimed(key).as_deref() == Some(value);
        let claim = self.logs.coordination.claim(key, value, ttl);
        if let Claim::Held(_) = claim {
            return ready(Ok(claim));
        }
        let frame = record::claim(key, value, until(now_ms(), ttl));
        let (key, value) = (key.to_owned(), value.to_owned());
        self.logs.write(frame, false, move |logs, _, written| {
            if written.is_err() && !renews {
                logs.coordination.release(&key, &value);
            }
            written.map(|_| claim)
        })
    }

    fn claimed(&self, key: &str) -> Answer<'_, Option<String>> {
        ready(Ok(self.logs.coordination.claimed(key)))
    }

    fn release(&self, key: &str, value: &str) -> Answer<'_, ()> {
        let _in_order = lock(&self.logs.claiming);
        if self.logs.coordination.release(key, value) {
            self.logs.write(record::release(key), false, |_, _, written| written.map(drop))
        } else {
            ready(Ok(()))
        }
    }

    fn list(&self, prefix: &str) -> Answer<'_, Vec<(String, String)>> {
        ready(Ok(self.logs.coordination.list(prefix)))
    }

    fn advance(&self, key: &str, by_us: i64) -> Answer<'_, Duration> {
        ready(Ok(self.logs.coordination.advance(key, by_us)))
    }

    fn publish(&self, topic: &str, message: Bytes) -> Answer<'_, ()> {
        self.logs.coordination.publish(topic, message);
        ready(Ok(()))
    }

    fn subscribe(&self, topic: &str) -> Answer<'_, broadcast::Receiver<Bytes>> {
        ready(Ok(self.logs.coordination.subscribe(topic)))
    }

    fn orphans(&self) -> Answer<'_, Vec<Orphan>> {
        let left: HashSet<LogId> = std::mem::take(&mut lock(&self.logs.orphans));
        let live: HashMap<LogId, Arc<Entry>> = {
            let live = lock(&self.logs.live);
            left.iter().filter_map(|log| Some((*log, live.get(log)?.clone()))).collect()
        };
        let orphan = |(log, entry): (LogId, Arc<Entry>)| {
            entry.look(|kept| Orphan { log, head: kept.log.head(), plan: kept.plan.clone() }).ok()
        };
        ready(Ok(live.into_iter().filter_map(orphan).collect()))
    }

    fn disown(&self, log: LogId) -> Answer<'_, ()> {
        let runs = lock(&self.logs.live).get(&log).is_some_and(|entry| {
            entry.meta.trim_bytes.is_none() && entry.look(|kept| kept.sealed_ms.is_none()) == Ok(true)
        });
        if runs {
            lock(&self.logs.orphans).insert(log);
        }
        ready(Ok(()))
    }

    fn span(&self) -> Span {
        Span::Restarts
    }

    fn health(&self) -> Result<(), Error> {
        self.logs.journal.health()
    }

    fn close(&self) -> Answer<'_, ()> {
        self.stop();
        ready(self.logs.journal.sync())
    }

    fn held(&self) -> u64 {
        self.logs.ledger.total.load(Relaxed)
    }

    fn sweep(&self) {
        self.logs.hot.run_pending_tasks();
        self.logs.coordination.sweep();
        self.logs.chores.wake();
    }
}

/// Now, in milliseconds since the Unix epoch: what is compared across restarts.
fn now_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "retention and claims go by the wall clock over restarts")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
