//! `POST /v1/messages` as the canonical request.
//!
//! What the client wrote is kept beside it, for a provider of this dialect. What other providers cannot be told is left
//! in place under its own name, so that theirs is the refusal: blocks of Anthropic's own tools, its own parameters. Left
//! out is what no answer depends on: cache marks, and `is_error`, whose text says so.
//! Source: Anthropic's API reference, "Create a Message", and the types of anthropic-sdk-python 2.12.0.

use serde_json::{Map, Value, json};

use super::DIALECT;
use crate::chat::{Invalid, Original, Request, kind};

/// `headers`: the dialect's own among the request's.
pub fn read(mut fields: Map<String, Value>, headers: Vec<(String, String)>) -> Result<Request, Invalid> {
    let original = Original { dialect: DIALECT, body: fields.clone(), headers };
    let model = model(&mut fields)?;
    let stream = match fields.shift_remove("stream") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(stream)) => stream,
        Some(other) => return wrong("stream", "a boolean", &other),
    };
    let mut messages = system(fields.shift_remove("system"))?;
    match fields.shift_remove("messages") {
        Some(Value::Array(turns)) if !turns.is_empty() => {
            for (at, turn) in turns.into_iter().enumerate() {
                message(at, turn, &mut messages)?;
            }
        }
        Some(Value::Array(_)) => return Err(Invalid::new("messages", "at least one message is needed")),
        Some(other) => return wrong("messages", "a list of messages", &other),
        None => return Err(Invalid::new("messages", "is missing")),
    }
    match fields.get("max_tokens") {
        Some(Value::Number(number)) if number.is_u64() => {}
        Some(other) => return wrong("max_tokens", "a whole number", other),
        None => return Err(Invalid::new("max_tokens", "is missing")),
    }
    params(&mut fields)?;
    let mut request = Request::new(model, Value::Array(messages), fields, stream)?;
    request.original = Some(original);
    Ok(request)
}

/// The request to count tokens, whose model is all that matters here.
pub fn counted(
    mut fields: Map<String, Value>,
    headers: Vec<(String, String)>,
) -> Result<(String, Original), Invalid> {
    let original = Original { dialect: DIALECT, body: fields.clone(), headers };
    Ok((model(&mut fields)?, original))
}

fn model(fields: &mut Map<String, Value>) -> Result<String, Invalid> {
    match fields.shift_remove("model") {
        Some(Value::String(model)) => Ok(model),
        Some(other) => wrong("model", "a string", &other),
        None => Err(Invalid::new("model", "is missing")),
    }
}

fn wrong<T>(field: impl Into<String>, expected: &str, got: &Value) -> Result<T, Invalid> {
    Err(Invalid::new(field, format!("expected {expected}, got {}", kind(got))))
}

fn system(value: Option<Value>) -> Result<Vec<Value>, Invalid> {
    let text = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(text)) => text,
        Some(Value::Array(blocks)) => {
            let texts: Vec<&str> = blocks
                .iter()
                .enumerate()
                .map(|(nth, block)| text_of(block, || format!("system[{nth}]")))
                .collect::<Result<_, _>>()?;
            texts.join("\n\n")
        }
        Some(other) => return wrong("system", "a string or a list of text blocks", &other),
    };
    Ok(if text.is_empty() { Vec::new() } else { vec![json!({"role": "system", "content": text})] })
}

fn text_of(block: &Value, place: impl Fn() -> String) -> Result<&str, Invalid> {
    block["text"].as_str().ok_or_else(|| Invalid::new(format!("{}.text", place()), "expected a string"))
}

/// One turn as canonical messages: results of tools are messages of their own, and come first.
fn message(at: usize, turn: Value, messages: &mut Vec<Value>) -> Result<(), Invalid> {
    let Value::Object(mut turn) = turn else {
        return wrong(format!("messages[{at}]"), "an object", &turn);
    };
    let role = match turn.shift_remove("role") {
        Some(Value::String(role)) if ["user", "assistant", "system"].contains(&role.as_str()) => role,
        Some(Value::String(role)) => {
            let message = format!("\"{role}\" is not one of user, assistant, system");
            return Err(Invalid::new(format!("messages[{at}].role"), message));
        }
        Some(other) => return wrong(format!("messages[{at}].role"), "a string", &other),
        None => return Err(Invalid::new(format!("messages[{at}].role"), "is missing")),
    };
    let blocks = match turn.shift_remove("content") {
        Some(text @ Value::String(_)) => {
            messages.push(json!({"role": role, "content": text}));
            return Ok(());
        }
        Some(Value::Array(blocks)) => blocks,
        Some(other) => {
            return wrong(format!("messages[{at}].content"), "a string or a list of blocks", &other);
        }
        None => return Err(Invalid::new(format!("messages[{at}].content"), "is missing")),
    };
    let mut said = Turn::default();
    for (nth, block) in blocks.into_iter().enumerate() {
        let place = || format!("messages[{at}].content[{nth}]");
        if !block.is_object() {
            return wrong(place(), "an object", &block);
        }
        said.block(block, &place)?;
    }
    said.into_messages(&role, messages);
    Ok(())
}

/// A turn's blocks, sorted.
#[derive(Default)]
struct Turn {
    parts: Vec<Value>,
    results: Vec<Value>,
    thoughts: Vec<Value>,
    calls: Vec<Value>,
}

impl Turn {
    fn block(&mut self, mut block: Value, place: &impl Fn() -> String) -> Result<(), Invalid> {
        let said = block["type"].as_str().unwrap_or_default();
        match said {
            "text" => self.parts.push(json!({"type": "text", "text": text_of(&block, place)?})),
            "image" | "document" => self.parts.push(media(block)),
            "thinking" => {
                self.thoughts.push(json!({"text": block["thinking"], "signature": block["signature"]}));
            }
            "redacted_thinking" => {
                self.thoughts.push(json!({"text": "", "signature": block["data"], "redacted": true}));
            }
            "tool_use" => {
                let function = json!({"name": block["name"], "arguments": block["input"].to_string()});
                self.calls.push(json!({"id": block["id"], "type": "function", "function": function}));
            }
            "tool_result" => {
                let id = block["tool_use_id"].take();
                let content = result(block["content"].take(), place)?;
                self.results.push(json!({"role": "tool", "tool_call_id": id, "content": content}));
            }
            _ => self.parts.push(block),
        }
        Ok(())
    }

    fn into_messages(self, role: &str, messages: &mut Vec<Value>) {
        messages.extend(self.results);
        let text = |part: &Value| part["type"] == "text";
        // One text, whatever its pieces, is what every provider takes from an assistant.
        let content = match self.parts.as_slice() {
            [] => Value::Null,
            [part] if text(part) => part["text"].clone(),
            parts if role == "assistant" && parts.iter().all(text) => {
                parts.iter().filter_map(|part| part["text"].as_str()).collect::<String>().into()
            }
            _ => Value::Array(self.parts),
        };
        let (calls, thoughts) = (Value::Array(self.calls), Value::Array(self.thoughts));
        let mut message = json!({"role": role, "content": content});
        for (name, list) in [("reasoning", thoughts), ("tool_calls", calls)] {
            if list != json!([]) {
                message[name] = list;
            }
        }
        if message != json!({"role": role, "content": null}) {
            messages.push(message);
        }
    }
}

/// What a tool gave back: text as text, else parts.
fn result(content: Value, place: &impl Fn() -> String) -> Result<Value, Invalid> {
    let blocks = match content {
        Value::Null => return Ok("".into()),
        text @ Value::String(_) => return Ok(text),
        Value::Array(blocks) => blocks,
        other => return wrong(format!("{}.content", place()), "a string or a list of blocks", &other),
    };
    if blocks.iter().all(|block| block["type"] == "text" && block["text"].is_string()) {
        let texts: Vec<&str> = blocks.iter().filter_map(|block| block["text"].as_str()).collect();
        return Ok(texts.join("\n").into());
    }
    let part = |block: Value| match block["type"].as_str() {
        Some("image" | "document") => media(block),
        _ => block,
    };
    Ok(blocks.into_iter().map(part).collect())
}

/// An image or a document; one from a source that has no counterpart stays as it is.
fn media(block: Value) -> Value {
    let source = &block["source"];
    let text = |name: &str| source[name].as_str();
    let inline = |mime: &str, data: &str| format!("data:{mime};base64,{data}");
    let image = block["type"] == "image";
    let title = block["title"].as_str();
    match text("type") {
        Some("base64") => {
            let (Some(mime), Some(data)) = (text("media_type"), text("data")) else { return block };
            match image {
                true => json!({"type": "image_url", "image_url": {"url": inline(mime, data)}}),
                false => file("file_data", &inline(mime, data), title),
            }
        }
        Some("url") => match (text("url"), image) {
            (Some(url), true) => json!({"type": "image_url", "image_url": {"url": url}}),
            (Some(url), false) => file("file_url", url, title),
            (None, _) => block,
        },
        Some("file") => text("file_id").map(|id| file("file_id", id, title)).unwrap_or(block),
        // A document that is nothing but text can be said as text.
        Some("text") => match text("data") {
            Some(data) => json!({"type": "text", "text": data}),
            None => block,
        },
        _ => block,
    }
}

fn file(name: &str, value: &str, title: Option<&str>) -> Value {
    let mut file = json!({"type": "file", "file": {}});
    file["file"][name] = value.into();
    if let Some(title) = title {
        file["file"]["filename"] = title.into();
    }
    file
}

/// Parameters under their canonical names. Those that only this dialect has stay as they are.
fn params(fields: &mut Map<String, Value>) -> Result<(), Invalid> {
    let rename = |fields: &mut Map<String, Value>, from: &str, to: &str| {
        if let Some(value) = fields.shift_remove(from) {
            fields.insert(to.to_owned(), value);
        }
    };
    if let Some(stop) = fields.get("stop_sequences")
        && !stop.as_array().is_some_and(|list| list.iter().all(Value::is_string))
    {
        return wrong("stop_sequences", "a list of strings", stop);
    }
    rename(fields, "stop_sequences", "stop");
    // Whom the answer is for; a mark for the cache changes no answer.
    fields.shift_remove("cache_control");
    if let Some(Value::Object(mut metadata)) = fields.shift_remove("metadata")
        && let Some(user) = metadata.shift_remove("user_id")
    {
        fields.insert("user".into(), user);
    }
    if fields.get("service_tier").is_some_and(|tier| tier == "standard_only") {
        fields.insert("service_tier".into(), "default".into());
    }
    thinking(fields)?;
    output(fields)?;
    tools(fields)
}

fn thinking(fields: &mut Map<String, Value>) -> Result<(), Invalid> {
    let Some(thinking) = fields.shift_remove("thinking").filter(|value| !value.is_null()) else {
        return Ok(());
    };
    let budget = match thinking["type"].as_str() {
        Some("disabled") => json!(0),
        Some("adaptive") => json!(-1),
        Some("enabled") if thinking["budget_tokens"].is_u64() => thinking["budget_tokens"].clone(),
        Some("enabled") => {
            return wrong("thinking.budget_tokens", "a whole number", &thinking["budget_tokens"]);
        }
        // Newer ways to think are the provider's to know.
        Some(_) => {
            fields.insert("thinking".into(), thinking);
            return Ok(());
        }
        None => return wrong("thinking.type", "a string", &thinking["type"]),
    };
    fields.insert("thinking_budget".into(), budget);
    Ok(())
}

/// `output_config`: effort, and the shape of the answer.
fn output(fields: &mut Map<String, Value>) -> Result<(), Invalid> {
    let mut config = match fields.shift_remove("output_config") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(config)) => config,
        Some(other) => return wrong("output_config", "an object", &other),
    };
    config.retain(|_, value| !value.is_null());
    if let Some(effort) = config.shift_remove("effort") {
        // A budget says the same more precisely, unless it leaves it open.
        if fields.get("thinking_budget").is_none_or(|budget| *budget == -1) {
            fields.shift_remove("thinking_budget");
            let effort = if effort == "max" { "xhigh".into() } else { effort };
            fields.insert("reasoning_effort".into(), effort);
        }
    }
    if let Some(format) = config.shift_remove("format") {
        let schema = json!({"name": "answer", "schema": format["schema"], "strict": true});
        fields.insert("response_format".into(), json!({"type": format["type"], "json_schema": schema}));
    }
    if !config.is_empty() {
        fields.insert("output_config".into(), config.into());
    }
    Ok(())
}

fn tools(fields: &mut Map<String, Value>) -> Result<(), Invalid> {
    if let Some(tools) = fields.get_mut("tools").filter(|tools| !tools.is_null()) {
        let Some(list) = tools.as_array_mut() else { return wrong("tools", "a list of tools", tools) };
        for (at, tool) in list.iter_mut().enumerate() {
            if !tool.is_object() {
                return wrong(format!("tools[{at}]"), "an object", tool);
            }
            // Anthropic's own tools have a type; another provider refuses them by it.
            if tool["type"].is_null() || tool["type"] == "custom" {
                let mut function = json!({"name": tool["name"], "parameters": tool["input_schema"]});
                for name in ["description", "strict"] {
                    if !tool[name].is_null() {
                        function[name] = tool[name].take();
                    }
                }
                *tool = json!({"type": "function", "function": function});
            }
        }
    }
    let Some(choice) = fields.shift_remove("tool_choice").filter(|choice| !choice.is_null()) else {
        return Ok(());
    };
    if choice["disable_parallel_tool_use"] == true {
        fields.insert("parallel_tool_calls".into(), false.into());
    }
    let choice = match choice["type"].as_str() {
        Some("any") => "required".into(),
        Some(word @ ("auto" | "none")) => word.into(),
        Some("tool") => json!({"type": "function", "function": {"name": choice["name"]}}),
        _ => choice,
    };
    fields.insert("tool_choice".into(), choice);
    Ok(())
}
