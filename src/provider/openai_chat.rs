//! OpenAI Chat Completions, as spoken by OpenAI and everyone compatible.
//!
//! Streaming: unnamed events of `chat.completion.chunk`, ended by `data: [DONE]`. Differences met in the wild
//! and accepted: `reasoning_content` or `reasoning` (DeepSeek, vLLM), usage in the last chunk with choices
//! (Groq) or in one without, tool calls whose `index` is missing or always 0, an `error` object in a frame.
//! Source: OpenAI's API reference and openai-python 3.54.0's types.

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::{Ask, DecodeError, Frame, Provider};
use crate::chat::Request;
use crate::event::{Done, Event, Status, Tool, Usage};
use crate::log::Raw;
use crate::sse;

/// Usage is always asked for; a client that did not ask does not get to see it.
pub fn ask(request: &Request, model: &str) -> Ask {
    let mut body = request.params.clone();
    body.insert("model".into(), model.into());
    body.insert("messages".into(), json!(request.messages));
    body.insert("stream".into(), request.stream.into());
    if request.stream {
        let mut options = match body.shift_remove("stream_options") {
            Some(Value::Object(options)) => options,
            _ => serde_json::Map::new(),
        };
        options.insert("include_usage".into(), true.into());
        body.insert("stream_options".into(), options.into());
    } else {
        body.shift_remove("stream_options");
    }
    Ask { path: "/chat/completions", body: Value::Object(body).to_string().into() }
}

#[derive(Deserialize)]
struct Chunk {
    choices: Option<Vec<Choice>>,
    usage: Option<WireUsage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    index: Option<u32>,
    delta: Option<Delta>,
    /// Of a whole answer. In a stream some providers (Perplexity) repeat all text so far in it: not read there.
    message: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default, deserialize_with = "text")]
    content: Option<String>,
    refusal: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<Call>>,
}

/// Text; or a list of parts (Mistral), whose texts are joined; or an object (arguments of some local servers), as JSON.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Text;
    impl<'de> Visitor<'de> for Text {
        type Value = Option<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("text, a list of parts or an object")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(text.to_owned()))
        }

        fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
            Ok(Some(text))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
            let mut joined = String::new();
            while let Some(part) = parts.next_element::<Value>()? {
                joined.push_str(part["text"].as_str().or(part.as_str()).unwrap_or_default());
            }
            Ok(Some(joined))
        }

        fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
            let object = serde_json::Map::deserialize(MapAccessDeserializer::new(fields))?;
            Ok(Some(Value::Object(object).to_string()))
        }
    }
    deserializer.deserialize_any(Text)
}

#[derive(Deserialize)]
struct Call {
    index: Option<u32>,
    id: Option<String>,
    function: Option<Function>,
}

#[derive(Deserialize)]
struct Function {
    name: Option<String>,
    #[serde(default, deserialize_with = "text")]
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct WireUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

impl From<WireUsage> for Usage {
    fn from(wire: WireUsage) -> Usage {
        Usage {
            input_tokens: wire.prompt_tokens.unwrap_or_default(),
            output_tokens: wire.completion_tokens.unwrap_or_default(),
            cached_tokens: wire.prompt_tokens_details.and_then(|details| details.cached_tokens),
            reasoning_tokens: wire.completion_tokens_details.and_then(|details| details.reasoning_tokens),
        }
    }
}

#[derive(Debug)]
pub struct Decoder {
    parser: sse::Parser,
    state: State,
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Frames that held no event, waiting for one that does.
    held: Vec<u8>,
    slots: Slots,
    finish_reason: Option<String>,
    usage: Option<Usage>,
    ended: bool,
}

impl Decoder {
    pub fn new(limit: usize) -> Decoder {
        Decoder { parser: sse::Parser::new(limit), state: State::default(), limit }
    }

    pub fn push(&mut self, bytes: &[u8], frames: &mut Vec<Frame>) -> Result<(), DecodeError> {
        let (state, limit) = (&mut self.state, self.limit);
        let mut failed = None;
        self.parser.feed(bytes, |frame| {
            if failed.is_none() && !state.ended {
                failed = state.frame(&frame, limit, frames).err();
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    pub fn finish(&mut self, frames: &mut Vec<Frame>) -> Result<(), DecodeError> {
        let (state, limit) = (&mut self.state, self.limit);
        let mut failed = None;
        self.parser.finish(|frame| {
            if !state.ended {
                failed = state.frame(&frame, limit, frames).err();
            }
        })?;
        // Some servers close right after the terminator, without the blank line that the standard wants: it was said.
        self.parser.feed(b"\n\n", |frame| {
            if !state.ended && frame.data.trim() == "[DONE]" {
                failed = state.frame(&frame, limit, frames).err();
            }
        })?;
        failed.map_or(Ok(()), Err)
    }
}

impl State {
    fn frame(
        &mut self,
        frame: &sse::Frame<'_>,
        limit: usize,
        frames: &mut Vec<Frame>,
    ) -> Result<(), DecodeError> {
        let data = frame.data.trim();
        let mut events = Vec::new();
        let mut usage_only = false;
        if data == "[DONE]" {
            self.ended = true;
            events.push(Event::Done(Done {
                finish_reason: self.finish_reason.take(),
                usage: self.usage,
                ..Done::ended(Status::Completed)
            }));
        } else if !data.is_empty() {
            let chunk: Chunk =
                serde_json::from_str(data).map_err(|error| DecodeError::Malformed(error.to_string()))?;
            usage_only = chunk.usage.is_some() && chunk.choices.as_ref().is_none_or(Vec::is_empty);
            self.chunk(chunk, &mut events);
        } else {
            return Ok(());
        }
        if events.is_empty() {
            self.held.extend_from_slice(frame.raw);
            return if self.held.len() > limit { Err(sse::TooLarge { limit }.into()) } else { Ok(()) };
        }
        let own_at = self.held.len() as u32;
        self.held.extend_from_slice(frame.raw);
        // An exact copy: what is kept must not pin the read buffer's spare room.
        let bytes = std::mem::take(&mut self.held).into_boxed_slice().into();
        let raw = Raw { dialect: Provider::OpenAiChat as u8, own_at, usage_only, bytes };
        frames.push(Frame { events, raw: Some(raw) });
        Ok(())
    }

    fn chunk(&mut self, chunk: Chunk, events: &mut Vec<Event>) {
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            self.ended = true;
            let message = error.get("message").and_then(Value::as_str).or(error.as_str());
            events.push(Event::Done(Done {
                usage: self.usage,
                ..Done::failed("upstream_error", message.unwrap_or("the provider reported an error"))
            }));
            return;
        }
        // Others can only be there if more was asked for than one answer, which no surface shows.
        let choice = chunk.choices.into_iter().flatten().find(|choice| choice.index.unwrap_or(0) == 0);
        if let Some(Choice { delta, finish_reason, .. }) = choice {
            self.finish_reason = finish_reason.or(self.finish_reason.take());
            if let Some(delta) = delta {
                self.delta(delta, events);
            }
        }
        if let Some(usage) = chunk.usage {
            let usage = Usage::from(usage);
            self.usage = Some(usage);
            events.push(Event::Usage(usage));
        }
    }

    fn delta(&mut self, delta: Delta, events: &mut Vec<Event>) {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        events.extend(some(delta.reasoning_content).or(some(delta.reasoning)).map(Event::Reasoning));
        events.extend(some(delta.content).map(Event::Token));
        events.extend(some(delta.refusal).map(Event::Token));
        for call in delta.tool_calls.into_iter().flatten() {
            let (name, arguments) = call.function.map_or((None, None), |f| (some(f.name), some(f.arguments)));
            let id = some(call.id);
            let index = self.slots.place(call.index, id.as_deref());
            events.push(Event::Tool(Tool { index, id, name, arguments }));
        }
    }
}

/// Which call a fragment belongs to, for providers that leave `index` out or always say 0: an id seen before is
/// that call, a new id on a used index is a new call, no id is the call of that index or else the current one.
#[derive(Debug, Default)]
struct Slots {
    calls: Vec<(Option<u32>, Option<String>)>,
}

impl Slots {
    fn place(&mut self, index: Option<u32>, id: Option<&str>) -> u32 {
        let found = match id {
            Some(id) => self.calls.iter().rposition(|(_, known)| known.as_deref() == Some(id)),
            None => self
                .calls
                .iter()
                .rposition(|(known, _)| index.is_some() && *known == index)
                .or_else(|| if index.is_none() { self.calls.len().checked_sub(1) } else { None }),
        };
        let at = found.unwrap_or_else(|| {
            self.calls.push((index, id.map(str::to_owned)));
            self.calls.len() - 1
        });
        at as u32
    }
}

/// A whole `chat.completion`. Its bytes are kept with the ending, for the client that asked for just this.
pub fn whole(body: &[u8]) -> Result<Vec<Frame>, DecodeError> {
    let mut chunk: Chunk =
        serde_json::from_slice(body).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    for choice in chunk.choices.iter_mut().flatten() {
        choice.delta = choice.message.take();
    }
    if chunk.error.as_ref().is_none_or(Value::is_null) && chunk.choices.as_ref().is_none_or(Vec::is_empty) {
        return Err(DecodeError::Malformed("a completion without choices".into()));
    }
    let (mut state, mut events) = (State::default(), Vec::new());
    state.chunk(chunk, &mut events);
    let done = match events.pop_if(|event| matches!(event, Event::Done(_))) {
        Some(done) => done,
        None => Event::Done(Done {
            finish_reason: state.finish_reason.take(),
            usage: state.usage,
            ..Done::ended(Status::Completed)
        }),
    };
    // `own_at` at the end: no frame of a stream is in these bytes.
    let raw = Raw {
        dialect: WHOLE,
        own_at: body.len() as u32,
        usage_only: false,
        bytes: bytes::Bytes::copy_from_slice(body),
    };
    let mut frames = vec![Frame { events, raw: None }, Frame { events: vec![done], raw: Some(raw) }];
    frames.retain(|frame| !frame.events.is_empty());
    Ok(frames)
}

/// The dialect number of a whole JSON answer, as opposed to frames of a stream.
pub const WHOLE: u8 = 0x80 | Provider::OpenAiChat as u8;
