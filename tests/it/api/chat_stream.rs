//! `GET /v1/chat/stream`: one URL for a bare EventSource.

use serde_json::json;

use crate::harness::sse::{text_of, types};
use crate::harness::{Answer, FakeProvider, Gate, Script, Server};

const URL: &str = "/v1/chat/stream?prompt=Gr%C3%BC%C3%9F+dich&model=fake-1&session=room-1";

#[tokio::test]
async fn the_stream_and_its_id_come_before_the_provider_says_anything() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::default().wait(&gate)]).await;
    let server = Server::before(&provider, "").await;
    let mut viewer = server.sse(URL).await;
    let start = viewer.expect("start").await;
    assert_eq!(start.json()["session"], "room-1");
    assert_eq!(start.retry_ms, Some(1000));
    let id = viewer.header("x-stream-id").to_owned();
    assert_eq!(start.id(), format!("{id}-0000-0000000001"));
    let request = provider.request(0).await;
    assert_eq!(request.body()["messages"], json!([{"role": "user", "content": "Grüß dich"}]));
    drop(viewer);
    server.cancel(&id).await;
    server.finish().await;
}

#[tokio::test]
async fn a_reconnect_goes_on_with_the_same_stream_wherever_it_was_cut() {
    let gate = Gate::default();
    let script = ["a", "b", "c"].iter().fold(Script::stream(), |script, text| script.wait(&gate).token(text));
    let provider = FakeProvider::new([script.finish()]).await;
    let server = Server::before(&provider, "").await;
    let mut viewer = server.sse(URL).await;
    let mut collected = vec![viewer.expect("start").await];
    for _ in 0..3 {
        let last = collected.last().unwrap().id().to_owned();
        drop(viewer);
        viewer = server.sse_of(server.get(URL).header("last-event-id", last)).await;
        gate.open();
        collected.push(viewer.expect("token").await);
    }
    collected.extend(viewer.rest().await);
    assert_eq!(types(&collected), ["start", "token", "token", "token", "usage", "done"]);
    assert_eq!(text_of(&collected), "abc");
    let last = collected.last().unwrap().id();
    let end = server.send(server.get(URL).header("last-event-id", last)).await;
    assert_eq!(end.status(), 204);
    assert_eq!(provider.calls(), 1);
    server.finish().await;
}

#[tokio::test]
async fn a_key_finds_the_stream_of_a_cut_that_came_before_the_first_id() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::stream().wait(&gate).token("Hello").finish()]).await;
    let server = Server::before(&provider, "").await;
    let path = format!("{URL}&key=page-1");
    let first = server.sse(&path).await;
    let id = first.header("x-stream-id").to_owned();
    drop(first);
    let mut again = server.sse(&path).await;
    assert_eq!((again.header("x-stream-id"), again.header("idempotent-replayed")), (id.as_str(), "true"));
    gate.open();
    assert_eq!(text_of(&again.rest().await), "Hello");
    assert_eq!(provider.calls(), 1);
    server.finish().await;
}

#[tokio::test]
async fn a_position_of_a_stream_that_is_not_there_never_starts_one() {
    let provider = FakeProvider::new([Script::answer(&["Hello"])]).await;
    let server = Server::before(&provider, "").await;
    let gone = "01jxk3v9c2m4n5p6q7r8s9t0va";
    let request = server.get(URL).header("last-event-id", format!("{gone}-0000-0000000007"));
    let mut viewer = server.sse_of(request).await;
    let events = viewer.rest().await;
    assert_eq!(types(&events), ["reset", "done"]);
    assert_eq!((events[0].json(), &events[0].id), (json!({"reason": "lost"}), &None));
    assert_eq!(events[1].json()["status"], "interrupted");
    assert_eq!(events[1].id(), format!("{gone}-0000-9999999999"));
    let end = server.send(server.get(URL).header("last-event-id", events[1].id())).await;
    assert_eq!(end.status(), 204);
    // What is no position at all starts nothing either, and ends alike.
    let mut viewer = server.sse_of(server.get(URL).header("last-event-id", "nonsense")).await;
    let events = viewer.rest().await;
    assert_eq!(types(&events), ["reset", "done"]);
    let end = server.send(server.get(URL).header("last-event-id", events[1].id())).await;
    assert_eq!(end.status(), 204);
    assert_eq!(provider.calls(), 0);
    server.finish().await;
}

#[tokio::test]
async fn somebody_elses_stream_is_lost_too() {
    let config = "[[auth.keys]]\nkey = \"a\"\nuser = \"ann\"\n[[auth.keys]]\nkey = \"b\"\nuser = \"bob\"\n";
    let server = Server::new(config).await;
    let url = "/v1/chat/stream?prompt=Hi&model=demo-fast";
    let mut own = server.sse_of(server.get(url).bearer_auth("a")).await;
    let id = own.expect("start").await.id().to_owned();
    own.rest().await;
    let mut other = server.sse_of(server.get(url).bearer_auth("b").header("last-event-id", &id)).await;
    let events = other.rest().await;
    assert_eq!(types(&events), ["reset", "done"]);
    assert_eq!(events[0].json(), json!({"reason": "lost"}));
    server.finish().await;
}

#[tokio::test]
async fn a_url_without_a_prompt_or_with_a_wrong_field_is_refused() {
    let provider = FakeProvider::new([Script::answer(&["Hello"])]).await;
    let server = Server::before(&provider, "").await;
    for (query, param) in [
        ("model=fake-1", "prompt"),
        ("prompt=Hi", "model"),
        ("prompt=Hi&model=fake-1&session=a%20b", "session"),
        ("prompt=Hi&model=fake-1&on_disconnect=maybe", "on_disconnect"),
    ] {
        let answer = Answer::of(server.send(server.get(&format!("/v1/chat/stream?{query}"))).await).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, "invalid"), "{query}");
        assert_eq!(answer.json()["error"]["param"], param);
    }
    server.finish().await;
}
