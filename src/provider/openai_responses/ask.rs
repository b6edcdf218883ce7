//! A request in the Responses dialect: the client's own body, or a translation.
//!
//! Translated, nothing is left with the provider (`store: false`), and reasoning comes with its proof, so that the client
//! can hand it back.

use serde_json::{Map, Value, json};

use super::super::{Ask, Provider};
use crate::chat::asked::{Choice, Function, Media, Params, Part, Shape};
use crate::chat::{Invalid, Message, Request};

const DIALECT: Provider = Provider::OpenAiResponses;
const PATH: &str = "/responses";

pub fn ask(request: &Request, model: &str) -> Result<Ask, Invalid> {
    if let Some(original) = request.verbatim(DIALECT as u8) {
        let mut body = original.body.clone();
        body.insert("model".into(), model.into());
        body.insert("stream".into(), request.stream.into());
        // We are what runs in the background: the provider's own would go on after a cancel.
        body.shift_remove("background");
        return Ok(Ask { headers: original.headers.clone(), ..Ask::new(PATH, body) });
    }
    let mut params = Params::of(request);
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    body.insert("input".into(), items(&request.messages)?.into());
    body.insert("stream".into(), request.stream.into());
    let store = params.take("store").unwrap_or(false.into());
    body.insert("store".into(), store);
    body.insert("include".into(), json!(["reasoning.encrypted_content"]));
    let tools: Vec<Value> = params.functions()?.into_iter().map(tool).collect();
    if !tools.is_empty() {
        body.insert("tools".into(), tools.into());
    }
    if let Some(choice) = params.tool_choice()? {
        body.insert("tool_choice".into(), tool_choice(choice));
    }
    if let Some(most) = params.max_tokens() {
        body.insert("max_output_tokens".into(), most.into());
    }
    let mut text = Map::new();
    if let Some(shape) = params.shape()? {
        text.insert("format".into(), format(shape));
    }
    text.extend(params.take("verbosity").map(|verbosity| ("verbosity".to_owned(), verbosity)));
    if !text.is_empty() {
        body.insert("text".into(), text.into());
    }
    if let Some(reasoning) = reasoning(&mut params) {
        body.insert("reasoning".into(), reasoning);
    }
    for same in SAME {
        body.extend(params.take(same).map(|value| (same.to_owned(), value)));
    }
    for (name, nothing) in NOTHING {
        if let Some(value) = params.take(name).filter(|value| value != nothing) {
            return Err(Invalid::new(
                name,
                format!("{value} has no counterpart in the {} dialect", DIALECT.name()),
            ));
        }
    }
    params.ignore(&["n", "stream_options"]);
    params.finish(DIALECT.name())?;
    Ok(Ask::new(PATH, body))
}

/// Parameters that are called the same.
const SAME: [&str; 10] = [
    "parallel_tool_calls",
    "temperature",
    "top_p",
    "metadata",
    "user",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "top_logprobs",
];

/// Parameters without a counterpart, and the value that asks for nothing.
const NOTHING: [(&str, bool); 1] = [("logprobs", false)];

fn tool(function: Function) -> Value {
    let mut tool = json!({"type": "function", "name": function.name});
    if let Some(description) = function.description {
        tool["description"] = description.into();
    }
    tool["parameters"] = function.parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}}));
    // Here it is on unless one says otherwise.
    tool["strict"] = function.strict.unwrap_or(false).into();
    tool
}

fn tool_choice(choice: Choice) -> Value {
    match choice {
        Choice::Auto => "auto".into(),
        Choice::None => "none".into(),
        Choice::Required => "required".into(),
        Choice::Function(name) => json!({"type": "function", "name": name}),
    }
}

fn format(shape: Shape) -> Value {
    match shape {
        Shape::Text => json!({"type": "text"}),
        Shape::Json => json!({"type": "json_object"}),
        Shape::Schema { name, schema, strict } => {
            json!({"type": "json_schema", "name": name, "schema": schema, "strict": strict.unwrap_or(false)})
        }
    }
}

/// Who gives a budget wants to see what it is spent on.
fn reasoning(params: &mut Params) -> Option<Value> {
    let (effort, budget) = (params.take("reasoning_effort"), params.take("thinking_budget"));
    let budget = budget.and_then(|budget| budget.as_i64());
    let level = match budget {
        Some(0) => Some("none"),
        Some(1..=2048) => Some("low"),
        Some(2049..=8192) => Some("medium"),
        Some(8193..) => Some("high"),
        _ => None,
    };
    let mut reasoning = Map::new();
    if let Some(effort) = effort.or(level.map(Value::from)) {
        reasoning.insert("effort".into(), effort);
    }
    if budget.is_some_and(|budget| budget != 0) {
        reasoning.insert("summary".into(), "auto".into());
    }
    (!reasoning.is_empty()).then(|| reasoning.into())
}

/// Messages as items of `input`.
pub fn items(messages: &[Message]) -> Result<Vec<Value>, Invalid> {
    let mut items = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        match message.role.as_str() {
            "assistant" => turn(at, message, &mut items)?,
            "tool" => {
                let Some(id) = message.call_id() else {
                    return Err(Invalid::new(format!("messages[{at}].tool_call_id"), "is missing"));
                };
                items.push(
                    json!({"type": "function_call_output", "call_id": id, "output": content(at, message)?}),
                );
            }
            "function" => {
                let message = "\"function\" is older than this model's provider: use tools";
                return Err(Invalid::new(format!("messages[{at}].role"), message));
            }
            role => items.push(json!({"type": "message", "role": role, "content": content(at, message)?})),
        }
    }
    Ok(items)
}

/// An assistant's turn: its reasoning, its words, its calls.
fn turn(at: usize, message: &Message, items: &mut Vec<Value>) -> Result<(), Invalid> {
    for thought in message.thoughts() {
        // Without its proof the provider does not take it back.
        let Some(proof) = thought.signature else { continue };
        let summary: Vec<Value> = Some(thought.text)
            .filter(|text| !text.is_empty())
            .into_iter()
            .map(|text| json!({"type": "summary_text", "text": text}))
            .collect();
        items.push(json!({"type": "reasoning", "summary": summary, "encrypted_content": proof}));
    }
    let mut content = Vec::new();
    for (nth, part) in message.parts(at)?.into_iter().enumerate() {
        content.push(match part {
            Part::Text(text) if text.is_empty() => continue,
            Part::Text(text) => json!({"type": "output_text", "text": text}),
            Part::Refusal(text) => json!({"type": "refusal", "refusal": text}),
            _ => {
                let field = format!("messages[{at}].content[{nth}]");
                return Err(Invalid::new(field, "only text can stand here"));
            }
        });
    }
    if !content.is_empty() {
        items.push(json!({"type": "message", "role": "assistant", "content": content}));
    }
    for call in message.calls(at)? {
        items.push(json!({"type": "function_call", "call_id": call.id, "name": call.name,
                          "arguments": call.arguments}));
    }
    Ok(())
}

/// What is not the assistant's: text as it is, or parts.
fn content(at: usize, message: &Message) -> Result<Value, Invalid> {
    if let Value::String(text) = &message.content {
        return Ok(text.as_str().into());
    }
    let parts = message.parts(at)?.into_iter().enumerate();
    let parts = parts.map(|(nth, part)| {
        input(part).map_err(|message| Invalid::new(format!("messages[{at}].content[{nth}]"), message))
    });
    Ok(parts.collect::<Result<Vec<_>, _>>()?.into())
}

fn input(part: Part) -> Result<Value, &'static str> {
    Ok(match part {
        Part::Text(text) | Part::Refusal(text) => json!({"type": "input_text", "text": text}),
        Part::Image(Media::Id(id)) => json!({"type": "input_image", "detail": "auto", "file_id": id}),
        Part::Image(media) => json!({"type": "input_image", "detail": "auto", "image_url": url(media)}),
        Part::Audio { .. } => return Err("audio has no counterpart in the openai-responses dialect"),
        Part::File { name, media } => {
            let mut file = match media {
                Media::Id(id) => json!({"type": "input_file", "file_id": id}),
                Media::Url(url) => json!({"type": "input_file", "file_url": url}),
                inline => {
                    let name = name.as_deref().unwrap_or("file");
                    json!({"type": "input_file", "filename": name, "file_data": url(inline)})
                }
            };
            if let (Some(name), true) = (name, file["file_data"].is_string()) {
                file["filename"] = name.into();
            }
            file
        }
    })
}

fn url(media: Media) -> String {
    match media {
        Media::Inline { mime, data } => format!("data:{mime};base64,{data}"),
        Media::Url(text) | Media::Id(text) => text,
    }
}
