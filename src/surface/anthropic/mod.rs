//! Anthropic Messages towards clients: the encoder. `read` is the request.
//!
//! Frames of a provider of the same dialect are forwarded byte for byte under our ids; everything else is encoded from
//! the canonical events. The SDKs' accumulators find a block by its number in the list of blocks begun, and take the
//! last one for the one that is filled: so blocks are opened in order, and closed before the next one opens. Only calls
//! whose fragments are interleaved stay open beside each other.
//! Source: Anthropic's API reference, "Streaming Messages"; the accumulators of anthropic-sdk-python 2.12.0 and
//! anthropic-sdk-typescript 1.12.0.

mod read;

use std::io::Write;

use serde_json::{Value, json};

use super::Format;
use crate::event::{Done, Event, Kind, Start, Status, Tool, Usage};
use crate::log::transcript::Transcript;
use crate::log::{EventId, Framing, LogId, Raw, Record};
use crate::sse;

pub use read::{counted, read};

/// What raw frames of this dialect carry, see `provider::Provider`.
pub(super) const DIALECT: u8 = 4;

#[derive(Debug)]
pub struct Encoder {
    format: Format,
    log: LogId,
    start: Option<Start>,
    /// `message_start` is out.
    begun: bool,
    /// The last frame that was forwarded: what state it left is read from it once that matters.
    forwarded: Option<Raw>,
    /// Frames are encoded from now on, even those that could be forwarded.
    seam: bool,
    /// Blocks that were begun and not ended, oldest first.
    open: Vec<Block>,
    /// The number of the next block.
    next: u64,
    /// There was a call of a tool.
    called: bool,
    declined: bool,
    usage: Usage,
}

#[derive(Debug)]
struct Block {
    at: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Text,
    Thinking,
    /// The call's number and its arguments so far.
    Call(u32, String),
}

impl What {
    /// A call whose arguments are incomplete may be gone on with after the next one has begun.
    fn complete(&self) -> bool {
        match self {
            What::Text | What::Thinking => true,
            What::Call(_, arguments) => serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_ok(),
        }
    }
}

/// Frames of one event: the id goes with the last one.
type Frames = Vec<(&'static str, Vec<u8>)>;

impl Encoder {
    pub fn new(format: Format, log: LogId) -> Encoder {
        Encoder {
            format,
            log,
            start: None,
            begun: false,
            forwarded: None,
            seam: false,
            open: Vec::new(),
            next: 0,
            called: false,
            declined: false,
            usage: Usage::default(),
        }
    }

    pub fn encode(&mut self, record: &Record, out: &mut Vec<u8>) {
        let id = self.format.ids.then_some(EventId { log: self.log, position: record.position });
        if !self.seam {
            match &record.draft.framing {
                Framing::Raw(raw) if raw.dialect == DIALECT => {
                    self.forwarded = Some(raw.clone());
                    return super::forward(out, raw, id, self.format.usage);
                }
                // Its frame follows.
                Framing::Part(DIALECT) => return,
                _ => {}
            }
        }
        let Some(kind) = Kind::from_u8(record.draft.kind) else { return };
        let mut frames = Frames::new();
        self.event(kind, &record.draft.payload, &mut frames);
        let last = frames.len().saturating_sub(1);
        for (nth, (event, data)) in frames.iter().enumerate() {
            let id = id.as_ref().filter(|_| nth == last);
            sse::write(out, id.map(|id| id as _), event, None, data);
        }
    }

    fn event(&mut self, kind: Kind, payload: &[u8], frames: &mut Frames) {
        // The log's payload has the text in JSON already.
        let text = payload.strip_prefix(br#"{"text":"#);
        match (kind, text) {
            (Kind::Token, Some(rest)) => return self.text(rest, frames),
            (Kind::Reasoning, Some(rest)) => return self.thinking(rest, frames),
            _ => {}
        }
        match Event::parse(kind, payload) {
            Ok(Event::Start(start)) => self.start = Some(start),
            Ok(Event::Token(text)) => self.text(&ending_in_brace(&text), frames),
            Ok(Event::Reasoning(text)) => self.thinking(&ending_in_brace(&text), frames),
            Ok(Event::Refusal(text)) => {
                self.declined = true;
                self.text(&ending_in_brace(&text), frames);
            }
            Ok(Event::Signature(proof)) if proof.redacted => {
                self.open(&json!({"type": "redacted_thinking", "data": proof.signature}), None, frames);
            }
            Ok(Event::Signature(proof)) => {
                let at = self.block(|what| matches!(what, What::Thinking), frames);
                let at = at.unwrap_or_else(|| self.open_thinking(frames));
                let delta = json!({"type": "signature_delta", "signature": proof.signature});
                frames.push(("content_block_delta", delta_of(at, delta.to_string().as_bytes())));
                self.close(|what| matches!(what, What::Thinking), frames);
            }
            Ok(Event::Tool(tool)) => self.tool(tool, frames),
            Ok(Event::Usage(usage)) => self.usage = usage,
            Ok(Event::Notice(notice)) => {
                // What came before the first frame is no seam.
                let begun = self.begun || self.forwarded.is_some();
                self.seam |= begun && matches!(notice.code.as_str(), "retried" | "continued" | "fallback");
            }
            Ok(Event::Done(done)) => self.done(&done, frames),
            Err(_) => {}
        }
    }

    /// `rest`: a string as JSON, and the brace that closes the delta.
    fn text(&mut self, rest: &[u8], frames: &mut Frames) {
        let at = self.block(|what| matches!(what, What::Text), frames);
        let at =
            at.unwrap_or_else(|| self.open(&json!({"type": "text", "text": ""}), Some(What::Text), frames));
        let delta = [br#"{"type":"text_delta","text":"#, rest].concat();
        frames.push(("content_block_delta", delta_of(at, &delta)));
    }

    fn thinking(&mut self, rest: &[u8], frames: &mut Frames) {
        let at = self.block(|what| matches!(what, What::Thinking), frames);
        let at = at.unwrap_or_else(|| self.open_thinking(frames));
        let delta = [br#"{"type":"thinking_delta","thinking":"#, rest].concat();
        frames.push(("content_block_delta", delta_of(at, &delta)));
    }

    fn open_thinking(&mut self, frames: &mut Frames) -> u64 {
        let block = json!({"type": "thinking", "thinking": "", "signature": ""});
        self.open(&block, Some(What::Thinking), frames)
    }

    fn tool(&mut self, tool: Tool, frames: &mut Frames) {
        let arguments = tool.arguments.unwrap_or_default();
        self.recover();
        let known = |block: &&mut Block| matches!(block.what, What::Call(call, _) if call == tool.index);
        let at = match self.open.iter_mut().find(known) {
            Some(block) => block.at,
            // A piece of a call that has ended: its arguments were complete, nothing can follow them.
            None if tool.id.is_none() && tool.name.is_none() => return,
            None => {
                self.called = true;
                let id = tool.id.unwrap_or_else(|| format!("toolu_{}_{}", self.log, tool.index));
                let block =
                    json!({"type": "tool_use", "id": id, "name": tool.name.unwrap_or_default(), "input": {}});
                self.open(&block, Some(What::Call(tool.index, String::new())), frames)
            }
        };
        if arguments.is_empty() {
            return;
        }
        let delta = json!({"type": "input_json_delta", "partial_json": arguments});
        frames.push(("content_block_delta", delta_of(at, delta.to_string().as_bytes())));
        for block in &mut self.open {
            if let (What::Call(_, so_far), true) = (&mut block.what, block.at == at) {
                so_far.push_str(&arguments);
            }
        }
    }

    /// The open block of this kind, if it is the one that is being filled.
    fn block(&mut self, is: impl Fn(&What) -> bool, frames: &mut Frames) -> Option<u64> {
        self.recover();
        self.begin(frames);
        self.open.last().filter(|block| is(&block.what)).map(|block| block.at)
    }

    /// Begins a block, and ends those before it. `what` is None for one that is whole.
    fn open(&mut self, block: &Value, what: Option<What>, frames: &mut Frames) -> u64 {
        self.recover();
        self.begin(frames);
        self.close(What::complete, frames);
        let at = self.next;
        self.next += 1;
        let start = json!({"type": "content_block_start", "index": at, "content_block": block});
        frames.push(("content_block_start", start.to_string().into_bytes()));
        match what {
            Some(what) => self.open.push(Block { at, what }),
            None => frames.push(stop(at)),
        }
        at
    }

    fn close(&mut self, is: impl Fn(&What) -> bool, frames: &mut Frames) {
        self.open.retain(|block| {
            let ends = is(&block.what);
            if ends {
                frames.push(stop(block.at));
            }
            !ends
        });
    }

    fn begin(&mut self, frames: &mut Frames) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let message = json!({
            "id": format!("msg_{}", self.log), "type": "message", "role": "assistant",
            "model": self.start.as_ref().map_or("", |start| &start.model), "content": [],
            "stop_reason": null, "stop_sequence": null,
            "usage": counts(&Usage { output_tokens: 0, ..self.usage }),
        });
        let start = json!({"type": "message_start", "message": message});
        frames.push(("message_start", start.to_string().into_bytes()));
    }

    /// Finds out where the forwarded frames left the message. They end in a delta of plain text or reasoning wherever
    /// something of ours goes on with it.
    fn recover(&mut self) {
        let Some(raw) = self.forwarded.take() else { return };
        self.begun = true;
        let mut parser = sse::Parser::new(raw.bytes.len() + 1);
        let _fits = parser.feed(&raw.bytes, |frame| {
            let value: Value = serde_json::from_str(&frame.data).unwrap_or_default();
            let Some(at) = value["index"].as_u64() else { return };
            self.next = at + 1;
            self.open.retain(|block| block.at != at);
            let what = match value["delta"]["type"].as_str().or(value["content_block"]["type"].as_str()) {
                Some("text_delta" | "text") => What::Text,
                Some("thinking_delta" | "signature_delta" | "thinking") => What::Thinking,
                // Nothing of ours goes on with it: it is only to be closed.
                Some(_) => What::Call(u32::MAX, "{}".into()),
                None => return,
            };
            self.open.push(Block { at, what });
        });
    }

    fn done(&mut self, done: &Done, frames: &mut Frames) {
        if done.status != Status::Completed {
            return frames.push(("error", failure(done).to_string().into_bytes()));
        }
        self.recover();
        self.begin(frames);
        self.close(|_| true, frames);
        self.usage = done.usage.unwrap_or(self.usage);
        let delta = json!({"type": "message_delta", "usage": counts(&self.usage),
            "delta": {"stop_reason": stop_reason(done, self.declined, self.called), "stop_sequence": null}});
        frames.push(("message_delta", delta.to_string().into_bytes()));
        frames.push(("message_stop", br#"{"type":"message_stop"}"#.to_vec()));
    }
}

/// As in the log's payload, behind `{"text":`.
fn ending_in_brace(text: &str) -> Vec<u8> {
    format!("{}}}", Value::from(text)).into_bytes()
}

fn delta_of(at: u64, delta: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(delta.len() + 64);
    let _infallible = write!(data, r#"{{"type":"content_block_delta","index":{at},"delta":"#);
    data.extend_from_slice(delta);
    data.push(b'}');
    data
}

fn stop(at: u64) -> (&'static str, Vec<u8>) {
    let data = format!(r#"{{"type":"content_block_stop","index":{at}}}"#);
    ("content_block_stop", data.into_bytes())
}

/// This dialect counts what was read from the cache beside `input_tokens`.
fn counts(usage: &Usage) -> Value {
    let cached = usage.cached_tokens.unwrap_or_default();
    let mut counts = json!({"input_tokens": usage.input_tokens.saturating_sub(cached),
                            "cache_creation_input_tokens": 0, "cache_read_input_tokens": cached,
                            "output_tokens": usage.output_tokens});
    if let Some(thinking) = usage.reasoning_tokens {
        counts["output_tokens_details"] = json!({"thinking_tokens": thinking});
    }
    counts
}

/// Some providers say `stop` also after a call that they were made to make.
fn stop_reason(done: &Done, declined: bool, called: bool) -> &str {
    match done.finish_reason.as_deref() {
        Some("content_filter") => "refusal",
        None | Some("stop") if declined => "refusal",
        None | Some("stop") if called => "tool_use",
        Some("tool_calls" | "function_call") => "tool_use",
        None | Some("stop") => "end_turn",
        Some("length") => "max_tokens",
        Some(other) => other,
    }
}

/// The `error` event that makes the SDKs raise.
fn failure(done: &Done) -> Value {
    let (code, message) = match (&done.error, done.status) {
        (Some(error), _) => (error.code.clone(), error.message.clone()),
        (None, status) => (status.as_str().to_owned(), format!("the stream was {}", status.as_str())),
    };
    let class = if code.ends_with("_timeout") { "timeout_error" } else { "api_error" };
    // `details` is where their SDKs look for a code.
    let details = json!({"error_code": code});
    json!({"type": "error", "error": {"type": class, "message": message, "code": code, "details": details}})
}

/// The whole answer as one message.
pub fn collect(log: LogId, records: &[Record]) -> Vec<u8> {
    let transcript = Transcript::of(records);
    let done = transcript.done.unwrap_or_else(|| Done::ended(Status::Running));
    let mut content = Vec::new();
    for thought in transcript.thoughts {
        let signature = thought.signature.unwrap_or_default();
        content.push(match thought.redacted {
            true => json!({"type": "redacted_thinking", "data": signature}),
            false => json!({"type": "thinking", "thinking": thought.text, "signature": signature}),
        });
    }
    for text in [&transcript.text, &transcript.refusal].into_iter().filter(|text| !text.is_empty()) {
        content.push(json!({"type": "text", "text": text}));
    }
    for call in &transcript.tool_calls {
        let id = call.id.clone().unwrap_or_else(|| format!("toolu_{log}_{}", call.index));
        // Broken arguments are passed on as the text that they are.
        let input = match call.arguments.trim() {
            "" => json!({}),
            text => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        };
        content.push(json!({"type": "tool_use", "id": id, "name": call.name, "input": input}));
    }
    let (declined, called) = (!transcript.refusal.is_empty(), !transcript.tool_calls.is_empty());
    let message = json!({
        "id": format!("msg_{log}"), "type": "message", "role": "assistant",
        "model": transcript.start.as_ref().map_or("", |start| &start.model), "content": content,
        "stop_reason": stop_reason(&done, declined, called), "stop_sequence": null,
        "usage": counts(&done.usage.or(transcript.usage).unwrap_or_default()),
    });
    message.to_string().into_bytes()
}
