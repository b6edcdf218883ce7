//! Every provider dialect in, every surface out, and every client's request to every provider: 36 pairs, both ways.
//!
//! The snapshots are there to be read; what must hold of all fixtures in all pairs is asserted: a surface's bytes,
//! read by the decoder of the same dialect, say what the provider said.

use relaystream::chat::{Message, Request};
use relaystream::event::{Event, Status};
use relaystream::log::Record;
use relaystream::log::transcript::Transcript;
use relaystream::provider::{Provider, demo};
use relaystream::surface::{Format, Surface, ai_sdk, anthropic, gemini, openai_chat, openai_responses};
use serde_json::{Map, Value, json};

use crate::fixtures::{self, Fixture, LOG, decode, encode, log_of};

const SURFACES: [Surface; 6] = [
    Surface::Native,
    Surface::OpenAiChat,
    Surface::OpenAiResponses,
    Surface::Anthropic,
    Surface::Gemini,
    Surface::AiSdk,
];

/// Answers that every provider can give, by the names of their fixtures.
fn shown(dialect: Provider) -> Vec<(&'static str, Vec<Record>)> {
    let names = match dialect {
        Provider::OpenAiChat => {
            ["openai_text.sse", "openai_tools.sse", "deepseek_reasoning.sse", "openai_late_error.sse"]
        }
        Provider::OpenAiResponses => {
            ["openai_text.sse", "openai_tools.sse", "openai_reasoning.sse", "openai_late_error.sse"]
        }
        Provider::Ollama => ["text.ndjson", "tools.ndjson", "thinking.ndjson", "late_error.ndjson"],
        Provider::Demo => return vec![("text", demonstrated())],
        Provider::Anthropic | Provider::Gemini => {
            ["text.sse", "tools.sse", "reasoning.sse", "late_error.sse"]
        }
    };
    let all = fixtures::all();
    let log = |name: &str| {
        let name = format!("{}/{name}", dialect.name());
        log_of(all.iter().find(|fixture| fixture.name == name).unwrap_or_else(|| panic!("no {name}")))
    };
    ["text", "tools", "reasoning", "late error"].into_iter().zip(names.map(log)).collect()
}

/// The demo's answer, its beginning and its end.
fn demonstrated() -> Vec<Record> {
    let body = json!({"model": "demo-fast", "messages": [{"role": "user", "content": "hi"}]}).to_string();
    let frames: Vec<_> = demo::Script::new(body.as_bytes(), 0).map(|(_, bytes)| bytes).collect();
    let (head, tail) = (&frames[..6], &frames[frames.len() - 5..]);
    let bytes = [head, tail].concat().concat();
    log_of(&Fixture { dialect: Provider::Demo, name: "demo.sse".into(), bytes })
}

#[test]
fn every_providers_answer_on_every_surface() {
    for dialect in Provider::ALL {
        for surface in SURFACES {
            let format = Format { ids: surface != Surface::Gemini, ..Format::new(surface) };
            let mut out = String::new();
            for (case, records) in shown(dialect) {
                out.push_str(&format!("==== {case}\n{}", String::from_utf8_lossy(&encode(format, &records))));
                if let Some(whole) = surface.collect(LOG, &records) {
                    let whole: Value = serde_json::from_slice(&whole).expect("a whole answer is JSON");
                    out.push_str(&format!("---- {case}, whole\n{whole}\n"));
                }
            }
            insta::assert_snapshot!(format!("answer__{}__{}", dialect.name(), surface.name()), out);
        }
    }
}

/// What matters of an answer, whoever said it.
fn gist(events: impl IntoIterator<Item = Event>) -> Option<Value> {
    let mut transcript = Transcript::default();
    events.into_iter().for_each(|event| transcript.push(event));
    let done = transcript.done.clone()?;
    let calls: Vec<Value> = transcript
        .tool_calls
        .iter()
        .map(|call| {
            let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
            json!([call.name, if arguments.is_null() { json!({}) } else { arguments }])
        })
        .collect();
    let ended = if done.status == Status::Completed { "completed" } else { "broken" };
    Some(json!({"said": transcript.said(), "reasoning": transcript.reasoning, "calls": calls, "ended": ended,
                "finish_reason": done.finish_reason}))
}

#[test]
fn what_a_surface_says_is_what_the_provider_said() {
    let same = [
        (Surface::OpenAiChat, Provider::OpenAiChat),
        (Surface::OpenAiResponses, Provider::OpenAiResponses),
        (Surface::Anthropic, Provider::Anthropic),
        (Surface::Gemini, Provider::Gemini),
    ];
    let canonical = ["stop", "length", "tool_calls", "content_filter"];
    for fixture in fixtures::all() {
        let records = log_of(&fixture);
        let events = |record: &Record| {
            let kind = relaystream::event::Kind::from_u8(record.draft.kind).expect("known");
            Event::parse(kind, &record.draft.payload).expect("parses")
        };
        let mut said = gist(records.iter().map(events)).expect("an ending");
        let finish = said["finish_reason"].as_str().unwrap_or("stop").to_owned();
        if !canonical.contains(&finish.as_str()) {
            continue;
        }
        // A refusal is a kind of text with OpenAI, an ending with others.
        let refused = !Transcript::of(&records).refusal.is_empty();
        // Where there is no word for the reason, calls are one.
        let called = finish == "stop" && said["calls"].as_array().is_some_and(|calls| !calls.is_empty());
        // Only the dialects of OpenAI can say arguments that are no object.
        let objects = said["calls"].as_array().expect("calls").iter().all(|call| call[1].is_object());
        let same = same.into_iter().filter(|(surface, _)| {
            objects || matches!(surface, Surface::OpenAiChat | Surface::OpenAiResponses)
        });
        for (surface, dialect) in same {
            let format = Format { ids: surface != Surface::Gemini, ..Format::new(surface) };
            let bytes = encode(format, &records);
            let (frames, error) = decode(dialect, [bytes.as_slice()]);
            assert_eq!(error, None, "{} as {}", fixture.name, surface.name());
            let mut heard = gist(frames.into_iter().flat_map(|frame| frame.events)).unwrap_or_default();
            // A failure has no finish reason, and a dialect without one has said it as its usual end.
            if refused || called || said["ended"] == "broken" || said["finish_reason"].is_null() {
                (said["finish_reason"], heard["finish_reason"]) = (Value::Null, Value::Null);
            }
            if said["ended"] == "broken" {
                // Half a call can only be said in pieces.
                (said["calls"], heard["calls"]) = (Value::Null, Value::Null);
            }
            assert_eq!(heard, said, "{} as {}", fixture.name, surface.name());
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(fields) = value else { panic!("an object") };
    fields
}

const PNG: &str = "iVBORw0KGgo=";

/// The same conversation, as each dialect's own client sends it: a system prompt, a picture, a call and its answer.
fn conversations() -> Vec<(Surface, Request)> {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let url = format!("data:image/png;base64,{PNG}");
    let chat = json!({
        "model": "m", "stream": true, "max_completion_tokens": 300, "temperature": 0.5,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "How warm is it there? 🦀"},
                                         {"type": "image_url", "image_url": {"url": url}}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "-4 °C"}],
        "tools": [{"type": "function", "function": {"name": "weather", "description": "How warm", "parameters": schema}}],
    });
    let responses = json!({
        "model": "m", "stream": true, "max_output_tokens": 300, "temperature": 0.5, "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "How warm is it there? 🦀"},
                                         {"type": "input_image", "image_url": url}]},
            {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{\"city\":\"Oslo\"}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "-4 °C"}],
        "tools": [{"type": "function", "name": "weather", "description": "How warm", "parameters": schema, "strict": false}],
    });
    let messages = json!({
        "model": "m", "stream": true, "max_tokens": 300, "temperature": 0.5, "system": "Be brief.",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "How warm is it there? 🦀"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "-4 °C"}]}],
        "tools": [{"name": "weather", "description": "How warm", "input_schema": schema}],
    });
    let contents = json!({
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "generationConfig": {"maxOutputTokens": 300, "temperature": 0.5},
        "contents": [
            {"role": "user", "parts": [{"text": "How warm is it there? 🦀"},
                                       {"inlineData": {"mimeType": "image/png", "data": PNG}}]},
            {"role": "model", "parts": [{"functionCall": {"id": "call_1", "name": "weather", "args": {"city": "Oslo"}}}]},
            {"role": "user", "parts": [{"functionResponse": {"id": "call_1", "name": "weather", "response": {"result": "-4 °C"}}}]}],
        "tools": [{"functionDeclarations": [{"name": "weather", "description": "How warm", "parametersJsonSchema": schema}]}],
    });
    let ui = json!({
        "id": "chat-1", "trigger": "submit-message", "temperature": 0.5, "max_tokens": 300,
        "messages": [
            {"id": "m0", "role": "system", "parts": [{"type": "text", "text": "Be brief."}]},
            {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "How warm is it there? 🦀"},
                {"type": "file", "mediaType": "image/png", "url": url}]},
            {"id": "m2", "role": "assistant", "parts": [{"type": "step-start"},
                {"type": "tool-weather", "toolCallId": "call_1", "state": "output-available",
                 "input": {"city": "Oslo"}, "output": "-4 °C"}]}],
    });
    let asked = ai_sdk::read(object(ui)).expect("an AI SDK request");
    let messages_of = |messages: Vec<Value>| Value::Array(messages);
    let from_ui =
        Request::new("m".into(), messages_of(asked.messages), asked.params, true).expect("a request");
    vec![
        (Surface::OpenAiChat, openai_chat::read(object(chat)).expect("a chat request")),
        (
            Surface::OpenAiResponses,
            with_instructions(
                openai_responses::read(object(responses), Vec::new()).expect("a responses request"),
            ),
        ),
        (Surface::Anthropic, anthropic::read(object(messages), Vec::new()).expect("a messages request")),
        (Surface::Gemini, gemini::read("m".into(), true, object(contents)).expect("a gemini request")),
        (Surface::AiSdk, from_ui),
    ]
}

fn with_instructions(asked: openai_responses::Asked) -> Request {
    let mut request = asked.request;
    let first: Option<Message> = asked.instructions;
    request.messages.splice(0..0, first);
    request
}

#[test]
fn every_clients_request_to_every_provider() {
    for (surface, request) in conversations() {
        for dialect in Provider::ALL {
            let ask = dialect.ask(&request, "their-model");
            let ask = ask.unwrap_or_else(|error| panic!("{} to {}: {error}", surface.name(), dialect.name()));
            let body: Value = serde_json::from_slice(&ask.body).expect("JSON");
            let said = serde_json::to_string_pretty(&body).expect("JSON");
            for needle in ["Be brief.", "How warm is it there? 🦀", PNG, "Oslo", "-4 °C"] {
                assert!(said.contains(needle), "{} to {}: no {needle:?}", surface.name(), dialect.name());
            }
            let text = format!("POST {}\n{said}\n", ask.path);
            insta::assert_snapshot!(format!("request__{}__{}", surface.name(), dialect.name()), text);
        }
    }
}
