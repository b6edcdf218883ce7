//! The built-in provider: no key, no network, the same text for the same prompt, at a pace.
//!
//! It speaks `openai-chat`, so that a newcomer's first stream takes the very path of every other. Pure: it says
//! what to send and how long to wait before it; `relay::body` does the waiting.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

/// The models of the demo provider, with the pause between tokens and how often the text is repeated.
const MODELS: [(&str, Duration, usize); 5] = [
    ("demo", Duration::from_millis(30), 1),
    ("demo-slow", Duration::from_millis(250), 1),
    ("demo-fast", Duration::ZERO, 1),
    ("demo-long", Duration::from_millis(20), 12),
    ("demo-bulk", Duration::ZERO, 40),
];

const TEXT: &str = include_str!("demo.md");

pub fn models() -> impl Iterator<Item = &'static str> {
    MODELS.iter().map(|(name, ..)| *name)
}

/// A whole answer, as frames to be sent one after the other.
#[derive(Debug)]
pub struct Script {
    pause: Duration,
    frames: std::vec::IntoIter<Bytes>,
}

impl Script {
    /// `body` is a chat completions request; `created` is in seconds since the Unix epoch.
    pub fn new(body: &[u8], created: u64) -> Script {
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let model = request["model"].as_str().unwrap_or_default();
        let (name, pause, times) = *MODELS.iter().find(|(name, ..)| *name == model).unwrap_or(&MODELS[0]);
        let prompt = last_user_text(&request);
        let text = TEXT.replace("{{prompt}}", &quoted(&prompt)).repeat(times);
        // An answer that was begun is gone on with.
        let begun = request["messages"].as_array().and_then(|messages| messages.last());
        let begun = begun.filter(|last| last["role"] == "assistant").map(said).unwrap_or_default();
        let pieces = pieces(text.strip_prefix(&begun).unwrap_or(&text));
        let chunk = |delta: Value, finish: Value| {
            json!({"id": "chatcmpl-demo", "object": "chat.completion.chunk", "created": created, "model": name,
                   "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        };
        let mut frames = vec![frame(&chunk(json!({"role": "assistant", "content": ""}), Value::Null))];
        frames.extend(pieces.iter().map(|piece| frame(&chunk(json!({"content": piece}), Value::Null))));
        frames.push(frame(&chunk(json!({}), "stop".into())));
        let (input, output) = (prompt.split_whitespace().count(), pieces.len());
        let mut usage = chunk(Value::Null, Value::Null);
        usage["choices"] = json!([]);
        usage["usage"] =
            json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output});
        frames.push(frame(&usage));
        frames.push(Bytes::from_static(b"data: [DONE]\n\n"));
        Script { pause, frames: frames.into_iter() }
    }
}

impl Iterator for Script {
    type Item = (Duration, Bytes);

    fn next(&mut self) -> Option<(Duration, Bytes)> {
        self.frames.next().map(|bytes| (self.pause, bytes))
    }
}

fn frame(chunk: &Value) -> Bytes {
    format!("data: {chunk}\n\n").into()
}

fn last_user_text(request: &Value) -> String {
    let messages = request["messages"].as_array().map_or(&[][..], Vec::as_slice);
    let user = messages.iter().rev().find(|message| message["role"] == "user");
    user.map(said).unwrap_or_default()
}

/// The text of a message.
fn said(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

/// The first line of the prompt, short enough to be quoted back.
fn quoted(prompt: &str) -> String {
    prompt.lines().next().unwrap_or_default().chars().take(80).collect()
}

/// Cuts text the way tokenizers do, roughly: a word with the space before it, a line break by itself.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut from = 0;
    for (at, letter) in text.char_indices().skip(1) {
        if letter == ' ' || letter == '\n' || text[..at].ends_with('\n') {
            pieces.push(&text[from..at]);
            from = at;
        }
    }
    pieces.push(&text[from..]);
    pieces.retain(|piece| !piece.is_empty());
    pieces
}
