//! What Anthropic is asked, and what its clients ask: requests in both directions.

use relaystream::chat::{Invalid, Request};
use relaystream::provider::Provider;
use relaystream::surface::anthropic;
use serde_json::{Map, Value, json};

fn fields(value: Value) -> Map<String, Value> {
    let Value::Object(fields) = value else { panic!("an object") };
    fields
}

/// What Anthropic is sent for a canonical request.
fn asked(messages: Value, params: Value) -> Result<Value, Invalid> {
    let request = Request::new("m".into(), messages, fields(params), true)?;
    let ask = Provider::Anthropic.ask(&request, "claude-x")?;
    assert_eq!(ask.path, "/v1/messages");
    Ok(serde_json::from_slice(&ask.body).expect("JSON"))
}

fn hi(params: Value) -> Result<Value, Invalid> {
    asked(json!([{"role": "user", "content": "Hi"}]), params)
}

fn refused(result: Result<Value, Invalid>) -> String {
    result.expect_err("refused").field
}

#[test]
fn the_smallest_request_gets_what_is_a_must() {
    let body = hi(json!({})).expect("fine");
    let user = json!([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]);
    assert_eq!(body, json!({"model": "claude-x", "messages": user, "max_tokens": 4096, "stream": true}));
}

#[test]
fn turns_alternate_and_results_come_together() {
    let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "A"},
        {"role": "user", "content": [{"type": "text", "text": "B"}, {"type": "text", "text": ""}]},
        {"role": "assistant", "content": "Calling.", "tool_calls": [call("call_1", "{\"x\":1.5}"), call("functions.f:1", "")],
         "reasoning": [{"text": "hm", "signature": "c2ln"}, {"text": "", "signature": "ZGF0YQ==", "redacted": true}, {"text": "unsigned"}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        {"role": "tool", "tool_call_id": "functions.f:1", "content": ""},
        {"role": "developer", "content": "And kind."},
        {"role": "user", "content": "So?"},
        {"role": "assistant", "content": "Well \n"},
    ]);
    let body = asked(messages, json!({})).expect("fine");
    let text = |text: &str| json!({"type": "text", "text": text});
    assert_eq!(body["system"], json!([text("Be brief."), text("And kind.")]));
    let expected = json!([
        {"role": "user", "content": [text("A"), text("B")]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "ZGF0YQ=="},
            text("Calling."),
            {"type": "tool_use", "id": "call_1", "name": "f", "input": {"x": 1.5}},
            {"type": "tool_use", "id": "functions_f_1", "name": "f", "input": {}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "call_1", "content": [text("42")]},
            {"type": "tool_result", "tool_use_id": "functions_f_1"},
            text("So?")]},
        {"role": "assistant", "content": [text("Well")]},
    ]);
    assert_eq!(body["messages"], expected);
}

#[test]
fn images_and_files_are_sent_as_blocks() {
    let part = |kind: &str, inner: Value| json!({"type": kind, kind: inner});
    let parts = json!([
        part("image_url", json!({"url": "data:image/png;base64,aVZC"})),
        part("image_url", json!({"url": "https://x.example/a.jpg"})),
        part("file", json!({"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"})),
        part("file", json!({"file_data": "data:text/csv;base64,w6QsYg==", "filename": "a.csv"})),
        part("file", json!({"file_id": "file_1"})),
        part("file", json!({"file_url": "https://x.example/a.pdf"})),
    ]);
    let body = asked(json!([{"role": "user", "content": parts}]), json!({})).expect("fine");
    let expected = json!([
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aVZC"}},
        {"type": "image", "source": {"type": "url", "url": "https://x.example/a.jpg"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}, "title": "a.pdf"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "ä,b"}, "title": "a.csv"},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "document", "source": {"type": "url", "url": "https://x.example/a.pdf"}},
    ]);
    assert_eq!(body["messages"][0]["content"], expected);
    let refuse = |part: Value| {
        let parts = json!([{"type": "text", "text": "x"}, part]);
        refused(asked(json!([{"role": "user", "content": parts}]), json!({})))
    };
    let place = "messages[0].content[1]";
    assert_eq!(refuse(part("input_audio", json!({"format": "wav", "data": "UklG"}))), place);
    assert_eq!(refuse(part("file", json!({"file_data": "data:application/zip;base64,UEs="}))), place);
    assert_eq!(refuse(part("file", json!({"file_data": "data:text/plain;base64,????"}))), place);
    assert_eq!(refuse(part("image_url", json!({"url": "data:image/svg+xml,<svg/>"}))), place);
}

#[test]
fn parameters_are_translated_or_refused_by_name() {
    let tools = json!([{"type": "function", "function": {"name": "f", "description": "d", "strict": true,
                        "parameters": {"type": "object", "properties": {"x": {}}}}},
                       {"type": "function", "function": {"name": "g"}}]);
    let body = hi(json!({
        "max_completion_tokens": 50, "stop": ["a", "b"], "temperature": 0.5, "top_p": 0.9, "top_k": 5, "user": "u1",
        "service_tier": "default", "tools": tools, "tool_choice": "required", "parallel_tool_calls": false,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "n": 1, "frequency_penalty": 0, "logprobs": false, "logit_bias": {}, "stream_options": {"include_usage": true},
        "container": "c1", "seed": null,
    }))
    .expect("fine");
    let mut rest = fields(body);
    for name in ["model", "messages", "stream"] {
        rest.shift_remove(name);
    }
    let expected = json!({
        "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {"x": {}}}, "description": "d", "strict": true},
                  {"name": "g", "input_schema": {"type": "object", "properties": {}}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        "container": "c1", "max_tokens": 50, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "stop_sequences": ["a", "b"],
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        "service_tier": "standard_only", "metadata": {"user_id": "u1"},
    });
    assert_eq!(Value::Object(rest), expected);
    let one = json!([{"type": "function", "function": {"name": "f"}}]);
    let choice = |choice: Value| {
        hi(json!({"tools": one, "tool_choice": choice})).expect("fine")["tool_choice"].clone()
    };
    assert_eq!(choice(json!("auto")), json!({"type": "auto"}));
    assert_eq!(choice(json!("none")), json!({"type": "none"}));
    let named = json!({"type": "function", "function": {"name": "f"}});
    assert_eq!(choice(named), json!({"type": "tool", "name": "f"}));
    for (field, value) in [
        ("temperature", json!(1.5)),
        ("seed", json!(7)),
        ("frequency_penalty", json!(0.5)),
        ("logprobs", json!(true)),
        ("response_format", json!({"type": "json_object"})),
        ("service_tier", json!("flex")),
        ("reasoning_effort", json!("extreme")),
        ("thinking_budget", json!("many")),
        ("tool_choice", json!("required")),
        ("vendor_option", json!(1)),
    ] {
        let mut params = Map::new();
        params.insert(field.into(), value);
        assert_eq!(refused(hi(Value::Object(params))), field);
    }
    let server = json!({"tools": [{"type": "web_search_preview"}]});
    assert_eq!(refused(hi(server)), "tools[0]");
}

#[test]
fn budgets_for_reasoning_fit_into_max_tokens() {
    let of = |params: Value| {
        let body = hi(params).expect("fine");
        (body["thinking"].clone(), body["max_tokens"].clone())
    };
    let enabled = |budget: u64| json!({"type": "enabled", "budget_tokens": budget});
    assert_eq!(of(json!({"reasoning_effort": "low"})), (enabled(2048), json!(6144)));
    assert_eq!(of(json!({"thinking_budget": 10, "max_tokens": 100})), (enabled(1024), json!(1124)));
    assert_eq!(of(json!({"thinking_budget": 2000, "max_tokens": 9000})), (enabled(2000), json!(9000)));
    assert_eq!(of(json!({"thinking_budget": 0, "max_tokens": 9})), (json!({"type": "disabled"}), json!(9)));
    assert_eq!(of(json!({"thinking_budget": -1})), (json!({"type": "adaptive"}), json!(4096)));
    assert_eq!(of(json!({"max_tokens": 9})), (Value::Null, json!(9)));
}

#[test]
fn messages_that_cannot_be_said_are_refused_by_name() {
    let refuse =
        |message: Value| refused(asked(json!([{"role": "user", "content": "Hi"}, message]), json!({})));
    let call = |arguments: &str| json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}});
    for arguments in ["{", "[1]", "7"] {
        let calls = json!([call("{}"), call(arguments)]);
        let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
        assert_eq!(refuse(message), "messages[1].tool_calls[1].function.arguments");
    }
    assert_eq!(refuse(json!({"role": "tool", "content": "x"})), "messages[1].tool_call_id");
    assert_eq!(refuse(json!({"role": "function", "name": "f", "content": "x"})), "messages[1].role");
    let image = json!([{"type": "image_url", "image_url": {"url": "https://x.example/a"}}]);
    assert_eq!(refuse(json!({"role": "assistant", "content": image})), "messages[1].content[0]");
    assert_eq!(refused(asked(json!([{"role": "system", "content": "Hi"}]), json!({}))), "messages");
}

fn rich() -> Value {
    json!({
        "model": "claude-x", "max_tokens": 100, "stream": true,
        "system": [{"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "brief."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "See"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aVZC"}},
                {"type": "document", "source": {"type": "url", "url": "https://x.example/a.pdf"}, "title": "a"},
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "ZGF0YQ=="}, {"type": "text", "text": "I "}, {"type": "text", "text": "call"},
                {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"x": 1.5}},
                {"type": "tool_use", "id": "toolu_2", "name": "g", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "42"}]},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no", "is_error": true}, {"type": "text", "text": "So?"}]},
        ],
        "stop_sequences": ["END"], "temperature": 0.5, "top_k": 3, "metadata": {"user_id": "u"}, "service_tier": "standard_only",
        "thinking": {"type": "enabled", "budget_tokens": 2000}, "cache_control": {"type": "ephemeral"},
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        "output_config": {"effort": "max", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    })
}

#[test]
fn a_client_s_request_becomes_canonical() {
    let request = anthropic::read(fields(rich()), Vec::new()).expect("fine");
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let expected = json!([
        {"role": "system", "content": "Be\n\nbrief."},
        {"role": "user", "content": [{"type": "text", "text": "See"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aVZC"}},
            {"type": "file", "file": {"file_url": "https://x.example/a.pdf", "filename": "a"}},
            {"type": "text", "text": "plain"}]},
        {"role": "assistant", "content": "I call",
         "reasoning": [{"text": "hm", "signature": "c2ln"}, {"text": "", "signature": "ZGF0YQ==", "redacted": true}],
         "tool_calls": [call("toolu_1", "f", "{\"x\":1.5}"), call("toolu_2", "g", "{}")]},
        {"role": "tool", "content": "42", "tool_call_id": "toolu_1"},
        {"role": "tool", "content": "no", "tool_call_id": "toolu_2"},
        {"role": "user", "content": "So?"},
    ]);
    assert_eq!(json!(request.messages), expected);
    let params = json!({
        "max_tokens": 100, "temperature": 0.5, "top_k": 3, "stop": ["END"], "user": "u", "service_tier": "default",
        "thinking_budget": 2000, "parallel_tool_calls": false, "tool_choice": "required",
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "description": "d"}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": true}},
    });
    assert_eq!(Value::Object(request.params), params);
    assert_eq!((request.model.as_str(), request.stream), ("claude-x", true));
}

#[test]
fn a_provider_of_the_dialect_is_sent_the_client_s_own_request() {
    let mut body = rich();
    body["vendor"] = json!({"deep": [1.5, "ü"]});
    body["messages"][0]["content"][0]["cache_control"] = json!({"type": "ephemeral"});
    let headers = vec![("anthropic-beta".to_owned(), "context-1m".to_owned())];
    let request = anthropic::read(fields(body.clone()), headers.clone()).expect("fine");
    let ask = Provider::Anthropic.ask(&request, "claude-y").expect("fine");
    body["model"] = "claude-y".into();
    assert_eq!(serde_json::from_slice::<Value>(&ask.body).expect("JSON"), body);
    assert_eq!(ask.headers, headers);
}

#[test]
fn a_client_is_told_what_is_wrong_in_its_own_words() {
    let wrong = |name: &str, value: Value| {
        let mut body = rich();
        body[name] = value;
        anthropic::read(fields(body), Vec::new()).expect_err(name).field
    };
    assert_eq!(wrong("model", json!(1)), "model");
    assert_eq!(wrong("stream", json!("yes")), "stream");
    assert_eq!(wrong("max_tokens", json!("many")), "max_tokens");
    assert_eq!(wrong("messages", json!([])), "messages");
    assert_eq!(wrong("messages", json!([{"role": "tool", "content": "x"}])), "messages[0].role");
    assert_eq!(wrong("messages", json!([{"role": "user"}])), "messages[0].content");
    assert_eq!(wrong("messages", json!([{"role": "user", "content": [7]}])), "messages[0].content[0]");
    let textless = json!([{"role": "user", "content": [{"type": "text"}]}]);
    assert_eq!(wrong("messages", textless), "messages[0].content[0].text");
    assert_eq!(wrong("system", json!([{"type": "image"}])), "system[0].text");
    assert_eq!(wrong("stop_sequences", json!("END")), "stop_sequences");
    assert_eq!(wrong("thinking", json!({"type": "enabled"})), "thinking.budget_tokens");
    assert_eq!(wrong("temperature", json!("hot")), "temperature");
    assert_eq!(wrong("tools", json!(["f"])), "tools[0]");
    let missing = anthropic::read(
        fields(json!({"model": "m", "messages": [{"role": "user", "content": "x"}]})),
        Vec::new(),
    );
    assert_eq!(missing.expect_err("max_tokens is a must").field, "max_tokens");
}
