//! Surfaces on canonical events, without a provider's bytes to forward: every kind of event, every ending, errors,
//! keep-alives.

use relaystream::event::{Done, Event, Failure, Notice, Status, Tool, Usage};
use relaystream::log::Record;
use relaystream::surface::{Complaint, Ending, Format, Surface, native, openai_chat};
use serde_json::{Value, json};

use crate::fixtures::{LOG, draft, encode, formats, number, start};
use crate::heard::{Block, blocks, scan};

fn log(events: &[Event]) -> Vec<Record> {
    number(std::iter::once(&start()).chain(events).map(draft).collect())
}

fn token(text: &str) -> Event {
    Event::Token(text.into())
}

fn usage() -> Usage {
    Usage {
        input_tokens: 10,
        output_tokens: 4,
        cached_tokens: Some(3),
        reasoning_tokens: Some(2),
        ..Usage::default()
    }
}

fn completed() -> Done {
    Done { finish_reason: Some("length".into()), usage: Some(usage()), ..Done::ended(Status::Completed) }
}

fn sent(surface: Surface, events: &[Event]) -> Vec<Block> {
    let bytes = encode(Format::new(surface), &log(events));
    scan(&bytes, surface.name());
    blocks(&bytes)
}

fn chunks(events: &[Event]) -> Vec<Value> {
    let parse = |block: &Block| serde_json::from_str(&block.data).unwrap_or_else(|_| json!(block.data));
    sent(Surface::OpenAiChat, events).iter().map(parse).collect()
}

/// One of each, ended in every way there is.
fn everything() -> Vec<(Status, Vec<Event>)> {
    let notice = Notice {
        code: "retried".into(),
        message: "attempt 2".into(),
        provider: Some("p".into()),
        model: Some("m".into()),
    };
    let calls = [
        Tool {
            index: 0,
            id: Some("call_a".into()),
            name: Some("f".into()),
            arguments: None,
            signature: None,
        },
        Tool { index: 0, id: None, name: None, arguments: Some("{\"x\":".into()), signature: None },
        Tool {
            index: 1,
            id: Some("call_b".into()),
            name: Some("g".into()),
            arguments: Some("{}".into()),
            signature: None,
        },
        Tool { index: 0, id: None, name: None, arguments: Some("1}".into()), signature: None },
    ];
    let body = |done: Done| {
        let mut events =
            vec![Event::Notice(notice.clone()), Event::Reasoning("hm\n".into()), token("a\r\nb\rc\n\nd 🦀")];
        events.extend(calls.iter().cloned().map(Event::Tool));
        events.extend([Event::Usage(usage()), Event::Done(done)]);
        events
    };
    let failure = Failure { code: "interrupted".into(), message: "the node went away".into() };
    [
        completed(),
        Done::failed("between_tokens_timeout", "the provider fell silent\nfor too long"),
        Done::cancelled("alice"),
        Done { error: Some(failure), ..Done::ended(Status::Interrupted) },
    ]
    .into_iter()
    .map(|done| (done.status, body(done)))
    .collect()
}

#[test]
fn nothing_that_breaks_a_client_is_ever_sent() {
    for (status, events) in everything() {
        for (name, format) in formats() {
            let bytes = encode(format, &log(&events));
            scan(&bytes, &format!("{name}, {status:?}"));
            let text = std::str::from_utf8(&bytes).expect("UTF-8");
            assert!(text.ends_with("\n\n") && !text.contains("\n\n\n"), "{name}, {status:?}");
            assert!(!text.contains("\n:") && !text.starts_with(':'), "no comments between events");
            for block in text.split_terminator("\n\n") {
                let data = block.lines().position(|line| line.starts_with("data:"));
                let last = block.lines().position(|line| line.starts_with("retry:"));
                assert!(data.is_some() && last < data, "{name}: {block}");
            }
        }
    }
}

#[test]
fn native_prints_the_log_itself() {
    for (status, events) in everything() {
        let blocks = sent(Surface::Native, &events);
        assert_eq!(blocks.len(), events.len() + 1);
        for (at, (block, event)) in blocks[1..].iter().zip(&events).enumerate() {
            assert_eq!(block.event, event.kind().name());
            assert_eq!(block.data.as_bytes(), event.data());
            assert_eq!(block.id.as_deref(), Some(format!("{LOG}-0000-{:010}", at + 2).as_str()));
        }
        let done: Value = serde_json::from_str(&blocks.last().expect("events").data).expect("JSON");
        assert_eq!(done["status"], status.as_str());
    }
    let first = encode(Format::new(Surface::Native), &log(&[]));
    assert!(String::from_utf8_lossy(&first).contains("\nretry: 1000\ndata: {"), "retry is in start's block");
}

#[test]
fn asides_have_no_id() {
    let bytes = native::aside("notice", Some(2500), &json!({"code": "draining", "message": "x"}));
    let text = "event: notice\nretry: 2500\ndata: {\"code\":\"draining\",\"message\":\"x\"}\n\n";
    assert_eq!(String::from_utf8_lossy(&bytes), text);
    scan(&bytes, "aside");
}

#[test]
fn plain_is_text_and_its_endings() {
    let of =
        |done: Done| sent(Surface::Plain, &[Event::Reasoning("no".into()), token("a\nb"), Event::Done(done)]);
    let said = of(completed());
    assert_eq!((said[0].event.as_str(), said[0].data.as_str()), ("", "a\nb"));
    assert_eq!((said[1].event.as_str(), said[1].data.as_str()), ("", "[DONE]"));
    let failed = of(Done::failed("too_slow", "one\ntwo"));
    assert_eq!((failed[1].event.as_str(), failed[1].data.as_str()), ("error", "one\ntwo"));
    assert_eq!(of(Done::cancelled("bob"))[1].data, "cancelled");
    assert!(said.iter().chain(&failed).all(|block| block.id.is_some()));
    let newline = sent(Surface::Plain, &[token("\n")]);
    assert_eq!(newline[0].data, "\n");
}

#[test]
fn openai_chat_completes_as_openai_does() {
    let (_, events) = everything().swap_remove(0);
    let chunks = chunks(&events);
    assert_eq!(chunks.last(), Some(&json!("[DONE]")));
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    assert_eq!(
        *deltas[0],
        json!({"reasoning_content": "hm\n", "role": "assistant"}),
        "the first one has the role"
    );
    assert_eq!(*deltas[1], json!({"content": "a\r\nb\rc\n\nd 🦀"}));
    let call = |delta: &Value| delta["tool_calls"][0].clone();
    let first =
        json!({"index": 0, "id": "call_a", "type": "function", "function": {"name": "f", "arguments": ""}});
    assert_eq!(call(deltas[2]), first);
    assert_eq!(call(deltas[3]), json!({"index": 0, "function": {"arguments": "{\"x\":"}}));
    assert_eq!(call(deltas[4])["index"], 1);
    assert_eq!(call(deltas[5]), json!({"index": 0, "function": {"arguments": "1}"}}));
    let ending = &chunks[chunks.len() - 3..];
    assert_eq!(ending[0]["choices"], json!([{"index": 0, "delta": {}, "finish_reason": "length"}]));
    assert_eq!(ending[1]["choices"], json!([]));
    let counts = json!({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14,
                        "prompt_tokens_details": {"cached_tokens": 3},
                        "completion_tokens_details": {"reasoning_tokens": 2}});
    assert_eq!(ending[1]["usage"], counts);
    for chunk in &chunks[..chunks.len() - 1] {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!((&chunk["created"], &chunk["model"]), (&json!(1_761_500_000), &json!("test-model")));
        assert_eq!(chunk["id"], format!("chatcmpl-{LOG}"));
    }
}

/// A reader that reconnects from any id gets all that follows it, so an id comes with the last bytes of its event.
#[test]
fn openai_chat_ids_come_last() {
    let (_, events) = everything().swap_remove(0);
    let blocks = sent(Surface::OpenAiChat, &events);
    let (last, before) = blocks.split_last().expect("events");
    let done = format!("{LOG}-0000-{:010}", events.len() + 1);
    assert_eq!((last.data.as_str(), last.id.as_deref()), ("[DONE]", Some(done.as_str())));
    assert!(before.iter().all(|block| block.id.as_deref() != Some(&done)));
}

#[test]
fn openai_chat_raises_on_every_other_ending() {
    for (status, events) in everything().into_iter().skip(1) {
        let chunks = chunks(&events);
        let error = &chunks.last().expect("chunks")["error"];
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{status:?}");
        assert_eq!(error["type"], "server_error");
        let code = match status {
            Status::Failed => "between_tokens_timeout",
            other => other.as_str(),
        };
        assert_eq!(error["code"], code);
        assert!(!chunks.contains(&json!("[DONE]")), "{status:?} is not success");
        assert!(chunks.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()), "{status:?}");
    }
}

#[test]
fn endings_break_where_a_clean_end_means_success() {
    for surface in Surface::ALL {
        for status in Status::ALL {
            let own_word = matches!(surface, Surface::OpenAiResponses | Surface::AiSdk);
            let clean = surface == Surface::Native
                || matches!(status, Status::Completed | Status::Running)
                || (own_word && status == Status::Cancelled);
            let expected = if clean { Ending::Clean } else { Ending::Broken };
            assert_eq!(surface.ending(status), expected, "{surface:?} {status:?}");
        }
        let expected: &[u8] = match surface {
            Surface::Anthropic => b"event: ping\ndata: {\"type\": \"ping\"}\n\n",
            Surface::Gemini => b"\n",
            // A blank line would be an event to openai-python.
            _ => b":\n",
        };
        assert_eq!(surface.keep_alive(), expected);
        assert_eq!(Surface::parse(surface.name()), Some(surface));
    }
}

#[test]
fn a_whole_answer_has_everything() {
    let (_, events) = everything().swap_remove(0);
    let body: Value = serde_json::from_slice(&openai_chat::collect(LOG, &log(&events))).expect("JSON");
    let choice = &body["choices"][0];
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["message"]["content"], "a\r\nb\rc\n\nd 🦀");
    assert_eq!(choice["message"]["reasoning_content"], "hm\n");
    let calls = json!([{"id": "call_a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
                       {"id": "call_b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]);
    assert_eq!(choice["message"]["tool_calls"], calls);
    assert_eq!(body["usage"]["total_tokens"], 14);
    let only_tools = log(&[events[3].clone(), Event::Done(completed())]);
    let body: Value = serde_json::from_slice(&openai_chat::collect(LOG, &only_tools)).expect("JSON");
    assert_eq!(body["choices"][0]["message"]["content"], Value::Null);
}

#[test]
fn errors_have_the_shape_that_sdks_read() {
    let classes = [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (409, "invalid_request_error"),
        (413, "invalid_request_error"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (502, "server_error"),
        (503, "server_error"),
        (504, "timeout_error"),
    ];
    for (status, class) in classes {
        let complaint = Complaint {
            status,
            code: "some_code".into(),
            message: "what is wrong".into(),
            param: Some("messages[0]".into()),
            request_id: Some("r1".into()),
        };
        for surface in [Surface::Native, Surface::Plain, Surface::OpenAiChat, Surface::OpenAiResponses] {
            let expected = json!({"error": {"code": "some_code", "message": "what is wrong", "type": class,
                                            "param": "messages[0]", "request_id": "r1"}});
            assert_eq!(complaint.body(surface), ("application/json", expected.to_string()));
        }
    }
}
