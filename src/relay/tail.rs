//! One log as this node's viewers see it: its records, its renditions, and who waits.
//!
//! A tail exists while somebody looks at the log. It has no task: the store wakes the viewers, and the first to look
//! takes what is new, encoding it once for every format in use. With many viewers the tail rests for a tick between
//! batches, so that a write carries more than one token. A viewer is an offset into a rendition; it pulls.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::bell::Bell;
use super::follow::{PAGE_BYTES, follow};
use super::rendition::{Place, Rendition};
use super::silence::Silence;
use super::watch::Watchers;
use crate::event::{Event, Kind, Status};
use crate::log::{Bad, EventId, LogId, Page, Position, Record};
use crate::store::{Error, Store};
use crate::surface::Format;

#[derive(Debug, Clone)]
pub struct Options {
    /// The longest wait between two batches when there are many viewers. Zero: never wait.
    pub tick: Duration,
    /// Silence after which viewers are sent a keep-alive. Zero: never.
    pub keep_alive: Duration,
}

impl Options {
    /// How long to gather before the next batch, so that a write to each of `viewers` carries more.
    pub fn pause(&self, viewers: usize) -> Duration {
        if viewers <= FEW_VIEWERS { Duration::ZERO } else { self.tick.min(TICK_PER_VIEWER * viewers as u32) }
    }
}

/// What a wait between batches may cost in latency, for each viewer: a few times what writing to it costs.
const TICK_PER_VIEWER: Duration = Duration::from_micros(40);
/// Up to here a batch goes out as soon as it is there.
const FEW_VIEWERS: usize = 8;

/// Why nothing more will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The log is closed and was read to its end.
    Ended(Status),
    /// The log was removed or lost: what was seen is not all.
    Gone,
    /// The store cannot be read just now: come back.
    Away,
    /// The stream goes on, but this process does not: come back.
    Leaving,
}

pub struct Tail {
    pub log: LogId,
    pub watchers: Arc<Watchers>,
    bell: Arc<Bell>,
    shared: Mutex<Shared>,
    /// Counts keep-alives due.
    beats: AtomicU64,
    options: Options,
    tracker: TaskTracker,
    /// Set once viewers are to be sent home.
    leaving: Arc<AtomicBool>,
}

struct Shared {
    records: Vec<Record>,
    renditions: Vec<Rendition>,
    end: Option<End>,
    grown_at: Instant,
    /// What the store has after `records`.
    pages: Pin<Box<dyn Stream<Item = Result<Page, Error>> + Send>>,
    silence: Silence,
}

/// What a viewer finds at its offset.
#[derive(Debug, Clone)]
pub enum Find {
    /// Shared bytes, and when the newest of them arrived.
    Bytes(Bytes, Instant),
    End(End),
    Nothing,
}

impl Tail {
    /// Reads what the log holds now and goes on following it.
    pub async fn open(
        store: &Arc<dyn Store>,
        log: LogId,
        options: &Options,
        tracker: &TaskTracker,
        leaving: &Arc<AtomicBool>,
    ) -> Result<Arc<Tail>, Error> {
        let (mut records, mut at) = (Vec::new(), Position::START);
        let closed = loop {
            let page = store.read(log, at, PAGE_BYTES).await?;
            at = page.records.last().map_or(at, |record| record.position);
            records.extend(page.records);
            if at == page.head {
                break page.closed;
            }
        };
        let watchers: Arc<Watchers> = Arc::default();
        let shared = Shared {
            end: closed.then(|| ended(&records)),
            records,
            renditions: Vec::new(),
            grown_at: Instant::now(),
            pages: Box::pin(follow(store.clone(), log, at)),
            silence: Silence::new(options.keep_alive),
        };
        Ok(Arc::new(Tail {
            log,
            bell: Bell::new(watchers.clone()),
            watchers,
            shared: Mutex::new(shared),
            beats: AtomicU64::new(0),
            options: options.clone(),
            tracker: tracker.clone(),
            leaving: leaving.clone(),
        }))
    }

    /// What there is to see now.
    fn shared(&self) -> MutexGuard<'_, Shared> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.end.is_none() && self.bell.answer() {
            self.advance(&mut shared);
        }
        shared
    }

    /// Takes what the store has accepted since, and has it ring for more.
    fn advance(&self, shared: &mut Shared) {
        let waker = Waker::from(self.bell.clone());
        let cx = &mut Context::from_waker(&waker);
        while let Poll::Ready(page) = shared.pages.as_mut().poll_next(cx) {
            match page {
                Some(Ok(page)) => shared.grow(page),
                Some(Err(Error::NotFound | Error::Damaged)) | None => shared.end = Some(End::Gone),
                Some(Err(_)) => shared.end = Some(End::Away),
            }
            if shared.end.is_some() {
                return;
            }
            self.rest();
        }
        while shared.silence.poll_passed(cx).is_ready() {
            self.beats.fetch_add(1, Relaxed);
        }
    }

    /// Lets the next batch gather for a tick, if there are many to write it to.
    fn rest(&self) {
        let pause = self.options.pause(self.watchers.count());
        if !pause.is_zero() && self.bell.rest() {
            let bell = self.bell.clone();
            self.tracker.spawn(async move {
                tokio::time::sleep(pause).await;
                bell.rested();
            });
        }
    }

    pub fn head(&self) -> Position {
        self.shared().records.last().map_or(Position::START, |record| record.position)
    }

    pub fn end(&self) -> Option<End> {
        let end = self.shared().end;
        end.or_else(|| self.leaving.load(Relaxed).then_some(End::Leaving))
    }

    /// Whether the store could not be read on: who opens the tail anew sees more.
    pub fn is_cut_off(&self) -> bool {
        self.shared().end == Some(End::Away)
    }

    /// Whether everything that there will ever be is here.
    pub fn is_over(&self) -> bool {
        matches!(self.shared().end, Some(End::Ended(_) | End::Gone))
    }

    /// Waits until nothing more will come.
    pub async fn ended(&self) {
        self.until(|| self.end().is_some()).await;
    }

    /// Waits until it holds `seq`, or nothing more will come.
    pub async fn reaches(&self, seq: u64) {
        self.until(|| self.head().seq >= seq || self.end().is_some()).await;
    }

    async fn until(&self, ready: impl Fn() -> bool) {
        let watch = self.watchers.join();
        std::future::poll_fn(|cx| {
            watch.register(cx);
            if ready() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    pub fn beats(&self) -> u64 {
        self.beats.load(Relaxed)
    }

    /// Runs `read` over the records so far; they are the log's from its start.
    pub fn with_records<T>(&self, read: impl FnOnce(&[Record]) -> T) -> T {
        read(&self.shared().records)
    }

    /// Whether one can read on from `position`.
    pub fn check(&self, id: EventId) -> Result<(), Bad> {
        if id.log != self.log {
            return Err(Bad::Foreign);
        }
        let shared = self.shared();
        let head = shared.records.last().map_or(Position::START, |record| record.position);
        let mut epochs = Vec::new();
        let at =
            |position: Position| (position.seq as usize).checked_sub(1).and_then(|at| shared.records.get(at));
        if let Some(record) = at(id.position) {
            epochs.push((record.position.epoch, record.position.seq));
        }
        crate::log::check(id.position, Position::START, head, &epochs)
    }

    /// The offset after `position`, and bytes that must be sent before it if the position is inside a frame.
    pub fn place(&self, format: Format, position: Position) -> (u64, Option<Bytes>) {
        let mut shared = self.shared();
        let Shared { records, .. } = &mut *shared;
        let records = std::mem::take(records);
        let rendition = shared.rendition(format, self.log, &records);
        let placed = match rendition.place(position) {
            Place::At(offset) => (offset, None),
            Place::Inside { upto, then } => (then, Some(rendition.remainder(&records, position, upto))),
        };
        shared.records = records;
        placed
    }

    /// The offset of a format's first frame for which `past` holds, or of what comes next if there is none.
    pub fn seek(&self, format: Format, past: impl Fn(&[u8]) -> bool) -> u64 {
        let mut shared = self.shared();
        let records = std::mem::take(&mut shared.records);
        let offset = shared.rendition(format, self.log, &records).seek(past);
        shared.records = records;
        offset
    }

    /// The next shared bytes of a format from `offset`.
    pub fn find(&self, format: Format, offset: u64) -> Find {
        let shared = self.shared();
        let bytes = shared
            .renditions
            .iter()
            .find(|known| known.format == format)
            .and_then(|known| known.slice(offset));
        match (bytes, shared.end) {
            (Some(bytes), _) => Find::Bytes(bytes, shared.grown_at),
            (None, Some(end)) => Find::End(end),
            (None, None) if self.leaving.load(Relaxed) => Find::End(End::Leaving),
            (None, None) => Find::Nothing,
        }
    }
}

impl Shared {
    fn grow(&mut self, page: Page) {
        for rendition in &mut self.renditions {
            rendition.push(&page.records);
        }
        self.records.extend(page.records);
        self.grown_at = Instant::now();
        self.silence.heard(self.grown_at);
        let at = self.records.last().map_or(page.head, |record| record.position);
        if page.closed && at == page.head {
            self.end = Some(ended(&self.records));
            self.renditions.iter_mut().for_each(Rendition::compact);
        }
    }

    fn rendition(&mut self, format: Format, log: LogId, records: &[Record]) -> &mut Rendition {
        let at = self.renditions.iter().position(|known| known.format == format).unwrap_or_else(|| {
            let mut rendition = Rendition::new(format, log);
            rendition.push(records);
            self.renditions.push(rendition);
            self.renditions.len() - 1
        });
        &mut self.renditions[at]
    }
}

/// The status that a closed log ended with.
fn ended(records: &[Record]) -> End {
    let last = records.last().filter(|record| record.draft.kind == Kind::Done as u8);
    match last.map(|record| Event::parse(Kind::Done, &record.draft.payload)) {
        Some(Ok(Event::Done(done))) => End::Ended(done.status),
        _ => End::Gone,
    }
}
