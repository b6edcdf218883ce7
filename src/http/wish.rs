//! What a client wants generated, read from the native API's body.

use axum::http::HeaderMap;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::extract::session_name;
use crate::app::App;
use crate::app::start::Wish;
use crate::chat::{Message, Request, kind};
use crate::prompts;
use crate::relay::running::OnDisconnect;

/// Reads `{model, messages | input | prompt + variables, session?, on_disconnect?, metadata?, …sampling, tools}`.
pub fn read(app: &App, mut fields: Map<String, Value>, headers: &HeaderMap) -> Result<Wish, ApiError> {
    let session = text(&mut fields, "session")?;
    let on_disconnect = text(&mut fields, "on_disconnect")?;
    let metadata = match fields.shift_remove("metadata") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(metadata)) if json_len(&metadata) <= METADATA_BYTES => metadata,
        Some(Value::Object(_)) => {
            return Err(ApiError::invalid("metadata", format!("is larger than {METADATA_BYTES} bytes")));
        }
        Some(other) => {
            return Err(ApiError::invalid("metadata", format!("expected an object, got {}", kind(&other))));
        }
    };
    let model = text(&mut fields, "model")?;
    fields.shift_remove("stream");
    let prompted = fields.get("prompt").is_some_and(|prompt| !prompt.is_null());
    let (model, messages, params) = said(app, model, fields)?;
    let model = match model.or_else(|| app.settings.load().routes.default_model().map(str::to_owned)) {
        Some(model) => model,
        None => return Err(ApiError::invalid("model", "is missing")),
    };
    let request = Request::new(model, messages, params, true)?;
    Ok(Wish { prompted, ..wish(request, session, on_disconnect, metadata, headers)? })
}

/// Puts the parts together; session and policy are checked here for every way in.
pub fn wish(
    request: Request,
    session: Option<String>,
    on_disconnect: Option<String>,
    metadata: Map<String, Value>,
    headers: &HeaderMap,
) -> Result<Wish, ApiError> {
    if let Some(name) = &session {
        session_name("session", name)?;
    }
    let on_disconnect = match on_disconnect {
        None => OnDisconnect::Detach,
        Some(policy) => OnDisconnect::parse(&policy).ok_or_else(|| {
            ApiError::invalid(
                "on_disconnect",
                format!("\"{policy}\" is not detach, grace:<seconds> or cancel"),
            )
        })?,
    };
    let key = headers.get("idempotency-key").map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned());
    let idempotency_key = key.map(idempotency_key).transpose()?;
    let cache = match headers.get("x-cache").map(|value| value.as_bytes()) {
        None => None,
        Some(b"on") => Some(true),
        Some(b"off") => Some(false),
        Some(_) => return Err(ApiError::bad_request("x-cache must be on or off")),
    };
    Ok(Wish {
        request,
        prompted: false,
        session,
        on_disconnect,
        metadata,
        idempotency_key,
        cache,
        message: None,
        response: None,
        conversation: None,
        known_as: None,
        goes_on: None,
    })
}

pub fn idempotency_key(key: String) -> Result<String, ApiError> {
    let long = || ApiError::bad_request("an idempotency key must have 1 to 255 characters");
    if (1..=255).contains(&key.len()) { Ok(key) } else { Err(long()) }
}

/// What a client may leave with a stream, in bytes of JSON.
const METADATA_BYTES: usize = 16 * 1024;

fn json_len(fields: &Map<String, Value>) -> usize {
    serde_json::to_vec(fields).map_or(usize::MAX, |text| text.len())
}

type Said = (Option<String>, Value, Map<String, Value>);

/// The messages, from whichever of the three ways to give them was used.
fn said(app: &App, model: Option<String>, mut fields: Map<String, Value>) -> Result<Said, ApiError> {
    let (messages, input) = (fields.shift_remove("messages"), fields.shift_remove("input"));
    let prompt = text(&mut fields, "prompt")?;
    let variables = fields.shift_remove("variables");
    if prompt.is_none() && variables.is_some() {
        return Err(ApiError::invalid("variables", "are for a prompt, and none is named"));
    }
    match (messages, input, prompt) {
        (messages, None, Some(name)) => {
            let variables = match variables {
                None | Some(Value::Null) => Map::new(),
                Some(Value::Object(variables)) => variables,
                Some(other) => {
                    return Err(ApiError::invalid(
                        "variables",
                        format!("expected an object, got {}", kind(&other)),
                    ));
                }
            };
            let history = history(messages)?;
            let rendered = app.settings.load().prompts.render(&name, &variables, &history)?;
            let mut params = rendered.config;
            params.extend(fields);
            let messages: Vec<Message> = rendered
                .messages
                .iter()
                .map(|message| Message::new(&message.role, &message.content))
                .collect();
            Ok((model.or(rendered.model), serde_json::json!(messages), params))
        }
        (Some(messages), None, None) => Ok((model, messages, fields)),
        (None, Some(Value::String(input)), None) => {
            Ok((model, serde_json::json!([{"role": "user", "content": input}]), fields))
        }
        (None, Some(input), None) => Ok((model, input, fields)),
        (None, None, None) => {
            Err(ApiError::invalid("messages", "one of messages, input or prompt is needed"))
        }
        _ => Err(ApiError::invalid("input", "give only one of messages, input and prompt")),
    }
}

/// Earlier turns for a prompt's `{{history}}`: text only, and nobody but the two speakers.
fn history(messages: Option<Value>) -> Result<Vec<prompts::Message>, ApiError> {
    let Some(messages) = messages.filter(|messages| !messages.is_null()) else { return Ok(Vec::new()) };
    let request = Request::new(String::new(), messages, Map::new(), true)?;
    let turn = |(at, message): (usize, Message)| match (message.role.as_str(), message.content) {
        ("user" | "assistant", Value::String(content)) => {
            Ok(prompts::Message { role: message.role, content })
        }
        ("user" | "assistant", _) => {
            Err(ApiError::invalid(format!("messages[{at}].content"), "expected a string"))
        }
        _ => Err(ApiError::invalid(
            format!("messages[{at}].role"),
            "beside a prompt only user and assistant may speak",
        )),
    };
    request.messages.into_iter().enumerate().map(turn).collect()
}

fn text(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, ApiError> {
    match fields.shift_remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(ApiError::invalid(name, format!("expected a string, got {}", kind(&other)))),
    }
}
