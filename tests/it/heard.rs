//! What a client makes of a surface's bytes: text, ids, endings; and what no client may ever be sent.
//!
//! Reads SSE by itself, line by line, so that it does not agree with our parser by construction.

use relaystream::event::{Event, Kind};
use relaystream::log::Record;
use relaystream::surface::Surface;

/// One dispatched event, as a browser sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Block {
    pub(crate) event: String,
    pub(crate) data: String,
    pub(crate) id: Option<String>,
}

/// Complete events of `bytes`; what is after the last blank line is dropped.
pub(crate) fn blocks(bytes: &[u8]) -> Vec<Block> {
    // What is behind the last line end may be half a character.
    let end = bytes.iter().rposition(|byte| b"\r\n".contains(byte)).map_or(0, |at| at + 1);
    let text = std::str::from_utf8(&bytes[..end]).expect("surfaces write UTF-8");
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    let (mut found, mut open) = (Vec::new(), Vec::new());
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let line = &line[..line.len() - 1];
        if !line.is_empty() {
            open.push(line);
            continue;
        }
        found.extend(block(&std::mem::take(&mut open)));
    }
    found
}

fn block(lines: &[&str]) -> Option<Block> {
    let field = |wanted: &str| -> Vec<String> {
        let parts = lines.iter().map(|line| line.split_once(':').unwrap_or((line, "")));
        let values = parts.filter(|(name, _)| *name == wanted).map(|(_, value)| value);
        values.map(|value| value.strip_prefix(' ').unwrap_or(value).to_owned()).collect()
    };
    let data = field("data");
    assert!(
        !data.is_empty() || lines.iter().all(|line| line.starts_with(':')),
        "a block without data: {lines:?}"
    );
    let id = field("id").pop();
    (!data.is_empty()).then(|| Block {
        event: field("event").pop().unwrap_or_default(),
        data: data.join("\n"),
        id,
    })
}

/// What a reader of one stream has gathered.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Heard {
    pub(crate) text: String,
    pub(crate) reasoning: String,
    pub(crate) resets: Vec<String>,
    /// The last id of a complete event.
    pub(crate) id: Option<String>,
    /// The terminal event was seen.
    pub(crate) ended: bool,
}

impl Heard {
    pub(crate) fn of(surface: Surface, bytes: &[u8]) -> Heard {
        let mut heard = Heard::default();
        heard.take(surface, bytes);
        heard
    }

    /// Takes complete events; a reset forgets what was gathered, as it says.
    pub(crate) fn take(&mut self, surface: Surface, bytes: &[u8]) {
        for block in blocks(bytes) {
            if block.event == "reset" {
                let data: serde_json::Value = serde_json::from_str(&block.data).expect("a reset is JSON");
                let mut resets = std::mem::take(&mut self.resets);
                resets.push(data["reason"].as_str().expect("a reset has a reason").to_owned());
                *self = Heard { resets, ..Heard::default() };
                continue;
            }
            self.event(surface, &block);
        }
    }

    pub(crate) fn event(&mut self, surface: Surface, block: &Block) {
        match surface {
            Surface::Native => self.native(block),
            Surface::Plain => self.plain(block),
            Surface::OpenAiChat => self.openai_chat(block),
            Surface::OpenAiResponses => self.openai_responses(block),
            Surface::Anthropic => self.anthropic(block),
            Surface::Gemini => self.gemini(block),
            Surface::AiSdk => self.ai_sdk(block),
        }
        if block.id.is_some() {
            self.id = block.id.clone();
        }
    }

    fn native(&mut self, block: &Block) {
        let data: serde_json::Value = serde_json::from_str(&block.data).expect("native data is JSON");
        let text = data["text"].as_str().unwrap_or_default();
        match block.event.as_str() {
            "token" => self.text.push_str(text),
            "reasoning" => self.reasoning.push_str(text),
            "done" => self.ended = true,
            _ => {}
        }
    }

    fn plain(&mut self, block: &Block) {
        match (block.event.as_str(), block.data.as_str()) {
            ("", "[DONE]") | ("error", _) => self.ended = true,
            _ => self.text.push_str(&block.data),
        }
    }

    fn openai_chat(&mut self, block: &Block) {
        if block.data == "[DONE]" {
            self.ended = true;
            return;
        }
        let chunk: serde_json::Value = serde_json::from_str(&block.data).expect("chunks are JSON");
        if !chunk["error"].is_null() {
            self.ended = true;
            return;
        }
        let choices = chunk["choices"].as_array().map_or(&[][..], Vec::as_slice);
        let Some(choice) = choices.iter().find(|choice| choice["index"].as_u64().unwrap_or(0) == 0) else {
            return;
        };
        let delta = &choice["delta"];
        let said = |name: &str| delta[name].as_str().filter(|text| !text.is_empty());
        self.text.push_str(said("content").unwrap_or_default());
        self.text.push_str(said("refusal").unwrap_or_default());
        self.reasoning.push_str(said("reasoning_content").or(said("reasoning")).unwrap_or_default());
    }

    fn openai_responses(&mut self, block: &Block) {
        let frame: serde_json::Value = serde_json::from_str(&block.data).expect("frames are JSON");
        let kind = frame["type"].as_str().unwrap_or_default();
        assert_eq!(block.event, kind, "the event's name is its type");
        let delta = frame["delta"].as_str().unwrap_or_default();
        match kind {
            "response.output_text.delta" | "response.refusal.delta" => self.text.push_str(delta),
            "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
                self.reasoning.push_str(delta);
            }
            "response.reasoning_summary_part.added" if frame["summary_index"] != 0 => {
                self.reasoning.push_str("\n\n");
            }
            "response.completed" | "response.incomplete" | "response.failed" | "error" => self.ended = true,
            _ => {}
        }
    }

    fn anthropic(&mut self, block: &Block) {
        let data: serde_json::Value = serde_json::from_str(&block.data).expect("events are JSON");
        // The SDKs go by the event's name, and drop what has none.
        assert_eq!(data["type"], block.event.as_str());
        let said = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        match block.event.as_str() {
            "content_block_start" => {
                self.text.push_str(&said(&data["content_block"]["text"]));
                self.reasoning.push_str(&said(&data["content_block"]["thinking"]));
            }
            "content_block_delta" => {
                self.text.push_str(&said(&data["delta"]["text"]));
                self.reasoning.push_str(&said(&data["delta"]["thinking"]));
            }
            "message_delta" => self.text.push_str(&said(&data["delta"]["stop_details"]["explanation"])),
            "message_stop" | "error" => self.ended = true,
            _ => {}
        }
    }

    fn gemini(&mut self, block: &Block) {
        assert_eq!(block.event, "", "no named events");
        let answer: serde_json::Value = serde_json::from_str(&block.data).expect("answers are JSON");
        let candidates = answer["candidates"].as_array().map_or(&[][..], Vec::as_slice);
        let first = candidates.iter().find(|candidate| candidate["index"].as_u64().unwrap_or(0) == 0);
        let blocked = !answer["promptFeedback"]["blockReason"].is_null();
        let finished = first.is_some_and(|candidate| !candidate["finishReason"].is_null());
        self.ended |= !answer["error"].is_null() || blocked || finished;
        let parts = first.and_then(|candidate| candidate["content"]["parts"].as_array());
        for part in parts.into_iter().flatten() {
            let text = part["text"].as_str().unwrap_or_default();
            if part["thought"] == true { self.reasoning.push_str(text) } else { self.text.push_str(text) }
        }
    }

    /// By the grammar that clients hold us to: a delta needs its start, an ending ends what is open.
    fn ai_sdk(&mut self, block: &Block) {
        if block.data == "[DONE]" {
            self.ended = true;
            return;
        }
        let part: serde_json::Value = serde_json::from_str(&block.data).expect("parts are JSON");
        let delta = part["delta"].as_str().unwrap_or_default();
        match part["type"].as_str().expect("a part has a type") {
            "text-delta" => self.text.push_str(delta),
            "reasoning-delta" => self.reasoning.push_str(delta),
            "error" => self.ended = true,
            _ => {}
        }
    }
}

/// The text and the reasoning of records.
pub(crate) fn spoken(records: &[Record]) -> (String, String) {
    let (mut text, mut reasoning) = (String::new(), String::new());
    for record in records {
        match Kind::from_u8(record.draft.kind).map(|kind| Event::parse(kind, &record.draft.payload)) {
            Some(Ok(Event::Token(piece) | Event::Refusal(piece))) => text.push_str(&piece),
            Some(Ok(Event::Reasoning(piece))) => reasoning.push_str(&piece),
            _ => {}
        }
    }
    (text, reasoning)
}

/// What holds for every byte we send: no event with empty data, no block with an id and no data, no `retry:` or
/// comment that ends in a blank line by itself. `what` names the case.
pub(crate) fn scan(bytes: &[u8], what: &str) {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "\n");
    let mut open: Vec<&str> = Vec::new();
    for line in text.split('\n') {
        if !line.is_empty() {
            open.push(line);
            continue;
        }
        let lines = std::mem::take(&mut open);
        let data = |line: &&&str| line.starts_with("data:") || **line == "data";
        let has_text = lines.iter().filter(data).any(|line| line.len() > "data: ".len());
        let several = lines.iter().filter(data).count() > 1;
        assert!(lines.is_empty() || has_text || several, "{what}: a block that says nothing: {lines:?}");
    }
}
