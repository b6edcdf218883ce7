//! The Responses surface under an accumulator as strict as the SDKs': whatever the provider, items are added before
//! anything is said about them, numbers and places have no gaps, and the pieces make the object that is told at the end.

use std::collections::BTreeMap;

use bytes::Bytes;
use relaystream::event::{Done, Event, Notice, Signature, Status, Tool};
use relaystream::log::{Draft, Framing, Raw, Record};
use relaystream::provider::{Frame, Provider};
use relaystream::surface::openai_responses::sequence_number;
use relaystream::surface::{Format, Surface};
use serde_json::{Value, json};

use crate::fixtures::{self, LOG, decode, draft, encode, log_of, number, start};
use crate::heard::blocks;

fn frames(records: &[Record]) -> Vec<Value> {
    let bytes = encode(Format::new(Surface::OpenAiResponses), records);
    blocks(&bytes).iter().map(|block| serde_json::from_str(&block.data).expect("JSON")).collect()
}

fn object(records: &[Record]) -> Value {
    let body = Surface::OpenAiResponses.collect(LOG, records).expect("a surface with whole answers");
    serde_json::from_slice(&body).expect("JSON")
}

/// Reads our own frames as openai-node does; the last one's response.
fn accumulate(frames: &[Value], what: &str) -> Value {
    let (mut open, mut done): (BTreeMap<u64, Value>, BTreeMap<u64, Value>) = Default::default();
    let mut last = Value::Null;
    for (at, frame) in frames.iter().enumerate() {
        assert_eq!(frame["sequence_number"], at, "{what}");
        assert!(
            last.is_null() || last["status"] == "in_progress" || last["status"] == "queued",
            "{what}: after the end"
        );
        let kind = frame["type"].as_str().expect("a type");
        if frame["response"].is_object() {
            assert!(at == 0 || frame["response"]["id"] == last["id"], "{what}: another id");
            assert_eq!(at == 0, kind == "response.created", "{what}");
            last = frame["response"].clone();
            continue;
        }
        let place = frame["output_index"].as_u64().expect("a place");
        if kind == "response.output_item.added" {
            assert_eq!(place, (open.len() + done.len()) as u64, "{what}: a gap");
            open.insert(place, frame["item"].clone());
            continue;
        }
        let item =
            open.get_mut(&place).unwrap_or_else(|| panic!("{what}: {kind} of an item that is not open"));
        if kind == "response.output_item.done" {
            for same in ["id", "type", "call_id"] {
                assert_eq!(frame["item"][same], item[same], "{what}");
            }
            for said in ["content", "summary", "arguments"] {
                assert_eq!(frame["item"][said], item[said], "{what}: what was said of the item");
            }
            open.remove(&place);
            done.insert(place, frame["item"].clone());
            continue;
        }
        assert_eq!(frame["item_id"], item["id"], "{what}");
        piece(item, kind, frame, what);
    }
    let output = last["output"].as_array().expect("output");
    assert_eq!(output.len(), open.len() + done.len(), "{what}");
    if last["status"] != "failed" {
        assert!(open.is_empty(), "{what}: left open");
        assert!(output.iter().eq(done.values()), "{what}: {output:?}");
    }
    last
}

fn piece(item: &mut Value, kind: &str, frame: &Value, what: &str) {
    let (list, index) = match kind.contains("summary") {
        true => ("summary", &frame["summary_index"]),
        false => ("content", &frame["content_index"]),
    };
    if kind.ends_with("part.added") {
        let parts = item[list].as_array_mut().expect("a list");
        assert_eq!(parts.len() as u64, index.as_u64().expect("an index"), "{what}");
        parts.push(frame["part"].clone());
        return;
    }
    let name = if kind.contains("refusal") { "refusal" } else { "text" };
    let said = match kind.contains("arguments") {
        true => &mut item["arguments"],
        false => &mut item[list][index.as_u64().expect("an index") as usize],
    };
    match kind.rsplit('.').next() {
        Some("delta") => {
            let delta = frame["delta"].as_str().filter(|delta| !delta.is_empty()).expect("something is said");
            let text = if said.is_object() { &mut said[name] } else { said };
            *text = format!("{}{delta}", text.as_str().expect("text")).into();
        }
        _ if kind.ends_with("part.done") => assert_eq!(frame["part"], *said, "{what}"),
        _ if said.is_object() => assert_eq!(frame[name], said[name], "{what}"),
        _ => assert_eq!(frame["arguments"], *said, "{what}"),
    }
}

#[test]
fn every_fixture_satisfies_a_strict_accumulator() {
    for fixture in fixtures::all() {
        // Frames of the dialect itself are the provider's; whole answers are encoded like any other.
        if fixture.dialect == Provider::OpenAiResponses && !fixture.whole() {
            continue;
        }
        let records = log_of(&fixture);
        let last = accumulate(&frames(&records), &fixture.name);
        assert!(fixture.whole() || last == object(&records), "{}", fixture.name);
        // As encoded from its events alone, too.
        let own: Vec<Draft> =
            records.iter().map(|record| Draft { framing: Framing::Own, ..(*record.draft).clone() }).collect();
        accumulate(&frames(&number(own)), &fixture.name);
    }
}

#[test]
fn responses_of_the_dialect_translated_from_their_events_are_whole() {
    for fixture in fixtures::all().iter().filter(|f| f.dialect == Provider::OpenAiResponses && !f.whole()) {
        let records = log_of(fixture);
        let own =
            records.iter().map(|record| Draft { framing: Framing::Own, ..(*record.draft).clone() }).collect();
        let said = |response: &Value, kind: &str| -> String {
            let items =
                response["output"].as_array().into_iter().flatten().filter(|item| item["type"] == kind);
            items
                .map(|item| format!("{}{}{}", item["arguments"], item["name"], item["content"][0]["text"]))
                .collect()
        };
        let (ours, theirs) = (accumulate(&frames(&number(own)), &fixture.name), object(&records));
        for kind in ["message", "function_call"] {
            assert_eq!(said(&ours, kind), said(&theirs, kind), "{}", fixture.name);
        }
        assert_eq!(ours["status"], theirs["status"], "{}", fixture.name);
    }
}

/// A log of the provider's first frames, then these events.
fn cut(fixture: &str, frames: usize, then: Vec<Draft>) -> Vec<Record> {
    let all = fixtures::all();
    let fixture =
        all.iter().find(|f| f.name == format!("openai-responses/{fixture}.sse")).expect("a fixture");
    let mut drafts = vec![draft(&start())];
    for frame in decode(fixture.dialect, [fixture.bytes.as_slice()]).0.into_iter().take(frames) {
        frame.into_drafts(0, &mut drafts);
    }
    drafts.extend(then);
    number(drafts)
}

#[test]
fn what_follows_a_providers_frames_goes_on_with_its_ids_and_numbers() {
    let notice = |code: &str| {
        draft(&Event::Notice(Notice {
            code: code.into(),
            message: String::new(),
            provider: None,
            model: None,
        }))
    };
    let completed =
        || draft(&Event::Done(Done { finish_reason: Some("stop".into()), ..Done::ended(Status::Completed) }));
    // A frame of the same dialect behind the seam has numbers of its own: it is told from its events.
    let raw = Raw {
        dialect: 3,
        own_at: 0,
        usage_only: false,
        bytes: Bytes::from_static(b"event: x\ndata: {\"sequence_number\":4}\n\n"),
    };
    let late =
        Frame { events: vec![Event::Token(" and".into()), Event::Token(" more".into())], raw: Some(raw) };
    for (fixture, taken) in [
        ("openai_text", 4),
        ("openai_reasoning", 3),
        ("openai_reasoning", 8),
        ("openai_web_search", 2),
        ("openai_refusal", 2),
    ] {
        let mut then = vec![notice("continued")];
        late.clone().into_drafts(0, &mut then);
        then.push(completed());
        let records = cut(fixture, taken, then);
        let told = frames(&records);
        let last = accumulate_any(&told, fixture);
        assert_eq!(last["id"], told[0]["response"]["id"]);
        assert_eq!(last["status"], "completed");
        let text = last["output"].as_array().expect("output").last().expect("an item")["content"]
            .as_array()
            .expect("parts")
            .last()
            .expect("a part")["text"]
            .clone();
        assert!(text.as_str().expect("text").ends_with(" and more"), "{fixture}: {text}");
        assert_eq!(last, object(&records));
    }
}

/// Numbers without gaps, every item added once and done once; a provider's frames may say less than ours.
fn accumulate_any(frames: &[Value], what: &str) -> Value {
    let (mut added, mut done) = (0, 0);
    for (at, frame) in frames.iter().enumerate() {
        assert_eq!(frame["sequence_number"], at, "{what}");
        added += i32::from(frame["type"] == "response.output_item.added");
        done += i32::from(frame["type"] == "response.output_item.done");
    }
    assert_eq!(added, done, "{what}");
    frames.last().expect("frames")["response"].clone()
}

#[test]
fn endings_have_their_own_words() {
    let text = || draft(&Event::Token("half".into()));
    for (done, kind, status, item) in [
        (Done::ended(Status::Completed), "response.completed", "completed", "completed"),
        (
            Done { finish_reason: Some("length".into()), ..Done::ended(Status::Completed) },
            "response.incomplete",
            "incomplete",
            "incomplete",
        ),
        (Done::cancelled("ann"), "response.incomplete", "cancelled", "incomplete"),
        (Done::failed("too_large", "x"), "response.failed", "failed", "incomplete"),
        (Done::ended(Status::Interrupted), "response.failed", "failed", "incomplete"),
    ] {
        let records = number(vec![draft(&start()), text(), draft(&Event::Done(done))]);
        let told = frames(&records);
        let last = told.last().expect("frames");
        let response = &last["response"];
        assert_eq!(
            (&last["type"], &response["status"], &response["output"][0]["status"]),
            (&json!(kind), &json!(status), &json!(item))
        );
        assert_eq!(*response, object(&records));
    }
}

#[test]
fn signatures_and_calls_keep_what_their_provider_wants_to_see_again() {
    let proof =
        |redacted| Event::Signature(Signature { signature: "c2ln".into(), redacted, ..Signature::default() });
    let call = Tool {
        index: 0,
        id: Some("c".into()),
        name: Some("f".into()),
        arguments: Some("{}".into()),
        signature: Some("g".into()),
    };
    let events = [
        Event::Reasoning("hm".into()),
        proof(false),
        proof(true),
        Event::Tool(call),
        Event::Done(Done::ended(Status::Completed)),
    ];
    let records = number(std::iter::once(&start()).chain(&events).map(draft).collect());
    let last = accumulate(&frames(&records), "signatures");
    let output = &last["output"];
    assert_eq!(
        (&output[0]["encrypted_content"], &output[0]["summary"][0]["text"]),
        (&json!("c2ln"), &json!("hm"))
    );
    assert_eq!((&output[1]["encrypted_content"], &output[1]["redacted"]), (&json!("c2ln"), &json!(true)));
    assert_eq!(output[2]["extra_content"]["google"]["thought_signature"], "g");
}

#[test]
fn reasoning_told_twice_is_heard_once() {
    let frame = |kind: &str, delta: &str| {
        format!("data: {{\"type\":\"response.{kind}.delta\",\"output_index\":0,\"delta\":\"{delta}\"}}\n\n")
    };
    let body = [
        frame("reasoning_text", "raw"),
        frame("reasoning_summary_text", "short"),
        frame("reasoning_text", " too"),
    ]
    .concat();
    let (decoded, error) = decode(Provider::OpenAiResponses, [body.as_bytes()]);
    let events: Vec<Event> = decoded.into_iter().flat_map(|frame| frame.events).collect();
    assert_eq!(
        (events, error),
        (vec![Event::Reasoning("raw".into()), Event::Reasoning(" too".into())], None)
    );
}

#[test]
fn a_frames_number_is_found_without_reading_it() {
    for (frame, number) in [
        (&b"event: x\ndata: {\"type\":\"x\",\"sequence_number\":12,\"delta\":\"\"}"[..], Some(12)),
        (b"data: {\"delta\":\"\\\"sequence_number\\\":1\",\"sequence_number\" : 3}", Some(3)),
        (b"data: {\"delta\":\"sequence_number\",\"sequence_number\":4}", Some(4)),
        (b"data: {\"metadata\":{\"sequence_number\":\"7\"},\"sequence_number\":5}", Some(5)),
        (b"data: {\"sequence_number\":\"5\"}", None),
        (b"data: {}", None),
    ] {
        assert_eq!(sequence_number(frame), number, "{}", String::from_utf8_lossy(frame));
    }
}
