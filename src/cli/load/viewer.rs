//! One viewer: connects, counts what arrives, resumes if it is told to cut itself off, and stops at the end.
//!
//! It checks how much came, not what: whoever wants the text compared reads `tests/`.

use std::pin::pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail};
use memchr::{memchr_iter, memmem};
use reqwest::Url;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Flow, Request};
use super::report::sample;
use super::upstream::{MARK, STAMP, now_us};
use crate::sse::Parser;
use crate::tls;

/// Latency samples kept by one viewer.
const SAMPLES: usize = 20_000;
/// How long a viewer that cut itself off stays away, so that it misses something.
const AWAY: Duration = Duration::from_millis(100);
/// The largest event accepted.
const EVENT_BYTES: usize = 16 * 1024 * 1024;
/// Connections opened at the same time.
const OPENING: usize = 256;

/// What all viewers of a run share.
#[derive(Debug)]
pub(super) struct Tally {
    /// Units delivered so far.
    pub delivered: AtomicU64,
    /// Viewers that have been let in.
    pub connected: AtomicU64,
    /// Slots that are through.
    pub ended: AtomicU64,
    /// Ends every viewer.
    pub stop: CancellationToken,
    opening: Semaphore,
}

impl Tally {
    pub(super) fn new() -> Tally {
        Tally {
            delivered: AtomicU64::new(0),
            connected: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            stop: CancellationToken::new(),
            opening: Semaphore::new(OPENING),
        }
    }

    /// A server's backlog is finite, and a refused connection would measure that.
    pub(super) async fn open<T>(
        &self,
        opening: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let _turn = self.opening.acquire().await.context("the semaphore is never closed")?;
        opening.await
    }
}

/// What a viewer reads.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// An SSE body.
    Sse(Url),
    /// A chat completion that this viewer asks for itself.
    Chat(Url, Arc<[u8]>),
    /// A WebSocket, with what to say first.
    Socket(Url, Option<&'static str>),
    /// The native long poll.
    Poll(Url),
}

/// One viewer's job.
#[derive(Debug, Clone)]
pub(super) struct Viewer {
    pub source: Source,
    /// A complete `Authorization` value.
    pub key: Option<Arc<str>>,
    /// The marks to expect; without, events are counted.
    pub marks: Option<u64>,
    pub cut_every: Option<Duration>,
    /// When the stream was asked for, if that is not when the viewer connects.
    pub began: Option<Arc<OnceLock<Instant>>>,
    /// Told once the viewer is in.
    pub ready: Option<mpsc::Sender<()>>,
}

/// What a viewer has seen.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub units: u64,
    pub expected: Option<u64>,
    pub frames: u64,
    /// Microseconds, all three.
    pub first: Option<u32>,
    pub lags: Vec<u32>,
    pub resumes: Vec<u32>,
    pub error: Option<String>,
}

impl Viewer {
    pub(super) async fn run(mut self, tally: &Tally) -> Outcome {
        let mut counter = Counter::new(&self);
        let watched = match self.source.clone() {
            Source::Sse(url) => self.sse(&url, &mut counter, tally).await,
            Source::Chat(url, body) => self.chat(&url, &body, &mut counter, tally).await,
            Source::Socket(url, hello) => self.socket(&url, hello, &mut counter, tally).await,
            Source::Poll(url) => self.poll(&url, &mut counter, tally).await,
        };
        let mut seen = counter.seen;
        seen.error = watched.err().map(|error| format!("{error:#}"));
        seen
    }

    fn admitted(&mut self, tally: &Tally) {
        tally.connected.fetch_add(1, Relaxed);
        // Dropped rather than sent on failure, so that nobody waits for a viewer that was refused.
        if let Some(ready) = self.ready.take() {
            let _nobody_waits = ready.try_send(());
        }
    }

    async fn sse(&mut self, url: &Url, counter: &mut Counter, tally: &Tally) -> anyhow::Result<()> {
        loop {
            counter.reconnect();
            let last_id = counter.last_id.take();
            let mut headers = vec![("Accept", "text/event-stream")];
            headers.extend(self.key.as_deref().map(|key| ("Authorization", key)));
            headers.extend(last_id.as_deref().map(|id| ("Last-Event-ID", id)));
            let request = Request { method: "GET", url, headers, body: b"" };
            let mut connection = tally.open(Connection::open(&request)).await?;
            match connection.status {
                200 if last_id.is_none() => self.admitted(tally),
                200 => {}
                204 => return Ok(()),
                status => bail!("status {status}"),
            }
            counter.last_id = last_id;
            let cut = self.cut_every.map(|every| Instant::now() + every);
            if read(&mut connection, counter, tally, cut).await? == Flow::End {
                return Ok(());
            }
            drop(connection);
            sleep(AWAY).await;
        }
    }

    async fn chat(
        &mut self,
        url: &Url,
        body: &[u8],
        counter: &mut Counter,
        tally: &Tally,
    ) -> anyhow::Result<()> {
        counter.reconnect();
        let mut headers = vec![("Content-Type", "application/json"), ("Accept", "application/json")];
        headers.extend(self.key.as_deref().map(|key| ("Authorization", key)));
        let mut connection = Connection::open(&Request { method: "POST", url, headers, body }).await?;
        if connection.status != 200 {
            bail!("status {}", connection.status);
        }
        self.admitted(tally);
        read(&mut connection, counter, tally, None).await.map(drop)
    }

    async fn socket(
        &mut self,
        url: &Url,
        hello: Option<&str>,
        counter: &mut Counter,
        tally: &Tally,
    ) -> anyhow::Result<()> {
        counter.reconnect();
        counter.socket = true;
        let mut connection = tally.open(Connection::upgrade(url, self.key.as_deref())).await?;
        if let Some(hello) = hello {
            connection.send(hello).await?;
            while !counter.welcomed {
                let flow = connection.next(|message| counter.take(message)).await?;
                if flow == Flow::End {
                    bail!("the socket was closed before `welcome`");
                }
            }
        }
        self.admitted(tally);
        read(&mut connection, counter, tally, None).await.map(drop)
    }

    async fn poll(&mut self, url: &Url, counter: &mut Counter, tally: &Tally) -> anyhow::Result<()> {
        counter.reconnect();
        let client = tls::client().http1_only().build()?;
        let mut url = url.clone();
        let mut stopped = pin!(tally.stop.cancelled());
        loop {
            let mut request = client.get(url.clone());
            if let Some(key) = self.key.as_deref() {
                request = request.header("Authorization", key);
            }
            let answer = tokio::select! {
                answer = request.send() => answer.context("the poll failed")?,
                () = &mut stopped => return Ok(()),
            };
            if !answer.status().is_success() {
                bail!("status {}", answer.status().as_u16());
            }
            if counter.seen.frames == 0 {
                self.admitted(tally);
            }
            let body = answer.bytes().await.context("the poll broke off")?;
            counter.seen.frames += 1;
            let page: Value = serde_json::from_slice(&body).context("the poll's answer is not JSON")?;
            let events = page["events"].as_array().map_or(0, Vec::len) as u64;
            counter.polled(&body, events);
            tally.delivered.fetch_add(counter.fresh(), Relaxed);
            if events == 0 && page["status"] != "running" {
                return Ok(());
            }
            if let Some(position) = page["position"].as_str() {
                counter.ended_at(position);
                url.set_query(Some(&format!("after={position}")));
            }
        }
    }
}

/// Reads to the end, to the cut, or until everybody stops.
async fn read(
    connection: &mut Connection,
    counter: &mut Counter,
    tally: &Tally,
    cut: Option<Instant>,
) -> anyhow::Result<Flow> {
    let mut stopped = pin!(tally.stop.cancelled());
    let mut cut = pin!(async {
        match cut {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    });
    let flow = loop {
        let before = connection.frames;
        let flow = tokio::select! {
            flow = connection.next(|bytes| counter.take(bytes)) => flow.context("the body broke off")?,
            () = &mut cut => break Flow::More,
            () = &mut stopped => Flow::End,
        };
        counter.seen.frames += connection.frames - before;
        tally.delivered.fetch_add(counter.fresh(), Relaxed);
        if flow == Flow::End || counter.finished {
            break Flow::End;
        }
    };
    Ok(flow)
}

/// Counts units and takes times.
struct Counter {
    seen: Outcome,
    marks: bool,
    /// Whole events are looked at: they are what is counted, or their ids are needed.
    parser: Option<Parser>,
    parses: bool,
    socket: bool,
    welcomed: bool,
    finished: bool,
    last_id: Option<String>,
    reported: u64,
    began: Option<Arc<OnceLock<Instant>>>,
    connecting: Instant,
    waiting: bool,
    connections: u64,
}

impl Counter {
    fn new(viewer: &Viewer) -> Counter {
        let socket = matches!(viewer.source, Source::Socket(..));
        Counter {
            seen: Outcome { expected: viewer.marks, ..Outcome::default() },
            marks: viewer.marks.is_some(),
            parser: None,
            parses: !socket && (viewer.marks.is_none() || viewer.cut_every.is_some()),
            socket,
            welcomed: false,
            finished: false,
            last_id: None,
            reported: 0,
            began: viewer.began.clone(),
            connecting: Instant::now(),
            waiting: true,
            connections: 0,
        }
    }

    fn reconnect(&mut self) {
        self.connecting = Instant::now();
        self.waiting = true;
        self.connections += 1;
        self.parser = self.parses.then(|| Parser::new(EVENT_BYTES));
    }

    /// Units since the last time this was asked.
    fn fresh(&mut self) -> u64 {
        self.seen.units - std::mem::replace(&mut self.reported, self.seen.units)
    }

    fn take(&mut self, bytes: &[u8]) {
        match self.parser.take() {
            Some(mut parser) => {
                let mut frames = Vec::new();
                let parsed = parser.feed(bytes, |frame| {
                    frames.push((frame.data.into_owned(), frame.id.map(str::to_owned)));
                });
                self.finished |= parsed.is_err();
                self.parser = Some(parser);
                for (data, id) in frames {
                    if self.marks {
                        self.count_marks(data.as_bytes())
                    } else {
                        self.count(1)
                    }
                    if let Some(id) = id {
                        self.ended_at(&id);
                        self.last_id = Some(id);
                    }
                }
            }
            None if self.socket => self.message(bytes),
            None => self.count_marks(bytes),
        }
    }

    fn message(&mut self, message: &[u8]) {
        self.welcomed |= memmem::find(message, br#""type":"welcome""#).is_some();
        if self.marks {
            self.count_marks(message);
        } else if let Some(seq) = position(message) {
            // A message may hold several events and names the position of the last.
            self.count(seq.saturating_sub(self.seen.units));
        }
        let done = memmem::find(message, br#""type":"done""#).is_some();
        let all = self.marks && self.seen.expected == Some(self.seen.units);
        self.finished |= done || (all && !self.welcomed);
    }

    fn polled(&mut self, body: &[u8], events: u64) {
        if self.marks { self.count_marks(body) } else { self.count(events) }
    }

    fn count_marks(&mut self, bytes: &[u8]) {
        let mut now = None;
        for at in memchr_iter(MARK, bytes) {
            self.count(1);
            let stamp = bytes.get(at + 1..at + 1 + STAMP).and_then(|digits| std::str::from_utf8(digits).ok());
            if let Some(sent) = stamp.and_then(|digits| digits.parse::<u64>().ok())
                && self.seen.lags.len() < SAMPLES
            {
                let lag = now.get_or_insert_with(now_us).saturating_sub(sent);
                self.seen.lags.push(u32::try_from(lag).unwrap_or(u32::MAX));
            }
        }
    }

    fn count(&mut self, units: u64) {
        self.seen.units += units;
        if units == 0 || !std::mem::take(&mut self.waiting) {
            return;
        }
        if self.connections == 1 {
            let began = self.began.as_ref().and_then(|began| began.get()).unwrap_or(&self.connecting);
            self.seen.first = Some(sample(began.elapsed()));
        } else {
            self.seen.resumes.push(sample(self.connecting.elapsed()));
        }
    }

    /// Where events are counted, the last one's number says how many there are.
    fn ended_at(&mut self, id: &str) {
        if !self.marks {
            self.seen.expected = id.rsplit('-').next().and_then(|seq| seq.parse().ok());
        }
    }
}

/// The seq of a message's `position`.
fn position(message: &[u8]) -> Option<u64> {
    let name = br#""position":""#;
    let from = memmem::find(message, name)? + name.len();
    let id = message[from..].split(|byte| *byte == b'"').next()?;
    let seq = id.rsplit(|byte| *byte == b'-').next()?;
    std::str::from_utf8(seq).ok()?.parse().ok()
}
