//! The items of an answer so far, and the frames that tell how they grow.
//!
//! Strict accumulators read these frames (openai-node 7.57 `ResponseAccumulator`, openai-python 3.54
//! `ResponseStreamState`): an item is added before anything is said about it, its id never changes, its places are
//! counted without gaps, and a completed answer has no open items. Reasoning is told as a summary, the form that OpenAI
//! itself sends and clients show.

use serde_json::{Map, Value, json};

use crate::event::{Signature, Tool};
use crate::log::LogId;

#[derive(Debug)]
pub(super) struct Output {
    log: LogId,
    items: Vec<Item>,
    /// The place in `items` of each call, by the canonical index.
    calls: Vec<(u32, usize)>,
    frames: Vec<(&'static str, Value)>,
    pub sequence: u64,
}

#[derive(Debug)]
struct Item {
    /// `output_index`.
    at: u64,
    id: String,
    open: bool,
    said: Said,
}

#[derive(Debug)]
enum Said {
    Message(Vec<Part>),
    Reasoning {
        raw: bool,
        parts: Vec<String>,
        proof: Option<Signature>,
    },
    Call {
        call_id: String,
        name: String,
        arguments: String,
        signature: Option<String>,
    },
    /// As a provider told it.
    Whole(Value),
}

#[derive(Debug)]
struct Part {
    refusal: bool,
    text: String,
}

impl Part {
    fn value(&self) -> Value {
        match self.refusal {
            true => json!({"type": "refusal", "refusal": self.text}),
            false => {
                json!({"type": "output_text", "annotations": [], "logprobs": [], "text": self.text})
            }
        }
    }
}

impl Item {
    fn value(&self, status: &str) -> Value {
        match &self.said {
            Said::Message(parts) => json!({
                "id": self.id, "type": "message", "status": status, "role": "assistant",
                "content": parts.iter().map(Part::value).collect::<Vec<_>>(),
            }),
            Said::Reasoning { raw, parts, proof } => {
                let texts = |kind: &str| -> Vec<Value> {
                    parts.iter().map(|text| json!({"type": kind, "text": text})).collect()
                };
                let summary = if *raw { Vec::new() } else { texts("summary_text") };
                let mut value = json!({"id": self.id, "type": "reasoning", "summary": summary});
                if *raw {
                    value["content"] = texts("reasoning_text").into();
                }
                if let Some(proof) = proof {
                    value["encrypted_content"] = proof.signature.as_str().into();
                    if proof.redacted {
                        value["redacted"] = true.into();
                    }
                }
                value
            }
            Said::Call { call_id, name, arguments, signature } => {
                let mut value = json!({
                    "id": self.id, "type": "function_call", "status": status, "arguments": arguments,
                    "call_id": call_id, "name": name,
                });
                if let Some(signature) = signature {
                    value["extra_content"] = json!({"google": {"thought_signature": signature}});
                }
                value
            }
            Said::Whole(value) => value.clone(),
        }
    }
}

impl Output {
    pub fn new(log: LogId) -> Output {
        Output { log, items: Vec::new(), calls: Vec::new(), frames: Vec::new(), sequence: 0 }
    }

    /// What was said since the last time.
    pub fn take(&mut self) -> Vec<(&'static str, Value)> {
        std::mem::take(&mut self.frames)
    }

    /// `output` of the response object.
    pub fn values(&self, open: &str) -> Vec<Value> {
        let status = |item: &Item| if item.open { open } else { "completed" };
        self.items.iter().map(|item| item.value(status(item))).collect()
    }

    pub fn say(&mut self, kind: &'static str, fields: Value) {
        let mut frame = Map::with_capacity(8);
        frame.insert("type".into(), kind.into());
        frame.insert("sequence_number".into(), self.sequence.into());
        if let Value::Object(fields) = fields {
            frame.extend(fields);
        }
        self.sequence += 1;
        self.frames.push((kind, Value::Object(frame)));
    }

    pub fn text(&mut self, refusal: bool, text: &str) {
        let open = self.items.last().is_some_and(|item| item.open && matches!(item.said, Said::Message(_)));
        if !open {
            self.close_but_calls();
            self.add("msg", Said::Message(Vec::new()));
        }
        let here = self.items.len() - 1;
        let Said::Message(parts) = &self.items[here].said else { return };
        if parts.last().is_none_or(|part| part.refusal != refusal) {
            self.end_part(here);
            self.begin_part(here, refusal);
        }
        let (item_id, at) = (self.items[here].id.clone(), self.items[here].at);
        let Said::Message(parts) = &mut self.items[here].said else { return };
        let index = parts.len() - 1;
        parts[index].text.push_str(text);
        let mut fields =
            json!({"item_id": item_id, "output_index": at, "content_index": index, "delta": text});
        if refusal {
            self.say("response.refusal.delta", fields);
        } else {
            fields["logprobs"] = json!([]);
            self.say("response.output_text.delta", fields);
        }
    }

    fn begin_part(&mut self, here: usize, refusal: bool) {
        let item = &mut self.items[here];
        let Said::Message(parts) = &mut item.said else { return };
        parts.push(Part { refusal, text: String::new() });
        let index = parts.len() - 1;
        let fields = json!({"item_id": item.id, "output_index": item.at, "content_index": index,
                            "part": parts[index].value()});
        self.say("response.content_part.added", fields);
    }

    /// Closes the part of a message that is being said.
    fn end_part(&mut self, here: usize) {
        let item = &self.items[here];
        let Said::Message(parts) = &item.said else { return };
        let Some(part) = parts.last() else { return };
        let mut told = json!({"item_id": item.id, "output_index": item.at, "content_index": parts.len() - 1});
        let mut whole = told.clone();
        whole["part"] = part.value();
        if part.refusal {
            told["refusal"] = part.text.as_str().into();
            self.say("response.refusal.done", told);
        } else {
            told["text"] = part.text.as_str().into();
            told["logprobs"] = json!([]);
            self.say("response.output_text.done", told);
        }
        self.say("response.content_part.done", whole);
    }

    pub fn reasoning(&mut self, text: &str) {
        let here = self.thinking();
        self.think(here, text);
    }

    /// A proof closes its block.
    pub fn signature(&mut self, signature: Signature) {
        let here = if signature.redacted { self.add_thought() } else { self.thinking() };
        if let Said::Reasoning { proof, .. } = &mut self.items[here].said {
            *proof = Some(signature);
        }
        self.close(here, "completed");
    }

    /// The open item of reasoning, which is the last one.
    fn thinking(&mut self) -> usize {
        let open = |item: &Item| item.open && matches!(item.said, Said::Reasoning { .. });
        if self.items.last().is_some_and(open) { self.items.len() - 1 } else { self.add_thought() }
    }

    fn add_thought(&mut self) -> usize {
        self.close_but_calls();
        self.add("rs", Said::Reasoning { raw: false, parts: Vec::new(), proof: None })
    }

    fn think(&mut self, here: usize, text: &str) {
        let item = &mut self.items[here];
        let Said::Reasoning { raw, parts, .. } = &mut item.said else { return };
        let (raw, fresh) = (*raw, parts.is_empty());
        if fresh {
            parts.push(String::new());
        }
        let index = parts.len() - 1;
        parts[index].push_str(text);
        let names = thought_names(raw);
        let mut fields = json!({"item_id": item.id, "output_index": item.at, names.index: index});
        let mut delta = fields.clone();
        delta["delta"] = text.into();
        if fresh {
            fields["part"] = json!({"type": names.part, "text": ""});
            self.say(names.added, fields);
        }
        self.say(names.delta, delta);
    }

    pub fn tool(&mut self, piece: Tool) {
        let known = self.calls.iter().find(|(index, _)| *index == piece.index).map(|(_, here)| *here);
        let here = known.unwrap_or_else(|| {
            self.close_but_calls();
            let call_id = piece.id.clone().unwrap_or_else(|| format!("call_{}_{}", self.log, piece.index));
            let name = piece.name.clone().unwrap_or_default();
            let said =
                Said::Call { call_id, name, arguments: String::new(), signature: piece.signature.clone() };
            let here = self.add("fc", said);
            self.calls.push((piece.index, here));
            here
        });
        let item = &mut self.items[here];
        let Said::Call { name, arguments, signature, .. } = &mut item.said else { return };
        if let Some(late) = piece.name {
            *name = late;
        }
        *signature = piece.signature.or(signature.take());
        if let Some(fragment) = piece.arguments.filter(|fragment| !fragment.is_empty()) {
            arguments.push_str(&fragment);
            let fields = json!({"item_id": item.id, "output_index": item.at, "delta": fragment});
            self.say("response.function_call_arguments.delta", fields);
        }
    }

    fn add(&mut self, prefix: &str, said: Said) -> usize {
        let at = self.items.last().map_or(0, |item| item.at + 1);
        let item = Item { at, id: format!("{prefix}_{}_{at}", self.log), open: true, said };
        let value = item.value("in_progress");
        self.items.push(item);
        self.say("response.output_item.added", json!({"output_index": at, "item": value}));
        self.items.len() - 1
    }

    /// Fragments of calls come interleaved, so these stay open until the end.
    fn close_but_calls(&mut self) {
        for here in 0..self.items.len() {
            if !matches!(self.items[here].said, Said::Call { .. }) {
                self.close(here, "completed");
            }
        }
    }

    /// Closes what is open, and says how far it came.
    pub fn close_all(&mut self, status: &'static str) {
        for here in 0..self.items.len() {
            self.close(here, status);
        }
    }

    fn close(&mut self, here: usize, status: &str) {
        if !std::mem::replace(&mut self.items[here].open, false) {
            return;
        }
        self.end_part(here);
        let item = &self.items[here];
        let value = item.value(status);
        let (item_id, at) = (item.id.clone(), item.at);
        match &item.said {
            Said::Reasoning { raw, parts, .. } if !parts.is_empty() => {
                let (names, text) = (thought_names(*raw), parts[parts.len() - 1].clone());
                let mut told = json!({"item_id": item_id, "output_index": at, names.index: parts.len() - 1});
                let mut whole = told.clone();
                whole["part"] = json!({"type": names.part, "text": text});
                told["text"] = text.into();
                self.say(names.done, told);
                self.say(names.part_done, whole);
            }
            Said::Call { name, arguments, .. } => {
                let told =
                    json!({"item_id": item_id, "output_index": at, "name": name, "arguments": arguments});
                self.say("response.function_call_arguments.done", told);
            }
            _ => {}
        }
        if status != "completed"
            && let Item { said: Said::Message(_) | Said::Call { .. }, .. } = &self.items[here]
        {
            // What was cut off stays so in the object.
            self.items[here].said = Said::Whole(value.clone());
        }
        self.say("response.output_item.done", json!({"output_index": at, "item": value}));
    }

    /// Takes note of a provider's frame that was passed on.
    pub fn absorb(&mut self, frame: &Value) {
        let kind = frame["type"].as_str().unwrap_or_default();
        if let Some(sequence) = frame["sequence_number"].as_u64() {
            self.sequence = sequence + 1;
        }
        let Some(at) = frame["output_index"].as_u64() else { return };
        let text = |name: &str| frame[name].as_str().unwrap_or_default();
        if kind == "response.output_item.added" {
            return self.absorb_item(at, &frame["item"]);
        }
        let Some(item) = self.items.iter_mut().find(|item| item.at == at) else {
            if kind == "response.output_item.done" {
                self.absorb_item(at, &frame["item"]);
            }
            return;
        };
        match (kind, &mut item.said) {
            ("response.output_item.done", said) => {
                item.open = false;
                *said = Said::Whole(frame["item"].clone());
            }
            ("response.content_part.added", Said::Message(parts)) => {
                parts.push(Part { refusal: frame["part"]["type"] == "refusal", text: String::new() });
            }
            ("response.output_text.delta" | "response.refusal.delta", Said::Message(parts)) => {
                if let Some(part) = parts.last_mut() {
                    part.text.push_str(text("delta"));
                }
            }
            ("response.content_part.added", Said::Reasoning { raw, parts, .. }) => {
                *raw = true;
                parts.push(String::new());
            }
            ("response.reasoning_summary_part.added", Said::Reasoning { parts, .. }) => {
                parts.push(String::new());
            }
            (
                "response.reasoning_text.delta" | "response.reasoning_summary_text.delta",
                Said::Reasoning { parts, .. },
            ) => {
                if let Some(part) = parts.last_mut() {
                    part.push_str(text("delta"));
                }
            }
            ("response.function_call_arguments.delta", Said::Call { arguments, .. }) => {
                arguments.push_str(text("delta"));
            }
            _ => {}
        }
    }

    fn absorb_item(&mut self, at: u64, item: &Value) {
        let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let said = match item["type"].as_str() {
            Some("message") => Said::Message(Vec::new()),
            Some("reasoning") => Said::Reasoning { raw: false, parts: Vec::new(), proof: None },
            Some("function_call") => {
                self.calls.push((self.calls.len() as u32, self.items.len()));
                Said::Call {
                    call_id: text("call_id"),
                    name: text("name"),
                    arguments: text("arguments"),
                    signature: None,
                }
            }
            _ => Said::Whole(item.clone()),
        };
        self.items.push(Item { at, id: text("id"), open: true, said });
    }
}

/// What the frames about reasoning are called: raw, or as a summary.
struct ThoughtNames {
    index: &'static str,
    part: &'static str,
    added: &'static str,
    delta: &'static str,
    done: &'static str,
    part_done: &'static str,
}

fn thought_names(raw: bool) -> ThoughtNames {
    if raw {
        ThoughtNames {
            index: "content_index",
            part: "reasoning_text",
            added: "response.content_part.added",
            delta: "response.reasoning_text.delta",
            done: "response.reasoning_text.done",
            part_done: "response.content_part.done",
        }
    } else {
        ThoughtNames {
            index: "summary_index",
            part: "summary_text",
            added: "response.reasoning_summary_part.added",
            delta: "response.reasoning_summary_text.delta",
            done: "response.reasoning_summary_text.done",
            part_done: "response.reasoning_summary_part.done",
        }
    }
}
