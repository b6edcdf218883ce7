//! A thousand answers at once, every fifth connection to their provider cut somewhere: all come through, nothing stays behind.

use futures_util::future::join_all;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;

use super::{TIRELESS, ask, assert_gapless, before, done, model, notices};
use crate::harness::sse::text_of;
use crate::harness::{FakeProvider, Gate, Script, Server, eventually};
use crate::seed::{Random, Seed};

const STREAMS: usize = 1000;
/// Sockets of both ends of every connection to the provider and of every viewer's, and of what starts them.
const FILES: u64 = 8 * STREAMS as u64;

const TOKENS: [&str; 12] =
    ["Grüße", " aus", " 東", "京", "!", "\n\n", "one", " 🌍", "\n", "two", " 🌍", "\nThe end."];

/// As many open files as this test needs, which is more than a shell allows by default.
fn allow_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|now| now < FILES) {
        let more = rustix::process::Rlimit { current: Some(FILES), ..limit };
        setrlimit(Resource::Nofile, more).expect("so many files may be open");
    }
}

/// The rest of an answer that begins with `said`, to its end, or cut anywhere with a chance of one in five.
fn answer(random: &mut Random, said: &str, script: Script) -> Script {
    let whole = TOKENS.concat();
    let mut rest = whole.strip_prefix(said).expect("byte for byte what was said");
    let mut tokens = Vec::new();
    // Nothing of a token is seen before all of it.
    for token in TOKENS.iter().rev() {
        let Some(shorter) = rest.strip_suffix(token) else { break };
        tokens.insert(0, *token);
        rest = shorter;
    }
    assert_eq!(rest, "", "a token's part was said");
    if !random.chance(20) {
        return script.tokens(&tokens).finish();
    }
    let script = script.tokens(&tokens[..random.below(tokens.len() + 1)]);
    match random.below(3) {
        0 => script.cut(),
        1 => script.reset(),
        _ => script.end(),
    }
}

#[tokio::test]
async fn a_thousand_streams_with_every_fifth_connection_cut_all_come_through() {
    allow_files();
    let (seed, gate) = (Seed::of_this_run(), Gate::default());
    let (root, held) = (seed.0, gate.clone());
    let provider = FakeProvider::by(move |n, request| {
        let mut random = Random::new(root.wrapping_add(n as u64));
        match before(request) {
            None => answer(&mut random, "", Script::stream().wait(&held)),
            Some((said, _)) => answer(&mut random, &said, Script::stream()),
        }
    })
    .await;
    let server = Server::new(&model(&[("a", &provider)], TIRELESS)).await;
    let body = ask();
    let (mut ids, mut viewers) = (Vec::new(), Vec::new());
    while ids.len() < STREAMS {
        // All at once, they would be more than wait to be accepted.
        let batch = join_all((0..100).map(async |_| {
            let id = server.start(&body).await;
            let viewer = server.sse(&format!("/v1/streams/{id}/events")).await;
            (id, viewer)
        }));
        for (id, viewer) in batch.await {
            ids.push(id);
            viewers.push(viewer);
        }
    }
    let open = || server.metric("relaystream_upstream_connections_open") as usize;
    eventually("all of them to be asked", || open() == STREAMS).await;
    // Who is asked anew before the first word waits here too.
    (0..STREAMS * 3).for_each(|_| gate.open());
    let seams = join_all(ids.iter().zip(viewers).map(async |(id, mut viewer)| {
        let events = viewer.rest().await;
        assert_eq!(
            (text_of(&events), &done(&events)["status"]),
            (TOKENS.concat(), &json!("completed")),
            "{id}"
        );
        assert_gapless(&events, id);
        notices(&events).len()
    }))
    .await;
    let asked = provider.calls();
    assert_eq!(asked, STREAMS + seams.iter().sum::<usize>(), "each request more is told, and none twice");
    assert!(asked > STREAMS * 11 / 10, "{asked} requests: too few were cut");
    // Forgotten, none leaves a byte; what else could stay behind, `finish` looks for.
    let store = server.app.relay.store.clone();
    assert!(store.held() > 0);
    join_all(ids.iter().map(async |id| {
        let answer = server.send(server.delete(&format!("/v1/streams/{id}"))).await;
        assert_eq!(answer.status(), 204, "{id}");
    }))
    .await;
    assert_eq!(store.held(), 0);
    server.finish().await;
}
