//! A simulation of many viewers on all transports, each cut off and resuming at random, while streams run and after.
//!
//! The oracle: what each one collected equals the log, character for character; where it was told `reset`, what it
//! collected from there on does. `RELAYSTREAM_TEST_SEED` repeats the decisions of a failed run (not its timing).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use relaystream::surface::Surface;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::harness::provider::chunk;
use crate::harness::socket::{Received, Socket};
use crate::harness::{FakeProvider, Script, Server};
use crate::heard::{Heard, blocks};
use crate::seed::{Random, Seed};
use crate::watchers::{get, most_bytes, most_time, poll, rest, take, watch};

const STREAMS: usize = 4;
const FRAMES: usize = 200;
/// Viewers of each stream on each surface, and pollers of each.
const WATCHERS: usize = 6;
/// Viewers of the session over SSE, and over WebSocket.
const MEMBERS: usize = 20;
/// All of it, on a slow machine.
const LIMIT: Duration = Duration::from_secs(120);

/// What one scripted answer says.
struct Said {
    text: String,
    reasoning: String,
}

/// Words and thoughts, alone and in one frame, in pieces that cut through characters, at an uneven pace.
fn answer(random: &mut Random, tag: usize) -> (Script, Said) {
    let mut said = Said { text: String::new(), reasoning: String::new() };
    let mut script = Script::stream();
    for n in 0..FRAMES {
        let word = format!("{}{tag}.{n} ", random.pick(&["🦀", "wörd", "世界", "\n", "e\u{301}", "👩‍👩‍👧"]));
        let thought = format!("({n}世)");
        let delta = match random.below(20) {
            0 => json!({}),
            1 | 2 => json!({"reasoning_content": thought}),
            3..7 => json!({"reasoning_content": thought, "content": word}),
            _ => json!({"content": word}),
        };
        said.text.push_str(delta["content"].as_str().unwrap_or_default());
        said.reasoning.push_str(delta["reasoning_content"].as_str().unwrap_or_default());
        let frame = chunk(&delta, &Value::Null);
        let size = if random.chance(30) { 1 + random.below(60) } else { usize::MAX };
        script = script.send_in(frame, size);
        // In bursts, so that a machine that is late for each pause does not stretch the whole.
        if n % 6 == 0 {
            script = script.sleep(Duration::from_millis(random.below(90) as u64));
        }
    }
    (script.finish(), said)
}

/// A session's viewer: what it has of each stream.
type Gathered = BTreeMap<String, Heard>;

fn complete(gathered: &Gathered) -> bool {
    gathered.values().filter(|heard| heard.ended).count() == STREAMS
}

/// Watches the session's mirror over SSE.
async fn mirror(address: SocketAddr, mut random: Random) -> Gathered {
    let (mut gathered, mut id) = (Gathered::new(), None::<String>);
    while !complete(&gathered) {
        let wrong = random.chance(6).then(|| spoiled(&mut random, id.as_deref()));
        let held = wrong.clone().or_else(|| id.clone());
        let path = "/v1/sessions/sim/events";
        let got = get(address, path, held.as_deref(), most_bytes(&mut random), most_time(&mut random)).await;
        rest(&mut random).await;
        if got.status == 0 {
            continue;
        }
        assert_eq!(got.status, 200, "{}", String::from_utf8_lossy(&got.body));
        for (at, block) in blocks(&got.body).into_iter().enumerate() {
            let data: Value = serde_json::from_str(&block.data).expect("JSON");
            let stream = data["stream"].as_str().map(str::to_owned);
            assert!(at > 0 || wrong.is_none() || block.event == "reset", "{held:?}: {block:?}");
            if block.event == "reset" {
                // Of one stream, or of all. It has no id, so the one that was sent stays the last.
                match stream {
                    Some(stream) => drop(gathered.remove(&stream)),
                    None => gathered.clear(),
                }
                id = held.clone();
                continue;
            }
            let heard = gathered.entry(stream.expect("every event names its stream")).or_default();
            heard.event(Surface::Native, &block);
            id = block.id;
        }
    }
    gathered
}

/// An id that cannot be resumed from: no id at all, another log's, or a place that does not exist yet.
fn spoiled(random: &mut Random, id: Option<&str>) -> String {
    match (random.below(3), id) {
        (0, Some(id)) if id.contains('~') => {
            let (before, last) = id.rsplit_once('.').expect("a composite id");
            format!("{before}.{}", last.len() * 1_000_000_000)
        }
        (1, Some(id)) => format!("{}-0000-0009999999", &id[..26]),
        (2, _) => "01jxk3v9c2m4n5p6q7r8s9t0va-0000-0000000002~1.0.5".into(),
        _ => "~".into(),
    }
}

/// Watches the session over WebSocket.
async fn member(server: Arc<Server>, mut random: Random) -> Gathered {
    let (mut gathered, mut places) = (Gathered::new(), BTreeMap::<String, String>::new());
    while !complete(&gathered) {
        if random.chance(15)
            && let Some(stream) = places.keys().nth(random.below(places.len().max(1))).cloned()
        {
            // It came by another way to where it is now: positions are the same on all of them.
            let snapshot = server.json(&format!("/v1/streams/{stream}")).await;
            let text = snapshot["text"].as_str().expect("text").to_owned();
            gathered.insert(stream.clone(), Heard { text, ..Heard::default() });
            places.insert(stream, snapshot["position"].as_str().expect("a position").to_owned());
        }
        let mut after = places.clone();
        if random.chance(10)
            && let Some(place) = after.values_mut().next()
        {
            *place = random.pick(&["?", "01jxk3v9c2m4n5p6q7r8s9t0va-0000-0000000002"]).to_string();
        }
        let after: Vec<(&str, &str)> = after.iter().map(|(log, id)| (log.as_str(), id.as_str())).collect();
        let mut socket = Socket::open(&server, "sim", &[]).await.expect("a socket");
        socket.hello(&after).await;
        let (until, most) = (Instant::now() + most_time(&mut random), 1 + random.below(60));
        for _ in 0..most {
            let Ok(received) = timeout_at(until, socket.next()).await else { break };
            let Received::Json(message) = received else { break };
            hear(&mut gathered, &mut places, &message);
            if complete(&gathered) {
                break;
            }
        }
        if random.chance(50) {
            socket.leave().await;
        }
        rest(&mut random).await;
    }
    gathered
}

fn hear(gathered: &mut Gathered, places: &mut BTreeMap<String, String>, message: &Value) {
    match message["type"].as_str().expect("a type") {
        "reset" => {
            let log = message["data"]["log"].as_str().expect("a log");
            gathered.remove(log);
            places.remove(log);
        }
        "welcome" => {
            for summary in message["data"]["streams"].as_array().expect("a list") {
                let stream = summary["stream"].as_str().expect("a stream").to_owned();
                let Some(text) = summary["text"].as_str() else {
                    let place = places.get(&stream).expect("nothing for one that has nothing");
                    let all = *place == summary["position"] && summary["status"] != "running";
                    gathered.entry(stream).or_default().ended |= all;
                    continue;
                };
                let ended = summary["status"] != "running";
                let heard = Heard { text: text.to_owned(), ended, ..Heard::default() };
                gathered.insert(stream.clone(), heard);
                places.insert(stream, summary["position"].as_str().expect("a position").to_owned());
            }
        }
        _ => {
            let Some(stream) = message["stream"].as_str() else { return };
            take(gathered.entry(stream.to_owned()).or_default(), message);
            let place = message["position"].as_str().expect("a position").to_owned();
            places.insert(stream.to_owned(), place);
        }
    }
}

/// Who collected what, of which stream.
struct Report {
    who: String,
    heard: BTreeMap<String, Heard>,
    reasoning: bool,
}

/// Each viewer comes when it likes: at once, in the middle, or when all is over.
async fn arrive(random: &mut Random) {
    sleep(Duration::from_millis(random.below(2_500) as u64 * random.below(2) as u64)).await;
}

/// Every surface whose clients are sent ids: all but Gemini's.
const RESUMABLE: [Surface; 6] = [
    Surface::Native,
    Surface::Plain,
    Surface::OpenAiChat,
    Surface::OpenAiResponses,
    Surface::Anthropic,
    Surface::AiSdk,
];

fn spawn_watchers(viewers: &mut JoinSet<Report>, random: &mut Random, server: &Server, ids: &[String]) {
    let (stream, other) = (ids[ids.len() - 1].clone(), ids[0].clone());
    let other = if other == stream { "01jxk3v9c2m4n5p6q7r8s9t0va".into() } else { other };
    let address = server.address;
    for n in 0..WATCHERS {
        for surface in RESUMABLE {
            let (stream, other, mut own) = (stream.clone(), other.clone(), random.fork());
            viewers.spawn(async move {
                arrive(&mut own).await;
                let heard = watch(vec![address], stream.clone(), other, surface, own).await;
                let who = format!("{} #{n} ({} resets)", surface.name(), heard.resets.len());
                Report { who, heard: [(stream, heard)].into(), reasoning: surface != Surface::Plain }
            });
        }
        let (stream, other, mut own) = (stream.clone(), other.clone(), random.fork());
        viewers.spawn(async move {
            arrive(&mut own).await;
            let heard = poll(vec![address], stream.clone(), other, own).await;
            Report { who: format!("poll #{n}"), heard: [(stream, heard)].into(), reasoning: true }
        });
    }
}

fn spawn_members(viewers: &mut JoinSet<Report>, random: &mut Random, server: &Arc<Server>) {
    for n in 0..MEMBERS {
        let (address, mut own) = (server.address, random.fork());
        viewers.spawn(async move {
            arrive(&mut own).await;
            Report { who: format!("mirror #{n}"), heard: mirror(address, own).await, reasoning: true }
        });
        let (server, mut own) = (server.clone(), random.fork());
        viewers.spawn(async move {
            arrive(&mut own).await;
            // A snapshot in `welcome` holds the text only.
            Report { who: format!("socket #{n}"), heard: member(server, own).await, reasoning: false }
        });
    }
}

/// Where two texts part, for a message that can be read.
fn difference(got: &str, expected: &str) -> String {
    let at = got.chars().zip(expected.chars()).take_while(|(a, b)| a == b).count();
    let near = |text: &str| text.chars().skip(at.saturating_sub(20)).take(60).collect::<String>();
    format!("after {at} characters: got {:?}, the log has {:?}", near(got), near(expected))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_comes_back_misses_nothing() {
    let seed = Seed::of_this_run();
    let mut random = seed.random();
    let (scripts, said): (Vec<_>, Vec<_>) = (0..STREAMS).map(|tag| answer(&mut random, tag)).unzip();
    let provider = FakeProvider::new(scripts).await;
    let server = Arc::new(Server::before(&provider, "[fanout]\ntick_ms = 20\n").await);
    let (mut viewers, mut ids) = (JoinSet::new(), Vec::new());
    // The first viewer makes the session: whoever came with a position before that would rightly get 404.
    let first = get(server.address, "/v1/sessions/sim/events", None, 100_000, Duration::from_millis(300));
    assert_eq!(first.await.status, 200);
    spawn_members(&mut viewers, &mut random, &server);
    for n in 0..STREAMS {
        ids.push(server.start(&json!({"model": "fake/m", "input": "go", "session": "sim"})).await);
        // Scripts are given out in the order of the provider's requests.
        provider.request(n).await;
        spawn_watchers(&mut viewers, &mut random, &server, &ids);
        sleep(Duration::from_millis(random.below(300) as u64)).await;
    }
    let mut logs = BTreeMap::new();
    for (id, said) in ids.iter().zip(&said) {
        let log = server.ended(id).await;
        assert_eq!(log["status"], "completed");
        assert!(log["text"] == said.text, "{}", difference(log["text"].as_str().expect("text"), &said.text));
        assert!(log["reasoning"] == said.reasoning);
        logs.insert(id.clone(), said);
    }
    let (mut seen, mut wrong) = (0, Vec::new());
    let all = async {
        while let Some(report) = viewers.join_next().await {
            let Report { who, heard, reasoning } = report.expect("a viewer");
            seen += 1;
            for (stream, heard) in heard {
                let log = logs[&stream];
                if heard.text != log.text {
                    wrong.push(format!("{who}, {stream}: text {}", difference(&heard.text, &log.text)));
                }
                if reasoning && heard.reasoning != log.reasoning {
                    let difference = difference(&heard.reasoning, &log.reasoning);
                    wrong.push(format!("{who}, {stream}: reasoning {difference}"));
                }
            }
        }
    };
    assert!(timeout(LIMIT, all).await.is_ok(), "some viewers never came to the end; {seen} did");
    assert_eq!(seen, STREAMS * WATCHERS * (RESUMABLE.len() + 1) + 2 * MEMBERS);
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
    let Ok(server) = Arc::try_unwrap(server) else { panic!("a viewer still holds the server") };
    server.finish().await;
}

/// An id that names a stream which the session no longer knows: all is reset, and all that is kept follows.
#[tokio::test]
async fn a_reset_of_a_whole_session_is_followed_by_all_of_it() {
    let provider = FakeProvider::new([Script::answer(&["all ", "of ", "it"])]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&json!({"model": "fake/m", "input": "go", "session": "sim"})).await;
    server.ended(&id).await;
    let room = server.json("/v1/sessions/sim").await["position"].as_str().expect("a position").to_owned();
    let held = format!("{room}~1.0.3~99.0.5");
    let patience = Duration::from_millis(800);
    let got = get(server.address, "/v1/sessions/sim/events", Some(&held), usize::MAX, patience).await;
    let events = blocks(&got.body);
    assert_eq!(events[0].data, r#"{"reason":"expired"}"#);
    assert_eq!(events[1].event, "start");
    assert_eq!(Heard::of(Surface::Native, &got.body).text, "all of it");
    server.finish().await;
}
