//! Logs in memory: running ones in a map of our own, finished ones in moka, bounded by bytes and age.
//!
//! Why two places: moka weighs an entry when it is inserted and may evict what it likes, and a running log both
//! grows and must stay. Only sealed logs go in. Its policy is LRU, since the default one refuses new entries when
//! it is full. Everything is gone with the process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::FutureExt;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::{Notify, broadcast};

use super::coordination::Coordination;
use super::ledger::{Account, Ledger};
use super::{Answer, Claim, Error, Meta, Orphan, Span, Store, WEIGHT_UNIT, lock, ready, units};
use crate::log::{Bad, Batch, Log, LogId, Page, Position};

#[derive(Debug, Clone)]
pub struct Options {
    /// How long a finished log is kept after its end. Zero keeps it until bytes run out.
    pub replay_window: Duration,
    /// All logs together, in bytes. Zero: no limit.
    pub total_bytes: u64,
    /// The logs of one owner together, in bytes. Zero: no limit.
    pub user_bytes: u64,
}

struct Entry {
    meta: Meta,
    account: Account,
    kept: Mutex<Kept>,
    changed: Notify,
    /// When it was last read, or sealed, by the store's own count.
    read_at: AtomicU64,
}

#[derive(Default)]
struct Kept {
    log: Log,
    /// Forgotten or evicted: whoever still holds the entry must not append, wait or count any more.
    gone: bool,
}

pub struct Memory {
    options: Options,
    running: Mutex<HashMap<LogId, Arc<Entry>>>,
    sealed: Cache<LogId, Arc<Entry>>,
    coordination: Coordination,
    ledger: Arc<Ledger>,
    /// Counts reads, to tell which log was read longest ago.
    reads: AtomicU64,
}

impl Memory {
    pub fn new(options: Options) -> Memory {
        let ledger = Arc::new(Ledger::default());
        let freed = ledger.clone();
        let mut sealed = Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_, entry: &Arc<Entry>| units(entry.weight(&lock(&entry.kept).log)))
            .eviction_listener(move |_, entry: Arc<Entry>, _| entry.forget(&freed));
        if options.total_bytes > 0 {
            sealed = sealed.max_capacity(options.total_bytes / WEIGHT_UNIT);
        }
        if !options.replay_window.is_zero() {
            sealed = sealed.time_to_live(options.replay_window);
        }
        Memory {
            running: Mutex::default(),
            sealed: sealed.build(),
            coordination: Coordination::default(),
            ledger,
            reads: AtomicU64::new(0),
            options,
        }
    }

    fn entry(&self, log: LogId) -> Result<Arc<Entry>, Error> {
        let running = lock(&self.running).get(&log).cloned();
        running.or_else(|| self.sealed.get(&log)).ok_or(Error::NotFound)
    }

    /// An entry that is not gone, and what it keeps.
    fn with<T>(&self, log: LogId, read: impl FnOnce(&Entry, &Log) -> T) -> Result<T, Error> {
        let entry = self.entry(log)?;
        let kept = lock(&entry.kept);
        if kept.gone { Err(Error::NotFound) } else { Ok(read(&entry, &kept.log)) }
    }

    /// Makes room for `bytes` of this entry's owner by dropping finished logs, the owner's own or anyone's.
    fn make_room(&self, entry: &Entry, bytes: u64) -> Result<(), Error> {
        let over = |limit: u64, held: &AtomicU64| limit > 0 && held.load(Relaxed) + bytes > limit;
        if over(self.options.total_bytes, &self.ledger.total) {
            self.drop_sealed(|_| true, || over(self.options.total_bytes, &self.ledger.total))?;
        }
        if over(self.options.user_bytes, &entry.account) {
            let own = |other: &Entry| Arc::ptr_eq(&other.account, &entry.account);
            self.drop_sealed(own, || over(self.options.user_bytes, &entry.account))?;
        }
        Ok(())
    }

    fn touch(&self, entry: &Entry) {
        entry.read_at.store(self.reads.fetch_add(1, Relaxed), Relaxed);
    }

    /// Drops finished logs that `whose` names, the least recently read first, until `over` is content.
    fn drop_sealed(&self, whose: impl Fn(&Entry) -> bool, over: impl Fn() -> bool) -> Result<(), Error> {
        let whose = self.sealed.iter().filter(|(_, entry)| whose(entry));
        let mut found: Vec<(u64, LogId)> =
            whose.map(|(log, entry)| (entry.read_at.load(Relaxed), *log)).collect();
        found.sort_unstable();
        for (_, log) in found {
            self.sealed.invalidate(&log);
            self.sealed.run_pending_tasks();
            if !over() {
                return Ok(());
            }
        }
        if over() { Err(Error::Full) } else { Ok(()) }
    }

    fn append_now(&self, id: LogId, batch: Batch) -> Result<Position, Error> {
        let entry = self.entry(id)?;
        let bytes: u64 = batch.drafts.iter().map(|draft| draft.weight() as u64).sum();
        let seal = batch.seal;
        // A room's log is trimmed, it never asks for more; and an ending is always taken.
        if !seal && entry.meta.trim_bytes.is_none() {
            self.make_room(&entry, bytes)?;
        }
        let head = {
            let mut kept = lock(&entry.kept);
            if kept.gone {
                return Err(Error::NotFound);
            }
            let log = &mut kept.log;
            let before = log.weight() as u64;
            let head = log.append(batch)?;
            if let Some(limit) = entry.meta.trim_bytes {
                log.trim(limit);
            }
            self.ledger.replace(&entry.account, before, log.weight() as u64);
            head
        };
        if seal {
            self.touch(&entry);
            // First into the cache, then out of the map: a reader always finds it in one of them.
            self.sealed.insert(id, entry.clone());
            lock(&self.running).remove(&id);
            // Forgotten in between, when it was not in the cache yet.
            if lock(&entry.kept).gone {
                self.sealed.invalidate(&id);
            }
        }
        entry.changed.notify_waiters();
        Ok(head)
    }
}

impl Store for Memory {
    /// Nobody ever goes on with a log of this engine: it is gone with its writer.
    fn create(&self, log: LogId, meta: Meta, _plan: Bytes) -> Answer<'_, ()> {
        ready((|| {
            let account = self.ledger.account(&meta.owner, || 0);
            let (kept, changed, read_at) = (Mutex::default(), Notify::new(), AtomicU64::new(0));
            let entry = Entry { meta, account, kept, changed, read_at };
            let weight = entry.weight(&Log::default());
            self.make_room(&entry, weight)?;
            let mut running = lock(&self.running);
            if running.contains_key(&log) || self.sealed.contains_key(&log) {
                return Err(Error::Exists);
            }
            self.ledger.replace(&entry.account, 0, weight);
            running.insert(log, Arc::new(entry));
            Ok(())
        })())
    }

    fn append(&self, log: LogId, batch: Batch) -> Answer<'_, Position> {
        ready(self.append_now(log, batch))
    }

    fn read(&self, log: LogId, after: Position, limit: usize) -> Answer<'_, Page> {
        ready(self.with(log, |entry, kept| {
            self.touch(entry);
            kept.read(after, limit)
        }))
    }

    fn check(&self, log: LogId, position: Position) -> Answer<'_, Result<(), Bad>> {
        ready(self.with(log, |_, kept| kept.check(position)))
    }

    fn changed(&self, log: LogId, after: Position) -> Answer<'_, ()> {
        async move {
            let entry = self.entry(log)?;
            let changed = entry.changed.notified();
            tokio::pin!(changed);
            loop {
                changed.as_mut().enable();
                {
                    let kept = lock(&entry.kept);
                    // Removed under us: tell it, rather than wait for an append that cannot come.
                    if kept.gone {
                        return Err(Error::NotFound);
                    }
                    if kept.log.head().seq > after.seq || kept.log.closed() {
                        return Ok(());
                    }
                }
                changed.as_mut().await;
                changed.set(entry.changed.notified());
            }
        }
        .boxed()
    }

    fn meta(&self, log: LogId) -> Answer<'_, Meta> {
        ready(self.with(log, |entry, _| entry.meta.clone()))
    }

    fn remove(&self, log: LogId) -> Answer<'_, ()> {
        let running = lock(&self.running).remove(&log);
        if let Some(entry) = running {
            entry.forget(&self.ledger);
        }
        self.sealed.invalidate(&log);
        self.sealed.run_pending_tasks();
        ready(Ok(()))
    }

    fn claim(&self, key: &str, value: &str, ttl: Duration) -> Answer<'_, Claim> {
        ready(Ok(self.coordination.claim(key, value, ttl)))
    }

    fn claimed(&self, key: &str) -> Answer<'_, Option<String>> {
        ready(Ok(self.coordination.claimed(key)))
    }

    fn release(&self, key: &str, value: &str) -> Answer<'_, ()> {
        self.coordination.release(key, value);
        ready(Ok(()))
    }

    fn list(&self, prefix: &str) -> Answer<'_, Vec<(String, String)>> {
        ready(Ok(self.coordination.list(prefix)))
    }

    fn advance(&self, key: &str, by_us: i64) -> Answer<'_, Duration> {
        ready(Ok(self.coordination.advance(key, by_us)))
    }

    fn publish(&self, topic: &str, message: Bytes) -> Answer<'_, ()> {
        self.coordination.publish(topic, message);
        ready(Ok(()))
    }

    fn subscribe(&self, topic: &str) -> Answer<'_, broadcast::Receiver<Bytes>> {
        ready(Ok(self.coordination.subscribe(topic)))
    }

    fn orphans(&self) -> Answer<'_, Vec<Orphan>> {
        ready(Ok(Vec::new()))
    }

    fn disown(&self, _log: LogId) -> Answer<'_, ()> {
        ready(Ok(()))
    }

    fn span(&self) -> Span {
        Span::Process
    }

    fn health(&self) -> Result<(), Error> {
        Ok(())
    }

    fn close(&self) -> Answer<'_, ()> {
        ready(Ok(()))
    }

    fn held(&self) -> u64 {
        self.ledger.total.load(Relaxed)
    }

    fn sweep(&self) {
        // moka has no thread of its own: without this, expired logs stay and the ledger does not hear of them.
        self.sealed.run_pending_tasks();
        self.coordination.sweep();
        self.ledger.sweep();
    }
}

impl Entry {
    /// What it costs to keep this log: its records, and what was said about it at its creation.
    fn weight(&self, log: &Log) -> u64 {
        (log.weight() + self.meta.data.len() + size_of::<Entry>()) as u64
    }

    /// Takes its bytes off the ledger, once, and tells those who wait.
    fn forget(&self, ledger: &Ledger) {
        let mut kept = lock(&self.kept);
        if !std::mem::replace(&mut kept.gone, true) {
            ledger.replace(&self.account, self.weight(&kept.log), 0);
        }
        drop(kept);
        self.changed.notify_waiters();
    }
}
