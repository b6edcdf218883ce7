//! Downstream dialects: canonical events in, a client's bytes out.
//!
//! The set is closed, so it is an enum and this file its table of contents: what each dialect says while it is
//! silent, how it ends, and the shape of its errors. Pure. Surfaces know nothing of providers beyond the number
//! that raw frames carry.

pub mod ai_sdk;
pub mod anthropic;
pub mod complaint;
pub mod gemini;
pub mod native;
pub mod openai_chat;
pub mod openai_responses;
pub mod opening;
pub mod plain;

use std::fmt::Display;

pub use complaint::Complaint;

use crate::event::Status;
use crate::log::{EventId, Framing, LogId, Raw, Record};
use crate::sse;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Surface {
    Native,
    /// Token text as raw SSE data, then `[DONE]`: for a bare `EventSource` and for `curl`.
    Plain,
    OpenAiChat,
    OpenAiResponses,
    Anthropic,
    Gemini,
    /// The UI message stream of the AI SDK.
    AiSdk,
}

/// A surface and the options that change its bytes. One rendition is kept for each format in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format {
    pub surface: Surface,
    /// The client asked for token counts (openai-chat's `stream_options.include_usage`).
    pub usage: bool,
    /// Frames carry `id:` lines.
    pub ids: bool,
    /// Which parts an AI SDK client knows.
    pub parts: ai_sdk::Parts,
}

impl Format {
    pub fn new(surface: Surface) -> Format {
        Format { surface, usage: true, ids: true, parts: ai_sdk::Parts::default() }
    }
}

/// How the body ends once the last event is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Clean,
    /// The body is broken off, since the dialect's clients take a clean end for success.
    Broken,
}

impl Surface {
    pub const ALL: [Surface; 7] = [
        Surface::Native,
        Surface::Plain,
        Surface::OpenAiChat,
        Surface::OpenAiResponses,
        Surface::Anthropic,
        Surface::Gemini,
        Surface::AiSdk,
    ];

    /// The name in `?format=`.
    pub fn name(self) -> &'static str {
        match self {
            Surface::Native => "native",
            Surface::Plain => "plain",
            Surface::OpenAiChat => "openai-chat",
            Surface::OpenAiResponses => "openai-responses",
            Surface::Anthropic => "anthropic",
            Surface::Gemini => "gemini",
            Surface::AiSdk => "ai-sdk",
        }
    }

    pub fn parse(name: &str) -> Option<Surface> {
        Surface::ALL.into_iter().find(|surface| surface.name() == name)
    }

    /// The provider dialect whose frames pass unchanged, as the number that they carry (`provider::Provider`).
    pub fn dialect(self) -> Option<u8> {
        match self {
            Surface::Native | Surface::Plain | Surface::AiSdk => None,
            Surface::OpenAiChat => Some(openai_chat::DIALECT),
            Surface::OpenAiResponses => Some(openai_responses::DIALECT),
            Surface::Anthropic => Some(anthropic::DIALECT),
            Surface::Gemini => Some(gemini::DIALECT),
        }
    }

    /// What is sent after a while of silence. A lone comment line: a blank line after it would be an empty event
    /// to openai-python once an `id:` was seen (openai/openai-python#2722). google-genai takes no comments at all.
    pub fn keep_alive(self) -> &'static [u8] {
        match self {
            Surface::Anthropic => b"event: ping\ndata: {\"type\": \"ping\"}\n\n",
            Surface::Gemini => b"\n",
            _ => b":\n",
        }
    }

    pub fn ending(self, status: Status) -> Ending {
        match (self, status) {
            (Surface::Native, _) | (_, Status::Completed | Status::Running) => Ending::Clean,
            // These dialects have a word for it.
            (Surface::OpenAiResponses | Surface::AiSdk, Status::Cancelled) => Ending::Clean,
            _ => Ending::Broken,
        }
    }

    pub fn encoder(self, format: Format, log: LogId) -> Encoder {
        match self {
            Surface::Native => Encoder::Native(native::Encoder::new(log)),
            Surface::Plain => Encoder::Plain(plain::Encoder::new(log)),
            Surface::OpenAiChat => Encoder::OpenAiChat(openai_chat::Encoder::new(format, log)),
            Surface::OpenAiResponses => {
                Encoder::OpenAiResponses(Box::new(openai_responses::Encoder::new(format, log)))
            }
            Surface::Anthropic => Encoder::Anthropic(anthropic::Encoder::new(format, log)),
            Surface::Gemini => Encoder::Gemini(gemini::Encoder::new(log)),
            Surface::AiSdk => Encoder::AiSdk(ai_sdk::Encoder::new(format, log)),
        }
    }

    /// The whole answer, for a client that did not ask for a stream: the provider's own bytes if it gave one of this
    /// dialect. None for surfaces that only stream.
    pub fn collect(self, log: LogId, records: &[Record]) -> Option<Vec<u8>> {
        let whole = self.dialect().map(|dialect| WHOLE | dialect);
        let verbatim = records.iter().find_map(|record| match &record.draft.framing {
            Framing::Raw(raw) if Some(raw.dialect) == whole => Some(raw.bytes.to_vec()),
            _ => None,
        });
        verbatim.or_else(|| {
            Some(match self {
                Surface::OpenAiChat => openai_chat::collect(log, records),
                Surface::OpenAiResponses => openai_responses::collect(log, records),
                Surface::Anthropic => anthropic::collect(log, records),
                Surface::Gemini => gemini::collect(log, records),
                Surface::Native | Surface::Plain | Surface::AiSdk => return None,
            })
        })
    }
}

/// Marks a dialect's number as that of a whole answer, see `provider::WHOLE`.
const WHOLE: u8 = 0x80;

/// A provider's frame as it came, under our id.
fn forward(out: &mut Vec<u8>, raw: &Raw, id: Option<EventId>, usage: bool) {
    let (held, own) = raw.bytes.split_at(raw.own_at as usize);
    out.extend_from_slice(held);
    if own.is_empty() || (raw.usage_only && !usage) {
        return;
    }
    sse::write_id(out, id.as_ref().map(|id| id as &dyn Display));
    out.extend_from_slice(own);
}

/// Turns a log's records, in order from its start, into a client's bytes. Bytes already written never change.
#[derive(Debug)]
pub enum Encoder {
    Native(native::Encoder),
    Plain(plain::Encoder),
    OpenAiChat(openai_chat::Encoder),
    OpenAiResponses(Box<openai_responses::Encoder>),
    Anthropic(anthropic::Encoder),
    Gemini(gemini::Encoder),
    AiSdk(ai_sdk::Encoder),
}

impl Encoder {
    pub fn encode(&mut self, record: &Record, out: &mut Vec<u8>) {
        match self {
            Encoder::Native(encoder) => encoder.encode(record, out),
            Encoder::Plain(encoder) => encoder.encode(record, out),
            Encoder::OpenAiChat(encoder) => encoder.encode(record, out),
            Encoder::OpenAiResponses(encoder) => encoder.encode(record, out),
            Encoder::Anthropic(encoder) => encoder.encode(record, out),
            Encoder::Gemini(encoder) => encoder.encode(record, out),
            Encoder::AiSdk(encoder) => encoder.encode(record, out),
        }
    }
}
