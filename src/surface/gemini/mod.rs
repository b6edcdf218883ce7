//! Google's Gemini API towards clients.
//!
//! Every event is a whole `GenerateContentResponse`. No ids, no comments, no named events: google-genai for Python reads
//! any line that does not begin with `data: ` as JSON, the one for JavaScript loses the event behind it (both 2026).
//! Function calls are whole, so their fragments are gathered; nothing marks the end but the `finishReason` of the last
//! one. What has no place here: seams, and reasoning that its provider keeps to itself.
//! Source: Google's API reference (v1beta), google-genai 3.4.0 and @google/genai 3.1.0.

mod read;
mod schema;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Complaint, Surface};
use crate::event::{Done, Event, Kind, Signature, Status, Tool, Usage};
use crate::log::transcript::{ToolCall, Transcript};
use crate::log::{Framing, LogId, Record};
use crate::sse;

pub use read::{RENAMED, read};

/// What raw frames of this dialect carry, see `provider::Provider`.
pub(super) const DIALECT: u8 = 5;

#[derive(Debug)]
pub struct Encoder {
    model: String,
    /// The provider's own frames stand for their events. Not after a seam: then others go on with what these began.
    verbatim: bool,
    /// The first frames that were forwarded: they name the answer, for when something of ours goes on with it.
    forwarded: Option<Bytes>,
    id: String,
    /// Calls whose arguments may still grow, in order.
    calls: Vec<ToolCall>,
    usage: Option<Usage>,
}

impl Encoder {
    pub fn new(log: LogId) -> Encoder {
        let (model, id) = (String::new(), log.to_string());
        Encoder { model, verbatim: true, forwarded: None, id, calls: Vec::new(), usage: None }
    }

    pub fn encode(&mut self, record: &Record, out: &mut Vec<u8>) {
        match &record.draft.framing {
            Framing::Raw(raw) if raw.dialect == DIALECT && self.verbatim => {
                if self.forwarded.is_none() {
                    self.forwarded = Some(raw.bytes.clone());
                }
                super::forward(out, raw, None, true);
            }
            // Its frame follows.
            Framing::Part(DIALECT) if self.verbatim => {}
            _ => {
                let event =
                    Kind::from_u8(record.draft.kind).map(|kind| Event::parse(kind, &record.draft.payload));
                if let Some(Ok(event)) = event {
                    self.event(event, out);
                }
            }
        }
    }

    fn event(&mut self, event: Event, out: &mut Vec<u8>) {
        let part = match event {
            Event::Start(start) => {
                self.model = start.model;
                return;
            }
            Event::Token(text) | Event::Refusal(text) => json!({"text": text}),
            Event::Reasoning(text) => json!({"text": text, "thought": true}),
            Event::Signature(signature) => match proof(&signature) {
                Some(part) => part,
                None => return,
            },
            Event::Tool(piece) => {
                if self.calls.last().is_some_and(|call| call.index != piece.index) {
                    self.calls(out, false);
                }
                return self.gather(piece);
            }
            // Said once, with the ending.
            Event::Usage(usage) => {
                self.usage = Some(usage);
                return;
            }
            Event::Notice(notice) => {
                self.verbatim &= !matches!(notice.code.as_str(), "continued" | "fallback");
                return;
            }
            Event::Done(done) => return self.done(&done, out),
        };
        self.calls(out, false);
        self.chunk(part, out);
    }

    fn gather(&mut self, piece: Tool) {
        let at = self.calls.iter().position(|call| call.index == piece.index).unwrap_or_else(|| {
            self.calls.push(ToolCall { index: piece.index, ..ToolCall::default() });
            self.calls.len() - 1
        });
        let call = &mut self.calls[at];
        call.id = piece.id.or(call.id.take());
        call.name = piece.name.or(call.name.take());
        call.signature = piece.signature.or(call.signature.take());
        call.arguments.push_str(piece.arguments.as_deref().unwrap_or_default());
    }

    /// Says the calls that are complete, up to the first that is not; `over`: no more will come. True if all were said.
    fn calls(&mut self, out: &mut Vec<u8>, over: bool) -> bool {
        let calls = std::mem::take(&mut self.calls);
        let mut calls = calls.into_iter().peekable();
        while let Some(part) = calls.peek().and_then(|call| whole(call, over)) {
            self.chunk(part, out);
            calls.next();
        }
        self.calls = calls.collect();
        self.calls.is_empty()
    }

    fn done(&mut self, done: &Done, out: &mut Vec<u8>) {
        let completed = done.status == Status::Completed;
        let said = self.calls(out, completed);
        if !completed {
            out.extend(failure(done).frame(Surface::Gemini));
            return;
        }
        let mut last = self.envelope(json!({"text": ""}));
        last["candidates"][0]["finishReason"] = finish_reason(done, said).into();
        if let Some(usage) = done.usage.or(self.usage) {
            last["usageMetadata"] = counts(usage);
        }
        sse::write(out, None, "", None, last.to_string().as_bytes());
    }

    fn chunk(&mut self, part: Value, out: &mut Vec<u8>) {
        sse::write(out, None, "", None, self.envelope(part).to_string().as_bytes());
    }

    fn envelope(&mut self, part: Value) -> Value {
        if let Some(bytes) = self.forwarded.take() {
            let mut parser = sse::Parser::new(bytes.len() + 1);
            let _fits = parser.feed(&bytes, |frame| {
                let said: Value = serde_json::from_str(&frame.data).unwrap_or_default();
                let text = |name: &str| said[name].as_str().map(str::to_owned);
                self.model = text("modelVersion").unwrap_or(std::mem::take(&mut self.model));
                self.id = text("responseId").unwrap_or(std::mem::take(&mut self.id));
            });
        }
        answer(vec![part], &self.model, &self.id)
    }
}

fn answer(parts: Vec<Value>, model: &str, id: &str) -> Value {
    let mut answer = json!({"candidates": [{"content": {"parts": null, "role": "model"}, "index": 0}],
                            "modelVersion": model, "responseId": id});
    answer["candidates"][0]["content"]["parts"] = parts.into();
    answer
}

/// A proof of reasoning, by itself.
fn proof(signature: &Signature) -> Option<Value> {
    let said = signature.signature.as_str();
    let fits = !signature.redacted && is_base64(said);
    fits.then(|| json!({"text": "", "thought": true, "thoughtSignature": said}))
}

/// As strict as google-genai for Python, which gives the whole answer up at a signature that is not base64. Those of
/// Gemini, Anthropic and OpenAI are.
fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    };
    // Bits of the last digit that no byte is made of.
    let spare = match digits.len() % 4 {
        0 => 0,
        2 => 0b1111,
        3 => 0b11,
        _ => return false,
    };
    let padding = text.len() - digits.len();
    let padded = padding == 0 || (padding < 3 && text.len().is_multiple_of(4));
    let mixed = digits.contains(['+', '/']) && digits.contains(['-', '_']);
    let last = digits.bytes().last().and_then(value);
    padded
        && !mixed
        && digits.bytes().all(|byte| value(byte).is_some())
        && last.is_some_and(|last| last & spare == 0)
}

/// The call, if its arguments are an object; none at all are an empty one, once no more will come.
fn whole(call: &ToolCall, over: bool) -> Option<Value> {
    let args = match call.arguments.trim() {
        "" if over => json!({}),
        text => serde_json::from_str(text).ok().filter(Value::is_object)?,
    };
    let mut said = json!({"name": call.name, "args": args});
    if let Some(id) = &call.id {
        said["id"] = id.as_str().into();
    }
    let mut part = json!({"functionCall": said});
    if let Some(signature) = call.signature.as_ref().filter(|signature| is_base64(signature)) {
        part["thoughtSignature"] = signature.as_str().into();
    }
    Some(part)
}

/// Canonical reasons in this dialect's words; others are their providers' own, which are lower-case with us.
fn finish_reason(done: &Done, calls_whole: bool) -> String {
    if !calls_whole {
        return "MALFORMED_FUNCTION_CALL".into();
    }
    match done.finish_reason.as_deref() {
        None | Some("stop" | "tool_calls" | "function_call") => "STOP".into(),
        Some("length") => "MAX_TOKENS".into(),
        Some("content_filter") => "SAFETY".into(),
        Some(other) => other.to_uppercase(),
    }
}

fn counts(usage: Usage) -> Value {
    let reasoning = usage.reasoning_tokens.unwrap_or_default();
    let mut counts = json!({"promptTokenCount": usage.input_tokens,
                            "candidatesTokenCount": usage.output_tokens.saturating_sub(reasoning),
                            "totalTokenCount": usage.input_tokens + usage.output_tokens});
    if let Some(cached) = usage.cached_tokens {
        counts["cachedContentTokenCount"] = cached.into();
    }
    if let Some(reasoning) = usage.reasoning_tokens {
        counts["thoughtsTokenCount"] = reasoning.into();
    }
    counts
}

/// The `error` object that makes the SDKs raise: for that its `code` must be an HTTP status.
fn failure(done: &Done) -> Complaint {
    let (code, message) = match &done.error {
        Some(error) => (error.code.clone(), error.message.clone()),
        None => (done.status.as_str().to_owned(), format!("the stream was {}", done.status.as_str())),
    };
    let status = match code.as_str() {
        "cancelled" => 499,
        "too_large" => 413,
        "interrupted" | "store_full" | "store_unavailable" => 503,
        code if code.ends_with("_timeout") => 504,
        _ => 502,
    };
    Complaint { status, code, message, param: None, request_id: None }
}

/// The whole answer as one `GenerateContentResponse`.
pub fn collect(log: LogId, records: &[Record]) -> Vec<u8> {
    let transcript = Transcript::of(records);
    let done = transcript.done.unwrap_or_else(|| Done::ended(Status::Running));
    let mut parts: Vec<Value> = Vec::new();
    for thought in transcript.thoughts {
        if !thought.text.is_empty() {
            parts.push(json!({"text": thought.text, "thought": true}));
        }
        let signature = thought.signature.map(|signature| Signature {
            signature,
            redacted: thought.redacted,
            ..Signature::default()
        });
        parts.extend(signature.as_ref().and_then(proof));
    }
    let text = format!("{}{}", transcript.text, transcript.refusal);
    if !text.is_empty() {
        parts.push(json!({"text": text}));
    }
    let calls: Vec<Value> = transcript.tool_calls.iter().filter_map(|call| whole(call, true)).collect();
    let said = calls.len() == transcript.tool_calls.len();
    parts.extend(calls);
    let model = transcript.start.as_ref().map_or("", |start| &start.model);
    let mut body = answer(parts, model, &log.to_string());
    body["candidates"][0]["finishReason"] = finish_reason(&done, said).into();
    if let Some(usage) = done.usage.or(transcript.usage) {
        body["usageMetadata"] = counts(usage);
    }
    body.to_string().into_bytes()
}
