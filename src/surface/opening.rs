//! A prompt in front of what a client asked: in the canonical request, and in what the client wrote itself.
//!
//! A provider of the client's own dialect is sent the client's body, so the prompt has to stand in that too, in the
//! dialect's own names. What the client said comes after it, and its own options win.

use serde_json::{Map, Value, json};

use super::{anthropic, gemini, openai_responses};
use crate::chat::{Message, Original, Request};

/// `instructions` may be empty; `options` have the names of the canonical request.
pub fn prepend(request: &mut Request, instructions: &str, options: &Map<String, Value>) {
    let set = |name: &str| request.params.get(name).is_some_and(|value| !value.is_null());
    let twin = |name: &str| name == "max_tokens" && set("max_completion_tokens");
    let options: Map<String, Value> = options
        .iter()
        .filter(|(name, _)| !set(name) && !twin(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if let Some(Original { dialect, body, .. }) = &mut request.original {
        match *dialect {
            anthropic::DIALECT => in_anthropic(body, instructions, &options),
            gemini::DIALECT => in_gemini(body, instructions, &options),
            openai_responses::DIALECT => in_responses(body, instructions, &options),
            _ => {}
        }
    }
    request.params.extend(options);
    if !instructions.is_empty() {
        request.messages.insert(0, Message::new("system", instructions));
    }
}

/// In the body of `POST /v1/messages`, or of the question how many tokens that has.
pub fn in_anthropic(body: &mut Map<String, Value>, instructions: &str, options: &Map<String, Value>) {
    let block = |text: &str| json!({"type": "text", "text": text});
    if !instructions.is_empty() {
        let system = match body.get("system") {
            Some(Value::String(own)) if !own.is_empty() => json!([block(instructions), block(own)]),
            Some(Value::Array(own)) => [vec![block(instructions)], own.clone()].concat().into(),
            _ => instructions.into(),
        };
        body.insert("system".into(), system);
    }
    for (name, value) in options {
        let (name, value) = match (name.as_str(), value) {
            ("stop", Value::String(one)) => ("stop_sequences", json!([one])),
            ("stop", many) => ("stop_sequences", many.clone()),
            (same, value) => (same, value.clone()),
        };
        body.insert(name.into(), value);
    }
}

fn in_responses(body: &mut Map<String, Value>, instructions: &str, options: &Map<String, Value>) {
    if !instructions.is_empty() {
        let own = body.get("instructions").and_then(Value::as_str).filter(|own| !own.is_empty());
        let all = own.map_or_else(|| instructions.to_owned(), |own| format!("{instructions}\n\n{own}"));
        body.insert("instructions".into(), all.into());
    }
    for (name, value) in options {
        let name = if name == "max_tokens" { "max_output_tokens" } else { name };
        body.insert(name.into(), value.clone());
    }
}

/// In a `GenerateContentRequest`. Proto JSON has two spellings of a name: the client's is kept.
pub fn in_gemini(body: &mut Map<String, Value>, instructions: &str, options: &Map<String, Value>) {
    let spelt = |body: &Map<String, Value>, camel: &'static str, snake: &'static str| {
        if body.contains_key(snake) { snake } else { camel }
    };
    if !instructions.is_empty() {
        let name = spelt(body, "systemInstruction", "system_instruction");
        let mut parts = vec![json!({"text": instructions})];
        match body.get(name) {
            Some(own @ Value::String(_)) => parts.push(json!({"text": own})),
            Some(Value::Object(own)) => match own.get("parts") {
                Some(Value::Array(own)) => parts.extend(own.iter().cloned()),
                own => parts.extend(own.cloned()),
            },
            _ => {}
        }
        body.insert(name.into(), json!({"parts": parts}));
    }
    if options.is_empty() {
        return;
    }
    let name = spelt(body, "generationConfig", "generation_config");
    let config = body.entry(name).or_insert_with(|| json!({}));
    for (name, value) in options {
        let own = gemini::RENAMED.iter().find(|(_, canonical)| canonical == name);
        let (name, value) = match (own.map_or(name.as_str(), |(own, _)| own), value) {
            ("stopSequences", Value::String(one)) => ("stopSequences", json!([one])),
            (name, value) => (name, value.clone()),
        };
        if let Some(config) = config.as_object_mut() {
            config.insert(name.into(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(dialect: u8, params: Value, body: Value) -> (Request, Value) {
        let map = |value: Value| value.as_object().unwrap().clone();
        let messages = json!([{"role": "user", "content": "Hi"}]);
        let mut request = Request::new("m".into(), messages, map(params), true).unwrap();
        request.original = Some(Original { dialect, body: map(body), headers: Vec::new() });
        let options = map(json!({"temperature": 0.1, "max_tokens": 9, "stop": "X"}));
        prepend(&mut request, "Be kind.", &options);
        let body = request.original.take().unwrap().body;
        (request, body.into())
    }

    #[test]
    fn it_stands_first_and_the_clients_own_options_win() {
        let (request, _) = opened(255, json!({"temperature": 1.0, "max_completion_tokens": 5}), json!({}));
        let said: Vec<_> =
            request.messages.iter().map(|message| (&*message.role, &message.content)).collect();
        assert_eq!(said, [("system", &json!("Be kind.")), ("user", &json!("Hi"))]);
        let expected = json!({"temperature": 1.0, "max_completion_tokens": 5, "stop": "X"});
        assert_eq!(Value::from(request.params), expected);
    }

    #[test]
    fn it_stands_in_what_the_client_wrote_in_the_dialects_own_names() {
        let own = json!({"type": "text", "text": "Mine.", "cache_control": {"type": "ephemeral"}});
        for (dialect, body, expected) in [
            (
                anthropic::DIALECT,
                json!({"system": [own]}),
                json!({"system": [{"type": "text", "text": "Be kind."}, own], "max_tokens": 9, "stop_sequences": ["X"]}),
            ),
            (
                anthropic::DIALECT,
                json!({}),
                json!({"system": "Be kind.", "max_tokens": 9, "stop_sequences": ["X"]}),
            ),
            (
                openai_responses::DIALECT,
                json!({"instructions": "Mine.", "conversation": "c"}),
                json!({"instructions": "Be kind.\n\nMine.", "conversation": "c", "max_output_tokens": 9, "stop": "X"}),
            ),
            (
                gemini::DIALECT,
                json!({"system_instruction": {"parts": {"text": "Mine."}}, "generationConfig": {"temperature": 1}}),
                json!({"system_instruction": {"parts": [{"text": "Be kind."}, {"text": "Mine."}]},
                       "generationConfig": {"temperature": 1, "maxOutputTokens": 9, "stopSequences": ["X"]}}),
            ),
        ] {
            assert_eq!(opened(dialect, json!({"temperature": 1}), body).1, expected);
        }
    }
}
