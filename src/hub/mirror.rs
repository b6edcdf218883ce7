//! A session as its viewers see it: all its running streams, interleaved once for everybody on this node.
//!
//! One task reads the room's log and its streams' tails and keeps a short window of encoded entries. A viewer is an
//! index into the window; one that falls out of it comes back with the id it holds and catches up from the logs.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Session;
use crate::event::Kind as EventKind;
use crate::log::{LogId, Page, Position, Record};
use crate::relay::Relay;
use crate::relay::follow::follow;
use crate::relay::running::Attendance;
use crate::relay::silence::Silence;
use crate::relay::tail::{self, Tail};
use crate::relay::watch::{Watch, Watchers};
use crate::room::talk::Text;
use crate::room::{Kind, Room, Vector, message};
use crate::sse;
use crate::store::Error;
use crate::surface::native::RETRY_MS;

/// The window's size, in bytes of SSE. Who reads slower than this many bytes behind has to come back.
const WINDOW_BYTES: usize = 512 * 1024;

/// What happened in one moment, in both encodings.
#[derive(Debug, Clone)]
pub struct Entry {
    pub sse: Bytes,
    /// UTF-8 text, a message each.
    pub frames: Arc<[Bytes]>,
}

/// A stream that runs, as the mirror follows it.
struct Live {
    tail: Arc<Tail>,
    watch: Watch,
    /// The session's viewers are this stream's viewers.
    _attendance: Option<Attendance>,
}

struct Window {
    entries: VecDeque<Entry>,
    /// The index of the first entry.
    first: u64,
    bytes: usize,
    vector: Vector,
    room: Room,
    tails: BTreeMap<u32, Arc<Tail>>,
    over: Option<Over>,
}

/// Why a mirror shows nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// The session was forgotten.
    Gone,
    /// The store does not answer: another mirror will go on.
    Broken,
}

/// A moment of the mirror: everything up to `vector` lies before the entry `next`.
pub struct Snapshot {
    pub next: u64,
    pub vector: Vector,
    pub room: Room,
    /// The tails of running streams, open already.
    pub tails: BTreeMap<u32, Arc<Tail>>,
}

impl Snapshot {
    fn covers(&self, held: &Vector) -> bool {
        let (mut streams, mut live) = (held.streams.iter(), self.tails.keys());
        self.vector.room >= held.room
            && streams.all(|(n, at)| self.vector.streams.get(n).is_none_or(|shown| shown >= at))
            // The end of what it has seen whole must not come once more.
            && live.all(|n| self.room.resume(held, *n).is_some())
    }
}

/// What a viewer finds at its index.
#[derive(Debug)]
pub enum Find {
    Entries(Vec<Entry>),
    Nothing,
    /// The window has moved on, or nothing fills it any more: come back with the last id.
    Behind,
    /// The session is gone.
    Gone,
}

pub struct Mirror {
    pub log: LogId,
    pub watchers: Arc<Watchers>,
    window: Mutex<Window>,
    beats: AtomicU64,
    _stop: DropGuard,
}

impl Mirror {
    /// Starts mirroring from now: what happened before is the viewers' to catch up with.
    pub async fn open(
        relay: Arc<Relay>,
        session: Arc<Session>,
        options: &tail::Options,
    ) -> Result<Arc<Mirror>, Error> {
        let room = session.room().clone();
        let mut streams = BTreeMap::new();
        let mut vector = Vector { room: room.position, streams: BTreeMap::new() };
        for (n, entry) in room.streams.iter().filter(|(_, entry)| entry.closed.is_none()) {
            if let Some(live) = live(&relay, entry.stream).await? {
                vector.streams.insert(*n, live.tail.head());
                streams.insert(*n, live);
            }
        }
        let stop = CancellationToken::new();
        let tails = streams.iter().map(|(n, live): (&u32, &Live)| (*n, live.tail.clone())).collect();
        let window = Window { entries: VecDeque::new(), first: 0, bytes: 0, vector, room, tails, over: None };
        let mirror = Arc::new(Mirror {
            log: session.log,
            watchers: Arc::default(),
            window: Mutex::new(window),
            beats: AtomicU64::new(0),
            _stop: stop.clone().drop_guard(),
        });
        let pages = Box::pin(follow(relay.store.clone(), session.log, mirror.window().room.position));
        let run =
            Run { relay: relay.clone(), mirror: Arc::downgrade(&mirror), log: session.log, streams, pages };
        let options = options.clone();
        relay.tracker.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = run.run(options) => {}
            }
        });
        Ok(mirror)
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn beats(&self) -> u64 {
        self.beats.load(Relaxed)
    }

    /// Where the mirror stands now.
    pub fn snapshot(&self) -> Snapshot {
        let window = self.window();
        Snapshot {
            next: window.first + window.entries.len() as u64,
            vector: window.vector.clone(),
            room: window.room.clone(),
            tails: window.tails.clone(),
        }
    }

    /// A moment that is not before what a viewer has seen on another node, which may have been told of it earlier than
    /// this one. What is in `held` must be true, or there will be no such moment; nor is there one when the mirror ends
    /// before: from an earlier moment the viewer would be told again what it has seen to its end.
    pub async fn snapshot_from(&self, held: &Vector) -> Result<Snapshot, Error> {
        let watch = self.watchers.join();
        std::future::poll_fn(|cx| {
            watch.register(cx);
            let moment = self.snapshot();
            if moment.covers(held) {
                Poll::Ready(Ok(moment))
            } else if self.is_over() {
                Poll::Ready(Err(Error::Unavailable("the room could not be read on".into())))
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Whether it shows nothing more.
    pub fn is_over(&self) -> bool {
        self.window().over.is_some()
    }

    /// Whether no stream runs, as far as was told.
    pub fn is_quiet(&self) -> bool {
        self.window().tails.is_empty()
    }

    /// Everything from the entry `index` on.
    pub fn find(&self, index: u64) -> Find {
        let window = self.window();
        let Some(skip) = index.checked_sub(window.first) else { return Find::Behind };
        let entries: Vec<Entry> = window.entries.iter().skip(skip as usize).cloned().collect();
        match (entries.is_empty(), window.over) {
            (false, _) => Find::Entries(entries),
            (true, Some(Over::Gone)) => Find::Gone,
            (true, Some(Over::Broken)) => Find::Behind,
            (true, None) => Find::Nothing,
        }
    }
}

async fn live(relay: &Relay, stream: LogId) -> Result<Option<Live>, Error> {
    match relay.tail(stream).await {
        Ok(tail) => {
            let attendance = relay.running(stream).map(|running| running.attend());
            Ok(Some(Live { watch: tail.watchers.join(), tail, _attendance: attendance }))
        }
        Err(Error::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The mirror's task.
struct Run {
    relay: Arc<Relay>,
    mirror: Weak<Mirror>,
    log: LogId,
    streams: BTreeMap<u32, Live>,
    pages: Pin<Box<dyn Stream<Item = Result<Page, Error>> + Send>>,
}

impl Run {
    async fn run(mut self, options: tail::Options) {
        let mut silence = Silence::new(options.keep_alive);
        loop {
            let page = tokio::select! {
                page = std::future::poll_fn(|cx| self.news(cx)) => page,
                () = silence.passed() => {
                    let Some(mirror) = self.mirror.upgrade() else { return };
                    mirror.beats.fetch_add(1, Relaxed);
                    mirror.watchers.wake_all();
                    continue;
                }
            };
            silence.heard(Instant::now());
            let Some(mirror) = self.mirror.upgrade() else { return };
            let read = match page {
                Some(Ok(page)) => self.read_room(&mirror, &page.records).await,
                Some(Err(error)) => Err(error),
                None => Ok(()),
            };
            let over = read.err().map(|error| match error {
                Error::NotFound => Over::Gone,
                _ => Over::Broken,
            });
            self.read_streams(&mirror);
            // A stream that cannot be read on here is seen by whoever comes back: the mirror is opened anew.
            let cut_off = self.streams.values().any(|live| live.tail.is_cut_off());
            let over = over.or(cut_off.then_some(Over::Broken));
            mirror.window().over = over;
            mirror.watchers.wake_all();
            let pause = options.pause(mirror.watchers.count());
            drop(mirror);
            if over.is_some() {
                return;
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Ready when the room has a new page, or some stream has grown.
    fn news(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Page, Error>>> {
        if let Poll::Ready(page) = self.pages.poll_next_unpin(cx) {
            return Poll::Ready(Some(page.unwrap_or(Err(Error::NotFound))));
        }
        let Some(mirror) = self.mirror.upgrade() else { return Poll::Ready(None) };
        let window = mirror.window();
        for (n, live) in &self.streams {
            live.watch.register(cx);
            let seen = window.vector.streams.get(n).copied().unwrap_or_default();
            let closed = window.room.streams.get(n).is_none_or(|entry| entry.closed.is_some());
            let over = closed && live.tail.is_over();
            if live.tail.head() != seen || over || live.tail.is_cut_off() {
                return Poll::Ready(None);
            }
        }
        Poll::Pending
    }

    async fn read_room(&mut self, mirror: &Mirror, records: &[Record]) -> Result<(), Error> {
        let newest = |room: &Room| room.streams.last_key_value().map(|(n, entry)| (*n, entry.stream));
        for record in records {
            if mirror.window().tell(self.log, record) {
                continue;
            }
            let mut room = mirror.window().room.clone();
            let before = newest(&room);
            room.apply(record);
            let opened = match newest(&room).filter(|newest| Some(*newest) != before) {
                Some((n, stream)) => live(&self.relay, stream).await?.map(|live| (n, live)),
                None => None,
            };
            // All at once: a viewer that comes in between would take the stream for one that was over before.
            let mut window = mirror.window();
            (window.room, window.vector.room) = (room, record.position);
            if let Some((n, live)) = opened {
                window.vector.streams.insert(n, Position::START);
                window.tails.insert(n, live.tail.clone());
                self.streams.insert(n, live);
            }
        }
        Ok(())
    }

    /// Encodes what the streams have gained, and lets go of those that have ended and been told.
    fn read_streams(&mut self, mirror: &Mirror) {
        let log = self.log;
        self.streams.retain(|n, live| {
            let mut window = mirror.window();
            let seen = window.vector.streams.get(n).copied().unwrap_or_default();
            // The end first: whatever is read after it is all there is.
            let ended = live.tail.is_over();
            let records = live.tail.with_records(|all| all[seen.seq as usize..].to_vec());
            if !records.is_empty() {
                let sse = encode(log, &mut window.vector, *n, live.tail.log, &records);
                let frames = message::frames(live.tail.log, &records).into_iter().map(Bytes::from).collect();
                window.push(Entry { sse: sse.into(), frames });
            }
            let closed = window.room.streams.get(n).is_none_or(|entry| entry.closed.is_some());
            if ended && closed {
                window.vector.streams.remove(n);
                window.tails.remove(n);
                return false;
            }
            !ended || !closed
        });
    }
}

impl Window {
    /// Takes a record of what people say; false if it is another one.
    fn tell(&mut self, log: LogId, record: &Record) -> bool {
        let Some(message) = message::talk(log, record) else { return false };
        self.room.apply(record);
        let sse = encode_talk(log, &mut self.vector, record);
        self.push(Entry { sse: sse.into(), frames: Arc::from([Bytes::from(message.to_string())]) });
        true
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += entry.sse.len();
        self.entries.push_back(entry);
        while self.bytes > WINDOW_BYTES && self.entries.len() > 1 {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.sse.len();
            self.first += 1;
        }
    }
}

/// Native events with their stream in `data`, each under the id of the whole session, which moves on with it.
pub fn encode(room: LogId, vector: &mut Vector, n: u32, stream: LogId, records: &[Record]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.len() * 192);
    for record in records {
        vector.streams.insert(n, record.position);
        let Some(kind) = EventKind::from_u8(record.draft.kind) else { continue };
        let data = with_stream(kind, stream, &record.draft.payload);
        let retry = (kind == EventKind::Start).then_some(RETRY_MS);
        sse::write(&mut out, Some(&vector.print(room)), kind.name(), retry, &data);
    }
    out
}

/// The same of a record of what people say; empty if it is another one.
pub fn encode_talk(room: LogId, vector: &mut Vector, record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    if let (Some(kind), Some(text)) = (Kind::of_talk(record.draft.kind), Text::of(record)) {
        vector.room = record.position;
        let data = text.shown().to_string();
        sse::write(&mut out, Some(&vector.print(room)), kind, None, data.as_bytes());
    }
    out
}

/// `start` names its stream already; the others get the field put in front.
fn with_stream(kind: EventKind, stream: LogId, payload: &[u8]) -> Vec<u8> {
    if kind == EventKind::Start {
        return payload.to_vec();
    }
    let rest = payload.strip_prefix(b"{").unwrap_or(payload);
    let comma = if rest.first() == Some(&b'}') { "" } else { "," };
    [format!(r#"{{"stream":"{stream}"{comma}"#).as_bytes(), rest].concat()
}
