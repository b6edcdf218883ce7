//! Finished logs: files that are written once, each with many logs, whole and contiguous, and an index at its end.
//!
//! ```text
//! State frame ... State frame · owners: (owner 8, weight 8) ... · entries of 64, in order of their logs · footer of 96
//! ```
//!
//! In memory an archive costs its name and a few numbers, whatever it holds: a log is found by binary search on the disk.
//! Removing a log marks its entry, takes its weight off, and overwrites its frame; the file is unlinked when nothing in
//! it is kept any more. An index that is damaged is not trusted: then the frames themselves are asked.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;

use super::files::{Directory, File};
use super::frame::{self, Found, Frames, HEAD, Kind};
use super::record::State;
use crate::log::LogId;
use crate::store::ledger::owner_hash;

const ENTRY: usize = 64;
const OWNED: usize = 16;
const FOOTER: usize = 96;
const MAGIC: u64 = u64::from_le_bytes(*b"rsarchv1");
/// Where an entry says that its log was removed: behind its checksum.
const REMOVED_AT: usize = 60;

/// One finished log, to be written.
pub struct Finished {
    pub log: LogId,
    /// The hash of its owner's name.
    pub owner: u64,
    pub weight: u64,
    pub sealed_ms: u64,
    /// A `State` frame.
    pub frame: Vec<u8>,
}

impl Finished {
    /// What its frame says.
    pub fn state(&self) -> Option<State> {
        State::read(Bytes::copy_from_slice(&self.frame[HEAD..]))
    }
}

/// Where a log lies in its archive.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub log: LogId,
    offset: u64,
    /// Of the frame.
    length: u32,
    pub weight: u64,
    pub owner: u64,
    pub removed: bool,
}

pub struct Archive {
    pub number: u32,
    directory: Arc<Directory>,
    entries: u64,
    owners: u64,
    /// Where the owners begin; then come the entries.
    index_at: u64,
    first: LogId,
    last: LogId,
    /// When the youngest was sealed.
    pub newest_ms: u64,
    /// What is kept of it, removed logs taken off.
    pub weight: AtomicU64,
    /// The count of reads when one of its logs was last read.
    pub read_at: AtomicU64,
}

/// What a lookup found.
pub enum Lookup {
    Entry(u64, Entry),
    /// It was here; what is left of it may not be overwritten yet.
    Removed(Entry),
    Absent,
    /// Its entry may be one that cannot be read.
    Damaged,
}

pub fn name(number: u32) -> String {
    format!("archive/{number:010}")
}

/// Writes an archive of these logs, in order of their ids, and makes it last.
pub fn write(
    directory: &Arc<Directory>,
    number: u32,
    logs: impl Iterator<Item = Finished>,
) -> io::Result<Archive> {
    let partial = format!("{}.partial", name(number));
    let written = write_as(directory, number, &partial, logs);
    let named = written.and_then(|archive| {
        directory.rename(&partial, &name(number))?;
        directory.sync_names("archive")?;
        Ok(archive)
    });
    if named.is_err() {
        let _swept_at_the_next_start = directory.remove(&partial);
    }
    named
}

fn write_as(
    directory: &Arc<Directory>,
    number: u32,
    partial: &str,
    logs: impl Iterator<Item = Finished>,
) -> io::Result<Archive> {
    let file = directory.create(partial)?;
    let (mut at, mut index, mut owners) = (0, Vec::new(), BTreeMap::<u64, u64>::new());
    let (mut first, mut last, mut newest_ms, mut weight) = (LogId(u128::MAX), LogId(0), 0, 0);
    for log in logs {
        file.write_at(&log.frame, at)?;
        let length = u32::try_from(log.frame.len()).map_err(io::Error::other)?;
        index.extend_from_slice(&entry(&log, at, length));
        at += u64::from(length);
        *owners.entry(log.owner).or_default() += log.weight;
        weight += log.weight;
        (first, last) = (first.min(log.log), last.max(log.log));
        newest_ms = newest_ms.max(log.sealed_ms);
    }
    let archive = Archive {
        number,
        directory: directory.clone(),
        entries: (index.len() / ENTRY) as u64,
        owners: owners.len() as u64,
        index_at: at,
        first,
        last,
        newest_ms,
        weight: weight.into(),
        read_at: AtomicU64::new(0),
    };
    let mut end: Vec<u8> = owners
        .iter()
        .flat_map(|(owner, weight)| [owner.to_le_bytes(), weight.to_le_bytes()].concat())
        .collect();
    end.extend_from_slice(&index);
    end.extend_from_slice(&archive.footer());
    file.write_at(&end, at)?;
    file.sync()?;
    Ok(archive)
}

fn entry(log: &Finished, offset: u64, length: u32) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..16].copy_from_slice(&log.log.0.to_le_bytes());
    for (at, number) in
        [(16, offset), (24, length.into()), (32, log.weight), (40, log.sealed_ms), (48, log.owner)]
    {
        entry[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    let crc = crc32fast::hash(&entry[..56]);
    entry[56..60].copy_from_slice(&crc.to_le_bytes());
    entry
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("within a record of fixed size"))
}

fn long_number(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(*bytes[at..].first_chunk().expect("within a record of fixed size"))
}

impl Entry {
    fn parse(bytes: &[u8; ENTRY]) -> Option<Entry> {
        let sound = crc32fast::hash(&bytes[..56]).to_le_bytes() == bytes[56..60];
        sound.then(|| Entry {
            log: LogId(long_number(bytes, 0)),
            offset: number(bytes, 16),
            length: number(bytes, 24) as u32,
            weight: number(bytes, 32),
            owner: number(bytes, 48),
            removed: bytes[REMOVED_AT] != 0,
        })
    }
}

impl Archive {
    /// The last 96 bytes: eleven numbers and their checksum; in front of them the weight, which changes.
    fn footer(&self) -> [u8; FOOTER] {
        let mut footer = [0; FOOTER];
        let numbers = [MAGIC, self.entries, self.owners, self.index_at, self.newest_ms];
        footer[..8].copy_from_slice(&self.weight.load(Relaxed).to_le_bytes());
        for (n, number) in numbers.iter().enumerate() {
            footer[8 + 8 * n..][..8].copy_from_slice(&number.to_le_bytes());
        }
        footer[48..64].copy_from_slice(&self.first.0.to_le_bytes());
        footer[64..80].copy_from_slice(&self.last.0.to_le_bytes());
        let crc = u64::from(crc32fast::hash(&footer[8..88]));
        footer[88..].copy_from_slice(&crc.to_le_bytes());
        footer
    }

    /// Reads the footer; None if it is not one.
    pub fn open(directory: &Arc<Directory>, number_: u32) -> io::Result<Option<Archive>> {
        let file = directory.file(&name(number_))?;
        let length = file.length()?;
        let Some(at) = length.checked_sub(FOOTER as u64) else { return Ok(None) };
        let mut footer = [0; FOOTER];
        file.read_at(&mut footer, at)?;
        let sound =
            number(&footer, 8) == MAGIC && u64::from(crc32fast::hash(&footer[8..88])) == number(&footer, 88);
        let archive = Archive {
            number: number_,
            directory: directory.clone(),
            entries: number(&footer, 16),
            owners: number(&footer, 24),
            index_at: number(&footer, 32),
            newest_ms: number(&footer, 40),
            first: LogId(long_number(&footer, 48)),
            last: LogId(long_number(&footer, 64)),
            weight: number(&footer, 0).into(),
            read_at: AtomicU64::new(0),
        };
        let whole = sound && archive.footer_at() == at;
        Ok(whole.then_some(archive))
    }

    /// Writes an archive anew whose footer is damaged, from its frames. Returns how many of them were damaged, too.
    pub fn rebuild(directory: &Arc<Directory>, number: u32) -> io::Result<(Archive, usize)> {
        let (logs, damaged) = salvage(directory, number)?;
        Ok((write(directory, number, logs.into_values())?, damaged))
    }

    fn entries_at(&self) -> u64 {
        self.index_at + self.owners * OWNED as u64
    }

    fn footer_at(&self) -> u64 {
        self.entries_at() + self.entries * ENTRY as u64
    }

    pub fn may_hold(&self, log: LogId) -> bool {
        (self.first..=self.last).contains(&log)
    }

    fn file(&self) -> io::Result<File> {
        self.directory.file(&name(self.number))
    }

    pub fn find(&self, log: LogId) -> io::Result<Lookup> {
        if !self.may_hold(log) {
            return Ok(Lookup::Absent);
        }
        let file = self.file()?;
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low.midpoint(high);
            let Some(entry) = self.entry(&file, middle)? else { return self.search(log) };
            match entry.log.cmp(&log) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal if entry.removed => return Ok(Lookup::Removed(entry)),
                std::cmp::Ordering::Equal => return Ok(Lookup::Entry(middle, entry)),
            }
        }
        Ok(Lookup::Absent)
    }

    fn entry(&self, file: &File, at: u64) -> io::Result<Option<Entry>> {
        let mut bytes = [0; ENTRY];
        file.read_at(&mut bytes, self.entries_at() + at * ENTRY as u64)?;
        Ok(Entry::parse(&bytes))
    }

    /// Every entry, None for one that is damaged.
    pub fn index(&self) -> io::Result<Vec<Option<Entry>>> {
        let length = usize::try_from(self.entries).map_err(io::Error::other)? * ENTRY;
        let mut bytes = vec![0; length];
        self.file()?.read_at(&mut bytes, self.entries_at())?;
        Ok(bytes.as_chunks().0.iter().map(Entry::parse).collect())
    }

    /// Entry by entry, when one is damaged that a binary search needs.
    fn search(&self, log: LogId) -> io::Result<Lookup> {
        let index = self.index()?;
        let at = index.iter().position(|entry| entry.is_some_and(|entry| entry.log == log));
        Ok(match at.and_then(|at| Some((at, index[at]?))) {
            Some((_, entry)) if entry.removed => Lookup::Removed(entry),
            Some((at, entry)) => Lookup::Entry(at as u64, entry),
            None => Lookup::Damaged,
        })
    }

    /// The log that an entry points to; None if it is damaged.
    pub fn read(&self, entry: &Entry) -> io::Result<Option<State>> {
        let mut bytes = vec![0; entry.length as usize];
        self.file()?.read_at(&mut bytes, entry.offset)?;
        let whole = match Frames::new(&bytes).next() {
            Some(Found::Frame { head, body, .. }) if head.kind == Kind::State && head.log == entry.log => {
                HEAD + body.len() == bytes.len()
            }
            _ => false,
        };
        Ok(if whole { State::read(Bytes::from(bytes).slice(HEAD..)) } else { None })
    }

    /// What the logs of an owner weigh together.
    pub fn owned(&self, owner: u64) -> io::Result<u64> {
        Ok(self.owner(&self.file()?, owner)?.map_or(0, |(_, weight)| weight))
    }

    /// Where an owner's weight stands, and what it is.
    fn owner(&self, file: &File, owner: u64) -> io::Result<Option<(u64, u64)>> {
        let (mut low, mut high) = (0, self.owners);
        while low < high {
            let middle = low.midpoint(high);
            let (mut bytes, at) = ([0; OWNED], self.index_at + middle * OWNED as u64);
            file.read_at(&mut bytes, at)?;
            match number(&bytes, 0).cmp(&owner) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some((at + 8, number(&bytes, 8)))),
            }
        }
        Ok(None)
    }

    /// Marks a log as removed and takes its weight off. In this order: cut short, it is gone, and at worst the rest seems
    /// to weigh more than it does. By one thread at a time.
    pub fn mark(&self, log: LogId) -> io::Result<()> {
        let Lookup::Entry(at, entry) = self.find(log)? else { return Ok(()) };
        let file = self.file()?;
        file.write_at(&[1], self.entries_at() + at * ENTRY as u64 + REMOVED_AT as u64)?;
        let mut weight = [0; 8];
        file.read_at(&mut weight, self.footer_at())?;
        let left = u64::from_le_bytes(weight).saturating_sub(entry.weight);
        file.write_at(&left.to_le_bytes(), self.footer_at())?;
        if let Some((at, weight)) = self.owner(&file, entry.owner)? {
            file.write_at(&weight.saturating_sub(entry.weight).to_le_bytes(), at)?;
        }
        Ok(())
    }

    /// Overwrites a log that is marked. Doing it again ends what was cut short.
    pub fn erase(&self, log: LogId) -> io::Result<()> {
        let Lookup::Removed(entry) = self.find(log)? else { return Ok(()) };
        let file = self.file()?;
        file.write_at(&frame::erased(entry.length as usize - HEAD), entry.offset)?;
        file.sync()
    }

    pub fn unlink(&self) -> io::Result<()> {
        self.directory.remove(&name(self.number))
    }
}

/// Every log whose frame is whole, whatever the index says, and how many frames are not.
pub fn salvage(directory: &Directory, number: u32) -> io::Result<(BTreeMap<LogId, Finished>, usize)> {
    let bytes = directory.read(&name(number))?;
    let (mut logs, mut damaged) = (BTreeMap::new(), 0);
    for found in Frames::new(&bytes) {
        match found {
            Found::Frame { at, head, body } if head.kind == Kind::State => {
                let Some(state) = State::read(Bytes::copy_from_slice(body)) else {
                    damaged += 1;
                    continue;
                };
                let (owner, sealed_ms) =
                    (owner_hash(&state.created.meta.owner), state.sealed_ms.unwrap_or(0));
                let frame = bytes[at..at + HEAD + body.len()].to_vec();
                let weight = weight(state);
                logs.insert(head.log, Finished { log: head.log, owner, weight, sealed_ms, frame });
            }
            Found::Damaged { .. } => damaged += 1,
            // The index and the footer are no frames.
            Found::Frame { .. } | Found::Torn { .. } => {}
        }
    }
    Ok((logs, damaged))
}

/// What a log weighs, without what an engine adds.
pub fn weight(state: State) -> u64 {
    let (created, log) = state.restored();
    (log.weight() + created.meta.data.len() + created.plan.len()) as u64
}
