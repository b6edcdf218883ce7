//! A log read to the end so far: text, reasoning, tool calls, usage, ending.
//!
//! What snapshots, late WebSocket viewers and non-streaming answers show. Built from events in order.

use serde::Serialize;

use super::Record;
use crate::event::{Done, Event, Kind, Signature, Start, Usage};

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ToolCall {
    pub index: u32,
    pub id: Option<String>,
    pub name: Option<String>,
    pub arguments: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// A block of reasoning, whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Thought {
    pub text: String,
    pub signature: Option<String>,
    pub redacted: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Transcript {
    pub start: Option<Start>,
    pub text: String,
    /// What the model said instead of an answer.
    pub refusal: String,
    pub reasoning: String,
    /// The same, block by block: a signature closes one.
    pub thoughts: Vec<Thought>,
    pub tool_calls: Vec<ToolCall>,
    pub usage: Option<Usage>,
    pub done: Option<Done>,
}

impl Transcript {
    /// Reads a stream's log. Records that are not events of this version are passed over.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Transcript {
        let mut transcript = Transcript::default();
        for record in records {
            if let Some(Ok(event)) =
                Kind::from_u8(record.draft.kind).map(|kind| Event::parse(kind, &record.draft.payload))
            {
                transcript.push(event);
            }
        }
        transcript
    }

    /// All that was said, as the native surface's `token` events say it.
    pub fn said(&self) -> String {
        format!("{}{}", self.text, self.refusal)
    }

    pub fn push(&mut self, event: Event) {
        match event {
            Event::Start(start) => self.start = Some(start),
            Event::Token(text) => self.text.push_str(&text),
            Event::Refusal(text) => self.refusal.push_str(&text),
            Event::Reasoning(text) => {
                self.reasoning.push_str(&text);
                match self.thoughts.last_mut().filter(|open| open.signature.is_none()) {
                    Some(open) => open.text.push_str(&text),
                    None => self.thoughts.push(Thought { text, ..Thought::default() }),
                }
            }
            Event::Signature(Signature { signature, redacted, .. }) => {
                match self.thoughts.last_mut().filter(|open| open.signature.is_none() && !redacted) {
                    Some(open) => open.signature = Some(signature),
                    None => self.thoughts.push(Thought {
                        signature: Some(signature),
                        redacted,
                        ..Thought::default()
                    }),
                }
            }
            Event::Tool(piece) => {
                let at =
                    self.tool_calls.iter().position(|call| call.index == piece.index).unwrap_or_else(|| {
                        self.tool_calls.push(ToolCall { index: piece.index, ..ToolCall::default() });
                        self.tool_calls.len() - 1
                    });
                let call = &mut self.tool_calls[at];
                call.id = piece.id.or(call.id.take());
                call.name = piece.name.or(call.name.take());
                call.signature = piece.signature.or(call.signature.take());
                call.arguments.push_str(piece.arguments.as_deref().unwrap_or_default());
            }
            Event::Usage(usage) => self.usage = Some(usage),
            Event::Notice(_) => {}
            Event::Done(done) => self.done = Some(done),
        }
    }
}
