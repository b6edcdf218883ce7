//! The canonical request as Anthropic's `POST /v1/messages`.
//!
//! What differs: `max_tokens` is a must and is 4096 where the client left it out; system text stands apart; turns
//! alternate, so neighbours of one role are merged, and results of tools are blocks of a user's turn; reasoning is sent
//! back only with its signature, since others are refused. A budget for reasoning is at least 1024 and lies within
//! `max_tokens`, which grows by it where it would not fit. Anthropic's own parameters pass under their own names.
//! Source: Anthropic's API reference, "Create a Message", and the types of anthropic-sdk-python 2.12.0.

use serde_json::{Map, Value, json};

use super::super::{Ask, Provider};
use crate::chat::asked::{Call, Choice, Media, Params, Part, Shape};
use crate::chat::{Invalid, Message, Original, Request};

const PATH: &str = "/v1/messages";
const MAX_TOKENS: u64 = 4096;
const LEAST_BUDGET: u64 = 1024;

/// Parameters of this dialect that the canonical request has no word for.
const OWN: [&str; 8] = [
    "thinking",
    "output_config",
    "cache_control",
    "container",
    "context_management",
    "inference_geo",
    "mcp_servers",
    "speed",
];

pub fn ask(request: &Request, model: &str) -> Result<Ask, Invalid> {
    if let Some(original) = request.verbatim(Provider::Anthropic as u8) {
        let mut body = original.body.clone();
        body.insert("model".into(), model.into());
        body.insert("stream".into(), request.stream.into());
        return Ok(Ask { headers: original.headers.clone(), ..Ask::new(PATH, body) });
    }
    let mut params = Params::of(request);
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    conversation(request, &mut body)?;
    tools(&mut params, &mut body)?;
    sampling(&mut params, &mut body)?;
    body.insert("stream".into(), request.stream.into());
    params.finish(Provider::Anthropic.name())?;
    Ok(Ask::new(PATH, body))
}

/// The question how many tokens a request has, as its client wrote it.
pub fn count(original: &Original, model: &str) -> Ask {
    let mut body = original.body.clone();
    body.insert("model".into(), model.into());
    Ask { headers: original.headers.clone(), ..Ask::new(format!("{PATH}/count_tokens"), body) }
}

fn conversation(request: &Request, body: &mut Map<String, Value>) -> Result<(), Invalid> {
    let (mut system, mut turns) = (Vec::new(), Vec::<(&str, Vec<Value>)>::new());
    for (at, message) in request.messages.iter().enumerate() {
        let (role, blocks) = match message.role.as_str() {
            "system" | "developer" => {
                system.extend(Some(message.text(at)?).filter(|text| !text.is_empty()));
                continue;
            }
            "user" => ("user", blocks(message, at)?),
            "assistant" => ("assistant", assistant(message, at)?),
            "tool" => ("user", vec![result(message, at)?]),
            other => {
                let message = format!("\"{other}\" has no counterpart in the anthropic dialect");
                return Err(Invalid::new(format!("messages[{at}].role"), message));
            }
        };
        match turns.last_mut().filter(|(last, _)| *last == role) {
            Some((_, before)) => before.extend(blocks),
            None if blocks.is_empty() => {}
            None => turns.push((role, blocks)),
        }
    }
    if turns.is_empty() {
        return Err(Invalid::new("messages", "this model's provider needs a turn that says something"));
    }
    if let Some(("assistant", blocks)) = turns.last_mut() {
        trim_prefill(blocks);
    }
    if let [text] = system.as_slice() {
        body.insert("system".into(), text.as_str().into());
    } else if !system.is_empty() {
        let blocks = system.into_iter().map(|text| json!({"type": "text", "text": text}));
        body.insert("system".into(), blocks.collect());
    }
    let turn = |(role, blocks): (&str, Vec<Value>)| json!({"role": role, "content": blocks});
    body.insert("messages".into(), turns.into_iter().map(turn).collect());
    Ok(())
}

/// The beginning of an answer must not end in whitespace.
fn trim_prefill(blocks: &mut Vec<Value>) {
    let Some(last) = blocks.last_mut().filter(|block| block["type"] == "text") else { return };
    let text = last["text"].as_str().unwrap_or_default().trim_end().to_owned();
    if text.is_empty() {
        blocks.pop();
    } else {
        last["text"] = text.into();
    }
}

/// The content of a turn, but for its calls. Empty text is refused by the provider and says nothing.
fn blocks(message: &Message, at: usize) -> Result<Vec<Value>, Invalid> {
    let place = |nth: usize| format!("messages[{at}].content[{nth}]");
    let mut blocks = Vec::new();
    for (nth, part) in message.parts(at)?.into_iter().enumerate() {
        let block = match part {
            Part::Text(text) | Part::Refusal(text) if text.is_empty() => continue,
            Part::Text(text) | Part::Refusal(text) => json!({"type": "text", "text": text}),
            Part::Image(media) => image(media).map_err(|message| Invalid::new(place(nth), message))?,
            Part::File { name, media } => {
                document(name, media).map_err(|message| Invalid::new(place(nth), message))?
            }
            Part::Audio { .. } => {
                return Err(Invalid::new(place(nth), "this model's provider takes no audio"));
            }
        };
        blocks.push(block);
    }
    Ok(blocks)
}

fn image(media: Media) -> Result<Value, &'static str> {
    let source = match media {
        Media::Inline { mime, data } => json!({"type": "base64", "media_type": mime, "data": data}),
        Media::Url(url) if url.starts_with("data:") => return Err("a data: URL must be base64"),
        Media::Url(url) => json!({"type": "url", "url": url}),
        Media::Id(id) => json!({"type": "file", "file_id": id}),
    };
    Ok(json!({"type": "image", "source": source}))
}

fn document(name: Option<String>, media: Media) -> Result<Value, &'static str> {
    let source = match media {
        Media::Inline { ref mime, .. } if mime.starts_with("image/") => return image(media),
        Media::Inline { mime, data } if mime == "application/pdf" => {
            json!({"type": "base64", "media_type": mime, "data": data})
        }
        Media::Inline { mime, data } if mime.starts_with("text/") => {
            let text = decode(&data).and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.ok_or("a text file must be base64 of UTF-8")?;
            json!({"type": "text", "media_type": "text/plain", "data": text})
        }
        Media::Inline { .. } => return Err("this model's provider takes PDF, text and images as files"),
        Media::Url(url) if url.starts_with("data:") => return Err("a data: URL must be base64"),
        Media::Url(url) => json!({"type": "url", "url": url}),
        Media::Id(id) => json!({"type": "file", "file_id": id}),
    };
    let mut block = json!({"type": "document", "source": source});
    if let Some(name) = name {
        block["title"] = name.into();
    }
    Ok(block)
}

/// Standard base64, with or without padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(text.len() / 4 * 3), 0_u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, held) = ((bits << 6) | u32::from(value), held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(bytes)
}

/// Proofs of reasoning first, then words, then calls: the order that the provider insists on.
fn assistant(message: &Message, at: usize) -> Result<Vec<Value>, Invalid> {
    let mut turn = Vec::new();
    for thought in message.thoughts() {
        let Some(signature) = thought.signature else { continue };
        turn.push(match thought.redacted {
            true => json!({"type": "redacted_thinking", "data": signature}),
            false => json!({"type": "thinking", "thinking": thought.text, "signature": signature}),
        });
    }
    for (nth, block) in blocks(message, at)?.into_iter().enumerate() {
        if block["type"] != "text" {
            let field = format!("messages[{at}].content[{nth}]");
            return Err(Invalid::new(field, "an assistant's turn holds only text"));
        }
        turn.push(block);
    }
    for (nth, call) in message.calls(at)?.iter().enumerate() {
        turn.push(json!({"type": "tool_use", "id": call_id(&call.id), "name": call.name,
                         "input": input(call, at, nth)?}));
    }
    Ok(turn)
}

fn input(call: &Call, at: usize, nth: usize) -> Result<Value, Invalid> {
    if call.arguments.trim().is_empty() {
        return Ok(json!({}));
    }
    let parsed = serde_json::from_str(&call.arguments).ok().filter(Value::is_object);
    let field = || format!("messages[{at}].tool_calls[{nth}].function.arguments");
    parsed.ok_or_else(|| Invalid::new(field(), "must be the text of a JSON object"))
}

fn result(message: &Message, at: usize) -> Result<Value, Invalid> {
    let Some(id) = message.call_id() else {
        return Err(Invalid::new(format!("messages[{at}].tool_call_id"), "is missing"));
    };
    let mut block = json!({"type": "tool_result", "tool_use_id": call_id(id)});
    let content = blocks(message, at)?;
    if !content.is_empty() {
        block["content"] = content.into();
    }
    Ok(block)
}

/// The provider takes `[a-zA-Z0-9_-]`; others' ids may have more, and only have to match.
fn call_id(id: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    id.chars().map(allowed).collect()
}

fn tools(params: &mut Params, body: &mut Map<String, Value>) -> Result<(), Invalid> {
    let functions = params.functions()?;
    let parallel = params.take("parallel_tool_calls").and_then(|value| value.as_bool());
    let choice = params.tool_choice()?;
    if functions.is_empty() {
        return match choice {
            None | Some(Choice::Auto | Choice::None) => Ok(()),
            Some(_) => Err(Invalid::new("tool_choice", "there are no tools to choose from")),
        };
    }
    let tool = |function: crate::chat::asked::Function| {
        let empty = || json!({"type": "object", "properties": {}});
        let schema = function.parameters.unwrap_or_else(empty);
        let mut tool = json!({"name": function.name, "input_schema": schema});
        if let Some(description) = function.description {
            tool["description"] = description.into();
        }
        if function.strict == Some(true) {
            tool["strict"] = true.into();
        }
        tool
    };
    body.insert("tools".into(), functions.into_iter().map(tool).collect());
    let one_at_a_time = parallel == Some(false);
    let mut chosen = match choice {
        None if one_at_a_time => json!({"type": "auto"}),
        None => return Ok(()),
        Some(Choice::Auto) => json!({"type": "auto"}),
        Some(Choice::None) => json!({"type": "none"}),
        Some(Choice::Required) => json!({"type": "any"}),
        Some(Choice::Function(name)) => json!({"type": "tool", "name": name}),
    };
    if one_at_a_time && chosen["type"] != "none" {
        chosen["disable_parallel_tool_use"] = true.into();
    }
    body.insert("tool_choice".into(), chosen);
    Ok(())
}

fn sampling(params: &mut Params, body: &mut Map<String, Value>) -> Result<(), Invalid> {
    for name in OWN {
        body.extend(params.take(name).map(|value| (name.to_owned(), value)));
    }
    lengths(params, body)?;
    if let Some(temperature) = params.take("temperature") {
        if temperature.as_f64().is_some_and(|number| number > 1.0) {
            return Err(Invalid::new("temperature", "this model's provider takes 0 to 1"));
        }
        body.insert("temperature".into(), temperature);
    }
    for name in ["top_p", "top_k"] {
        body.extend(params.take(name).map(|value| (name.to_owned(), value)));
    }
    let stop = params.stop();
    if !stop.is_empty() {
        body.insert("stop_sequences".into(), stop.into());
    }
    match params.shape()? {
        None | Some(Shape::Text) => {}
        Some(Shape::Schema { schema, .. }) => {
            let config = body.entry("output_config").or_insert_with(|| json!({}));
            let config = config.as_object_mut();
            let config = config.ok_or_else(|| Invalid::new("output_config", "expected an object"))?;
            config.insert("format".into(), json!({"type": "json_schema", "schema": schema}));
        }
        Some(Shape::Json) => {
            let message = "this model's provider has no json_object: say json_schema, with a schema";
            return Err(Invalid::new("response_format", message));
        }
    }
    if let Some(tier) = params.take("service_tier") {
        let tier = match tier.as_str() {
            Some("auto") => "auto",
            Some("default" | "standard_only") => "standard_only",
            _ => return Err(Invalid::new("service_tier", "this model's provider has auto and default")),
        };
        body.insert("service_tier".into(), tier.into());
    }
    who(params, body);
    neutral(params);
    Ok(())
}

/// `max_tokens`, and what of it may go into reasoning.
fn lengths(params: &mut Params, body: &mut Map<String, Value>) -> Result<(), Invalid> {
    let asked = params.max_tokens();
    let (budget, effort) = (params.take("thinking_budget"), params.take("reasoning_effort"));
    let budget = match (budget, effort.as_ref().map(|effort| effort.as_str().unwrap_or_default())) {
        (Some(budget), _) => {
            let whole = budget.as_i64().filter(|budget| *budget >= -1);
            Some(whole.ok_or_else(|| Invalid::new("thinking_budget", "expected a whole number from -1"))?)
        }
        (None, None) => None,
        (None, Some("none")) => Some(0),
        (None, Some("minimal")) => Some(1024),
        (None, Some("low")) => Some(2048),
        (None, Some("medium")) => Some(8192),
        (None, Some("high")) => Some(16_384),
        (None, Some("xhigh")) => Some(32_768),
        (None, Some(_)) => {
            let message = "expected none, minimal, low, medium, high or xhigh";
            return Err(Invalid::new("reasoning_effort", message));
        }
    };
    let mut max_tokens = asked.unwrap_or(MAX_TOKENS);
    let thinking = match budget {
        None => None,
        Some(0) => Some(json!({"type": "disabled"})),
        Some(-1) => Some(json!({"type": "adaptive"})),
        Some(budget) => {
            let budget = budget.unsigned_abs().max(LEAST_BUDGET);
            if asked.is_none() || max_tokens <= budget {
                max_tokens = max_tokens.saturating_add(budget);
            }
            Some(json!({"type": "enabled", "budget_tokens": budget}))
        }
    };
    body.insert("max_tokens".into(), max_tokens.into());
    if let Some(thinking) = thinking {
        body.entry("thinking").or_insert(thinking);
    }
    Ok(())
}

/// For whom: `user`, or what was called so in `metadata`, whose rest is the client's own bookkeeping.
fn who(params: &mut Params, body: &mut Map<String, Value>) {
    let (user, safe) = (params.take("user"), params.take("safety_identifier"));
    let metadata = params
        .take("metadata")
        .and_then(|mut metadata| metadata.as_object_mut().and_then(|fields| fields.shift_remove("user_id")));
    if let Some(user) = metadata.or(safe).or(user).filter(Value::is_string) {
        body.insert("metadata".into(), json!({"user_id": user}));
    }
}

/// Drops what the answer does not depend on, and what asks for nothing where this dialect has nothing.
fn neutral(params: &mut Params) {
    params.ignore(&["n", "stream_options", "store", "prompt_cache_key", "prompt_cache_retention"]);
    for name in
        ["frequency_penalty", "presence_penalty", "top_logprobs", "logprobs", "logit_bias", "modalities"]
    {
        let nothing = |value: &Value| {
            value.as_f64() == Some(0.0)
                || *value == false
                || *value == json!(["text"])
                || value.as_object().is_some_and(Map::is_empty)
        };
        if params.get(name).is_some_and(nothing) {
            params.ignore(&[name]);
        }
    }
}
