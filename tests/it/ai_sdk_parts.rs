//! The AI SDK's parts, held to what its clients accept: the types and keys of npm `ai` 5.0.0's strict schema, and the
//! grammar by which they put a message together. Over every fixture, every event and every ending.

use std::collections::BTreeSet;

use relaystream::event::{Done, Event, Signature, Status, Tool, Usage};
use relaystream::surface::ai_sdk::Parts;
use relaystream::surface::{Format, Surface, ai_sdk};
use serde_json::{Value, json};

use crate::fixtures::{self, draft, encode, log_of, number, start};
use crate::heard::{blocks, scan};

/// Type, required keys, optional keys: of what we may send, as `uiMessageChunkSchema` of 5.0.0 has it.
const SCHEMA: [(&str, &[&str], &[&str]); 21] = [
    ("start", &[], &["messageId", "messageMetadata"]),
    ("start-step", &[], &[]),
    ("text-start", &["id"], &["providerMetadata"]),
    ("text-delta", &["id", "delta"], &["providerMetadata"]),
    ("text-end", &["id"], &["providerMetadata"]),
    ("reasoning-start", &["id"], &["providerMetadata"]),
    ("reasoning-delta", &["id", "delta"], &["providerMetadata"]),
    ("reasoning-end", &["id"], &["providerMetadata"]),
    ("tool-input-start", &["toolCallId", "toolName"], &["providerExecuted", "dynamic"]),
    ("tool-input-delta", &["toolCallId", "inputTextDelta"], &[]),
    (
        "tool-input-available",
        &["toolCallId", "toolName", "input"],
        &["providerExecuted", "providerMetadata", "dynamic"],
    ),
    ("tool-output-available", &["toolCallId", "output"], &["providerExecuted", "dynamic"]),
    ("tool-output-error", &["toolCallId", "errorText"], &["providerExecuted", "dynamic"]),
    ("source-url", &["sourceId", "url"], &["title", "providerMetadata"]),
    ("source-document", &["sourceId", "mediaType", "title"], &["filename", "providerMetadata"]),
    ("file", &["url", "mediaType"], &["providerMetadata"]),
    ("message-metadata", &["messageMetadata"], &[]),
    ("error", &["errorText"], &[]),
    ("abort", &[], &[]),
    ("finish-step", &[], &[]),
    ("finish", &[], &["messageMetadata"]),
];

/// Parts as a client takes them, `[DONE]` left out; panics where it would give up.
fn accepted(bytes: &[u8], what: &str) -> Vec<Value> {
    scan(bytes, what);
    let (mut parts, mut open, mut tools) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for block in blocks(bytes).into_iter().filter(|block| block.data != "[DONE]") {
        let part: Value = serde_json::from_str(&block.data).unwrap_or_else(|error| panic!("{what}: {error}"));
        let name = part["type"].as_str().unwrap_or_else(|| panic!("{what}: no type: {part}"));
        if !name.starts_with("data-") {
            let (_, required, optional) = SCHEMA
                .iter()
                .find(|(known, ..)| *known == name)
                .unwrap_or_else(|| panic!("{what}: unknown type: {part}"));
            for key in part.as_object().expect("an object").keys().filter(|key| *key != "type") {
                assert!(
                    [required, optional].iter().any(|keys| keys.contains(&key.as_str())),
                    "{what}: {key} in {part}"
                );
            }
            assert!(required.iter().all(|key| part.get(*key).is_some()), "{what}: a key is missing: {part}");
        }
        let id = part["id"].as_str().unwrap_or_default().to_owned();
        match name.rsplit_once('-') {
            Some(("text" | "reasoning", "start")) => assert!(open.insert(id), "{what}: open already: {part}"),
            Some(("text" | "reasoning", "delta")) => assert!(open.contains(&id), "{what}: not open: {part}"),
            Some(("text" | "reasoning", "end")) => assert!(open.remove(&id), "{what}: not open: {part}"),
            _ => {}
        }
        let call = part["toolCallId"].as_str().unwrap_or_default().to_owned();
        match name {
            "tool-input-start" => assert!(tools.insert(call), "{what}: begun already: {part}"),
            "tool-input-delta" | "tool-output-available" | "tool-output-error" => {
                assert!(tools.contains(&call), "{what}: not begun: {part}");
            }
            "finish" | "abort" => assert!(open.is_empty(), "{what}: still open: {open:?}"),
            _ => {}
        }
        parts.push(part);
    }
    parts
}

fn sent(parts: Parts, events: &[Event]) -> Vec<u8> {
    let records = number(std::iter::once(&start()).chain(events).map(draft).collect());
    encode(Format { parts, ..Format::new(Surface::AiSdk) }, &records)
}

fn completed(reason: &str) -> Event {
    Event::Done(Done { finish_reason: Some(reason.into()), ..Done::ended(Status::Completed) })
}

#[test]
fn every_fixture_gives_parts_that_the_oldest_client_accepts() {
    for fixture in fixtures::all() {
        let records = log_of(&fixture);
        // Every beginning of a log is what somebody has at some moment.
        for upto in 1..=records.len() {
            accepted(&encode(Format::new(Surface::AiSdk), &records[..upto]), &fixture.name);
        }
    }
}

#[test]
fn proofs_of_reasoning_close_their_block_and_ride_along() {
    let proof = |signature: &str, redacted| {
        Event::Signature(Signature { signature: signature.into(), redacted, ..Signature::default() })
    };
    let events = [
        Event::Reasoning("a".into()),
        proof("s1", false),
        proof("s2", true),
        Event::Reasoning("b".into()),
        Event::Token("x".into()),
        proof("s3", false),
        Event::Token("y".into()),
        completed("stop"),
    ];
    let parts = accepted(&sent(Parts::V5, &events), "proofs");
    let ends: Vec<_> = parts.iter().filter(|part| part["type"] == "reasoning-end").collect();
    let ours = |end: &Value| end["providerMetadata"]["relaystream"].clone();
    assert_eq!(ours(ends[0]), json!({"signature": "s1"}));
    assert_eq!(ours(ends[1]), json!({"signature": "s2", "redacted": true}));
    assert_eq!(ours(ends[2]), Value::Null);
    assert_eq!(ours(ends[3]), json!({"signature": "s3"}));
    // What was sent comes back as it was.
    let thought = |end: &Value, text: &str| json!({"type": "reasoning", "text": text, "providerMetadata": end["providerMetadata"]});
    let message =
        json!({"id": "a", "role": "assistant", "parts": [thought(ends[0], "a"), thought(ends[1], "")]});
    let body = json!({"id": "c", "messages": [message]});
    let asked = ai_sdk::read(body.as_object().expect("an object").clone()).expect("readable");
    assert_eq!(
        asked.messages[0]["reasoning"],
        json!([{"text": "a", "signature": "s1"}, {"text": "", "signature": "s2", "redacted": true}])
    );
}

#[test]
fn calls_without_ids_get_stable_ones_and_signatures_come_back() {
    let piece = |index, name: Option<&str>, arguments: &str| {
        Event::Tool(Tool {
            index,
            name: name.map(str::to_owned),
            arguments: Some(arguments.into()),
            signature: name.map(|_| "sig".to_owned()),
            ..Tool::default()
        })
    };
    let events = [
        piece(0, None, "{\"a\""),
        piece(0, Some("f"), ":1}"),
        piece(1, Some("g"), ""),
        completed("tool_calls"),
    ];
    let parts = accepted(&sent(Parts::V5, &events), "calls");
    let calls: Vec<_> = parts.iter().filter(|part| part["type"] == "tool-input-available").collect();
    assert_eq!((&calls[0]["input"], &calls[1]["input"]), (&json!({"a": 1}), &json!({})));
    assert_ne!(calls[0]["toolCallId"], calls[1]["toolCallId"]);
    let part = json!({"type": "tool-f", "toolCallId": "x", "state": "output-available", "input": {"a": 1}, "output": "o",
                      "callProviderMetadata": calls[0]["providerMetadata"]});
    let body = json!({"id": "c", "messages": [{"id": "a", "role": "assistant", "parts": [part]}]});
    let asked = ai_sdk::read(body.as_object().expect("an object").clone()).expect("readable");
    assert_eq!(asked.messages[0]["tool_calls"][0]["signature"], "sig");
    assert_eq!(asked.messages[1], json!({"role": "tool", "tool_call_id": "x", "content": "o"}));
}

#[test]
fn endings_in_the_sdks_words() {
    let usage = Usage {
        input_tokens: 2,
        output_tokens: 3,
        cached_tokens: Some(1),
        reasoning_tokens: Some(1),
        estimated: false,
    };
    let last = |parts, events: &[Event]| {
        blocks(&sent(parts, events)).iter().rev().take(2).map(|block| block.data.clone()).collect::<Vec<_>>()
    };
    let counts = json!({"inputTokens": 2, "outputTokens": 3, "totalTokens": 5, "cachedInputTokens": 1, "reasoningTokens": 1});
    for (reason, metadata, finish) in [
        ("stop", "stop", "stop"),
        ("tool_calls", "tool-calls", "tool-calls"),
        ("content_filter", "content-filter", "content-filter"),
        ("odd", "odd", "other"),
    ] {
        let events = [Event::Usage(usage), completed(reason)];
        let metadata = json!({"finishReason": metadata, "usage": counts});
        for (parts, expected) in [
            (Parts::V5, json!({"type": "finish", "messageMetadata": metadata})),
            (Parts::V6, json!({"type": "finish", "messageMetadata": metadata, "finishReason": finish})),
        ] {
            assert_eq!(last(parts, &events), ["[DONE]".to_owned(), expected.to_string()]);
        }
    }
    let cancelled = [Event::Token("x".into()), Event::Usage(usage), Event::Done(Done::cancelled("ann"))];
    let parts = accepted(&sent(Parts::V5, &cancelled), "cancelled");
    let metadata = json!({"stoppedBy": "ann", "usage": counts});
    assert_eq!(
        parts[parts.len() - 2..],
        [json!({"type": "message-metadata", "messageMetadata": metadata}), json!({"type": "abort"})]
    );
    for (done, text) in [
        (Done::failed("upstream_error", "it fell over"), "it fell over"),
        (Done::ended(Status::Interrupted), "the stream was interrupted"),
    ] {
        let parts = accepted(&sent(Parts::V5, &[Event::Token("x".into()), Event::Done(done)]), text);
        assert_eq!(parts.last(), Some(&json!({"type": "error", "errorText": text})));
    }
}

#[test]
fn a_clients_message_is_retold_in_parts_that_it_accepts() {
    let message = json!({"id": "m", "role": "assistant", "metadata": {"k": 1}, "parts": [
        {"type": "step-start"},
        {"type": "reasoning", "text": "r", "state": "done", "providerMetadata": {"relaystream": {"signature": "s"}}},
        {"type": "text", "text": "t", "state": "done"},
        {"type": "tool-f", "toolCallId": "c1", "state": "output-available", "input": {"a": 1}, "output": [2], "title": "x"},
        {"type": "dynamic-tool", "toolName": "g", "toolCallId": "c2", "state": "output-error", "rawInput": "{", "errorText": "no"},
        {"type": "tool-h", "toolCallId": "c3", "state": "input-available", "input": {}, "approval": {"id": "x"}},
        {"type": "tool-i", "toolCallId": "c4", "state": "input-streaming"},
        {"type": "source-url", "sourceId": "s", "url": "http://x", "title": "X"},
        {"type": "file", "mediaType": "image/png", "url": "data:,", "filename": "f"},
        {"type": "data-weather", "id": "w", "data": {"c": 1}},
        {"type": "custom", "kind": "x.y"}]});
    let parts = accepted(&ai_sdk::retold(&message), "retold");
    assert_eq!(parts[0], json!({"type": "start", "messageId": "m", "messageMetadata": {"k": 1}}));
    let of = |kind: &str| parts.iter().filter(|part| part["type"] == kind).count();
    // Only what still waits for its output is made available: pages act upon that.
    assert_eq!((of("tool-input-available"), of("tool-output-available"), of("tool-output-error")), (1, 1, 1));
    assert_eq!((of("source-url"), of("file"), of("data-weather"), of("reasoning-end")), (1, 1, 1, 1));
}
