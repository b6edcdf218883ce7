//! What `useChat` sends, as canonical messages.
//!
//! The body is `{id, messages, trigger, messageId?}` and whatever the page's own `body` adds (npm `ai`,
//! `HttpChatTransport`). A message is a list of parts; an assistant's holds its tool calls and their results, and a
//! `step-start` between one answer of the model and the next.

use serde_json::{Map, Value, json};

use super::OURS;
use crate::chat::{Invalid, kind};

/// A chat's request, before anybody knows which model and which system prompt it is for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked {
    /// The chat's id.
    pub chat: String,
    pub model: Option<String>,
    /// Canonical messages, for `chat::Request::new`.
    pub messages: Vec<Value>,
    /// The page wants another answer in place of the one it has or gets.
    pub regenerate: bool,
    /// The assistant's message that the answer goes on with: a client's tool results are part of it.
    pub goes_on: Option<Value>,
    /// For the configured prompt.
    pub variables: Option<Map<String, Value>>,
    pub params: Map<String, Value>,
}

/// What of a page's own `body` is meant for the model; the rest is the page's business with other servers of its.
const PARAMS: [&str; 23] = [
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "min_p",
    "modalities",
    "parallel_tool_calls",
    "presence_penalty",
    "reasoning",
    "reasoning_effort",
    "response_format",
    "seed",
    "service_tier",
    "stop",
    "temperature",
    "thinking_budget",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
    "verbosity",
];

pub fn read(mut fields: Map<String, Value>) -> Result<Asked, Invalid> {
    let mut asked = Asked {
        chat: text(&mut fields, "id")?.ok_or_else(|| Invalid::new("id", "is missing"))?,
        model: text(&mut fields, "model")?.filter(|model| !model.is_empty()),
        regenerate: match text(&mut fields, "trigger")?.as_deref() {
            None | Some("submit-message") => false,
            Some("regenerate-message") => true,
            Some(other) => {
                let message = format!("\"{other}\" is not submit-message or regenerate-message");
                return Err(Invalid::new("trigger", message));
            }
        },
        variables: match fields.shift_remove("variables") {
            None | Some(Value::Null) => None,
            Some(Value::Object(variables)) => Some(variables),
            Some(other) => return Err(expected("variables", "an object", &other)),
        },
        ..Asked::default()
    };
    let messages = match fields.shift_remove("messages") {
        Some(Value::Array(messages)) => messages,
        None => return Err(Invalid::new("messages", "is missing")),
        Some(other) => return Err(expected("messages", "a list of messages", &other)),
    };
    for (at, said) in messages.iter().enumerate() {
        message(&format!("messages[{at}]"), said, &mut asked.messages)?;
    }
    let last = messages.into_iter().next_back();
    asked.goes_on = last
        .filter(|last| last["role"] == "assistant" && last["id"].as_str().is_some_and(|id| !id.is_empty()));
    fields.retain(|name, _| PARAMS.contains(&name.as_str()));
    asked.params = fields;
    Ok(asked)
}

fn expected(field: &str, expected: &str, got: &Value) -> Invalid {
    Invalid::new(field, format!("expected {expected}, got {}", kind(got)))
}

fn text(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Invalid> {
    match fields.shift_remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(expected(name, "a string", &other)),
    }
}

fn message(at: &str, said: &Value, out: &mut Vec<Value>) -> Result<(), Invalid> {
    if !said.is_object() {
        return Err(expected(at, "an object", said));
    }
    let plain;
    let parts = match (&said["parts"], &said["content"]) {
        (Value::Array(parts), _) => parts,
        // As pages wrote messages before there were parts.
        (Value::Null, Value::String(content)) => {
            plain = vec![json!({"type": "text", "text": content})];
            &plain
        }
        (other, _) => return Err(expected(&format!("{at}.parts"), "a list of parts", other)),
    };
    let parts = parts.iter().enumerate().map(|(nth, part)| (format!("{at}.parts[{nth}]"), part));
    match said["role"].as_str() {
        Some("assistant") => assistant(parts, out),
        Some(role @ ("user" | "system")) => {
            let content = parts.map(|(at, part)| content(&at, part)).collect::<Result<Vec<_>, _>>()?;
            let mut content: Vec<Value> = content.into_iter().flatten().collect();
            let content = match content.as_mut_slice() {
                [] => "".into(),
                [only] if only["type"] == "text" => only["text"].take(),
                _ => Value::Array(content),
            };
            out.push(json!({"role": role, "content": content}));
            Ok(())
        }
        _ => Err(Invalid::new(format!("{at}.role"), "is not one of system, user, assistant")),
    }
}

/// A part of a user's message as content; None for what is between the page and its user.
fn content(at: &str, part: &Value) -> Result<Option<Value>, Invalid> {
    let said = |name: &str| {
        part[name].as_str().ok_or_else(|| expected(&format!("{at}.{name}"), "a string", &part[name]))
    };
    match said("type")? {
        "text" => Ok(Some(json!({"type": "text", "text": said("text")?}))),
        "file" => Ok(Some(file(said("mediaType")?, said("url")?, part["filename"].as_str()))),
        other if silent(other) => Ok(None),
        other => {
            Err(Invalid::new(format!("{at}.type"), format!("\"{other}\" is not a part of a user's message")))
        }
    }
}

/// Parts that the model is not shown.
fn silent(part: &str) -> bool {
    matches!(
        part,
        "step-start" | "source-url" | "source-document" | "custom" | "reasoning-file" | "steering-message"
    ) || part.starts_with("data-")
}

fn file(media: &str, url: &str, name: Option<&str>) -> Value {
    let inline = url.strip_prefix("data:").and_then(|url| url.split_once(";base64,"));
    match (media.split_once('/'), inline) {
        (Some(("image", _)), _) => json!({"type": "image_url", "image_url": {"url": url}}),
        (Some(("audio", format)), Some((_, data))) => {
            let format = match format {
                "mpeg" => "mp3",
                "x-wav" | "wave" => "wav",
                format => format,
            };
            json!({"type": "input_audio", "input_audio": {"format": format, "data": data}})
        }
        (_, inline) => {
            let place = if inline.is_some() { "file_data" } else { "file_url" };
            let mut file = json!({(place): url});
            if let Some(name) = name {
                file["filename"] = name.into();
            }
            json!({"type": "file", "file": file})
        }
    }
}

/// One answer of the model within an assistant's message, and the results of the tools it called.
#[derive(Default)]
struct Step {
    text: Option<String>,
    reasoning: Vec<Value>,
    calls: Vec<Value>,
    results: Vec<Value>,
}

impl Step {
    fn flush(&mut self, out: &mut Vec<Value>) {
        let step = std::mem::take(self);
        if step.text.is_none() && step.reasoning.is_empty() && step.calls.is_empty() {
            return;
        }
        let mut message = json!({"role": "assistant", "content": step.text});
        if !step.reasoning.is_empty() {
            message["reasoning"] = step.reasoning.into();
        }
        if !step.calls.is_empty() {
            message["tool_calls"] = step.calls.into();
        }
        out.push(message);
        out.extend(step.results);
    }
}

fn assistant<'a>(
    parts: impl Iterator<Item = (String, &'a Value)>,
    out: &mut Vec<Value>,
) -> Result<(), Invalid> {
    let mut step = Step::default();
    for (at, part) in parts {
        let said = |name: &str| {
            part[name].as_str().ok_or_else(|| expected(&format!("{at}.{name}"), "a string", &part[name]))
        };
        let part_type = said("type")?;
        // What is said after a tool's result was said knowing it.
        if part_type == "step-start"
            || (matches!(part_type, "text" | "reasoning") && !step.results.is_empty())
        {
            step.flush(out);
        }
        match part_type {
            "text" => step.text.get_or_insert_default().push_str(said("text")?),
            "reasoning" => {
                let ours = &part["providerMetadata"][OURS];
                let mut block = json!({"text": said("text")?});
                for name in ["signature", "redacted"] {
                    if !ours[name].is_null() {
                        block[name] = ours[name].clone();
                    }
                }
                if block["text"] != "" || block["signature"].is_string() {
                    step.reasoning.push(block);
                }
            }
            "dynamic-tool" => tool(part, said("toolCallId")?, said("toolName")?, &mut step),
            // What a model drew cannot be said again by an assistant: providers take files from users only.
            "file" => {}
            other => match other.strip_prefix("tool-") {
                Some(name) => tool(part, said("toolCallId")?, name, &mut step),
                None if silent(other) => {}
                None => {
                    let message = format!("\"{other}\" is not a part of an assistant's message");
                    return Err(Invalid::new(format!("{at}.type"), message));
                }
            },
        }
    }
    step.flush(out);
    Ok(())
}

fn tool(part: &Value, id: &str, name: &str, step: &mut Step) {
    let state = part["state"].as_str().unwrap_or_default();
    if state == "input-streaming" {
        // Never came to be a call.
        return;
    }
    let input = if part["input"].is_null() { &part["rawInput"] } else { &part["input"] };
    let arguments = match input {
        Value::Null => "{}".to_owned(),
        Value::String(raw) if part["input"].is_null() => raw.clone(),
        input => input.to_string(),
    };
    let mut call = json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    if let Some(signature) = part["callProviderMetadata"][OURS]["signature"].as_str() {
        call["signature"] = signature.into();
    }
    step.calls.push(call);
    let result = match (state, &part["output"]) {
        ("output-available", Value::String(text)) => text.clone(),
        ("output-available", output) => output.to_string(),
        ("output-error", _) => part["errorText"].as_str().unwrap_or("the tool failed").to_owned(),
        ("output-denied", _) => {
            let reason = part["approval"]["reason"].as_str();
            reason.map_or_else(
                || "the user denied the call".to_owned(),
                |reason| format!("the user denied the call: {reason}"),
            )
        }
        _ => return,
    };
    step.results.push(json!({"role": "tool", "tool_call_id": id, "content": result}));
}
