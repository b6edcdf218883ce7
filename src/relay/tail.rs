//! One log as this node's viewers see it: its records, its renditions, and who waits.
//!
//! A tail exists while somebody looks at the log. One task follows the store, encodes each batch once for every
//! format in use and wakes the viewers; with many of them it waits a tick between batches, so that a write
//! carries more than one token. A viewer is an offset into a rendition; it pulls.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::follow::{PAGE_BYTES, follow};
use super::rendition::{Place, Rendition};
use super::silence::Silence;
use super::watch::Watchers;
use crate::event::{Event, Kind, Status};
use crate::log::{Bad, EventId, LogId, Position, Record};
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
    /// The log was removed or the store failed: what was seen is not all.
    Gone,
}

pub struct Tail {
    pub log: LogId,
    pub watchers: Arc<Watchers>,
    shared: Mutex<Shared>,
    /// Counts keep-alives due.
    beats: AtomicU64,
    /// Ends the following task when the last viewer has left.
    _stop: DropGuard,
}

struct Shared {
    records: Vec<Record>,
    renditions: Vec<Rendition>,
    end: Option<End>,
    grown_at: Instant,
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
        let stop = CancellationToken::new();
        let end = closed.then(|| ended(&records));
        let tail = Arc::new(Tail {
            log,
            watchers: Arc::default(),
            shared: Mutex::new(Shared { records, renditions: Vec::new(), end, grown_at: Instant::now() }),
            beats: AtomicU64::new(0),
            _stop: stop.clone().drop_guard(),
        });
        if !closed {
            let task = run(Arc::downgrade(&tail), store.clone(), log, at, options.clone());
            tracker.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = task => {}
                }
            });
        }
        Ok(tail)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn head(&self) -> Position {
        self.shared().records.last().map_or(Position::START, |record| record.position)
    }

    pub fn end(&self) -> Option<End> {
        self.shared().end
    }

    /// Waits until nothing more will come.
    pub async fn ended(&self) {
        let watch = self.watchers.join();
        std::future::poll_fn(|cx| {
            watch.register(cx);
            if self.end().is_some() { Poll::Ready(()) } else { Poll::Pending }
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
            (None, None) => Find::Nothing,
        }
    }

    fn grow(&self, records: Vec<Record>, closed: bool) {
        let mut shared = self.shared();
        for rendition in &mut shared.renditions {
            rendition.push(&records);
        }
        shared.records.extend(records);
        shared.grown_at = Instant::now();
        if closed {
            shared.end = Some(ended(&shared.records));
            shared.renditions.iter_mut().for_each(Rendition::compact);
        }
    }
}

impl Shared {
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

async fn run(tail: Weak<Tail>, store: Arc<dyn Store>, log: LogId, after: Position, options: Options) {
    let pages = follow(store, log, after);
    tokio::pin!(pages);
    let mut silence = Silence::new(options.keep_alive);
    loop {
        let page = tokio::select! {
            biased;
            page = pages.next() => page,
            () = silence.passed() => {
                let Some(tail) = tail.upgrade() else { return };
                tail.beats.fetch_add(1, Relaxed);
                tail.watchers.wake_all();
                continue;
            }
        };
        silence.heard();
        let Some(tail) = tail.upgrade() else { return };
        let ended = match page {
            Some(Ok(page)) => {
                let at = page.records.last().map_or(page.head, |record| record.position);
                let ended = page.closed && at == page.head;
                tail.grow(page.records, ended);
                ended
            }
            Some(Err(_)) | None => {
                tail.shared().end = Some(End::Gone);
                true
            }
        };
        tail.watchers.wake_all();
        if ended {
            return;
        }
        let pause = options.pause(tail.watchers.count());
        drop(tail);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}
