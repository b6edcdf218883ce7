//! What Gemini's clients ask as other providers see it, and what others ask as Gemini sees it.

use relaystream::chat::{Invalid, Message, Request};
use relaystream::provider::Provider;
use relaystream::surface::gemini::read;
use serde_json::{Map, Value, json};

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(fields) = value else { panic!("not an object: {value}") };
    fields
}

fn asked(body: Value) -> Request {
    read("m".into(), true, object(body)).unwrap_or_else(|error| panic!("{error}"))
}

fn chat(messages: Value, params: Value) -> Request {
    Request::new("m".into(), messages, object(params), true).expect("a good request")
}

/// What Gemini is sent for a request of another dialect.
fn sent(request: &Request, model: &str) -> Result<Value, Invalid> {
    let ask = Provider::Gemini.ask(request, model)?;
    Ok(serde_json::from_slice(&ask.body).expect("JSON"))
}

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

#[test]
fn a_gemini_request_is_read_in_either_case() {
    let camel = json!({
        "systemInstruction": {"parts": [{"text": "Be brief."}, {"text": "Be kind."}], "role": "user"},
        "contents": [
            {"role": "user", "parts": [{"text": "Look: "}, {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]},
            {"role": "model", "parts": [
                {"text": "Hm.", "thought": true, "thoughtSignature": "c2ln"},
                {"text": "One moment."},
                {"functionCall": {"name": "look", "args": {"at": "x"}}, "thoughtSignature": "Y2Fs"},
                {"functionCall": {"name": "look", "args": {}}}]},
            {"role": "user", "parts": [
                {"functionResponse": {"name": "look", "response": {"output": "a cat"}}},
                {"functionResponse": {"name": "look", "response": {"size": 3}}}]}],
        "tools": [{"functionDeclarations": [
            {"name": "look", "description": "Looks", "parameters": {"type": "OBJECT", "properties": {"at": {"type": "STRING"}}}}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}},
        "generationConfig": {"temperature": 0.5, "topP": 0.9, "topK": 40, "maxOutputTokens": 100, "stopSequences": ["END"],
            "seed": 7, "presencePenalty": 0.1, "frequencyPenalty": 0.2, "candidateCount": 1, "responseModalities": ["TEXT"],
            "responseMimeType": "application/json", "responseSchema": {"type": "OBJECT"},
            "thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": true}},
    });
    let request = asked(camel.clone());
    assert_eq!(request.model, "m");
    let messages: Vec<Value> = request.messages.iter().map(|message| json!(message)).collect();
    assert_eq!(
        messages,
        [
            json!({"role": "system", "content": "Be brief.\nBe kind."}),
            json!({"role": "user", "content": [{"type": "text", "text": "Look: "},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}),
            json!({"role": "assistant", "content": "One moment.", "reasoning": [{"text": "Hm.", "signature": "c2ln"}],
            "tool_calls": [
                {"id": "call_0", "type": "function", "function": {"name": "look", "arguments": "{\"at\":\"x\"}"}, "signature": "Y2Fs"},
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]}),
            json!({"role": "tool", "tool_call_id": "call_0", "content": "a cat"}),
            json!({"role": "tool", "tool_call_id": "call_1", "content": "{\"size\":3}"}),
        ]
    );
    let params = json!({"temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": 7, "presence_penalty": 0.1,
        "frequency_penalty": 0.2, "max_tokens": 100, "stop": ["END"], "n": 1, "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}},
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "tools": [{"type": "function", "function": {"name": "look", "description": "Looks",
            "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}}]});
    assert_eq!(Value::Object(request.params.clone()), params);
    // As google-genai for Python writes it: some names in one case, some in the other.
    let mut text = camel.to_string();
    for (camel, snake) in [
        ("systemInstruction", "system_instruction"),
        ("mimeType", "mime_type"),
        ("thoughtSignature", "thought_signature"),
        ("includeThoughts", "include_thoughts"),
        ("thinkingLevel", "thinking_level"),
        ("functionDeclarations", "function_declarations"),
        ("responseSchema", "response_schema"),
        ("maxOutputTokens", "max_output_tokens"),
    ] {
        text = text.replace(&format!("\"{camel}\""), &format!("\"{snake}\""));
    }
    let snake = asked(serde_json::from_str(&text).expect("JSON"));
    assert_eq!((snake.messages, snake.params), (request.messages, request.params));
}

/// As SDKs keep what was streamed to them.
#[test]
fn turns_of_the_model_are_one_until_someone_else_speaks() {
    let model = |parts: Value| json!({"role": "model", "parts": parts});
    let request = asked(json!({"contents": [
        {"role": "user", "parts": [{"text": "Hi"}]},
        model(json!([{"text": "H", "thought": true}])),
        model(json!([{"text": "m.", "thought": true}])),
        model(json!([{"text": "One"}])),
        model(json!([{"text": " two"}])),
        model(json!([{"functionCall": {"name": "f", "args": {}, "id": "a"}}])),
        model(json!([{"text": "", "thoughtSignature": "c2ln"}])),
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "id": "a", "response": {"result": "x"}}}, {"text": "And?"}]},
        {"role": "user", "parts": [{"text": "Well?"}]},
    ]}));
    let messages: Vec<Value> = request.messages.iter().map(|message| json!(message)).collect();
    let call = json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let expected = [
        json!({"role": "user", "content": "Hi"}),
        json!({"role": "assistant", "content": "One two", "reasoning": [{"text": "Hm.", "signature": "c2ln"}],
               "tool_calls": [call]}),
        json!({"role": "tool", "tool_call_id": "a", "content": "x"}),
        json!({"role": "user", "content": "And?"}),
        json!({"role": "user", "content": "Well?"}),
    ];
    assert_eq!(messages, expected);
}

#[test]
fn what_is_wrong_is_named_as_its_client_called_it() {
    let contents = json!([{"parts": [{"text": "Hi"}]}]);
    let cases = [
        (json!({}), "contents"),
        (json!({"contents": "Hi"}), "contents"),
        (json!({"contents": []}), "contents"),
        (json!({"contents": [3]}), "contents[0]"),
        (json!({"contents": [{"role": "assistant", "parts": []}]}), "contents[0].role"),
        (json!({"contents": [{"parts": "Hi"}]}), "contents[0].parts"),
        (json!({"contents": [{"parts": [{"text": 3}]}]}), "contents[0].parts[0].text"),
        (
            json!({"contents": [{"parts": [{"inlineData": {"data": ""}}]}]}),
            "contents[0].parts[0].inlineData.mimeType",
        ),
        (
            json!({"contents": [{"role": "model", "parts": [{"functionCall": {"args": {}}}]}]}),
            "contents[0].parts[0].functionCall.name",
        ),
        (
            json!({"contents": [{"parts": [{"functionResponse": {"name": "f"}}]}]}),
            "contents[0].parts[0].functionResponse.name",
        ),
        (json!({"contents": contents, "generationConfig": []}), "generationConfig"),
        (
            json!({"contents": contents, "generationConfig": {"temperature": "hot"}}),
            "generationConfig.temperature",
        ),
        (json!({"contents": contents, "generationConfig": {"topP": 3}}), "generationConfig.topP"),
        (
            json!({"contents": contents, "generationConfig": {"maxOutputTokens": "many"}}),
            "generationConfig.maxOutputTokens",
        ),
        (
            json!({"contents": contents, "generationConfig": {"candidateCount": 2}}),
            "generationConfig.candidateCount",
        ),
        (
            json!({"contents": contents, "generationConfig": {"thinkingConfig": {"thinkingBudget": "all"}}}),
            "generationConfig.thinkingConfig.thinkingBudget",
        ),
        (json!({"contents": contents, "tools": {}}), "tools"),
        (
            json!({"contents": contents, "tools": [{"functionDeclarations": [{}]}]}),
            "tools[0].functionDeclarations[0].name",
        ),
    ];
    for (body, field) in cases {
        let wrong = read("m".into(), true, object(body.clone())).expect_err("it is wrong");
        assert_eq!(wrong.field, field, "{body}");
    }
}

/// Gemini gets the client's own words; everyone else says what they cannot do.
#[test]
fn what_only_gemini_has_is_refused_by_name_elsewhere() {
    let cases = [
        (json!({"safetySettings": [{"category": "C", "threshold": "T"}]}), "safetySettings"),
        (json!({"cachedContent": "cachedContents/x"}), "cachedContent"),
        (json!({"labels": {"a": "b"}}), "labels"),
        (json!({"tools": [{"googleSearch": {}}]}), "tools[0]"),
        (json!({"tools": [{"codeExecution": {}}]}), "tools[0]"),
        (json!({"toolConfig": {"retrievalConfig": {}}}), "toolConfig"),
        (json!({"toolConfig": {"functionCallingConfig": {"mode": "VALIDATED"}}}), "toolConfig"),
        (json!({"generationConfig": {"speechConfig": {}}}), "speechConfig"),
        (json!({"generationConfig": {"responseModalities": ["IMAGE"]}}), "responseModalities"),
        (json!({"generationConfig": {"responseMimeType": "text/x.enum"}}), "responseMimeType"),
        (
            json!({"contents": [{"role": "model", "parts": [{"executableCode": {"code": "1"}}]}]}),
            "messages[0].content[0]",
        ),
        (
            json!({"contents": [{"parts": [{"fileData": {"fileUri": "u", "mimeType": "video/mp4"}, "videoMetadata": {}}]}]}),
            "messages[0].content[1]",
        ),
    ];
    for (body, field) in cases {
        let mut whole =
            object(json!({"contents": [{"parts": [{"text": "Hi"}]}], "unknown": {"kept": [1.5]}}));
        whole.extend(object(body.clone()));
        let mut request = asked(Value::Object(whole.clone()));
        let ask = Provider::Gemini.ask(&request, "gemini-x").expect("its own");
        assert_eq!(ask.path, "/v1beta/models/gemini-x:streamGenerateContent?alt=sse");
        assert_eq!(serde_json::from_slice::<Value>(&ask.body).expect("JSON"), Value::Object(whole));
        request.params.shift_remove("unknown");
        let refused = Provider::OpenAiChat.ask(&request, "gpt").expect_err("not theirs");
        assert_eq!(refused.field, field, "{body}");
    }
}

#[test]
fn a_conversation_is_told_to_gemini() {
    let tools = json!([{"type": "function", "function": {"name": "weather", "description": "How warm",
        "parameters": {"type": "object", "properties": {}}}}]);
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Where?"},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.JPG?x=1"}},
            {"type": "input_audio", "input_audio": {"format": "wav", "data": "AAAA"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB"}}]},
        {"role": "assistant", "content": "Let me see.", "refusal": null,
         "reasoning": [{"text": "Hm.", "signature": "c2ln"}, {"text": "", "signature": "x", "redacted": true}],
         "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}, "signature": "Y2Fs"},
            {"id": "b", "type": "function", "function": {"name": "time", "arguments": ""}}]},
        {"role": "tool", "tool_call_id": "a", "content": "-4 °C"},
        {"role": "tool", "tool_call_id": "b", "content": "{\"hour\":12}"},
        {"role": "user", "content": "Thanks"}]);
    let params = json!({"temperature": 0.5, "top_k": 3, "max_tokens": 9, "max_completion_tokens": 10, "stop": "END", "tools": tools,
        "tool_choice": "required", "user": "u", "stream_options": {"include_usage": true}, "parallel_tool_calls": true});
    let body = sent(&chat(messages, params), "gemini-2.5-pro").expect("can be said");
    assert_eq!(
        body,
        json!({
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Where?"},
                {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://example.com/a.JPG?x=1"}},
                {"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}},
                {"inlineData": {"mimeType": "application/pdf", "data": "BBBB"}}]},
            {"role": "model", "parts": [{"text": "Hm.", "thought": true, "thoughtSignature": "c2ln"}, {"text": "Let me see."},
                {"functionCall": {"name": "weather", "args": {"city": "Oslo"}, "id": "a"}, "thoughtSignature": "Y2Fs"},
                {"functionCall": {"name": "time", "args": {}, "id": "b"}}]},
            {"role": "user", "parts": [
                {"functionResponse": {"name": "weather", "response": {"output": "-4 °C"}, "id": "a"}},
                {"functionResponse": {"name": "time", "response": {"hour": 12}, "id": "b"}}]},
            {"role": "user", "parts": [{"text": "Thanks"}]}],
        "generationConfig": {"temperature": 0.5, "topK": 3, "maxOutputTokens": 10, "stopSequences": ["END"]},
        "tools": [{"functionDeclarations": [{"name": "weather", "description": "How warm",
            "parametersJsonSchema": {"type": "object", "properties": {}}}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}}})
    );
}

#[test]
fn calls_that_no_gemini_made_are_marked_for_models_that_check_signatures() {
    let messages = json!([{"role": "user", "content": "Hi"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "1"}, {"role": "tool", "tool_call_id": "b", "content": "2"}]);
    let signature = |model: &str, nth: usize| {
        let body = sent(&chat(messages.clone(), json!({})), model).expect("can be said");
        body["contents"][1]["parts"][nth]["thoughtSignature"].clone()
    };
    assert_eq!(signature("gemini-3-pro-preview", 0), "skip_thought_signature_validator");
    assert_eq!(signature("gemini-3-pro-preview", 1), Value::Null);
    assert_eq!(signature("gemini-2.5-flash", 0), Value::Null);
}

/// What a request's options become, in one field of what is sent.
fn told(model: &str, params: Value, field: &str) -> Value {
    sent(&chat(user("Hi"), params), model).expect("can be said")[field].clone()
}

#[test]
fn options_are_told_to_gemini() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let named = json!({"name": "n", "schema": schema});
    let json_schema = json!({"responseMimeType": "application/json", "responseJsonSchema": schema});
    for (params, expected) in [
        (
            json!({"response_format": {"type": "json_object"}}),
            json!({"responseMimeType": "application/json"}),
        ),
        (json!({"response_format": {"type": "json_schema", "json_schema": named}}), json_schema),
        (json!({"logprobs": true, "top_logprobs": 3}), json!({"logprobs": 3, "responseLogprobs": true})),
        (json!({"response_format": {"type": "text"}}), Value::Null),
    ] {
        assert_eq!(told("x", params, "generationConfig"), expected);
    }
    let safety = json!([{"category": "C"}]);
    assert_eq!(told("x", json!({"safetySettings": safety}), "safetySettings"), safety);
    let strict = json!([{"type": "function", "function": {"name": "f", "strict": true}}]);
    let one = json!({"type": "function", "function": {"name": "f"}});
    for (params, expected) in [
        (json!({"tools": strict}), json!({"mode": "VALIDATED"})),
        (json!({"tools": strict, "tool_choice": one}), json!({"mode": "ANY", "allowedFunctionNames": ["f"]})),
        (json!({"tool_choice": "none"}), json!({"mode": "NONE"})),
        (json!({"tool_choice": "auto"}), json!({"mode": "AUTO"})),
    ] {
        assert_eq!(told("x", params, "toolConfig")["functionCallingConfig"], expected);
    }
}

/// By levels since Gemini 3, in tokens before it; thoughts are wanted along with the thinking.
#[test]
fn thinking_is_told_as_the_model_takes_it() {
    for (model, params, expected) in [
        (
            "gemini-2.5-pro",
            json!({"reasoning_effort": "low"}),
            json!({"thinkingBudget": 1024, "includeThoughts": true}),
        ),
        (
            "gemini-3-pro",
            json!({"reasoning_effort": "low"}),
            json!({"thinkingLevel": "LOW", "includeThoughts": true}),
        ),
        (
            "gemini-3-pro",
            json!({"reasoning_effort": "none"}),
            json!({"thinkingBudget": 0, "includeThoughts": false}),
        ),
        (
            "gemini-2.5-pro",
            json!({"thinking_budget": -1}),
            json!({"thinkingBudget": -1, "includeThoughts": true}),
        ),
        (
            "gemini-3-pro",
            json!({"thinking_budget": 0}),
            json!({"thinkingBudget": 0, "includeThoughts": false}),
        ),
    ] {
        assert_eq!(told(model, params, "generationConfig")["thinkingConfig"], expected);
    }
}

#[test]
fn what_gemini_cannot_do_is_refused_by_name() {
    let bad = [
        json!({"logit_bias": {"1": 1}}),
        json!({"parallel_tool_calls": false}),
        json!({"reasoning_effort": "extreme"}),
        json!({"service_tier": "flex"}),
        json!({"verbosity": "low"}),
        json!({"no_such_option": 1}),
    ];
    for params in bad {
        let refused = sent(&chat(user("Hi"), params.clone()), "x").expect_err("cannot be said");
        assert_eq!(Some(&refused.field), object(params).keys().next());
    }
    let call = |arguments: &str| {
        json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": null, "tool_calls":
        [{"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}]}])
    };
    let bad = [
        (call("{\"a\":"), "messages[1].tool_calls[0].function.arguments"),
        (
            json!([{"role": "user", "content": "Hi"}, {"role": "tool", "tool_call_id": "z", "content": "1"}]),
            "messages[1].tool_call_id",
        ),
        (json!([{"role": "system", "content": "Hi"}]), "messages"),
        (
            json!([{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]),
            "messages[0].content",
        ),
        (json!([{"role": "assistant", "content": null, "function_call": {}}]), "messages[0].function_call"),
    ];
    for (messages, field) in bad {
        assert_eq!(sent(&chat(messages, json!({})), "x").expect_err("cannot be said").field, field);
    }
}

/// A model's name becomes part of a URL.
#[test]
fn a_models_name_cannot_leave_its_path() {
    let request =
        Request::new("m".into(), json!([Message::new("user", "Hi")]), Map::new(), false).expect("good");
    let path = |model: &str| Provider::Gemini.ask(&request, model).map(|ask| ask.path);
    assert_eq!(path("gemini-x").as_deref(), Ok("/v1beta/models/gemini-x:generateContent"));
    assert_eq!(path("models/gemini-x").as_deref(), Ok("/v1beta/models/gemini-x:generateContent"));
    assert_eq!(path("tunedModels/mine-1").as_deref(), Ok("/v1beta/tunedModels/mine-1:generateContent"));
    for bad in ["", "a b", "x?key=1", "x#y", "../x", "models/../../x", "models//x", "x%2fy", "ü", "."] {
        assert_eq!(path(bad).expect_err(bad).field, "model");
    }
}
