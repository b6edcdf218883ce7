//! The AI SDK's UI message stream: what `useChat` reads.
//!
//! A part is `data: {json}`; an unknown type, and for 5.0.0 and 6.0.0 an unknown key, is fatal to the client, which does not
//! say its version. So nothing is written that npm `ai` 5.0.0 does not accept (its `uiMessageChunkSchema`), unless
//! [`Parts`] says so: finish reason and token counts go into the message's metadata, arguments that are no JSON are the
//! output error of their call. What a provider wants to see again rides in `providerMetadata.relaystream`.

mod read;
mod retold;

use std::fmt;
use std::io::Write;

use serde_json::{Map, Value, json};

pub use read::{Asked, read};
pub use retold::retold;

use super::Format;
use crate::event::{Done, Event, Kind, Signature, Start, Status, Tool, Usage};
use crate::log::{EventId, LogId, Record};
use crate::sse;

/// Whose metadata ours is, in `providerMetadata`.
const OURS: &str = "relaystream";

/// Which of the AI SDK's parts and keys may be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Parts {
    /// Those that every version knows since 5.0.0.
    #[default]
    V5,
    /// And those since 6.0.0: `finish.finishReason`, which `onFinish` is handed.
    V6,
}

/// The answer's id, unless its client chose one: the same in every replay, since clients merge by it.
pub fn message_id(start: &Start) -> String {
    start.message.clone().unwrap_or_else(|| format!("msg_{}", start.stream))
}

#[derive(Debug)]
pub struct Encoder {
    format: Format,
    log: LogId,
    open: Option<Block>,
    blocks: u32,
    calls: Vec<Call>,
    usage: Option<Usage>,
}

/// A block that has begun, by its number in the answer.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Block {
    reasoning: bool,
    n: u32,
}

impl Block {
    fn name(self) -> &'static str {
        if self.reasoning { "reasoning" } else { "text" }
    }

    fn part(self, what: &str) -> Value {
        json!({"type": format!("{}-{what}", self.name()), "id": self.to_string()})
    }
}

/// Its id.
impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.reasoning { 'r' } else { 't' }, self.n)
    }
}

#[derive(Debug)]
struct Call {
    index: u32,
    id: Option<String>,
    name: Option<String>,
    arguments: String,
    signature: Option<String>,
    begun: bool,
}

impl Encoder {
    pub fn new(format: Format, log: LogId) -> Encoder {
        Encoder { format, log, open: None, blocks: 0, calls: Vec::new(), usage: None }
    }

    pub fn encode(&mut self, record: &Record, out: &mut Vec<u8>) {
        let id = self.format.ids.then_some(EventId { log: self.log, position: record.position });
        let mut out = Writer { out, id };
        let Some(kind) = Kind::from_u8(record.draft.kind) else { return };
        // The text goes from the log's JSON into ours as it is: this runs for every token.
        let spliced = record.draft.payload.strip_prefix(b"{\"text\":");
        match (kind, spliced) {
            (Kind::Token, Some(rest)) => self.delta(false, rest, &mut out),
            (Kind::Reasoning, Some(rest)) => self.delta(true, rest, &mut out),
            _ => {
                if let Ok(event) = Event::parse(kind, &record.draft.payload) {
                    self.event(event, &mut out);
                }
            }
        }
    }

    fn event(&mut self, event: Event, out: &mut Writer<'_>) {
        match event {
            Event::Start(start) => {
                let metadata = json!({"streamId": start.stream, "model": start.model});
                out.aside(
                    &json!({"type": "start", "messageId": message_id(&start), "messageMetadata": metadata}),
                );
                out.last(&json!({"type": "start-step"}));
            }
            Event::Token(text) | Event::Refusal(text) => {
                self.delta(false, format!("{}}}", json!(text)).as_bytes(), out);
            }
            Event::Reasoning(text) => self.delta(true, format!("{}}}", json!(text)).as_bytes(), out),
            Event::Signature(proof) => self.signature(&proof, out),
            Event::Tool(tool) => self.tool(tool, out),
            Event::Usage(usage) => self.usage = Some(usage),
            // Parts have no word for a seam.
            Event::Notice(_) => {}
            Event::Done(done) => self.done(&done, out),
        }
    }

    /// A piece of text or reasoning. `rest` is its JSON string and the brace that ends the part.
    fn delta(&mut self, reasoning: bool, rest: &[u8], out: &mut Writer<'_>) {
        let block = match self.open {
            Some(block) if block.reasoning == reasoning => block,
            _ => self.begin(reasoning, out),
        };
        out.id(true);
        let name = block.name();
        let _infallible = write!(out.out, "data: {{\"type\":\"{name}-delta\",\"id\":\"{block}\",\"delta\":");
        out.out.extend_from_slice(rest);
        out.out.extend_from_slice(b"\n\n");
    }

    fn begin(&mut self, reasoning: bool, out: &mut Writer<'_>) -> Block {
        self.close(out);
        let block = Block { reasoning, n: self.blocks };
        self.blocks += 1;
        self.open = Some(block);
        out.aside(&block.part("start"));
        block
    }

    fn close(&mut self, out: &mut Writer<'_>) {
        if let Some(block) = self.open.take() {
            out.aside(&block.part("end"));
        }
    }

    /// Ends a block of reasoning, or is one of its own.
    fn signature(&mut self, proof: &Signature, out: &mut Writer<'_>) {
        let block = match self.open {
            Some(block) if block.reasoning && !proof.redacted => block,
            _ => self.begin(true, out),
        };
        self.open = None;
        let mut end = block.part("end");
        let mut ours = json!({"signature": proof.signature});
        if proof.redacted {
            ours["redacted"] = true.into();
        }
        end["providerMetadata"] = json!({OURS: ours});
        out.last(&end);
    }

    fn tool(&mut self, piece: Tool, out: &mut Writer<'_>) {
        self.close(out);
        let at = self.calls.iter().position(|call| call.index == piece.index).unwrap_or_else(|| {
            let (arguments, index) = (String::new(), piece.index);
            self.calls.push(Call { index, id: None, name: None, arguments, signature: None, begun: false });
            self.calls.len() - 1
        });
        let call = &mut self.calls[at];
        call.id = call.id.take().or(piece.id);
        call.name = call.name.take().or(piece.name);
        call.signature = piece.signature.or(call.signature.take());
        let fragment = piece.arguments.unwrap_or_default();
        call.arguments.push_str(&fragment);
        if call.begun {
            call.input(&fragment, out);
        } else if call.name.is_some() {
            call.begin(self.log, out);
        }
    }

    fn done(&mut self, done: &Done, out: &mut Writer<'_>) {
        let usage = done.usage.or(self.usage).map(counts);
        match done.status {
            Status::Completed => {
                self.close(out);
                for call in &mut self.calls {
                    call.finish(self.log, out);
                }
                out.aside(&json!({"type": "finish-step"}));
                let reason = finish_reason(done.finish_reason.as_deref().unwrap_or("stop"));
                let mut finish = json!({"type": "finish", "messageMetadata": {"finishReason": reason}});
                if let Some(usage) = usage {
                    finish["messageMetadata"]["usage"] = usage;
                }
                if self.format.parts == Parts::V6 {
                    finish["finishReason"] = if KNOWN.contains(&reason) { reason } else { "other" }.into();
                }
                out.aside(&finish);
                out.part(true, b"[DONE]");
            }
            Status::Cancelled => {
                // `abort` leaves open blocks as they are: the text would be shown as still coming.
                self.close(out);
                let mut metadata = Map::new();
                metadata.extend(done.by.as_ref().map(|by| ("stoppedBy".to_owned(), by.as_str().into())));
                metadata.extend(usage.map(|usage| ("usage".to_owned(), usage)));
                out.aside(&json!({"type": "message-metadata", "messageMetadata": metadata}));
                out.aside(&json!({"type": "abort"}));
                out.part(true, b"[DONE]");
            }
            status => {
                let said = done.error.as_ref().map(|error| error.message.clone());
                let said = said.unwrap_or_else(|| format!("the stream was {}", status.as_str()));
                out.last(&json!({"type": "error", "errorText": said}));
            }
        }
    }
}

impl Call {
    fn begin(&mut self, log: LogId, out: &mut Writer<'_>) {
        self.begun = true;
        let id = self.id.get_or_insert_with(|| format!("call_{log}_{}", self.index)).as_str();
        let name = self.name.as_deref().unwrap_or_default();
        let start = json!({"type": "tool-input-start", "toolCallId": id, "toolName": name});
        out.part(self.arguments.is_empty(), start.to_string().as_bytes());
        self.input(&self.arguments, out);
    }

    fn input(&self, fragment: &str, out: &mut Writer<'_>) {
        if !fragment.is_empty() {
            out.last(&json!({"type": "tool-input-delta", "toolCallId": self.id, "inputTextDelta": fragment}));
        }
    }

    /// The call is whole only once the answer is: fragments of several calls may come in turns.
    fn finish(&mut self, log: LogId, out: &mut Writer<'_>) {
        if !self.begun {
            self.begin(log, &mut Writer { out: out.out, id: None });
        }
        let arguments = if self.arguments.trim().is_empty() { "{}" } else { &self.arguments };
        let part = match serde_json::from_str::<Value>(arguments) {
            Ok(input) => {
                let name = self.name.as_deref().unwrap_or_default();
                let mut part = json!({"type": "tool-input-available", "toolCallId": self.id, "toolName": name, "input": input});
                if let Some(signature) = &self.signature {
                    part["providerMetadata"] = json!({OURS: {"signature": signature}});
                }
                part
            }
            // 5.0.0 knows no error of an input, and an available input would be acted upon.
            Err(error) => {
                let text = format!("the model's arguments are not JSON: {error}");
                json!({"type": "tool-output-error", "toolCallId": self.id, "errorText": text})
            }
        };
        out.aside(&part);
    }
}

/// Writes parts; a record's last one carries its id.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    id: Option<EventId>,
}

impl Writer<'_> {
    fn aside(&mut self, part: &Value) {
        self.part(false, part.to_string().as_bytes());
    }

    fn last(&mut self, part: &Value) {
        self.part(true, part.to_string().as_bytes());
    }

    fn part(&mut self, last: bool, data: &[u8]) {
        self.id(last);
        sse::write(self.out, None, "", None, data);
    }

    fn id(&mut self, last: bool) {
        let id = self.id.filter(|_| last);
        sse::write_id(self.out, id.as_ref().map(|id| id as _));
    }
}

const KNOWN: [&str; 6] = ["stop", "length", "content-filter", "tool-calls", "error", "other"];

/// In the AI SDK's spelling.
fn finish_reason(reason: &str) -> &str {
    match reason {
        "tool_calls" => "tool-calls",
        "content_filter" => "content-filter",
        other => other,
    }
}

/// In the names of the AI SDK's `LanguageModelUsage`.
fn counts(usage: Usage) -> Value {
    let mut counts = json!({"inputTokens": usage.input_tokens, "outputTokens": usage.output_tokens,
                            "totalTokens": usage.input_tokens + usage.output_tokens});
    if let Some(cached) = usage.cached_tokens {
        counts["cachedInputTokens"] = cached.into();
    }
    if let Some(reasoning) = usage.reasoning_tokens {
        counts["reasoningTokens"] = reasoning.into();
    }
    counts
}
