//! A data directory that no server uses: every log in it looked at, written anew, or brought in from elsewhere.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::archive::{self, Archive, Finished};
use super::files::{Directory, OpenError};
use super::journal::{Journal, Sync, segment_name};
use super::record::{self, Created, State};
use super::recovery::{self, Recovered};
use crate::log::LogId;
use crate::store::Meta;
use crate::store::ledger::owner_hash;

/// Written anew, archives hold so much, as the logs weigh in memory.
const ARCHIVE_BYTES: u64 = 64 << 20;
const SEGMENT_BYTES: u64 = 16 << 20;

/// A directory, locked.
pub struct Offline {
    directory: Arc<Directory>,
    recovered: Recovered,
    /// Files in the folder of archives; None for one whose index is damaged.
    archives: BTreeMap<u32, Option<Archive>>,
}

/// What is not as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flaws {
    /// Frames of the journal.
    pub journal: usize,
    /// Archives whose index is damaged, in whole or in part; their logs are read without it.
    pub archives: usize,
    /// Bytes at the journal's end that are no whole frame: a write that was interrupted. No flaw.
    pub torn: u64,
}

/// Where a log was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    Journal,
    Archive(u32),
}

impl Offline {
    pub fn open(path: &Path) -> Result<Offline, OpenError> {
        Offline::of(Directory::existing(path)?)
    }

    /// For [`Offline::import`]: the directory is made if there is none.
    pub fn create(path: &Path) -> Result<Offline, OpenError> {
        Offline::of(Directory::open(path, None)?)
    }

    pub fn of(directory: Directory) -> Result<Offline, OpenError> {
        let directory = Arc::new(directory);
        let failed = |source| OpenError::Io { path: directory.path().to_owned(), source };
        let recovered = recovery::read(&directory, false).map_err(failed)?;
        let mut archives = BTreeMap::new();
        for file in directory.list("archive").map_err(failed)? {
            if let Ok(number) = file.parse() {
                archives.insert(number, Archive::open(&directory, number).map_err(failed)?);
            }
        }
        Ok(Offline { directory, recovered, archives })
    }

    pub fn flaws(&self) -> io::Result<Flaws> {
        let mut archives = 0;
        for archive in self.archives.values() {
            archives += usize::from(index(archive.as_ref())?.is_none());
        }
        Ok(Flaws { journal: self.recovered.flaws, archives, torn: self.recovered.torn })
    }

    /// Shows every log, each once: what is damaged has `damaged` set. Writes nothing.
    pub fn each<E: From<io::Error>>(
        &self,
        mut show: impl FnMut(LogId, Whereabouts, State) -> Result<(), E>,
    ) -> Result<(), E> {
        let removed: HashSet<LogId> = self.recovered.removed.iter().map(|(log, _)| *log).collect();
        let mut archived = HashSet::new();
        let mut first = |log: LogId| !removed.contains(&log) && archived.insert(log);
        for (number, archive) in &self.archives {
            let whereabouts = Whereabouts::Archive(*number);
            if let (Some(archive), Some(index)) = (archive, index(archive.as_ref())?) {
                for entry in index.iter().filter(|entry| !entry.removed) {
                    if first(entry.log) {
                        show(entry.log, whereabouts, archive.read(entry)?.unwrap_or_else(lost))?;
                    }
                }
                continue;
            }
            for (log, finished) in archive::salvage(&self.directory, *number)?.0 {
                if first(log) {
                    show(log, whereabouts, finished.state().unwrap_or_else(lost))?;
                }
            }
        }
        for (log, told) in self.recovered.logs.iter().filter(|(log, _)| !archived.contains(log)) {
            show(*log, Whereabouts::Journal, told.state())?;
        }
        Ok(())
    }

    /// Brings logs into a directory that has none.
    pub fn import<E: From<io::Error>>(
        &self,
        logs: impl Iterator<Item = Result<(LogId, State), E>>,
    ) -> Result<usize, E> {
        if !self.archives.is_empty() || !self.recovered.logs.is_empty() {
            return Err(io::Error::other("the directory holds logs already").into());
        }
        Anew::write_all(self, |anew| {
            for log in logs {
                let (log, state) = log?;
                anew.add(log, &state)?;
            }
            Ok(())
        })
    }

    /// Writes everything anew, without what was removed, replaced or trimmed; then deletes the old files. If it fails for
    /// want of room, all is as it was; what is cut short otherwise is swept up by doing it again.
    pub fn compact(&self) -> io::Result<usize> {
        let count = Anew::write_all(self, |anew| {
            self.each(|log, _, state| anew.add(log, &state))?;
            for claimed in self.recovered.claims.values() {
                anew.write(&record::claim(&claimed.key, &claimed.value, claimed.until_ms))?;
            }
            Ok::<_, io::Error>(())
        })?;
        // The journal last: it says of what is still in an archive that it was removed.
        for number in self.archives.keys() {
            self.directory.remove(&archive::name(*number))?;
        }
        for number in self.recovered.segments.keys() {
            self.directory.remove(&segment_name(*number))?;
        }
        Ok(count)
    }
}

/// The index of an archive, if all of it is sound: an entry that is damaged names no log.
fn index(archive: Option<&Archive>) -> io::Result<Option<Vec<archive::Entry>>> {
    archive.map_or(Ok(None), |archive| Ok(archive.index()?.into_iter().collect()))
}

/// What stands for a log that cannot be read back.
fn lost() -> State {
    let created = Created { meta: Meta::default(), plan: bytes::Bytes::new() };
    State {
        created,
        trimmed: crate::log::Position::START,
        epochs: Vec::new(),
        drafts: Vec::new(),
        // Of unknown age: it is kept for a whole window from now, to say that it is damaged.
        sealed_ms: Some(super::now_ms()),
        damaged: true,
    }
}

/// New files beside the old ones.
struct Anew {
    directory: Arc<Directory>,
    journal: Journal,
    finished: BTreeMap<LogId, Finished>,
    weight: u64,
    count: usize,
    /// The numbers of the archives that are made.
    archives: Range<u32>,
}

impl Anew {
    /// Writes what `write` adds, and returns how many logs that are. What fails leaves nothing behind.
    fn write_all<E: From<io::Error>>(
        old: &Offline,
        write: impl FnOnce(&mut Anew) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut anew = Anew::begin(old)?;
        let written = write(&mut anew).and_then(|()| Ok(anew.end()?));
        if written.is_err() {
            anew.undo();
        }
        written.map(|()| anew.count)
    }

    fn begin(old: &Offline) -> io::Result<Anew> {
        let segment = old.recovered.segments.keys().next_back().map_or(1, |number| number + 1);
        old.directory.create(&segment_name(segment))?;
        let segments = BTreeMap::from([(segment, 0)]);
        let first = old.archives.keys().next_back().map_or(1, |number| number + 1);
        Ok(Anew {
            directory: old.directory.clone(),
            journal: Journal::open(old.directory.clone(), Sync::Os, SEGMENT_BYTES, segments)?,
            finished: BTreeMap::new(),
            weight: 0,
            count: 0,
            archives: first..first,
        })
    }

    fn add(&mut self, log: LogId, state: &State) -> io::Result<()> {
        self.count += 1;
        let frame = state.frame(log);
        let Some(sealed_ms) = state.sealed_ms else { return self.write(&frame) };
        let owner = owner_hash(&state.created.meta.owner);
        let weight = archive::weight(state.clone());
        self.finished.insert(log, Finished { log, owner, weight, sealed_ms, frame });
        self.weight += weight;
        if self.weight >= ARCHIVE_BYTES { self.archive() } else { Ok(()) }
    }

    fn archive(&mut self) -> io::Result<()> {
        let finished = std::mem::take(&mut self.finished);
        self.weight = 0;
        if !finished.is_empty() {
            archive::write(&self.directory, self.archives.end, finished.into_values())?;
            self.archives.end += 1;
        }
        Ok(())
    }

    fn write(&self, frames: &[u8]) -> io::Result<()> {
        self.journal.write_now(frames).map(drop).map_err(|error| io::Error::other(error.to_string()))
    }

    fn end(&mut self) -> io::Result<()> {
        self.archive()?;
        self.journal.sync().map_err(|error| io::Error::other(error.to_string()))
    }

    fn undo(&self) {
        let archives = self.archives.clone().map(archive::name);
        let segments = self.journal.segments().into_iter().map(|(number, _)| segment_name(number));
        for name in archives.chain(segments) {
            let _swept_up_by_the_next_one = self.directory.remove(&name);
        }
    }
}
