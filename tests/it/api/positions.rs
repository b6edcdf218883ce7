//! Reading on from a position, good and bad.

use serde_json::json;

use crate::harness::sse::{text_of, types};
use crate::harness::{Event, FakeProvider, Script, Server, hi};

async fn ended() -> (FakeProvider, Server, String, Vec<Event>) {
    let provider = FakeProvider::new([Script::answer(&["one", " two", " three", " four"])]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let events = server.replay(&id).await;
    assert_eq!(events.len(), 7);
    (provider, server, id, events)
}

#[tokio::test]
async fn every_position_resumes_right_after_it_however_it_is_sent() {
    let (_provider, server, id, events) = ended().await;
    let path = format!("/v1/streams/{id}/events");
    for (at, event) in events.iter().enumerate().take(events.len() - 1) {
        let requests = [
            server.get(&path).header("last-event-id", event.id()),
            server.get(&format!("{path}?after={}", event.id())),
            server.get(&format!("{path}?lastEventId={}", event.id())),
        ];
        for request in requests {
            assert_eq!(server.sse_of(request).await.rest().await, events[at + 1..], "after {at}");
        }
    }
    server.finish().await;
}

#[tokio::test]
async fn the_header_wins_over_the_query() {
    let (_provider, server, id, events) = ended().await;
    let path = format!("/v1/streams/{id}/events?after={}&lastEventId={}", events[1].id(), events[0].id());
    let request = server.get(&path).header("last-event-id", events[3].id());
    assert_eq!(server.sse_of(request).await.rest().await, events[4..]);
    // An empty one says nothing.
    let request = server.get(&path).header("last-event-id", "");
    assert_eq!(server.sse_of(request).await.rest().await, events[2..]);
    server.finish().await;
}

#[tokio::test]
async fn the_position_before_everything_gives_everything() {
    let (_provider, server, id, events) = ended().await;
    let mut viewer = server.sse(&format!("/v1/streams/{id}/events?after={id}-0000-0000000000")).await;
    assert_eq!(viewer.rest().await, events);
    server.finish().await;
}

#[tokio::test]
async fn after_done_there_is_nothing_more() {
    let (_provider, server, id, events) = ended().await;
    let (path, last) = (format!("/v1/streams/{id}/events"), events[6].id());
    for request in [
        server.get(&path).header("last-event-id", last),
        server.get(&format!("{path}?after={last}")),
        server.get(&format!("/v1/chat/stream?prompt=x&model=fake-1&after={last}")),
        server.get("/v1/chat/stream?prompt=x&model=fake-1").header("last-event-id", last),
    ] {
        let response = server.send(request).await;
        assert_eq!(response.status(), 204);
        assert_eq!(response.headers()["x-stream-id"], id.as_str());
    }
    assert_eq!(server.metric("relaystream_resumes_total{result=\"done\"}"), 4.0);
    server.finish().await;
}

#[tokio::test]
async fn a_bad_position_is_named_and_everything_is_replayed() {
    let (provider, server, id, events) = ended().await;
    let other = server.start(&hi()).await;
    server.ended(&other).await;
    let bad = [
        ("nonsense".to_owned(), "unknown"),
        (format!("{id}-0000-57"), "unknown"),
        (events[2].id().to_uppercase(), "unknown"),
        ("x".repeat(5000), "unknown"),
        (format!("{other}-0000-0000000002"), "foreign"),
        // Decided without looking it up.
        ("01jxk3v9c2m4n5p6q7r8s9t0va-0000-0000000002".to_owned(), "foreign"),
        (format!("{id}-0000-0000000008"), "ahead"),
        (format!("{id}-0000-9999999999"), "ahead"),
        (format!("{id}-0001-0000000003"), "ahead"),
        (format!("{id}-0001-0000000000"), "ahead"),
    ];
    let path = format!("/v1/streams/{id}/events");
    for (position, reason) in bad {
        for request in [
            server.get(&path).header("last-event-id", &position),
            server.get(&format!("{path}?after={position}")),
        ] {
            let mut viewer = server.sse_of(request).await;
            let reset = viewer.expect("reset").await;
            assert_eq!(reset.json(), json!({"reason": reason}), "{position}");
            assert_eq!((reset.id, reset.retry_ms), (None, None));
            assert_eq!(viewer.rest().await, events, "{position}");
        }
        let counted = server.metric(&format!("relaystream_resumes_total{{result=\"{reason}\"}}"));
        assert!(counted >= 2.0, "{reason}");
    }
    assert_eq!(provider.calls(), 2);
    server.finish().await;
}

#[tokio::test]
async fn a_bad_position_on_a_running_stream_is_replayed_and_goes_on() {
    let gate = crate::harness::Gate::default();
    let script = Script::stream().token("one").wait(&gate).token(" two").finish();
    let provider = FakeProvider::new([script]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let mut viewer = server.sse(&format!("/v1/streams/{id}/events?after=nonsense")).await;
    let first = viewer.until("token").await;
    assert_eq!(types(&first), ["reset", "start", "token"]);
    gate.open();
    assert_eq!(text_of(&viewer.until("done").await), " two");
    server.finish().await;
}

#[tokio::test]
async fn a_stream_is_gone_after_its_replay_window() {
    let provider = FakeProvider::new([Script::answer(&["Hello"])]).await;
    let server = Server::before(&provider, "[server]\nreplay_window_s = 1").await;
    let id = server.start(&hi()).await;
    assert_eq!(server.ended(&id).await["status"], "completed");
    let gone = async {
        loop {
            server.app.sweep().await;
            if server.send(server.get(&format!("/v1/streams/{id}"))).await.status() == 404 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    crate::harness::soon("the window's end", gone).await;
    let request = server.get(&format!("/v1/streams/{id}/events?after={id}-0000-0000000002"));
    assert_eq!(server.send(request).await.status(), 404);
    // What has expired is cleared away a moment later.
    let cleared = async {
        while server.app.relay.store.held() > 0 {
            server.app.sweep().await;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    crate::harness::soon("its bytes to be given back", cleared).await;
    server.finish().await;
}

#[tokio::test]
async fn a_position_inside_a_frame_resumes_inside_it() {
    // One frame, three events: reasoning, token, and a tool call.
    let frame = crate::harness::provider::chunk(
        &json!({"reasoning_content": "Hm", "content": "Hello", "tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]}),
        &serde_json::Value::Null,
    );
    let provider = FakeProvider::new([Script::stream().send(frame).finish()]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let events = server.replay(&id).await;
    assert_eq!(types(&events), ["start", "reasoning", "token", "tool", "usage", "done"]);
    for at in 0..events.len() - 1 {
        let path = format!("/v1/streams/{id}/events?after={}", events[at].id());
        assert_eq!(server.sse(&path).await.rest().await, events[at + 1..]);
    }
    let path = format!("/v1/streams/{id}/events?format=openai-chat&after={}", events[1].id());
    let rest = server.sse(&path).await.rest().await;
    assert_eq!(rest[0].json()["choices"][0]["delta"]["content"], "Hello", "{rest:?}");
    assert_eq!(rest[1].json()["choices"][0]["delta"]["tool_calls"][0]["id"], "c");
    assert_eq!(rest.last().unwrap().data, "[DONE]");
    server.finish().await;
}
