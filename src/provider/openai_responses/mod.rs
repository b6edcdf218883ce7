//! OpenAI Responses, as spoken by OpenAI and those that follow it.
//!
//! Streaming: events with a `type`, ended by `response.completed`, `incomplete` or `failed`, or an `error`. Only what a
//! reader is told becomes an event; hosted tools and everything unknown ride along with the next frame that says
//! something. Source: OpenAI's API reference and openai-node 7.57's types.

mod ask;

use std::collections::BTreeMap;

use serde_json::Value;

pub use ask::{ask, items};

use super::framer::Told;
use super::{DecodeError, Frame, Provider};
use crate::event::{Done, Event, Signature, Status, Tool, Usage};
use crate::sse;

/// What of earlier frames later ones depend on.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// What is known of the items, by `output_index`.
    items: BTreeMap<u64, Item>,
    calls: u32,
}

#[derive(Debug, Default)]
struct Item {
    /// The place among the calls, if it is one.
    call: Option<u32>,
    arguments: bool,
    /// Its reasoning is told raw, or as a summary: whichever came first.
    raw: Option<bool>,
}

const TERMINAL: [&str; 4] = ["response.completed", "response.incomplete", "response.failed", "error"];

/// Whether this frame ends the answer.
pub(super) fn closes(frame: &sse::Frame<'_>) -> bool {
    let told: Value = serde_json::from_str(frame.data.trim()).unwrap_or_default();
    TERMINAL.contains(&told["type"].as_str().unwrap_or_default())
}

impl Reader {
    pub fn read(&mut self, frame: &sse::Frame<'_>, events: &mut Vec<Event>) -> Result<Told, DecodeError> {
        let data = frame.data.trim();
        // Some servers add the terminator of the older dialect.
        if data.is_empty() || data == "[DONE]" {
            return Ok(Told::Nothing);
        }
        let told: Value =
            serde_json::from_str(data).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        if !told.is_object() {
            return Err(DecodeError::Malformed("a frame that is not an object".into()));
        }
        self.event(told["type"].as_str().unwrap_or(&frame.event), &told, events);
        Ok(if matches!(events.last(), Some(Event::Done(_))) { Told::End } else { Told::Something })
    }

    fn event(&mut self, kind: &str, told: &Value, events: &mut Vec<Event>) {
        let at = told["output_index"].as_u64().unwrap_or_default();
        let delta = || told["delta"].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        match kind {
            "response.output_text.delta" => events.extend(delta().map(Event::Token)),
            "response.refusal.delta" => events.extend(delta().map(Event::Refusal)),
            "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
                let raw = kind == "response.reasoning_text.delta";
                let item = self.items.entry(at).or_default();
                if *item.raw.get_or_insert(raw) == raw {
                    events.extend(delta().map(Event::Reasoning));
                }
            }
            // Summaries are paragraphs.
            "response.reasoning_summary_part.added" => {
                let next = told["summary_index"].as_u64().is_some_and(|index| index > 0);
                let item = self.items.entry(at).or_default();
                if next && item.raw == Some(false) {
                    events.push(Event::Reasoning("\n\n".into()));
                }
            }
            "response.output_item.added" => self.added(at, &told["item"], events),
            "response.output_item.done" => self.item_done(at, &told["item"], events),
            "response.function_call_arguments.delta" => self.arguments(at, delta(), events),
            "response.function_call_arguments.done" if !self.items.entry(at).or_default().arguments => {
                self.arguments(at, text(&told["arguments"]), events);
            }
            "error" => {
                let error = if told["error"].is_object() { &told["error"] } else { told };
                events.push(Event::Done(failed(error)));
            }
            "response.completed" | "response.incomplete" | "response.failed" => {
                self.ended(&told["response"], kind, events);
            }
            _ => {}
        }
    }

    fn added(&mut self, at: u64, item: &Value, events: &mut Vec<Event>) {
        let known = self.items.entry(at).or_default();
        if item["type"] != "function_call" || known.call.is_some() {
            return;
        }
        let arguments = text(&item["arguments"]);
        (known.call, known.arguments) = (Some(self.calls), arguments.is_some());
        events.push(Event::Tool(Tool {
            index: self.calls,
            id: text(&item["call_id"]).or(text(&item["id"])),
            name: text(&item["name"]),
            arguments,
            signature: None,
        }));
        self.calls += 1;
    }

    fn arguments(&mut self, at: u64, arguments: Option<String>, events: &mut Vec<Event>) {
        let item = self.items.entry(at).or_default();
        if let (Some(index), Some(arguments)) = (item.call, arguments) {
            item.arguments = true;
            events.push(Event::Tool(Tool { index, arguments: Some(arguments), ..Tool::default() }));
        }
    }

    /// What the finished item says that was not said before.
    fn item_done(&mut self, at: u64, item: &Value, events: &mut Vec<Event>) {
        match item["type"].as_str() {
            Some("function_call") => {
                let known = self.items.entry(at).or_default();
                if known.call.is_none() {
                    self.added(at, item, events);
                } else if !known.arguments {
                    self.arguments(at, text(&item["arguments"]), events);
                }
            }
            Some("reasoning") => events.extend(proof(item)),
            _ => {}
        }
    }

    fn ended(&self, response: &Value, kind: &str, events: &mut Vec<Event>) {
        let usage = usage(&response["usage"]);
        events.extend(usage.map(Event::Usage));
        let finish_reason = match kind {
            "response.failed" => {
                events.push(Event::Done(Done { usage, ..failed(&response["error"]) }));
                return;
            }
            "response.incomplete" => {
                match response["incomplete_details"]["reason"].as_str().unwrap_or("incomplete") {
                    "max_output_tokens" => "length",
                    other => other,
                }
            }
            _ if self.calls > 0 => "tool_calls",
            _ => "stop",
        };
        let finish_reason = Some(finish_reason.to_owned());
        events.push(Event::Done(Done { finish_reason, usage, ..Done::ended(Status::Completed) }));
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// What the provider wants to see again of a reasoning item.
fn proof(item: &Value) -> Option<Event> {
    let signature = text(&item["encrypted_content"])?;
    Some(Event::Signature(Signature {
        signature,
        redacted: item["redacted"] == true,
        ..Signature::default()
    }))
}

fn failed(error: &Value) -> Done {
    let message = error["message"].as_str().or(error["code"].as_str());
    Done::failed("upstream_error", message.unwrap_or("the provider reported an error"))
}

fn usage(usage: &Value) -> Option<Usage> {
    usage.is_object().then(|| Usage {
        estimated: false,
        input_tokens: usage["input_tokens"].as_u64().unwrap_or_default(),
        output_tokens: usage["output_tokens"].as_u64().unwrap_or_default(),
        cached_tokens: usage["input_tokens_details"]["cached_tokens"].as_u64(),
        reasoning_tokens: usage["output_tokens_details"]["reasoning_tokens"].as_u64(),
    })
}

/// A whole response object. Its bytes are kept with the ending, for the client that asked for just this.
pub fn whole(body: &[u8]) -> Result<Vec<Frame>, DecodeError> {
    let response: Value =
        serde_json::from_slice(body).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    let kind = match response["status"].as_str() {
        _ if response["error"].is_object() => "response.failed",
        Some("failed" | "cancelled") => "response.failed",
        Some("incomplete") => "response.incomplete",
        Some("queued" | "in_progress") => {
            return Err(DecodeError::Malformed("a response that is not finished".into()));
        }
        _ if response["output"].is_array() => "response.completed",
        _ => return Err(DecodeError::Malformed("a response without output".into())),
    };
    let (mut state, mut events) = (Reader::default(), Vec::new());
    for (at, item) in response["output"].as_array().into_iter().flatten().enumerate() {
        match item["type"].as_str() {
            Some("message") => {
                for part in item["content"].as_array().into_iter().flatten() {
                    events.extend(text(&part["text"]).map(Event::Token));
                    events.extend(text(&part["refusal"]).map(Event::Refusal));
                }
            }
            Some("reasoning") => events.extend(thoughts(item).map(Event::Reasoning)),
            _ => {}
        }
        state.item_done(at as u64, item, &mut events);
    }
    state.ended(&response, kind, &mut events);
    Ok(super::whole(Provider::OpenAiResponses, body, events, Done::ended(Status::Completed)))
}

/// The text of a reasoning item: raw if it is there, else the paragraphs of its summary.
fn thoughts(item: &Value) -> Option<String> {
    let lists = [&item["content"], &item["summary"]];
    let texts = lists.iter().find_map(|list| list.as_array().filter(|list| !list.is_empty()))?;
    let texts: Vec<&str> = texts.iter().filter_map(|part| part["text"].as_str()).collect();
    Some(texts.join("\n\n")).filter(|text| !text.is_empty())
}
