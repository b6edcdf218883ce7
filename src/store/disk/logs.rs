//! The logs of the disk engine: how one begins, grows, ends, is found again and is forgotten.
//!
//! What runs, and what finished lately, is in memory and in the journal; what finished before is in archives, and in a cache
//! bounded by bytes. Nothing is shown before its frame is written: an append marks its log busy, and whoever wrote the
//! frame (this thread or the journal's) settles it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use moka::sync::Cache;
use tokio::sync::oneshot;

use super::archive::{self, Archive};
use super::archives::Archives;
use super::entry::{Entry, Kept};
use super::journal::{Item, Journal, Place};
use super::keeper::Chores;
use super::{Options, now_ms, record};
use crate::log::{Batch, LogId, Position};
use crate::store::coordination::Coordination;
use crate::store::ledger::{Account, Ledger};
use crate::store::{Error, Meta, lock};

pub struct Logs {
    pub options: Options,
    pub journal: Journal,
    /// What runs, and what finished and is not archived yet.
    pub live: Mutex<HashMap<LogId, Arc<Entry>>>,
    pub archives: Archives,
    /// Archived logs that were read lately.
    pub hot: Cache<LogId, Arc<Entry>>,
    pub ledger: Arc<Ledger>,
    pub coordination: Coordination,
    /// Held while a claim changes and its frame is handed over, so that both have one order.
    pub claiming: Mutex<()>,
    /// Held while what archives weigh changes, or is asked for an account that opens: each weight counts once. What holds
    /// it reads from the disk, so not on the runtime.
    pub books: Mutex<()>,
    /// Running logs whose writer died with the last process, or gave them up.
    pub orphans: Mutex<HashSet<LogId>>,
    /// Counts reads, to tell which log was read longest ago.
    pub reads: AtomicU64,
    /// The weight of finished logs that are not archived yet.
    pub finished: AtomicU64,
    pub chores: Chores,
}

impl Logs {
    /// What is in memory already.
    pub fn near(&self, log: LogId) -> Option<Arc<Entry>> {
        let live = lock(&self.live).get(&log).cloned();
        live.or_else(|| self.hot.get(&log))
    }

    /// A log that is kept: from memory, or read back from an archive.
    pub async fn entry(self: &Arc<Self>, log: LogId) -> Result<Arc<Entry>, Error> {
        let entry = match self.near(log) {
            Some(entry) => entry,
            None if !self.archives.may_hold(log) => return Err(Error::NotFound),
            None => {
                let logs = self.clone();
                blocking(move || logs.fetch(log)).await?
            }
        };
        if self.expired(entry.kept().sealed_ms) { Err(Error::NotFound) } else { Ok(entry) }
    }

    fn fetch(&self, log: LogId) -> Result<Arc<Entry>, Error> {
        // Once, however many ask for it at a time.
        let read = || match self.archives.read(log)? {
            // Counted in its archive: this account is not charged.
            Some((state, archive)) => Ok(Arc::new(Entry::archived(log, state, Arc::default(), archive))),
            None => Err(Error::NotFound),
        };
        let entry = self.hot.try_get_with(log, read).map_err(|error: Arc<Error>| Error::clone(&error))?;
        // Removed or dropped in between.
        if self.archives.find(log)?.is_none() {
            self.hot.invalidate(&log);
            return Err(Error::NotFound);
        }
        Ok(entry)
    }

    pub fn expired(&self, sealed_ms: Option<u64>) -> bool {
        let retain = self.options.retain;
        !retain.is_zero()
            && sealed_ms.is_some_and(|at| now_ms().saturating_sub(at) as u128 >= retain.as_millis())
    }

    pub fn touch(&self, entry: &Entry, kept: &Kept) {
        let read_at = kept.archive.as_ref().map_or(&entry.read_at, |archive| &archive.read_at);
        read_at.store(self.reads.fetch_add(1, Relaxed) + 1, Relaxed);
    }

    /// The account of an owner, with what archives hold of it. Reads them, so not on the runtime.
    pub fn account(&self, owner: &str) -> Account {
        let _books = lock(&self.books);
        self.ledger.account(owner, || match self.options.user_bytes {
            0 => 0,
            _ => self.archives.owned(owner),
        })
    }

    pub async fn create(self: &Arc<Self>, id: LogId, meta: Meta, plan: Bytes) -> Result<(), Error> {
        self.journal.health()?;
        let needs = self.journal.segment();
        if self.near(id).is_some() {
            return Err(Error::Exists);
        }
        let account = match self.ledger.in_use(&meta.owner) {
            Some(account) if !self.archives.may_hold(id) => account,
            _ => {
                let (logs, owner) = (self.clone(), meta.owner.clone());
                let looked_for = move || match logs.archives.find(id)? {
                    Some(_) => Err(Error::Exists),
                    None => Ok(logs.account(&owner)),
                };
                blocking(looked_for).await?
            }
        };
        let frames = record::create(id, &meta, &plan);
        let kept = Kept { plan, needs, busy: true, ..Kept::default() };
        let entry = Arc::new(Entry::new(id, meta, account, kept));
        let weight = entry.weight(&entry.kept());
        self.make_room(&entry, weight).await?;
        {
            let mut live = lock(&self.live);
            if live.contains_key(&id) {
                return Err(Error::Exists);
            }
            self.ledger.replace(&entry.account, 0, weight);
            live.insert(id, entry.clone());
        }
        self.write(frames, false, move |logs, length, written| {
            let failed = written.as_ref().err().cloned();
            if failed.is_some() {
                entry.forget(&mut entry.kept(), &logs.ledger);
            }
            logs.settled(&entry, length, written.ok());
            failed.map_or(Ok(()), Err)
        })
        .await
    }

    pub async fn append(self: &Arc<Self>, id: LogId, batch: Batch) -> Result<Position, Error> {
        let entry = self.entry(id).await?;
        let seal = batch.seal;
        // A room's log is trimmed, it never asks for more; and an ending is always taken.
        if !seal && entry.meta.trim_bytes.is_none() {
            self.make_room(&entry, batch.drafts.iter().map(|draft| draft.weight() as u64).sum()).await?;
        }
        self.busy(&entry, |kept| kept.log.admits(&batch)).await?;
        let sealed_ms = seal.then(now_ms);
        let frames = record::append(id, batch.expected, batch.epoch, &batch.drafts, sealed_ms);
        self.write(frames, seal, move |logs, length, written| {
            let place = match written {
                Ok(place) => Some(place),
                // Its viewers are told that it is over. After a restart it is an orphan.
                Err(error) if seal => {
                    tracing::error!(log = %id, %error, "the ending of {id} is not on the disk");
                    None
                }
                Err(error) => {
                    logs.settled(&entry, 0, None);
                    return Err(error);
                }
            };
            let moved = logs.take(&entry, batch, sealed_ms);
            logs.settled(&entry, length, place);
            moved
        })
        .await
    }

    /// Waits until nothing is on its way for this log, and marks it busy.
    async fn busy<E>(&self, entry: &Entry, admits: impl Fn(&Kept) -> Result<(), E>) -> Result<(), Error>
    where
        Error: From<E>,
    {
        let changed = entry.changed.notified();
        tokio::pin!(changed);
        loop {
            changed.as_mut().enable();
            {
                let mut kept = entry.kept();
                if kept.gone {
                    return Err(Error::NotFound);
                }
                if kept.damaged {
                    return Err(Error::Damaged);
                }
                if !kept.busy {
                    admits(&kept)?;
                    kept.busy = true;
                    return Ok(());
                }
            }
            changed.as_mut().await;
            changed.set(entry.changed.notified());
        }
    }

    /// Shows what was written.
    fn take(&self, entry: &Arc<Entry>, batch: Batch, sealed_ms: Option<u64>) -> Result<Position, Error> {
        let mut kept = entry.kept();
        if kept.gone {
            return Err(Error::NotFound);
        }
        let before = entry.weight(&kept);
        let head = kept.log.append(batch)?;
        if let Some(limit) = entry.meta.trim_bytes {
            kept.log.trim(limit);
        }
        if sealed_ms.is_some() {
            kept.sealed_ms = sealed_ms;
            kept.plan = Bytes::new();
        }
        let weight = entry.weight(&kept);
        self.ledger.replace(&entry.account, before, weight);
        if sealed_ms.is_some() {
            self.touch(entry, &kept);
            self.count_finished(weight);
            drop(kept);
            lock(&self.orphans).remove(&entry.id);
        }
        Ok(head)
    }

    /// Counts a log that finished, and has it archived when there are enough.
    pub fn count_finished(&self, weight: u64) {
        if self.finished.fetch_add(weight, Relaxed) + weight >= self.options.archive_bytes {
            self.chores.wake();
        }
    }

    /// A frame of this log was written, or not: the next write may come.
    pub fn settled(self: &Arc<Self>, entry: &Arc<Entry>, length: u64, place: Option<Place>) {
        let gone = {
            let mut kept = entry.kept();
            kept.busy = false;
            if let Some(place) = place {
                kept.places.push(place);
                kept.bytes += length;
            }
            kept.gone
        };
        entry.changed.notify_waiters();
        // It was removed while the write was on its way.
        if gone {
            self.bury(entry);
        }
    }

    /// Forgets a log, finished or not, and returns once the journal says so.
    pub async fn remove(self: &Arc<Self>, id: LogId) -> Result<(), Error> {
        let live = lock(&self.live).get(&id).cloned();
        self.hot.invalidate(&id);
        lock(&self.orphans).remove(&id);
        if let Some(entry) = live
            && self.forget(&entry)
        {
            return entry.buried().await;
        }
        if !self.archives.may_hold(id) {
            return Ok(());
        }
        let logs = self.clone();
        match blocking(move || logs.forget_archived(id)).await? {
            Some(written) => written.await,
            None => Ok(()),
        }
    }

    /// Forgets a log that is in an archive, or hidden and not gone from the disk yet, and has the journal say so, whether or
    /// not anybody waits for that. None if there is none.
    fn forget_archived(
        self: &Arc<Self>,
        id: LogId,
    ) -> Result<Option<BoxFuture<'static, Result<(), Error>>>, Error> {
        {
            let _books = lock(&self.books);
            let needs = self.journal.segment();
            match self.archives.find(id)? {
                Some((archive, entry)) => self.hide(&archive, &entry, needs),
                None if self.archives.hidden(id, needs) => {}
                None => return Ok(None),
            }
        }
        Ok(Some(self.write(record::remove(id), true, move |logs, _, written| {
            logs.chores.remove(id);
            written.map(drop)
        })))
    }

    /// Takes an archived log out of sight; the keeper is still to be told. With `books` held.
    pub fn hide(&self, archive: &Archive, entry: &archive::Entry, needs: u32) {
        if self.archives.hide(archive, entry, needs) {
            self.ledger.total.fetch_sub(entry.weight, Relaxed);
            self.ledger.give_back(entry.owner, entry.weight);
        }
        self.hot.invalidate(&entry.log);
    }

    /// Takes a log out of memory; its frames are overwritten soon. One that is being written is buried when that is done.
    /// False if it was archived meanwhile, and is its archive's.
    pub fn forget(self: &Arc<Self>, entry: &Arc<Entry>) -> bool {
        let mut kept = entry.kept();
        if kept.archive.is_some() {
            return false;
        }
        let first = entry.forget(&mut kept, &self.ledger);
        if first && kept.sealed_ms.is_some() {
            self.finished.fetch_sub(entry.weight(&kept), Relaxed);
        }
        let busy = kept.busy;
        drop(kept);
        if first && !busy {
            self.bury(entry);
        }
        true
    }

    /// Writes down that a log is gone, and has its frames overwritten, if it ever had any. Until then its name is taken.
    fn bury(self: &Arc<Self>, entry: &Arc<Entry>) {
        let places = std::mem::take(&mut entry.kept().places);
        if places.is_empty() {
            return self.buried(entry, Ok(()));
        }
        let (logs, entry) = (self.clone(), entry.clone());
        self.journal.submit(Item {
            frames: record::remove(entry.id),
            ending: true,
            then: Box::new(move |written| {
                logs.chores.erase(entry.id, places);
                logs.buried(&entry, written.map(drop));
            }),
        });
    }

    fn buried(&self, entry: &Entry, told: Result<(), Error>) {
        lock(&self.live).remove(&entry.id);
        entry.kept().buried = Some(told);
        entry.changed.notify_waiters();
    }

    /// Writes frames, beginning now; `settle` is called with their length once that is done, whether or not anybody waits
    /// for it.
    pub fn write<T: Send + 'static>(
        self: &Arc<Self>,
        frames: Vec<u8>,
        ending: bool,
        settle: impl FnOnce(&Arc<Logs>, u64, Result<Place, Error>) -> Result<T, Error> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Error>> {
        let (answer, told) = oneshot::channel();
        let (logs, length) = (self.clone(), frames.len() as u64);
        let then = Box::new(move |written| {
            let _caller_left = answer.send(settle(&logs, length, written));
        });
        self.journal.submit(Item { frames, ending, then });
        async { told.await.unwrap_or_else(|_| Err(stopped())) }.boxed()
    }

    /// Makes room for `bytes` of this entry's owner by dropping finished logs, the owner's own or anyone's. That reads
    /// archives.
    async fn make_room(self: &Arc<Self>, entry: &Arc<Entry>, bytes: u64) -> Result<(), Error> {
        let total = move |logs: &Logs| over(logs.options.total_bytes, &logs.ledger.total, bytes);
        let own = move |logs: &Logs, entry: &Entry| over(logs.options.user_bytes, &entry.account, bytes);
        if !total(self) && !own(self, entry) {
            return Ok(());
        }
        let (logs, entry) = (self.clone(), entry.clone());
        blocking(move || {
            let (total, own) = (|| total(&logs), || own(&logs, &entry));
            let room = (!total() || logs.drop_finished(None, &total))
                && (!own() || logs.drop_finished(Some(&entry), &own));
            if room { Ok(()) } else { Err(Error::Full) }
        })
        .await
    }
}

fn over(limit: u64, held: &AtomicU64, bytes: u64) -> bool {
    limit > 0 && held.load(Relaxed) + bytes > limit
}

/// Runs what reads from the disk beside the runtime.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(stopped()))
}

fn stopped() -> Error {
    Error::Unavailable("the store was closed".into())
}
