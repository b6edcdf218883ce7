//! `/api/chat`: what the AI SDK's `useChat` sends and reads, byte by byte; its own clients are in `tests/sdk`.

use relaystream::app::settings;
use relaystream::config::{Config, Environment};
use serde_json::{Value, json};

use crate::harness::provider::{chunk, closing};
use crate::harness::sse::BodyEnd;
use crate::harness::{Answer, BROKEN_FOR_GOOD, Event, FakeProvider, Gate, Script, Server, Sse};

fn user(text: &str) -> Value {
    json!({"id": "u1", "role": "user", "parts": [{"type": "text", "text": text}]})
}

fn submit(chat: &str, messages: &[Value]) -> Value {
    json!({"id": chat, "messages": messages, "trigger": "submit-message", "model": "fake-1"})
}

async fn send(server: &Server, body: &Value) -> Sse {
    let answer = server.sse_of(server.post("/api/chat", body)).await;
    assert_eq!(answer.header("x-vercel-ai-ui-message-stream"), "v1");
    answer
}

fn parts(events: &[Event]) -> Vec<Value> {
    let part = |event: &Event| serde_json::from_str(&event.data).unwrap_or_else(|_| json!(event.data));
    events.iter().map(part).collect()
}

fn types(events: &[Event]) -> String {
    let name = |part: &Value| part["type"].as_str().unwrap_or("DONE").to_owned();
    parts(events).iter().map(name).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn an_answer_is_parts_and_its_replay_the_same_bytes() {
    let provider = FakeProvider::new([Script::answer(&["Grüße", " 🌍"])]).await;
    let server = Server::before(&provider, "").await;
    assert_eq!(server.send(server.get("/api/chat/c-1/stream")).await.status(), 204);
    let mut answer = send(&server, &submit("c-1", &[user("Hi")])).await;
    let events = answer.rest().await;
    assert_eq!(answer.end, Some(BodyEnd::Clean));
    let id = answer.header("x-stream-id").to_owned();
    assert_eq!(answer.header("x-session-id"), "c-1");
    let usage = json!({"inputTokens": 3, "outputTokens": 5, "totalTokens": 8});
    assert_eq!(
        parts(&events),
        [
            json!({"type": "start", "messageId": format!("msg_{id}"), "messageMetadata": {"streamId": id, "model": "fake-1"}}),
            json!({"type": "start-step"}),
            json!({"type": "text-start", "id": "t0"}),
            json!({"type": "text-delta", "id": "t0", "delta": "Grüße"}),
            json!({"type": "text-delta", "id": "t0", "delta": " 🌍"}),
            json!({"type": "text-end", "id": "t0"}),
            json!({"type": "finish-step"}),
            json!({"type": "finish", "messageMetadata": {"finishReason": "stop", "usage": usage}}),
            json!("[DONE]"),
        ]
    );
    for path in ["/api/chat/c-1/stream".to_owned(), format!("/v1/streams/{id}/events?format=ai-sdk")] {
        let mut again = server.sse(&path).await;
        again.rest().await;
        assert_eq!((again.text(), again.end), (answer.text(), Some(BodyEnd::Clean)), "{path}");
        assert_eq!(again.header("x-vercel-ai-ui-message-stream"), "v1");
    }
    server.finish().await;
}

#[tokio::test]
async fn what_a_page_holds_becomes_what_the_model_is_told() {
    let provider = FakeProvider::new([Script::answer(&["ok"])]).await;
    let server = Server::before(&provider, "").await;
    let png = "data:image/png;base64,iVBORw0=";
    let messages = [
        json!({"role": "system", "id": "s", "parts": [{"type": "text", "text": "Be brief."}]}),
        json!({"role": "user", "id": "u1", "parts": [
            {"type": "text", "text": "What is this?"}, {"type": "data-theme", "data": 1},
            {"type": "file", "mediaType": "image/png", "url": png},
            {"type": "file", "mediaType": "application/pdf", "url": "data:application/pdf;base64,JVBE", "filename": "a.pdf"},
            {"type": "file", "mediaType": "audio/mpeg", "url": "data:audio/mpeg;base64,SUQz"}]}),
        json!({"role": "assistant", "id": "a1", "metadata": {"x": 1}, "parts": [
            {"type": "step-start"},
            {"type": "reasoning", "text": "hm", "state": "done", "providerMetadata": {"relaystream": {"signature": "c2ln"}}},
            {"type": "text", "text": "Let me see.", "state": "done"},
            {"type": "tool-look", "toolCallId": "c1", "state": "output-available", "input": {"at": 1}, "output": {"seen": "a cat"}},
            {"type": "dynamic-tool", "toolName": "ask", "toolCallId": "c2", "state": "output-error", "input": {}, "errorText": "no"},
            {"type": "tool-wait", "toolCallId": "c3", "state": "input-streaming", "input": {"ha": 1}},
            {"type": "source-url", "sourceId": "s", "url": "http://x"},
            {"type": "step-start"},
            {"type": "text", "text": "A cat."}]}),
        json!({"role": "user", "id": "u2", "content": "Sure?"}),
    ];
    let mut body = submit("c-1", &messages);
    for (name, value) in
        [("temperature", json!(0.5)), ("messageId", json!("a1")), ("selectedTab", json!("x"))]
    {
        body[name] = value;
    }
    send(&server, &body).await.rest().await;
    let sent = provider.request(0).await.body();
    assert_eq!((&sent["temperature"], sent.get("selectedTab")), (&json!(0.5), None));
    let function = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    assert_eq!(
        sent["messages"],
        json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": png}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"}},
                {"type": "input_audio", "input_audio": {"format": "mp3", "data": "SUQz"}}]},
            {"role": "assistant", "content": "Let me see.", "tool_calls": [function("c1", "look", "{\"at\":1}"), function("c2", "ask", "{}")]},
            {"role": "tool", "tool_call_id": "c1", "content": "{\"seen\":\"a cat\"}"},
            {"role": "tool", "tool_call_id": "c2", "content": "no"},
            {"role": "assistant", "content": "A cat."},
            {"role": "user", "content": "Sure?"},
        ])
    );
    server.finish().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_in_plain_text_by_field() {
    let server = Server::demo().await;
    let part = |part: Value| json!([{"role": "user", "parts": [part]}]);
    for (body, expected) in [
        (json!({"messages": []}), "id: is missing"),
        (json!({"id": 1, "messages": []}), "id: expected a string, got a number"),
        (
            json!({"id": "a b", "messages": part(json!({"type": "text", "text": "x"}))}),
            "id: \"a b\" is not of the form",
        ),
        (json!({"id": "c"}), "messages: is missing"),
        (json!({"id": "c", "messages": []}), "messages: at least one"),
        (json!({"id": "c", "messages": [{"role": "bot", "parts": []}]}), "messages[0].role: is not one of"),
        (json!({"id": "c", "messages": [{"role": "user"}]}), "messages[0].parts: expected a list"),
        (
            json!({"id": "c", "messages": part(json!({"type": "text"}))}),
            "messages[0].parts[0].text: expected a string",
        ),
        (json!({"id": "c", "messages": part(json!({"type": "odd"}))}), "messages[0].parts[0].type: \"odd\""),
        (
            json!({"id": "c", "messages": part(json!({"type": "text", "text": "x"})), "trigger": "x"}),
            "trigger:",
        ),
        (
            json!({"id": "c", "messages": part(json!({"type": "text", "text": "x"})), "variables": {}}),
            "variables: are for",
        ),
        (
            json!({"id": "c", "messages": part(json!({"type": "text", "text": "x"})), "temperature": "x"}),
            "temperature:",
        ),
    ] {
        let answer = Answer::of(server.send(server.post("/api/chat", &body)).await).await;
        assert_eq!(answer.status, 422, "{body}: {}", answer.text);
        assert!(answer.header("content-type").starts_with("text/plain"));
        assert!(answer.text.starts_with(expected), "{body}: {}", answer.text);
    }
    server.finish().await;
}

#[tokio::test]
async fn calls_are_available_once_they_are_whole() {
    let call = |index: u32, id: &str, name: &str, arguments: &str| {
        chunk(
            &json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}}]}),
            &Value::Null,
        )
    };
    let body = [call(0, "c1", "f", "{\"x\":"), call(1, "c2", "g", "{oops"), call(0, "", "", "1}"), closing()]
        .concat();
    let provider = FakeProvider::new([Script::stream().send(&body).end()]).await;
    let server = Server::before(&provider, "").await;
    let events = send(&server, &submit("c", &[user("Hi")])).await.rest().await;
    let parts = parts(&events);
    let of = |kind: &str| parts.iter().filter(|part| part["type"] == kind).collect::<Vec<_>>();
    assert_eq!(of("tool-input-start").len(), 2);
    assert_eq!(
        of("tool-input-available"),
        [&json!({"type": "tool-input-available", "toolCallId": "c1", "toolName": "f", "input": {"x": 1}})]
    );
    assert_eq!(of("tool-output-error")[0]["toolCallId"], "c2");
    // Nothing that 5.0.0 does not know.
    assert_eq!(of("tool-input-error").len(), 0);
    server.finish().await;
}

#[tokio::test]
async fn a_broken_answer_is_an_error_and_a_broken_body_also_when_replayed() {
    let provider = FakeProvider::new([Script::stream().token("Hel").end()]).await;
    let server = Server::before(&provider, BROKEN_FOR_GOOD).await;
    let mut answer = send(&server, &submit("c", &[user("Hi")])).await;
    let events = answer.rest().await;
    assert_eq!(types(&events), "start start-step text-start text-delta error");
    assert_eq!(answer.end, Some(BodyEnd::Broken));
    let mut again = server.sse("/api/chat/c/stream").await;
    assert_eq!((types(&again.rest().await), again.end), (types(&events), Some(BodyEnd::Broken)));
    server.finish().await;
}

#[tokio::test]
async fn an_early_refusal_keeps_its_status_and_leaves_nothing_to_resume() {
    let provider =
        FakeProvider::new([Script::json(400, &json!({"error": {"message": "no such engine"}}))]).await;
    let server = Server::before(&provider, "").await;
    let answer = Answer::of(server.send(server.post("/api/chat", &submit("c", &[user("Hi")]))).await).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text.contains("no such engine") && !answer.text.starts_with('{'), "{}", answer.text);
    assert_eq!(server.send(server.get("/api/chat/c/stream")).await.status(), 204);
    server.finish().await;
}

#[tokio::test]
async fn stop_ends_it_for_everybody_and_a_stale_one_nothing() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::stream().token("Hel").wait(&gate).finish()]).await;
    let server = Server::before(&provider, "").await;
    let mut first = send(&server, &submit("c", &[user("Hi")])).await;
    let mut second = server.sse("/api/chat/c/stream").await;
    let stop = async |body: &Value| {
        let answer = Answer::of(server.send(server.post("/api/chat/c/stop", body)).await).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"success": true})));
    };
    stop(&json!({"activeStreamId": "01jxk3v9c2m4n5p6q7r8s9t0va"})).await;
    assert_eq!(server.json("/v1/sessions/c").await["streams_running"], 1);
    stop(&json!({"activeStreamId": first.header("x-stream-id"), "assistantMessage": {"parts": []}})).await;
    for viewer in [&mut first, &mut second] {
        let events = viewer.rest().await;
        assert_eq!(
            types(&events),
            "start start-step text-start text-delta text-end message-metadata abort DONE"
        );
        assert_eq!(viewer.end, Some(BodyEnd::Clean));
        let told = &parts(&events)[5]["messageMetadata"];
        assert_eq!((&told["stoppedBy"], &told["usage"]["outputTokens"]), (&json!("local"), &json!(1)));
    }
    provider.abandoned(0).await;
    // Again, without a body, and where nothing is: fine.
    for chat in ["c", "none"] {
        let answer =
            Answer::of(server.send(server.client.post(server.url(&format!("/api/chat/{chat}/stop")))).await)
                .await;
        assert_eq!((answer.status, answer.json()), (200, json!({"success": true})));
    }
    server.finish().await;
}

#[tokio::test]
async fn a_stop_before_the_first_word_is_an_aborted_answer() {
    let provider = FakeProvider::new([Script::stream().stall()]).await;
    let server = Server::before(&provider, "").await;
    let asking = server.send(server.post("/api/chat", &submit("c", &[user("Hi")])));
    let stopping = async {
        provider.request(0).await;
        let answer = server.send(server.post("/api/chat/c/stop", &json!({}))).await;
        assert_eq!(answer.status(), 200);
    };
    let (answer, ()) = tokio::join!(asking, stopping);
    assert_eq!(answer.status(), 200);
    assert_eq!(types(&Sse::new(answer).rest().await), "start start-step message-metadata abort DONE");
    assert_eq!(server.send(server.get("/api/chat/c/stream")).await.status(), 204);
    server.finish().await;
}

#[tokio::test]
async fn another_answer_stops_the_running_one() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall(), Script::answer(&["Hi!"])]).await;
    let server = Server::before(&provider, "").await;
    let mut first = send(&server, &submit("c", &[user("Hi")])).await;
    let mut again = submit("c", &[user("Hi")]);
    again["trigger"] = "regenerate-message".into();
    let mut second = send(&server, &again).await;
    assert!(types(&first.rest().await).ends_with("abort DONE"));
    let events = second.rest().await;
    assert_ne!(parts(&events)[0]["messageId"], json!(format!("msg_{}", first.header("x-stream-id"))));
    // What is resumed is the new one.
    assert_eq!(parts(&server.sse("/api/chat/c/stream").await.rest().await), parts(&events));
    server.finish().await;
}

#[tokio::test]
async fn model_and_prompt_come_from_the_configuration() {
    let provider = FakeProvider::new([Script::answer(&["ok"])]).await;
    let prompts = tempfile::tempdir().unwrap();
    let text = "---\nconfig: {temperature: 0.1, topP: 0.9}\ninput: {schema: {tone: string}}\n---\n{{role \"system\"}}Be {{tone}}.\n{{role \"user\"}}never";
    std::fs::write(prompts.path().join("chat.prompt"), text).unwrap();
    let config = format!(
        "[prompts]\npath = {:?}\n[ai_sdk]\nmodel = \"fake/other\"\nprompt = \"chat\"\nparts = \"v6\"",
        prompts.path()
    );
    let server = Server::before(&provider, &config).await;
    let mut body = json!({"id": "c", "messages": [user("Hi")], "variables": {"tone": "kind"}, "top_p": 0.5});
    let events = send(&server, &body).await.rest().await;
    let finish = &parts(&events)[events.len() - 2];
    assert_eq!((&finish["type"], &finish["finishReason"]), (&json!("finish"), &json!("stop")));
    let sent = provider.request(0).await.body();
    assert_eq!(
        (&sent["model"], &sent["temperature"], &sent["top_p"]),
        (&json!("other"), &json!(0.1), &json!(0.5))
    );
    assert_eq!(
        sent["messages"],
        json!([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}])
    );
    body["variables"] = json!({});
    let answer = Answer::of(server.send(server.post("/api/chat", &body)).await).await;
    assert_eq!(answer.status, 422);
    assert!(answer.text.contains("tone"), "{}", answer.text);
    server.finish().await;
}

#[test]
fn a_configured_prompt_must_be_there() {
    let (mut config, none) = (Config::default(), Environment::new());
    config.ai_sdk.prompt = "nope".into();
    let error = settings(&config, false, &none).err().map(|error| error.to_string());
    assert_eq!(error.as_deref(), Some("ai_sdk.prompt: there is no prompt \"nope\""));
    config.ai_sdk.prompt = "translate".into();
    assert!(settings(&config, false, &none).is_ok());
}

#[tokio::test]
async fn an_answer_to_a_clients_tool_goes_on_with_its_message() {
    let provider = FakeProvider::new([Script::answer(&["12 °C"])]).await;
    let server = Server::before(&provider, "").await;
    let held = json!({"id": "msg_1", "role": "assistant", "metadata": {"streamId": "s1"}, "parts": [
        {"type": "step-start"},
        {"type": "text", "text": "I look.", "state": "done"},
        {"type": "tool-weather", "toolCallId": "c1", "state": "output-available", "input": {"city": "Oslo"}, "output": {"c": 12}}]});
    let mut answer = send(&server, &submit("c", &[user("Weather?"), held.clone()])).await;
    let events = answer.rest().await;
    // The page has its message; a page that lost it needs all of it, and must not act on the call again.
    assert_eq!(types(&events), "start start-step text-start text-delta text-end finish-step finish DONE");
    assert_eq!(parts(&events)[0]["messageId"], "msg_1");
    let again = server.sse("/api/chat/c/stream").await.rest().await;
    assert_eq!(
        types(&again),
        format!(
            "start start-step text-start text-delta text-end tool-input-start tool-input-delta tool-output-available finish-step {}",
            types(&events)
        )
    );
    assert_eq!(
        parts(&again)[0],
        json!({"type": "start", "messageId": "msg_1", "messageMetadata": {"streamId": "s1"}})
    );
    assert_eq!(parts(&again)[9..], parts(&events));
    server.finish().await;
}

#[tokio::test]
async fn a_foreign_chat_is_not_there() {
    let provider = FakeProvider::new([Script::answer(&["ok"])]).await;
    let keys = "[auth]\nkeys = [{ key = \"ka\", user = \"ann\" }, { key = \"kb\", user = \"bob\" }]\n";
    let server = Server::before(&provider, keys).await;
    let post = |key: &str| server.post("/api/chat", &submit("c", &[user("Hi")])).bearer_auth(key);
    server.sse_of(post("ka")).await.rest().await;
    for (key, status) in [("ka", 200), ("kb", 204)] {
        let answer = Answer::of(server.send(server.get("/api/chat/c/stream").bearer_auth(key)).await).await;
        assert_eq!(answer.status, status, "{key}");
    }
    assert_eq!(Answer::of(server.send(post("kb")).await).await.status, 404);
    server.finish().await;
}
