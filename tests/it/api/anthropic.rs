//! `POST /v1/messages`, `…/count_tokens` and `GET /v1/models`, for Anthropic's SDKs that nobody changed.

use serde_json::{Value, json};

use crate::harness::sse::BodyEnd;
use crate::harness::{Answer, BROKEN_FOR_GOOD, Event, FakeProvider, Script, Server, Sse};

const TEXT: &str = include_str!("../../fixtures/anthropic/text.sse");
const TRUNCATED: &str = include_str!("../../fixtures/anthropic/truncated_in_a_block.sse");
const EARLY_ERROR: &str = include_str!("../../fixtures/anthropic/early_error.sse");
const WHOLE: &str = include_str!("../../fixtures/anthropic/whole_tools.json");

/// Before a provider of this dialect, which is named `claude`.
async fn before(provider: &FakeProvider, more: &str) -> Server {
    let address = provider.address;
    let config = format!(
        "{more}\n[providers.claude]\ndialect = \"anthropic\"\nbase_url = \"http://{address}\"\nkeys = [\"sk-ant\"]\n"
    );
    Server::new(&config).await
}

fn ask() -> Value {
    json!({"model": "claude-x", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}], "stream": true})
}

/// The body as the provider sent it: without our ids and pings.
fn stripped(text: &str) -> String {
    let pings = |block: &&str| !block.starts_with("event: ping");
    let ours = |line: &&str| !line.starts_with("id: 0");
    let blocks = text.split_inclusive("\n\n").filter(pings);
    blocks.flat_map(|block| block.split_inclusive('\n')).filter(ours).collect()
}

async fn read(server: &Server, ask: &Value) -> (Sse, Vec<Event>) {
    let mut viewer = server.sse_of(server.post("/v1/messages", ask)).await;
    let events = viewer.rest().await;
    (viewer, events)
}

#[tokio::test]
async fn a_stream_is_forwarded_byte_for_byte_under_our_ids() {
    for size in [1, 7, usize::MAX] {
        let provider = FakeProvider::new([Script::stream().send_in(TEXT, size).end()]).await;
        let server = before(&provider, "").await;
        let mut ask = ask();
        ask["vendor_option"] = json!({"deep": [1.5]});
        ask["system"] = json!([{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]);
        let request =
            server.post("/v1/messages", &ask).header("anthropic-beta", "a-1").header("anthropic-beta", "b-2");
        let mut viewer = server.sse_of(request.header("anthropic-version", "2024-01-01")).await;
        viewer.rest().await;
        assert_eq!(viewer.end, Some(BodyEnd::Clean));
        assert_eq!(stripped(&viewer.text()), stripped(TEXT), "in pieces of {size}");
        assert_eq!(viewer.header("request-id"), viewer.header("x-request-id"));
        assert!(viewer.header("link").contains(viewer.header("x-stream-id")));
        let sent = provider.request(0).await;
        assert_eq!((sent.path.as_str(), sent.header("x-api-key")), ("/v1/messages", "sk-ant"));
        assert_eq!(
            (sent.header("anthropic-version"), sent.header("anthropic-beta")),
            ("2024-01-01", "a-1,b-2")
        );
        assert_eq!(sent.body(), ask);
        server.finish().await;
    }
}

#[tokio::test]
async fn an_answer_in_one_piece_is_the_providers_own_bytes() {
    let script = Script::status(200, &[("content-type", "application/json")], WHOLE);
    let provider = FakeProvider::new([script]).await;
    let server = before(&provider, "").await;
    let mut ask = ask();
    ask["stream"] = json!(false);
    let answer = Answer::of(server.send(server.post("/v1/messages", &ask)).await).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, WHOLE));
    assert_eq!(answer.header("content-type"), "application/json");
    let snapshot = server.ended(answer.header("x-stream-id")).await;
    assert_eq!((&snapshot["text"], &snapshot["finish_reason"]), (&json!("Checking."), &json!("tool_calls")));
    server.finish().await;
}

#[tokio::test]
async fn every_provider_answers_in_this_dialect() {
    let provider = FakeProvider::new([Script::answer(&["Grüße", " 🌍"])]).await;
    let server = Server::before(&provider, "").await;
    let mut ask = ask();
    ask["model"] = "fake-1".into();
    ask["system"] = "Be brief.".into();
    let (viewer, events) = read(&server, &ask).await;
    assert_eq!(viewer.end, Some(BodyEnd::Clean));
    let names: Vec<&str> = events.iter().map(|event| event.event.as_str()).collect();
    let expected = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names, expected);
    let sent = provider.request(0).await.body();
    assert_eq!(sent["messages"][0], json!({"role": "system", "content": "Be brief."}));
    assert_eq!(sent["max_tokens"], 50);
    ask["stream"] = json!(false);
    ask["model"] = "demo-fast".into();
    let answer = Answer::of(server.send(server.post("/v1/messages", &ask)).await).await;
    let message = answer.json();
    assert_eq!((&message["type"], &message["stop_reason"]), (&json!("message"), &json!("end_turn")));
    let snapshot = server.ended(answer.header("x-stream-id")).await;
    assert_eq!(message["content"][0]["text"], snapshot["text"]);
    server.finish().await;
}

#[tokio::test]
async fn a_truncated_answer_is_an_error_and_a_broken_body() {
    let provider = FakeProvider::new([Script::stream().send(TRUNCATED).end()]).await;
    let server = before(&provider, BROKEN_FOR_GOOD).await;
    let (viewer, events) = read(&server, &ask()).await;
    assert_eq!(viewer.end, Some(BodyEnd::Broken));
    let last = events.last().expect("events");
    assert_eq!(last.event, "error");
    let error: Value = serde_json::from_str(&last.data).unwrap();
    assert_eq!((&error["type"], &error["error"]["code"]), (&json!("error"), &json!("upstream_truncated")));
    server.finish().await;
}

#[tokio::test]
async fn a_cancel_is_an_error_and_a_broken_body() {
    let provider = FakeProvider::new([Script::stream().send(TRUNCATED).stall()]).await;
    let server = before(&provider, "").await;
    let mut viewer = server.sse_of(server.post("/v1/messages", &ask())).await;
    server.cancel(viewer.header("x-stream-id")).await;
    let events = viewer.rest().await;
    assert_eq!(viewer.end, Some(BodyEnd::Broken));
    assert!(events.last().expect("events").data.contains("cancelled"));
    server.finish().await;
}

#[tokio::test]
async fn early_refusals_keep_status_body_and_retry_after() {
    let body = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded","extra":1},"request_id":"req_up"}"#;
    for status in [400_u16, 401, 404, 413, 422, 429, 529] {
        let script =
            Script::status(status, &[("content-type", "application/json"), ("retry-after", "3")], body);
        let provider = FakeProvider::new([script]).await;
        let models = "[models.m]\ntargets = [{ provider = \"claude\", model = \"claude-x\" }]\nretry = { attempts = 1 }\n";
        let server = before(&provider, models).await;
        for stream in [true, false] {
            let mut ask = ask();
            (ask["stream"], ask["model"]) = (stream.into(), "m".into());
            let answer = Answer::of(server.send(server.post("/v1/messages", &ask)).await).await;
            assert_eq!((answer.status, answer.text.as_str()), (status, body));
            assert_eq!(answer.header("retry-after"), "3");
        }
        server.finish().await;
    }
}

/// Nothing of the failed attempt, not even its `message_start`, reaches the client.
#[tokio::test]
async fn an_early_error_in_band_is_retried_unseen() {
    let scripts = [Script::stream().send(EARLY_ERROR).end(), Script::stream().send(TEXT).end()];
    let provider = FakeProvider::new(scripts).await;
    let models = "[models.m]\ntargets = [{ provider = \"claude\", model = \"claude-x\" }]\nretry = { attempts = 2, base_ms = 1, max_ms = 5 }\n";
    let server = before(&provider, models).await;
    let mut ask = ask();
    ask["model"] = "m".into();
    let (viewer, _) = read(&server, &ask).await;
    assert_eq!(stripped(&viewer.text()), stripped(TEXT));
    assert_eq!(provider.calls(), 2);
    server.finish().await;
}

#[tokio::test]
async fn our_own_refusals_have_the_dialects_shape() {
    let server = Server::new("[auth]\nkeys = [{ key = \"k-1\", user = \"u\" }]\n").await;
    let refused = |request| async { Answer::of(server.send(request).await).await };
    let mut ask = ask();
    ask["model"] = "demo-fast".into();
    let answer = refused(server.post("/v1/messages", &ask)).await;
    assert_eq!((answer.status, &answer.json()["error"]["type"]), (401, &json!("authentication_error")));
    let bearer = server.post("/v1/messages", &ask).bearer_auth("k-1");
    assert_eq!(refused(bearer).await.status, 200);
    let named = server.post("/v1/messages", &ask).header("x-api-key", "k-1");
    assert_eq!(refused(named).await.status, 200);
    ask["max_tokens"] = "many".into();
    let answer = refused(server.post("/v1/messages", &ask).header("x-api-key", "k-1")).await;
    let body = answer.json();
    assert_eq!((answer.status, &body["type"]), (422, &json!("error")));
    assert_eq!(body["error"]["type"], "invalid_request_error");
    assert!(body["error"]["message"].as_str().unwrap().contains("max_tokens"));
    assert_eq!(body["request_id"], answer.header("request-id"));
    ask["model"] = "nobody/x".into();
    ask["max_tokens"] = json!(5);
    let answer = refused(server.post("/v1/messages", &ask).header("x-api-key", "k-1")).await;
    assert_eq!((answer.status, &answer.json()["error"]["type"]), (404, &json!("not_found_error")));
    server.finish().await;
}

#[tokio::test]
async fn what_a_provider_cannot_be_told_is_refused_by_name() {
    let provider = FakeProvider::new([Script::stream().send(TEXT).end()]).await;
    let server = before(&provider, "").await;
    let ask =
        json!({"model": "claude-x", "messages": [{"role": "user", "content": "Hi"}], "logit_bias": {"1": 2}});
    let answer = Answer::of(server.send(server.post("/v1/chat/completions", &ask)).await).await;
    assert_eq!((answer.status, &answer.json()["error"]["param"]), (422, &json!("logit_bias")));
    assert_eq!(provider.calls(), 0);
    server.finish().await;
}

#[tokio::test]
async fn tokens_are_counted_by_the_provider() {
    let counted = r#"{"input_tokens": 14, "extra": [1]}"#;
    let refusal = r#"{"type":"error","error":{"type":"invalid_request_error","message":"bad"}}"#;
    let json = [("content-type", "application/json")];
    let scripts = [
        Script::status(200, &json, counted),
        Script::status(400, &json, refusal),
        Script::stream().send("x").end(),
    ];
    let provider = FakeProvider::new(scripts).await;
    let server = before(&provider, "").await;
    let mut ask = ask();
    ask.as_object_mut().unwrap().shift_remove("stream");
    let count = |ask: &Value| server.post("/v1/messages/count_tokens", ask).header("anthropic-beta", "b-1");
    let answer = Answer::of(server.send(count(&ask)).await).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, counted));
    assert_eq!(answer.header("request-id"), answer.header("x-request-id"));
    let sent = provider.request(0).await;
    assert_eq!((sent.path.as_str(), sent.header("anthropic-beta")), ("/v1/messages/count_tokens", "b-1"));
    assert_eq!(sent.body(), ask);
    let answer = Answer::of(server.send(count(&ask)).await).await;
    assert_eq!((answer.status, answer.text.as_str()), (400, refusal));
    let answer = Answer::of(server.send(count(&ask)).await).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (502, &json!("upstream_malformed")));
    ask["model"] = "demo".into();
    let answer = Answer::of(server.send(count(&ask)).await).await;
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(answer.status, 422);
    assert!(message.starts_with("model: "), "{message}");
    ask["model"] = json!(7);
    assert_eq!(Answer::of(server.send(count(&ask)).await).await.status, 422);
    assert_eq!(provider.calls(), 3);
    server.finish().await;
}

#[tokio::test]
async fn models_are_listed_in_the_shape_of_who_asks() {
    let server =
        Server::new("[models.fast]\ntargets = [{ provider = \"demo\", model = \"demo-fast\" }]\n").await;
    let request = server.get("/v1/models").header("anthropic-version", "2023-06-01");
    let list = Answer::of(server.send(request).await).await.json();
    let models = list["data"].as_array().unwrap();
    assert_eq!((&list["first_id"], &models[0]["id"]), (&json!("fast"), &json!("fast")));
    assert_eq!(list["last_id"], models.last().unwrap()["id"]);
    assert_eq!(list["has_more"], false);
    for model in models {
        assert_eq!((&model["type"], &model["display_name"]), (&json!("model"), &model["id"]));
        assert_eq!(model["created_at"], "1970-01-01T00:00:00Z");
    }
    server.finish().await;
}
