//! OpenAI Responses towards clients.
//!
//! Named events, each with a `sequence_number`, counted from 0 without gaps; ids are made from the log's, so that
//! encoding again gives the same bytes. Frames of a provider of the same dialect are forwarded as they are, with its ids
//! and numbers; they are read only if something of ours has to follow them.
//! Source: OpenAI's API reference, openai-node 7.57 and openai-python 3.54 (types and accumulators).

mod output;
mod read;

use bytes::Bytes;
use serde_json::{Map, Value, json};

pub use read::{Asked, read};

use super::Format;
use crate::event::{Done, Event, Kind, Notice, Start, Status, Usage};
use crate::log::{Draft, EventId, Framing, LogId, Record};
use crate::sse;
use output::Output;

/// What raw frames of this dialect carry, see `provider::Provider`.
pub(super) const DIALECT: u8 = 3;

/// What is put before a stream's id to name it in this dialect.
pub const PREFIX: &str = "resp_";

#[derive(Debug)]
pub struct Encoder {
    format: Format,
    log: LogId,
    start: Option<Start>,
    /// The response object as last told, without its output.
    response: Map<String, Value>,
    output: Output,
    /// `response.created` is out.
    begun: bool,
    /// Something of ours was said: from here on nothing is forwarded.
    own: bool,
    ended: bool,
    /// What was forwarded and has not been read.
    forwarded: Vec<Bytes>,
    /// Earlier events of a frame whose last one is still to come.
    parts: Vec<Event>,
}

impl Encoder {
    pub fn new(format: Format, log: LogId) -> Encoder {
        Encoder {
            format,
            log,
            start: None,
            response: Map::new(),
            output: Output::new(log),
            begun: false,
            own: false,
            ended: false,
            forwarded: Vec::new(),
            parts: Vec::new(),
        }
    }

    pub fn encode(&mut self, record: &Record, out: &mut Vec<u8>) {
        match &record.draft.framing {
            Framing::Raw(raw) if raw.dialect == DIALECT && !self.own => {
                self.parts.clear();
                self.forwarded.push(raw.bytes.clone());
                super::forward(out, raw, self.id(record), true);
            }
            Framing::Part(dialect) if *dialect == DIALECT && !self.own => self.parts.extend(event(record)),
            framing => {
                let parts = std::mem::take(&mut self.parts);
                for part in parts {
                    self.event(part, record);
                }
                if *framing == Framing::Own {
                    // A viewer stands inside a frame: it has had those.
                    self.output.take();
                }
                if let Some(event) = event(record) {
                    self.event(event, record);
                }
                self.write(record, out);
            }
        }
    }

    fn id(&self, record: &Record) -> Option<EventId> {
        self.format.ids.then_some(EventId { log: self.log, position: record.position })
    }

    /// The record's id goes with the last of its frames.
    fn write(&mut self, record: &Record, out: &mut Vec<u8>) {
        let (frames, id) = (self.output.take(), self.id(record));
        let last = frames.len().saturating_sub(1);
        for (at, (kind, frame)) in frames.iter().enumerate() {
            let id = id.as_ref().filter(|_| at == last).map(|id| id as _);
            sse::write(out, id, kind, None, frame.to_string().as_bytes());
        }
    }

    fn event(&mut self, event: Event, record: &Record) {
        match event {
            Event::Start(start) => {
                let known = start.response.is_some();
                self.start = Some(start);
                // A provider of this dialect says it in its own words; without one there is nothing to wait for.
                if known {
                    self.begin();
                }
            }
            Event::Notice(Notice { code, .. }) => {
                // What came before the first frame is no seam.
                let begun = self.begun || !self.forwarded.is_empty();
                if begun && (code == "continued" || code == "fallback") {
                    self.catch_up();
                    self.own = true;
                }
            }
            // Told with the ending.
            Event::Usage(_) => {}
            Event::Token(text) => self.begin().text(false, &text),
            Event::Refusal(text) => self.begin().text(true, &text),
            Event::Reasoning(text) => self.begin().reasoning(&text),
            Event::Signature(signature) => self.begin().signature(signature),
            Event::Tool(piece) => self.begin().tool(piece),
            Event::Done(done) => {
                self.begin();
                self.done(&done, record.draft.at_ms / 1000);
            }
        }
    }

    /// The output, once the response has been announced.
    fn begin(&mut self) -> &mut Output {
        self.catch_up();
        self.own = true;
        if !std::mem::replace(&mut self.begun, true) {
            self.announce();
            let background = self.response.get("background") == Some(&true.into());
            self.tell("status", if background { "queued" } else { "in_progress" });
            self.life("response.created");
            if background {
                self.life("response.queued");
            }
            self.tell("status", "in_progress");
            self.life("response.in_progress");
        }
        &mut self.output
    }

    /// A field of the response object.
    fn tell(&mut self, field: &str, value: impl Into<Value>) {
        self.response.insert(field.into(), value.into());
    }

    /// A frame that holds the whole response.
    fn life(&mut self, kind: &'static str) {
        self.output.say(kind, json!({"response": self.response}));
    }

    /// The response object from what the start says.
    fn announce(&mut self) {
        if !self.response.is_empty() {
            return;
        }
        let start = self.start.as_ref();
        let object = json!({
            "id": format!("{PREFIX}{}", self.log), "object": "response",
            "created_at": start.map_or(0, |start| start.created_at), "status": "in_progress",
            "background": false, "completed_at": null, "error": null, "incomplete_details": null,
            "instructions": null, "max_output_tokens": null, "metadata": {},
            "model": start.map_or("", |start| &start.model), "output": [], "parallel_tool_calls": true,
            "previous_response_id": null, "reasoning": {"effort": null, "summary": null}, "store": true,
            "temperature": null, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [],
            "top_p": null, "truncation": "disabled", "usage": null, "user": null,
        });
        if let Value::Object(object) = object {
            self.response = object;
        }
        let said = start.and_then(|start| start.response.clone());
        self.response.extend(said.into_iter().flatten());
    }

    /// Reads what was forwarded, so that something of ours can follow it.
    fn catch_up(&mut self) {
        for bytes in std::mem::take(&mut self.forwarded) {
            self.begun = true;
            each_frame(&bytes, |frame| {
                self.output.absorb(&frame);
                self.absorb(frame);
            });
        }
    }

    fn absorb(&mut self, mut frame: Value) {
        let kind = frame["type"].as_str().unwrap_or_default().to_owned();
        if let Value::Object(response) = frame["response"].take() {
            self.response = response;
        }
        match kind.as_str() {
            "response.completed" | "response.incomplete" | "response.failed" => self.ended = true,
            "error" => {
                self.announce();
                let told = if frame["error"].is_object() { &frame["error"] } else { &frame };
                self.tell("error", json!({"code": told["code"], "message": told["message"]}));
                self.tell("status", "failed");
            }
            _ => {}
        }
    }

    fn done(&mut self, done: &Done, at: u64) {
        self.announce();
        let reason = match done.finish_reason.as_deref() {
            Some("length") => Some("max_output_tokens"),
            Some("content_filter") => Some("content_filter"),
            _ => None,
        };
        let (kind, status, open) = match (done.status, reason) {
            (Status::Completed, None) => ("response.completed", "completed", "completed"),
            (Status::Completed, Some(_)) => ("response.incomplete", "incomplete", "incomplete"),
            (Status::Cancelled, _) => ("response.incomplete", "cancelled", "incomplete"),
            _ => ("response.failed", "failed", "incomplete"),
        };
        // Who fails says no more about what it was saying.
        if status != "failed" {
            self.output.close_all(open);
        }
        self.tell("status", status);
        if kind == "response.completed" {
            self.tell("completed_at", at);
        } else if let Some(reason) = reason.filter(|_| status == "incomplete") {
            self.tell("incomplete_details", json!({"reason": reason}));
        }
        if status == "failed" {
            self.tell("error", failure(done));
        }
        if let Some(usage) = done.usage {
            self.tell("usage", counts(usage));
        }
        let output = self.output.values(open);
        self.tell("output", output);
        self.ended = true;
        self.life(kind);
    }

    /// The response object as it stands.
    fn object(&mut self) -> &Map<String, Value> {
        self.catch_up();
        self.announce();
        if !self.ended {
            let output = self.output.values("in_progress");
            self.tell("output", output);
        }
        &self.response
    }
}

fn event(record: &Record) -> Option<Event> {
    Event::parse(Kind::from_u8(record.draft.kind)?, &record.draft.payload).ok()
}

/// The JSON of each frame in a provider's bytes.
fn each_frame(bytes: &[u8], mut take: impl FnMut(Value)) {
    let mut parser = sse::Parser::new(bytes.len() + 1);
    let fed = parser.feed(bytes, |frame| take(serde_json::from_str(&frame.data).unwrap_or_default()));
    debug_assert!(fed.is_ok(), "no frame is larger than all of them");
}

fn counts(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens.unwrap_or_default()},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens.unwrap_or_default()},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    })
}

fn failure(done: &Done) -> Value {
    match &done.error {
        Some(error) => json!({"code": error.code, "message": error.message}),
        None => {
            json!({"code": done.status.as_str(), "message": format!("the stream was {}", done.status.as_str())})
        }
    }
}

/// The response object, whole or so far.
pub fn collect(log: LogId, records: &[Record]) -> Vec<u8> {
    let mut encoder = Encoder::new(Format::new(super::Surface::OpenAiResponses), log);
    let mut out = Vec::new();
    for record in records {
        encoder.encode(record, &mut out);
        out.clear();
    }
    json!(encoder.object()).to_string().into_bytes()
}

/// Under which id a provider of this dialect knows the response.
pub fn provider_id<'a>(drafts: impl IntoIterator<Item = &'a Draft>) -> Option<String> {
    let id = |response: &Value| response["id"].as_str().map(str::to_owned);
    drafts.into_iter().find_map(|draft| match &draft.framing {
        Framing::Raw(raw) if raw.dialect == super::WHOLE | DIALECT => {
            id(&serde_json::from_slice(&raw.bytes).unwrap_or_default())
        }
        Framing::Raw(raw) if raw.dialect == DIALECT => {
            let mut found = None;
            each_frame(&raw.bytes, |frame| found = found.take().or_else(|| id(&frame["response"])));
            found
        }
        _ => None,
    })
}

/// The `sequence_number` of a frame. Not parsed: a quote within a string is escaped, so one that is not, with this name
/// and a number behind it, is a field.
pub fn sequence_number(frame: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"\"sequence_number\"";
    let number = |at: usize| {
        let rest = frame.get(at + NAME.len()..)?.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
    };
    memchr::memmem::find_iter(frame, NAME).filter(|at| *at == 0 || frame[at - 1] != b'\\').find_map(number)
}
