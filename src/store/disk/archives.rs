//! All archives: which one holds a log, what they weigh, which one goes.

use std::collections::hash_map::Entry;
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
    removing: Mutex<HashMap<LogId, Removal>>,
    /// The number of the next; none is given twice.
    next: AtomicU32,
}

struct Removal {
    archive: u32,
    entry: archive::Entry,
    /// The first segment of the journal that can say so.
    needs: u32,
    /// The archive says so, and what it says of weights is without this log.
    marked: bool,
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
        all.values().any(|archive| archive.may_hold(log))
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

    /// Makes one of these logs, of which one was last read at `read_at`. Nobody finds it before [`Archives::insert`].
    pub fn write(&self, logs: impl Iterator<Item = Finished>, read_at: u64) -> io::Result<Arc<Archive>> {
        let number = self.next.fetch_add(1, Relaxed);
        let archive = archive::write(&self.directory, number, logs)?;
        archive.read_at.store(read_at, Relaxed);
        Ok(Arc::new(archive))
    }

    pub fn insert(&self, archive: Arc<Archive>) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).insert(archive.number, archive);
    }

    /// What an owner's logs weigh in all archives together.
    pub fn owned(&self, owner: &str) -> u64 {
        let hash = owner_hash(owner);
        let mut hidden = HashMap::<u32, u64>::new();
        for removal in lock(&self.removing).values() {
            if removal.entry.owner == hash && !removal.marked {
                *hidden.entry(removal.archive).or_default() += removal.entry.weight;
            }
        }
        let left = |archive: Arc<Archive>| {
            let hidden = hidden.get(&archive.number).copied().unwrap_or(0);
            archive.owned(hash).unwrap_or(0).saturating_sub(hidden)
        };
        self.all().into_iter().map(left).sum()
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

    /// Nobody finds it from now on; false if so already, or if its archive was taken out. To be followed by
    /// [`Archives::mark`] and [`Archives::erase`]. What the journal says of it from segment `needs` on must stay until then.
    pub fn hide(&self, archive: &Archive, entry: &archive::Entry, needs: u32) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let mut removing = lock(&self.removing);
        if !all.contains_key(&archive.number) {
            return false;
        }
        let Entry::Vacant(place) = removing.entry(entry.log) else { return false };
        place.insert(Removal { archive: archive.number, entry: *entry, needs, marked: false });
        archive.weight.fetch_sub(entry.weight, Relaxed);
        true
    }

    /// Whether a log is hidden; if so, it needs the journal from this segment on, too.
    pub fn hidden(&self, log: LogId, needs: u32) -> bool {
        let mut removing = lock(&self.removing);
        let removal = removing.get_mut(&log).map(|removal| removal.needs = removal.needs.min(needs));
        removal.is_some()
    }

    /// The first segment of the journal that is needed to tell that logs are gone.
    pub fn needs(&self) -> u32 {
        lock(&self.removing).values().map(|removal| removal.needs).min().unwrap_or(u32::MAX)
    }

    /// Marks a log that was hidden. By one thread at a time.
    pub fn mark(&self, log: LogId) -> io::Result<()> {
        self.each_that_may_hold(log, |archive| archive.mark(log))?;
        if let Some(removal) = lock(&self.removing).get_mut(&log) {
            removal.marked = true;
        }
        Ok(())
    }

    /// Overwrites a log that was marked. By one thread at a time.
    pub fn erase(&self, log: LogId) -> io::Result<()> {
        self.each_that_may_hold(log, |archive| archive.erase(log))?;
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        // One that was taken out does not say so, and is still on the disk.
        if let Entry::Occupied(removal) = lock(&self.removing).entry(log)
            && all.contains_key(&removal.get().archive)
        {
            removal.remove();
        }
        Ok(())
    }

    /// Deletes an archive that was taken out.
    pub fn unlink(&self, archive: &Archive) -> io::Result<()> {
        archive.unlink()?;
        lock(&self.removing).retain(|_, removal| removal.archive != archive.number);
        Ok(())
    }

    fn each_that_may_hold(&self, log: LogId, change: impl Fn(&Archive) -> io::Result<()>) -> io::Result<()> {
        for archive in self.all().into_iter().filter(|archive| archive.may_hold(log)) {
            match change(&archive) {
                // Unlinked under us.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                changed => changed?,
            }
        }
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
