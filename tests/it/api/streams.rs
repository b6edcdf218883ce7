//! `POST /v1/streams` and what can be done with the stream: look, read, cancel, forget.

use serde_json::{Value, json};

use crate::harness::provider::chunk;
use crate::harness::sse::{BodyEnd, text_of, types};
use crate::harness::{Answer, FakeProvider, Gate, Script, Server, hi};

#[tokio::test]
async fn a_start_says_where_everything_is() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::stream().wait(&gate).tokens(&["Hello"]).finish()]).await;
    let server = Server::before(&provider, "").await;
    let body = json!({"model": "fake-1", "input": "Hi", "session": "room-42", "metadata": {"a": 1}});
    let answer = Answer::of(server.send(server.post("/v1/streams", &body)).await).await;
    assert_eq!(answer.status, 201);
    let stream = answer.json();
    let id = stream["id"].as_str().unwrap();
    assert_eq!(id.len(), 26);
    assert_eq!(id, id.to_lowercase());
    assert_eq!(
        stream,
        json!({"id": id, "session": "room-42", "status": "running", "model": "fake-1",
               "position": format!("{id}-0000-0000000001"),
               "links": {"self": format!("/v1/streams/{id}"), "events": format!("/v1/streams/{id}/events"),
                         "poll": format!("/v1/streams/{id}/poll"), "cancel": format!("/v1/streams/{id}/cancel"),
                         "socket": "/v1/sessions/room-42/ws"}})
    );
    assert_eq!(answer.header("location"), format!("/v1/streams/{id}"));
    assert_eq!(answer.header("x-stream-id"), id);
    assert_eq!(answer.header("x-session-id"), "room-42");
    assert_eq!(answer.header("link"), format!("</v1/streams/{id}/events>; rel=\"events\""));
    assert!(answer.header("x-request-id").starts_with("req_"));
    let events = server.sse(&format!("/v1/streams/{id}/events")).await;
    assert_eq!(events.header("x-stream-id"), id);
    assert_eq!(events.header("x-session-id"), "room-42");
    assert_eq!(events.header("link"), answer.header("link"));
    assert_eq!(events.header("cache-control"), "no-cache, no-transform");
    assert_eq!(events.header("x-accel-buffering"), "no");
    assert!(!events.header("x-request-id").is_empty());
    drop(events);
    gate.open();
    server.ended(id).await;
    server.finish().await;
}

#[tokio::test]
async fn a_request_id_of_the_clients_own_is_kept() {
    let server = Server::demo().await;
    let request = server.get("/v1/streams/nothing").header("x-request-id", "mine-1");
    let answer = Answer::of(server.send(request).await).await;
    assert_eq!(answer.header("x-request-id"), "mine-1");
    assert_eq!(answer.json()["error"]["request_id"], "mine-1");
    server.finish().await;
}

#[tokio::test]
async fn what_is_asked_may_be_messages_or_input_and_all_else_reaches_the_provider() {
    let provider = FakeProvider::new([Script::answer(&["ok"])]).await;
    let server = Server::before(&provider, "").await;
    let turns =
        json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi", "name": "ann"}]);
    let asked = [
        (json!({"messages": turns}), turns.clone()),
        (json!({"input": turns}), turns.clone()),
        (json!({"input": "Hi"}), json!([{"role": "user", "content": "Hi"}])),
    ];
    for (n, (mut body, expected)) in asked.into_iter().enumerate() {
        body["model"] = "fake-1".into();
        body["temperature"] = json!(0.5);
        body["vendor_option"] = json!({"deep": [1, 2]});
        server.start(&body).await;
        let request = provider.request(n).await;
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/chat/completions"));
        assert_eq!(request.header("authorization"), "Bearer sk-fake");
        let sent = request.body();
        assert_eq!(sent["messages"], expected);
        assert_eq!(sent["model"], "fake-1");
        assert_eq!(sent["stream"], true);
        assert_eq!(sent["temperature"], 0.5);
        assert_eq!(sent["vendor_option"], json!({"deep": [1, 2]}));
        assert_eq!(sent["stream_options"], json!({"include_usage": true}));
        assert!(sent.get("input").is_none() && sent.get("session").is_none());
    }
    server.finish().await;
}

#[tokio::test]
async fn a_snapshot_holds_everything_so_far() {
    let (before, after) = (Gate::default(), Gate::default());
    let call = |call: Value| chunk(&json!({"tool_calls": [call]}), &Value::Null);
    let script = Script::stream()
        .send(chunk(&json!({"role": "assistant", "reasoning_content": "Hm."}), &Value::Null))
        .tokens(&["Grüße", " 🌍"])
        .wait(&before)
        .send(call(json!({"index": 0, "id": "c1", "function": {"name": "look", "arguments": "{\"a\""}})))
        .send(call(json!({"index": 0, "function": {"arguments": ":1}"}})))
        .wait(&after)
        .finish();
    let provider = FakeProvider::new([script]).await;
    let server = Server::before(&provider, "").await;
    let body = json!({"model": "fake-1", "input": "Hi", "metadata": {"ticket": "7"}});
    let id = server.start(&body).await;
    let path = format!("/v1/streams/{id}");
    let mut viewer = server.sse(&format!("{path}/events")).await;
    viewer.until("reasoning").await;
    viewer.expect("token").await;
    viewer.expect("token").await;
    let running = server.json(&path).await;
    assert_eq!(running["status"], "running");
    assert_eq!(running["text"], "Grüße 🌍");
    assert_eq!(running["reasoning"], "Hm.");
    assert_eq!(running["position"], format!("{id}-0000-0000000004"));
    assert_eq!(running["viewers"], 1);
    assert_eq!(running["finish_reason"], Value::Null);
    assert_eq!(running["times"]["ended_ms"], Value::Null);
    before.open();
    viewer.expect("tool").await;
    viewer.expect("tool").await;
    after.open();
    viewer.until("done").await;
    drop(viewer);
    let ended = server.ended(&id).await;
    assert_eq!(ended["status"], "completed");
    assert_eq!(ended["finish_reason"], "stop");
    assert_eq!(ended["usage"], json!({"input_tokens": 3, "output_tokens": 5}));
    assert_eq!(
        ended["tool_calls"],
        json!([{"index": 0, "id": "c1", "name": "look", "arguments": "{\"a\":1}"}])
    );
    assert_eq!(ended["error"], Value::Null);
    assert_eq!(ended["provider"], "fake");
    assert_eq!(ended["metadata"], json!({"ticket": "7"}));
    assert_eq!(ended["position"], format!("{id}-0000-0000000008"));
    let times = &ended["times"];
    assert!(times["created_ms"].as_u64() <= times["first_token_ms"].as_u64());
    assert!(times["first_token_ms"].as_u64() <= times["ended_ms"].as_u64());
    server.finish().await;
}

#[tokio::test]
async fn native_events_are_numbered_one_by_one_and_say_retry_once() {
    let provider = FakeProvider::new([Script::answer(&["Hello", " world"])]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let mut viewer = server.sse(&format!("/v1/streams/{id}/events")).await;
    let events = viewer.rest().await;
    assert_eq!(viewer.end, Some(BodyEnd::Clean));
    assert_eq!(types(&events), ["start", "token", "token", "usage", "done"]);
    for (n, event) in events.iter().enumerate() {
        assert_eq!(event.id(), format!("{id}-0000-{:010}", n + 1));
        assert_eq!(event.retry_ms.is_some(), event.event == "start", "{event:?}");
        assert!(!event.data.contains('\n'));
    }
    let start = events[0].json();
    assert_eq!(start["stream"], id);
    assert_eq!(start["session"], Value::Null);
    assert_eq!((&start["model"], &start["provider"]), (&json!("fake-1"), &json!("fake")));
    assert!(start["created_at"].is_u64());
    assert_eq!(text_of(&events), "Hello world");
    assert_eq!(events[3].json(), json!({"input_tokens": 3, "output_tokens": 5}));
    assert_eq!(
        events[4].json(),
        json!({"status": "completed", "finish_reason": "stop", "usage": {"input_tokens": 3, "output_tokens": 5}})
    );
    server.finish().await;
}

#[tokio::test]
async fn a_token_is_seen_before_the_next_one_is_made() {
    let gate = Gate::default();
    let script = ["a", "b", "c"].iter().fold(Script::stream(), |script, text| script.wait(&gate).token(text));
    let provider = FakeProvider::new([script.finish()]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let mut viewer = server.sse(&format!("/v1/streams/{id}/events")).await;
    viewer.expect("start").await;
    for text in ["a", "b", "c"] {
        gate.open();
        assert_eq!(viewer.expect("token").await.json()["text"], text);
    }
    viewer.until("done").await;
    server.finish().await;
}

#[tokio::test]
async fn cancel_is_idempotent_and_everyone_is_told_by_whom() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let mut viewer = server.sse(&format!("/v1/streams/{id}/events")).await;
    viewer.until("token").await;
    for _ in 0..3 {
        let snapshot = server.cancel(&id).await;
        assert_eq!((&snapshot["status"], &snapshot["by"]), (&json!("cancelled"), &json!("local")));
        assert_eq!(snapshot["text"], "Hel");
    }
    // What was said is paid for, though the provider never came to count it.
    let usage = json!({"input_tokens": 8, "output_tokens": 1, "estimated": true});
    assert_eq!(
        viewer.expect("done").await.json(),
        json!({"status": "cancelled", "by": "local", "usage": usage})
    );
    assert!(viewer.next().await.is_none());
    assert_eq!(viewer.end, Some(BodyEnd::Clean));
    provider.abandoned(0).await;
    server.finish().await;
}

#[tokio::test]
async fn cancel_after_the_end_changes_nothing() {
    let provider = FakeProvider::new([Script::answer(&["Hello"])]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let ended = server.ended(&id).await;
    assert_eq!(server.cancel(&id).await, ended);
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_stream_is_not_found_by_anyone() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, "").await;
    // Again and again: the stream's own ending must not bring it back.
    for n in 0..50 {
        let id = server.start(&hi()).await;
        let mut viewer = server.sse(&format!("/v1/streams/{id}/events")).await;
        viewer.until("token").await;
        let answer = Answer::of(server.send(server.delete(&format!("/v1/streams/{id}"))).await).await;
        assert_eq!(answer.status, 204);
        provider.abandoned(n).await;
        let rest = viewer.rest().await;
        let word = rest.first().unwrap();
        assert!(word.event == "reset" || word.event == "done", "{word:?}");
        if word.event == "reset" {
            assert_eq!((word.json(), &word.id), (json!({"reason": "lost"}), &None));
        }
        for path in ["", "/events", "/poll?wait=0"] {
            let answer = Answer::of(server.send(server.get(&format!("/v1/streams/{id}{path}"))).await).await;
            assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{path}");
        }
        let again = server.send(server.delete(&format!("/v1/streams/{id}"))).await;
        assert_eq!(again.status(), 404);
        let cancel = server.send(server.post(&format!("/v1/streams/{id}/cancel"), &Value::Null)).await;
        assert_eq!(cancel.status(), 404);
    }
    server.finish().await;
}

#[tokio::test]
async fn other_formats_show_the_same_log() {
    let provider = FakeProvider::new([Script::answer(&["Hello\n", "two words"])]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    server.ended(&id).await;
    let mut plain = server.sse(&format!("/v1/streams/{id}/events?format=plain")).await;
    let data: Vec<String> = plain.rest().await.into_iter().map(|event| event.data).collect();
    assert_eq!(data, ["Hello\n", "two words", "[DONE]"]);
    let mut openai = server.sse(&format!("/v1/streams/{id}/events?format=openai-chat")).await;
    let chunks = openai.rest().await;
    assert_eq!(chunks[0].json()["choices"][0]["delta"]["content"], "Hello\n");
    assert_eq!(chunks.last().unwrap().data, "[DONE]");
    let mut bare = server.sse(&format!("/v1/streams/{id}/events?format=openai-chat&ids=0")).await;
    assert!(bare.rest().await.iter().all(|event| event.id.is_none()));
    let answer =
        Answer::of(server.send(server.get(&format!("/v1/streams/{id}/events?format=x"))).await).await;
    assert_eq!((answer.status, answer.code().as_str()), (422, "invalid"));
    assert_eq!(answer.json()["error"]["param"], "format");
    server.finish().await;
}
