//! `kill -9` of the real binary at random moments while it streams, over the disk and over Redis: every viewer that comes
//! back has the whole text, every stream ends, and a start that was not answered can be asked for again.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use relaystream::surface::Surface;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::binary::Binary;
use crate::harness::provider::Request;
use crate::harness::redis::RedisServer;
use crate::harness::{Answer, FakeProvider, Script, client, soon};
use crate::heard::Heard;
use crate::seed::{Random, Seed};
use crate::watchers::{poll, watch};

const STREAMS: usize = 8;
const WORDS: usize = 150;
const LIMIT: Duration = Duration::from_secs(240);

/// A stream's words: no two of any two streams are alike.
fn words(tag: &str) -> Vec<String> {
    (0..WORDS).map(|n| format!("{tag}-{n} 東 ")).collect()
}

/// Says the words of the stream that is asked for, from where it broke off, a few milliseconds each.
async fn provider() -> FakeProvider {
    FakeProvider::by(|_, request| {
        let (tag, said) = asked(request);
        let words = words(&tag);
        let whole = words.concat();
        let mut rest = whole.strip_prefix(said.as_str()).expect("byte for byte what was said");
        let mut script = Script::stream();
        while let Some(end) = rest.find("東 ") {
            let (word, after) = rest.split_at(end + "東 ".len());
            script = script.token(word).sleep(Duration::from_millis(8));
            rest = after;
        }
        // A crash may have cut a word's last bytes off its first.
        script.token(rest).finish()
    })
    .await
}

fn asked(request: &Request) -> (String, String) {
    let messages = request.body()["messages"].as_array().expect("messages").clone();
    let text = |message: &Value| message["content"].as_str().expect("text").to_owned();
    let said = messages.iter().find(|message| message["role"] == "assistant").map(text);
    (text(&messages[0]), said.unwrap_or_default())
}

/// Nodes of the real binary on ports of their own, which they have again after each crash.
struct Fleet {
    directory: tempfile::TempDir,
    nodes: Vec<SocketAddr>,
    running: Vec<Option<Binary>>,
}

impl Fleet {
    async fn new(provider: &FakeProvider, settings: &str, size: usize) -> Fleet {
        let policy = "[defaults]\nprefill = true\nmax_continuations = 1000\nretry = { base_ms = 1 }\n";
        let held: Vec<_> = (0..size).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let nodes = held.iter().map(|listener| listener.local_addr().unwrap()).collect();
        drop(held);
        let directory = tempfile::tempdir().unwrap();
        let settings = format!("{policy}{settings}\n{}", provider.config());
        std::fs::write(directory.path().join("relaystream.toml"), settings).unwrap();
        let mut fleet = Fleet { directory, nodes, running: Vec::new() };
        for n in 0..size {
            let started = fleet.started(n).await;
            fleet.running.push(Some(started));
        }
        fleet
    }

    async fn started(&self, n: usize) -> Binary {
        let listen = self.nodes[n].to_string();
        Binary::serving_at(&listen, &self.directory, &["--config", "relaystream.toml"], &[]).await
    }

    async fn crash(&mut self, n: usize, signal: &str) {
        let node = self.running[n].take().expect("it runs");
        node.signal(signal);
        node.exit().await;
        self.running[n] = Some(self.started(n).await);
    }
}

/// Starts a stream by a key, as often as it takes to be answered.
async fn start(nodes: &[SocketAddr], tag: &str, random: &mut Random) -> String {
    let body = json!({"model": "fake/m", "input": tag}).to_string();
    let client = client();
    let started = async {
        loop {
            let node = random.pick(nodes);
            let request = client.post(format!("http://{node}/v1/streams")).body(body.clone());
            let answer = request
                .header("content-type", "application/json")
                .header("idempotency-key", tag)
                .send()
                .await;
            if let Ok(answer) = answer
                && answer.status().is_success()
                && let Ok(text) = answer.text().await
            {
                let json: Value = serde_json::from_str(&text).expect("JSON");
                return json["id"].as_str().expect("an id").to_owned();
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    soon("a start", started).await
}

fn spawn_viewers(
    viewers: &mut JoinSet<(String, String, Heard)>,
    nodes: &[SocketAddr],
    (tag, id): (&str, &str),
    random: &mut Random,
) {
    for surface in [Surface::Native, Surface::OpenAiChat, Surface::OpenAiResponses, Surface::Anthropic] {
        let (nodes, tag, id, own) = (nodes.to_vec(), tag.to_owned(), id.to_owned(), random.fork());
        viewers.spawn(async move {
            let heard = watch(nodes, id.clone(), "01jxk3v9c2m4n5p6q7r8s9t0va".into(), surface, own).await;
            (surface.name().to_owned(), tag, heard)
        });
    }
    let (nodes, tag, id, own) = (nodes.to_vec(), tag.to_owned(), id.to_owned(), random.fork());
    viewers.spawn(async move {
        let heard = poll(nodes, id, "01jxk3v9c2m4n5p6q7r8s9t0va".into(), own).await;
        ("poll".to_owned(), tag, heard)
    });
}

/// Streams run while nodes crash, until so many have.
async fn survives(mut fleet: Fleet, crashes: usize) {
    let seed = Seed::of_this_run();
    let mut random = seed.random();
    let nodes = fleet.nodes.clone();
    let (mut viewers, mut ids) = (JoinSet::new(), BTreeMap::new());
    for crash in 0..crashes {
        if ids.len() * crashes <= crash * STREAMS {
            let tag = format!("s{}", ids.len());
            // The answer may be lost in a crash: the key finds the stream again.
            let mut own = random.fork();
            let (id, ()) = tokio::join!(start(&nodes, &tag, &mut own), async {
                let n = random.below(nodes.len());
                fleet.crash(n, "KILL").await;
            });
            spawn_viewers(&mut viewers, &nodes, (&tag, &id), &mut random);
            ids.insert(tag, id);
        }
        sleep(Duration::from_millis(random.below(400) as u64)).await;
        let n = random.below(nodes.len());
        fleet.crash(n, if random.chance(80) { "KILL" } else { "TERM" }).await;
    }
    let all = async {
        while let Some(report) = viewers.join_next().await {
            let (who, tag, heard) = report.expect("a viewer");
            assert_eq!(heard.text, words(&tag).concat(), "{who} of {tag}");
        }
    };
    assert!(timeout(LIMIT, all).await.is_ok(), "some viewers never came to the end");
    for (tag, id) in &ids {
        let url = format!("http://{}/v1/streams/{id}", random.pick(&nodes));
        let log = Answer::of(client().get(url).send().await.unwrap()).await.json();
        assert_eq!((&log["status"], &log["text"]), (&json!("completed"), &json!(words(tag).concat())));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_disk_nothing_is_lost() {
    let provider = provider().await;
    let fleet = Fleet::new(&provider, "[server]\ndrain_s = 0\n", 1).await;
    survives(fleet, 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_redis_nothing_is_lost() {
    let (provider, redis) = (provider().await, RedisServer::start().await);
    let store =
        format!("[store]\nengine = \"redis\"\nurl = \"{}\"\n[store.redis]\nlease_ms = 1000\n", redis.url());
    let fleet = Fleet::new(&provider, &format!("[server]\ndrain_s = 0\n{store}"), 2).await;
    survives(fleet, 20).await;
}
