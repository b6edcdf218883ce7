//! Everything is bounded by bytes: requests, frames, streams, users, all together.

use serde_json::{Value, json};

use crate::harness::provider::frame;
use crate::harness::sse::text_of;
use crate::harness::{Answer, FakeProvider, Script, Server, hi};

fn code(snapshot: &Value) -> (&str, &str) {
    (snapshot["status"].as_str().unwrap(), snapshot["error"]["code"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn an_oversize_request_is_413() {
    let server = Server::new("[limits]\nrequest_bytes = 1000").await;
    let body = json!({"model": "demo-fast", "input": "x".repeat(2000)});
    let mut chunked = server.post("/v1/streams", &json!({}));
    chunked = chunked.body(reqwest::Body::wrap_stream(futures_util::stream::iter(
        (0..100).map(|_| Ok::<_, std::io::Error>("{\"a\": \"0123456789\"}")),
    )));
    for request in [server.post("/v1/streams", &body), server.post("/v1/chat/completions", &body), chunked] {
        let answer = Answer::of(server.send(request).await).await;
        assert_eq!((answer.status, answer.code().as_str()), (413, "too_large"));
        assert!(answer.text.contains("1000 bytes"), "{}", answer.text);
    }
    server.finish().await;
}

#[tokio::test]
async fn a_frame_or_a_stream_beyond_its_limit_ends_too_large() {
    let long = "x".repeat(3000);
    for (limit, script, text) in [
        ("event_bytes = 2000", Script::stream().token("ok").send(frame(&long)).stall(), "ok"),
        ("event_bytes = 2000", Script::stream().token("ok").send("x".repeat(3000)).stall(), "ok"),
        (
            "event_bytes = 2000",
            Script::stream().token("ok").send(format!(": {long}\n").repeat(9)).stall(),
            "ok",
        ),
        ("stream_bytes = 4000", Script::stream().token("ok").token(&long).stall(), "ok"),
    ] {
        let provider = FakeProvider::new([script]).await;
        let server = Server::before(&provider, &format!("[limits]\n{limit}")).await;
        let id = server.start(&hi()).await;
        let events = server.replay(&id).await;
        assert_eq!(text_of(&events), text, "{limit}");
        let done = events.last().unwrap().json();
        assert_eq!(
            (&done["status"], &done["error"]["code"]),
            (&json!("failed"), &json!("too_large")),
            "{limit}"
        );
        provider.abandoned(0).await;
        server.finish().await;
    }
}

#[tokio::test]
async fn an_answer_in_one_piece_beyond_the_limit_is_too_large() {
    let body = json!({"choices": [{"message": {"content": "x".repeat(3000)}, "finish_reason": "stop"}]});
    let provider = FakeProvider::new([Script::json(200, &body)]).await;
    let server = Server::before(&provider, "[limits]\nevent_bytes = 2000").await;
    let ask = json!({"model": "fake-1", "messages": [{"role": "user", "content": "Hi"}]});
    let answer = Answer::of(server.send(server.post("/v1/chat/completions", &ask)).await).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "too_large"));
    assert_eq!(provider.calls(), 1);
    server.finish().await;
}

#[tokio::test]
async fn finished_streams_make_room_for_new_ones() {
    for limit in ["total_bytes = 20000", "user_bytes = 20000"] {
        let provider = FakeProvider::new([Script::answer(&["x".repeat(3000).as_str()])]).await;
        let server = Server::before(&provider, &format!("[limits]\n{limit}")).await;
        let mut ids = Vec::new();
        for _ in 0..8 {
            let id = server.start(&hi()).await;
            assert_eq!(code(&server.ended(&id).await), ("completed", ""), "{limit}");
            ids.push(id);
            assert!(server.app.relay.store.held() <= 20_000, "{limit}: {}", server.app.relay.store.held());
        }
        let first = server.send(server.get(&format!("/v1/streams/{}", ids[0]))).await;
        assert_eq!(first.status(), 404, "{limit}");
        assert_eq!(server.json(&format!("/v1/streams/{}", ids[7])).await["status"], "completed");
        server.finish().await;
    }
}

#[tokio::test]
async fn running_streams_that_fill_everything_end_store_full_and_starts_are_refused() {
    for limit in ["total_bytes = 10000", "user_bytes = 10000"] {
        let gate = crate::harness::Gate::default();
        let begun = Script::stream().token("ok").wait(&gate);
        let provider =
            FakeProvider::new([begun.clone().stall(), begun.token(&"x".repeat(9000)).stall()]).await;
        let server = Server::before(&provider, &format!("[limits]\n{limit}")).await;
        let kept = server.start(&hi()).await;
        provider.request(0).await;
        let full = server.start(&hi()).await;
        let mut viewer = server.sse(&format!("/v1/streams/{full}/events")).await;
        viewer.until("token").await;
        gate.open();
        gate.open();
        let done = viewer.until("done").await.pop().unwrap().json();
        assert_eq!(
            (&done["status"], &done["error"]["code"]),
            (&json!("failed"), &json!("store_full")),
            "{limit}"
        );
        // The ending was kept although there was no room, and nobody else's running stream was dropped for it.
        assert_eq!(code(&server.ended(&full).await), ("failed", "store_full"));
        assert_eq!(server.json(&format!("/v1/streams/{kept}")).await["status"], "running");
        server.cancel(&kept).await;
        server.finish().await;
    }
    let server = Server::new("[limits]\ntotal_bytes = 100").await;
    let body = json!({"model": "demo-fast", "input": "Hi"});
    let answer = Answer::of(server.send(server.post("/v1/streams", &body)).await).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "store_full"));
    assert_eq!(server.app.relay.store.held(), 0);
    server.finish().await;
}
