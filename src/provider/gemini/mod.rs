//! Google's Gemini API, `generateContent`.
//!
//! Streaming: unnamed events, each a whole `GenerateContentResponse`; parts are pieces of text, of thoughts, or whole
//! function calls; token counts are cumulative and repeated. Nothing marks the end: the body's end is a proper one if a
//! `finishReason`, or the reason why the prompt was blocked, was seen before it. Not read: parts that no other dialect
//! has (executed code, generated images), which only pass through to clients of this one.
//! Source: Google's API reference (v1beta) and google-genai 3.4.0's types.

mod ask;

use serde::Deserialize;
use serde_json::Value;

use super::framer::Told;
use super::{DecodeError, Frame, Provider};
use crate::event::{Done, Event, Signature, Status, Tool, Usage};
use crate::sse;

pub use ask::{ask, count};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    candidates: Option<Vec<Candidate>>,
    prompt_feedback: Option<Feedback>,
    usage_metadata: Option<Counts>,
    response_id: Option<String>,
    error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    index: Option<u32>,
    content: Option<Content>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    parts: Option<Vec<Part>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    text: Option<String>,
    thought: Option<bool>,
    thought_signature: Option<String>,
    function_call: Option<Call>,
}

#[derive(Deserialize)]
struct Call {
    id: Option<String>,
    name: Option<String>,
    args: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Feedback {
    block_reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    prompt_token_count: Option<u64>,
    tool_use_prompt_token_count: Option<u64>,
    cached_content_token_count: Option<u64>,
    candidates_token_count: Option<u64>,
    thoughts_token_count: Option<u64>,
}

impl From<Counts> for Usage {
    fn from(counts: Counts) -> Usage {
        let known = |count: Option<u64>| count.unwrap_or_default();
        Usage {
            estimated: false,
            input_tokens: known(counts.prompt_token_count) + known(counts.tool_use_prompt_token_count),
            output_tokens: known(counts.candidates_token_count) + known(counts.thoughts_token_count),
            cached_tokens: counts.cached_content_token_count,
            reasoning_tokens: counts.thoughts_token_count,
        }
    }
}

/// What of earlier frames later ones depend on.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Function calls so far.
    calls: u32,
    finish_reason: Option<String>,
    usage: Option<Usage>,
    /// What the frame said that ended the answer, and those behind it. They are told with the ending: who has read the
    /// one has read the other, and nothing marks the end between them.
    last: Vec<Event>,
}

/// Whether a frame is whole and says how the answer ended.
pub(super) fn closes(frame: &sse::Frame<'_>) -> bool {
    let answer: Option<Answer> = super::json(frame.data.trim()).ok();
    answer.is_some_and(|answer| answer.error.is_some() || answer.ending().is_some())
}

impl Answer {
    /// Others than the first can only be there if more was asked for than one answer, which no surface shows.
    fn candidate(&self) -> Option<&Candidate> {
        self.candidates.iter().flatten().find(|candidate| candidate.index.unwrap_or(0) == 0)
    }

    /// Why the answer is over, in the dialect's own words.
    fn ending(&self) -> Option<&str> {
        let said = self.candidate().and_then(|candidate| candidate.finish_reason.as_deref());
        // A prompt that is blocked has no answer at all.
        let blocked = || self.prompt_feedback.as_ref()?.block_reason.as_deref().map(|_| "SAFETY");
        said.or_else(blocked).filter(|reason| *reason != "FINISH_REASON_UNSPECIFIED")
    }
}

impl Reader {
    pub fn read(&mut self, frame: &sse::Frame<'_>, events: &mut Vec<Event>) -> Result<Told, DecodeError> {
        let data = frame.data.trim();
        if data.is_empty() {
            return Ok(Told::Nothing);
        }
        let answer: Answer = super::json(data)?;
        let usage_only = answer.usage_metadata.is_some()
            && answer.candidates.as_ref().is_none_or(Vec::is_empty)
            && answer.prompt_feedback.is_none();
        self.answer(answer, events);
        if let Some(Event::Done(_)) = events.last() {
            return Ok(Told::End);
        }
        if self.finish_reason.is_some() {
            self.last.append(events);
        }
        Ok(if usage_only { Told::Usage } else { Told::Something })
    }

    fn answer(&mut self, mut answer: Answer, events: &mut Vec<Event>) {
        if let Some(error) = answer.error.take().filter(|error| !error.is_null()) {
            let message = error.get("message").and_then(Value::as_str).or(error.as_str());
            events.append(&mut self.last);
            events.push(Event::Done(Done {
                usage: self.usage,
                ..Done::failed("upstream_error", message.unwrap_or("the provider reported an error"))
            }));
            return;
        }
        self.finish_reason = answer.ending().map(str::to_owned).or(self.finish_reason.take());
        let usage = answer.usage_metadata.take().map(Usage::from);
        let mut candidates = answer.candidates.into_iter().flatten();
        let first = candidates.find(|candidate| candidate.index.unwrap_or(0) == 0);
        let content = first.and_then(|candidate| candidate.content);
        for part in content.and_then(|content| content.parts).into_iter().flatten() {
            self.part(part, answer.response_id.as_deref(), events);
        }
        if let Some(usage) = usage.filter(|usage| self.usage != Some(*usage)) {
            self.usage = Some(usage);
            events.push(Event::Usage(usage));
        }
    }

    fn part(&mut self, part: Part, answer: Option<&str>, events: &mut Vec<Event>) {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        let signature = some(part.thought_signature);
        if let Some(call) = part.function_call {
            let index = self.calls;
            self.calls += 1;
            // A replay must say the same, so the id is made from what was said; each answer's calls are others.
            let id = some(call.id).unwrap_or_else(|| match answer {
                Some(answer) => format!("call_{index}_{answer}"),
                None => format!("call_{index}"),
            });
            let arguments = call.args.filter(|args| !args.is_null()).map(|args| args.to_string());
            let arguments = arguments.or(Some("{}".into()));
            events.push(Event::Tool(Tool {
                index,
                id: Some(id),
                name: some(call.name),
                arguments,
                signature,
            }));
            return;
        }
        let wrap = if part.thought == Some(true) { Event::Reasoning } else { Event::Token };
        events.extend(some(part.text).map(wrap));
        // A text may be signed too, often by an empty part behind it.
        events.extend(
            signature.map(|signature| Event::Signature(Signature { signature, ..Signature::default() })),
        );
    }

    /// What the end of the body says: the ending, if there was word of it.
    pub fn close(&mut self) -> Vec<Event> {
        let Some(done) = self.done() else { return Vec::new() };
        let mut events = std::mem::take(&mut self.last);
        events.push(Event::Done(done));
        events
    }

    fn done(&mut self) -> Option<Done> {
        let reason = self.finish_reason.take()?;
        let finish_reason = match reason.as_str() {
            // The second is what a mock server says; Google's own word for both is the first.
            "STOP" | "FUNCTION_CALL" if self.calls > 0 => "tool_calls".to_owned(),
            "STOP" => "stop".to_owned(),
            "MAX_TOKENS" => "length".to_owned(),
            "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "LANGUAGE" => {
                "content_filter".to_owned()
            }
            _ => reason.to_lowercase(),
        };
        let finish_reason = Some(finish_reason);
        Some(Done { finish_reason, usage: self.usage, ..Done::ended(Status::Completed) })
    }
}

/// A whole `GenerateContentResponse`.
pub fn whole(body: &[u8]) -> Result<Vec<Frame>, DecodeError> {
    let answer: Answer =
        serde_json::from_slice(body).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    if answer.error.is_none() && answer.candidate().is_none() && answer.ending().is_none() {
        return Err(DecodeError::Malformed("an answer without candidates".into()));
    }
    let (mut state, mut events) = (Reader::default(), Vec::new());
    state.answer(answer, &mut events);
    let unsaid = Done { usage: state.usage, ..Done::ended(Status::Completed) };
    let ending = state.done().unwrap_or(unsaid);
    Ok(super::whole(Provider::Gemini, body, events, ending))
}
