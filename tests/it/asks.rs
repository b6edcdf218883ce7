//! One canonical request, said in every provider's dialect; and what a dialect cannot say, refused by the field's name.

use relaystream::chat::Request;
use relaystream::provider::Provider;
use serde_json::{Map, Value, json};

fn request(messages: Value, params: Value) -> Request {
    let Value::Object(params) = params else { panic!("params are an object") };
    Request::new("some-model".into(), messages, params, true).expect("a good request")
}

fn asked(dialect: Provider, request: &Request) -> Value {
    let ask =
        dialect.ask(request, "their-model").unwrap_or_else(|error| panic!("{}: {error}", dialect.name()));
    let body: Value = serde_json::from_slice(&ask.body).expect("JSON");
    json!({"path": ask.path, "headers": ask.headers, "body": body})
}

/// A conversation with everything in it that all dialects can say.
fn conversation() -> Value {
    json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "What is this, and how warm is it there? 🦀"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        ]},
        {"role": "assistant", "content": "Let me look.",
         "reasoning": [{"text": "A picture of Oslo.", "signature": "c2lnbmF0dXJl"}],
         "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}},
            {"id": "call_b", "type": "function", "function": {"name": "time", "arguments": ""}},
         ]},
        {"role": "tool", "tool_call_id": "call_a", "content": "-4 °C"},
        {"role": "tool", "tool_call_id": "call_b", "content": [{"type": "text", "text": "12:00"}]},
        {"role": "user", "content": "And tomorrow?"},
    ])
}

fn tools() -> Value {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    json!([
        {"type": "function", "function": {"name": "weather", "description": "How warm it is", "parameters": schema}},
        {"type": "function", "function": {"name": "time"}},
    ])
}

#[test]
fn a_conversation_is_said_in_every_dialect() {
    let params = json!({"temperature": 0.5, "max_tokens": 200, "tools": tools(), "tool_choice": "auto"});
    let request = request(conversation(), params);
    for dialect in Provider::ALL {
        let said = serde_json::to_string_pretty(&asked(dialect, &request)).expect("JSON");
        insta::assert_snapshot!(format!("ask__{}", dialect.name()), said);
    }
}

/// Each option by itself: what a dialect says for it, or the field that it refuses.
#[test]
fn every_option_is_said_or_refused_by_name() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": false,
                        "required": ["a"]});
    let options = [
        json!({"stop": "END"}),
        json!({"stop": ["A", "B"]}),
        json!({"top_p": 0.9}),
        json!({"top_k": 40}),
        json!({"seed": 7}),
        json!({"frequency_penalty": 0.5}),
        json!({"presence_penalty": 0.5}),
        json!({"temperature": 1.5}),
        json!({"reasoning_effort": "high"}),
        json!({"reasoning_effort": "none"}),
        json!({"thinking_budget": 2048}),
        json!({"thinking_budget": 0}),
        json!({"response_format": {"type": "text"}}),
        json!({"response_format": {"type": "json_object"}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": true}}}),
        json!({"tools": tools(), "tool_choice": "required"}),
        json!({"tools": tools(), "tool_choice": "none"}),
        json!({"tools": tools(), "tool_choice": {"type": "function", "function": {"name": "time"}}}),
        json!({"tools": tools(), "parallel_tool_calls": false}),
        json!({"tools": [{"type": "web_search"}]}),
        json!({"logprobs": true}),
        json!({"logit_bias": {"50256": -100}}),
        json!({"user": "u1"}),
        json!({"metadata": {"a": "b"}}),
        json!({"no_such_option": 1}),
    ];
    for dialect in Provider::ALL {
        let plain = asked(dialect, &request(json!([{"role": "user", "content": "hi"}]), json!({})));
        let mut lines = String::new();
        for option in &options {
            let request = request(json!([{"role": "user", "content": "hi"}]), option.clone());
            let said = match dialect.ask(&request, "their-model") {
                Ok(ask) => {
                    added(&plain["body"], &serde_json::from_slice(&ask.body).expect("JSON")).to_string()
                }
                Err(invalid) => format!("422 {}: {}", invalid.field, invalid.message),
            };
            lines.push_str(&format!("{option}\n    {said}\n"));
        }
        insta::assert_snapshot!(format!("options__{}", dialect.name()), lines);
    }
}

/// The fields of an object that differ from those of another.
fn added(before: &Value, after: &Value) -> Value {
    let fields = after.as_object().expect("an object").iter();
    let new: Map<String, Value> = fields
        .filter(|(name, value)| before.get(name.as_str()) != Some(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    new.into()
}

#[test]
fn media_that_a_dialect_cannot_carry_is_refused_by_place() {
    let parts = [
        json!({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}),
        json!({"type": "input_audio", "input_audio": {"format": "wav", "data": "UklGRg=="}}),
        json!({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}),
        json!({"type": "file", "file": {"file_id": "file-1"}}),
        json!({"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}),
    ];
    for dialect in Provider::ALL {
        let mut lines = String::new();
        for part in &parts {
            let content = json!([{"type": "text", "text": "see"}, part]);
            let request = request(json!([{"role": "user", "content": content}]), json!({}));
            let said = match dialect.ask(&request, "m") {
                Ok(ask) => String::from_utf8_lossy(&ask.body).into_owned(),
                Err(invalid) => format!("422 {}: {}", invalid.field, invalid.message),
            };
            lines.push_str(&format!("{part}\n    {said}\n"));
        }
        insta::assert_snapshot!(format!("media__{}", dialect.name()), lines);
    }
}
