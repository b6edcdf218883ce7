//! Limits that count: requests a minute, running streams, viewers.

use serde_json::json;

use crate::harness::socket::Socket;
use crate::harness::sse::types;
use crate::harness::{Answer, FakeProvider, Script, Server, chat, hi};

fn keys(limits: &str) -> String {
    format!(
        "[limits]\n{limits}\n[[auth.keys]]\nkey = \"a\"\nuser = \"ann\"\n[[auth.keys]]\nkey = \"b\"\nuser = \"bob\"\n"
    )
}

/// The number of seconds that the answer asks to wait.
fn wait(answer: &Answer) -> u64 {
    answer.header("retry-after").parse().unwrap()
}

#[tokio::test]
async fn requests_a_minute_are_counted_by_user() {
    let server = Server::new(&keys("requests_per_minute = 3")).await;
    let get =
        async |key: &str| Answer::of(server.send(server.get("/v1/models").bearer_auth(key)).await).await;
    for left in ["2", "1", "0"] {
        let answer = get("a").await;
        assert_eq!(answer.status, 200);
        assert_eq!((answer.header("x-ratelimit-limit"), answer.header("x-ratelimit-remaining")), ("3", left));
    }
    let refused = get("a").await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    assert!((1..=21).contains(&wait(&refused)), "{}", wait(&refused));
    assert_eq!(refused.header("x-ratelimit-limit"), "3");
    assert_eq!(refused.header("x-ratelimit-remaining"), "0");
    assert!(
        !refused.header("x-ratelimit-after").is_empty() || !refused.header("x-ratelimit-reset").is_empty()
    );
    assert_eq!(get("b").await.status, 200);
    // What operators ask is not counted, and a wrong key counts for nobody.
    assert_eq!(server.send(server.get("/healthz")).await.status(), 200);
    assert_eq!(get("wrong").await.status, 401);
    server.finish().await;
}

#[tokio::test]
async fn everyone_with_open_access_is_counted_by_address_as_trusted_proxies_tell_it() {
    let trusted = "[server]\ntrusted_proxies = [\"127.0.0.1\", \"10.0.0.1\"]\n";
    let server = Server::new(&format!("{trusted}[limits]\nrequests_per_minute = 1")).await;
    let get = async |hops: &str| {
        let request = server.get("/v1/prompts").header("x-forwarded-for", hops);
        server.send(request).await.status().as_u16()
    };
    assert_eq!(get("1.2.3.4").await, 200);
    assert_eq!(get("1.2.3.4").await, 429);
    // What stands left of the first untrusted hop is the client's own claim.
    assert_eq!(get("9.9.9.9, 1.2.3.4, 10.0.0.1").await, 429);
    assert_eq!(get("1.2.3.5").await, 200);
    // One household has a /64.
    assert_eq!(get("2001:db8:1:2::1").await, 200);
    assert_eq!(get("2001:db8:1:2:ffff::9").await, 429);
    assert_eq!(get("2001:db8:1:3::1").await, 200);
    server.finish().await;
}

#[tokio::test]
async fn nobody_else_may_say_where_a_request_came_from() {
    let server = Server::new("[limits]\nrequests_per_minute = 1").await;
    let mut statuses = Vec::new();
    for address in ["1.1.1.1", "2.2.2.2"] {
        let request = server.get("/v1/prompts").header("x-forwarded-for", address);
        statuses.push(server.send(request).await.status().as_u16());
    }
    assert_eq!(statuses, [200, 429]);
    server.finish().await;
}

#[tokio::test]
async fn a_reconnect_over_the_rate_gets_a_notice_and_a_close() {
    let provider = FakeProvider::new([Script::answer(&["Hello"])]).await;
    let server = Server::before(&provider, "[limits]\nrequests_per_minute = 1").await;
    let id = server.start(&hi()).await;
    let path = format!("/v1/streams/{id}/events");
    assert_eq!(server.send(server.get(&path)).await.status(), 429);
    for path in [path.as_str(), "/v1/chat/stream?prompt=Hi&model=fake-1", "/v1/sessions/room-1/events"] {
        let request = server.get(path).header("last-event-id", format!("{id}-0000-0000000001"));
        let mut viewer = server.sse_of(request).await;
        let events = viewer.rest().await;
        assert_eq!(types(&events), ["notice"], "{path}");
        assert_eq!(events[0].json()["code"], "rate_limited");
        assert!(events[0].retry_ms.is_some_and(|ms| ms >= 1000), "{:?}", events[0]);
        assert_eq!(events[0].id, None);
    }
    // A client that polls reads JSON: no news, and where it was.
    let position = format!("{id}-0000-0000000001");
    let poll =
        Answer::of(server.send(server.get(&format!("/v1/streams/{id}/poll?after={position}"))).await).await;
    assert_eq!(poll.status, 200);
    assert!(wait(&poll) > 0);
    let body = poll.json();
    assert_eq!((&body["position"], body["events"].as_array().unwrap().len()), (&json!(position), 1));
    let notice = &body["events"][0];
    assert_eq!((&notice["id"], &notice["type"]), (&json!(null), &json!("notice")));
    assert_eq!(notice["data"]["code"], "rate_limited");
    let first = server.send(server.get(&format!("/v1/streams/{id}/poll"))).await;
    assert_eq!(first.status(), 429);
    server.finish().await;
}

#[tokio::test]
async fn running_streams_are_counted_by_user() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, &keys("running_streams_per_user = 2")).await;
    let start = async |key: &str| {
        Answer::of(server.send(server.post("/v1/streams", &hi()).bearer_auth(key)).await).await
    };
    let mut ids = Vec::new();
    for key in ["a", "a", "b"] {
        let answer = start(key).await;
        assert_eq!(answer.status, 201);
        ids.push((key, answer.header("x-stream-id").to_owned()));
    }
    let refused = start("a").await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "too_many_streams"));
    assert!(wait(&refused) > 0);
    let request = server.post("/v1/chat/completions", &chat()).bearer_auth("a");
    assert_eq!(server.send(request).await.status(), 429);
    let cancel = async |key: &str, id: &str| {
        let request = server.post(&format!("/v1/streams/{id}/cancel"), &json!(null)).bearer_auth(key);
        server.send(request).await
    };
    let (key, id) = &ids[0];
    cancel(key, id).await;
    crate::harness::eventually("the permit", || server.app.running_permits.out() == 2).await;
    let again = start("a").await;
    assert_eq!(again.status, 201);
    ids.push(("a", again.header("x-stream-id").to_owned()));
    for (key, id) in &ids[1..] {
        cancel(key, id).await;
    }
    server.finish().await;
}

#[tokio::test]
async fn viewers_are_counted_by_stream_session_and_user() {
    for (limit, config) in [
        ("stream", "viewers_per_stream = 1"),
        ("user", "viewers_per_user = 1"),
        ("session", "viewers_per_session = 1"),
    ] {
        let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
        let server = Server::before(&provider, &format!("[limits]\n{config}")).await;
        let mut body = hi();
        body["session"] = "room-1".into();
        let id = server.start(&body).await;
        let path = if limit == "session" {
            "/v1/sessions/room-1/events".to_owned()
        } else {
            format!("/v1/streams/{id}/events")
        };
        let mut first = server.sse(&path).await;
        let position = first.until("token").await.pop().unwrap().id().to_owned();
        let refused = Answer::of(server.send(server.get(&path)).await).await;
        assert_eq!((refused.status, refused.code().as_str()), (429, "too_many_viewers"), "{limit}");
        assert!(wait(&refused) > 0);
        let mut again = server.sse_of(server.get(&path).header("last-event-id", &position)).await;
        let events = again.rest().await;
        assert_eq!((types(&events), &events[0].json()["code"]), (vec!["notice"], &json!("too_many_viewers")));
        assert!(events[0].retry_ms.is_some());
        if limit != "stream" {
            assert_eq!(Socket::open(&server, "room-1", &[]).await.err(), Some(429), "{limit}");
        }
        if limit != "session" {
            let poll = server.json(&format!("/v1/streams/{id}/poll?wait=0&after={position}")).await;
            assert_eq!(poll["events"][0]["data"]["code"], "too_many_viewers", "{limit}");
            let first = server.send(server.get(&format!("/v1/streams/{id}/poll?wait=0"))).await;
            assert_eq!(first.status(), 429, "{limit}");
        }
        drop(first);
        let name = "relaystream_viewers{transport=\"sse\"}";
        crate::harness::eventually("the viewer to leave", || server.metric(name) == 0.0).await;
        let mut next = server.sse(&path).await;
        next.until("token").await;
        drop(next);
        server.cancel(&id).await;
        server.finish().await;
    }
}
