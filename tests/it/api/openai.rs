//! `POST /v1/chat/completions` and `GET /v1/models`, for SDKs that nobody changed.

use serde_json::{Value, json};

use crate::harness::provider::{chunk, closing, frame, usage};
use crate::harness::sse::BodyEnd;
use crate::harness::{Answer, FakeProvider, Script, Server, Sse, chat};

/// The body as the provider sent it: without our ids and keep-alives.
fn stripped(viewer: &Sse) -> String {
    let ours = |line: &&str| !line.starts_with("id: ") && *line != ":\n";
    viewer.text().split_inclusive('\n').filter(ours).collect()
}

#[tokio::test]
async fn a_stream_is_forwarded_byte_for_byte_under_our_ids() {
    let odd = "data:{\"choices\":[{\"delta\":{\"content\":\"no space\"}}],\"vendor\":{\"x\":[1,2]}}\n\n";
    let role = chunk(&json!({"role": "assistant", "content": ""}), &Value::Null);
    let body = format!("{role}{}{odd}{}{}{}", frame("Grüße"), frame(" 🌍"), frame(""), closing());
    for size in [1, 7, usize::MAX] {
        let provider = FakeProvider::new([Script::stream().send_in(&body, size).end()]).await;
        let server = Server::before(&provider, "").await;
        let mut ask = chat();
        ask["stream_options"] = json!({"include_usage": true});
        let mut viewer = server.sse_of(server.post("/v1/chat/completions", &ask)).await;
        let events = viewer.rest().await;
        assert_eq!(viewer.end, Some(BodyEnd::Clean));
        assert_eq!(stripped(&viewer), body, "in pieces of {size}");
        assert_eq!(events.last().unwrap().data, "[DONE]");
        let id = viewer.header("x-stream-id");
        assert!(viewer.header("link").contains(id));
        assert!(events.iter().any(|event| event.id.as_deref().is_some_and(|known| known.starts_with(id))));
        // Frames that said nothing have no id.
        assert_eq!(events[0].id, None);
        assert_eq!(provider.request(0).await.body()["stream_options"], json!({"include_usage": true}));
        server.finish().await;
    }
}

#[tokio::test]
async fn usage_is_always_asked_for_and_withheld_from_who_did_not_ask() {
    let body = format!("{}{}", frame("Hello"), closing());
    let provider = FakeProvider::new([Script::stream().send(&body).end()]).await;
    let server = Server::before(&provider, "").await;
    for options in [Value::Null, json!({}), json!({"include_usage": false})] {
        let mut ask = chat();
        ask["stream_options"] = options;
        let mut viewer = server.sse_of(server.post("/v1/chat/completions", &ask)).await;
        viewer.rest().await;
        assert_eq!(stripped(&viewer), body.replace(&usage(), ""));
        let id = viewer.header("x-stream-id").to_owned();
        assert_eq!(server.ended(&id).await["usage"]["output_tokens"], 5);
    }
    for request in provider.requests() {
        assert_eq!(request.body()["stream_options"]["include_usage"], true);
    }
    server.finish().await;
}

#[tokio::test]
async fn a_stream_can_be_resumed_natively_and_in_its_own_dialect() {
    let provider = FakeProvider::new([Script::answer(&["one", " two", " three"])]).await;
    let server = Server::before(&provider, "").await;
    let mut viewer = server.sse_of(server.post("/v1/chat/completions", &chat())).await;
    let events = viewer.rest().await;
    let id = viewer.header("x-stream-id").to_owned();
    let path = format!("/v1/streams/{id}/events");
    let rest = server.sse(&format!("{path}?after={}", events[0].id())).await.rest().await;
    assert_eq!(crate::harness::sse::text_of(&rest), " two three");
    let path = format!("{path}?format=openai-chat&after={}", events[1].id());
    let rest = server.sse(&path).await.rest().await;
    assert_eq!(rest[0], events[2]);
    server.finish().await;
}

#[tokio::test]
async fn an_answer_in_one_piece_is_the_providers_own_bytes() {
    let body = r#"{"id":"x","object":"chat.completion","vendor":{"deep":[1]},"choices":[{"index":0,"message":{"role":"assistant","content":"Hello","odd":1},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#;
    let script = Script::status(200, &[("content-type", "application/json; charset=utf-8")], body);
    let provider = FakeProvider::new([script]).await;
    let server = Server::before(&provider, "").await;
    let ask =
        json!({"model": "fake-1", "messages": [{"role": "user", "content": "Hi"}], "vendor_option": true});
    let request = server.post("/v1/chat/completions", &ask).header("x-session-id", "room-1");
    let answer = Answer::of(server.send(request).await).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, body));
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("x-session-id"), "room-1");
    let sent = provider.request(0).await.body();
    assert_eq!((&sent["stream"], &sent["vendor_option"]), (&json!(false), &json!(true)));
    assert!(sent.get("stream_options").is_none());
    let snapshot = server.ended(answer.header("x-stream-id")).await;
    assert_eq!((&snapshot["text"], &snapshot["usage"]["input_tokens"]), (&json!("Hello"), &json!(1)));
    server.finish().await;
}

#[tokio::test]
async fn a_stream_for_who_wanted_one_piece_is_put_together() {
    let server = Server::demo().await;
    let ask = json!({"model": "demo-fast", "messages": [{"role": "user", "content": "Hi"}]});
    let answer = Answer::of(server.send(server.post("/v1/chat/completions", &ask)).await).await;
    let body = answer.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert!(body["usage"]["completion_tokens"].as_u64().unwrap() > 0);
    let snapshot = server.ended(answer.header("x-stream-id")).await;
    assert_eq!(body["choices"][0]["message"]["content"], snapshot["text"]);
    server.finish().await;
}

#[tokio::test]
async fn the_accept_header_decides_nothing() {
    let provider = FakeProvider::new([Script::answer(&["Hello"])]).await;
    let server = Server::before(&provider, "").await;
    let request = server.post("/v1/chat/completions", &chat()).header("accept", "application/json");
    let mut viewer = server.sse_of(request).await;
    assert_eq!(viewer.rest().await.last().unwrap().data, "[DONE]");
    server.finish().await;
}

#[tokio::test]
async fn early_refusals_keep_status_body_and_retry_after() {
    let body = r#"{"error":{"message":"no such engine","type":"invalid_request_error","param":"model","code":"model_not_found","extra":1}}"#;
    for status in [400_u16, 401, 403, 404, 413, 422] {
        let script = Script::status(status, &[("content-type", "application/json")], body);
        let provider = FakeProvider::new([script]).await;
        let server = Server::before(&provider, "").await;
        for stream in [true, false] {
            let mut ask = chat();
            ask["stream"] = stream.into();
            let answer = Answer::of(server.send(server.post("/v1/chat/completions", &ask)).await).await;
            assert_eq!((answer.status, answer.text.as_str()), (status, body));
            // Nothing was retried: that is left to the client.
            assert_eq!(answer.header("x-should-retry"), "");
        }
        assert_eq!(provider.calls(), 2);
        server.finish().await;
    }
}

#[tokio::test]
async fn after_retries_the_client_is_told_not_to_multiply_them() {
    let body = r#"{"error":{"message":"slow down"}}"#;
    for (status, wait) in [(429_u16, "0"), (500, ""), (503, "0")] {
        let mut headers = vec![("content-type", "application/json")];
        if !wait.is_empty() {
            headers.push(("retry-after", wait));
        }
        let provider = FakeProvider::new([Script::status(status, &headers, body)]).await;
        let models = "[models.m]\ntargets = [{ provider = \"fake\", model = \"fake-1\" }]\nretry = { attempts = 2, base_ms = 1, max_ms = 5 }\n";
        let server = Server::before(&provider, models).await;
        let mut ask = chat();
        ask["model"] = "m".into();
        let answer = Answer::of(server.send(server.post("/v1/chat/completions", &ask)).await).await;
        assert_eq!((answer.status, answer.text.as_str()), (status, body));
        assert_eq!(answer.header("x-should-retry"), "false");
        assert_eq!(answer.header("retry-after"), wait);
        assert_eq!(provider.calls(), 2);
        server.finish().await;
    }
}

#[tokio::test]
async fn an_early_error_in_band_is_an_answer_with_a_status() {
    let provider = FakeProvider::new([Script::stream()
        .send("data: {\"error\":{\"message\":\"overloaded\"}}\n\n")
        .end()])
    .await;
    let models = "[models.m]\ntargets = [{ provider = \"fake\", model = \"fake-1\" }]\nretry = { attempts = 2, base_ms = 1, max_ms = 5 }\n";
    let server = Server::before(&provider, models).await;
    let mut ask = chat();
    ask["model"] = "m".into();
    let answer = Answer::of(server.send(server.post("/v1/chat/completions", &ask)).await).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_error"));
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("overloaded"));
    assert_eq!(answer.header("x-should-retry"), "false");
    assert_eq!(provider.calls(), 2);
    server.finish().await;
}

#[tokio::test]
async fn models_are_listed_with_aliases_and_every_providers_own() {
    let provider = FakeProvider::new([Script::answer(&[])]).await;
    let alias = "[models.fast]\ntargets = [{ provider = \"fake\", model = \"fake-1\" }]\n";
    let server = Server::before(&provider, alias).await;
    let list = server.json("/v1/models").await;
    assert_eq!(list["object"], "list");
    let ids: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    for id in ["fast", "fake-1", "demo"] {
        assert!(ids.contains(&id), "{id} in {ids:?}");
    }
    assert!(list["data"].as_array().unwrap().iter().all(|model| model["object"] == "model"));
    server.finish().await;
}
