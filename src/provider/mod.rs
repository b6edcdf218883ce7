//! Upstream dialects: a canonical request out, a provider's bytes in, canonical events.
//!
//! The set is closed, so it is an enum and this file its table of contents. Pure: sockets, keys and time are
//! `relay::upstream`'s. Providers know nothing of surfaces.

pub mod anthropic;
pub mod demo;
mod framer;
pub mod gemini;
pub mod ollama;
pub mod openai_chat;
pub mod openai_responses;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::chat::{Invalid, Request};
use crate::event::{Done, Event};
use crate::log::{Draft, Framing, Raw};
use crate::sse::{self, TooLarge};
use framer::{Framer, Told};

/// A dialect spoken by providers. The numbers are stored with raw frames: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Provider {
    OpenAiChat = 1,
    /// Built in, no network. Its bytes are of the `openai-chat` dialect.
    Demo = 2,
    OpenAiResponses = 3,
    Anthropic = 4,
    Gemini = 5,
    Ollama = 6,
}

/// Set in a dialect's number when the bytes are a whole JSON answer, as opposed to frames of a stream.
pub const WHOLE: u8 = 0x80;

/// What is sent to the provider's socket.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// Appended to the provider's base URL.
    pub path: String,
    /// The dialect's own, beside the credential.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Ask {
    pub fn new(path: impl Into<String>, body: Map<String, Value>) -> Ask {
        Ask { path: path.into(), headers: Vec::new(), body: Value::Object(body).to_string().into() }
    }
}

impl Provider {
    pub const ALL: [Provider; 6] = [
        Provider::OpenAiChat,
        Provider::OpenAiResponses,
        Provider::Anthropic,
        Provider::Gemini,
        Provider::Ollama,
        Provider::Demo,
    ];

    /// The name in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Provider::OpenAiChat => "openai-chat",
            Provider::OpenAiResponses => "openai-responses",
            Provider::Anthropic => "anthropic",
            Provider::Gemini => "gemini",
            Provider::Ollama => "ollama",
            Provider::Demo => "demo",
        }
    }

    pub fn parse(name: &str) -> Option<Provider> {
        Provider::ALL.into_iter().find(|provider| provider.name() == name)
    }

    /// The request in this dialect; `model` is the provider's own name for it. What it cannot say is refused by field.
    pub fn ask(self, request: &Request, model: &str) -> Result<Ask, Invalid> {
        if let (Some(invalid), None) = (&request.untranslatable, request.verbatim(self as u8)) {
            return Err(invalid.clone());
        }
        match self {
            Provider::OpenAiChat | Provider::Demo => openai_chat::ask(request, model),
            Provider::OpenAiResponses => openai_responses::ask(request, model),
            Provider::Anthropic => anthropic::ask(request, model),
            Provider::Gemini => gemini::ask(request, model),
            Provider::Ollama => ollama::ask(request, model),
        }
    }

    /// Whether its models go on with the beginning of an answer that stands last in a request.
    pub fn prefills(self) -> bool {
        matches!(self, Provider::Anthropic | Provider::Ollama | Provider::Demo)
    }

    /// Whether white space at the end of such a beginning is left out of the request.
    pub fn trims(self) -> bool {
        self == Provider::Anthropic
    }

    /// The header that carries a key.
    pub fn credential(self, key: &str) -> (&'static str, String) {
        match self {
            Provider::Anthropic => ("x-api-key", key.to_owned()),
            Provider::Gemini => ("x-goog-api-key", key.to_owned()),
            _ => ("authorization", format!("Bearer {key}")),
        }
    }

    /// Headers that every request needs.
    pub fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Provider::Anthropic => &[("anthropic-version", "2023-06-01")],
            _ => &[],
        }
    }

    /// Where its models are listed.
    pub fn models_path(self) -> &'static str {
        match self {
            Provider::OpenAiChat | Provider::OpenAiResponses | Provider::Demo => "/models",
            Provider::Anthropic => "/v1/models?limit=1000",
            Provider::Gemini => "/v1beta/models?pageSize=1000",
            Provider::Ollama => "/api/tags",
        }
    }

    /// The names in a list of models.
    pub fn models(self, body: &[u8]) -> Vec<String> {
        let list: Value = serde_json::from_slice(body).unwrap_or_default();
        let (list, name) = match self {
            Provider::Gemini | Provider::Ollama => (&list["models"], "name"),
            _ => (&list["data"], "id"),
        };
        let names = list.as_array().into_iter().flatten().filter_map(|model| model[name].as_str());
        names.map(|name| name.strip_prefix("models/").unwrap_or(name).to_owned()).collect()
    }

    /// `limit`: the largest frame accepted, in bytes.
    pub fn decoder(self, limit: usize) -> Decoder {
        let events = |dialect, reader| Wire::Events(Framer::new(dialect, limit).into(), reader);
        let wire = match self {
            // The demo's bytes are of that dialect.
            Provider::OpenAiChat | Provider::Demo => {
                events(Provider::OpenAiChat, Reader::OpenAiChat(openai_chat::Reader::default()))
            }
            Provider::OpenAiResponses => {
                events(self, Reader::OpenAiResponses(openai_responses::Reader::default()))
            }
            Provider::Anthropic => events(self, Reader::Anthropic(anthropic::Reader::default())),
            Provider::Gemini => events(self, Reader::Gemini(gemini::Reader::default())),
            Provider::Ollama => Wire::Lines(ollama::Decoder::new(limit)),
        };
        Decoder { dialect: self, wire }
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
                (Some(raw), false) => Framing::Part(raw.dialect),
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
pub struct Decoder {
    dialect: Provider,
    wire: Wire,
}

#[derive(Debug)]
enum Wire {
    /// Server-sent events.
    Events(Box<Framer>, Reader),
    /// JSON lines.
    Lines(ollama::Decoder),
}

/// Reads one event of the wire after the other; each dialect keeps what it needs between them.
#[derive(Debug)]
enum Reader {
    OpenAiChat(openai_chat::Reader),
    OpenAiResponses(openai_responses::Reader),
    Anthropic(anthropic::Reader),
    Gemini(gemini::Reader),
}

impl Reader {
    fn read(&mut self, frame: &sse::Frame<'_>, events: &mut Vec<Event>) -> Result<Told, DecodeError> {
        match self {
            Reader::OpenAiChat(reader) => reader.read(frame, events),
            Reader::OpenAiResponses(reader) => reader.read(frame, events),
            Reader::Anthropic(reader) => reader.read(frame, events),
            Reader::Gemini(reader) => reader.read(frame, events),
        }
    }

    /// What the end of the body says, where the dialect has no other end.
    fn close(&mut self) -> Vec<Event> {
        match self {
            Reader::Gemini(reader) => reader.close(),
            _ => Vec::new(),
        }
    }

    /// Whether a frame ends the answer.
    fn closes(&self, frame: &sse::Frame<'_>) -> bool {
        match self {
            Reader::OpenAiChat(_) => openai_chat::closes(frame),
            Reader::OpenAiResponses(_) => openai_responses::closes(frame),
            Reader::Anthropic(_) => anthropic::closes(frame),
            Reader::Gemini(_) => gemini::closes(frame),
        }
    }
}

impl Decoder {
    /// Takes the next bytes. Once a frame held the ending, later bytes are ignored.
    pub fn push(&mut self, bytes: &[u8], frames: &mut Vec<Frame>) -> Result<(), DecodeError> {
        match &mut self.wire {
            Wire::Events(framer, reader) => framer.push(bytes, frames, reader),
            Wire::Lines(decoder) => decoder.push(bytes, frames),
        }
    }

    /// The body ended. Whether that was a proper end is told by an ending among the frames so far.
    pub fn finish(&mut self, frames: &mut Vec<Frame>) -> Result<(), DecodeError> {
        match &mut self.wire {
            Wire::Events(framer, reader) => framer.finish(frames, reader),
            Wire::Lines(decoder) => decoder.finish(frames),
        }
    }

    /// Takes a whole JSON answer, as a provider gives it that was not asked for a stream.
    pub fn whole(&mut self, body: &[u8]) -> Result<Vec<Frame>, DecodeError> {
        match self.dialect {
            Provider::OpenAiChat | Provider::Demo => openai_chat::whole(body),
            Provider::OpenAiResponses => openai_responses::whole(body),
            Provider::Anthropic => anthropic::whole(body),
            Provider::Gemini => gemini::whole(body),
            Provider::Ollama => ollama::whole(body),
        }
    }
}

/// A whole answer's events, with its bytes beside the ending, for the client that asked for just this.
fn whole(dialect: Provider, body: &[u8], mut events: Vec<Event>, ending: Done) -> Vec<Frame> {
    let done = match events.pop_if(|event| matches!(event, Event::Done(_))) {
        Some(done) => done,
        None => Event::Done(ending),
    };
    // `own_at` at the end: no frame of a stream is in these bytes.
    let raw = Raw {
        dialect: WHOLE | dialect as u8,
        own_at: body.len() as u32,
        usage_only: false,
        bytes: Bytes::copy_from_slice(body),
    };
    let mut frames = vec![Frame { events, raw: None }, Frame { events: vec![done], raw: Some(raw) }];
    frames.retain(|frame| !frame.events.is_empty());
    frames
}

/// Reads a frame's JSON. Servers that cut text by UTF-16 units write half a character as a lone `\\ud83d`: what is not
/// a character cannot be kept as text, so each half becomes U+FFFD; the frame's own bytes stay as they are.
fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, DecodeError> {
    serde_json::from_str(text).or_else(|error| {
        let malformed = |error: serde_json::Error| DecodeError::Malformed(error.to_string());
        match whole_characters(text) {
            Some(mended) => serde_json::from_str(&mended).map_err(malformed),
            None => Err(malformed(error)),
        }
    })
}

/// The text with every lone half of a surrogate pair replaced, if there is one.
fn whole_characters(text: &str) -> Option<String> {
    let half = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok().filter(|unit| (0xD800..0xE000).contains(unit))
    };
    let (mut mended, mut from, mut at) = (String::new(), 0, 0);
    while let Some(found) = text[at..].find('\\') {
        at += found;
        match (half(at), half(at + 6)) {
            (Some(0xD800..0xDC00), Some(0xDC00..0xE000)) => at += 12,
            (Some(_), _) => {
                mended.push_str(&text[from..at]);
                mended.push('\u{FFFD}');
                at += 6;
                from = at;
            }
            // Past the escaped character, which may be a backslash.
            (None, _) => at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    (from > 0).then(|| mended + &text[from..])
}

/// The message of a provider's error body, whatever its shape.
pub fn error_message(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let error = value.get("error").unwrap_or(&value);
    let text = error.as_str().or_else(|| error.get("message")?.as_str())?;
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_characters_do_not_end_a_stream() {
        let read = |text: &str| json::<String>(text).map_err(|error| error.to_string());
        assert_eq!(read(r#""a\ud83d""#).as_deref(), Ok("a\u{FFFD}"));
        assert_eq!(read(r#""\udc4b b\n""#).as_deref(), Ok("\u{FFFD} b\n"));
        assert_eq!(read(r#""\ud83d\udc4b\ud83d""#).as_deref(), Ok("\u{1F44B}\u{FFFD}"));
        assert_eq!(read(r#""\\ud83d \ud83d""#).as_deref(), Ok("\\ud83d \u{FFFD}"));
        assert!(read(r#""a\u12"#).is_err() && read(r#""open \ud83d"#).is_err());
    }

    #[test]
    fn what_went_wrong_first_is_told_however_the_bytes_are_cut() {
        let body = ["data: {oops}\n\ndata: ", &"x".repeat(100), "\n\n"].concat();
        for dialect in Provider::ALL {
            let error = |size| {
                let (mut decoder, mut frames) = (dialect.decoder(64), Vec::new());
                body.as_bytes().chunks(size).find_map(|piece| decoder.push(piece, &mut frames).err())
            };
            let first = error(1);
            assert!(matches!(first, Some(DecodeError::Malformed(_))), "{dialect:?}: {first:?}");
            for size in 2..=body.len() {
                assert_eq!(error(size), first, "{dialect:?} by {size}");
            }
        }
    }
}
