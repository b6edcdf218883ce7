//! The canonical request: a model, messages, and whatever else was asked, in OpenAI's names.
//!
//! Unknown fields ride along in `params`, so that a provider's newest option needs no release of ours. Known
//! fields are checked here once, for every surface. Pure: values in, values out.
//!
//! `params`, where they differ from Chat Completions: `top_k` (Anthropic, Gemini, Ollama); `thinking_budget`, tokens for
//! reasoning, 0 for none, -1 for as many as it likes; `max_completion_tokens` is `max_tokens`. Messages: an assistant's
//! `reasoning` is a list of `{text, signature?, redacted?}`, a tool call may have a `signature`.

pub mod asked;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A field that does not have the type or range it must have; `field` is a path such as `messages[1].role`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{field}: {message}")]
pub struct Invalid {
    pub field: String,
    pub message: String,
}

impl Invalid {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Invalid {
        Invalid { field: field.into(), message: message.into() }
    }
}

/// One turn. `content` is text or a list of parts; tool calls, names and ids are in `rest`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    #[serde(default)]
    pub content: Value,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Message {
    pub fn new(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into(), rest: Map::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// As the client named it: `provider/model`, an alias, or a bare name.
    pub model: String,
    pub messages: Vec<Message>,
    /// The provider is asked for a stream; off only for clients that want one JSON answer.
    pub stream: bool,
    /// Everything else that was asked: sampling, tools, provider options.
    pub params: Map<String, Value>,
    /// What its client wrote, if that was another dialect than Chat Completions.
    pub original: Option<Original>,
    /// Why only a provider of the client's own dialect can be asked this.
    pub untranslatable: Option<Invalid>,
}

/// A request as its client wrote it. A provider of the same dialect is sent this rather than a translation, so that
/// what we do not know of survives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Original {
    /// As a number of the provider module.
    pub dialect: u8,
    pub body: Map<String, Value>,
    /// The dialect's own request headers, such as `anthropic-beta`.
    pub headers: Vec<(String, String)>,
}

/// Asks for the rest of an answer, of a model that cannot be given its beginning.
const GO_ON: &str = "Your answer was cut off. Go on exactly where it stopped, without repeating anything and without a \
                     word about the interruption.";

/// A message's text and role must be readable, all else is the provider's business.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

impl Request {
    /// Checks `messages` and the known ones among `params`.
    pub fn new(
        model: String,
        messages: Value,
        params: Map<String, Value>,
        stream: bool,
    ) -> Result<Request, Invalid> {
        let Value::Array(items) = messages else {
            return Err(Invalid::new(
                "messages",
                format!("expected a list of messages, got {}", kind(&messages)),
            ));
        };
        if items.is_empty() {
            return Err(Invalid::new("messages", "at least one message is needed"));
        }
        let messages = items
            .into_iter()
            .enumerate()
            .map(|(at, item)| message(at, item))
            .collect::<Result<Vec<_>, _>>()?;
        check_params(&params)?;
        Ok(Request { model, messages, stream, params, original: None, untranslatable: None })
    }

    /// The request that goes on with an answer which broke off after `text`, of about `tokens` tokens. With `prefill` the
    /// text is the model's own, to be gone on with; without it the model is told so.
    pub fn gone_on(&self, text: &str, tokens: u64, prefill: bool) -> Request {
        let mut request = Request { original: None, ..self.clone() };
        request.messages.push(Message::new("assistant", text));
        if !prefill {
            request.messages.push(Message::new("user", GO_ON));
        }
        for name in ["max_tokens", "max_completion_tokens"] {
            if let Some(most) = request.params.get(name).and_then(Value::as_u64) {
                request.params.insert(name.into(), most.saturating_sub(tokens).max(1).into());
            }
        }
        request
    }

    /// The client's own body, if it is of this dialect (a number of the provider module).
    pub fn verbatim(&self, dialect: u8) -> Option<&Original> {
        self.original.as_ref().filter(|original| original.dialect == dialect)
    }

    /// The same request gives the same text, whatever the order of its fields was.
    pub fn fingerprint(&self) -> String {
        let mut text = String::new();
        let original = self.original.as_ref().map(|original| (&original.body, &original.headers));
        let value = json!({"model": self.model, "messages": self.messages, "stream": self.stream, "params": self.params,
                           "original": original});
        canonical(&value, &mut text);
        text
    }
}

fn message(at: usize, item: Value) -> Result<Message, Invalid> {
    let Value::Object(mut fields) = item else {
        return Err(Invalid::new(
            format!("messages[{at}]"),
            format!("expected an object, got {}", kind(&item)),
        ));
    };
    let role = match fields.shift_remove("role") {
        Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role,
        Some(Value::String(role)) => {
            return Err(Invalid::new(
                format!("messages[{at}].role"),
                format!("\"{role}\" is not one of {}", ROLES.join(", ")),
            ));
        }
        Some(other) => {
            return Err(Invalid::new(
                format!("messages[{at}].role"),
                format!("expected a string, got {}", kind(&other)),
            ));
        }
        None => return Err(Invalid::new(format!("messages[{at}].role"), "is missing")),
    };
    let content = fields.shift_remove("content").unwrap_or(Value::Null);
    match &content {
        Value::String(_) | Value::Null => {}
        Value::Array(parts) => {
            if let Some(bad) = parts.iter().position(|part| !part.is_object()) {
                return Err(Invalid::new(format!("messages[{at}].content[{bad}]"), "expected an object"));
            }
        }
        other => {
            return Err(Invalid::new(
                format!("messages[{at}].content"),
                format!("expected a string or a list of parts, got {}", kind(other)),
            ));
        }
    }
    Ok(Message { role, content, rest: fields })
}

/// The known parameters and what they must be.
pub fn check_params(params: &Map<String, Value>) -> Result<(), Invalid> {
    let range = |field: &str, low: f64, high: f64| match params.get(field) {
        None | Some(Value::Null) => Ok(()),
        Some(value) => match value.as_f64() {
            Some(number) if (low..=high).contains(&number) => Ok(()),
            Some(number) => Err(Invalid::new(field, format!("{number} is not between {low} and {high}"))),
            None => Err(Invalid::new(field, format!("expected a number, got {}", kind(value)))),
        },
    };
    let is = |field: &str, expected: &str, test: fn(&Value) -> bool| match params.get(field) {
        None | Some(Value::Null) => Ok(()),
        Some(value) if test(value) => Ok(()),
        Some(value) => Err(Invalid::new(field, format!("expected {expected}, got {}", kind(value)))),
    };
    range("temperature", 0.0, 2.0)?;
    range("top_p", 0.0, 1.0)?;
    range("frequency_penalty", -2.0, 2.0)?;
    range("presence_penalty", -2.0, 2.0)?;
    for field in ["max_tokens", "max_completion_tokens", "top_logprobs"] {
        is(field, "a whole number", Value::is_u64)?;
    }
    is("seed", "a whole number", |value| value.is_i64() || value.is_u64())?;
    is("tools", "a list of objects", |value| {
        value.as_array().is_some_and(|list| list.iter().all(Value::is_object))
    })?;
    is("tool_choice", "a string or an object", |value| value.is_string() || value.is_object())?;
    is("response_format", "an object", Value::is_object)?;
    is("logit_bias", "an object", Value::is_object)?;
    is("stop", "a string or a list of strings", |value| {
        value.is_string() || value.as_array().is_some_and(|list| list.iter().all(Value::is_string))
    })?;
    match params.get("n") {
        None | Some(Value::Null) => Ok(()),
        Some(value) if value.as_u64() == Some(1) => Ok(()),
        Some(_) => Err(Invalid::new("n", "only one choice per request is supported: a stream is one answer")),
    }
}

/// How a JSON value is called in an error message.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// JSON with sorted keys, nulls of objects left out: absent and null ask for the same.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            keys.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (key, value) in keys {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}
