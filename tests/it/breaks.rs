//! What viewers are told when the provider breaks, and that they get to read it, however slowly they do.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::provider::{chunk, frame};
use crate::harness::sse::{BodyEnd, text_of, types};
use crate::harness::{BROKEN_FOR_GOOD, FakeProvider, Gate, Script, Server, chat, hi, soon};

/// Ways in which an answer breaks after its first token, and the code of each.
fn breaks() -> Vec<(&'static str, Script, &'static str)> {
    let begun = || Script::stream().tokens(&["Hel", "lo"]);
    vec![
        ("cut in a chunk", begun().cut(), "upstream_truncated"),
        ("reset", begun().reset(), "upstream_truncated"),
        ("a proper end without [DONE]", begun().end(), "upstream_truncated"),
        ("half a frame", begun().send("data: {\"choices\":[{\"delta\":{\"con").end(), "upstream_truncated"),
        ("no JSON", begun().send("data: {oops}\n\n").stall(), "upstream_malformed"),
        ("another shape", begun().send("data: {\"choices\":3}\n\n").stall(), "upstream_malformed"),
        (
            "an error in band",
            begun().send("data: {\"error\":{\"message\":\"overloaded\"}}\n\n").stall(),
            "upstream_error",
        ),
    ]
}

#[tokio::test]
async fn native_viewers_get_done_failed_and_a_clean_end() {
    for (what, script, code) in breaks() {
        let provider = FakeProvider::new([script]).await;
        let server = Server::before(&provider, BROKEN_FOR_GOOD).await;
        let id = server.start(&hi()).await;
        let mut viewer = server.sse(&format!("/v1/streams/{id}/events")).await;
        let events = viewer.rest().await;
        assert_eq!(types(&events), ["start", "token", "token", "done"], "{what}");
        let done = events[3].json();
        assert_eq!((&done["status"], &done["error"]["code"]), (&json!("failed"), &json!(code)), "{what}");
        assert!(!done["error"]["message"].as_str().unwrap().is_empty());
        assert_eq!(viewer.end, Some(BodyEnd::Clean), "{what}");
        // Never retried: its first token was seen.
        assert_eq!(provider.calls(), 1, "{what}");
        assert_eq!(
            server.metric(&format!("relaystream_upstream_errors_total{{code=\"{code}\"}}")),
            1.0,
            "{what}"
        );
        server.finish().await;
    }
}

#[tokio::test]
async fn openai_viewers_get_an_error_frame_and_a_broken_body() {
    for (what, script, code) in breaks() {
        let provider = FakeProvider::new([script]).await;
        let server = Server::before(&provider, BROKEN_FOR_GOOD).await;
        let mut viewer = server.sse_of(server.post("/v1/chat/completions", &chat())).await;
        let events = viewer.rest().await;
        let error = events.last().unwrap().json();
        assert!(!error["error"]["message"].as_str().unwrap().is_empty(), "{what}");
        if what != "an error in band" {
            assert_eq!(error["error"]["code"], code, "{what}");
        }
        assert!(!viewer.text().contains("[DONE]"), "{what}");
        assert_eq!(viewer.end, Some(BodyEnd::Broken), "{what}");
        server.finish().await;
    }
}

#[tokio::test]
async fn who_wanted_one_piece_gets_an_error() {
    let script = Script::default()
        .head(200, &[("content-type", "application/json"), ("content-length", "500")])
        .raw("{\"choices\":[");
    let provider = FakeProvider::new([script]).await;
    let models = "[models.m]\ntargets = [{ provider = \"fake\", model = \"fake-1\" }]\nretry = { attempts = 2, base_ms = 1, max_ms = 5 }\n";
    let server = Server::before(&provider, models).await;
    let ask = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
    let answer = server.send(server.post("/v1/chat/completions", &ask)).await;
    let answer = crate::harness::Answer::of(answer).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_truncated"));
    assert_eq!(provider.calls(), 2);
    server.finish().await;
}

#[tokio::test]
async fn a_cancel_looks_like_a_failure_to_an_sdk() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, "").await;
    let mut viewer = server.sse_of(server.post("/v1/chat/completions", &chat())).await;
    viewer.next().await.unwrap();
    let id = viewer.header("x-stream-id").to_owned();
    server.cancel(&id).await;
    let events = viewer.rest().await;
    assert_eq!(events.last().unwrap().json()["error"]["code"], "cancelled");
    assert_eq!(viewer.end, Some(BodyEnd::Broken));
    server.finish().await;
}

/// Far more than kernel buffers on both sides hold.
fn large_answer_that_breaks() -> (Script, usize) {
    let text = "x".repeat(64 * 1024);
    let times = 160;
    let script = (0..times).fold(Script::stream(), |script, _| script.send(frame(&text)));
    (script.cut(), times * text.len())
}

#[tokio::test]
async fn a_slow_reader_on_http1_gets_the_error_frame_too() {
    let (script, size) = large_answer_that_breaks();
    let provider = FakeProvider::new([script]).await;
    let server = Server::before(&provider, BROKEN_FOR_GOOD).await;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&server.address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut socket = tokio::net::TcpStream::from_std(socket.into()).unwrap();
    let body = chat().to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        server.address,
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    // Slow at first, when everything between us fills up; then the stream has long ended.
    for _ in 0..20 {
        let mut few = [0; 64];
        let n = soon("bytes", socket.read(&mut few)).await.unwrap();
        received.extend_from_slice(&few[..n]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    crate::harness::eventually("the stream's end", || server.app.relay.running_count() == 0).await;
    let mut more = vec![0; 16 * 1024];
    loop {
        match soon("bytes", socket.read(&mut more)).await {
            Ok(0) | Err(_) => break,
            Ok(n) => received.extend_from_slice(&more[..n]),
        }
        // The last words are read a few bytes at a time again.
        if received.len() > size {
            more.truncate(16);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let text = String::from_utf8(received).unwrap();
    assert_eq!(text.matches('x').count() / (64 * 1024), 160);
    assert!(
        text[text.len() - 400..].contains("\"code\":\"upstream_truncated\""),
        "{}",
        &text[text.len() - 400..]
    );
    assert!(!text.ends_with("0\r\n\r\n"), "the body must not end properly");
    server.finish().await;
}

#[tokio::test]
async fn a_slow_reader_on_http2_gets_the_error_frame_too() {
    let (script, size) = large_answer_that_breaks();
    let provider = FakeProvider::new([script]).await;
    let server = Server::before(&provider, BROKEN_FOR_GOOD).await;
    let socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = axum::http::Request::post(server.url("/v1/chat/completions"))
        .header("content-type", "application/json")
        .body(())
        .unwrap();
    let (response, mut send) = sender.send_request(request, false).unwrap();
    send.send_data(Bytes::from(chat().to_string()), true).unwrap();
    let mut body = soon("a head", response).await.unwrap().into_body();
    let (mut received, mut broken) = (Vec::new(), false);
    // The window is given back a few bytes at a time at first and at the end, so that frames wait for it.
    let mut reads = 0;
    while let Some(data) = soon("data", body.data()).await {
        let Ok(data) = data else {
            broken = true;
            break;
        };
        received.extend_from_slice(&data);
        reads += 1;
        if reads < 20 || received.len() > size - 100_000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    assert!(broken, "the body must not end properly");
    let text = String::from_utf8(received).unwrap();
    assert_eq!(text.matches('x').count() / (64 * 1024), 160);
    assert!(
        text[text.len() - 400..].contains("\"code\":\"upstream_truncated\""),
        "{}",
        &text[text.len() - 400..]
    );
    drop((sender, body, send));
    driver.abort();
    server.finish().await;
}

#[tokio::test]
async fn a_break_on_http2_ends_that_stream_alone() {
    let broken = Script::stream().token("Hel").cut();
    let whole = Script::answer(&["Hello"]);
    let provider = FakeProvider::new([broken, whole]).await;
    let mut server = Server::before(&provider, BROKEN_FOR_GOOD).await;
    server.client = relaystream::tls::client().http2_prior_knowledge().build().unwrap();
    let mut first = server.sse_of(server.post("/v1/chat/completions", &chat())).await;
    let events = first.rest().await;
    assert_eq!(events.last().unwrap().json()["error"]["code"], "upstream_truncated");
    assert_eq!(first.end, Some(BodyEnd::Broken));
    let mut second = server.sse_of(server.post("/v1/chat/completions", &chat())).await;
    assert_eq!(second.rest().await.last().unwrap().data, "[DONE]");
    assert_eq!(second.end, Some(BodyEnd::Clean));
    drop((first, second));
    server.finish().await;
}

#[tokio::test]
async fn silence_is_filled_with_lone_comment_lines() {
    let gate = Gate::default();
    let script = Script::stream().wait(&gate).token("Hello").wait(&gate).finish();
    let provider = FakeProvider::new([script.clone(), script]).await;
    let server = Server::before(&provider, "[server]\nkeepalive_ms = 20\nhead_wait_ms = 1").await;
    for request in
        [server.post("/v1/chat/completions", &chat()), server.get("/v1/chat/stream?model=fake-1&prompt=Hi")]
    {
        let mut viewer = server.sse_of(request).await;
        for _ in 0..2 {
            let before = viewer.raw.len();
            while viewer.raw[before..].windows(4).filter(|four| four == b":\n:\n").count() < 1 {
                assert!(viewer.more().await);
            }
            gate.open();
            while !viewer.text()[before..].contains("data: ") {
                assert!(viewer.more().await);
            }
        }
        let events = viewer.rest().await;
        assert!(!events.is_empty());
        let text = viewer.text();
        assert!(!text.contains(":\n\n"), "a comment with a blank line: {text}");
        // Taken out, they leave the very bytes of a stream without them.
        let bare: String = text.split_inclusive('\n').filter(|line| *line != ":\n").collect();
        let mut replay = server
            .sse(&format!(
                "/v1/streams/{}/events?format={}",
                viewer.header("x-stream-id"),
                if bare.starts_with("id: ") && bare.contains("event: start") {
                    "native"
                } else {
                    "openai-chat"
                }
            ))
            .await;
        replay.rest().await;
        if bare.contains("event: start") {
            assert_eq!(bare, replay.text());
        }
    }
    server.finish().await;
}

#[tokio::test]
async fn a_head_that_waited_long_enough_is_sent_and_the_refusal_is_a_frame() {
    let gate = Gate::default();
    let refusal = Script::default().wait(&gate).head(400, &[("content-length", "2")]).raw("no");
    let provider = FakeProvider::new([refusal]).await;
    let server = Server::before(&provider, "[server]\nhead_wait_ms = 1").await;
    let mut viewer = server.sse_of(server.post("/v1/chat/completions", &chat())).await;
    gate.open();
    let events = viewer.rest().await;
    assert_eq!(events.last().unwrap().json()["error"]["code"], "upstream_status");
    assert_eq!(viewer.end, Some(BodyEnd::Broken));
    server.finish().await;
}

#[tokio::test]
async fn chunk_sizes_do_not_change_what_is_read() {
    let body = format!(
        "\u{feff}: hello\r\ndata: {}\r\n\r\n{}{}",
        chunk(&json!({"content": "Grüße"}), &json!(null)).trim().strip_prefix("data: ").unwrap(),
        frame(" 🌍"),
        crate::harness::provider::closing()
    );
    for size in [1, 2, 3, 5, 64] {
        let provider = FakeProvider::new([Script::stream().send_in(&body, size).end()]).await;
        let server = Server::before(&provider, "").await;
        let id = server.start(&hi()).await;
        let events = server.replay(&id).await;
        assert_eq!(text_of(&events), "Grüße 🌍", "in pieces of {size}");
        assert_eq!(events.last().unwrap().json()["status"], "completed");
        server.finish().await;
    }
}

#[tokio::test]
async fn a_cut_at_every_byte_loses_nothing_that_came_and_is_never_success() {
    let body = format!("{}{}{}", frame("Grüße"), frame(" 🌍"), crate::harness::provider::closing());
    let ends = body.len();
    for at in (0..ends).step_by(7).chain([ends - 2, ends - 1]) {
        let provider = FakeProvider::new([Script::stream().send(&body.as_bytes()[..at]).cut()]).await;
        let models = "[models.m]\ntargets = [{ provider = \"fake\", model = \"fake-1\" }]\nretry = { attempts = 1 }\ncontinue = false\n";
        let server = Server::before(&provider, models).await;
        let id = server.start(&json!({"model": "m", "input": "Hi"})).await;
        let events = server.replay(&id).await;
        let done = events.last().unwrap().json();
        assert_eq!(
            (&done["status"], &done["error"]["code"]),
            (&json!("failed"), &json!("upstream_truncated")),
            "cut at {at}"
        );
        let expected: &str = match at {
            at if at < frame("Grüße").len() => "",
            at if at < frame("Grüße").len() + frame(" 🌍").len() => "Grüße",
            _ => "Grüße 🌍",
        };
        assert_eq!(text_of(&events), expected, "cut at {at}");
        server.finish().await;
    }
}
