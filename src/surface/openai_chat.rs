//! OpenAI Chat Completions towards clients.
//!
//! Frames of a provider of the same dialect are forwarded byte for byte under our ids; everything else is encoded
//! from the canonical events. Never more data events than OpenAI would send: SDKs yield them to the program.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::Format;
use crate::chat::{Invalid, Request, kind};
use crate::event::{Done, Event, Kind, Start, Status, Usage};
use crate::log::transcript::Transcript;
use crate::log::{EventId, Framing, LogId, Record};
use crate::sse;

/// What raw frames of this dialect carry, see `provider::Provider`.
pub(super) const DIALECT: u8 = 1;

/// The request as its client wrote it: this dialect's names are the canonical ones.
pub fn read(mut fields: Map<String, Value>) -> Result<Request, Invalid> {
    let wrong = |field: &str, expected: &str, got: &Value| {
        Err(Invalid::new(field, format!("expected {expected}, got {}", kind(got))))
    };
    let model = match fields.shift_remove("model") {
        Some(Value::String(model)) => model,
        None => return Err(Invalid::new("model", "is missing")),
        Some(other) => return wrong("model", "a string", &other),
    };
    let stream = match fields.shift_remove("stream") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(stream)) => stream,
        Some(other) => return wrong("stream", "a boolean", &other),
    };
    let messages = fields.shift_remove("messages").ok_or_else(|| Invalid::new("messages", "is missing"))?;
    Request::new(model, messages, fields, stream)
}

#[derive(Debug)]
pub struct Encoder {
    format: Format,
    log: LogId,
    start: Option<Start>,
    said_role: bool,
    /// The first frames that were forwarded. They name the answer, for when something of ours goes on with it.
    forwarded: Option<Bytes>,
    /// `id`, `created` and `model` of each chunk of ours.
    name: Option<Value>,
}

impl Encoder {
    pub fn new(format: Format, log: LogId) -> Encoder {
        Encoder { format, log, start: None, said_role: false, forwarded: None, name: None }
    }

    pub fn encode(&mut self, record: &Record, out: &mut Vec<u8>) {
        match &record.draft.framing {
            Framing::Raw(raw) if raw.dialect == DIALECT => {
                self.said_role = true;
                if self.forwarded.is_none() {
                    self.forwarded = Some(raw.bytes.clone());
                }
                super::forward(out, raw, self.id(record), self.format.usage);
            }
            // Its frame follows.
            Framing::Part(DIALECT) => {}
            _ => {
                let event =
                    Kind::from_u8(record.draft.kind).map(|kind| Event::parse(kind, &record.draft.payload));
                if let Some(Ok(event)) = event {
                    self.event(record, event, out);
                }
            }
        }
    }

    fn id(&self, record: &Record) -> Option<EventId> {
        self.format.ids.then_some(EventId { log: self.log, position: record.position })
    }

    fn event(&mut self, record: &Record, event: Event, out: &mut Vec<u8>) {
        let delta = match event {
            Event::Start(start) => {
                self.start = Some(start);
                return;
            }
            Event::Token(text) => json!({"content": text}),
            Event::Refusal(text) => json!({"refusal": text}),
            Event::Reasoning(text) => json!({"reasoning_content": text}),
            Event::Tool(tool) => {
                let mut call = json!({"index": tool.index, "function": {}});
                if let Some(id) = tool.id {
                    call["id"] = id.into();
                    call["type"] = "function".into();
                }
                if let Some(name) = tool.name {
                    call["function"]["name"] = name.into();
                }
                call["function"]["arguments"] = tool.arguments.unwrap_or_default().into();
                if let Some(signature) = tool.signature {
                    call["extra_content"] = json!({"google": {"thought_signature": signature}});
                }
                json!({"tool_calls": [call]})
            }
            // Said once, with the ending; proofs of reasoning have no place here.
            Event::Usage(_) | Event::Notice(_) | Event::Signature(_) => return,
            Event::Done(done) => return self.done(record, &done, out),
        };
        self.chunk(record, delta, None, out);
    }

    fn done(&mut self, record: &Record, done: &Done, out: &mut Vec<u8>) {
        let id = self.id(record);
        let id = id.as_ref().map(|id| id as _);
        if done.status != Status::Completed {
            sse::write(out, id, "", None, failure(done).to_string().as_bytes());
            return;
        }
        self.chunk(record, json!({}), Some(done.finish_reason.as_deref().unwrap_or("stop")), out);
        if let (true, Some(usage)) = (self.format.usage, done.usage) {
            let mut chunk = self.envelope();
            chunk["choices"] = json!([]);
            chunk["usage"] = counts(usage);
            sse::write(out, None, "", None, chunk.to_string().as_bytes());
        }
        sse::write(out, id, "", None, b"[DONE]");
    }

    fn chunk(&mut self, record: &Record, mut delta: Value, finish_reason: Option<&str>, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.said_role, true) {
            delta["role"] = "assistant".into();
        }
        let mut chunk = self.envelope();
        chunk["choices"] = json!([{"index": 0, "delta": delta, "finish_reason": finish_reason}]);
        // The finish chunk comes right before the ending, which carries the id of both.
        let id = self.id(record).filter(|_| finish_reason.is_none());
        sse::write(out, id.as_ref().map(|id| id as _), "", None, chunk.to_string().as_bytes());
    }

    fn envelope(&mut self) -> Value {
        let (forwarded, log, start) = (&self.forwarded, self.log, &self.start);
        let name = self.name.get_or_insert_with(|| {
            forwarded.as_deref().and_then(name).unwrap_or_else(|| {
                json!({"id": format!("chatcmpl-{log}"), "object": "chat.completion.chunk",
                       "created": start.as_ref().map_or(0, |start| start.created_at),
                       "model": start.as_ref().map_or("", |start| &start.model)})
            })
        });
        name.clone()
    }
}

/// How a provider's first frames name its answer. Some (Azure) send one without a name before it.
fn name(bytes: &[u8]) -> Option<Value> {
    let (mut parser, mut found) = (sse::Parser::new(bytes.len() + 1), None);
    let _fits = parser.feed(bytes, |frame| {
        let said: Value = serde_json::from_str(&frame.data).unwrap_or_default();
        if found.is_none() && said["id"].as_str().is_some_and(|id| !id.is_empty()) {
            found =
                Some(json!({"id": said["id"], "object": "chat.completion.chunk", "created": said["created"],
                                "model": said["model"]}));
        }
    });
    found
}

fn counts(usage: Usage) -> Value {
    let mut counts = json!({"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens,
                            "total_tokens": usage.input_tokens + usage.output_tokens});
    if let Some(cached) = usage.cached_tokens {
        counts["prompt_tokens_details"] = json!({"cached_tokens": cached});
    }
    if let Some(reasoning) = usage.reasoning_tokens {
        counts["completion_tokens_details"] = json!({"reasoning_tokens": reasoning});
    }
    counts
}

/// The `error` object that makes every OpenAI SDK raise.
fn failure(done: &Done) -> Value {
    let (code, message) = match (&done.error, done.status) {
        (Some(error), _) => (error.code.clone(), error.message.clone()),
        (None, status) => (status.as_str().to_owned(), format!("the stream was {}", status.as_str())),
    };
    json!({"error": {"message": message, "type": "server_error", "param": null, "code": code}})
}

/// The whole answer as one `chat.completion`.
pub fn collect(log: LogId, records: &[Record]) -> Vec<u8> {
    let transcript = Transcript::of(records);
    let done = transcript.done.unwrap_or_else(|| Done::ended(Status::Running));
    let refusal = Some(transcript.refusal).filter(|refusal| !refusal.is_empty());
    let mut message = json!({"role": "assistant", "content": transcript.text, "refusal": refusal});
    if !transcript.reasoning.is_empty() {
        message["reasoning_content"] = transcript.reasoning.into();
    }
    if !transcript.tool_calls.is_empty() {
        message["tool_calls"] = transcript
            .tool_calls
            .into_iter()
            .map(|call| {
                let mut said = json!({"id": call.id, "type": "function",
                                      "function": {"name": call.name, "arguments": call.arguments}});
                if let Some(signature) = call.signature {
                    said["extra_content"] = json!({"google": {"thought_signature": signature}});
                }
                said
            })
            .collect();
    }
    let wordless =
        message["content"] == "" && (message["refusal"].is_string() || message["tool_calls"].is_array());
    if wordless {
        message["content"] = Value::Null;
    }
    let mut body = json!({
        "id": format!("chatcmpl-{log}"), "object": "chat.completion",
        "created": transcript.start.as_ref().map_or(0, |start| start.created_at),
        "model": transcript.start.as_ref().map_or("", |start| &start.model),
        "choices": [{"index": 0, "message": message, "logprobs": null,
                     "finish_reason": done.finish_reason.as_deref().unwrap_or("stop")}],
    });
    if let Some(usage) = done.usage.or(transcript.usage) {
        body["usage"] = counts(usage);
    }
    body.to_string().into_bytes()
}
