//! Events as Gemini's clients see them.

use relaystream::event::{Done, Event, Notice, Signature, Status, Tool, Usage};
use relaystream::log::{Draft, Framing, Raw, Record};
use relaystream::surface::gemini::collect;
use relaystream::surface::{Format, Surface};
use serde_json::{Value, json};

use crate::fixtures::{LOG, draft, encode, number, start};
use crate::heard::blocks;

fn log(events: &[Event]) -> Vec<Record> {
    number(std::iter::once(&start()).chain(events).map(draft).collect())
}

fn answers(records: &[Record]) -> Vec<Value> {
    let bytes = encode(Format { ids: false, ..Format::new(Surface::Gemini) }, records);
    blocks(&bytes).iter().map(|block| serde_json::from_str(&block.data).expect("JSON")).collect()
}

fn piece(index: u32, id: Option<&str>, name: Option<&str>, arguments: Option<&str>) -> Event {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Event::Tool(Tool {
        index,
        id: owned(id),
        name: owned(name),
        arguments: owned(arguments),
        signature: None,
    })
}

fn parts(answers: &[Value]) -> Vec<Value> {
    answers
        .iter()
        .flat_map(|answer| {
            answer["candidates"][0]["content"]["parts"].as_array().cloned().unwrap_or_default()
        })
        .collect()
}

fn ended(reason: &str) -> Done {
    let usage = Usage {
        input_tokens: 10,
        output_tokens: 7,
        cached_tokens: Some(3),
        reasoning_tokens: Some(2),
        estimated: false,
    };
    Done { finish_reason: Some(reason.into()), usage: Some(usage), ..Done::ended(Status::Completed) }
}

#[test]
fn events_become_whole_answers() {
    let proof = Signature { signature: "c2ln".into(), ..Signature::default() };
    let events = [
        Event::Reasoning("Hm.".into()),
        Event::Signature(proof),
        Event::Signature(Signature { signature: "x".into(), redacted: true, ..Signature::default() }),
        Event::Signature(Signature { signature: "not base64".into(), ..Signature::default() }),
        Event::Token("Hi".into()),
        Event::Refusal(" no".into()),
        Event::Done(ended("length")),
    ];
    let said = answers(&log(&events));
    let expected = [
        json!({"text": "Hm.", "thought": true}),
        json!({"text": "", "thought": true, "thoughtSignature": "c2ln"}),
        json!({"text": "Hi"}),
        json!({"text": " no"}),
        json!({"text": ""}),
    ];
    assert_eq!(parts(&said), expected);
    let last = said.last().expect("an ending");
    assert_eq!(
        *last,
        json!({"candidates": [{"content": {"parts": [{"text": ""}], "role": "model"}, "index": 0,
        "finishReason": "MAX_TOKENS"}], "modelVersion": "test-model", "responseId": LOG.to_string(),
        "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 17,
            "cachedContentTokenCount": 3, "thoughtsTokenCount": 2}})
    );
    let whole: Value = serde_json::from_slice(&collect(LOG, &log(&events))).expect("JSON");
    assert_eq!(parts(std::slice::from_ref(&whole)), [&expected[..2], &[json!({"text": "Hi no"})]].concat());
    assert_eq!(whole["usageMetadata"], last["usageMetadata"]);
    for (reason, own) in
        [("stop", "STOP"), ("tool_calls", "STOP"), ("content_filter", "SAFETY"), ("no_image", "NO_IMAGE")]
    {
        let said = answers(&log(&[Event::Done(ended(reason))]));
        assert_eq!(said[0]["candidates"][0]["finishReason"], own);
    }
}

#[test]
fn function_calls_are_whole_however_they_came() {
    let call =
        |id: &str, name: &str, args: Value| json!({"functionCall": {"name": name, "args": args, "id": id}});
    let fragments = [
        piece(0, Some("a"), Some("f"), None),
        piece(0, None, None, Some("{\"x\":")),
        piece(1, Some("b"), Some("g"), Some("{}")),
        piece(0, None, None, Some("1}")),
        piece(2, Some("c"), Some("h"), None),
    ];
    let expected = [call("a", "f", json!({"x": 1})), call("b", "g", json!({})), call("c", "h", json!({}))];
    let whole = [&fragments[..], &[Event::Done(ended("tool_calls"))]].concat();
    assert_eq!(parts(&answers(&log(&whole)))[..3], expected);
    let document: Value = serde_json::from_slice(&collect(LOG, &log(&whole))).expect("JSON");
    assert_eq!(parts(&[document]), expected);
    // What follows a call is not held back, and what a broken answer left incomplete is not told.
    let broken = [
        &fragments[..2],
        &[Event::Token("t".into()), Event::Done(Done::failed("upstream_truncated", "cut"))],
    ]
    .concat();
    let said = answers(&log(&broken));
    assert_eq!(parts(&said), [json!({"text": "t"})]);
    assert_eq!(said[1]["error"]["code"], 502);
    // Arguments that are none have their own ending in this dialect.
    let malformed = [&fragments[..2], &[Event::Done(ended("tool_calls"))]].concat();
    assert_eq!(answers(&log(&malformed))[0]["candidates"][0]["finishReason"], "MALFORMED_FUNCTION_CALL");
}

#[test]
fn failures_have_the_codes_that_make_sdks_raise() {
    let of = |done: Done| answers(&log(&[Event::Done(done)]))[0]["error"].clone();
    for (done, code, status) in [
        (Done::failed("upstream_error", "x"), 502, "UNAVAILABLE"),
        (Done::failed("between_tokens_timeout", "x"), 504, "DEADLINE_EXCEEDED"),
        (Done::failed("too_large", "x"), 413, "INVALID_ARGUMENT"),
        (Done::cancelled("alice"), 499, "CANCELLED"),
        (Done { status: Status::Interrupted, ..Done::failed("interrupted", "x") }, 503, "UNAVAILABLE"),
    ] {
        let error = of(done);
        assert_eq!((&error["code"], &error["status"]), (&json!(code), &json!(status)));
    }
}

/// Up to a seam the provider's frames are its own, and so is the ending; after it they are told anew.
#[test]
fn frames_behind_a_seam_are_told_anew() {
    let raw = |parts: Value| {
        let data = json!({"candidates": [{"content": {"parts": parts}}], "vendor": 1});
        Framing::Raw(Raw {
            dialect: 5,
            own_at: 0,
            usage_only: false,
            bytes: format!("data: {data}\n\n").into(),
        })
    };
    let frame = |text: &str| {
        let part = Draft { framing: Framing::Part(5), ..draft(&Event::Token(text.into())) };
        [part, Draft { framing: raw(json!([{"text": text}])), ..draft(&Event::Usage(Usage::default())) }]
    };
    let notice = |code: &str| {
        draft(&Event::Notice(Notice { code: code.into(), message: "m".into(), provider: None, model: None }))
    };
    let own = draft(&Event::Done(ended("stop")));
    let theirs = Draft { framing: raw(json!([])), ..own.clone() };
    let vendors =
        |answers: &[Value]| answers.iter().map(|answer| !answer["vendor"].is_null()).collect::<Vec<_>>();
    let of = |drafts: Vec<Draft>| answers(&number([vec![draft(&start())], drafts].concat()));
    let whole = of([frame("a").to_vec(), vec![notice("retried"), theirs.clone()]].concat());
    assert_eq!(vendors(&whole), [true, true]);
    for done in [theirs, own] {
        let seam =
            of([frame("a").to_vec(), vec![notice("continued")], frame("b").to_vec(), vec![done]].concat());
        assert_eq!(parts(&seam), [json!({"text": "a"}), json!({"text": "b"}), json!({"text": ""})]);
        assert_eq!(vendors(&seam), [true, false, false]);
        assert_eq!(seam[2]["candidates"][0]["finishReason"], "STOP");
    }
}
