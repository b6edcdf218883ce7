//! Leaving gracefully: the drain in this process, then the real binary and its signals.

use std::time::Duration;

use serde_json::{Value, json};

use crate::binary::{Binary, command};
use crate::harness::socket::{Received, Socket};
use crate::harness::sse::{BodyEnd, text_of};
use crate::harness::{
    Answer, FakeProvider, Gate, PATIENCE, Script, Server, chat, client, eventually, hi, soon,
};

fn draining(server: &Server) -> bool {
    server.app.phase() != relaystream::app::Phase::Serving
}

#[tokio::test]
async fn running_streams_may_end_and_new_ones_are_refused() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::stream().token("Hel").wait(&gate).token("lo").finish()]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let mut viewer = server.sse(&format!("/v1/streams/{id}/events")).await;
    let position = viewer.until("token").await.pop().unwrap().id().to_owned();
    let app = server.app.clone();
    let drain = tokio::spawn(async move { app.drain(PATIENCE).await });
    eventually("the drain", || draining(&server)).await;
    let ready = Answer::of(server.send(server.get("/readyz")).await).await;
    assert_eq!((ready.status, &ready.json()["status"]), (503, &json!("draining")));
    assert_eq!(server.send(server.get("/healthz")).await.status(), 200);
    for request in [
        server.post("/v1/streams", &hi()),
        server.post("/v1/chat/completions", &chat()),
        server.get("/v1/chat/stream?prompt=Hi&model=fake-1"),
    ] {
        let answer = Answer::of(server.send(request).await).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "draining"));
        assert!(!answer.header("retry-after").is_empty());
    }
    // A reconnect is served as long as its stream runs.
    let mut again = server.sse(&format!("/v1/streams/{id}/events?after={position}")).await;
    assert!(!drain.is_finished());
    gate.open();
    assert_eq!(text_of(&again.until("done").await), "lo");
    assert_eq!(text_of(&viewer.until("done").await), "lo");
    soon("the drain's end", drain).await.unwrap();
    assert_eq!(provider.calls(), 1);
    server.finish().await;
}

#[tokio::test]
async fn the_deadline_interrupts_what_still_runs() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, "[store]\nengine = \"memory\"").await;
    let id = server.start(&hi()).await;
    let mut native = server.sse(&format!("/v1/streams/{id}/events")).await;
    native.until("token").await;
    let mut openai = server.sse_of(server.post("/v1/chat/completions", &chat())).await;
    openai.next().await.unwrap();
    soon("the drain", server.app.drain(Duration::from_millis(10))).await;
    let done = native.expect("done").await.json();
    assert_eq!((&done["status"], &done["error"]["code"]), (&json!("interrupted"), &json!("interrupted")));
    assert!(native.next().await.is_none());
    assert_eq!(native.end, Some(BodyEnd::Clean));
    let error = openai.rest().await.pop().unwrap().json();
    assert_eq!(error["error"]["code"], "interrupted");
    assert_eq!(openai.end, Some(BodyEnd::Broken));
    provider.abandoned(0).await;
    provider.abandoned(1).await;
    server.finish().await;
}

#[tokio::test]
async fn what_another_process_goes_on_with_is_left_and_its_viewers_are_sent_home() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let mut native = server.sse(&format!("/v1/streams/{id}/events")).await;
    native.until("token").await;
    let mut openai = server.sse_of(server.post("/v1/chat/completions", &chat())).await;
    openai.next().await.unwrap();
    let mut whole = chat();
    whole["stream"] = false.into();
    let whole = server.post("/v1/chat/completions", &whole);
    let whole = tokio::spawn(async move { Answer::of(whole.send().await.unwrap()).await });
    provider.request(2).await;
    soon("the drain", server.app.drain(Duration::from_millis(10))).await;
    let notice = native.expect("notice").await;
    assert_eq!(notice.json()["code"], "draining");
    assert!(notice.retry_ms.is_some_and(|ms| ms >= 1000) && notice.id.is_none());
    assert!(native.next().await.is_none());
    assert_eq!(native.end, Some(BodyEnd::Clean));
    let error = openai.rest().await.pop().unwrap().json();
    assert_eq!((&error["error"]["code"], openai.end), (&json!("draining"), Some(BodyEnd::Broken)));
    let whole = soon("the answer in one piece", whole).await.unwrap();
    assert_eq!((whole.status, whole.code().as_str()), (503, "draining"));
    provider.abandoned(0).await;
    server.finish().await;
}

#[tokio::test]
async fn viewers_of_sessions_are_sent_home_and_told_when_to_come_back() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, "").await;
    let mut body = hi();
    body["session"] = "room-1".into();
    let id = server.start(&body).await;
    let mut mirror = server.sse("/v1/sessions/room-1/events").await;
    mirror.until("token").await;
    let (mut socket, _) = Socket::enter(&server, "room-1", &[]).await;
    soon("the drain", server.app.drain(Duration::from_millis(10))).await;
    let events = mirror.rest().await;
    let notice = events.last().unwrap();
    assert_eq!((notice.event.as_str(), &notice.json()["code"]), ("notice", &json!("draining")));
    assert!(notice.retry_ms.is_some_and(|ms| ms >= 1000) && notice.id.is_none());
    assert_eq!(mirror.end, Some(BodyEnd::Clean));
    let mut going_away = Value::Null;
    let code = loop {
        match socket.next().await {
            Received::Json(message) if message["type"] == "going-away" => going_away = message,
            Received::Json(message) => assert_eq!(message["stream"], id),
            Received::Close(code, _) => break code,
        }
    };
    assert!(going_away["data"]["retry_ms"].as_u64().is_some_and(|ms| ms >= 1000), "{going_away}");
    assert_eq!(code, 4202);
    server.finish().await;
}

#[tokio::test]
async fn viewers_of_sessions_see_the_ending_before_they_are_sent_home() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, "[store]\nengine = \"memory\"").await;
    let mut body = hi();
    body["session"] = "room-1".into();
    server.start(&body).await;
    let mut mirror = server.sse("/v1/sessions/room-1/events").await;
    mirror.until("token").await;
    let (mut socket, _) = Socket::enter(&server, "room-1", &[]).await;
    soon("the drain", server.app.drain(Duration::from_millis(10))).await;
    let done = mirror.until("done").await.pop().unwrap().json();
    assert_eq!(done["status"], "interrupted");
    mirror.until("notice").await;
    let done = socket.until("done").await.pop().unwrap();
    assert_eq!(done["data"]["status"], "interrupted");
    socket.until("going-away").await;
    drop(mirror);
    assert_eq!(socket.closed().await, 4202);
    server.finish().await;
}

#[tokio::test]
async fn a_reconnect_to_a_closing_server_gets_a_notice_and_a_close() {
    let server = Server::demo().await;
    soon("the drain", server.app.drain(Duration::ZERO)).await;
    let request = server.get("/v1/sessions/room-1/events?after=x");
    let status = server.send(request).await.status();
    // Nobody has named that session: it is not there.
    assert_eq!(status, 404);
    server.finish().await;
}

/// Runs it with a configuration that it must refuse; what it says.
fn refused(config: &str, arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("c.toml"), config).unwrap();
    let output = command(&directory).args(["serve", "--config", "c.toml"]).args(arguments).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    said
}

#[tokio::test]
async fn bad_configuration_is_refused_naming_the_keys_path() {
    for (config, path) in [
        ("[server]\nkeepalive = 1", "server.keepalive"),
        ("[limits]\nstream_bytes = \"many\"", "limits.stream_bytes"),
        ("[providers.x]\ndialect = \"morse\"", "providers.x"),
        ("[providers.x]\ndialect = \"openai-chat\"\nbase_url = \"ftp://x\"", "providers.x"),
        (
            "[providers.x]\ndialect = \"openai-chat\"\nbase_url = \"http://x\"\nkeys = [\"env:NOT_THERE\"]",
            "providers.x",
        ),
        ("[models.m]\ntargets = [{ provider = \"nobody\", model = \"x\" }]", "models.m"),
        ("[[auth.keys]]\nuser = \"ann\"", "auth.keys[0]"),
        ("[prompts]\npath = \"nowhere\"", "prompts.path"),
    ] {
        let said = refused(config, &[]);
        assert!(said.contains(path), "{path} in {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[tokio::test]
async fn others_than_this_machine_need_credentials() {
    let said = refused("", &["--listen", "0.0.0.0:0"]);
    assert!(
        said.contains("server.listen") && said.contains("auth.keys") && said.contains("--open"),
        "{said}"
    );
}

#[tokio::test]
async fn sigterm_ends_the_process_gracefully() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [("RELAYSTREAM_SERVER__DRAIN_S", "1"), ("RELAYSTREAM_STORE__ENGINE", "memory")];
    let binary = Binary::serving(&directory, &[], &settings).await;
    let address = &binary.address;
    let client = client();
    let body = json!({"model": "demo-slow", "input": "Hi"}).to_string();
    let started = client.post(format!("http://{address}/v1/streams")).body(body).send().await.unwrap();
    let id = started.headers()["x-stream-id"].to_str().unwrap().to_owned();
    let events = client.get(format!("http://{address}/v1/streams/{id}/events")).send().await.unwrap();
    let mut viewer = crate::harness::Sse::new(events);
    viewer.until("token").await;
    binary.signal("TERM");
    let done = viewer.until("done").await.pop().unwrap().json();
    assert_eq!(done["status"], "interrupted");
    assert_eq!(binary.exit().await.code(), Some(0));
}
