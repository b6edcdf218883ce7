//! Anthropic Messages, as spoken by Anthropic and those compatible with it: the decoder. `ask` is the other direction.
//!
//! Streaming: named events; a message holds blocks, each opened, filled by deltas and closed. `message_start` says
//! nothing by itself and rides along with the first block that says something, so that an early error can be retried
//! under a client that has seen nothing. Its token counts come out with it. Pings are dropped: we have our own. Blocks
//! and deltas of the provider's own tools, citations and whatever is new hold no event, their bytes are forwarded.
//! Source: Anthropic's API reference, "Streaming Messages", and the types of anthropic-sdk-python 2.12.0.

mod ask;

use serde::Deserialize;
use serde_json::Value;

use super::framer::Told;
use super::{DecodeError, Frame, Provider};
use crate::event::{Done, Event, Signature, Status, Tool, Usage};
use crate::sse;

pub use ask::{ask, count};

#[derive(Debug, Deserialize)]
struct Wire {
    #[serde(rename = "type")]
    kind: String,
    index: Option<u64>,
    message: Option<Message>,
    content_block: Option<Value>,
    delta: Option<Delta>,
    usage: Option<WireUsage>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Message {
    usage: Option<WireUsage>,
}

/// Of a block, or of the message itself.
#[derive(Debug, Deserialize)]
struct Delta {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
    thinking: Option<String>,
    signature: Option<String>,
    partial_json: Option<String>,
    stop_reason: Option<String>,
    stop_details: Option<Value>,
}

/// Counts of the whole message so far; those left out are as they were.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
struct WireUsage {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct OutputDetails {
    thinking_tokens: Option<u64>,
}

impl WireUsage {
    fn merge(&mut self, newer: WireUsage) {
        self.input_tokens = newer.input_tokens.or(self.input_tokens);
        self.cache_creation_input_tokens =
            newer.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.cache_read_input_tokens = newer.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.output_tokens = newer.output_tokens.or(self.output_tokens);
        self.output_tokens_details = newer.output_tokens_details.or(self.output_tokens_details);
    }
}

impl From<WireUsage> for Usage {
    /// This dialect counts what was written to and read from the cache beside `input_tokens`.
    fn from(wire: WireUsage) -> Usage {
        let input = [wire.input_tokens, wire.cache_creation_input_tokens, wire.cache_read_input_tokens];
        Usage {
            estimated: false,
            input_tokens: input.into_iter().flatten().fold(0, u64::saturating_add),
            output_tokens: wire.output_tokens.unwrap_or_default(),
            cached_tokens: wire.cache_read_input_tokens,
            reasoning_tokens: wire.output_tokens_details.and_then(|details| details.thinking_tokens),
        }
    }
}

/// What of earlier frames later ones depend on.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Calls of the client's tools that are open, by the number of their block.
    open: Vec<(u64, Open)>,
    /// How many calls there were.
    calls: u32,
    usage: Option<WireUsage>,
    /// Counts that were read and not told yet.
    untold: bool,
    stop_reason: Option<String>,
}

#[derive(Debug)]
struct Open {
    call: u32,
    /// Some of its arguments were said.
    argued: bool,
}

/// Whether this frame ends the answer.
pub(super) fn closes(frame: &sse::Frame<'_>) -> bool {
    serde_json::from_str::<Wire>(&frame.data).is_ok_and(|wire| wire.kind == "message_stop")
}

impl Reader {
    pub fn read(&mut self, frame: &sse::Frame<'_>, events: &mut Vec<Event>) -> Result<Told, DecodeError> {
        if frame.data.trim().is_empty() {
            return Ok(Told::Nothing);
        }
        let Some(wire) = parse(&frame.data)? else { return Ok(Told::Something) };
        match wire.kind.as_str() {
            "ping" => return Ok(Told::Nothing),
            "message_start" => {
                if let Some(usage) = wire.message.and_then(|message| message.usage) {
                    self.count(usage);
                }
            }
            "content_block_start" => self.start(wire.index, &wire.content_block.unwrap_or_default(), events),
            "content_block_delta" => {
                if let Some(delta) = wire.delta {
                    self.delta(wire.index, delta, events);
                }
            }
            "content_block_stop" => self.stop(wire.index, events),
            "message_delta" => self.message_delta(wire.delta, wire.usage, events),
            "message_stop" => events.push(Event::Done(self.ending())),
            "error" => events.push(Event::Done(self.failure(wire.error))),
            _ => {}
        }
        match events.first() {
            Some(Event::Done(_)) => return Ok(Told::End),
            Some(first) if std::mem::take(&mut self.untold) && !matches!(first, Event::Usage(_)) => {
                events.splice(0..0, self.usage.map(|usage| Event::Usage(usage.into())));
            }
            _ => {}
        }
        Ok(Told::Something)
    }

    fn count(&mut self, usage: WireUsage) {
        self.usage.get_or_insert_default().merge(usage);
        self.untold = true;
    }

    fn start(&mut self, index: Option<u64>, block: &Value, events: &mut Vec<Event>) {
        if block["type"] == "tool_use" {
            let index = index.unwrap_or_default();
            // llama.cpp may begin a block again before its last piece.
            if self.open.iter().any(|(open, _)| *open == index) {
                return;
            }
            self.open.push((index, Open { call: self.calls, argued: false }));
        }
        let before = events.len();
        content(block, &mut self.calls, events);
        // What is fragmented later begins empty.
        if let Some(Event::Tool(tool)) = events.get_mut(before) {
            tool.arguments = tool.arguments.take().filter(|arguments| arguments != "{}");
            if let (Some(_), Some((_, open))) = (&tool.arguments, self.open.last_mut()) {
                open.argued = true;
            }
        }
    }

    fn delta(&mut self, index: Option<u64>, delta: Delta, events: &mut Vec<Event>) {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        match delta.kind.as_deref() {
            Some("text_delta") => events.extend(some(delta.text).map(Event::Token)),
            Some("thinking_delta") => events.extend(some(delta.thinking).map(Event::Reasoning)),
            Some("signature_delta") => events.extend(some(delta.signature).map(signed)),
            Some("input_json_delta") => {
                let index = index.unwrap_or_default();
                // The provider's own tools are not among the open ones.
                let open = self.open.iter_mut().rfind(|(at, _)| *at == index);
                if let (Some((_, open)), Some(arguments)) = (open, some(delta.partial_json)) {
                    open.argued = true;
                    events.push(fragment(open.call, arguments));
                }
            }
            _ => {}
        }
    }

    /// A call without arguments is one with none, in JSON.
    fn stop(&mut self, index: Option<u64>, events: &mut Vec<Event>) {
        let index = index.unwrap_or_default();
        let Some(at) = self.open.iter().rposition(|(open, _)| *open == index) else { return };
        let (_, open) = self.open.remove(at);
        if !open.argued {
            events.push(fragment(open.call, "{}".into()));
        }
    }

    fn message_delta(&mut self, delta: Option<Delta>, usage: Option<WireUsage>, events: &mut Vec<Event>) {
        if let Some(delta) = delta {
            self.stop_reason = delta.stop_reason.or(self.stop_reason.take());
            events.extend(delta.stop_details.as_ref().and_then(explained).map(Event::Refusal));
        }
        if let Some(usage) = usage {
            self.count(usage);
        }
        if std::mem::take(&mut self.untold) {
            events.extend(self.usage.map(|usage| Event::Usage(usage.into())));
        }
    }

    fn ending(&mut self) -> Done {
        Done {
            finish_reason: self.stop_reason.take().map(finish_reason),
            usage: self.usage.map(Usage::from),
            ..Done::ended(Status::Completed)
        }
    }

    fn failure(&self, error: Option<Value>) -> Done {
        Done { usage: self.usage.map(Usage::from), ..failure(&error.unwrap_or_default()) }
    }
}

/// None: an event, or a delta, that is not known and need not have our fields' types.
fn parse(data: &str) -> Result<Option<Wire>, DecodeError> {
    let error = match serde_json::from_str(data) {
        Ok(wire) => return Ok(Some(wire)),
        Err(error) => error,
    };
    const EVENTS: [&str; 8] = [
        "message_start",
        "message_delta",
        "message_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "error",
        "ping",
    ];
    const DELTAS: [&str; 4] = ["text_delta", "thinking_delta", "signature_delta", "input_json_delta"];
    let value: Value = serde_json::from_str(data).unwrap_or_default();
    let unknown = |name: &Value, known: &[&str]| name.as_str().is_some_and(|name| !known.contains(&name));
    match unknown(&value["type"], &EVENTS) || unknown(&value["delta"]["type"], &DELTAS) {
        true => Ok(None),
        false => Err(DecodeError::Malformed(error.to_string())),
    }
}

/// A block, whole or as far as it was said when it was opened. `calls` counts the client's tools that were called.
fn content(block: &Value, calls: &mut u32, events: &mut Vec<Event>) {
    let some = |name: &str| block[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    match block["type"].as_str() {
        Some("text") => events.extend(some("text").map(Event::Token)),
        Some("thinking") => {
            events.extend(some("thinking").map(Event::Reasoning));
            events.extend(some("signature").map(signed));
        }
        Some("redacted_thinking") => events.extend(some("data").map(|signature| {
            Event::Signature(Signature { signature, redacted: true, ..Signature::default() })
        })),
        Some("tool_use") => {
            let arguments = Some(&block["input"]).filter(|input| input.is_object()).map(Value::to_string);
            let (id, name) = (some("id"), some("name"));
            events.push(Event::Tool(Tool { index: *calls, id, name, arguments, signature: None }));
            *calls += 1;
        }
        _ => {}
    }
}

fn signed(signature: String) -> Event {
    Event::Signature(Signature { signature, ..Signature::default() })
}

fn fragment(index: u32, arguments: String) -> Event {
    Event::Tool(Tool { index, arguments: Some(arguments), ..Tool::default() })
}

/// Why the model declined, where the provider says so in words.
fn explained(details: &Value) -> Option<String> {
    details["explanation"].as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn finish_reason(reason: String) -> String {
    let canonical = match reason.as_str() {
        "end_turn" | "stop_sequence" => "stop",
        "max_tokens" | "model_context_window_exceeded" => "length",
        "tool_use" => "tool_calls",
        "refusal" => "content_filter",
        _ => return reason,
    };
    canonical.to_owned()
}

fn failure(error: &Value) -> Done {
    let message = error["message"].as_str().or(error["type"].as_str()).or(error.as_str());
    Done::failed("upstream_error", message.unwrap_or("the provider reported an error"))
}

/// A whole message. Its bytes are kept with the ending, for the client that asked for just this.
pub fn whole(body: &[u8]) -> Result<Vec<Frame>, DecodeError> {
    let message: Value =
        serde_json::from_slice(body).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    if message["type"] == "error" {
        return Ok(super::whole(Provider::Anthropic, body, Vec::new(), failure(&message["error"])));
    }
    let Some(blocks) = message["content"].as_array() else {
        return Err(DecodeError::Malformed("a message without content".into()));
    };
    let (mut events, mut calls) = (Vec::new(), 0);
    for block in blocks {
        content(block, &mut calls, &mut events);
    }
    events.extend(explained(&message["stop_details"]).map(Event::Refusal));
    let usage = WireUsage::deserialize(&message["usage"]).ok().map(Usage::from);
    events.extend(usage.map(Event::Usage));
    let ending = Done {
        finish_reason: message["stop_reason"].as_str().map(|reason| finish_reason(reason.to_owned())),
        usage,
        ..Done::ended(Status::Completed)
    };
    Ok(super::whole(Provider::Anthropic, body, events, ending))
}
