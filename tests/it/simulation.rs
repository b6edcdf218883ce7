//! A seeded simulator of several nodes in virtual time: partitions, pauses, late, lost and doubled calls of the store,
//! while streams run and viewers read them on every node. The whole server below the sockets, no clock of this world.
//!
//! Repeated with its seed a world goes the same way but for pauses before retries, which ids decide.
//!
//! The oracle: what a viewer of a stream or of the whole session has gathered is the log's text, each `reset` forgotten what
//! came before it; the log is the whole answer, or says how it ended; and in the end the room knows that every stream has,
//! those of unanswered starts too, although nobody loads it anew.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use futures_util::StreamExt;
use relaystream::app::App;
use relaystream::http::router;
use relaystream::surface::Surface;
use serde_json::{Value, json};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tower::ServiceExt;

use crate::harness::assembled;
use crate::harness::shared::Shared;
use crate::heard::{Heard, blocks};
use crate::seed::{Random, Seed};
use crate::watchers::take;

const NODES: usize = 3;
const STREAMS: usize = 4;
/// Viewers of the whole session.
const MIRRORS: usize = 3;
const WORLDS: usize = 12;
const ROOM: &str = "room";
/// How long things go wrong, and how long it may take after that until all is told.
const STORM: Duration = Duration::from_secs(12);
const CALM: Duration = Duration::from_secs(120);
const POLICY: &str = "[defaults]\nprefill = true\nmax_continuations = 1000\nretry = { base_ms = 1 }\n";

/// What the demo says to this prompt.
fn answer(prompt: &str) -> String {
    include_str!("../../src/provider/demo.md").replace("{{prompt}}", prompt)
}

#[derive(Clone)]
struct World {
    store: Arc<Shared>,
    nodes: Vec<(Arc<App>, Router)>,
    /// The streams that were asked for, by their ids: what they were asked. There may be others, of starts that were not
    /// answered.
    asked: Rc<RefCell<BTreeMap<String, String>>>,
}

/// An answer as far as it was read.
struct Got {
    status: u16,
    body: Vec<u8>,
    whole: bool,
}

impl World {
    fn new() -> World {
        let (store, data) = (Shared::new(), tempfile::tempdir().unwrap());
        let nodes = (0..NODES).map(|n| {
            let app = assembled(Some(store.node(n)), POLICY, &[], data.path());
            let router = router(&app, None);
            spawn_local(app.clone().cooperate());
            (app, router)
        });
        World { nodes: nodes.collect(), store, asked: Rc::default() }
    }

    /// One request to any node, given up after `patience`.
    async fn ask(&self, request: Request<Body>, patience: Duration, random: &mut Random) -> Got {
        let (until, router) = (Instant::now() + patience, random.pick(&self.nodes).1.clone());
        let mut got = Got { status: 0, body: Vec::new(), whole: false };
        let Ok(response) = timeout_at(until, router.oneshot(request)).await else { return got };
        let response = response.expect("routers do not fail");
        got.status = response.status().as_u16();
        let mut body = response.into_body().into_data_stream();
        loop {
            match timeout_at(until, body.next()).await {
                Ok(Some(Ok(bytes))) => got.body.extend_from_slice(&bytes),
                Ok(Some(Err(_))) | Err(_) => return got,
                Ok(None) => {
                    got.whole = true;
                    return got;
                }
            }
        }
    }

    async fn get(&self, path: &str, held: Option<&str>, patience: Duration, random: &mut Random) -> Got {
        let mut request = Request::get(path).header("host", "localhost");
        if let Some(id) = held {
            request = request.header("last-event-id", id);
        }
        self.ask(request.body(Body::empty()).unwrap(), patience, random).await
    }

    async fn json(&self, path: &str, random: &mut Random) -> Value {
        let got = self.get(path, None, Duration::from_secs(5), random).await;
        serde_json::from_slice(&got.body).expect("JSON")
    }

    /// Starts a stream by a key, as often as it takes to be answered.
    async fn start(&self, tag: &str, random: &mut Random) -> String {
        let body = json!({"model": "demo", "input": tag, "session": ROOM}).to_string();
        loop {
            let request = Request::post("/v1/streams")
                .header("host", "localhost")
                .header("content-type", "application/json")
                .header("idempotency-key", tag)
                .body(Body::from(body.clone()))
                .unwrap();
            let got = self.ask(request, Duration::from_secs(5), random).await;
            if matches!(got.status, 200 | 201) && got.whole {
                let json: Value = serde_json::from_slice(&got.body).expect("JSON");
                return json["id"].as_str().expect("an id").to_owned();
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Things go wrong for a while.
    async fn storm(&self, mut random: Random) {
        self.store.set_weather(Some(random.fork()));
        let until = Instant::now() + STORM;
        while Instant::now() < until {
            sleep(Duration::from_millis(random.below(900) as u64)).await;
            let (n, time) = (random.below(NODES), Duration::from_millis(random.below(3000) as u64));
            let (store, cut) = (self.store.clone(), random.chance(50));
            spawn_local(async move {
                if cut {
                    store.cut_off(n)
                } else {
                    store.pause(n)
                }
                sleep(time).await;
                if cut { store.let_back(n) } else { store.go_on(n) }
            });
        }
        sleep(Duration::from_secs(4)).await;
        self.store.set_weather(None);
    }

    /// Reads over SSE until the end, as an `EventSource` does: it goes on from its last id, whatever it was told.
    async fn watch(self, stream: String, mut random: Random) -> Heard {
        let (mut heard, mut held) = (Heard::default(), None);
        let path = format!("/v1/streams/{stream}/events");
        loop {
            let patience = Duration::from_millis(50 + random.below(3000) as u64);
            let got = self.get(&path, held.as_deref(), patience, &mut random).await;
            match got.status {
                204 => {
                    assert!(heard.ended, "204 before the end");
                    return heard;
                }
                0 | 200 => {}
                503 => assert!(held.is_none(), "a reconnect got 503"),
                status => panic!("{status}: {}", String::from_utf8_lossy(&got.body)),
            }
            heard.take(Surface::Native, &got.body);
            held = blocks(&got.body).into_iter().filter_map(|block| block.id).next_back().or(held);
            sleep(Duration::from_millis(random.below(200) as u64)).await;
        }
    }

    /// Polls until the end.
    async fn poll(self, stream: String, mut random: Random) -> Heard {
        let (mut heard, mut path) = (Heard::default(), format!("/v1/streams/{stream}/poll?wait=1"));
        loop {
            let got = self.get(&path, None, Duration::from_secs(5), &mut random).await;
            sleep(Duration::from_millis(20 + random.below(200) as u64)).await;
            if !got.whole || got.status == 503 {
                continue;
            }
            let body: Value = serde_json::from_slice(&got.body).expect("JSON");
            assert_eq!(got.status, 200, "{body}");
            for event in body["events"].as_array().expect("a list") {
                take(&mut heard, event);
            }
            if heard.ended {
                return heard;
            }
            let position = body["position"].as_str().expect("a position");
            path = format!("/v1/streams/{stream}/poll?wait=1&after={position}");
        }
    }

    /// Watches the session until all that were asked for have ended.
    async fn mirror(self, mut random: Random) -> BTreeMap<String, Heard> {
        let (mut streams, mut held) = (BTreeMap::<String, Heard>::new(), None);
        while !self.all_ended(&streams) {
            let patience = Duration::from_millis(50 + random.below(4000) as u64);
            let path = format!("/v1/sessions/{ROOM}/events");
            let got = self.get(&path, held.as_deref(), patience, &mut random).await;
            assert!(matches!(got.status, 0 | 200 | 503), "{}", got.status);
            if got.status == 200 {
                for block in blocks(&got.body) {
                    let data: Value = serde_json::from_str(&block.data).expect("JSON");
                    let stream = data["stream"].as_str();
                    if let ("reset", named) = (block.event.as_str(), stream) {
                        streams.retain(|known, _| named.is_some_and(|named| named != known));
                    } else if let Some(stream) = stream {
                        let heard = streams.entry(stream.to_owned()).or_default();
                        take(heard, &json!({"type": block.event, "data": data}));
                    }
                    held = block.id.or(held);
                }
            }
            sleep(Duration::from_millis(random.below(200) as u64)).await;
        }
        streams
    }

    fn all_ended(&self, streams: &BTreeMap<String, Heard>) -> bool {
        let asked = self.asked.borrow();
        let ended = |id| streams.get(id).is_some_and(|heard: &Heard| heard.ended);
        asked.len() == STREAMS && asked.keys().all(ended)
    }
}

/// What became of one world's streams.
#[derive(Debug, Default)]
struct Tally {
    completed: usize,
    ended_otherwise: usize,
    takeovers: usize,
}

async fn live_through(mut random: Random, tally: &mut Tally) {
    let world = World::new();
    let (mut viewers, mut mirrors) = (JoinSet::new(), JoinSet::new());
    let storm = world.clone();
    let weather = random.fork();
    let storm = spawn_local(async move { storm.storm(weather).await });
    for _ in 0..MIRRORS {
        mirrors.spawn_local(world.clone().mirror(random.fork()));
    }
    for n in 0..STREAMS {
        let tag = format!("stream {n}");
        let id = world.start(&tag, &mut random).await;
        viewers.spawn_local(named(("sse", tag.clone()), world.clone().watch(id.clone(), random.fork())));
        viewers.spawn_local(named(("sse", tag.clone()), world.clone().watch(id.clone(), random.fork())));
        viewers.spawn_local(named(("poll", tag.clone()), world.clone().poll(id.clone(), random.fork())));
        world.asked.borrow_mut().insert(id, tag);
        sleep(Duration::from_millis(random.below(3000) as u64)).await;
    }
    storm.await.expect("the storm");
    let (ids, mut logs) = (world.asked.borrow().clone(), BTreeMap::new());
    let told = async {
        while let Some(report) = viewers.join_next().await {
            let ((who, tag), heard) = report.expect("a viewer");
            logs.entry(tag).or_insert_with(Vec::new).push((who, heard.text));
        }
        while let Some(streams) = mirrors.join_next().await {
            for (id, heard) in streams.expect("a mirror's viewer") {
                // One whose start was never answered.
                let Some(tag) = ids.get(&id) else { continue };
                logs.get_mut(tag).expect("a stream").push(("mirror", heard.text));
            }
        }
    };
    if timeout(CALM, told).await.is_err() {
        let room = world.json(&format!("/v1/sessions/{ROOM}"), &mut random).await;
        let waiting = (viewers.len(), mirrors.len());
        panic!("{waiting:?} viewers of streams and of the session never came to the end: {room}");
    }
    let quiet = async {
        while world.json(&format!("/v1/sessions/{ROOM}"), &mut random).await["streams_running"] != 0 {
            sleep(Duration::from_millis(500)).await;
        }
    };
    timeout(CALM, quiet).await.expect("the room to be told of all ends");
    for (id, tag) in &ids {
        let got = world.get(&format!("/v1/streams/{id}"), None, Duration::from_secs(5), &mut random).await;
        let log: Value = serde_json::from_slice(&got.body).expect("JSON");
        let (text, whole) =
            (log["text"].as_str().unwrap_or_else(|| panic!("{}: {log}", got.status)), answer(tag));
        match log["status"].as_str() {
            Some("completed") => {
                assert_eq!(text, whole);
                tally.completed += 1;
            }
            Some("failed" | "interrupted") => {
                assert!(whole.starts_with(text), "{text}");
                tally.ended_otherwise += 1;
            }
            other => panic!("{other:?}: {log}"),
        }
        tally.takeovers += usize::from(!log["position"].as_str().expect("a position").contains("-0000-"));
        for (who, heard) in &logs[tag] {
            assert_eq!(heard, text, "what {who} has of {tag}");
        }
    }
}

async fn named<N, T>(name: N, viewer: impl Future<Output = T>) -> (N, T) {
    (name, viewer.await)
}

#[test]
fn whatever_happens_between_nodes_and_store_nothing_is_lost_without_a_word() {
    let mut tally = Tally::default();
    let first = Seed::of_this_run();
    for n in 0..WORLDS as u64 {
        // Each world is its own seed's, so that a failing one can be had alone: its seed is told first.
        let seed = Seed(first.0.wrapping_add(n));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime.unwrap(), live_through(seed.random(), &mut tally));
    }
    let all_kinds = tally.takeovers.min(tally.completed).min(tally.ended_otherwise);
    assert!(all_kinds > 0, "a simulation of nothing: {tally:?}");
}
