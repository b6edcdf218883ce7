//! The journal: append-only segment files of what runs, written by one writer at a time.
//!
//! A frame is written inline by whoever brings it, when nobody else is writing and nothing waits: handing it to another
//! thread costs more than the write. Frames that come meanwhile, and all of them with `Sync::Always`, are gathered and
//! written by a thread, many in one write and one sync. Frames lie in the journal in the order in which they were
//! submitted. What a frame means is not known here.
//!
//! A write that fails is cut off again. After a failed sync nothing is written any more: what the kernel did with the
//! pages is unknown, and a second sync would say that all is well.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use tokio::time::Instant;

use super::files::{Directory, File};
use super::frame::{self, HEAD, Head};
use crate::log::LogId;
use crate::store::{Error, lock};

/// Given up when the disk is full, so that running logs can be closed.
const RESERVE_BYTES: usize = 1 << 20;
const RESERVE: &str = "reserve";
const PROBE: &str = "probe";

/// When what was written is made to last through a power loss. A killed process loses nothing either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// When the kernel sees fit.
    Os,
    Interval(Duration),
    /// Before it is visible.
    Always,
}

/// Where a frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub segment: u32,
    pub offset: u32,
}

/// Told once the frame is written, or why it is not.
pub type Then = Box<dyn FnOnce(Result<Place, Error>) + Send>;

pub struct Item {
    /// One frame or more, written as one.
    pub frames: Vec<u8>,
    /// Written even when the disk is full, from the room kept for that.
    pub ending: bool,
    pub then: Then,
}

pub struct Journal {
    directory: Arc<Directory>,
    sync: Sync,
    writer: Mutex<Writer>,
    /// Held during a sync: what another one took is synced when it returns. Once one has failed, all that follow do.
    synced: Mutex<Result<(), Error>>,
    queue: Mutex<Queue>,
    bell: Condvar,
}

#[derive(Default)]
struct Queue {
    items: Vec<Item>,
    stopping: bool,
}

struct Writer {
    directory: Arc<Directory>,
    /// The bytes of each segment; the last is written to.
    segments: BTreeMap<u32, u64>,
    file: Arc<File>,
    /// A segment that has reached this is followed by the next.
    segment_bytes: u64,
    unsynced: Vec<Arc<File>>,
    /// A segment's name is not known to last yet.
    named: bool,
    health: Health,
}

enum Health {
    Fine,
    Full,
    /// A write failed for another reason than room.
    Failing(String),
    /// For good.
    Broken(String),
}

pub fn segment_name(number: u32) -> String {
    format!("journal/{number:010}")
}

impl Journal {
    /// Goes on after what was found: the segments with their lengths.
    pub fn open(
        directory: Arc<Directory>,
        sync: Sync,
        segment_bytes: u64,
        mut segments: BTreeMap<u32, u64>,
    ) -> io::Result<Journal> {
        let file = match segments.last_key_value() {
            Some((number, _)) => directory.file(&segment_name(*number))?,
            None => {
                segments.insert(1, 0);
                directory.create(&segment_name(1))?
            }
        };
        let mut writer = Writer {
            directory: directory.clone(),
            segments,
            file: Arc::new(file),
            segment_bytes,
            unsynced: Vec::new(),
            named: true,
            health: Health::Fine,
        };
        let kept = directory.file(RESERVE).and_then(|file| file.length());
        if kept.ok() != Some(RESERVE_BYTES as u64) && reserve(&directory).is_err() {
            writer.health = Health::Full;
        }
        Ok(Journal {
            directory,
            sync,
            writer: Mutex::new(writer),
            synced: Mutex::new(Ok(())),
            queue: Mutex::default(),
            bell: Condvar::new(),
        })
    }

    /// Writes it, now or soon, after all that was submitted before.
    pub fn submit(&self, item: Item) {
        let mut queue = lock(&self.queue);
        // What was taken from the queue is written before the writer is free again: then nothing is passed by.
        if self.sync != Sync::Always
            && queue.items.is_empty()
            && let Some(mut writer) = self.free_writer()
        {
            drop(queue);
            let written = writer.write(&item.frames, item.ending);
            drop(writer);
            return (item.then)(written);
        }
        queue.items.push(item);
        let stopping = queue.stopping;
        drop(queue);
        if stopping { self.write_queued() } else { self.bell.notify_one() }
    }

    fn free_writer(&self) -> Option<MutexGuard<'_, Writer>> {
        match self.writer.try_lock() {
            Ok(writer) => Some(writer),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Writes it before anything that waits or is submitted from now on, and does not sync it. May block.
    pub fn write_now(&self, frames: &[u8]) -> Result<Place, Error> {
        lock(&self.writer).write(frames, false)
    }

    /// The thread that writes what is gathered, and syncs at intervals, until [`Journal::stop`].
    pub fn run(&self) {
        let every = if let Sync::Interval(every) = self.sync { every } else { Duration::MAX };
        let mut synced = Instant::now();
        loop {
            let over = {
                let idle = |queue: &mut Queue| queue.items.is_empty() && !queue.stopping;
                let left = every.saturating_sub(synced.elapsed());
                let waited = self.bell.wait_timeout_while(lock(&self.queue), left, idle);
                let queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                queue.stopping && queue.items.is_empty()
            };
            if over {
                return;
            }
            self.write_queued();
            if synced.elapsed() >= every {
                let _told_by_health = self.sync();
                synced = Instant::now();
            }
        }
    }

    /// Lets the thread write what it has, and end.
    pub fn stop(&self) {
        lock(&self.queue).stopping = true;
        self.bell.notify_all();
    }

    /// Writes what waits.
    fn write_queued(&self) {
        let (items, mut written) = {
            // In this order: whoever finds the queue empty from here on also finds the writer taken.
            let mut writer = lock(&self.writer);
            let items = std::mem::take(&mut lock(&self.queue).items);
            let written = writer.write_many(&items);
            (items, written)
        };
        if self.sync == Sync::Always
            && !items.is_empty()
            && let Err(error) = self.sync()
        {
            written = items.iter().map(|_| Err(error.clone())).collect();
        }
        for (item, written) in items.into_iter().zip(written) {
            (item.then)(written);
        }
    }

    /// Makes all that was written last through a power loss.
    pub fn sync(&self) -> Result<(), Error> {
        let mut synced = lock(&self.synced);
        synced.clone()?;
        let (files, named) = {
            let mut writer = lock(&self.writer);
            (std::mem::take(&mut writer.unsynced), std::mem::take(&mut writer.named))
        };
        let names = || if named { self.directory.sync_names("journal") } else { Ok(()) };
        *synced = files.iter().try_for_each(|file| file.sync()).and_then(|()| names()).map_err(|error| {
            let why = format!("a sync failed: {error}");
            tracing::error!(%error, "the store writes no more: a sync failed, so what is on the disk is unknown");
            lock(&self.writer).health = Health::Broken(why.clone());
            Error::Unavailable(why)
        });
        synced.clone()
    }

    /// Segments that were finished and wait for a sync. Each holds a file open.
    pub fn finished_unsynced(&self) -> usize {
        lock(&self.writer).unsynced.len().saturating_sub(1)
    }

    pub fn health(&self) -> Result<(), Error> {
        lock(&self.writer).admits(false)
    }

    /// The first segment that a write from now on can lie in.
    pub fn segment(&self) -> u32 {
        lock(&self.writer).last().0
    }

    /// After a failed write: looks whether the disk takes as much as the reserve again. Nothing is written meanwhile: an
    /// ending may spend the reserve, and a torn write is for good.
    pub fn probe(&self) {
        let mut writer = lock(&self.writer);
        if matches!(writer.health, Health::Full | Health::Failing(_)) && reserve(&self.directory).is_ok() {
            tracing::info!("the disk takes writes again");
            writer.health = Health::Fine;
        }
    }

    /// The segments with their bytes, the oldest first; the last is written to.
    pub fn segments(&self) -> Vec<(u32, u64)> {
        lock(&self.writer).segments.iter().map(|(number, bytes)| (*number, *bytes)).collect()
    }

    /// Deletes a segment of which nothing is needed any more.
    pub fn unlink(&self, number: u32) -> io::Result<()> {
        self.directory.remove(&segment_name(number))?;
        lock(&self.writer).segments.remove(&number);
        Ok(())
    }

    /// Overwrites frames of a log that was removed.
    pub fn erase(&self, log: LogId, places: &[Place]) -> io::Result<()> {
        let mut open: Option<(u32, File)> = None;
        for place in places {
            if open.as_ref().is_none_or(|(number, _)| *number != place.segment) {
                match self.directory.file(&segment_name(place.segment)) {
                    Ok(file) => open = Some((place.segment, file)),
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
            }
            let Some((_, file)) = &open else { continue };
            let (mut head, at) = ([0; HEAD], u64::from(place.offset));
            file.read_at(&mut head, at)?;
            if let Some(head) = Head::parse(&head).filter(|head| head.log == log) {
                file.write_at(&frame::erased(head.length), at)?;
            }
        }
        Ok(())
    }
}

/// Makes the reserve anew: only when all of it is written is it one.
fn reserve(directory: &Directory) -> io::Result<()> {
    let made = directory.create(PROBE).and_then(|file| file.write_at(&vec![0; RESERVE_BYTES], 0));
    match made {
        Ok(()) => directory.rename(PROBE, RESERVE),
        Err(error) => {
            let _left_behind_it_is_emptied_next_time = directory.remove(PROBE);
            Err(error)
        }
    }
}

impl Writer {
    fn admits(&self, ending: bool) -> Result<(), Error> {
        match &self.health {
            Health::Broken(why) => Err(Error::Unavailable(why.clone())),
            Health::Fine => Ok(()),
            _ if ending => Ok(()),
            Health::Full => Err(Error::Full),
            Health::Failing(why) => Err(Error::Unavailable(why.clone())),
        }
    }

    /// One write for all; if that fails, one each, so that those that fit get through.
    fn write_many(&mut self, items: &[Item]) -> Vec<Result<Place, Error>> {
        if items.len() > 1 && matches!(self.health, Health::Fine) {
            let frames = items.iter().map(|item| item.frames.as_slice()).collect::<Vec<_>>().concat();
            if let Ok(mut place) = self.write_once(&frames) {
                let next = |item: &Item| {
                    let at = place;
                    place.offset += u32::try_from(item.frames.len()).unwrap_or(u32::MAX);
                    Ok(at)
                };
                return items.iter().map(next).collect();
            }
        }
        items.iter().map(|item| self.write(&item.frames, item.ending)).collect()
    }

    fn write(&mut self, frames: &[u8], ending: bool) -> Result<Place, Error> {
        self.admits(ending)?;
        let written = self.write_once(frames).or_else(|error| {
            if !ending || !full(&error) || matches!(self.health, Health::Broken(_)) {
                return Err(error);
            }
            tracing::error!(%error, "the disk is full: what was kept in reserve is given to an ending");
            self.health = Health::Full;
            self.directory.file(RESERVE)?.truncate(0)?;
            self.write_once(frames)
        });
        written.map_err(|error| {
            tracing::error!(%error, "the disk refused a write");
            // Not undone: the torn write could not be cut off.
            if !matches!(self.health, Health::Broken(_)) {
                self.health = if full(&error) {
                    Health::Full
                } else {
                    Health::Failing(format!("a write failed: {error}"))
                };
            }
            if full(&error) { Error::Full } else { Error::Unavailable(format!("a write failed: {error}")) }
        })
    }

    fn write_once(&mut self, frames: &[u8]) -> io::Result<Place> {
        self.roll();
        let mut last = self.segments.last_entry().expect("there is always a segment to write to");
        let (segment, at) = (*last.key(), *last.get());
        let offset = u32::try_from(at).map_err(|_| io::Error::other("no new segment can be begun"))?;
        if let Err(error) = self.file.write_at(frames, at) {
            if let Err(cut) = self.file.truncate(at) {
                tracing::error!(error = %cut, "the store writes no more: a torn write cannot be cut off");
                self.health = Health::Broken(format!("a torn write cannot be cut off: {cut}"));
            }
            return Err(error);
        }
        *last.get_mut() = at + frames.len() as u64;
        if self.unsynced.last().is_none_or(|file| !Arc::ptr_eq(file, &self.file)) {
            self.unsynced.push(self.file.clone());
        }
        Ok(Place { segment, offset })
    }

    /// The segment that is written to, and its bytes.
    fn last(&self) -> (u32, u64) {
        let (number, bytes) = self.segments.last_key_value().expect("there is always a segment to write to");
        (*number, *bytes)
    }

    /// Begins the next segment when this one has its size. If that cannot be done, it just grows.
    fn roll(&mut self) {
        let (last, bytes) = self.last();
        if bytes >= self.segment_bytes
            && let Ok(file) = self.directory.create(&segment_name(last + 1))
        {
            self.segments.insert(last + 1, 0);
            self.file = Arc::new(file);
            self.named = true;
        }
    }
}

fn full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
