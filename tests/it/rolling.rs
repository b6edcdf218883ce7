//! A rolling restart of all nodes over Redis, under load: viewers on every transport come back to whichever node is
//! there and have the whole text, and no two of them are told to come back at the same moment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::fleet::{Fleet, Report, provider, spawn_viewers, start, words};
use crate::harness::redis::{Engine, RedisServer};
use crate::harness::socket::{Received, Socket};
use crate::heard::{Block, Heard, blocks};
use crate::seed::{Random, Seed};
use crate::watchers::{get, take};

const NODES: usize = 3;
const ROUNDS: usize = 2;
const ROOMS: [&str; 2] = ["left", "right"];
/// One is started before each restart.
const STREAMS_PER_ROOM: usize = NODES * ROUNDS / ROOMS.len();
const LIMIT: Duration = Duration::from_secs(240);
/// Contract of `retry` when a server goes away, in milliseconds.
const RETRY_MS: std::ops::RangeInclusive<u64> = 1000..=5000;

/// What a viewer of a session has gathered.
#[derive(Debug, Default)]
struct Gathered {
    streams: BTreeMap<String, Heard>,
    /// When it was told to come back, each time.
    retries: Vec<u64>,
}

impl Gathered {
    fn is_complete(&self) -> bool {
        self.streams.values().filter(|heard| heard.ended).count() == STREAMS_PER_ROOM
    }

    /// A native event of one of the session's streams.
    fn event(&mut self, stream: &str, kind: &str, data: &Value) {
        let heard = self.streams.entry(stream.to_owned()).or_default();
        take(heard, &json!({"type": kind, "data": data}));
    }

    /// A reset that names a log, or all of them.
    fn forget(&mut self, stream: Option<&str>) {
        self.streams.retain(|known, _| stream.is_some_and(|stream| stream != known));
    }
}

/// Watches a session over SSE, from node to node, until all its streams have ended.
async fn mirror(nodes: Vec<SocketAddr>, room: String, mut random: Random) -> Gathered {
    let (mut gathered, mut held) = (Gathered::default(), None::<String>);
    let path = format!("/v1/sessions/{room}/events");
    while !gathered.is_complete() {
        let node = *random.pick(&nodes);
        let got = get(node, &path, held.as_deref(), usize::MAX, Duration::from_secs(3)).await;
        if got.status != 200 {
            assert!(got.status == 0 || held.is_none(), "a reconnect got {}", got.status);
            sleep(Duration::from_millis(20)).await;
            continue;
        }
        gathered.retries.extend(retries(&got.body));
        for Block { event, data, id } in blocks(&got.body) {
            let data: Value = serde_json::from_str(&data).expect("JSON");
            match (event.as_str(), data["stream"].as_str()) {
                ("reset", stream) => gathered.forget(stream),
                (kind, Some(stream)) => gathered.event(stream, kind, &data),
                (kind, None) => assert_eq!((kind, &data["code"]), ("notice", &json!("draining"))),
            }
            held = id.or(held);
        }
    }
    gathered
}

/// The `retry` of each word that the server goes away.
fn retries(body: &[u8]) -> Vec<u64> {
    let text = String::from_utf8_lossy(body);
    let goodbyes = text.split("\n\n").filter(|block| block.contains(r#""code":"draining""#));
    let retry = |block: &str| block.lines().find_map(|line| line.strip_prefix("retry: ")?.parse().ok());
    goodbyes.map(|block| retry(block).unwrap_or_else(|| panic!("no retry: {block}"))).collect()
}

/// Sits in a session over WebSocket, from node to node, until all its streams have ended.
async fn sit(nodes: Vec<SocketAddr>, room: String, mut random: Random) -> Gathered {
    let (mut gathered, mut held) = (Gathered::default(), BTreeMap::<String, String>::new());
    while !gathered.is_complete() {
        let Some(mut socket) = Socket::try_enter(*random.pick(&nodes), &room, &held).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !gathered.is_complete() {
            match socket.next().await {
                Received::Json(message) => hear(&mut gathered, &mut held, &room, &message),
                Received::Close(code, _) => {
                    assert!([0, 4200, 4202].contains(&code), "closed with {code}");
                    break;
                }
            }
        }
    }
    gathered
}

fn hear(gathered: &mut Gathered, held: &mut BTreeMap<String, String>, room: &str, message: &Value) {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let data = &message["data"];
    match message["type"].as_str().expect("a type") {
        "going-away" => gathered.retries.push(data["retry_ms"].as_u64().expect("a number")),
        "presence" => {}
        "reset" => gathered.forget(data["log"].as_str().filter(|log| *log != room)),
        "welcome" => {
            held.insert(room.to_owned(), text(&data["position"]));
            for stream in data["streams"].as_array().expect("a list") {
                let id = text(&stream["stream"]);
                held.insert(id.clone(), text(&stream["position"]));
                let heard = gathered.streams.entry(id).or_default();
                if let Some(whole) = stream["text"].as_str() {
                    *heard = Heard { text: whole.to_owned(), ..Heard::default() };
                }
                heard.ended |= stream["status"] != "running";
            }
        }
        kind => {
            let stream = text(&message["stream"]);
            held.insert(stream.clone(), text(&message["position"]));
            gathered.event(&stream, kind, data);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_one_after_the_other_lose_nothing() {
    let (provider, redis) = (provider().await, RedisServer::start(Engine::Redis).await);
    let store =
        format!("[store]\nengine = \"redis\"\nurl = \"{}\"\n[store.redis]\nlease_ms = 1000\n", redis.url());
    let mut fleet = Fleet::new(&provider, &format!("[server]\ndrain_s = 1\n{store}"), NODES).await;
    let (seed, nodes) = (Seed::of_this_run(), fleet.nodes.clone());
    let mut random = seed.random();
    let (mut viewers, mut members) = (JoinSet::<Report>::new(), JoinSet::new());
    for room in ROOMS.iter().flat_map(|room| [room; 2]) {
        members.spawn(mirror(nodes.clone(), (*room).to_owned(), random.fork()));
        members.spawn(sit(nodes.clone(), (*room).to_owned(), random.fork()));
    }
    let mut ids = BTreeMap::new();
    for n in (0..NODES).cycle().take(NODES * ROUNDS) {
        let tag = format!("s{}", ids.len());
        let room = ROOMS[ids.len() % ROOMS.len()];
        let id = start(&nodes, &tag, Some(room), &mut random).await;
        spawn_viewers(&mut viewers, &nodes, (&tag, &id), &mut random);
        ids.insert(id, tag);
        assert_eq!(fleet.restart(n, "TERM").await.code(), Some(0));
    }
    let mut retries = Vec::new();
    let all = async {
        while let Some(report) = viewers.join_next().await {
            let (who, tag, heard) = report.expect("a viewer");
            assert_eq!(heard.text, words(&tag).concat(), "{who} of {tag}");
        }
        while let Some(gathered) = members.join_next().await {
            let gathered = gathered.expect("a member");
            for (id, heard) in &gathered.streams {
                assert_eq!(heard.text, words(&ids[id]).concat(), "a member's {}", ids[id]);
            }
            retries.extend(gathered.retries);
        }
    };
    assert!(timeout(LIMIT, all).await.is_ok(), "some viewers never came to the end");
    assert!(retries.iter().all(|retry| RETRY_MS.contains(retry)), "{retries:?}");
    retries.sort_unstable();
    let told = retries.len();
    retries.dedup();
    assert!(told > NODES && retries.len() > told / 2, "all at once: {told} came back at {retries:?}");
}
