//! The canonical request as a `GenerateContentRequest`.
//!
//! System and developer messages, wherever they stand, are the one `systemInstruction` that there is. What this dialect
//! has no word for is refused; labels that change nothing about the answer are left out.
//! Source: Google's API reference (v1beta), its guides "Thinking", "Thought signatures" and "OpenAI compatibility", and
//! google-genai 3.4.0's types.

use serde_json::{Map, Value, json};

use super::super::Ask;
use crate::chat::asked::{Call, Choice, Media, Params, Part, Shape};
use crate::chat::{Invalid, Message, Request};

pub fn ask(request: &Request, model: &str) -> Result<Ask, Invalid> {
    let verb = if request.stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
    let path = path(model, verb)?;
    if let Some(original) = request.verbatim(super::Provider::Gemini as u8) {
        let mut body = original.body.clone();
        // Said by the path.
        body.shift_remove("model");
        return Ok(Ask { headers: original.headers.clone(), ..Ask::new(path, body) });
    }
    let mut body = Map::new();
    let said = Said::of(&request.messages, signs(model))?;
    if !said.system.is_empty() {
        body.insert("systemInstruction".into(), json!({"parts": said.system}));
    }
    body.insert("contents".into(), said.contents.into());
    options(request, model, &mut body)?;
    Ok(Ask::new(path, body))
}

/// The same `body` to another method of the model: what its client wrote, passed on.
pub fn count(mut body: Map<String, Value>, model: &str) -> Result<Ask, Invalid> {
    let path = path(model, "countTokens")?;
    body.shift_remove("model");
    if let Some(inner) = body.get_mut("generateContentRequest").and_then(Value::as_object_mut) {
        inner.insert("model".into(), resource(model).into());
    }
    Ok(Ask::new(path, body))
}

/// A model's name with its collection, such as `models/gemini-3-pro` or `tunedModels/mine`.
fn resource(model: &str) -> String {
    if model.contains('/') { model.to_owned() } else { format!("models/{model}") }
}

fn path(model: &str, verb: &str) -> Result<String, Invalid> {
    let plain = |part: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@:+".contains(&byte);
        part.bytes().all(good) && !part.trim_matches('.').is_empty()
    };
    let name = resource(model);
    if !name.split('/').all(plain) {
        return Err(Invalid::new("model", format!("\"{model}\" cannot be the name of a Gemini model")));
    }
    Ok(format!("/v1beta/{name}:{verb}"))
}

/// Models that think by levels and want their function calls signed: Gemini 3 and what comes after it.
fn signs(model: &str) -> bool {
    !["gemini-1", "gemini-2", "gemma-"].iter().any(|old| model.trim_start_matches("models/").starts_with(old))
}

/// Stands for the signature of a call that no Gemini model made: Google's own word for histories of other models.
const UNSIGNED: &str = "skip_thought_signature_validator";

/// The messages, in this dialect.
struct Said {
    system: Vec<Value>,
    contents: Vec<Value>,
}

impl Said {
    fn of(messages: &[Message], signs: bool) -> Result<Said, Invalid> {
        let mut said = Said { system: Vec::new(), contents: Vec::new() };
        // Results name their function; what other dialects name is the call, the latest of that id.
        let mut names: Map<String, Value> = Map::new();
        let mut answering = false;
        for (at, message) in messages.iter().enumerate() {
            let result = message.role == "tool" || message.role == "function";
            let parts = match message.role.as_str() {
                "system" | "developer" => {
                    said.system.push(json!({"text": message.text(at)?}));
                    continue;
                }
                "assistant" => {
                    let calls = message.calls(at)?;
                    names.extend(calls.iter().map(|call| (call.id.clone(), call.name.clone().into())));
                    model(message, at, calls, signs)?
                }
                _ if result => vec![response(message, at, &names)?],
                _ => message.parts(at)?.into_iter().map(|part| user(part, at)).collect::<Result<_, _>>()?,
            };
            // The results of calls that were made together belong together.
            if let (true, true, Some(last)) = (result, answering, said.contents.last_mut()) {
                if let Some(earlier) = last["parts"].as_array_mut() {
                    earlier.extend(parts);
                }
            } else if !parts.is_empty() {
                let role = if message.role == "assistant" { "model" } else { "user" };
                said.contents.push(json!({"role": role, "parts": parts}));
            }
            answering = result;
        }
        if said.contents.is_empty() {
            return Err(Invalid::new(
                "messages",
                "this model's provider needs one that is not a system message",
            ));
        }
        Ok(said)
    }
}

/// An assistant's turn: thoughts, text, calls.
fn model(message: &Message, at: usize, calls: Vec<Call>, signs: bool) -> Result<Vec<Value>, Invalid> {
    for name in ["function_call", "audio"] {
        if message.rest.get(name).is_some_and(|value| !value.is_null()) {
            let field = format!("messages[{at}].{name}");
            return Err(Invalid::new(field, "cannot be translated for this model's provider"));
        }
    }
    let mut parts = Vec::new();
    for thought in message.thoughts().into_iter().filter(|thought| !thought.redacted) {
        parts.push(signed(json!({"text": thought.text, "thought": true}), thought.signature));
    }
    let text = message.text(at)?;
    let refusal = message.rest.get("refusal").and_then(Value::as_str).unwrap_or_default();
    parts.extend(
        [text.as_str(), refusal]
            .into_iter()
            .filter(|text| !text.is_empty())
            .map(|text| json!({"text": text})),
    );
    for (nth, call) in calls.into_iter().enumerate() {
        let args = match call.arguments.trim() {
            "" => json!({}),
            text => serde_json::from_str(text).ok().filter(Value::is_object).ok_or_else(|| {
                let field = format!("messages[{at}].tool_calls[{nth}].function.arguments");
                Invalid::new(field, "is not a JSON object")
            })?,
        };
        let mut said = json!({"name": call.name, "args": args});
        if !call.id.is_empty() {
            said["id"] = call.id.into();
        }
        // Of calls made together the first one is signed.
        let placeholder = || (signs && nth == 0).then(|| UNSIGNED.to_owned());
        parts.push(signed(json!({"functionCall": said}), call.signature.or_else(placeholder)));
    }
    Ok(parts)
}

fn signed(mut part: Value, signature: Option<String>) -> Value {
    if let Some(signature) = signature {
        part["thoughtSignature"] = signature.into();
    }
    part
}

/// A function's result: its JSON object, or its text as `output`.
fn response(message: &Message, at: usize, names: &Map<String, Value>) -> Result<Value, Invalid> {
    let text = message.text(at)?;
    let id = message.call_id().unwrap_or_default();
    let own = message.rest.get("name").and_then(Value::as_str);
    let Some(name) = names.get(id).and_then(Value::as_str).or(own) else {
        return Err(Invalid::new(
            format!("messages[{at}].tool_call_id"),
            "answers no call that was made before it",
        ));
    };
    let object: Option<Value> = serde_json::from_str(&text).ok().filter(Value::is_object);
    let mut said = json!({"name": name, "response": object.unwrap_or_else(|| json!({"output": text}))});
    if !id.is_empty() {
        said["id"] = id.into();
    }
    Ok(json!({"functionResponse": said}))
}

/// A part of a user's turn.
fn user(part: Part, at: usize) -> Result<Value, Invalid> {
    Ok(match part {
        Part::Text(text) | Part::Refusal(text) => json!({"text": text}),
        Part::Image(media) | Part::File { media, .. } => match media {
            Media::Inline { mime, data } => json!({"inlineData": {"mimeType": mime, "data": data}}),
            Media::Url(url) => match mime(&url) {
                Some(mime) => json!({"fileData": {"mimeType": mime, "fileUri": url}}),
                None => json!({"fileData": {"fileUri": url}}),
            },
            Media::Id(_) => {
                let message = "a file that another provider keeps cannot be sent to this one";
                return Err(Invalid::new(format!("messages[{at}].content"), message));
            }
        },
        Part::Audio { format, data } => {
            json!({"inlineData": {"mimeType": format!("audio/{format}"), "data": data}})
        }
    })
}

/// What a URL's name says it is.
fn mime(url: &str) -> Option<&'static str> {
    let name = url.split(['?', '#']).next()?.rsplit('/').next()?;
    Some(match name.rsplit_once('.')?.1.to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "heic" => "image/heic",
        "pdf" => "application/pdf",
        "txt" => "text/plain",
        "mp3" => "audio/mp3",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        _ => return None,
    })
}

/// What stands in `generationConfig` under another name.
const RENAMED: [(&str, &str); 7] = [
    ("temperature", "temperature"),
    ("top_p", "topP"),
    ("top_k", "topK"),
    ("seed", "seed"),
    ("presence_penalty", "presencePenalty"),
    ("frequency_penalty", "frequencyPenalty"),
    ("top_logprobs", "logprobs"),
];

/// The dialect's own fields, which its clients and those of the native API may give by name.
const OWN: [&str; 4] = ["safetySettings", "cachedContent", "labels", "serviceTier"];

/// What says who asks, or where an answer may be kept: nothing that it depends on.
const LABELS: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "stream_options",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "n",
];

fn options(request: &Request, model: &str, body: &mut Map<String, Value>) -> Result<(), Invalid> {
    let mut params = Params::of(request);
    params.ignore(&LABELS);
    let mut config = Map::new();
    for (name, own) in RENAMED {
        config.extend(params.take(name).map(|value| (own.to_owned(), value)));
    }
    config.extend(params.max_tokens().map(|limit| ("maxOutputTokens".to_owned(), limit.into())));
    let stop = params.stop();
    if !stop.is_empty() {
        config.insert("stopSequences".into(), stop.into());
    }
    if params.take("logprobs") == Some(true.into()) {
        config.insert("responseLogprobs".into(), true.into());
    }
    match params.shape()? {
        None | Some(Shape::Text) => {}
        Some(Shape::Json) => drop(config.insert("responseMimeType".into(), "application/json".into())),
        Some(Shape::Schema { schema, .. }) => {
            config.insert("responseMimeType".into(), "application/json".into());
            config.insert("responseJsonSchema".into(), schema);
        }
    }
    config.extend(thinking(&mut params, model)?.map(|thinking| ("thinkingConfig".to_owned(), thinking)));
    if !config.is_empty() {
        body.insert("generationConfig".into(), config.into());
    }
    tools(&mut params, body)?;
    for name in OWN {
        body.extend(params.take(name).map(|value| (name.to_owned(), value)));
    }
    // Asking for what is the case anyway.
    let usual = [
        ("parallel_tool_calls", json!(true)),
        ("service_tier", json!("auto")),
        ("modalities", json!(["text"])),
    ];
    for (name, value) in usual {
        if let Some(other) = params.take(name).filter(|asked| *asked != value) {
            return Err(Invalid::new(name, format!("{other} has no counterpart in the gemini dialect")));
        }
    }
    params.finish("gemini")
}

/// Thoughts are asked for along with the thinking: who wants it wants to see it.
fn thinking(params: &mut Params, model: &str) -> Result<Option<Value>, Invalid> {
    let (budget, effort) = (params.take("thinking_budget"), params.take("reasoning_effort"));
    if let Some(budget) = budget {
        return Ok(Some(json!({"thinkingBudget": budget, "includeThoughts": budget != 0})));
    }
    let Some(effort) = effort else { return Ok(None) };
    // Levels are for Gemini 3; before it there were budgets, which Google itself pairs with OpenAI's levels like this.
    let budget = match effort.as_str() {
        Some("none") => return Ok(Some(json!({"thinkingBudget": 0, "includeThoughts": false}))),
        Some("minimal" | "low") => 1024,
        Some("medium") => 8192,
        Some("high" | "xhigh") => 24576,
        _ => {
            let message = format!("{effort} is not one of none, minimal, low, medium, high, xhigh");
            return Err(Invalid::new("reasoning_effort", message));
        }
    };
    Ok(Some(if signs(model) {
        let level = effort.as_str().unwrap_or_default().to_uppercase();
        json!({"thinkingLevel": level, "includeThoughts": true})
    } else {
        json!({"thinkingBudget": budget, "includeThoughts": true})
    }))
}

fn tools(params: &mut Params, body: &mut Map<String, Value>) -> Result<(), Invalid> {
    let functions = params.functions()?;
    let strict = functions.iter().any(|function| function.strict == Some(true));
    let declarations: Vec<Value> = functions
        .into_iter()
        .map(|function| {
            let mut said = json!({"name": function.name});
            if let Some(description) = function.description {
                said["description"] = description.into();
            }
            if let Some(schema) = function.parameters {
                said["parametersJsonSchema"] = schema;
            }
            said
        })
        .collect();
    if !declarations.is_empty() {
        body.insert("tools".into(), json!([{"functionDeclarations": declarations}]));
    }
    let calling = match params.tool_choice()? {
        // Held to the schema, and free to call nothing.
        None | Some(Choice::Auto) if strict => json!({"mode": "VALIDATED"}),
        None => return Ok(()),
        Some(Choice::Auto) => json!({"mode": "AUTO"}),
        Some(Choice::None) => json!({"mode": "NONE"}),
        Some(Choice::Required) => json!({"mode": "ANY"}),
        Some(Choice::Function(name)) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
    };
    body.insert("toolConfig".into(), json!({"functionCallingConfig": calling}));
    Ok(())
}
