//! A `GenerateContentRequest` as the canonical request.
//!
//! Names are read in camel and in snake case, as proto JSON allows: google-genai for Python writes both in one body.
//! What only Gemini has keeps its name among the parameters, or as the type of a part or a tool, so that providers of
//! other dialects refuse it by that name; providers of this one are sent the original.
//! Not taken over: a function's response schema and whether thoughts are wanted, which only describe.
//! Source: Google's API reference (v1beta), and what google-genai 3.4.0 and @google/genai 3.1.0 send.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::DIALECT;
use super::schema::json_schema;
use crate::chat::{Invalid, Original, Request, kind};

/// Parameters that differ by their name only.
pub const RENAMED: [(&str, &str); 11] = [
    ("temperature", "temperature"),
    ("topP", "top_p"),
    ("topK", "top_k"),
    ("seed", "seed"),
    ("presencePenalty", "presence_penalty"),
    ("frequencyPenalty", "frequency_penalty"),
    ("maxOutputTokens", "max_tokens"),
    ("stopSequences", "stop"),
    ("responseLogprobs", "logprobs"),
    ("logprobs", "top_logprobs"),
    ("candidateCount", "n"),
];

/// `model` and `stream` are said by the path.
pub fn read(model: String, stream: bool, body: Map<String, Value>) -> Result<Request, Invalid> {
    let mut fields = Fields { at: String::new(), left: body.clone() };
    fields.take("model");
    let mut messages = Vec::new();
    if let Some(instruction) = fields.take("systemInstruction") {
        messages.push(json!({"role": "system", "content": system("systemInstruction", &instruction)?}));
    }
    let contents = fields.list("contents")?.ok_or_else(|| Invalid::new("contents", "is missing"))?;
    let mut turns = Turns { messages, open: Turn::default(), pending: VecDeque::new(), calls: 0 };
    for (at, content) in contents.into_iter().enumerate() {
        turns.turn(&format!("contents[{at}]"), content)?;
    }
    turns.close();
    let mut params = Map::new();
    if let Some(config) = fields.object("generationConfig")? {
        generation(config, &mut params)?;
    }
    tools(&mut fields, &mut params)?;
    params.extend(fields.left);
    let request = Request::new(model, turns.messages.into(), params, stream).map_err(named)?;
    let original = Original { dialect: DIALECT, body, headers: Vec::new() };
    Ok(Request { original: Some(original), ..request })
}

/// A canonical parameter at fault, as the client called it.
fn named(invalid: Invalid) -> Invalid {
    let own = RENAMED.iter().find(|(_, canonical)| *canonical == invalid.field);
    let field = match (own, invalid.field.as_str()) {
        (Some((own, _)), _) => format!("generationConfig.{own}"),
        (None, "messages") => "contents".into(),
        (None, _) => invalid.field,
    };
    Invalid { field, ..invalid }
}

fn wrong(field: impl Into<String>, expected: &str, got: &Value) -> Invalid {
    Invalid::new(field, format!("expected {expected}, got {}", kind(got)))
}

/// An object's fields, taken by their name in either case; `at` is its path for errors.
struct Fields {
    at: String,
    left: Map<String, Value>,
}

impl Fields {
    fn of(at: impl Into<String>, value: Value) -> Result<Fields, Invalid> {
        let at = at.into();
        match value {
            Value::Object(left) => Ok(Fields { at, left }),
            other => Err(wrong(at, "an object", &other)),
        }
    }

    fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let value = self.left.shift_remove(name).or_else(|| self.left.shift_remove(&snake(name)));
        value.filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, Invalid> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(self.path(name), "a string", &other)),
        }
    }

    fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, Invalid> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(wrong(self.path(name), "a list", &other)),
        }
    }

    fn object(&mut self, name: &str) -> Result<Option<Fields>, Invalid> {
        let path = self.path(name);
        self.take(name).map(|value| Fields::of(path, value)).transpose()
    }
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// The instruction's text: a content, or just a string.
fn system(at: &str, instruction: &Value) -> Result<String, Invalid> {
    if let Value::String(text) = instruction {
        return Ok(text.clone());
    }
    let parts = match &instruction["parts"] {
        Value::Array(parts) => parts.as_slice(),
        one @ Value::Object(_) => std::slice::from_ref(one),
        other => return Err(wrong(format!("{at}.parts"), "a list", other)),
    };
    let text = |(nth, part): (usize, &Value)| match &part["text"] {
        Value::String(text) => Ok(text.clone()),
        other => Err(wrong(format!("{at}.parts[{nth}].text"), "a string", other)),
    };
    parts.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>().map(|texts| texts.join("\n"))
}

/// Turns as canonical messages.
struct Turns {
    messages: Vec<Value>,
    /// The turn that is being read: SDKs keep a streamed answer as one turn of the model for each event.
    open: Turn,
    /// Calls that nobody has answered yet, with their functions: results may come without ids.
    pending: VecDeque<(String, String)>,
    calls: usize,
}

/// What one turn says, sorted by how messages say it.
#[derive(Default)]
struct Turn {
    role: &'static str,
    content: Vec<Value>,
    reasoning: Vec<Value>,
    calls: Vec<Value>,
    results: Vec<Value>,
}

impl Turns {
    fn turn(&mut self, at: &str, content: Value) -> Result<(), Invalid> {
        let mut fields = Fields::of(at, content)?;
        let role = match fields.text("role")?.as_deref() {
            None | Some("user" | "function") => "user",
            Some("model") => "assistant",
            Some(other) => {
                return Err(Invalid::new(format!("{at}.role"), format!("\"{other}\" is not user or model")));
            }
        };
        if (role, self.open.role) != ("assistant", "assistant") {
            self.close();
            self.open.role = role;
        }
        let parts = fields.list("parts")?.ok_or_else(|| Invalid::new(format!("{at}.parts"), "is missing"))?;
        let mut turn = std::mem::take(&mut self.open);
        for (nth, part) in parts.into_iter().enumerate() {
            self.part(Fields::of(format!("{at}.parts[{nth}]"), part)?, &mut turn)?;
        }
        self.open = turn;
        Ok(())
    }

    /// The open turn as messages: results are some of their own, and come first.
    fn close(&mut self) {
        let Turn { role, content, reasoning, calls, mut results } = std::mem::take(&mut self.open);
        self.messages.append(&mut results);
        if content.is_empty() && reasoning.is_empty() && calls.is_empty() {
            return;
        }
        let mut message = json!({"role": role, "content": flat(content)});
        for (name, list) in [("reasoning", reasoning), ("tool_calls", calls)] {
            if !list.is_empty() {
                message[name] = list.into();
            }
        }
        self.messages.push(message);
    }

    fn part(&mut self, mut part: Fields, turn: &mut Turn) -> Result<(), Invalid> {
        let thought = part.take("thought") == Some(true.into());
        let signature = part.text("thoughtSignature")?;
        // The client's own notes.
        part.take("partMetadata");
        let text = part.text("text")?;
        if let Some(call) = part.object("functionCall")? {
            turn.calls.push(self.call(call, signature)?);
        } else if let Some(response) = part.object("functionResponse")? {
            turn.results.push(self.result(response)?);
        } else if let Some(blob) = part.object("inlineData")? {
            turn.content.push(inline(blob)?);
        } else if let Some(file) = part.object("fileData")? {
            turn.content.push(linked(file)?);
        } else if thought || signature.is_some() {
            let said = if thought { text.as_deref().unwrap_or_default() } else { "" };
            turn.think(said, signature);
            let text = text.filter(|text| !thought && !text.is_empty());
            turn.content.extend(text.map(|text| json!({"type": "text", "text": text})));
        } else if let Some(text) = text {
            turn.content.push(json!({"type": "text", "text": text}));
        }
        // Everything else is a part of a kind that others do not have.
        turn.content.extend(part.left.into_iter().map(|(name, value)| json!({"type": name, &name: value})));
        Ok(())
    }

    fn call(&mut self, mut call: Fields, signature: Option<String>) -> Result<Value, Invalid> {
        let name = call.text("name")?.ok_or_else(|| Invalid::new(call.path("name"), "is missing"))?;
        let id = call.text("id")?.unwrap_or_else(|| format!("call_{}", self.calls));
        self.calls += 1;
        let arguments = match call.take("args") {
            None => "{}".to_owned(),
            Some(args @ Value::Object(_)) => args.to_string(),
            Some(other) => return Err(wrong(call.path("args"), "an object", &other)),
        };
        self.pending.push_back((name.clone(), id.clone()));
        let function = json!({"name": name, "arguments": arguments});
        let mut said = json!({"id": id, "type": "function", "function": function});
        if let Some(signature) = signature {
            said["signature"] = signature.into();
        }
        Ok(said)
    }

    fn result(&mut self, mut response: Fields) -> Result<Value, Invalid> {
        let name = response.text("name")?.unwrap_or_default();
        let id = response.text("id")?;
        let place = self.pending.iter().position(|(function, call)| match &id {
            Some(id) => id == call,
            None => *function == name,
        });
        let known = place.and_then(|place| self.pending.remove(place)).map(|(_, call)| call);
        let Some(id) = id.or(known) else {
            let message = format!("\"{name}\" was not called before");
            return Err(Invalid::new(response.path("name"), message));
        };
        if response.take("parts").is_some() {
            return Err(Invalid::new(response.path("parts"), "only results in JSON are supported"));
        }
        let content = match response.take("response") {
            Some(Value::Object(fields)) => result_text(fields),
            None => String::new(),
            Some(other) => return Err(wrong(response.path("response"), "an object", &other)),
        };
        Ok(json!({"role": "tool", "tool_call_id": id, "content": content}))
    }
}

impl Turn {
    /// A piece of reasoning; a signature closes its block.
    fn think(&mut self, text: &str, signature: Option<String>) {
        match self.reasoning.last_mut().filter(|block| block["signature"].is_null()) {
            Some(open) => {
                open["text"] = format!("{}{text}", open["text"].as_str().unwrap_or_default()).into();
                open["signature"] = signature.into();
            }
            None => self.reasoning.push(json!({"text": text, "signature": signature})),
        }
    }
}

/// A text that was only wrapped to be an object, by hand (`output`) or by google-genai (`result`); else the object.
fn result_text(fields: Map<String, Value>) -> String {
    let only = fields
        .iter()
        .next()
        .filter(|(name, _)| fields.len() == 1 && ["output", "result"].contains(&name.as_str()));
    match only {
        Some((_, Value::String(text))) => text.clone(),
        _ => Value::Object(fields).to_string(),
    }
}

/// One string, if it is all text.
fn flat(content: Vec<Value>) -> Value {
    match content
        .iter()
        .map(|part| part["text"].as_str().filter(|_| part["type"] == "text"))
        .collect::<Option<Vec<_>>>()
    {
        Some(texts) if texts.is_empty() => Value::Null,
        Some(texts) => texts.concat().into(),
        None => content.into(),
    }
}

fn inline(mut blob: Fields) -> Result<Value, Invalid> {
    let mime = blob.text("mimeType")?.ok_or_else(|| Invalid::new(blob.path("mimeType"), "is missing"))?;
    let data = blob.text("data")?.ok_or_else(|| Invalid::new(blob.path("data"), "is missing"))?;
    let url = |data: String| format!("data:{mime};base64,{data}");
    Ok(match mime.split_once('/') {
        Some(("image", _)) => json!({"type": "image_url", "image_url": {"url": url(data)}}),
        Some(("audio", format)) => {
            let format = match format {
                "mpeg" => "mp3",
                "x-wav" | "wave" => "wav",
                other => other,
            };
            json!({"type": "input_audio", "input_audio": {"format": format, "data": data}})
        }
        _ => {
            let mut file = json!({"file_data": url(data)});
            if let Some(name) = blob.text("displayName")? {
                file["filename"] = name.into();
            }
            json!({"type": "file", "file": file})
        }
    })
}

fn linked(mut file: Fields) -> Result<Value, Invalid> {
    let uri = file.text("fileUri")?.ok_or_else(|| Invalid::new(file.path("fileUri"), "is missing"))?;
    let image = file.text("mimeType")?.is_some_and(|mime| mime.starts_with("image/"));
    Ok(if image {
        json!({"type": "image_url", "image_url": {"url": uri}})
    } else {
        json!({"type": "file", "file": {"file_url": uri}})
    })
}

fn generation(mut config: Fields, params: &mut Map<String, Value>) -> Result<(), Invalid> {
    for (own, canonical) in RENAMED {
        params.extend(config.take(own).map(|value| (canonical.to_owned(), value)));
    }
    if let Some(mut thinking) = config.object("thinkingConfig")? {
        if let Some(level) = thinking.text("thinkingLevel")? {
            params.insert("reasoning_effort".into(), level.to_lowercase().into());
        }
        match thinking.take("thinkingBudget") {
            None => {}
            Some(budget) if budget.is_i64() => drop(params.insert("thinking_budget".into(), budget)),
            Some(other) => return Err(wrong(thinking.path("thinkingBudget"), "a whole number", &other)),
        }
    }
    let mime = config.text("responseMimeType")?;
    let schema =
        config.take("responseJsonSchema").or_else(|| Some(json_schema(&config.take("responseSchema")?)));
    match (mime.as_deref(), schema) {
        (None | Some("text/plain"), None) => {}
        (Some("application/json"), None) => {
            params.insert("response_format".into(), json!({"type": "json_object"}));
        }
        (None | Some("application/json"), Some(schema)) => {
            let schema = json!({"name": "answer", "schema": schema});
            params.insert("response_format".into(), json!({"type": "json_schema", "json_schema": schema}));
        }
        (Some(other), _) => drop(params.insert("responseMimeType".into(), other.into())),
    }
    // Text is what everyone answers with.
    if let Some(modalities) = config.take("responseModalities").filter(|asked| *asked != json!(["TEXT"])) {
        params.insert("responseModalities".into(), modalities);
    }
    params.extend(config.left);
    Ok(())
}

fn tools(fields: &mut Fields, params: &mut Map<String, Value>) -> Result<(), Invalid> {
    let mut tools = Vec::new();
    for (at, tool) in fields.list("tools")?.into_iter().flatten().enumerate() {
        let mut tool = Fields::of(format!("tools[{at}]"), tool)?;
        for (nth, function) in tool.list("functionDeclarations")?.into_iter().flatten().enumerate() {
            let function = Fields::of(format!("tools[{at}].functionDeclarations[{nth}]"), function)?;
            tools.push(json!({"type": "function", "function": declaration(function)?}));
        }
        // The hosted ones.
        let hosted = tool.left.into_iter().filter(|(_, value)| !value.is_null());
        tools.extend(hosted.map(|(name, value)| json!({"type": name, &name: value})));
    }
    if let Some(config) = fields.take("toolConfig") {
        match choice(&config, &mut tools) {
            Some(Value::Null) => {}
            Some(choice) => drop(params.insert("tool_choice".into(), choice)),
            None => drop(params.insert("toolConfig".into(), config)),
        }
    }
    if !tools.is_empty() {
        params.insert("tools".into(), tools.into());
    }
    Ok(())
}

fn declaration(mut function: Fields) -> Result<Value, Invalid> {
    let name = function.text("name")?.ok_or_else(|| Invalid::new(function.path("name"), "is missing"))?;
    let mut said = json!({"name": name});
    if let Some(description) = function.text("description")? {
        said["description"] = description.into();
    }
    let schema = function.take("parametersJsonSchema");
    if let Some(schema) = schema.or_else(|| Some(json_schema(&function.take("parameters")?))) {
        said["parameters"] = schema;
    }
    Ok(said)
}

/// The choice among tools, null for none said; None if it is not one that others have. Where only some may be called,
/// those are the tools.
fn choice(config: &Value, tools: &mut Vec<Value>) -> Option<Value> {
    let mut config = Fields::of("", config.clone()).ok()?;
    let calling = config.take("functionCallingConfig");
    if !config.left.is_empty() {
        return None;
    }
    let Some(calling) = calling else { return Some(Value::Null) };
    let mut calling = Fields::of("", calling).ok()?;
    let mode = calling.text("mode").ok()?;
    let allowed = calling.list("allowedFunctionNames").ok()?.unwrap_or_default();
    match (mode.as_deref(), allowed.as_slice()) {
        (None | Some("MODE_UNSPECIFIED"), []) => Some(Value::Null),
        (Some("AUTO"), []) => Some("auto".into()),
        (Some("NONE"), _) => Some("none".into()),
        (Some("ANY"), []) => Some("required".into()),
        (Some("ANY"), [one]) => Some(json!({"type": "function", "function": {"name": one}})),
        (Some("ANY"), several) => {
            tools.retain(|tool| several.contains(&tool["function"]["name"]));
            Some("required".into())
        }
        _ => None,
    }
}
