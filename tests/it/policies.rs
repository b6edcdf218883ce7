//! When streams end by themselves, when they are asked for again, and what happens when everybody leaves.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::provider::{full, nobody};
use crate::harness::socket::Socket;
use crate::harness::sse::{text_of, types};
use crate::harness::{Event, FakeProvider, Gate, Script, Server, soon};

/// An alias `m` for the fake provider with these settings.
fn alias(settings: &str) -> String {
    format!("[models.m]\ntargets = [{{ provider = \"fake\", model = \"fake-1\" }}]\n{settings}\n")
}

fn ask() -> Value {
    json!({"model": "m", "input": "Hi"})
}

fn with_policy(policy: &str) -> Value {
    json!({"model": "fake-1", "input": "Hi", "on_disconnect": policy})
}

fn code(events: &[Event]) -> String {
    let done = events.last().unwrap().json();
    assert_eq!(done["status"], "failed", "{done}");
    done["error"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_detached_stream_goes_on_without_anyone() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::stream().token("Hel").wait(&gate).token("lo").finish()]).await;
    let server = Server::before(&provider, "").await;
    for body in [json!({"model": "fake-1", "input": "Hi"}), with_policy("detach")] {
        let id = server.start(&body).await;
        let mut viewer = server.sse(&format!("/v1/streams/{id}/events")).await;
        viewer.until("token").await;
        drop(viewer);
        let name = "relaystream_viewers{transport=\"sse\"}";
        crate::harness::eventually("the viewer to leave", || server.metric(name) == 0.0).await;
        gate.open();
        assert_eq!(server.ended(&id).await["text"], "Hello");
    }
    assert!(provider.requests().iter().all(|request| !request.abandoned));
    server.finish().await;
}

#[tokio::test]
async fn cancel_on_disconnect_closes_the_providers_connection() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&with_policy("cancel")).await;
    let mut first = server.sse(&format!("/v1/streams/{id}/events")).await;
    let mut second = server.sse(&format!("/v1/streams/{id}/events")).await;
    first.until("token").await;
    second.until("token").await;
    drop(first);
    // The other one still looks.
    let name = "relaystream_viewers{transport=\"sse\"}";
    crate::harness::eventually("one viewer to leave", || server.metric(name) == 1.0).await;
    assert_eq!(server.app.relay.running_count(), 1);
    drop(second);
    provider.abandoned(0).await;
    let ended = server.ended(&id).await;
    assert_eq!((&ended["status"], &ended["by"]), (&json!("cancelled"), &json!("policy")));
    server.finish().await;
}

#[tokio::test]
async fn a_stream_that_nobody_has_looked_at_is_not_abandoned() {
    let provider = FakeProvider::new([Script::answer(&["Hello"])]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&with_policy("cancel")).await;
    assert_eq!(server.ended(&id).await["status"], "completed");
    server.finish().await;
}

#[tokio::test]
async fn the_policy_holds_on_every_way_in() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, "").await;
    let chat = crate::harness::chat();
    let requests = [
        server.post("/v1/chat/completions", &chat).header("x-on-disconnect", "cancel"),
        server.get("/v1/chat/stream?model=fake-1&prompt=Hi&on_disconnect=cancel"),
    ];
    for (n, request) in requests.into_iter().enumerate() {
        let mut viewer = server.sse_of(request).await;
        while !viewer.text().contains("Hel") {
            viewer.more().await;
        }
        drop(viewer);
        provider.abandoned(n).await;
    }
    server.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_head_counts_as_having_been_there() {
    let provider = FakeProvider::new([Script::silence()]).await;
    let server = Server::before(&provider, "").await;
    let chat = crate::harness::chat();
    let request = server.post("/v1/chat/completions", &chat).header("x-on-disconnect", "cancel").send();
    let pending = tokio::spawn(request);
    provider.request(0).await;
    pending.abort();
    provider.abandoned(0).await;
    server.finish().await;
}

#[tokio::test]
async fn viewers_of_the_session_keep_its_streams() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, "").await;
    let (mut socket, _) = Socket::enter(&server, "room-1", &[]).await;
    let mut body = with_policy("cancel");
    body["session"] = "room-1".into();
    let id = server.start(&body).await;
    socket.until("token").await;
    let mut viewer = server.sse(&format!("/v1/streams/{id}/events")).await;
    viewer.until("token").await;
    drop(viewer);
    let name = "relaystream_viewers{transport=\"sse\"}";
    crate::harness::eventually("the viewer to leave", || server.metric(name) == 0.0).await;
    assert_eq!(server.app.relay.running_count(), 1);
    socket.leave().await;
    provider.abandoned(0).await;
    server.finish().await;
}

#[tokio::test]
async fn a_reload_within_the_grace_keeps_the_stream() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::stream().token("Hel").wait(&gate).token("lo").finish()]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&with_policy("grace:3600")).await;
    let mut position = String::new();
    for _ in 0..3 {
        let path = format!("/v1/streams/{id}/events?after={position}");
        let mut viewer = server.sse(&path).await;
        if position.is_empty() {
            position = viewer.until("token").await.pop().unwrap().id().to_owned();
        }
        drop(viewer);
        let name = "relaystream_viewers{transport=\"sse\"}";
        crate::harness::eventually("the viewer to leave", || server.metric(name) == 0.0).await;
    }
    assert_eq!(server.app.relay.running_count(), 1);
    let mut viewer = server.sse(&format!("/v1/streams/{id}/events?after={position}")).await;
    gate.open();
    assert_eq!(text_of(&viewer.until("done").await), "lo");
    server.finish().await;
}

#[tokio::test]
async fn after_the_grace_with_nobody_there_it_is_cancelled() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, "").await;
    for (n, policy) in ["grace:1", "grace:0"].into_iter().enumerate() {
        let id = server.start(&with_policy(policy)).await;
        let mut viewer = server.sse(&format!("/v1/streams/{id}/events")).await;
        viewer.until("token").await;
        drop(viewer);
        provider.abandoned(n).await;
        let ended = server.ended(&id).await;
        assert_eq!((&ended["status"], &ended["by"]), (&json!("cancelled"), &json!("policy")));
    }
    server.finish().await;
}

#[tokio::test]
async fn each_timeout_has_its_own_code_and_closes_the_connection() {
    let paced =
        (0..500).fold(Script::stream(), |script, _| script.token("x").sleep(Duration::from_millis(10)));
    for (timeouts, script, expected) in [
        ("first_token_ms = 1000", Script::silence(), "first_token_timeout"),
        (
            "first_token_ms = 1000",
            Script::stream().send(": only comments\n\n").stall(),
            "first_token_timeout",
        ),
        ("between_tokens_ms = 1000", Script::stream().token("Hel").stall(), "between_tokens_timeout"),
        ("total_ms = 1000", paced, "total_timeout"),
        ("total_ms = 1000", Script::silence(), "total_timeout"),
    ] {
        let provider = FakeProvider::new([script]).await;
        let settings = format!("timeouts = {{ {timeouts} }}\nretry = {{ attempts = 1 }}\ncontinue = false");
        let server = Server::before(&provider, &alias(&settings)).await;
        let id = server.start(&ask()).await;
        let events = server.replay(&id).await;
        assert_eq!(code(&events), expected);
        provider.abandoned(0).await;
        let counted = format!("relaystream_upstream_errors_total{{code=\"{expected}\"}}");
        assert_eq!(server.metric(&counted), 1.0);
        let mut chat = crate::harness::chat();
        chat["model"] = "m".into();
        if expected == "first_token_timeout" {
            let answer = server.send(server.post("/v1/chat/completions", &chat)).await;
            assert_eq!(answer.status(), 504);
        }
        server.finish().await;
    }
}

#[tokio::test]
async fn a_connection_that_is_not_accepted_in_time_is_connect_timeout() {
    let (address, _kept) = full();
    let config = format!(
        "{}[providers.fake]\ndialect = \"openai-chat\"\nbase_url = \"http://{address}/v1\"\n",
        alias("timeouts = { connect_ms = 100 }\nretry = { attempts = 1 }")
    );
    let server = Server::new(&config).await;
    let id = server.start(&ask()).await;
    assert_eq!(code(&server.replay(&id).await), "connect_timeout");
    server.finish().await;
}

#[tokio::test]
async fn retries_before_the_first_token_are_seen_and_bounded() {
    let refused = || Script::json(500, &json!({"error": {"message": "boom"}}));
    let fast = alias("retry = { attempts = 4, base_ms = 1, max_ms = 5 }");
    let ways = [
        refused(),
        Script::json(429, &json!({})),
        Script::default().reset(),
        Script::stream().end(),
        Script::stream().send("data: {oops}\n\n").end(),
        Script::stream().send("data: {\"error\":{\"message\":\"overloaded\"}}\n\n").end(),
    ];
    for first in ways {
        let provider = FakeProvider::new([first, refused(), Script::answer(&["Hello"])]).await;
        let server = Server::before(&provider, &fast).await;
        let id = server.start(&ask()).await;
        let events = server.replay(&id).await;
        assert_eq!(types(&events), ["start", "notice", "notice", "token", "usage", "done"]);
        let notice = events[1].json();
        assert_eq!(
            (&notice["code"], &notice["provider"], &notice["model"]),
            (&json!("retried"), &json!("fake"), &json!("fake-1"))
        );
        assert!(!notice["message"].as_str().unwrap().is_empty());
        assert_eq!((text_of(&events), provider.calls()), ("Hello".into(), 3));
        server.finish().await;
    }
    let provider = FakeProvider::new([refused()]).await;
    let server = Server::before(&provider, &fast).await;
    let id = server.start(&ask()).await;
    assert_eq!(code(&server.replay(&id).await), "upstream_status");
    assert_eq!(provider.calls(), 4);
    server.finish().await;
}

#[tokio::test]
async fn what_will_not_get_better_is_not_asked_again() {
    for status in [400, 401, 403, 404, 422] {
        let provider = FakeProvider::new([Script::json(status, &json!({}))]).await;
        let server =
            Server::before(&provider, &alias("retry = { attempts = 3, base_ms = 1, max_ms = 5 }")).await;
        let id = server.start(&ask()).await;
        assert_eq!(code(&server.replay(&id).await), "upstream_status");
        assert_eq!(provider.calls(), 1);
        server.finish().await;
    }
}

#[tokio::test]
async fn an_unreachable_provider_is_tried_again_too() {
    let nobody = nobody();
    let config = format!(
        "{}[providers.fake]\ndialect = \"openai-chat\"\nbase_url = \"http://{}/v1\"\n",
        alias("retry = { attempts = 3, base_ms = 1, max_ms = 5 }"),
        nobody.address
    );
    let server = Server::new(&config).await;
    let id = server.start(&ask()).await;
    let events = server.replay(&id).await;
    assert_eq!(types(&events), ["start", "notice", "notice", "done"]);
    assert_eq!(code(&events), "connect_failed");
    server.finish().await;
}

#[tokio::test]
async fn nothing_is_asked_again_after_the_first_token_where_nothing_is_gone_on_with() {
    for broken in [Script::stream().token("Hel").cut(), Script::stream().token("Hel").reset()] {
        let provider = FakeProvider::new([broken, Script::answer(&["never"])]).await;
        let server = Server::before(
            &provider,
            &alias("retry = { attempts = 3, base_ms = 1, max_ms = 5 }\ncontinue = false"),
        )
        .await;
        let id = server.start(&ask()).await;
        let events = server.replay(&id).await;
        assert_eq!((code(&events).as_str(), text_of(&events).as_str()), ("upstream_truncated", "Hel"));
        assert_eq!(provider.calls(), 1);
        server.finish().await;
    }
}

#[tokio::test]
async fn the_providers_wish_when_to_come_back_is_honoured() {
    for (name, value, least) in [("retry-after", "1", 1000), ("retry-after-ms", "300", 300)] {
        let provider =
            FakeProvider::new([Script::status(429, &[(name, value)], "{}"), Script::answer(&["Hello"])])
                .await;
        let server =
            Server::before(&provider, &alias("retry = { attempts = 2, base_ms = 1, max_ms = 5000 }")).await;
        let asked = tokio::time::Instant::now();
        let id = server.start(&ask()).await;
        assert_eq!(server.ended(&id).await["text"], "Hello");
        assert!(asked.elapsed() >= Duration::from_millis(least), "{name}");
        server.finish().await;
    }
}

#[tokio::test]
async fn a_wish_beyond_our_patience_is_passed_on_instead() {
    let provider = FakeProvider::new([Script::status(429, &[("retry-after", "3600")], "{}")]).await;
    let server =
        Server::before(&provider, &alias("retry = { attempts = 3, base_ms = 1, max_ms = 5000 }")).await;
    let mut chat = crate::harness::chat();
    chat["model"] = "m".into();
    let answer = soon("a refusal", server.send(server.post("/v1/chat/completions", &chat))).await;
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "3600");
    assert_eq!(provider.calls(), 1);
    server.finish().await;
}

#[tokio::test]
async fn a_cancel_during_the_wait_for_a_retry_ends_at_once() {
    let provider = FakeProvider::new([Script::status(503, &[("retry-after", "60")], "{}")]).await;
    let server =
        Server::before(&provider, &alias("retry = { attempts = 3, base_ms = 1, max_ms = 100000 }")).await;
    let id = server.start(&ask()).await;
    provider.request(0).await;
    let snapshot = soon("the cancel", server.cancel(&id)).await;
    assert_eq!(snapshot["status"], "cancelled");
    assert_eq!(provider.calls(), 1);
    server.finish().await;
}
