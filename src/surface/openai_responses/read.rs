//! A request of the Responses dialect as a canonical one.
//!
//! What has no canonical form is no fault: a provider of this dialect is sent the client's own body. For others the first
//! such field is kept as the reason why not.

use serde_json::{Map, Value, json};

use super::DIALECT;
use crate::chat::{self, Invalid, Message, Original, Request, kind};

/// What was asked. `request` holds the messages of `input` alone: what is instructed and what was said before come before
/// them.
#[derive(Debug)]
pub struct Asked {
    pub request: Request,
    pub instructions: Option<Message>,
    /// `previous_response_id`.
    pub previous: Option<String>,
    pub background: bool,
    /// The conversation may be kept, to be gone on with.
    pub store: bool,
    pub metadata: Map<String, Value>,
    /// What every answer repeats of its request; nothing that only its client should know.
    pub response: Map<String, Value>,
}

/// The fields that are repeated. `instructions` and `tools` are not: others may watch the stream.
const REPEATED: [&str; 14] = [
    "background",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "parallel_tool_calls",
    "previous_response_id",
    "reasoning",
    "service_tier",
    "store",
    "temperature",
    "text",
    "tool_choice",
    "top_p",
    "truncation",
];

/// Fields that no other dialect has a word for, and what they say where they say nothing.
const OWN: [(&str, &[&str]); 8] = [
    ("conversation", &[]),
    ("prompt", &[]),
    ("context_management", &["[]"]),
    ("include", &["[]", "[\"reasoning.encrypted_content\"]"]),
    ("max_tool_calls", &[]),
    ("moderation", &[]),
    ("top_logprobs", &["0"]),
    ("truncation", &["\"disabled\""]),
];

pub fn read(mut fields: Map<String, Value>, headers: Vec<(String, String)>) -> Result<Asked, Invalid> {
    let original = Original { dialect: DIALECT, body: fields.clone(), headers };
    fields.retain(|_, value| !value.is_null());
    let response = REPEATED.iter().filter_map(|name| Some(((*name).to_owned(), fields.get(*name)?.clone())));
    let mut response: Map<String, Value> = response.collect();
    response.sort_keys();
    let mut why = None;
    for (name, nothing) in OWN {
        let value = fields.shift_remove(name);
        if value.is_some_and(|value| !nothing.contains(&value.to_string().as_str())) {
            why = why.or_else(|| Some(untold(name)));
        }
    }
    let model = text(&mut fields, "model")?.ok_or_else(|| Invalid::new("model", "is missing"))?;
    let instructions = text(&mut fields, "instructions")?;
    let previous = text(&mut fields, "previous_response_id")?;
    let stream = flag(&mut fields, "stream")?.unwrap_or(false);
    let background = flag(&mut fields, "background")?.unwrap_or(false);
    let store = flag(&mut fields, "store")?.unwrap_or(true);
    let metadata = object(&mut fields, "metadata")?.unwrap_or_default();
    fields.shift_remove("stream_options");
    let input = fields.shift_remove("input");
    if input.is_none() && previous.is_none() && why.is_none() {
        return Err(Invalid::new("input", "is missing"));
    }
    let messages = Input::default().read(input, &mut why)?;
    let params = params(fields, &mut why)?;
    chat::check_params(&params).map_err(renamed)?;
    let request = Request { model, messages, stream, params, original: Some(original), untranslatable: why };
    let instructions = instructions.map(|text| Message::new("system", &text));
    Ok(Asked { request, instructions, previous, background, store, metadata, response })
}

fn untold(field: impl Into<String>) -> Invalid {
    Invalid::new(field, "has no counterpart in the dialect of this model's provider")
}

fn wrong(field: &str, expected: &str, got: &Value) -> Invalid {
    Invalid::new(field, format!("expected {expected}, got {}", kind(got)))
}

/// The client's own names in an error.
fn renamed(invalid: Invalid) -> Invalid {
    let field = match invalid.field.as_str() {
        "max_tokens" => "max_output_tokens",
        "response_format" => "text.format",
        other => other,
    };
    Invalid::new(field, invalid.message)
}

fn text(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Invalid> {
    match fields.shift_remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong(name, "a string", &other)),
    }
}

fn flag(fields: &mut Map<String, Value>, name: &str) -> Result<Option<bool>, Invalid> {
    match fields.shift_remove(name) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(flag)),
        Some(other) => Err(wrong(name, "a boolean", &other)),
    }
}

fn object(fields: &mut Map<String, Value>, name: &str) -> Result<Option<Map<String, Value>>, Invalid> {
    match fields.shift_remove(name) {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(other) => Err(wrong(name, "an object", &other)),
    }
}

/// The other fields under their canonical names; unknown ones ride along.
fn params(mut fields: Map<String, Value>, why: &mut Option<Invalid>) -> Result<Map<String, Value>, Invalid> {
    if let Some(most) = fields.shift_remove("max_output_tokens") {
        fields.insert("max_tokens".into(), most);
    }
    if let Some(mut reasoning) = object(&mut fields, "reasoning")?
        && let Some(effort) = reasoning.shift_remove("effort").filter(|effort| !effort.is_null())
    {
        fields.insert("reasoning_effort".into(), effort);
    }
    if let Some(mut text) = object(&mut fields, "text")? {
        if let Some(format) = text.shift_remove("format").filter(|format| !format.is_null()) {
            fields.insert("response_format".into(), shape(format)?);
        }
        if let Some(verbosity) = text.shift_remove("verbosity").filter(|verbosity| !verbosity.is_null()) {
            fields.insert("verbosity".into(), verbosity);
        }
    }
    match fields.shift_remove("tools") {
        None => {}
        Some(Value::Array(tools)) => {
            let tools = tools.into_iter().enumerate().map(|(at, tool)| function(at, tool, why));
            let tools = tools.collect::<Result<Vec<_>, _>>()?;
            if !tools.is_empty() {
                fields.insert("tools".into(), tools.into());
            }
        }
        Some(other) => return Err(wrong("tools", "a list", &other)),
    }
    if let Some(choice) = fields.get_mut("tool_choice").filter(|choice| choice.is_object()) {
        match choice["type"].as_str() {
            Some("function") => {
                *choice = json!({"type": "function", "function": {"name": choice["name"]}});
            }
            _ => *why = why.take().or_else(|| Some(untold("tool_choice"))),
        }
    }
    Ok(fields)
}

/// `text.format` as `response_format`.
fn shape(format: Value) -> Result<Value, Invalid> {
    match format {
        Value::Object(mut fields) if fields.get("type").is_some_and(Value::is_string) => {
            if fields["type"] != "json_schema" {
                return Ok(fields.into());
            }
            fields.shift_remove("type");
            Ok(json!({"type": "json_schema", "json_schema": fields}))
        }
        other => Err(wrong("text.format", "an object with a type", &other)),
    }
}

fn function(at: usize, tool: Value, why: &mut Option<Invalid>) -> Result<Value, Invalid> {
    let field = format!("tools[{at}]");
    let Value::Object(mut fields) = tool else { return Err(wrong(&field, "an object", &tool)) };
    match fields.shift_remove("type") {
        Some(Value::String(kind)) if kind == "function" => {
            if !fields.get("name").is_some_and(Value::is_string) {
                return Err(Invalid::new(format!("{field}.name"), "must be a string"));
            }
            fields.retain(|_, value| !value.is_null());
            Ok(json!({"type": "function", "function": fields}))
        }
        Some(Value::String(kind)) => {
            let message = format!("a tool of type \"{kind}\" is not one that this model's provider has");
            *why = why.take().or_else(|| Some(Invalid::new(field, message)));
            Ok(json!({"type": kind}))
        }
        _ => Err(Invalid::new(format!("{field}.type"), "must be a string")),
    }
}

/// `input` as messages: an assistant's turn is several items, which become one message.
#[derive(Default)]
struct Input {
    messages: Vec<Message>,
    /// Reasoning whose message or call is still to come.
    thoughts: Vec<Value>,
}

impl Input {
    fn read(mut self, input: Option<Value>, why: &mut Option<Invalid>) -> Result<Vec<Message>, Invalid> {
        match input {
            None => {}
            Some(Value::String(text)) => self.messages.push(Message::new("user", &text)),
            Some(Value::Array(items)) => {
                for (at, item) in items.into_iter().enumerate() {
                    self.item(&format!("input[{at}]"), &item, why)?;
                }
            }
            Some(other) => return Err(wrong("input", "a string or a list of items", &other)),
        }
        Ok(self.messages)
    }

    fn item(&mut self, field: &str, item: &Value, why: &mut Option<Invalid>) -> Result<(), Invalid> {
        if !item.is_object() {
            return Err(wrong(field, "an object", item));
        }
        let needed = |name: &str| {
            let text = item[name].as_str().map(str::to_owned);
            text.ok_or_else(|| Invalid::new(format!("{field}.{name}"), "must be a string"))
        };
        match item["type"].as_str() {
            None | Some("message") if !item["role"].is_null() || item["type"] == "message" => {
                let role = needed("role")?;
                if !["user", "assistant", "system", "developer"].contains(&role.as_str()) {
                    let message = format!("\"{role}\" is not one of user, assistant, system, developer");
                    return Err(Invalid::new(format!("{field}.role"), message));
                }
                let content = content(&format!("{field}.content"), &item["content"], why)?;
                let mut message = Message { role, content, rest: Map::new() };
                if message.role == "assistant" && !self.thoughts.is_empty() {
                    message.rest.insert("reasoning".into(), std::mem::take(&mut self.thoughts).into());
                }
                self.messages.push(message);
            }
            Some("function_call") => {
                let function = json!({"name": needed("name")?, "arguments": needed("arguments")?});
                let mut call = json!({"id": needed("call_id")?, "type": "function", "function": function});
                if item["extra_content"].is_object() {
                    call["extra_content"] = item["extra_content"].clone();
                }
                self.call(call);
            }
            Some("function_call_output") => {
                let content = content(&format!("{field}.output"), &item["output"], why)?;
                let rest = Map::from_iter([("tool_call_id".to_owned(), needed("call_id")?.into())]);
                self.messages.push(Message { role: "tool".into(), content, rest });
            }
            Some("reasoning") => self.thoughts.push(thought(item)),
            Some(kind) => {
                let message = format!("an item of type \"{kind}\" cannot be translated for this provider");
                *why = why.take().or_else(|| Some(Invalid::new(format!("{field}.type"), message)));
            }
            None => return Err(Invalid::new(format!("{field}.type"), "must be a string")),
        }
        Ok(())
    }

    fn call(&mut self, call: Value) {
        let open = |message: &Message| message.role == "assistant";
        if !self.messages.last().is_some_and(open) {
            self.messages.push(Message { role: "assistant".into(), content: Value::Null, rest: Map::new() });
        }
        let Some(turn) = self.messages.last_mut() else { return };
        let mut add = |name: &str, values: Vec<Value>| {
            let list = turn.rest.entry(name).or_insert_with(|| json!([]));
            list.as_array_mut().into_iter().for_each(|list| list.extend(values.iter().cloned()));
        };
        if !self.thoughts.is_empty() {
            add("reasoning", std::mem::take(&mut self.thoughts));
        }
        add("tool_calls", vec![call]);
    }
}

/// A reasoning item as a block of `reasoning`.
fn thought(item: &Value) -> Value {
    let lists = ["content", "summary"].map(|name| item[name].as_array().cloned().unwrap_or_default());
    let texts = lists.iter().find(|list| !list.is_empty()).into_iter().flatten();
    let texts: Vec<&str> = texts.filter_map(|part| part["text"].as_str()).collect();
    let mut thought = json!({"text": texts.join("\n\n")});
    if let Some(proof) = item["encrypted_content"].as_str() {
        thought["signature"] = proof.into();
    }
    if item["redacted"] == true {
        thought["redacted"] = true.into();
    }
    thought
}

/// The content of a message, or the output of a call.
fn content(field: &str, content: &Value, why: &mut Option<Invalid>) -> Result<Value, Invalid> {
    let parts = match content {
        Value::String(_) => return Ok(content.clone()),
        Value::Array(parts) => parts,
        other => return Err(wrong(field, "a string or a list of parts", other)),
    };
    let mut read = Vec::with_capacity(parts.len());
    for (at, value) in parts.iter().enumerate() {
        match part(value).map_err(|message| Invalid::new(format!("{field}[{at}]"), message))? {
            Some(part) => read.push(part),
            None => *why = why.take().or_else(|| Some(untold(format!("{field}[{at}]")))),
        }
    }
    // Plain text is what every provider takes.
    match read.as_slice() {
        [one] if one["type"] == "text" => Ok(one["text"].clone()),
        _ => Ok(read.into()),
    }
}

/// A part in canonical form; None if there is none.
fn part(part: &Value) -> Result<Option<Value>, String> {
    let text = |name: &str| {
        part[name].as_str().map(str::to_owned).ok_or_else(|| format!("`{name}` must be a string"))
    };
    Ok(Some(match part["type"].as_str().ok_or("`type` must be a string")? {
        "input_text" | "output_text" | "text" => json!({"type": "text", "text": text("text")?}),
        "refusal" => json!({"type": "refusal", "refusal": text("refusal")?}),
        "input_image" if part["image_url"].is_string() => {
            let mut image = json!({"url": text("image_url")?});
            if part["detail"].is_string() {
                image["detail"] = part["detail"].clone();
            }
            json!({"type": "image_url", "image_url": image})
        }
        "input_file" => {
            let mut file = Map::new();
            for name in ["filename", "file_data", "file_id", "file_url"] {
                if part[name].is_string() {
                    file.insert(name.into(), part[name].clone());
                }
            }
            json!({"type": "file", "file": file})
        }
        "input_audio" if part["input_audio"].is_object() => part.clone(),
        _ => return Ok(None),
    }))
}
