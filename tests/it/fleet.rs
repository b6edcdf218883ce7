//! Nodes of the real binary over one store, streams of words that no other stream has, and viewers of those.

use std::net::{SocketAddr, TcpListener};
use std::process::ExitStatus;
use std::time::Duration;

use relaystream::surface::Surface;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::binary::Binary;
use crate::harness::provider::Request;
use crate::harness::{FakeProvider, Script, client, soon};
use crate::heard::Heard;
use crate::seed::Random;
use crate::watchers::{poll, watch};

const WORDS: usize = 150;

/// A stream's words: no two of any two streams are alike.
pub(crate) fn words(tag: &str) -> Vec<String> {
    (0..WORDS).map(|n| format!("{tag}-{n} 東 ")).collect()
}

/// Says the words of the stream that is asked for, from where it broke off, a few milliseconds each.
pub(crate) async fn provider() -> FakeProvider {
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
pub(crate) struct Fleet {
    directory: tempfile::TempDir,
    pub(crate) nodes: Vec<SocketAddr>,
    running: Vec<Option<Binary>>,
}

impl Fleet {
    pub(crate) async fn new(provider: &FakeProvider, settings: &str, size: usize) -> Fleet {
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

    /// Ends the node by this signal and starts it anew; how it ended.
    pub(crate) async fn restart(&mut self, n: usize, signal: &str) -> ExitStatus {
        let node = self.running[n].take().expect("it runs");
        node.signal(signal);
        let status = node.exit().await;
        self.running[n] = Some(self.started(n).await);
        status
    }
}

/// Starts a stream by a key, as often as it takes to be answered.
pub(crate) async fn start(
    nodes: &[SocketAddr],
    tag: &str,
    session: Option<&str>,
    random: &mut Random,
) -> String {
    let body = json!({"model": "fake/m", "input": tag, "session": session}).to_string();
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

/// What a viewer is called, the stream's words, and what it has heard.
pub(crate) type Report = (String, String, Heard);

/// Spawns a viewer on each surface, and one that polls.
pub(crate) fn spawn_viewers(
    viewers: &mut JoinSet<Report>,
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
