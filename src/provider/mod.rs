//! Upstream dialects: a canonical request out, a provider's bytes in, canonical events.
//!
//! The set is closed, so it is an enum and this file its table of contents. Pure: sockets, keys and time are
//! `relay::upstream`'s. Providers know nothing of surfaces.

pub mod demo;
pub mod openai_chat;

use bytes::Bytes;

use crate::chat::Request;
use crate::event::Event;
use crate::log::{Draft, Framing, Raw};
use crate::sse::TooLarge;

/// A dialect spoken by providers. The numbers are stored with raw frames: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Provider {
    OpenAiChat = 1,
    /// Built in, no network. Its bytes are of the `openai-chat` dialect.
    Demo = 2,
}

/// What is sent to the provider's socket.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// Appended to the provider's base URL.
    pub path: &'static str,
    pub body: Bytes,
}

impl Provider {
    pub const ALL: [Provider; 2] = [Provider::OpenAiChat, Provider::Demo];

    /// The name in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Provider::OpenAiChat => "openai-chat",
            Provider::Demo => "demo",
        }
    }

    pub fn parse(name: &str) -> Option<Provider> {
        Provider::ALL.into_iter().find(|provider| provider.name() == name)
    }

    /// The request in this dialect; `model` is the provider's own name for it.
    pub fn ask(self, request: &Request, model: &str) -> Ask {
        match self {
            Provider::OpenAiChat | Provider::Demo => openai_chat::ask(request, model),
        }
    }

    /// `limit`: the largest frame accepted, in bytes.
    pub fn decoder(self, limit: usize) -> Decoder {
        match self {
            Provider::OpenAiChat | Provider::Demo => Decoder::OpenAiChat(openai_chat::Decoder::new(limit)),
        }
    }
}

/// One frame of the provider: the events it held and its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Never empty: frames without events wait and ride along with the next one that has some.
    pub events: Vec<Event>,
    pub raw: Option<Raw>,
}

impl Frame {
    /// The frame as records-to-be: the bytes go with the last event. `at_ms`: now, since the Unix epoch.
    pub fn into_drafts(self, at_ms: u64, drafts: &mut Vec<Draft>) {
        let last = self.events.len().saturating_sub(1);
        let mut raw = self.raw;
        for (at, event) in self.events.iter().enumerate() {
            let framing = match (&raw, at == last) {
                (None, _) => Framing::Own,
                (Some(_), false) => Framing::Part,
                (Some(_), true) => raw.take().map_or(Framing::Own, Framing::Raw),
            };
            drafts.push(Draft { kind: event.kind() as u8, at_ms, payload: event.data().into(), framing });
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the provider sent a frame that is not of its dialect: {0}")]
    Malformed(String),
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

/// Turns a provider's bytes, cut anywhere, into frames of events.
#[derive(Debug)]
pub enum Decoder {
    OpenAiChat(openai_chat::Decoder),
}

impl Decoder {
    /// Takes the next bytes. Once a frame held the ending, later bytes are ignored.
    pub fn push(&mut self, bytes: &[u8], frames: &mut Vec<Frame>) -> Result<(), DecodeError> {
        match self {
            Decoder::OpenAiChat(decoder) => decoder.push(bytes, frames),
        }
    }

    /// The body ended. Whether that was a proper end is told by an ending among the frames so far.
    pub fn finish(&mut self, frames: &mut Vec<Frame>) -> Result<(), DecodeError> {
        match self {
            Decoder::OpenAiChat(decoder) => decoder.finish(frames),
        }
    }

    /// Takes a whole JSON answer, as a provider gives it that was not asked for a stream.
    pub fn whole(&mut self, body: &[u8]) -> Result<Vec<Frame>, DecodeError> {
        match self {
            Decoder::OpenAiChat(_) => openai_chat::whole(body),
        }
    }
}

/// The message of a provider's error body, whatever its shape.
pub fn error_message(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let error = value.get("error").unwrap_or(&value);
    let text = error.as_str().or_else(|| error.get("message")?.as_str())?;
    Some(text.to_owned())
}
