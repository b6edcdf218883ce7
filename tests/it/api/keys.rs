//! `Idempotency-Key`: the same request again gets the same stream.

use serde_json::{Value, json};

use crate::harness::provider::nobody;
use crate::harness::sse::text_of;
use crate::harness::{Answer, BROKEN_FOR_GOOD, FakeProvider, Gate, Script, Server, chat, hi};

async fn start(server: &Server, path: &str, body: &Value, key: &str) -> Answer {
    Answer::of(server.send(server.post(path, body).header("idempotency-key", key)).await).await
}

#[tokio::test]
async fn the_same_key_and_request_give_the_same_stream() {
    let provider = FakeProvider::new([Script::answer(&["Hello"])]).await;
    let server = Server::before(&provider, "").await;
    let first = start(&server, "/v1/streams", &hi(), "k1").await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (201, ""));
    let id = first.header("x-stream-id").to_owned();
    // While it runs, and when it has ended; fields in any order, null is absent.
    for body in [hi(), json!({"input": "Hi", "model": "fake-1", "seed": null})] {
        let again = start(&server, "/v1/streams", &body, "k1").await;
        assert_eq!((again.status, again.header("idempotent-replayed")), (200, "true"));
        assert_eq!(again.header("x-stream-id"), id);
        assert_eq!(again.json()["id"], id.as_str());
        server.ended(&id).await;
    }
    let other = start(&server, "/v1/streams", &hi(), "k2").await;
    assert_ne!(other.header("x-stream-id"), id);
    server.ended(other.header("x-stream-id")).await;
    assert_eq!(provider.calls(), 2);
    server.finish().await;
}

#[tokio::test]
async fn the_same_key_for_another_request_is_refused() {
    let provider = FakeProvider::new([Script::answer(&["Hello"])]).await;
    let server = Server::before(&provider, "").await;
    let first = start(&server, "/v1/streams", &hi(), "k1").await;
    server.ended(first.header("x-stream-id")).await;
    let others = [
        json!({"model": "fake-1", "input": "Ho"}),
        json!({"model": "fake-2", "input": "Hi"}),
        json!({"model": "fake-1", "input": "Hi", "temperature": 1}),
        json!({"model": "fake-1", "input": "Hi", "session": "other"}),
        json!({"model": "fake-1", "input": "Hi", "metadata": {"a": 1}}),
        json!({"model": "fake-1", "input": "Hi", "on_disconnect": "cancel"}),
    ];
    for body in others {
        let answer = start(&server, "/v1/streams", &body, "k1").await;
        assert_eq!((answer.status, answer.code().as_str()), (409, "idempotency_key_reused"), "{body}");
    }
    assert_eq!(provider.calls(), 1);
    server.finish().await;
}

#[tokio::test]
async fn keys_count_on_chat_completions_too_and_replay_from_the_first_byte() {
    let provider = FakeProvider::new([Script::answer(&["Hello", " world"])]).await;
    let server = Server::before(&provider, "").await;
    let mut bodies = Vec::new();
    for replayed in ["", "true"] {
        let request = server.post("/v1/chat/completions", &chat()).header("idempotency-key", "k1");
        let mut answer = server.sse_of(request).await;
        assert_eq!(answer.header("idempotent-replayed"), replayed);
        answer.rest().await;
        bodies.push((answer.header("x-stream-id").to_owned(), answer.text()));
    }
    assert_eq!(bodies[0], bodies[1]);
    assert_eq!(provider.calls(), 1);
    let conflict = start(
        &server,
        "/v1/chat/completions",
        &json!({"model": "fake-1", "stream": true,
        "messages": [{"role": "user", "content": "Ho"}]}),
        "k1",
    )
    .await;
    assert_eq!((conflict.status, conflict.code().as_str()), (409, "idempotency_key_reused"));
    server.finish().await;
}

#[tokio::test]
async fn the_same_key_at_the_same_time_asks_once() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::stream().wait(&gate).token("Hello").finish()]).await;
    let server = Server::before(&provider, "").await;
    let body = hi();
    let answers =
        futures_util::future::join_all((0..8).map(|_| start(&server, "/v1/streams", &body, "k1"))).await;
    let id = answers[0].header("x-stream-id");
    assert!(answers.iter().all(|answer| answer.header("x-stream-id") == id));
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    gate.open();
    assert_eq!(text_of(&server.replay(id).await), "Hello");
    assert_eq!(provider.calls(), 1);
    server.finish().await;
}

#[tokio::test]
async fn a_stream_that_failed_before_its_first_event_gives_its_key_back() {
    let refusal = Script::json(400, &json!({"error": {"message": "no"}}));
    let provider = FakeProvider::new([refusal, Script::answer(&["Hello"])]).await;
    let server = Server::before(&provider, "").await;
    let first = start(&server, "/v1/streams", &hi(), "k1").await;
    assert_eq!(server.ended(first.header("x-stream-id")).await["status"], "failed");
    let again = async {
        loop {
            let again = start(&server, "/v1/streams", &hi(), "k1").await;
            if again.status == 201 {
                return again.header("x-stream-id").to_owned();
            }
            // The key is given back a moment after the end.
            assert_eq!(again.header("x-stream-id"), first.header("x-stream-id"));
        }
    };
    let id = crate::harness::soon("the key", again).await;
    assert_eq!(server.ended(&id).await["text"], "Hello");
    server.finish().await;
}

#[tokio::test]
async fn one_that_failed_later_or_said_nothing_at_all_keeps_it() {
    let empty = Script::stream().finish();
    let provider = FakeProvider::new([Script::stream().token("Hel").cut(), empty]).await;
    let server = Server::before(&provider, BROKEN_FOR_GOOD).await;
    for (key, status) in [("k1", "failed"), ("k2", "completed")] {
        let first = start(&server, "/v1/streams", &hi(), key).await;
        let id = first.header("x-stream-id");
        assert_eq!(server.ended(id).await["status"], status);
        // Long enough for a key to be given back that should not be.
        tokio::task::yield_now().await;
        let again = start(&server, "/v1/streams", &hi(), key).await;
        assert_eq!((again.status, again.header("x-stream-id")), (200, id), "{status}");
    }
    server.finish().await;
}

#[tokio::test]
async fn a_key_is_its_users_own_and_its_form_is_checked() {
    let config = "[[auth.keys]]\nkey = \"a\"\nuser = \"ann\"\n[[auth.keys]]\nkey = \"b\"\nuser = \"bob\"\n";
    let server = Server::new(config).await;
    let body = json!({"model": "demo-fast", "input": "Hi"});
    let mut ids = Vec::new();
    for key in ["a", "b"] {
        let request = server.post("/v1/streams", &body).bearer_auth(key).header("idempotency-key", "k1");
        let answer = Answer::of(server.send(request).await).await;
        assert_eq!(answer.status, 201);
        ids.push(answer.header("x-stream-id").to_owned());
    }
    assert_ne!(ids[0], ids[1]);
    for bad in [String::new(), "x".repeat(256)] {
        let request = server.post("/v1/streams", &body).bearer_auth("a").header("idempotency-key", bad);
        assert_eq!(server.send(request).await.status(), 400);
    }
    server.finish().await;
}

#[tokio::test]
async fn a_forgotten_stream_gives_its_key_back() {
    let nobody = nobody();
    let server = Server::new(&nobody.config()).await;
    let body = json!({"model": "demo-fast", "input": "Hi"});
    let first = start(&server, "/v1/streams", &body, "k1").await;
    let id = first.header("x-stream-id");
    server.ended(id).await;
    assert_eq!(server.send(server.delete(&format!("/v1/streams/{id}"))).await.status(), 204);
    let again = start(&server, "/v1/streams", &body, "k1").await;
    assert_eq!(again.status, 201);
    server.ended(again.header("x-stream-id")).await;
    server.finish().await;
}
