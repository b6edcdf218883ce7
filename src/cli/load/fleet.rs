//! All viewers of a run: slots that start one stream after the other, each with its viewers, and the window in
//! which the server's cost is taken.
//!
//! A slot lets its last stream run to the end, so that what arrived can be compared with what was said.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::Url;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until};

use super::connection::{Connection, Flow, Request};
use super::process::Usage;
use super::report::Window;
use super::upstream::{MARK, Pace, STAMP, now_us};
use super::viewer::{Outcome, Source, Tally, Viewer};
use super::{Load, Transport};
use crate::tls;

/// Said first on a session's socket.
pub(super) const HELLO: &str = r#"{"type":"hello","data":{}}"#;
/// How long viewers may take to get in.
const ADMISSION: Duration = Duration::from_secs(60);
/// How long a published token may be on its way at the end.
const GRACE: Duration = Duration::from_secs(3);

/// A run as it was asked for, shared by its slots.
pub(super) struct Plan {
    pub load: Load,
    pub key: Option<Arc<str>>,
    pub pace: Option<Pace>,
    /// Makes the sessions of this run its own.
    pub nonce: u64,
}

impl Plan {
    pub(super) fn url(&self, path: &str) -> anyhow::Result<Url> {
        let base = self.load.server.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}{path}")).with_context(|| format!("{base}{path} is not a URL"))
    }

    /// Starts a stream; its id.
    pub(super) async fn start(&self, session: Option<&str>) -> anyhow::Result<String> {
        let body = json!({"model": self.load.model, "input": "load", "session": session}).to_string();
        let (status, answer) = self.post("/v1/streams", body.as_bytes()).await?;
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        match answer["id"].as_str() {
            Some(id) if status < 300 => Ok(id.to_owned()),
            _ => bail!("the stream was not started: status {status}, {}", answer["error"]["message"]),
        }
    }

    pub(super) async fn post(&self, path: &str, body: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
        let url = self.url(path)?;
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(self.key.as_deref().map(|key| ("Authorization", key)));
        let mut connection = Connection::open(&Request { method: "POST", url: &url, headers, body }).await?;
        let mut answer = Vec::new();
        while connection.next(|bytes| answer.extend_from_slice(bytes)).await? == Flow::More {}
        Ok((connection.status, answer))
    }

    fn viewer(&self, source: Source) -> Viewer {
        Viewer {
            source,
            key: self.key.clone(),
            marks: self.pace.map(|pace| pace.tokens),
            cut_every: (self.load.cut_every_ms > 0).then(|| Duration::from_millis(self.load.cut_every_ms)),
            began: None,
            ready: None,
        }
    }

    /// One stream and all that look at it.
    async fn stream(&self, tally: &Arc<Tally>, name: String) -> anyhow::Result<Vec<Outcome>> {
        if let Some(url) = &self.load.raw_url {
            let source = match self.load.transport {
                Transport::Ws => Source::Socket(url.clone(), None),
                _ => Source::Sse(url.clone()),
            };
            return Ok(self.watch(&self.viewer(source), tally).join_all().await);
        }
        match self.load.transport {
            Transport::Chat => {
                let messages = json!([{"role": "user", "content": "load"}]);
                let body =
                    json!({"model": self.load.model, "stream": true, "messages": messages}).to_string();
                let source = Source::Chat(self.url("/v1/chat/completions")?, body.into_bytes().into());
                Ok(self.watch(&self.viewer(source), tally).join_all().await)
            }
            Transport::Sse | Transport::Poll => {
                let id = self.start(None).await?;
                let source = match self.load.transport {
                    Transport::Poll => Source::Poll(self.url(&format!("/v1/streams/{id}/poll"))?),
                    _ => Source::Sse(self.url(&format!("/v1/streams/{id}/events"))?),
                };
                Ok(self.watch(&self.viewer(source), tally).join_all().await)
            }
            Transport::Ws => {
                let url = self.url(&format!("/v1/sessions/{name}/ws"))?;
                let began = Arc::new(OnceLock::new());
                let (ready, mut readiness) = mpsc::channel(self.load.viewers.max(1));
                let mut viewer = self.viewer(Source::Socket(url, Some(HELLO)));
                (viewer.began, viewer.ready) = (Some(began.clone()), Some(ready));
                let viewers = self.watch(&viewer, tally);
                drop(viewer);
                // Ends when everybody is in or has failed.
                while readiness.recv().await.is_some() {}
                began.get_or_init(Instant::now);
                self.start(Some(&name)).await?;
                Ok(viewers.join_all().await)
            }
        }
    }

    fn watch(&self, viewer: &Viewer, tally: &Arc<Tally>) -> JoinSet<Outcome> {
        let mut viewers = JoinSet::new();
        for _ in 0..self.load.viewers {
            let (viewer, tally) = (viewer.clone(), tally.clone());
            viewers.spawn(async move { viewer.run(&tally).await });
        }
        viewers
    }

    /// One stream after the other until the time is over.
    async fn slot(&self, tally: &Arc<Tally>, number: usize) -> Vec<Outcome> {
        let began = Instant::now();
        // Spread by the golden ratio: at equal distances all streams of one pace would tick together.
        let phase = (number as f64 * 0.618_033_988_749_895).fract();
        sleep(Duration::from_millis(self.load.ramp_ms).mul_f64(phase)).await;
        let mut seen = Vec::new();
        for round in 0.. {
            let name = format!("load-{}-{number}-{round}", self.nonce);
            match self.stream(tally, name).await {
                Ok(outcomes) => seen.extend(outcomes),
                Err(error) => {
                    seen.push(Outcome { error: Some(format!("{error:#}")), ..Outcome::default() });
                    break;
                }
            }
            if began.elapsed() >= Duration::from_secs(self.load.seconds) || tally.stop.is_cancelled() {
                break;
            }
        }
        tally.ended.fetch_add(1, Relaxed);
        seen
    }

    /// Everything, to its end.
    pub(super) async fn run(self: &Arc<Self>, tally: &Arc<Tally>) -> Vec<Outcome> {
        let mut slots = JoinSet::new();
        for number in 0..self.load.streams {
            let (plan, tally) = (self.clone(), tally.clone());
            slots.spawn(async move { plan.slot(&tally, number).await });
        }
        let limit = sleep(Duration::from_secs(self.load.limit_s));
        let publishing = async {
            match &self.load.publish {
                Some(url) => self.publish(url, tally).await,
                None => std::future::pending().await,
            }
        };
        let (slots, mut failure) = (slots.join_all(), None);
        tokio::pin!(slots, limit, publishing);
        let mut published = false;
        let outcomes = loop {
            tokio::select! {
                outcomes = &mut slots => break outcomes,
                () = &mut limit, if !tally.stop.is_cancelled() => {
                    failure = Some(format!("not done after {} s", self.load.limit_s));
                    tally.stop.cancel();
                }
                end = &mut publishing, if !published => {
                    published = true;
                    failure = end.err().map(|error| format!("publishing: {error:#}"));
                    tally.stop.cancel();
                }
            }
        };
        let failure = failure.map(|error| Outcome { error: Some(error), ..Outcome::default() });
        outcomes.into_iter().flatten().chain(failure).collect()
    }

    /// Posts the tokens of the pace to a publish-subscribe server, once everybody listens.
    async fn publish(&self, url: &Url, tally: &Tally) -> anyhow::Result<()> {
        let pace = self.pace.context("--publish needs a model that names a pace, such as 500x20")?;
        let client = tls::client().http1_only().build()?;
        admission(tally, self.load.total()).await;
        sleep(Duration::from_millis(self.load.warmup_ms.unwrap_or(0))).await;
        let mut due = Instant::now();
        for sent in 0..pace.tokens {
            let token = format!(" {}{:0STAMP$}", char::from(MARK), now_us());
            let body = match self.load.transport {
                // As long as the product's own message, so that the same bytes are compared.
                Transport::Ws => json!({"type": "token", "stream": "01jxk3v9c2m4n5p6q7r8s9t0va",
                    "position": format!("01jxk3v9c2m4n5p6q7r8s9t0va-0000-{sent:010}"), "timestamp": 1_764_000_000_000_u64,
                    "data": {"text": token}}),
                _ => json!({"text": token}),
            };
            let answer = client.post(url.clone()).body(body.to_string()).send().await?;
            if !answer.status().is_success() {
                bail!("status {}", answer.status().as_u16());
            }
            due += pace.interval;
            sleep_until(due).await;
        }
        sleep(GRACE).await;
        Ok(())
    }

    /// What the server spends while everybody is connected: from the warm-up to the first slot's end. Without a
    /// warm-up, the whole run.
    pub(super) async fn window(&self, tally: &Tally) -> anyhow::Result<Window> {
        if let Some(warmup) = self.load.warmup_ms {
            admission(tally, self.load.total()).await;
            sleep(Duration::from_millis(warmup)).await;
        }
        let (began, delivered) = (Instant::now(), tally.delivered.load(Relaxed));
        let (server, own) = (self.server()?, Usage::own()?);
        let enough = if self.load.warmup_ms.is_some() { 1 } else { self.load.streams as u64 };
        let mut look = interval(Duration::from_millis(5));
        while tally.ended.load(Relaxed) < enough {
            look.tick().await;
        }
        let delivered = tally.delivered.load(Relaxed) - delivered;
        let seconds = began.elapsed().as_secs_f64();
        let (server_after, own_after) = (self.server()?, Usage::own()?);
        let cpu = server.zip(server_after).map(|(before, after)| (after.cpu - before.cpu).as_secs_f64());
        Ok(Window {
            seconds,
            delivered,
            server_cpu_s: cpu,
            server_us_per_unit: cpu.filter(|_| delivered > 0).map(|cpu| cpu * 1e6 / delivered as f64),
            generator_cpu_s: (own_after.cpu - own.cpu).as_secs_f64(),
            server_resident_kib: server_after.map(|after| after.resident_kib),
        })
    }

    fn server(&self) -> anyhow::Result<Option<Usage>> {
        if self.load.pid.is_empty() { Ok(None) } else { Usage::of(&self.load.pid).map(Some) }
    }
}

/// Waits until everybody was let in, or it will not happen any more.
async fn admission(tally: &Tally, total: u64) {
    let patience = Instant::now() + ADMISSION;
    let mut look = interval(Duration::from_millis(5));
    while tally.connected.load(Relaxed) < total && tally.ended.load(Relaxed) == 0 && Instant::now() < patience
    {
        look.tick().await;
    }
}
