//! OpenAI Chat Completions, as spoken by OpenAI and everyone compatible.
//!
//! Streaming: unnamed events of `chat.completion.chunk`, ended by `data: [DONE]`. Differences met in the wild
//! and accepted: `reasoning_content` or `reasoning` (DeepSeek, vLLM), usage in the last chunk with choices
//! (Groq) or in one without, tool calls whose `index` is missing or always 0, an `error` object in a frame.
//! Source: OpenAI's API reference and openai-python 3.54.0's types.

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::framer::Told;
use super::{Ask, DecodeError, Frame, Provider};
use crate::chat::asked::Params;
use crate::chat::{Invalid, Message, Request};
use crate::event::{Done, Event, Status, Tool, Usage};
use crate::sse;

/// Usage is always asked for; a client that did not ask does not get to see it.
pub fn ask(request: &Request, model: &str) -> Result<Ask, Invalid> {
    translated(request)?;
    let mut body = request.params.clone();
    body.insert("model".into(), model.into());
    body.insert("messages".into(), request.messages.iter().map(message).collect());
    if let Some(budget) = body.shift_remove("thinking_budget") {
        body.entry("reasoning_effort").or_insert(effort(&budget));
    }
    body.insert("stream".into(), request.stream.into());
    if request.stream {
        let mut options = match body.shift_remove("stream_options") {
            Some(Value::Object(options)) => options,
            _ => Map::new(),
        };
        options.insert("include_usage".into(), true.into());
        body.insert("stream_options".into(), options.into());
    } else {
        body.shift_remove("stream_options");
    }
    Ok(Ask::new("/chat/completions", body))
}

/// What Chat Completions has, and what compatible servers add that other dialects have too.
const KNOWN: [&str; 37] = [
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "metadata",
    "modalities",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream_options",
    "temperature",
    "thinking_budget",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
    "min_p",
    "repetition_penalty",
    "chat_template_kwargs",
];

/// This dialect's own clients may send what they like, and the provider refuses it; a client of another one is told here
/// what cannot be said.
fn translated(request: &Request) -> Result<(), Invalid> {
    if request.original.is_none() {
        return Ok(());
    }
    for (at, message) in request.messages.iter().enumerate() {
        message.parts(at)?;
    }
    let mut params = Params::of(request);
    params.functions()?;
    params.ignore(&KNOWN);
    params.finish("openai-chat")
}

/// A message without what only other dialects know: their proofs of reasoning, which nobody else can check.
fn message(message: &Message) -> Value {
    let mut message = message.clone();
    if message.rest.get("reasoning").is_some_and(Value::is_array) {
        message.rest.shift_remove("reasoning");
    }
    for call in message.rest.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(signature) = call.as_object_mut().and_then(|call| call.shift_remove("signature")) {
            call["extra_content"] = json!({"google": {"thought_signature": signature}});
        }
    }
    json!(message)
}

/// A number of tokens for reasoning as one of the levels that this dialect has.
fn effort(budget: &Value) -> Value {
    match budget.as_i64() {
        Some(0) => "none".into(),
        Some(1..=2048) => "low".into(),
        Some(2049..=8192) => "medium".into(),
        Some(8193..) => "high".into(),
        _ => Value::Null,
    }
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
            let object = Map::deserialize(MapAccessDeserializer::new(fields))?;
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
    extra_content: Option<Extra>,
}

/// Google's own word for what its models want to see again.
#[derive(Deserialize)]
struct Extra {
    google: Option<Google>,
}

#[derive(Deserialize)]
struct Google {
    thought_signature: Option<String>,
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
            estimated: false,
        }
    }
}

/// What of earlier frames later ones depend on.
#[derive(Debug, Default)]
pub(super) struct Reader {
    slots: Slots,
    finish_reason: Option<String>,
    usage: Option<Usage>,
}

/// Whether this frame ends the answer.
pub(super) fn closes(frame: &sse::Frame<'_>) -> bool {
    frame.data.trim() == "[DONE]"
}

impl Reader {
    pub fn read(&mut self, frame: &sse::Frame<'_>, events: &mut Vec<Event>) -> Result<Told, DecodeError> {
        let data = frame.data.trim();
        if data.is_empty() {
            return Ok(Told::Nothing);
        }
        if data == "[DONE]" {
            events.push(Event::Done(Done {
                finish_reason: self.finish_reason.take(),
                usage: self.usage,
                ..Done::ended(Status::Completed)
            }));
            return Ok(Told::End);
        }
        let chunk: Chunk = super::json(data)?;
        let usage_only = chunk.usage.is_some() && chunk.choices.as_ref().is_none_or(Vec::is_empty);
        self.chunk(chunk, events);
        Ok(match events.last() {
            Some(Event::Done(_)) => Told::End,
            _ if usage_only => Told::Usage,
            _ => Told::Something,
        })
    }

    fn chunk(&mut self, chunk: Chunk, events: &mut Vec<Event>) {
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
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
        events.extend(some(delta.refusal).map(Event::Refusal));
        for call in delta.tool_calls.into_iter().flatten() {
            let (name, arguments) = call.function.map_or((None, None), |f| (some(f.name), some(f.arguments)));
            let id = some(call.id);
            let index = self.slots.place(call.index, id.as_deref());
            let signature = some(call.extra_content.and_then(|extra| extra.google?.thought_signature));
            events.push(Event::Tool(Tool { index, id, name, arguments, signature }));
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
    let (mut state, mut events) = (Reader::default(), Vec::new());
    state.chunk(chunk, &mut events);
    let ending = Done {
        finish_reason: state.finish_reason.take(),
        usage: state.usage,
        ..Done::ended(Status::Completed)
    };
    Ok(super::whole(Provider::OpenAiChat, body, events, ending))
}
