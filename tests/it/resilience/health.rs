//! Circuits and key pools: who is not asked for a while, and who is asked instead.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{PLAIN, ask, done, model, notices, replay};
use crate::harness::sse::{text_of, types};
use crate::harness::{Answer, FakeProvider, Gate, Script, Server, chat};

fn boom() -> Script {
    Script::json(500, &json!({"error": {"message": "boom"}}))
}

const TWO: &str = "retry = { attempts = 1 }\nbreaker = { failures = 2, open_ms = 3600000 }";

#[tokio::test]
async fn a_target_that_keeps_failing_is_passed_over() {
    let (bad, good) = (FakeProvider::new([boom()]).await, FakeProvider::new([Script::answer(&["x"])]).await);
    let server = Server::new(&model(&[("a", &bad), ("b", &good)], TWO)).await;
    for _ in 0..4 {
        let events = replay(&server, &ask()).await;
        assert_eq!(notices(&events), [("fallback".to_owned(), "b".to_owned())]);
        assert_eq!(text_of(&events), "x");
    }
    assert_eq!((bad.calls(), good.calls()), (2, 4));
    let report = server.app.relay.health.report();
    assert_eq!(report.iter().map(|target| target.circuit).collect::<Vec<_>>(), ["open"]);
    let ready = server.json("/readyz").await;
    assert_eq!(ready["status"], "ready", "others may answer");
    let targets = &ready["checks"]["providers"]["targets"];
    assert_eq!(*targets, json!([{"provider": "a", "model": "fake-1", "circuit": "open"}]));
    assert_eq!(ready["checks"]["providers"]["ok"], false);
    server.app.sweep().await;
    assert_eq!(server.metric("relaystream_circuits_open{provider=\"a\"}"), 1.0);
    server.finish().await;
}

/// Its provider's own word is what a client wants, and to be answered as soon as it is back.
#[tokio::test]
async fn with_nobody_else_to_ask_a_resting_target_is_asked_once_by_each_request() {
    let failures = (0..5).map(|n| Script::json(503, &json!({"error": {"message": format!("down {n}")}})));
    let bad = FakeProvider::new([failures.collect(), vec![Script::answer(&["back"])]].concat()).await;
    let settings =
        "retry = { attempts = 2, base_ms = 1, max_ms = 5 }\nbreaker = { failures = 2, open_ms = 3600000 }";
    let server = Server::new(&model(&[("a", &bad)], settings)).await;
    let mut chat = chat();
    chat["model"] = "m".into();
    // The first one is asked again, which opens the circuit; from then on there are no retries.
    for last in [1, 2, 3, 4] {
        let answer = Answer::of(server.send(server.post("/v1/chat/completions", &chat)).await).await;
        assert_eq!((answer.status, answer.header("x-should-retry")), (503, "false"));
        assert!(answer.text.contains(&format!("down {last}")), "{}", answer.text);
        assert_eq!((bad.calls(), server.app.relay.health.report()[0].circuit), (last + 1, "open"));
    }
    let events = replay(&server, &ask()).await;
    assert_eq!((types(&events), text_of(&events)), (vec!["start", "token", "usage", "done"], "back".into()));
    assert_eq!(server.app.relay.health.report()[0].circuit, "closed");
    server.finish().await;
}

#[tokio::test]
async fn when_all_targets_rest_only_one_of_them_is_asked() {
    let (first, next) = (FakeProvider::new([boom()]).await, FakeProvider::new([boom()]).await);
    let server = Server::new(&model(&[("a", &first), ("b", &next)], TWO)).await;
    for _ in 0..2 {
        assert_eq!(notices(&replay(&server, &ask()).await).len(), 1);
    }
    let events = replay(&server, &ask()).await;
    assert_eq!(
        (types(&events), &done(&events)["error"]["code"]),
        (vec!["start", "done"], &json!("upstream_status"))
    );
    assert_eq!((first.calls(), next.calls()), (3, 2));
    server.finish().await;
}

/// Streams that were cut together would open the circuit for each other.
#[tokio::test]
async fn what_was_begun_is_gone_on_with_whatever_the_circuit_says() {
    let scripts =
        [Script::stream().token("Hel").cut(), Script::stream().token("lo ").cut(), Script::answer(&["you"])];
    let provider = FakeProvider::new(scripts).await;
    let settings = "retry = { attempts = 1 }\nbreaker = { failures = 1, open_ms = 3600000 }";
    let server = Server::new(&model(&[("a", &provider)], settings)).await;
    let events = replay(&server, &ask()).await;
    assert_eq!((text_of(&events).as_str(), &done(&events)["status"]), ("Hello you", &json!("completed")));
    let continued = ("continued".to_owned(), "a".to_owned());
    assert_eq!(notices(&events), [continued.clone(), continued]);
    server.finish().await;
}

#[tokio::test]
async fn what_is_the_clients_or_a_success_does_not_open_a_circuit() {
    let refusal = || Script::json(400, &json!({"error": {"message": "no"}}));
    let busy = || Script::status(429, &[], "{}");
    let scripts = [boom(), Script::answer(&["x"]), boom(), refusal(), busy(), busy(), Script::answer(&["y"])];
    let provider = FakeProvider::new(scripts).await;
    let server = Server::new(&model(&[("a", &provider)], TWO)).await;
    for _ in 0..7 {
        replay(&server, &ask()).await;
    }
    assert_eq!(provider.calls(), 7);
    server.finish().await;
}

#[tokio::test]
async fn after_its_rest_one_request_tries_a_target_and_the_others_do_not_wait_for_it() {
    let gate = Gate::default();
    let back = Script::default().wait(&gate).head(200, &[("content-type", "text/event-stream")]);
    let back = back.raw(format!(
        "{}{}",
        crate::harness::provider::frame("back"),
        crate::harness::provider::closing()
    ));
    let bad = FakeProvider::new([boom(), boom(), back, Script::answer(&["again"])]).await;
    let good = FakeProvider::new([Script::answer(&["x"])]).await;
    let settings = "retry = { attempts = 1 }\nbreaker = { failures = 2, open_ms = 100 }";
    let server = Server::new(&model(&[("a", &bad), ("b", &good)], settings)).await;
    for _ in 0..2 {
        replay(&server, &ask()).await;
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
    let probe = server.start(&ask()).await;
    bad.request(2).await;
    assert_eq!(server.app.relay.health.report()[0].circuit, "half-open");
    assert_eq!(text_of(&replay(&server, &ask()).await), "x");
    assert_eq!(bad.calls(), 3);
    gate.open();
    assert_eq!(server.ended(&probe).await["text"], "back");
    assert_eq!(server.app.relay.health.report()[0].circuit, "closed");
    assert_eq!(text_of(&replay(&server, &ask()).await), "again");
    server.finish().await;
}

#[tokio::test]
async fn deaths_in_the_middle_of_an_answer_count() {
    let bad = FakeProvider::new([Script::stream().token("Hel").cut()]).await;
    let good = FakeProvider::new([Script::answer(&["x"])]).await;
    let settings = format!("{TWO}\ncontinue = false");
    let server = Server::new(&model(&[("a", &bad), ("b", &good)], &settings)).await;
    let mut texts = Vec::new();
    for _ in 0..3 {
        texts.push(text_of(&replay(&server, &ask()).await));
    }
    assert_eq!(texts, ["Hel", "Hel", "x"]);
    server.finish().await;
}

/// A provider that knows these keys' fates.
async fn keyed(refused: &'static [(&'static str, u16)]) -> FakeProvider {
    FakeProvider::by(move |_, request| {
        let key = request.header("authorization").trim_start_matches("Bearer ").to_owned();
        match refused.iter().find(|(name, _)| *name == key) {
            Some((_, status)) => Script::status(*status, &[("retry-after", "60")], "{}"),
            None => Script::answer(&[key.as_str()]),
        }
    })
    .await
}

fn pool(provider: &FakeProvider, keys: &str) -> String {
    let own = provider.named("a").replace("[\"sk-fake\"]", keys);
    format!("[models.m]\ntargets = [{{ provider = \"a\", model = \"x\" }}]\n{PLAIN}\n{own}")
}

#[tokio::test]
async fn a_refused_key_rests_and_the_next_takes_over() {
    for refused in [&[("k1", 401)], &[("k1", 403)], &[("k1", 429)]] {
        let provider = keyed(refused).await;
        let server = Server::new(&pool(&provider, "[\"k1\", \"k2\"]")).await;
        let began = Instant::now();
        let events = replay(&server, &ask()).await;
        assert_eq!((text_of(&events).as_str(), notices(&events)[0].0.as_str()), ("k2", "retried"));
        assert!(began.elapsed() < Duration::from_secs(30), "another key need not wait");
        // From now on nobody comes with the one that rests.
        assert_eq!((text_of(&replay(&server, &ask()).await).as_str(), provider.calls()), ("k2", 3));
        assert!(server.app.relay.health.report().is_empty(), "it is not the provider's failure");
        server.app.sweep().await;
        assert_eq!(server.metric("relaystream_keys_resting{provider=\"a\"}"), 1.0);
        server.finish().await;
    }
}

/// Each key has its turn, and then it is enough.
#[tokio::test]
async fn keys_that_are_all_told_to_slow_down_are_no_storm() {
    for wait in ["0", "1"] {
        let busy = move || Script::status(429, &[("retry-after", wait)], "{}");
        let provider = FakeProvider::new([busy()]).await;
        let server =
            Server::new(&pool(&provider, "[\"k1\", \"k2\", \"k3\"]").replace("attempts = 1", "attempts = 2"))
                .await;
        assert_eq!(done(&replay(&server, &ask()).await)["error"]["code"], "upstream_status");
        assert_eq!(provider.calls(), 3, "wait {wait}");
        server.finish().await;
    }
}

#[tokio::test]
async fn when_every_key_is_refused_the_client_is_told() {
    let provider = keyed(&[("k1", 401), ("k2", 401)]).await;
    let server = Server::new(&pool(&provider, "[\"k1\", \"k2\"]")).await;
    let mut chat = chat();
    chat["model"] = "m".into();
    let answer = Answer::of(server.send(server.post("/v1/chat/completions", &chat)).await).await;
    assert_eq!((answer.status, provider.calls()), (401, 2));
    server.finish().await;
}
