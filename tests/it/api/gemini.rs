//! Gemini's routes, for SDKs that nobody changed, before a provider of the same dialect and before another one.

use serde_json::{Value, json};

use crate::harness::provider::{chunk, closing, frame, usage};
use crate::harness::sse::BodyEnd;
use crate::harness::{Answer, BROKEN_FOR_GOOD, FakeProvider, Gate, Script, Server, chat};

fn ask() -> Value {
    json!({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}], "vendorOption": {"kept": [1.5]}})
}

/// One event as Google writes it.
fn answer(parts: &Value, finish: Option<&str>) -> String {
    let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": 0, "vendor": 1.5});
    if let Some(reason) = finish {
        candidate["finishReason"] = reason.into();
    }
    let counts = json!({"promptTokenCount": 2, "candidatesTokenCount": 3, "totalTokenCount": 5});
    format!("data: {}\n\n", json!({"candidates": [candidate], "usageMetadata": counts, "responseId": "r1"}))
}

async fn gemini(provider: &FakeProvider, config: &str) -> Server {
    let address = provider.address;
    Server::new(&format!(
        "{config}\n[providers.gemini]\ndialect = \"gemini\"\nbase_url = \"http://{address}\"\nkeys = [\"g-key\"]\n"
    ))
    .await
}

const STREAM: &str = "/v1beta/models/gemini-x:streamGenerateContent?alt=sse";
const WHOLE: &str = "/v1beta/models/gemini-x:generateContent";

#[tokio::test]
async fn a_stream_is_forwarded_byte_for_byte_and_without_ids() {
    let body = format!(
        "{}{}data: {{\"vendorOnly\":1}}\n\n{}",
        answer(&json!([{"text": "Grüße"}]), None),
        answer(&json!([{"text": " 🌍"}, {"newKind": {}}]), None),
        answer(&json!([{"text": ""}]), Some("STOP")),
    );
    // As Google ends its lines.
    let body = body.replace('\n', "\r\n");
    for (path, size) in
        [(STREAM, 1), (STREAM, 7), ("/v1/models/gemini/gemini-x:streamGenerateContent?alt=sse", usize::MAX)]
    {
        let provider = FakeProvider::new([Script::stream().send_in(&body, size).end()]).await;
        let server = gemini(&provider, "").await;
        let mut viewer = server.sse_of(server.post(path, &ask())).await;
        while viewer.more().await {}
        assert_eq!((viewer.end, viewer.text()), (Some(BodyEnd::Clean), body.clone()));
        let snapshot = server.ended(viewer.header("x-stream-id")).await;
        assert_eq!((&snapshot["text"], &snapshot["finish_reason"]), (&json!("Grüße 🌍"), &json!("stop")));
        assert_eq!(snapshot["usage"], json!({"input_tokens": 2, "output_tokens": 3}));
        let request = provider.request(0).await;
        assert_eq!(request.path, "/v1beta/models/gemini-x:streamGenerateContent?alt=sse");
        assert_eq!((request.header("x-goog-api-key"), request.header("authorization")), ("g-key", ""));
        assert_eq!(request.body(), ask());
        server.finish().await;
    }
}

#[tokio::test]
async fn an_answer_in_one_piece_is_the_providers_own_bytes_and_may_be_a_list() {
    let body = r#"{ "candidates": [{"content": {"parts": [{"text": "Hello"}]}, "finishReason": "STOP", "odd": 1.50}] }"#;
    let script = Script::status(200, &[("content-type", "application/json; charset=UTF-8")], body);
    let provider = FakeProvider::new([script]).await;
    let server = gemini(&provider, "").await;
    let list = format!("[{body}]");
    for (path, expected) in [(WHOLE, body), ("/v1beta/models/gemini-x:streamGenerateContent", &list)] {
        let got = Answer::of(server.send(server.post(path, &ask())).await).await;
        assert_eq!(
            (got.status, got.text.as_str(), got.header("content-type")),
            (200, expected, "application/json")
        );
        assert!(!got.header("x-stream-id").is_empty());
    }
    assert_eq!(provider.request(1).await.path, "/v1beta/models/gemini-x:generateContent");
    server.finish().await;
}

#[tokio::test]
async fn another_provider_is_asked_in_its_own_words() {
    let call = |index: u32, more: Value| {
        let mut call = json!({"index": index, "function": {}});
        call.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        chunk(&json!({"tool_calls": [call]}), &Value::Null)
    };
    let body = [
        frame("Let me see."),
        call(0, json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\""}})),
        call(0, json!({"function": {"arguments": ":1}"}})),
        call(1, json!({"id": "b", "type": "function", "function": {"name": "g", "arguments": ""}})),
        chunk(&json!({}), &json!("tool_calls")),
        usage(),
        "data: [DONE]\n\n".into(),
    ]
    .concat();
    let provider = FakeProvider::new([Script::stream().send(&body).end()]).await;
    let server = Server::before(&provider, "").await;
    let mut asked = ask();
    asked.as_object_mut().unwrap().remove("vendorOption");
    asked["systemInstruction"] = json!({"parts": [{"text": "Be brief."}]});
    asked["generationConfig"] = json!({"maxOutputTokens": 9, "thinkingConfig": {"thinkingBudget": 9000}});
    let path = "/v1beta/models/fake/some/model:streamGenerateContent?alt=sse";
    let mut viewer = server.sse_of(server.post(path, &asked)).await;
    let events = viewer.rest().await;
    assert_eq!(viewer.end, Some(BodyEnd::Clean));
    let parts: Vec<Value> =
        events.iter().map(|event| event.json()["candidates"][0]["content"]["parts"][0].clone()).collect();
    let expected = [
        json!({"text": "Let me see."}),
        json!({"functionCall": {"name": "f", "args": {"x": 1}, "id": "a"}}),
        json!({"functionCall": {"name": "g", "args": {}, "id": "b"}}),
        json!({"text": ""}),
    ];
    assert_eq!(parts, expected);
    let last = events.last().unwrap().json();
    assert_eq!(last["candidates"][0]["finishReason"], "STOP");
    assert_eq!(last["usageMetadata"]["totalTokenCount"], 8);
    assert!(events.iter().all(|event| event.id.is_none()) && !viewer.text().contains("\n:"));
    let sent = provider.request(0).await.body();
    let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]);
    assert_eq!((&sent["model"], &sent["messages"]), (&json!("some/model"), &messages));
    assert_eq!((&sent["max_tokens"], &sent["reasoning_effort"]), (&json!(9), &json!("high")));
    server.finish().await;
}

#[tokio::test]
async fn what_another_provider_cannot_do_is_refused_by_name() {
    let provider = FakeProvider::new([Script::answer(&["x"])]).await;
    let server = Server::before(&provider, "").await;
    for (field, value) in [
        ("safetySettings", json!([])),
        ("cachedContent", json!("cachedContents/1")),
        ("tools", json!([{"googleSearch": {}}])),
        ("vendorOption", json!(1)),
    ] {
        let mut asked = json!({"contents": ask()["contents"]});
        asked[field] = value;
        let got =
            Answer::of(server.send(server.post("/v1/models/fake-1:generateContent", &asked)).await).await;
        let error = &got.json()["error"];
        assert_eq!((got.status, &error["status"]), (422, &json!("INVALID_ARGUMENT")), "{field}");
        assert!(error["message"].as_str().unwrap().starts_with(field), "{error}");
        assert_eq!(error["details"][0]["reason"], "invalid");
    }
    assert_eq!(provider.calls(), 0);
    server.finish().await;
}

#[tokio::test]
async fn an_openai_client_may_ask_gemini() {
    let body = format!(
        "{}{}",
        answer(&json!([{"text": "Hm.", "thought": true}, {"text": "Yes."}]), None),
        answer(
            &json!([{"functionCall": {"name": "f", "args": {"x": 1}}, "thoughtSignature": "c2ln"}]),
            Some("STOP")
        ),
    );
    let provider = FakeProvider::new([Script::stream().send(&body).end()]).await;
    let server = gemini(&provider, "").await;
    let mut viewer = server.sse_of(server.post("/v1/chat/completions", &chat())).await;
    let events = viewer.rest().await;
    let deltas: Vec<Value> =
        events[..4].iter().map(|event| event.json()["choices"][0]["delta"].clone()).collect();
    assert_eq!(deltas[0], json!({"reasoning_content": "Hm.", "role": "assistant"}));
    assert_eq!(deltas[1], json!({"content": "Yes."}));
    let call = json!({"index": 0, "function": {"name": "f", "arguments": "{\"x\":1}"}, "id": "call_0_r1", "type": "function",
                      "extra_content": {"google": {"thought_signature": "c2ln"}}});
    assert_eq!(deltas[2], json!({"tool_calls": [call]}));
    assert_eq!(events[3].json()["choices"][0]["finish_reason"], "tool_calls");
    let sent = provider.request(0).await;
    assert_eq!(sent.path, "/v1beta/models/fake-1:streamGenerateContent?alt=sse");
    assert_eq!(sent.body(), json!({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}));
    let mut odd = chat();
    odd["logit_bias"] = json!({"1": 1});
    let got = Answer::of(server.send(server.post("/v1/chat/completions", &odd)).await).await;
    assert_eq!((got.status, &got.json()["error"]["param"]), (422, &json!("logit_bias")));
    server.finish().await;
}

#[tokio::test]
async fn a_broken_answer_is_an_error_and_a_broken_body() {
    let said = answer(&json!([{"text": "Half"}]), None);
    let late = "data: {\"error\":{\"code\":503,\"message\":\"overloaded\",\"status\":\"UNAVAILABLE\"}}\n\n";
    for (script, code, message) in [
        (Script::stream().send(&said).end(), 502, "before it was complete"),
        (Script::stream().send(&said).cut(), 502, "broke off"),
        (Script::stream().send(&said).send(late).end(), 503, "overloaded"),
    ] {
        let provider = FakeProvider::new([script]).await;
        let server = gemini(&provider, BROKEN_FOR_GOOD).await;
        let mut viewer = server.sse_of(server.post(STREAM, &ask())).await;
        let events = viewer.rest().await;
        assert_eq!(viewer.end, Some(BodyEnd::Broken), "{message}");
        let error = events.last().unwrap().json()["error"].clone();
        assert_eq!(error["code"], code);
        assert!(error["message"].as_str().unwrap().contains(message), "{error}");
        server.finish().await;
    }
}

#[tokio::test]
async fn a_cancel_is_an_error_and_a_broken_body() {
    let gate = Gate::default();
    let script = Script::stream().send(answer(&json!([{"text": "Half"}]), None)).wait(&gate);
    let provider = FakeProvider::new([script]).await;
    let server = gemini(&provider, "").await;
    let mut viewer = server.sse_of(server.post(STREAM, &ask())).await;
    viewer.next().await.unwrap();
    let id = viewer.header("x-stream-id").to_owned();
    server.cancel(&id).await;
    let error = viewer.next().await.unwrap().json();
    assert_eq!((&error["error"]["code"], &error["error"]["status"]), (&json!(499), &json!("CANCELLED")));
    assert!(viewer.next().await.is_none());
    assert_eq!(viewer.end, Some(BodyEnd::Broken));
    server.finish().await;
}

#[tokio::test]
async fn early_refusals_keep_status_and_body() {
    let body = r#"{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"odd":1}]}}"#;
    let provider =
        FakeProvider::new([Script::status(400, &[("content-type", "application/json")], body)]).await;
    let server = gemini(&provider, "").await;
    for path in
        [STREAM, WHOLE, "/v1beta/models/gemini-x:countTokens", "/v1/models/gemini-x:streamGenerateContent"]
    {
        let got = Answer::of(server.send(server.post(path, &ask())).await).await;
        assert_eq!((got.status, got.text.as_str()), (400, body), "{path}");
    }
    for (path, status, code) in [
        ("/v1beta/models/gemini-x:embedContent", 404, "not_found"),
        ("/v1beta/models/gemini-x", 404, "not_found"),
        ("/v1beta/models/demo/none:generateContent", 404, "not_found"),
    ] {
        let got = Answer::of(server.send(server.post(path, &ask())).await).await;
        let error = &got.json()["error"];
        assert_eq!((got.status, &error["details"][0]["reason"]), (status, &json!(code)), "{path}");
    }
    server.finish().await;
}

#[tokio::test]
async fn tokens_are_counted_by_who_can() {
    let count = r#"{"totalTokens": 7, "promptTokensDetails": []}"#;
    let provider =
        FakeProvider::new([Script::status(200, &[("content-type", "application/json")], count)]).await;
    let server = gemini(&provider, "").await;
    let asked = json!({"generateContentRequest": {"model": "models/mine", "contents": []}, "odd": 1});
    let got = Answer::of(server.send(server.post("/v1beta/models/gemini-x:countTokens", &asked)).await).await;
    assert_eq!((got.status, got.text.as_str()), (200, count));
    let request = provider.request(0).await;
    assert_eq!(request.path, "/v1beta/models/gemini-x:countTokens");
    assert_eq!(
        request.body(),
        json!({"generateContentRequest": {"model": "models/gemini-x", "contents": []}, "odd": 1})
    );
    let got = Answer::of(server.send(server.post("/v1beta/models/demo:countTokens", &ask())).await).await;
    assert_eq!(got.status, 422);
    assert!(got.json()["error"]["message"].as_str().unwrap().contains("cannot count tokens"));
    server.finish().await;
}

#[tokio::test]
async fn models_are_listed_in_the_clients_own_shape() {
    let provider = FakeProvider::new([Script::answer(&[])]).await;
    let alias = "[models.fast]\ntargets = [{ provider = \"demo\", model = \"demo-fast\" }]\n";
    let server = gemini(&provider, alias).await;
    let key = |path: &str| server.get(path).header("x-goog-api-key", "k");
    for request in
        [server.get("/v1beta/models?pageSize=5"), key("/v1/models"), server.get("/v1/models?key=k")]
    {
        let list = Answer::of(server.send(request).await).await.json();
        let models = list["models"].as_array().unwrap();
        let named = |name: &str| {
            models.iter().find(|model| model["name"] == name).unwrap_or_else(|| panic!("{list}"))
        };
        let plain = json!(["generateContent", "streamGenerateContent"]);
        assert_eq!(named("models/fast")["supportedGenerationMethods"], plain);
        assert_eq!(named("models/gemini-fake")["supportedGenerationMethods"][2], "countTokens");
    }
    assert_eq!(server.json("/v1/models").await["object"], "list");
    let model = json!({"name": "models/demo/demo", "displayName": "demo/demo",
                       "supportedGenerationMethods": ["generateContent", "streamGenerateContent"]});
    assert_eq!(server.json("/v1beta/models/demo/demo").await, model);
    assert_eq!(Answer::of(server.send(key("/v1/models/demo/demo")).await).await.json(), model);
    assert_eq!(server.json("/v1/models/demo/demo").await["object"], "model");
    let got = Answer::of(server.send(server.get("/v1beta/models/demo/none")).await).await;
    assert_eq!((got.status, &got.json()["error"]["status"]), (404, &json!("NOT_FOUND")));
    server.finish().await;
}

#[tokio::test]
async fn keys_come_in_a_header_or_on_these_routes_in_the_url() {
    let config = "[[auth.keys]]\nkey = \"sk-right\"\nuser = \"u\"\n";
    let server = Server::new(config).await;
    let path = "/v1beta/models/demo-fast:generateContent";
    let asked = json!({"contents": ask()["contents"]});
    let status = async |request| Answer::of(server.send(request).await).await.status;
    assert_eq!(status(server.post(path, &asked).header("x-goog-api-key", "sk-right")).await, 200);
    assert_eq!(status(server.post(&format!("{path}?key=sk-right"), &asked)).await, 200);
    assert_eq!(status(server.post(&format!("{path}?key=sk-wrong"), &asked)).await, 401);
    assert_eq!(status(server.get("/v1/models?key=sk-right")).await, 200);
    assert_eq!(status(server.get("/v1/sessions?key=sk-right")).await, 401);
    let got = Answer::of(server.send(server.post(path, &asked)).await).await;
    assert_eq!((got.status, &got.json()["error"]["status"]), (401, &json!("UNAUTHENTICATED")));
    server.finish().await;
}

#[tokio::test]
async fn any_stream_can_be_watched_as_gemini() {
    let body = format!("{}{}", frame("Hello"), closing());
    let provider = FakeProvider::new([Script::stream().send(&body).end()]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&crate::harness::hi()).await;
    server.ended(&id).await;
    let events = server.sse(&format!("/v1/streams/{id}/events?format=gemini")).await.rest().await;
    assert_eq!(events[0].json()["candidates"][0]["content"]["parts"][0]["text"], "Hello");
    assert_eq!(events.last().unwrap().json()["candidates"][0]["finishReason"], "STOP");
    assert!(events.iter().all(|event| event.id.is_none()));
    server.finish().await;
}
