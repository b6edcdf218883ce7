//! What the journal says, read once at the start: its length bounds the time it takes, whatever is archived.
//!
//! The torn tail that a crash leaves is cut off and told. A flaw in the middle makes the log it belongs to `damaged`; if
//! the flaw hides whose it was, a log that has a gap is, and one that lost its end is an orphan at an earlier place, which
//! goes on under the next epoch: positions beyond get a reset, never other text.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::files::Directory;
use super::frame::{Found, Frames, HEAD, Head, Kind};
use super::journal::{Place, segment_name};
use super::record::{self, Appended, Claimed, Created, State};
use crate::log::{Batch, Log, LogId};
use crate::store::Meta;

/// A log as the journal tells it.
pub struct Told {
    pub created: Created,
    pub log: Log,
    pub sealed_ms: Option<u64>,
    pub damaged: bool,
    pub places: Vec<Place>,
    pub needs: u32,
    pub bytes: u64,
}

#[derive(Default)]
pub struct Recovered {
    pub logs: HashMap<LogId, Told>,
    pub segments: BTreeMap<u32, u64>,
    /// By key.
    pub claims: HashMap<String, Claimed>,
    /// Frames of removed logs, and of archived ones.
    pub removed: Vec<(LogId, Vec<Place>)>,
    pub archived: Vec<(LogId, Vec<Place>)>,
    /// Flawed frames.
    pub flaws: usize,
    /// Of these, those that do not tell whose they were.
    nameless: usize,
    /// Bytes that were cut off at the end.
    pub torn: u64,
}

/// Reads the journal; with `mend`, cuts off its torn tail.
pub fn read(directory: &Arc<Directory>, mend: bool) -> io::Result<Recovered> {
    let mut recovered = Recovered::default();
    let numbers: Vec<u32> = directory.list("journal")?.iter().filter_map(|name| name.parse().ok()).collect();
    for number in &numbers {
        let name = segment_name(*number);
        let bytes = directory.read(&name)?;
        let mut length = bytes.len();
        for found in Frames::new(&bytes) {
            match found {
                Found::Frame { at, head, body } => recovered.apply(*number, at, head, body),
                Found::Damaged { at, head, .. } => recovered.flaw(*number, at, head),
                Found::Torn { at, .. } if Some(number) == numbers.last() => {
                    recovered.torn = (length - at) as u64;
                    length = at;
                    if mend {
                        directory.file(&name)?.truncate(at as u64)?;
                    }
                }
                Found::Torn { at, head } => recovered.flaw(*number, at, head),
            }
        }
        recovered.segments.insert(*number, length as u64);
    }
    Ok(recovered)
}

impl Recovered {
    fn apply(&mut self, segment: u32, at: usize, head: Head, body: &[u8]) {
        let place = Place { segment, offset: u32::try_from(at).unwrap_or(u32::MAX) };
        let read = match head.kind {
            Kind::Erased => Some(()),
            Kind::Create => Created::read(Bytes::copy_from_slice(body)).map(|created| {
                self.logs.insert(head.log, Told::new(created, place));
            }),
            Kind::Append => self.append(head.log, place, body),
            Kind::State => State::read(Bytes::copy_from_slice(body)).map(|state| {
                let mut told = Told::stated(state, place);
                if let Some(before) = self.logs.remove(&head.log) {
                    told.places = before.places;
                }
                self.logs.insert(head.log, told);
            }),
            Kind::Claim => Claimed::read(Bytes::copy_from_slice(body)).map(|claimed| {
                self.claims.insert(claimed.key.clone(), claimed);
            }),
            Kind::Release => record::released(Bytes::copy_from_slice(body)).map(|key| {
                self.claims.remove(&key);
            }),
            Kind::Remove | Kind::Archived => {
                self.taken(head);
                Some(())
            }
        };
        if read.is_none() {
            return self.flaw(segment, at, Some(head));
        }
        if let Kind::Create | Kind::Append | Kind::State = head.kind
            && let Some(told) = self.logs.get_mut(&head.log)
        {
            told.places.push(place);
            told.bytes += (HEAD + body.len()) as u64;
        }
    }

    fn append(&mut self, log: LogId, place: Place, body: &[u8]) -> Option<()> {
        let appended = Appended::read(Bytes::copy_from_slice(body))?;
        match self.logs.get_mut(&log) {
            Some(told) => told.append(appended),
            // Its beginning may be what was lost. Otherwise it went with an older segment: the log is told anew, or
            // gone, further on.
            None if self.nameless > 0 => drop(self.logs.insert(log, Told::damaged(place))),
            None => {}
        }
        Some(())
    }

    /// A log's frames are not needed any more.
    fn taken(&mut self, head: Head) {
        let places = self.logs.remove(&head.log).map_or_else(Vec::new, |told| told.places);
        let taken = if head.kind == Kind::Remove { &mut self.removed } else { &mut self.archived };
        taken.push((head.log, places));
    }

    fn flaw(&mut self, segment: u32, at: usize, head: Option<Head>) {
        self.flaws += 1;
        let place = Place { segment, offset: u32::try_from(at).unwrap_or(u32::MAX) };
        match head {
            Some(head) if matches!(head.kind, Kind::Create | Kind::Append | Kind::State) => {
                let told = self.logs.entry(head.log).or_insert_with(|| Told::damaged(place));
                told.damaged = true;
                told.places.push(place);
            }
            // These say all in their heads.
            Some(head) if matches!(head.kind, Kind::Remove | Kind::Archived) => self.taken(head),
            Some(_) => {}
            None => self.nameless += 1,
        }
    }
}

impl Told {
    fn new(created: Created, place: Place) -> Told {
        Told {
            created,
            log: Log::default(),
            sealed_ms: None,
            damaged: false,
            places: Vec::new(),
            needs: place.segment,
            bytes: 0,
        }
    }

    fn damaged(place: Place) -> Told {
        let created = Created { meta: Meta::default(), plan: Bytes::new() };
        Told { damaged: true, ..Told::new(created, place) }
    }

    fn stated(state: State, place: Place) -> Told {
        let (sealed_ms, damaged) = (state.sealed_ms, state.damaged);
        let (created, log) = state.restored();
        Told { log, sealed_ms, damaged, ..Told::new(created, place) }
    }

    /// As one frame would tell it.
    pub fn state(&self) -> State {
        State::of(self.created.clone(), &self.log, self.sealed_ms, self.damaged)
    }

    fn append(&mut self, appended: Appended) {
        let Appended { expected, epoch, drafts, sealed_ms } = appended;
        let batch = Batch { expected, epoch, drafts, seal: sealed_ms.is_some() };
        if self.log.append(batch).is_err() {
            // Something between is missing.
            self.damaged = true;
        }
        if let Some(limit) = self.created.meta.trim_bytes {
            self.log.trim(limit);
        }
        if sealed_ms.is_some() {
            self.sealed_ms = sealed_ms;
            self.created.plan = Bytes::new();
        }
    }
}
