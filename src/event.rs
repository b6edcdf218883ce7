//! The canonical event: one thing that happened in a stream, whatever dialect said it.
//!
//! Providers decode into it, surfaces encode from it, the log keeps it. An event's JSON data is what the
//! native surface prints, so the log's payload and the wire are the same bytes. No clock, no I/O.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Where a stream is in its life. Everything but `Running` is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Running,
    Completed,
    Failed,
    Cancelled,
    Interrupted,
}

impl Status {
    pub const ALL: [Status; 5] =
        [Status::Running, Status::Completed, Status::Failed, Status::Cancelled, Status::Interrupted];

    pub fn as_str(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
            Status::Interrupted => "interrupted",
        }
    }
}

/// The first event of every log: which stream this is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    pub stream: String,
    pub session: Option<String>,
    /// Who asked, in a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    pub model: String,
    /// The name of the first target's provider, as configured.
    pub provider: String,
    /// Seconds since the Unix epoch.
    pub created_at: u64,
    /// The answer's id in its client's own terms, where the client chose it: an AI SDK message that is gone on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What the Responses dialect repeats of its request in every answer; there if a client of that dialect asked, and no
    /// provider of it answers in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Map<String, Value>>,
}

/// A piece of a tool call. `arguments` is a fragment of JSON text; `index` says which call it belongs to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    pub index: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
    /// What the provider wants to see again with this call (Gemini's `thoughtSignature`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// Proof of a block of reasoning, which the provider wants to see again: it closes the block.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Signature {
    /// Always empty: a signature is printed as a piece of reasoning.
    pub text: String,
    pub signature: String,
    /// The block has no text at all: the provider keeps it to itself (Anthropic's `redacted_thinking`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
}

/// Tokens, as the provider counted them. The last one seen wins; they are never added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub input_tokens: u64,
    pub output_tokens: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
    /// The provider never said: counted here, roughly.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
}

impl std::ops::Add for Usage {
    type Output = Usage;

    /// What two requests cost together.
    fn add(self, other: Usage) -> Usage {
        let sum = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or_default() + b.unwrap_or_default()),
        };
        Usage {
            input_tokens: self.input_tokens + other.input_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
            cached_tokens: sum(self.cached_tokens, other.cached_tokens),
            reasoning_tokens: sum(self.reasoning_tokens, other.reasoning_tokens),
            estimated: self.estimated || other.estimated,
        }
    }
}

/// A visible seam: `retried`, `fallback`, `continued`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    pub code: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// Why a stream did not complete. `code` is one of the documented error codes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub code: String,
    pub message: String,
}

/// The ending: always the last event of a log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Who stopped it, for `cancelled`: a user, `policy` or `backend`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl Done {
    pub fn ended(status: Status) -> Done {
        Done { status, finish_reason: None, usage: None, error: None, by: None }
    }

    pub fn failed(code: &str, message: impl Into<String>) -> Done {
        Done {
            error: Some(Failure { code: code.into(), message: message.into() }),
            ..Done::ended(Status::Failed)
        }
    }

    pub fn cancelled(by: impl Into<String>) -> Done {
        Done { by: Some(by.into()), ..Done::ended(Status::Cancelled) }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Start(Start),
    Token(String),
    Reasoning(String),
    Tool(Tool),
    Usage(Usage),
    Notice(Notice),
    Done(Done),
    /// The model declines, in words.
    Refusal(String),
    Signature(Signature),
}

/// The type of an event, one byte in the log. Values are stored: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Start = 1,
    Token = 2,
    Reasoning = 3,
    Tool = 4,
    Usage = 5,
    Notice = 6,
    Done = 7,
    Refusal = 8,
    Signature = 9,
}

impl Kind {
    /// What says something to the reader, as opposed to counts, notices and proofs.
    pub const SPOKEN: [Kind; 4] = [Kind::Token, Kind::Refusal, Kind::Reasoning, Kind::Tool];

    /// Whether a draft of this kind is one of [`Kind::SPOKEN`].
    pub fn says(kind: u8) -> bool {
        Kind::SPOKEN.iter().any(|spoken| *spoken as u8 == kind)
    }

    pub fn from_u8(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Start,
            2 => Kind::Token,
            3 => Kind::Reasoning,
            4 => Kind::Tool,
            5 => Kind::Usage,
            6 => Kind::Notice,
            7 => Kind::Done,
            8 => Kind::Refusal,
            9 => Kind::Signature,
            _ => return None,
        })
    }

    /// The event's name on every transport: SSE `event:`, poll `type`, WebSocket `type`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Start => "start",
            Kind::Token | Kind::Refusal => "token",
            Kind::Reasoning | Kind::Signature => "reasoning",
            Kind::Tool => "tool",
            Kind::Usage => "usage",
            Kind::Notice => "notice",
            Kind::Done => "done",
        }
    }
}

/// The data of `token` and `reasoning`.
#[derive(Serialize, Deserialize)]
struct Text<T> {
    text: T,
}

/// A refusal is printed as a token that says so.
#[derive(Serialize, Deserialize)]
struct Declined<T> {
    text: T,
    refusal: bool,
}

impl Event {
    pub fn kind(&self) -> Kind {
        match self {
            Event::Start(_) => Kind::Start,
            Event::Token(_) => Kind::Token,
            Event::Reasoning(_) => Kind::Reasoning,
            Event::Tool(_) => Kind::Tool,
            Event::Usage(_) => Kind::Usage,
            Event::Notice(_) => Kind::Notice,
            Event::Done(_) => Kind::Done,
            Event::Refusal(_) => Kind::Refusal,
            Event::Signature(_) => Kind::Signature,
        }
    }

    /// The event's data: one line of JSON.
    pub fn data(&self) -> Vec<u8> {
        match self {
            Event::Start(start) => json(start),
            Event::Token(text) | Event::Reasoning(text) => {
                // As large as it will be: what is too much would be kept as long as the event.
                let mut data = Vec::with_capacity(text.len() + r#"{"text":""}"#.len());
                serde_json::to_writer(&mut data, &Text { text }).expect("a string is JSON");
                data
            }
            Event::Tool(tool) => json(tool),
            Event::Usage(usage) => json(usage),
            Event::Notice(notice) => json(notice),
            Event::Done(done) => json(done),
            Event::Refusal(text) => json(&Declined { text, refusal: true }),
            Event::Signature(signature) => json(signature),
        }
    }

    /// The inverse of [`Event::data`].
    pub fn parse(kind: Kind, data: &[u8]) -> Result<Event, serde_json::Error> {
        Ok(match kind {
            Kind::Start => Event::Start(serde_json::from_slice(data)?),
            Kind::Token => Event::Token(serde_json::from_slice::<Text<String>>(data)?.text),
            Kind::Reasoning => Event::Reasoning(serde_json::from_slice::<Text<String>>(data)?.text),
            Kind::Tool => Event::Tool(serde_json::from_slice(data)?),
            Kind::Usage => Event::Usage(serde_json::from_slice(data)?),
            Kind::Notice => Event::Notice(serde_json::from_slice(data)?),
            Kind::Done => Event::Done(serde_json::from_slice(data)?),
            Kind::Refusal => Event::Refusal(serde_json::from_slice::<Declined<String>>(data)?.text),
            Kind::Signature => Event::Signature(serde_json::from_slice(data)?),
        })
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("an event has only string keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_round_trips_and_is_one_line() {
        let events = [
            Event::Token("a\nb \u{1F980} \"q\" \r".into()),
            Event::Reasoning(String::new()),
            Event::Tool(Tool {
                index: 1,
                id: Some("c".into()),
                arguments: Some("{\"".into()),
                ..Tool::default()
            }),
            Event::Refusal("I'm sorry".into()),
            Event::Signature(Signature { signature: "c2ln".into(), ..Signature::default() }),
            Event::Usage(Usage { input_tokens: 1, output_tokens: 2, ..Usage::default() }),
            Event::Done(Done::failed("too_large", "x")),
            Event::Done(Done::cancelled("policy")),
        ];
        for event in events {
            let data = event.data();
            assert!(!data.contains(&b'\n') && !data.contains(&b'\r'));
            assert_eq!(Event::parse(event.kind(), &data).expect("parses"), event);
        }
    }
}
