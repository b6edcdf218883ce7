//! All archives: which one holds a log, what they weigh, which one goes.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::archive::{self, Archive, Finished, Lookup};
use super::files::Directory;
use super::record::State;
use crate::log::LogId;
use crate::store::ledger::owner_hash;
use crate::store::{Error, lock};

pub struct Archives {
    directory: Arc<Directory>,
    /// By number, so the oldest first.
    all: RwLock<BTreeMap<u32, Arc<Archive>>>,
    /// Forgotten already, but still to be marked and overwritten on the disk.
    removing: Mutex<HashMap<LogId, archive::Entry>>,
    /// The number of the next; none is given twice.
    next: AtomicU32,
}

impl Archives {
    /// Reads what is there: a footer for each file, whatever it holds.
    pub fn open(directory: &Arc<Directory>) -> io::Result<Archives> {
        let mut all = BTreeMap::new();
        for file in directory.list("archive")? {
            let Ok(number) = file.parse::<u32>() else {
                // Left by a crash before it got its name.
                directory.remove(&format!("archive/{file}"))?;
                continue;
            };
            let archive = match Archive::open(directory, number)? {
                Some(archive) => archive,
                None => {
                    let (archive, damaged) = Archive::rebuild(directory, number)?;
                    tracing::warn!(file, damaged, "an archive's index was damaged; made anew from its logs");
                    archive
                }
            };
            all.insert(number, Arc::new(archive));
        }
        let next = all.last_key_value().map_or(1, |(number, _)| number + 1).into();
        Ok(Archives { directory: directory.clone(), all: RwLock::new(all), removing: Mutex::default(), next })
    }

    pub fn all(&self) -> Vec<Arc<Archive>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Whether it is worth asking the disk.
    pub fn may_hold(&self, log: LogId) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.values().any(|archive| archive.may_hold(log)) && !lock(&self.removing).contains_key(&log)
    }

    /// The archive that holds a log, and where. The youngest first: it is asked for most.
    pub fn find(&self, log: LogId) -> Result<Option<(Arc<Archive>, archive::Entry)>, Error> {
        let mut damaged = false;
        for archive in self.all().into_iter().rev().filter(|archive| archive.may_hold(log)) {
            match archive.find(log) {
                Ok(Lookup::Entry(_, entry)) => {
                    return Ok(Some((archive, entry)).filter(|_| !lock(&self.removing).contains_key(&log)));
                }
                Ok(Lookup::Damaged) => damaged = true,
                Ok(Lookup::Absent | Lookup::Removed(_)) => {}
                // Unlinked under us.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(unreadable(&error)),
            }
        }
        if damaged { Err(Error::Damaged) } else { Ok(None) }
    }

    /// A log as it is kept, and its archive.
    pub fn read(&self, log: LogId) -> Result<Option<(State, Arc<Archive>)>, Error> {
        let Some((archive, entry)) = self.find(log)? else { return Ok(None) };
        match archive.read(&entry) {
            Ok(Some(state)) => Ok(Some((state, archive))),
            Ok(None) => Err(Error::Damaged),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(&error)),
        }
    }

    /// Makes one of these logs, of which one was last read at `read_at`.
    pub fn add(&self, logs: impl Iterator<Item = Finished>, read_at: u64) -> io::Result<Arc<Archive>> {
        let number = self.next.fetch_add(1, Relaxed);
        let archive = Arc::new(archive::write(&self.directory, number, logs)?);
        archive.read_at.store(read_at, Relaxed);
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(archive.number, archive.clone());
        Ok(archive)
    }

    /// What an owner's logs weigh in all archives together.
    pub fn owned(&self, owner: &str) -> u64 {
        let (hash, all) = (owner_hash(owner), self.all());
        let written: u64 = all.iter().filter_map(|archive| archive.owned(hash).ok()).sum();
        let removing = lock(&self.removing);
        let hidden: u64 =
            removing.values().filter(|entry| entry.owner == hash).map(|entry| entry.weight).sum();
        written.saturating_sub(hidden)
    }

    /// What is kept of an archive, by the hash of its owner.
    pub fn owners(&self, archive: &Archive) -> HashMap<u64, u64> {
        let mut owners = HashMap::new();
        let removing = lock(&self.removing);
        for entry in archive.index().unwrap_or_default().into_iter().flatten() {
            if !entry.removed && !removing.contains_key(&entry.log) {
                *owners.entry(entry.owner).or_default() += entry.weight;
            }
        }
        owners
    }

    /// Nobody finds it from now on; false if so already. To be followed by [`Archives::remove`].
    pub fn hide(&self, archive: &Archive, entry: &archive::Entry) -> bool {
        let hidden = lock(&self.removing).insert(entry.log, *entry).is_none();
        if hidden {
            archive.weight.fetch_sub(entry.weight, Relaxed);
        }
        hidden
    }

    /// Marks and overwrites a log that was hidden. By one thread at a time.
    pub fn remove(&self, log: LogId) -> io::Result<()> {
        for archive in self.all().into_iter().filter(|archive| archive.may_hold(log)) {
            match archive.remove(log) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        lock(&self.removing).remove(&log);
        Ok(())
    }

    /// Takes an archive out, to be unlinked by the caller. None if another was first.
    pub fn take(&self, number: u32) -> Option<Arc<Archive>> {
        self.all.write().unwrap_or_else(PoisonError::into_inner).remove(&number)
    }

    pub fn weight(&self) -> u64 {
        self.all().iter().map(|archive| archive.weight.load(Relaxed)).sum()
    }
}

fn unreadable(error: &io::Error) -> Error {
    tracing::error!(%error, "an archive cannot be read");
    Error::Unavailable(format!("a read failed: {error}"))
}
