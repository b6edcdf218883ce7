//! A message that its client wrote, as parts again: a page that has lost it needs all of it, not only the answer that goes
//! on with it.
//!
//! A tool's input is retold as it came in and not as available, which clients act upon (`onToolCall`), unless it still waits
//! for its output.

use serde_json::{Map, Value, json};

/// The parts of `message`, from its `start` on.
pub fn retold(message: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let mut write = |part: Value| {
        crate::sse::write(&mut out, None, "", None, part.to_string().as_bytes());
    };
    let mut start = json!({"type": "start", "messageId": message["id"]});
    if message["metadata"].is_object() {
        start["messageMetadata"] = message["metadata"].clone();
    }
    write(start);
    for (nth, part) in message["parts"].as_array().into_iter().flatten().enumerate() {
        let said = part["type"].as_str().unwrap_or_default();
        match said {
            "step-start" => write(json!({"type": "start-step"})),
            "text" | "reasoning" => {
                // Unlike the ids of what follows.
                let id = format!("e{nth}");
                write(json!({"type": format!("{said}-start"), "id": id}));
                write(
                    json!({"type": format!("{said}-delta"), "id": id, "delta": part["text"].as_str().unwrap_or_default()}),
                );
                let mut end = json!({"type": format!("{said}-end"), "id": id});
                carry(part, "providerMetadata", &mut end, "providerMetadata");
                write(end);
            }
            "file" => write(chosen(part, &["type", "url", "mediaType"])),
            "source-url" => write(chosen(part, &["type", "sourceId", "url", "title"])),
            "source-document" => write(chosen(part, &["type", "sourceId", "mediaType", "title", "filename"])),
            "dynamic-tool" => tool(part, part["toolName"].as_str().unwrap_or_default(), true, &mut write),
            _ if said.starts_with("data-") => write(chosen(part, &["type", "id", "data"])),
            _ => {
                if let Some(name) = said.strip_prefix("tool-") {
                    tool(part, name, false, &mut write);
                }
            }
        }
    }
    write(json!({"type": "finish-step"}));
    out
}

fn tool(part: &Value, name: &str, dynamic: bool, write: &mut impl FnMut(Value)) {
    let of_call = |mut chunk: Value| {
        chunk["toolCallId"] = part["toolCallId"].clone();
        if dynamic && chunk["type"] != "tool-input-delta" {
            chunk["dynamic"] = true.into();
        }
        chunk
    };
    let output = match part["state"].as_str() {
        Some("output-available") => json!({"type": "tool-output-available", "output": part["output"]}),
        Some("output-error") => {
            json!({"type": "tool-output-error", "errorText": part["errorText"].as_str().unwrap_or_default()})
        }
        Some("input-streaming") => return,
        _ => {
            let mut input = json!({"type": "tool-input-available", "toolName": name, "input": part["input"]});
            carry(part, "callProviderMetadata", &mut input, "providerMetadata");
            return write(of_call(input));
        }
    };
    write(of_call(json!({"type": "tool-input-start", "toolName": name})));
    let input = if part["input"].is_null() { &part["rawInput"] } else { &part["input"] };
    if !input.is_null() {
        write(of_call(json!({"type": "tool-input-delta", "inputTextDelta": input.to_string()})));
    }
    write(of_call(output));
}

fn carry(from: &Value, name: &str, to: &mut Value, as_name: &str) {
    if from[name].is_object() {
        to[as_name] = from[name].clone();
    }
}

fn chosen(part: &Value, keys: &[&str]) -> Value {
    let kept = keys.iter().filter_map(|key| Some(((*key).to_owned(), part.get(*key)?.clone())));
    Value::Object(kept.filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
}
