//! Bad networks on both sides: between us and the provider, and between us and the viewers. Answers come out whole, or say
//! that they are not.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use relaystream::surface::Surface;
use serde_json::{Value, json};

use super::{PLAIN, TIRELESS, assert_gapless, before, done};
use crate::harness::provider::Request;
use crate::harness::sse::text_of;
use crate::harness::{Conditions, FakeProvider, PATIENCE, Script, Server, Toxic, soon};
use crate::heard::Heard;
use crate::seed::{Random, Seed};
use crate::watchers::get;

const STREAMS: usize = 24;
const WORDS: usize = 150;
/// Any answer takes more bytes, on each of the sockets here.
const LEAST: usize = 12_000;

/// What lies between us and a stream's provider.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Slow,
    /// It breaks connections, and answers are gone on with.
    GoneOnWith,
    /// It breaks them, and they are not.
    Broken,
}

const KINDS: [Kind; 3] = [Kind::Slow, Kind::GoneOnWith, Kind::Broken];

/// No two words alike, in characters of every length.
fn whole() -> String {
    (0..WORDS).map(|n| format!("{}{n} ", ["wörd", "世界", "🦀", "\n"][n % 4])).collect()
}

fn answer(request: &Request) -> Script {
    let (whole, said) = (whole(), before(request).map_or(String::new(), |(said, _)| said));
    let rest = whole.strip_prefix(&said).expect("byte for byte what was said");
    Script::answer(&rest.split_inclusive(' ').collect::<Vec<_>>())
}

/// Any mix of conditions.
fn conditions(random: &mut Random, reset: bool) -> Conditions {
    let none = Conditions::default();
    Conditions {
        latency: if random.chance(50) {
            Duration::from_millis(random.below(80) as u64)
        } else {
            none.latency
        },
        bytes_per_s: random.chance(50).then(|| 20_000 + random.below(100_000) as u32),
        slice: if random.chance(50) { 1 + random.below(300) } else { none.slice },
        reset_after: reset.then(|| 1 + random.below(LEAST)),
    }
}

/// A network whose n-th connection is what the seed makes of it. Where it breaks connections, the first one is among them.
async fn network(behind: SocketAddr, mut random: Random, breaks: bool) -> Toxic {
    let root = random.next();
    let choose = move |n| {
        let mut random = Random::new(root.wrapping_add(n as u64));
        let reset = breaks && (n == 0 || random.chance(50));
        conditions(&mut random, reset)
    };
    Toxic::new(behind, choose).await
}

/// A client of the native surface, which comes back with its last id until it has seen the end.
async fn resumes(network: &Toxic, id: &str) -> Heard {
    let (path, mut heard) = (format!("/v1/streams/{id}/events"), Heard::default());
    while !heard.ended {
        let got = get(network.address, &path, heard.id.as_deref(), usize::MAX, PATIENCE).await;
        heard.take(Surface::Native, &got.body);
    }
    heard
}

/// An SDK, which takes what it gets: its text, and whether it takes that for the whole.
async fn reads_once(network: &Toxic, id: &str) -> (String, bool) {
    let path = format!("/v1/streams/{id}/events?format=openai-chat");
    let got = get(network.address, &path, None, usize::MAX, PATIENCE).await;
    let heard = Heard::of(Surface::OpenAiChat, &got.body);
    // An error frame ends it too, but never in `[DONE]`.
    let error = String::from_utf8_lossy(&got.body).contains("data: {\"error\"");
    assert!(!(error && got.whole), "{id}: an error and then a clean end");
    (heard.text, got.whole && heard.ended)
}

/// One stream through bad networks; how it ended.
async fn through(server: &Server, n: usize, mut random: Random) -> Value {
    let id = server.start(&json!({"model": format!("m{n}"), "input": "Hi"})).await;
    let viewers = network(server.address, random.fork(), !n.is_multiple_of(4)).await;
    let (resumed, once) = tokio::join!(resumes(&viewers, &id), reads_once(&viewers, &id));
    let events = server.replay(&id).await;
    let (text, done) = (text_of(&events), done(&events));
    assert_gapless(&events, &id);
    assert_eq!((resumed.text, resumed.resets), (text.clone(), Vec::<String>::new()), "{n}: resumed");
    assert!(text.starts_with(&once.0), "{n}: not the text: {}", once.0);
    match done["status"].as_str() {
        Some("completed") => assert_eq!(text, whole(), "{n}"),
        Some("failed") => assert!(!once.1 && whole().starts_with(&text), "{n}: {text}"),
        other => panic!("{n}: {other:?}"),
    }
    assert!(!once.1 || once.0 == whole(), "{n}: taken for the whole: {}", once.0);
    done
}

#[tokio::test]
async fn answers_through_bad_networks_are_whole_or_say_that_they_are_not() {
    let seed = Seed::of_this_run();
    let mut random = seed.random();
    let provider = FakeProvider::by(|_, request| answer(request)).await;
    let (mut networks, mut models, mut sections) = (Vec::new(), String::new(), String::new());
    for n in 0..STREAMS {
        let kind = KINDS[n % KINDS.len()];
        let network = network(provider.address, random.fork(), kind != Kind::Slow).await;
        let settings = match kind {
            Kind::Broken => PLAIN.to_owned() + "\ncontinue = false",
            Kind::Slow | Kind::GoneOnWith => TIRELESS.to_owned(),
        };
        models.push_str(&format!(
            "[models.m{n}]\ntargets = [{{ provider = \"p{n}\", model = \"x\" }}]\n{settings}\n"
        ));
        let section = provider.named(&format!("p{n}"));
        sections.push_str(&section.replace(&provider.address.to_string(), &network.address.to_string()));
        networks.push(network);
    }
    let server = Server::new(&(models + &sections)).await;
    let all = (0..STREAMS).map(|n| through(&server, n, random.fork()));
    let ended = soon("all of them", join_all(all.collect::<Vec<_>>())).await;
    for (n, done) in ended.iter().enumerate() {
        let code = done["error"]["code"].as_str();
        let expected = (KINDS[n % KINDS.len()] == Kind::Broken).then_some("upstream_truncated");
        assert_eq!(code, expected, "{n}: {done}");
    }
    assert!(server.metric("relaystream_seams_total{code=\"continued\"}") >= 1.0);
    server.finish().await;
}
