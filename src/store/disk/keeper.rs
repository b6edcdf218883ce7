//! Housekeeping in a thread of its own: what is over its time or its bytes goes, finished logs are archived, what was
//! removed is overwritten, and the journal is kept short.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::archive::{Archive, Finished, Lookup};
use super::entry::Entry;
use super::journal::Place;
use super::logs::Logs;
use super::{now_ms, record};
use crate::log::LogId;
use crate::store::ledger::owner_hash;
use crate::store::{Error, lock};

/// What is to be done, shared by those who ask and the thread that does it.
#[derive(Clone, Default)]
pub struct Chores(Arc<(Mutex<Todo>, Condvar)>);

#[derive(Default)]
struct Todo {
    /// Frames in the journal.
    erase: Vec<(LogId, Vec<Place>)>,
    /// Logs in archives.
    remove: Vec<LogId>,
    unlink: Vec<Arc<Archive>>,
    tidy: bool,
    stopping: bool,
}

impl Todo {
    fn append(&mut self, mut more: Todo) {
        self.erase.append(&mut more.erase);
        self.remove.append(&mut more.remove);
        self.unlink.append(&mut more.unlink);
    }
}

impl Chores {
    fn add(&self, add: impl FnOnce(&mut Todo)) {
        add(&mut lock(&self.0.0));
        self.0.1.notify_one();
    }

    pub fn erase(&self, log: LogId, places: Vec<Place>) {
        self.add(|todo| todo.erase.push((log, places)));
    }

    pub fn remove(&self, log: LogId) {
        self.add(|todo| todo.remove.push(log));
    }

    fn unlink(&self, archive: Arc<Archive>) {
        self.add(|todo| todo.unlink.push(archive));
    }

    /// A look at everything.
    pub fn wake(&self) {
        self.add(|todo| todo.tidy = true);
    }

    pub fn stop(&self) {
        self.add(|todo| todo.stopping = true);
    }

    fn wait(&self) -> Todo {
        let idle = |todo: &mut Todo| {
            let nothing = todo.erase.is_empty() && todo.remove.is_empty() && todo.unlink.is_empty();
            nothing && !todo.tidy && !todo.stopping
        };
        let waited = self.0.1.wait_while(lock(&self.0.0), idle);
        let mut todo = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut todo)
    }
}

/// Frames in the journal of logs that are in an archive by now: only what is to be overwritten when they go.
#[derive(Default)]
pub struct Leftovers(HashMap<LogId, (u32, Vec<Place>)>);

impl Leftovers {
    pub fn add(&mut self, log: LogId, archive: u32, places: Vec<Place>) {
        self.0.insert(log, (archive, places));
    }

    fn forget_segments(&mut self, last: u32) {
        self.0.retain(|_, (_, places)| {
            places.retain(|place| place.segment > last);
            !places.is_empty()
        });
    }
}

/// The thread's work, until it is told to stop.
pub fn run(logs: &Arc<Logs>, mut leftovers: Leftovers) {
    let mut failed = Todo::default();
    loop {
        let mut todo = logs.chores.wait();
        let (tidy, stopping) = (todo.tidy, todo.stopping);
        // Not at once: a disk that refused it will do so again.
        if tidy || stopping {
            todo.append(std::mem::take(&mut failed));
        }
        failed.append(clear(logs, todo, &mut leftovers));
        if stopping {
            return;
        }
        if tidy {
            logs.expire();
            logs.ledger.sweep();
            logs.journal.probe();
            if let Err(error) = archive_finished(logs, &mut leftovers) {
                tracing::warn!(%error, "finished logs cannot be archived; they stay in the journal for now");
            }
            collect(logs, &mut leftovers);
            if logs.journal.finished_unsynced() > 0 {
                let _told_by_health = logs.journal.sync();
            }
        }
    }
}

/// Takes away what was removed; returns what could not be.
fn clear(logs: &Logs, todo: Todo, leftovers: &mut Leftovers) -> Todo {
    let mut failed = Todo::default();
    let mut erase = todo.erase;
    for log in todo.remove {
        erase.extend(leftovers.0.remove(&log).map(|(_, places)| (log, places)));
        let marked = {
            let _books = lock(&logs.books);
            logs.archives.mark(log)
        };
        if let Err(error) = marked.and_then(|()| logs.archives.erase(log)) {
            complain(&error);
            failed.remove.push(log);
        }
    }
    for archive in todo.unlink {
        let dead: Vec<LogId> = leftovers
            .0
            .iter()
            .filter(|(_, (number, _))| *number == archive.number)
            .map(|(log, _)| *log)
            .collect();
        for log in dead {
            erase.extend(leftovers.0.remove(&log).map(|(_, places)| (log, places)));
        }
        if let Err(error) = logs.archives.unlink(&archive) {
            complain(&error);
            failed.unlink.push(archive);
        }
    }
    for (log, places) in erase {
        if let Err(error) = logs.journal.erase(log, &places) {
            complain(&error);
            failed.erase.push((log, places));
        }
    }
    failed
}

fn complain(error: &io::Error) {
    tracing::warn!(%error, "what was removed cannot be taken off the disk yet");
}

/// Moves finished logs into an archive, once there are enough for one.
fn archive_finished(logs: &Logs, leftovers: &mut Leftovers) -> io::Result<()> {
    if logs.finished.load(Relaxed) < logs.options.archive_bytes {
        return Ok(());
    }
    // Settled: the place of its ending must be known, to be overwritten one day.
    let settled = |entry: &&Arc<Entry>| {
        let kept = entry.kept();
        kept.sealed_ms.is_some() && !kept.busy && !kept.gone
    };
    let mut finished: Vec<Arc<Entry>> = lock(&logs.live).values().filter(settled).cloned().collect();
    if finished.is_empty() {
        return Ok(());
    }
    finished.sort_unstable_by_key(|entry| entry.id);
    let made = finished.iter().map(|entry| {
        let kept = entry.kept();
        Finished {
            log: entry.id,
            owner: owner_hash(&entry.meta.owner),
            weight: entry.weight(&kept),
            sealed_ms: kept.sealed_ms.unwrap_or(0),
            frame: entry.state(&kept),
        }
    });
    let read_at = finished.iter().map(|entry| entry.read_at.load(Relaxed)).max();
    let archive = logs.archives.write(made, read_at.unwrap_or(0))?;
    let told = shelve(logs, finished, &archive, leftovers);
    // Without it, the next start asks the archive.
    let _not_needed = logs.journal.write_now(&told);
    Ok(())
}

/// Has an archive in place of what it was made of. Returns frames that say so.
fn shelve(
    logs: &Logs,
    finished: Vec<Arc<Entry>>,
    archive: &Arc<Archive>,
    leftovers: &mut Leftovers,
) -> Vec<u8> {
    let _books = lock(&logs.books);
    logs.archives.insert(archive.clone());
    let mut told = Vec::new();
    for entry in finished {
        // First into the cache, then out of the map: a reader always finds it in one of them. And before it is its
        // archive's: whoever removes it from there looks into the cache, too.
        logs.hot.insert(entry.id, entry.clone());
        let mut kept = entry.kept();
        if kept.gone {
            // Removed while its archive was written.
            drop(kept);
            logs.hot.invalidate(&entry.id);
            if let Ok(Lookup::Entry(_, found)) = archive.find(entry.id)
                && logs.archives.hide(archive, &found, 0)
            {
                logs.chores.remove(entry.id);
            }
            continue;
        }
        kept.archive = Some(archive.clone());
        leftovers.add(entry.id, archive.number, std::mem::take(&mut kept.places));
        logs.finished.fetch_sub(entry.weight(&kept), Relaxed);
        drop(kept);
        told.extend(record::archived(entry.id));
        lock(&logs.live).remove(&entry.id);
    }
    told
}

/// Deletes the oldest segments, what is still needed of them written anew: as far as nothing is, or as the journal is more
/// than twice what it has to say. What is written anew goes into later segments, so that this comes to an end.
fn collect(logs: &Arc<Logs>, leftovers: &mut Leftovers) {
    // Listed before the logs and removals are: what is not among those yet is written to the last of these or later.
    let mut segments = logs.journal.segments();
    let mut left: u64 = segments.iter().map(|(_, bytes)| bytes).sum();
    segments.pop();
    // What is still there of a removed log must not come back.
    let told = logs.archives.needs();
    segments.retain(|(number, _)| *number < told);
    if segments.is_empty() {
        return;
    }
    let mut live: Vec<(u32, Arc<Entry>)> = Vec::new();
    let claimed = claims(logs).len() as u64;
    let mut useful = claimed + logs.options.segment_bytes;
    for entry in lock(&logs.live).values() {
        let kept = entry.kept();
        useful += kept.bytes.min(entry.weight(&kept));
        live.push((kept.needs, entry.clone()));
    }
    let first_needed = live.iter().map(|(needs, _)| *needs).min().unwrap_or(u32::MAX);
    let (mut freed, mut goes) = (0, Vec::new());
    for (number, bytes) in segments {
        if number >= first_needed && left <= 2 * useful {
            break;
        }
        (freed, left) = (freed + bytes, left - bytes);
        goes.push(number);
    }
    let Some(last) = goes.last() else { return };
    // The claims are written anew each time: not for less than they take.
    if freed < 2 * claimed && left + freed <= 2 * useful {
        return;
    }
    let anew = live.iter().filter(|(needs, _)| needs <= last).all(|(_, entry)| restate(logs, entry));
    if !anew || restate_claims(logs).is_err() || logs.journal.sync().is_err() {
        return;
    }
    let mut unlinked = 0;
    for number in goes {
        if let Err(error) = logs.journal.unlink(number) {
            tracing::warn!(%error, "a segment of the journal cannot be deleted");
            break;
        }
        unlinked = number;
    }
    leftovers.forget_segments(unlinked);
    for entry in lock(&logs.live).values() {
        entry.kept().places.retain(|place| place.segment > unlinked);
    }
}

/// Writes a log whole. False if that has to wait.
fn restate(logs: &Arc<Logs>, entry: &Arc<Entry>) -> bool {
    let frames = {
        let mut kept = entry.kept();
        if kept.gone || kept.busy {
            return kept.gone;
        }
        kept.busy = true;
        entry.state(&kept)
    };
    let written = logs.journal.write_now(&frames).ok();
    if let Some(place) = written {
        let mut kept = entry.kept();
        (kept.needs, kept.bytes) = (place.segment, 0);
    }
    logs.settled(entry, frames.len() as u64, written);
    written.is_some()
}

/// A frame for each claim.
fn claims(logs: &Logs) -> Vec<u8> {
    let now = now_ms();
    let claims = logs.coordination.claims();
    claims.iter().flat_map(|(key, value, left)| record::claim(key, value, until(now, *left))).collect()
}

/// While nobody claims or releases: a key that is released meanwhile must not be told after that.
fn restate_claims(logs: &Logs) -> Result<(), Error> {
    let _still = lock(&logs.claiming);
    let frames = claims(logs);
    if frames.is_empty() { Ok(()) } else { logs.journal.write_now(&frames).map(drop) }
}

/// When a time to live is over, in milliseconds since the Unix epoch.
pub fn until(now_ms: u64, left: std::time::Duration) -> u64 {
    now_ms.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
}

impl Logs {
    /// Drops what is over its time, and what is beyond the bytes that finished logs may take.
    fn expire(self: &Arc<Self>) {
        let over = |entry: &&Arc<Entry>| self.expired(entry.kept().sealed_ms);
        let old: Vec<Arc<Entry>> = lock(&self.live).values().filter(over).cloned().collect();
        for entry in old {
            self.forget(&entry);
        }
        for archive in self.archives.all() {
            let empty = archive.weight.load(Relaxed) == 0;
            if empty || self.expired(Some(archive.newest_ms)) {
                self.drop_archive(archive.number);
            }
        }
        let limit = self.options.retain_bytes;
        let beyond = || self.finished.load(Relaxed) + self.archives.weight() > limit;
        if limit > 0 && beyond() {
            self.drop_finished(None, &beyond);
        }
    }

    /// Drops finished logs, of one owner or of all, the least recently read first, until `over` is content; false if it
    /// never is. Of archives, the whole file goes, or all that the owner has in it.
    pub fn drop_finished(self: &Arc<Self>, owner: Option<&Entry>, over: &dyn Fn() -> bool) -> bool {
        enum Part {
            Log(Arc<Entry>),
            Archive(Arc<Archive>),
        }
        let own = |entry: &Entry| owner.is_none_or(|owner| Arc::ptr_eq(&owner.account, &entry.account));
        let mut found: Vec<(u64, Part)> = Vec::new();
        for entry in lock(&self.live).values() {
            if own(entry) && entry.kept().sealed_ms.is_some() {
                found.push((entry.read_at.load(Relaxed), Part::Log(entry.clone())));
            }
        }
        for archive in self.archives.all() {
            found.push((archive.read_at.load(Relaxed), Part::Archive(archive)));
        }
        // Stable: archives of which nothing was read yet go the oldest first.
        found.sort_by_key(|(read_at, _)| *read_at);
        for (_, part) in found {
            match (part, owner) {
                (Part::Log(entry), _) => drop(self.forget(&entry)),
                (Part::Archive(archive), None) => self.drop_archive(archive.number),
                (Part::Archive(archive), Some(owner)) => self.drop_owned(&archive, &owner.meta.owner),
            }
            if !over() {
                return true;
            }
        }
        !over()
    }

    fn drop_archive(&self, number: u32) {
        let _books = lock(&self.books);
        let Some(archive) = self.archives.take(number) else { return };
        if self.options.user_bytes > 0 {
            for (owner, owned) in self.archives.owners(&archive) {
                self.ledger.give_back(owner, owned);
            }
        }
        self.ledger.total.fetch_sub(archive.weight.load(Relaxed), Relaxed);
        for (log, entry) in &self.hot {
            if entry.kept().archive.as_ref().is_some_and(|archive| archive.number == number) {
                self.hot.invalidate(&*log);
            }
        }
        self.chores.unlink(archive);
    }

    fn drop_owned(&self, archive: &Archive, owner: &str) {
        let _books = lock(&self.books);
        let hash = owner_hash(owner);
        if archive.owned(hash).unwrap_or(0) == 0 {
            return;
        }
        for entry in archive.index().unwrap_or_default().into_iter().flatten() {
            if entry.owner == hash && !entry.removed {
                // No frame says so: after a crash they are there again, and the first to go.
                self.hide(archive, &entry, u32::MAX);
                self.chores.remove(entry.log);
            }
        }
    }
}
