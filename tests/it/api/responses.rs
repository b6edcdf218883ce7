//! `/v1/responses` and what hangs below it, over a provider of the same dialect and over others.

use serde_json::{Value, json};

use crate::harness::sse::{BodyEnd, types};
use crate::harness::{Answer, BROKEN_FOR_GOOD, FakeProvider, Gate, Script, Server, Sse, chat};

fn ask() -> Value {
    json!({"model": "fake-1", "input": "Hi", "stream": true})
}

/// A server before a provider of this very dialect.
async fn same(provider: &FakeProvider, config: &str) -> Server {
    let section = provider.config().replace("openai-chat", "openai-responses");
    Server::new(&format!("{config}\n{section}")).await
}

fn fixture(name: &str) -> String {
    let path = format!("{}/tests/fixtures/openai-responses/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

/// The provider's id in the fixtures.
const PROVIDERS: &str = "resp_68f1c0a2b3d48190a4c2e1d0f9b8a7c601e5";

/// The body as the provider sent it: without our ids.
fn stripped(viewer: &Sse) -> String {
    viewer.text().split_inclusive('\n').filter(|line| !line.starts_with("id: ")).collect()
}

fn numbers(events: &[crate::harness::Event]) -> Vec<u64> {
    events.iter().map(|event| event.json()["sequence_number"].as_u64().unwrap()).collect()
}

async fn error(server: &Server, body: &Value) -> (u16, String) {
    let answer = Answer::of(server.send(server.post("/v1/responses", body)).await).await;
    let param = answer.json()["error"]["param"].as_str().unwrap_or_default().to_owned();
    (answer.status, param)
}

#[tokio::test]
async fn the_same_dialect_passes_unchanged_both_ways() {
    let body = fixture("openai_reasoning.sse");
    let provider = FakeProvider::new([Script::stream().send_in(&body, 97).end()]).await;
    let server = same(&provider, "").await;
    let mut asked = ask();
    asked["tools"] = json!([{"type": "web_search", "odd": [1]}]);
    asked["background"] = true.into();
    asked["vendor"] = json!({"deep": null});
    let request = server.post("/v1/responses", &asked).header("openai-beta", "x=v1");
    let mut viewer = server.sse_of(request).await;
    let events = viewer.rest().await;
    assert_eq!((stripped(&viewer), viewer.end), (body, Some(BodyEnd::Clean)));
    let sent = provider.request(0).await;
    assert_eq!((sent.path.as_str(), sent.header("openai-beta")), ("/v1/responses", "x=v1"));
    asked.as_object_mut().unwrap().remove("background");
    assert_eq!(
        sent.body(),
        json!({"model": "fake-1", "input": "Hi", "stream": true, "tools": asked["tools"], "vendor": {"deep": null}})
    );
    // By the provider's id and by ours; what was said last is the object.
    let ours = format!("resp_{}", viewer.header("x-stream-id"));
    for id in [PROVIDERS, &ours] {
        let object = server.json(&format!("/v1/responses/{id}")).await;
        assert_eq!(object, events.last().unwrap().json()["response"]);
        let path = format!("/v1/responses/{id}?stream=true&starting_after=7");
        assert_eq!(server.sse(&path).await.rest().await, events[8..]);
    }
    server.finish().await;
}

#[tokio::test]
async fn a_providers_id_is_its_askers_alone() {
    let provider = FakeProvider::new([Script::stream().send(fixture("openai_text.sse")).end()]).await;
    let keys = "[auth]\nkeys = [{ key = \"a\", user = \"ann\" }, { key = \"b\", user = \"bob\" }]\n";
    let server = same(&provider, keys).await;
    let request = server.post("/v1/responses", &ask()).header("authorization", "Bearer a");
    let mut viewer = server.sse_of(request).await;
    viewer.rest().await;
    let ours = format!("resp_{}", viewer.header("x-stream-id"));
    for (key, status) in [("a", 200), ("b", 404)] {
        for id in [PROVIDERS, &ours] {
            let get =
                server.get(&format!("/v1/responses/{id}")).header("authorization", format!("Bearer {key}"));
            assert_eq!(server.send(get).await.status(), status, "{key} {id}");
        }
    }
    server.finish().await;
}

#[tokio::test]
async fn an_answer_in_one_piece_is_the_providers_own_bytes() {
    let body = fixture("openai_whole_tools.json");
    let script = Script::status(200, &[("content-type", "application/json")], &body);
    let provider = FakeProvider::new([script]).await;
    let server = same(&provider, "").await;
    let asked = json!({"model": "fake-1", "input": "Hi"});
    let answer = Answer::of(server.send(server.post("/v1/responses", &asked)).await).await;
    assert_eq!((answer.status, &answer.text), (200, &body));
    let snapshot = server.ended(answer.header("x-stream-id")).await;
    assert_eq!(snapshot["tool_calls"][1]["name"], "get_time");
    assert_eq!(snapshot["reasoning"], "Two\n\ncalls");
    let again = Answer::of(server.send(server.get(&format!("/v1/responses/{PROVIDERS}"))).await).await;
    assert_eq!(again.text, body);
    server.finish().await;
}

#[tokio::test]
async fn events_are_numbered_and_can_be_gone_on_with_from_each() {
    let provider = FakeProvider::new([Script::answer(&["one", " two 日本", " three"])]).await;
    let server = Server::before(&provider, "").await;
    let mut viewer = server.sse_of(server.post("/v1/responses", &ask())).await;
    let events = viewer.rest().await;
    assert_eq!(numbers(&events), (0..events.len() as u64).collect::<Vec<_>>());
    assert_eq!(
        types(&events[..4])[..3],
        ["response.created", "response.in_progress", "response.output_item.added"]
    );
    let last = events.last().unwrap().json();
    assert_eq!(last["response"]["output"][0]["content"][0]["text"], "one two 日本 three");
    assert_eq!(last["response"]["usage"]["total_tokens"], 8);
    let id = last["response"]["id"].as_str().unwrap().to_owned();
    assert_eq!(id, format!("resp_{}", viewer.header("x-stream-id")));
    assert_eq!(server.json(&format!("/v1/responses/{id}")).await, last["response"]);
    let path = format!("/v1/responses/{id}?stream=true");
    assert_eq!(server.sse(&path).await.rest().await, events);
    for at in 0..events.len() {
        let mut rest = server.sse(&format!("{path}&starting_after={at}")).await;
        assert_eq!(rest.rest().await, events[at + 1..], "after {at}");
        assert_eq!(rest.end, Some(BodyEnd::Clean));
        let Some(position) = &events[at].id else { continue };
        let mut rest = server.sse_of(server.get(&path).header("last-event-id", position)).await;
        assert_eq!(rest.rest().await, events[at + 1..], "after {position}");
    }
    assert!(server.sse(&format!("{path}&starting_after=999")).await.rest().await.is_empty());
    for (query, param) in
        [("&starting_after=soon", json!("starting_after")), ("&after=nonsense", Value::Null)]
    {
        let answer = Answer::of(server.send(server.get(&format!("{path}{query}"))).await).await;
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &param));
    }
    server.finish().await;
}

#[tokio::test]
async fn a_running_response_can_be_looked_at_and_followed() {
    let gate = Gate::default();
    let script = Script::stream().tokens(&["one", " two"]).wait(&gate).token(" three").finish();
    let provider = FakeProvider::new([script]).await;
    let server = Server::before(&provider, "").await;
    // Without `background`: whoever asked may come back all the same.
    let mut viewer = server.sse_of(server.post("/v1/responses", &ask())).await;
    let mut seen = Vec::new();
    while !seen.last().is_some_and(|event: &crate::harness::Event| event.data.contains(" two")) {
        seen.push(viewer.next().await.unwrap());
    }
    let id = format!("resp_{}", viewer.header("x-stream-id"));
    drop(viewer);
    let object = server.json(&format!("/v1/responses/{id}")).await;
    assert_eq!(object["status"], "in_progress");
    assert_eq!(object["output"][0]["content"][0]["text"], "one two");
    let cursor = seen.len() - 1;
    let mut rest = server.sse(&format!("/v1/responses/{id}?stream=true&starting_after={cursor}")).await;
    gate.open();
    seen.extend(rest.rest().await);
    assert_eq!(numbers(&seen), (0..seen.len() as u64).collect::<Vec<_>>());
    assert_eq!(seen.last().unwrap().event, "response.completed");
    server.finish().await;
}

#[tokio::test]
async fn in_the_background_nobody_waits_for_the_first_word() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::stream().wait(&gate).token("late").finish()]).await;
    let server = Server::before(&provider, "").await;
    let mut asked = ask();
    asked["background"] = true.into();
    let mut viewer = server.sse_of(server.post("/v1/responses", &asked)).await;
    for kind in ["response.created", "response.queued", "response.in_progress"] {
        let event = viewer.expect(kind).await;
        assert_eq!(event.json()["response"]["background"], true);
    }
    gate.open();
    assert_eq!(viewer.rest().await.last().unwrap().event, "response.completed");
    asked["stream"] = false.into();
    let answer = Answer::of(server.send(server.post("/v1/responses", &asked)).await).await.json();
    assert_eq!((&answer["status"], &answer["background"]), (&json!("queued"), &json!(true)));
    gate.open();
    let id = answer["id"].as_str().unwrap();
    server.ended(&id["resp_".len()..]).await;
    let object = server.json(&format!("/v1/responses/{id}")).await;
    assert_eq!(
        (&object["status"], &object["output"][0]["content"][0]["text"]),
        (&json!("completed"), &json!("late"))
    );
    server.finish().await;
}

#[tokio::test]
async fn cancelled_and_forgotten() {
    for own in [true, false] {
        let body: String = fixture("openai_text.sse").split_inclusive("\n\n").take(7).collect();
        let script = if own { Script::stream().send(body) } else { Script::stream().token("Hello there,") };
        let provider = FakeProvider::new([script.stall()]).await;
        let server = if own { same(&provider, "").await } else { Server::before(&provider, "").await };
        let mut viewer = server.sse_of(server.post("/v1/responses", &ask())).await;
        let id =
            viewer.expect("response.created").await.json()["response"]["id"].as_str().unwrap().to_owned();
        let path = format!("/v1/responses/{id}");
        for _ in 0..2 {
            let request = server.post(&format!("{path}/cancel"), &Value::Null);
            let object = Answer::of(server.send(request).await).await.json();
            assert_eq!((&object["status"], &object["id"]), (&json!("cancelled"), &json!(id)));
            assert_eq!(object["output"][0]["status"], "incomplete");
            assert_eq!(object["output"][0]["content"][0]["text"], "Hello there,");
        }
        let events = viewer.rest().await;
        assert_eq!(viewer.end, Some(BodyEnd::Clean));
        assert_eq!(events.last().unwrap().event, "response.incomplete");
        assert_eq!(numbers(&events), (1..=events.len() as u64).collect::<Vec<_>>());
        provider.abandoned(0).await;
        let gone = Answer::of(server.send(server.delete(&path)).await).await.json();
        assert_eq!(gone, json!({"id": id, "object": "response", "deleted": true}));
        let answer = Answer::of(server.send(server.get(&path)).await).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"));
        server.finish().await;
    }
}

#[tokio::test]
async fn a_broken_answer_fails_and_breaks_the_body() {
    let provider = FakeProvider::new([Script::stream().token("half").cut()]).await;
    let server = Server::before(&provider, BROKEN_FOR_GOOD).await;
    let mut viewer = server.sse_of(server.post("/v1/responses", &ask())).await;
    let events = viewer.rest().await;
    let last = events.last().unwrap();
    assert_eq!((last.event.as_str(), viewer.end), ("response.failed", Some(BodyEnd::Broken)));
    let response = &last.json()["response"];
    assert_eq!(
        (&response["status"], &response["output"][0]["status"]),
        (&json!("failed"), &json!("incomplete"))
    );
    assert!(response["error"]["code"].as_str().is_some());
    // Whoever has seen that is not told again.
    let id = response["id"].as_str().unwrap();
    let path = format!("/v1/responses/{id}?stream=true&starting_after={}", events.len() - 1);
    let mut rest = server.sse(&path).await;
    assert_eq!((rest.rest().await.len(), rest.end), (0, Some(BodyEnd::Clean)));
    server.finish().await;
}

#[tokio::test]
async fn a_conversation_is_gone_on_with_by_name() {
    let provider = FakeProvider::new([Script::answer(&["fine"])]).await;
    let server = Server::before(&provider, "").await;
    let start = json!({"model": "fake-1", "instructions": "Be terse.", "input": "How are you?"});
    let first = Answer::of(server.send(server.post("/v1/responses", &start)).await).await.json();
    let mut next = json!({"model": "fake-1", "input": [{"role": "user", "content": "And now?"}]});
    next["previous_response_id"] = first["id"].clone();
    let second = Answer::of(server.send(server.post("/v1/responses", &next)).await).await.json();
    assert_eq!(second["previous_response_id"], first["id"]);
    // Instructions are those of their own request.
    let said = json!([{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "fine"},
                      {"role": "user", "content": "And now?"}]);
    assert_eq!(provider.request(1).await.body()["messages"], said);
    assert_eq!(provider.request(0).await.body()["messages"][0]["role"], "system");
    let items =
        server.json(&format!("/v1/responses/{}/input_items?limit=2", second["id"].as_str().unwrap())).await;
    assert_eq!(
        (&items["data"][0]["content"][0]["text"], &items["has_more"]),
        (&json!("And now?"), &json!(true))
    );
    next["previous_response_id"] = "resp_nobody".into();
    assert_eq!(error(&server, &next).await, (422, "previous_response_id".into()));
    next["previous_response_id"] = second["id"].clone();
    next["store"] = false.into();
    let third = Answer::of(server.send(server.post("/v1/responses", &next)).await).await.json();
    next["previous_response_id"] = third["id"].clone();
    assert_eq!(error(&server, &next).await, (422, "previous_response_id".into()));
    server.finish().await;
}

#[tokio::test]
async fn what_only_this_dialect_can_say_is_refused_by_field() {
    let provider = FakeProvider::new([Script::answer(&["fine"])]).await;
    let server = Server::before(&provider, "").await;
    for (field, value, param) in [
        ("conversation", json!("conv_1"), "conversation"),
        ("prompt", json!({"id": "pmpt_1"}), "prompt"),
        ("truncation", json!("auto"), "truncation"),
        ("include", json!(["file_search_call.results"]), "include"),
        ("tools", json!([{"type": "function", "name": "f"}, {"type": "web_search"}]), "tools[1]"),
        ("tool_choice", json!({"type": "web_search"}), "tool_choice"),
        ("input", json!([{"type": "item_reference", "id": "msg_1"}]), "input[0].type"),
        (
            "input",
            json!([{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]),
            "input[0].content[0]",
        ),
        ("input", json!(7), "input"),
        ("input", json!([{"role": "robot", "content": "x"}]), "input[0].role"),
        ("input", json!([{"type": "function_call", "call_id": "c", "name": "f"}]), "input[0].arguments"),
        ("model", json!(7), "model"),
        ("stream", json!("yes"), "stream"),
        ("max_output_tokens", json!(-1), "max_output_tokens"),
        ("text", json!({"format": "json"}), "text.format"),
        ("metadata", json!([]), "metadata"),
    ] {
        let mut asked = ask();
        asked[field] = value;
        assert_eq!(error(&server, &asked).await, (422, param.into()), "{asked}");
    }
    assert_eq!(provider.calls(), 0);
    server.finish().await;
}

#[tokio::test]
async fn a_request_becomes_chat_completions() {
    let provider = FakeProvider::new([Script::answer(&["fine"])]).await;
    let server = Server::before(&provider, "").await;
    let asked = json!({
        "model": "fake-1", "stream": true, "instructions": "Be terse.", "max_output_tokens": 9, "temperature": 0.5,
        "store": false, "include": ["reasoning.encrypted_content"], "truncation": "disabled",
        "reasoning": {"effort": "low", "summary": "auto"}, "metadata": {"k": "v"}, "user": "u",
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": true}},
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": false, "description": null}],
        "tool_choice": {"type": "function", "name": "f"}, "parallel_tool_calls": false,
        "input": [
            {"type": "message", "role": "developer", "content": "d"},
            {"role": "user", "content": [{"type": "input_text", "text": "see"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "c2ln"},
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "annotations": [], "text": "looking"}]},
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "id": "fc_2", "call_id": "c2", "name": "f", "arguments": "{\"x\":1}"},
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
        ],
    });
    server.sse_of(server.post("/v1/responses", &asked)).await.rest().await;
    let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
    let expected = json!({
        "model": "fake-1", "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 9,
        "temperature": 0.5, "reasoning_effort": "low", "user": "u", "parallel_tool_calls": false,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": true}},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": false}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "messages": [
            {"role": "system", "content": "Be terse."},
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [{"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}}]},
            {"role": "assistant", "content": "looking", "tool_calls": [call("c1", "{}"), call("c2", "{\"x\":1}")]},
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": "two"},
        ],
    });
    assert_eq!(provider.request(0).await.body(), expected);
    server.finish().await;
}

#[tokio::test]
async fn chat_completions_become_a_request() {
    let provider =
        FakeProvider::new([Script::stream().send(fixture("openai_parallel_tools.sse")).end()]).await;
    let server = same(&provider, "").await;
    let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let mut asked = chat();
    asked["messages"] = json!([
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
            {"type": "file", "file": {"file_id": "file_1"}}]},
        {"role": "assistant", "content": "looking", "tool_calls": [call], "reasoning": [{"text": "hm", "signature": "c2ln"}, {"text": "unsigned"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
    ]);
    asked["max_completion_tokens"] = 9.into();
    asked["reasoning_effort"] = "low".into();
    asked["response_format"] =
        json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}});
    asked["tools"] = json!([{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]);
    asked["tool_choice"] = json!({"type": "function", "function": {"name": "f"}});
    let mut viewer = server.sse_of(server.post("/v1/chat/completions", &asked)).await;
    let events = viewer.rest().await;
    assert_eq!(events.last().unwrap().data, "[DONE]");
    assert!(events.iter().any(|event| event.data.contains("\"finish_reason\":\"tool_calls\"")));
    let expected = json!({
        "model": "fake-1", "stream": true, "store": false, "include": ["reasoning.encrypted_content"],
        "max_output_tokens": 9, "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": false}},
        "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": false}],
        "tool_choice": {"type": "function", "name": "f"},
        "input": [
            {"type": "message", "role": "system", "content": "Be terse."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "see"},
                {"type": "input_image", "detail": "auto", "image_url": "https://x/y.png"}, {"type": "input_file", "file_id": "file_1"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "c2ln"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "looking"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
        ],
    });
    assert_eq!(provider.request(0).await.body(), expected);
    for (field, value) in [
        ("stop", json!("x")),
        ("seed", json!(7)),
        ("frequency_penalty", json!(0.5)),
        ("presence_penalty", json!(0.5)),
        ("logit_bias", json!({"1": 2})),
        ("logprobs", json!(true)),
        ("top_k", json!(5)),
        ("vendor_option", json!(1)),
    ] {
        let mut asked = chat();
        asked[field] = value;
        let answer = Answer::of(server.send(server.post("/v1/chat/completions", &asked)).await).await;
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (422, &json!(field)));
    }
    assert_eq!(provider.calls(), 1);
    server.finish().await;
}

#[tokio::test]
async fn early_refusals_keep_status_and_body() {
    let body = r#"{"error":{"message":"no such engine","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#;
    let script = Script::status(404, &[("content-type", "application/json")], body);
    let provider = FakeProvider::new([script]).await;
    for server in [same(&provider, "").await, Server::before(&provider, "").await] {
        for stream in [true, false] {
            let mut asked = ask();
            asked["stream"] = stream.into();
            let answer = Answer::of(server.send(server.post("/v1/responses", &asked)).await).await;
            assert_eq!(answer.status, 404);
            // In the same dialect it is the provider's own body.
            let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(message.ends_with("no such engine"), "{message}");
        }
        server.finish().await;
    }
}
