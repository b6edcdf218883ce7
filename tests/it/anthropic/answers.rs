//! What Anthropic's clients are told: the blocks of answers, those of other providers too.

use relaystream::event::{Done, Event, Notice, Signature, Status, Tool, Usage};
use relaystream::log::{Draft, Framing, Record};
use relaystream::provider::Provider;
use relaystream::surface::{Complaint, Format, Surface, anthropic};
use serde_json::{Value, json};

use crate::fixtures::{LOG, draft, encode, log_of, number, start};
use crate::{fixtures, heard};

/// What the SDKs' accumulators make of events, by their rules: a message begins once; a block is found by its number in
/// the list of those begun, is filled only while it is open, and all are closed at the end.
fn accumulated(bytes: &[u8]) -> (Value, Option<Value>) {
    let (mut message, mut open, mut failure) = (Value::Null, Vec::<u64>::new(), None);
    for block in heard::blocks(bytes) {
        let data: Value = serde_json::from_str(&block.data).expect("JSON");
        assert_eq!(data["type"], block.event.as_str());
        let at = data["index"].as_u64().unwrap_or_default();
        match block.event.as_str() {
            "message_start" => {
                assert!(message.is_null(), "a message begins once");
                message = data["message"].clone();
            }
            "content_block_start" => {
                let content = message["content"].as_array_mut().expect("a message has begun");
                assert_eq!(at as usize, content.len(), "blocks are numbered in order");
                content.push(data["content_block"].clone());
                open.push(at);
            }
            "content_block_delta" => {
                assert!(open.contains(&at), "block {at} is not open: {data}");
                let block = &mut message["content"][at as usize];
                let delta = &data["delta"];
                let (field, piece) = match delta["type"].as_str().expect("a type") {
                    "text_delta" => ("text", &delta["text"]),
                    "thinking_delta" => ("thinking", &delta["thinking"]),
                    "signature_delta" => ("signature", &delta["signature"]),
                    "input_json_delta" => ("json", &delta["partial_json"]),
                    other => panic!("{other}"),
                };
                let known = block[field].as_str().unwrap_or_default();
                block[field] = format!("{known}{}", piece.as_str().expect("text")).into();
            }
            "content_block_stop" => open.retain(|known| *known != at),
            "message_delta" => {
                message["stop_reason"] = data["delta"]["stop_reason"].clone();
                message["usage"] = data["usage"].clone();
            }
            "message_stop" => assert!(open.is_empty(), "blocks {open:?} were left open"),
            "error" => failure = Some(data["error"].clone()),
            other => panic!("{other}"),
        }
    }
    (message, failure)
}

fn log(events: &[Event]) -> Vec<Record> {
    number(std::iter::once(&start()).chain(events).map(draft).collect())
}

fn said(events: &[Event]) -> (Value, Option<Value>) {
    accumulated(&encode(Format::new(Surface::Anthropic), &log(events)))
}

fn token(text: &str) -> Event {
    Event::Token(text.into())
}

fn tool(index: u32, id: Option<&str>, arguments: &str) -> Event {
    let name = id.map(|_| format!("f{index}"));
    let arguments = Some(arguments.to_owned());
    Event::Tool(Tool { index, id: id.map(str::to_owned), name, arguments, signature: None })
}

fn signature(signature: &str, redacted: bool) -> Event {
    Event::Signature(Signature { signature: signature.into(), redacted, ..Signature::default() })
}

fn usage() -> Usage {
    Usage {
        input_tokens: 10,
        output_tokens: 4,
        cached_tokens: Some(3),
        reasoning_tokens: Some(2),
        estimated: false,
    }
}

fn done(reason: &str) -> Event {
    let ended = Done::ended(Status::Completed);
    Event::Done(Done { finish_reason: Some(reason.into()), usage: Some(usage()), ..ended })
}

#[test]
fn blocks_are_opened_and_closed_as_the_sdks_need_them() {
    let (message, failure) = said(&[
        Event::Usage(Usage { output_tokens: 1, ..usage() }),
        Event::Reasoning("h\"m".into()),
        Event::Reasoning("\n".into()),
        signature("c2ln", false),
        signature("ZGF0YQ==", true),
        signature("b21pdHRlZA==", false),
        token("a"),
        token("\u{1F980}\n"),
        tool(0, Some("call_a"), ""),
        tool(0, None, "{\"x\":"),
        tool(0, None, "1}"),
        tool(1, Some("call_b"), "{"),
        tool(2, Some("call_c"), "{}"),
        tool(1, None, "}"),
        done("tool_calls"),
    ]);
    assert_eq!(failure, None);
    assert_eq!(message["id"], format!("msg_{LOG}"));
    assert_eq!((&message["model"], &message["role"]), (&json!("test-model"), &json!("assistant")));
    let call = |id: &str, name: &str, input: &str| json!({"type": "tool_use", "id": id, "name": name, "input": {}, "json": input});
    let expected = json!([
        {"type": "thinking", "thinking": "h\"m\n", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
        {"type": "thinking", "thinking": "", "signature": "b21pdHRlZA=="},
        {"type": "text", "text": "a\u{1F980}\n"},
        call("call_a", "f0", "{\"x\":1}"), call("call_b", "f1", "{}"), call("call_c", "f2", "{}"),
    ]);
    assert_eq!(message["content"], expected);
    assert_eq!(message["stop_reason"], "tool_use");
    let counts = json!({"input_tokens": 7, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 3,
                        "output_tokens": 4, "output_tokens_details": {"thinking_tokens": 2}});
    assert_eq!(message["usage"], counts);
}

#[test]
fn reasons_to_stop_have_their_names() {
    let reason = |events: &[Event]| said(events).0["stop_reason"].clone();
    for (canonical, name) in [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("content_filter", "refusal"),
        ("pause_turn", "pause_turn"),
    ] {
        assert_eq!(reason(&[token("x"), done(canonical)]), name);
    }
    assert_eq!(reason(&[Event::Refusal("No.".into()), done("stop")]), "refusal");
    // A provider that was made to call a tool says `stop`.
    assert_eq!(reason(&[tool(0, Some("c"), "{}"), done("stop")]), "tool_use");
    let (empty, _) = said(&[done("stop")]);
    assert_eq!((&empty["content"], &empty["stop_reason"]), (&json!([]), &json!("end_turn")));
}

#[test]
fn every_other_ending_is_an_error() {
    let interrupted = Done { status: Status::Interrupted, ..Done::failed("interrupted", "gone") };
    for (done, code, class) in [
        (Done::failed("upstream_error", "Overloaded"), "upstream_error", "api_error"),
        (Done::failed("between_tokens_timeout", "silent"), "between_tokens_timeout", "timeout_error"),
        (Done::cancelled("alice"), "cancelled", "api_error"),
        (interrupted, "interrupted", "api_error"),
    ] {
        let (message, failure) = said(&[token("x"), Event::Done(done)]);
        let failure = failure.expect("an error");
        assert_eq!((&failure["code"], &failure["type"]), (&json!(code), &json!(class)));
        assert!(failure["message"].as_str().is_some_and(|text| !text.is_empty()));
        assert_eq!(message["stop_reason"], Value::Null);
    }
}

fn fixture(name: &str) -> Vec<Record> {
    let all = fixtures::all();
    log_of(all.iter().find(|fixture| fixture.name == format!("anthropic/{name}")).expect("there"))
}

/// Forwarded frames, then a seam, then another provider's events: one well-formed message.
#[test]
fn after_a_seam_the_same_message_goes_on() {
    let notice = |code: &str| Notice { code: code.into(), message: "x".into(), provider: None, model: None };
    let spoken = |records: &[Record], upto: &str| {
        let at = records
            .iter()
            .position(|record| std::str::from_utf8(&record.draft.payload).expect("JSON").contains(upto));
        records[..=at.expect("said")].iter().map(|record| (*record.draft).clone()).collect::<Vec<_>>()
    };
    let before = fixture("reasoning.sse");
    let mut drafts = spoken(&before, "27 × 453 =");
    drafts.push(draft(&Event::Notice(notice("continued"))));
    let next = fixture("text.sse");
    drafts.extend(next[1..].iter().map(|record| (*record.draft).clone()));
    let (message, failure) = accumulated(&encode(Format::new(Surface::Anthropic), &number(drafts)));
    assert_eq!(failure, None);
    assert_eq!(message["content"][1]["text"], "27 × 453 = Hello! How can I help you today?");
    assert_eq!(message["content"].as_array().expect("blocks").len(), 2);
    assert_eq!(message["stop_reason"], "end_turn");
    // A retry after a proof of reasoning, which says nothing that could not be said again.
    let omitted = fixture("reasoning_omitted.sse");
    let mut drafts = spoken(&omitted, "signature");
    drafts.push(draft(&Event::Notice(notice("retried"))));
    drafts.extend(omitted[1..].iter().map(|record| (*record.draft).clone()));
    let (message, _) = accumulated(&encode(Format::new(Surface::Anthropic), &number(drafts)));
    // The block is still open, and the newer proof counts: accumulators overwrite it.
    assert_eq!(message["content"].as_array().expect("blocks").len(), 2);
    assert_eq!(message["content"][1]["text"], "42");
}

/// Encoded from its events, every answer is what the SDKs accumulate from the provider's own frames; and so is the whole.
#[test]
fn encoded_and_forwarded_answers_are_the_same_to_an_accumulator() {
    for fixture in fixtures::all().iter().filter(|f| f.dialect == Provider::Anthropic && !f.whole()) {
        // Blocks that only Anthropic has are not said in events.
        if ["server_tools", "unknown_events", "tool_input_at_once", "begun_twice", "bare"]
            .iter()
            .any(|name| fixture.name.contains(name))
        {
            continue;
        }
        let records = log_of(fixture);
        let own: Vec<_> =
            records.iter().map(|record| Draft { framing: Framing::Own, ..(*record.draft).clone() }).collect();
        let own = number(own);
        let (forwarded, failed) = accumulated(&encode(Format::new(Surface::Anthropic), &records));
        let (encoded, also) = accumulated(&encode(Format::new(Surface::Anthropic), &own));
        assert_eq!(failed.is_some(), also.is_some(), "{}", fixture.name);
        // A call without arguments is one with an empty object, here and there.
        let input = |block: &Value| {
            Some(block["json"].clone()).filter(|json| json.as_str().is_some_and(|json| !json.is_empty()))
        };
        let none = json!("{}");
        let input = |block: &Value| input(block).unwrap_or_else(|| none.clone());
        let texts = |message: &Value| -> Vec<Value> {
            let blocks = message["content"].as_array().into_iter().flatten();
            // A refusal's explanation has no block of its own where the provider gave it.
            let blocks =
                blocks.filter(|block| !block["text"].as_str().unwrap_or_default().contains("may enable"));
            blocks
                .map(|block| json!([block["type"], block["text"], block["thinking"], input(block)]))
                .collect()
        };
        if fixture.name.contains("refusal") || failed.is_some() {
            continue;
        }
        assert_eq!(texts(&encoded), texts(&forwarded), "{}", fixture.name);
        let whole: Value = serde_json::from_slice(&anthropic::collect(LOG, &own)).expect("JSON");
        assert_eq!(whole["stop_reason"], encoded["stop_reason"], "{}", fixture.name);
        assert_eq!(whole["usage"], encoded["usage"], "{}", fixture.name);
    }
}

#[test]
fn a_whole_message_has_everything() {
    let events = [
        Event::Reasoning("hm".into()),
        signature("c2ln", false),
        signature("ZGF0YQ==", true),
        token("Hi"),
        tool(0, Some("call_a"), "{\"x\":1.5}"),
        tool(1, Some("call_b"), ""),
        done("tool_calls"),
    ];
    let whole: Value = serde_json::from_slice(&anthropic::collect(LOG, &log(&events))).expect("JSON");
    let expected = json!({
        "id": format!("msg_{LOG}"), "type": "message", "role": "assistant", "model": "test-model",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "ZGF0YQ=="},
            {"type": "text", "text": "Hi"},
            {"type": "tool_use", "id": "call_a", "name": "f0", "input": {"x": 1.5}},
            {"type": "tool_use", "id": "call_b", "name": "f1", "input": {}}],
        "stop_reason": "tool_use", "stop_sequence": null,
        "usage": {"input_tokens": 7, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 3, "output_tokens": 4,
                  "output_tokens_details": {"thinking_tokens": 2}},
    });
    assert_eq!(whole, expected);
}

/// Source of the classes: Anthropic's API reference, "Errors".
#[test]
fn errors_have_the_shape_that_sdks_read() {
    let classes = [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ];
    for (status, class) in classes {
        let (code, message) = ("some_code".to_owned(), "what is wrong".to_owned());
        let complaint = Complaint { status, code, message, param: None, request_id: Some("r1".into()) };
        let error = json!({"type": class, "message": "what is wrong", "code": "some_code",
                           "details": {"error_code": "some_code"}});
        let expected = json!({"type": "error", "error": error, "request_id": "r1"});
        let (kind, body) = complaint.body(Surface::Anthropic);
        assert_eq!((kind, body), ("application/json", expected.to_string()));
        let frame = heard::blocks(&complaint.frame(Surface::Anthropic));
        assert_eq!(
            (frame[0].event.as_str(), frame[0].data.as_str()),
            ("error", expected.to_string().as_str())
        );
    }
}
