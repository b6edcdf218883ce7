//! A data directory that no server uses: every log in it looked at, written anew, or brought in from elsewhere.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::archive::{self, Archive, Finished};
use super::files::{Directory, OpenError};
use super::journal::{Journal, Sync};
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
    /// Archives whose index is damaged; it is made anew at the next start.
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

    fn of(directory: Directory) -> Result<Offline, OpenError> {
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

    pub fn flaws(&self) -> Flaws {
        Flaws {
            journal: self.recovered.flaws,
            archives: self.archives.values().filter(|archive| archive.is_none()).count(),
            torn: self.recovered.torn,
        }
    }

    /// Shows every log, each once: what is damaged has `damaged` set.
    pub fn each<E: From<io::Error>>(
        &self,
        mut show: impl FnMut(LogId, Whereabouts, State) -> Result<(), E>,
    ) -> Result<(), E> {
        let removed: HashSet<LogId> = self.recovered.removed.iter().map(|(log, _)| *log).collect();
        let mut archived = HashSet::new();
        for (number, archive) in &self.archives {
            let rebuilt;
            let archive = match archive {
                Some(archive) => archive,
                None => {
                    rebuilt = Archive::rebuild(&self.directory, *number)?.0;
                    &rebuilt
                }
            };
            // An entry that is damaged itself names no log.
            for entry in archive.index()?.into_iter().flatten() {
                let was_removed = entry.removed || removed.contains(&entry.log);
                if !was_removed && archived.insert(entry.log) {
                    let state = archive.read(&entry)?.unwrap_or_else(lost);
                    show(entry.log, Whereabouts::Archive(*number), state)?;
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
        let mut anew = Anew::begin(self)?;
        let mut count = 0;
        for log in logs {
            let (log, state) = log?;
            anew.add(log, &state)?;
            count += 1;
        }
        anew.end()?;
        Ok(count)
    }

    /// Writes everything anew, without what was removed, replaced or trimmed; then deletes the old files. What is cut short
    /// leaves the old files, and is swept up by doing it again.
    pub fn compact(&self) -> io::Result<usize> {
        let mut anew = Anew::begin(self)?;
        let mut count = 0;
        self.each(|log, _, state| {
            count += 1;
            anew.add(log, &state)
        })?;
        for claimed in self.recovered.claims.values() {
            anew.write(&record::claim(&claimed.key, &claimed.value, claimed.until_ms))?;
        }
        anew.end()?;
        for number in self.recovered.segments.keys() {
            self.directory.remove(&super::journal::segment_name(*number))?;
        }
        for number in self.archives.keys() {
            self.directory.remove(&archive::name(*number))?;
        }
        Ok(count)
    }
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
    next: u32,
}

impl Anew {
    fn begin(old: &Offline) -> io::Result<Anew> {
        let segment = old.recovered.segments.keys().next_back().map_or(1, |number| number + 1);
        old.directory.create(&super::journal::segment_name(segment))?;
        let segments = BTreeMap::from([(segment, 0)]);
        Ok(Anew {
            directory: old.directory.clone(),
            journal: Journal::open(old.directory.clone(), Sync::Os, SEGMENT_BYTES, segments)?,
            finished: BTreeMap::new(),
            weight: 0,
            next: old.archives.keys().next_back().map_or(1, |number| number + 1),
        })
    }

    fn add(&mut self, log: LogId, state: &State) -> io::Result<()> {
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
            archive::write(&self.directory, self.next, finished.into_values())?;
            self.next += 1;
        }
        Ok(())
    }

    fn write(&self, frames: &[u8]) -> io::Result<()> {
        self.journal.write_now(frames).map(drop).map_err(|error| io::Error::other(error.to_string()))
    }

    fn end(mut self) -> io::Result<()> {
        self.archive()?;
        self.journal.sync().map_err(|error| io::Error::other(error.to_string()))
    }
}
