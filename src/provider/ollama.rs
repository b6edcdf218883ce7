//! Ollama's own API: `POST /api/chat`, answered with JSON lines, the last of which says `done`.
//!
//! No surface speaks it, so its lines are never forwarded: every event is encoded. Tool calls come whole. A request
//! that its API has no place for (URLs of images, a forced tool, a budget of tokens for thinking) is refused.
//! Source: Ollama's API documentation, `docs/api.md`.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Ask, DecodeError, Frame, Provider};
use crate::chat::asked::{Choice, Media, Params, Part, Shape};
use crate::chat::{Invalid, Message, Request};
use crate::event::{Done, Event, Status, Tool, Usage};
use crate::sse::TooLarge;

pub fn ask(request: &Request, model: &str) -> Result<Ask, Invalid> {
    let mut params = Params::of(request);
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    body.insert("messages".into(), messages(request)?.into());
    body.insert("stream".into(), request.stream.into());
    let tools = tools(&mut params)?;
    if !tools.is_empty() {
        body.insert("tools".into(), tools.into());
    }
    match params.shape()? {
        Some(Shape::Json) => body.insert("format".into(), "json".into()),
        Some(Shape::Schema { schema, .. }) => body.insert("format".into(), schema),
        Some(Shape::Text) | None => None,
    };
    if let Some(think) = think(&mut params)? {
        body.insert("think".into(), think);
    }
    let options = options(&mut params)?;
    if !options.is_empty() {
        body.insert("options".into(), options.into());
    }
    // Ollama's own names, for a client that knows whom it talks to.
    for own in ["keep_alive", "format", "think"] {
        if let Some(value) = params.take(own) {
            body.insert(own.into(), value);
        }
    }
    params.ignore(&["stream_options", "user", "metadata", "store", "service_tier"]);
    params.finish(Provider::Ollama.name())?;
    Ok(Ask::new("/api/chat", body))
}

fn messages(request: &Request) -> Result<Vec<Value>, Invalid> {
    // What a tool's answer names is the tool; what it answers to is the call's id.
    let mut names = std::collections::BTreeMap::new();
    let mut messages = Vec::new();
    for (at, message) in request.messages.iter().enumerate() {
        let calls = message.calls(at)?;
        let mut said = content(message, at)?;
        let thinking: String = message.thoughts().into_iter().map(|thought| thought.text).collect();
        if !thinking.is_empty() {
            said["thinking"] = thinking.into();
        }
        let mut whole = Vec::new();
        for (nth, call) in calls.into_iter().enumerate() {
            let text = if call.arguments.is_empty() { "{}" } else { &call.arguments };
            let arguments: Value = serde_json::from_str(text).map_err(|error| {
                Invalid::new(
                    format!("messages[{at}].tool_calls[{nth}].function.arguments"),
                    error.to_string(),
                )
            })?;
            whole.push(json!({"id": call.id, "function": {"name": call.name, "arguments": arguments}}));
            names.insert(call.id, call.name);
        }
        if !whole.is_empty() {
            said["tool_calls"] = whole.into();
        }
        if let Some(id) = message.call_id() {
            said["tool_call_id"] = id.into();
            said["tool_name"] = names.get(id).cloned().into();
        }
        messages.push(said);
    }
    Ok(messages)
}

/// A message's text, with its images beside it.
fn content(message: &Message, at: usize) -> Result<Value, Invalid> {
    let (mut text, mut images) = (String::new(), Vec::new());
    for (nth, part) in message.parts(at)?.into_iter().enumerate() {
        match part {
            Part::Text(piece) | Part::Refusal(piece) => text.push_str(&piece),
            Part::Image(Media::Inline { data, .. }) => images.push(data),
            _ => {
                let field = format!("messages[{at}].content[{nth}]");
                return Err(Invalid::new(field, "an ollama provider takes text and images in base64"));
            }
        }
    }
    let role = match message.role.as_str() {
        "developer" => "system",
        "function" => "tool",
        role => role,
    };
    let mut said = json!({"role": role, "content": text});
    if !images.is_empty() {
        said["images"] = images.into();
    }
    Ok(said)
}

fn tools(params: &mut Params) -> Result<Vec<Value>, Invalid> {
    let functions = params.functions()?;
    match params.tool_choice()? {
        None | Some(Choice::Auto) => {}
        Some(Choice::None) => return Ok(Vec::new()),
        Some(_) => {
            return Err(Invalid::new("tool_choice", "an ollama provider cannot be made to call a tool"));
        }
    }
    if params.take("parallel_tool_calls") == Some(false.into()) {
        return Err(Invalid::new(
            "parallel_tool_calls",
            "an ollama provider cannot be kept from parallel calls",
        ));
    }
    let tool = |function: crate::chat::asked::Function| {
        let parameters = function.parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}}));
        json!({"type": "function", "function": {"name": function.name,
               "description": function.description.unwrap_or_default(), "parameters": parameters}})
    };
    Ok(functions.into_iter().map(tool).collect())
}

fn think(params: &mut Params) -> Result<Option<Value>, Invalid> {
    let effort = params.take("reasoning_effort");
    let by_budget = match params.take("thinking_budget").and_then(|budget| budget.as_i64()) {
        None => None,
        Some(0) => Some(false.into()),
        Some(-1) => Some(true.into()),
        Some(_) => {
            return Err(Invalid::new(
                "thinking_budget",
                "an ollama provider takes no number of tokens for thinking",
            ));
        }
    };
    let by_effort = effort.map(|effort| match effort.as_str() {
        Some("none") => false.into(),
        Some("minimal") => "low".into(),
        _ => effort,
    });
    Ok(by_effort.or(by_budget))
}

fn options(params: &mut Params) -> Result<Map<String, Value>, Invalid> {
    let mut options = match params.take("options") {
        None => Map::new(),
        Some(Value::Object(options)) => options,
        Some(_) => return Err(Invalid::new("options", "expected an object")),
    };
    for same in ["temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty"] {
        if let Some(value) = params.take(same) {
            options.insert(same.into(), value);
        }
    }
    if let Some(most) = params.max_tokens() {
        options.insert("num_predict".into(), most.into());
    }
    let stop = params.stop();
    if !stop.is_empty() {
        options.insert("stop".into(), stop.into());
    }
    Ok(options)
}

#[derive(Deserialize)]
struct Line {
    message: Option<Said>,
    #[serde(default)]
    done: bool,
    done_reason: Option<String>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<String>,
    thinking: Option<String>,
    tool_calls: Option<Vec<Call>>,
}

#[derive(Deserialize)]
struct Call {
    id: Option<String>,
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    #[serde(default)]
    arguments: Value,
}

#[derive(Debug)]
pub struct Decoder {
    /// The unfinished line.
    line: Vec<u8>,
    state: State,
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    calls: u32,
    ended: bool,
}

impl Decoder {
    pub fn new(limit: usize) -> Decoder {
        Decoder { line: Vec::new(), state: State::default(), limit }
    }

    pub fn push(&mut self, mut bytes: &[u8], frames: &mut Vec<Frame>) -> Result<(), DecodeError> {
        while let Some(at) = memchr::memchr(b'\n', bytes) {
            self.extend(&bytes[..at])?;
            bytes = &bytes[at + 1..];
            let line = std::mem::take(&mut self.line);
            self.state.line(&line, frames)?;
        }
        self.extend(bytes)
    }

    /// The last line needs no line feed; one that is cut short is not an ending.
    pub fn finish(&mut self, frames: &mut Vec<Frame>) -> Result<(), DecodeError> {
        let line = std::mem::take(&mut self.line);
        if serde_json::from_slice::<Line>(&line).is_ok() { self.state.line(&line, frames) } else { Ok(()) }
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        if self.line.len() + bytes.len() > self.limit {
            return Err(TooLarge { limit: self.limit }.into());
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }
}

impl State {
    fn line(&mut self, line: &[u8], frames: &mut Vec<Frame>) -> Result<(), DecodeError> {
        if self.ended || line.trim_ascii().is_empty() {
            return Ok(());
        }
        let line = std::str::from_utf8(line).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        let line = super::json(line)?;
        let mut events = Vec::new();
        self.read(line, &mut events);
        if !events.is_empty() {
            frames.push(Frame { events, raw: None });
        }
        Ok(())
    }

    fn read(&mut self, line: Line, events: &mut Vec<Event>) {
        if let Some(error) = line.error.filter(|error| !error.is_null()) {
            self.ended = true;
            let message = error.as_str().map_or_else(|| error.to_string(), str::to_owned);
            events.push(Event::Done(Done::failed("upstream_error", message)));
            return;
        }
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(said) = line.message {
            events.extend(some(said.thinking).map(Event::Reasoning));
            events.extend(some(said.content).map(Event::Token));
            for call in said.tool_calls.into_iter().flatten() {
                // Ids are made here where the server makes none, the same each time.
                let id = some(call.id).unwrap_or_else(|| format!("call_{}", self.calls));
                let arguments = match call.function.arguments {
                    Value::Null => "{}".to_owned(),
                    Value::String(text) => text,
                    object => object.to_string(),
                };
                events.push(Event::Tool(Tool {
                    index: self.calls,
                    id: Some(id),
                    name: Some(call.function.name),
                    arguments: Some(arguments),
                    signature: None,
                }));
                self.calls += 1;
            }
        }
        if line.done {
            self.ended = true;
            let usage = line.eval_count.map(|output_tokens| Usage {
                // Left out when the whole prompt was cached.
                input_tokens: line.prompt_eval_count.unwrap_or_default(),
                output_tokens,
                ..Usage::default()
            });
            events.extend(usage.map(Event::Usage));
            let reason = line.done_reason.unwrap_or_else(|| "stop".into());
            let finish_reason = if reason == "stop" && self.calls > 0 { "tool_calls".into() } else { reason };
            events.push(Event::Done(Done {
                finish_reason: Some(finish_reason),
                usage,
                ..Done::ended(Status::Completed)
            }));
        }
    }
}

/// The one line of an answer that was asked without a stream.
pub fn whole(body: &[u8]) -> Result<Vec<Frame>, DecodeError> {
    let line: Line =
        serde_json::from_slice(body).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    let (mut state, mut events) = (State::default(), Vec::new());
    state.read(line, &mut events);
    if !state.ended {
        return Err(DecodeError::Malformed("an answer that is not done".into()));
    }
    Ok(vec![Frame { events, raw: None }])
}
