//! What answers cost: budgets that end them, counts that are kept, and how slow is too slow.

use std::time::Duration;

use serde_json::{Value, json};

use super::{PLAIN, ask, done, model, replay};
use crate::harness::sse::text_of;
use crate::harness::{Answer, FakeProvider, Script, Server, chat, hi, soon};

fn endless() -> Script {
    let script = Script::stream().token("first");
    (0..1000).fold(script, |script, _| script.token("word word word ").sleep(Duration::from_millis(2)))
}

#[tokio::test]
async fn a_stream_ends_when_its_users_tokens_are_spent_and_the_next_is_refused() {
    let provider = FakeProvider::new([endless()]).await;
    let server = Server::before(&provider, "[limits]\ntokens_per_day = 60").await;
    let events = replay(&server, &hi()).await;
    let last = done(&events);
    assert_eq!((&last["status"], &last["error"]["code"]), (&json!("failed"), &json!("budget_exceeded")));
    let usage = &last["usage"];
    assert_eq!(usage["estimated"], true);
    let spent = usage["input_tokens"].as_u64().unwrap() + usage["output_tokens"].as_u64().unwrap();
    assert!((60..100).contains(&spent), "{usage}");
    provider.abandoned(0).await;
    for path in ["/v1/streams", "/v1/chat/completions"] {
        let answer = Answer::of(server.send(server.post(path, &chat())).await).await;
        assert_eq!((answer.status, answer.code().as_str()), (429, "budget_exceeded"), "{path}");
        assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    }
    assert_eq!(provider.calls(), 1);
    let counted = server.json("/v1/usage").await;
    assert_eq!((&counted["streams"], &counted["estimated_tokens"]), (&json!(1), &json!(spent)));
    assert_eq!(counted["output_tokens"], usage["output_tokens"]);
    assert_eq!(counted["budgets"], json!({"minute": null, "day": {"limit": 60, "left": 0}}));
    server.finish().await;
}

#[tokio::test]
async fn budgets_are_each_users_own_and_refill() {
    let provider = FakeProvider::new([endless(), Script::answer(&["ok"])]).await;
    let config = "[[auth.keys]]\nkey = \"a\"\nuser = \"ann\"\n[[auth.keys]]\nkey = \"b\"\nuser = \"bob\"\n\
                  [limits]\ntokens_per_minute = 120\n";
    let server = Server::before(&provider, config).await;
    let start = |key: &'static str| {
        let request = server.post("/v1/streams", &hi()).bearer_auth(key);
        async { Answer::of(server.send(request).await).await }
    };
    let first = start("a").await;
    let id = first.header("x-stream-id").to_owned();
    let running = server.app.relay.running(id.parse().unwrap());
    if let Some(running) = running {
        soon("the end of the budget", running.finished.cancelled()).await;
    }
    assert_eq!(start("a").await.status, 429);
    assert_eq!(start("b").await.status, 201);
    // Two come back each second.
    let again = async {
        while start("a").await.status != 201 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("the refill", again).await;
    crate::harness::eventually("the ends", || server.app.relay.running_count() == 0).await;
    server.finish().await;
}

/// What the provider counted is settled against what was charged roughly as it came.
#[tokio::test]
async fn the_providers_count_is_what_is_charged() {
    let provider = FakeProvider::new([Script::answer(&["x".repeat(200).as_str()])]).await;
    let server = Server::before(&provider, "[limits]\ntokens_per_day = 90").await;
    // Eight tokens each, as counted; more than fifty, as estimated.
    for _ in 0..4 {
        assert_eq!(done(&replay(&server, &hi()).await)["status"], "completed");
    }
    server.finish().await;
}

#[tokio::test]
async fn what_nobody_reads_is_counted() {
    let provider = FakeProvider::new([Script::answer(&["a", "b", "c"])]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    server.ended(&id).await;
    let unread = "relaystream_upstream_tokens_unread_total";
    assert_eq!(server.metric(unread), 3.0);
    let mut viewer = server.sse_of(server.post("/v1/chat/completions", &chat())).await;
    viewer.rest().await;
    assert_eq!(server.metric(unread), 3.0);
    drop(viewer);
    server.finish().await;
}

#[tokio::test]
async fn a_cancelled_answers_cost_is_kept() {
    let provider =
        FakeProvider::new([Script::stream().token("twelve bytes").stall(), Script::silence()]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let mut viewer = server.sse(&format!("/v1/streams/{id}/events")).await;
    viewer.until("token").await;
    let snapshot = server.cancel(&id).await;
    assert_eq!(snapshot["usage"], json!({"input_tokens": 8, "output_tokens": 3, "estimated": true}));
    // Nothing came of this one.
    let id = server.start(&hi()).await;
    provider.request(1).await;
    assert_eq!(server.cancel(&id).await["usage"], Value::Null);
    drop(viewer);
    server.finish().await;
}

#[tokio::test]
async fn a_cancel_is_with_the_provider_at_once() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, "").await;
    let mut best = Duration::MAX;
    for n in 0..5 {
        let id = server.start(&hi()).await;
        let mut viewer = server.sse(&format!("/v1/streams/{id}/events")).await;
        viewer.until("token").await;
        let began = tokio::time::Instant::now();
        server.cancel(&id).await;
        provider.abandoned(n).await;
        best = best.min(began.elapsed());
    }
    // The best of five: what else this machine does is not the matter.
    assert!(best < Duration::from_millis(100), "{best:?}");
    server.finish().await;
}

#[tokio::test]
async fn who_speaks_too_slowly_has_failed() {
    let slow =
        (0..200).fold(Script::stream(), |script, _| script.token("x").sleep(Duration::from_millis(200)));
    let slow = FakeProvider::new([slow]).await;
    let next = FakeProvider::new([Script::answer(&[" the rest"])]).await;
    let settings = format!("{PLAIN}\nmin_tokens_per_s = 10.0");
    let server = Server::new(&model(&[("a", &slow), ("b", &next)], &settings)).await;
    let events = replay(&server, &ask()).await;
    slow.abandoned(0).await;
    assert!(text_of(&events).ends_with("xx the rest"), "{}", text_of(&events));
    let notice = events.iter().find(|event| event.event == "notice").expect("a seam").json();
    assert!(notice["message"].as_str().unwrap().contains("tokens a second"), "{notice}");
    assert_eq!(server.metric("relaystream_upstream_errors_total{code=\"too_slow\"}"), 1.0);
    server.finish().await;
}
