//! What a user is told wherever it is: on all its sockets, over SSE, kept for when it comes back, and nobody else's.

use std::time::Duration;

use serde_json::{Value, json};

use super::{PEOPLE, content, enter, name, open_room};
use crate::harness::shared::Shared;
use crate::harness::socket::Socket;
use crate::harness::{Answer, Server, Sse, soon};

/// Also a backend that may speak for every user.
const BACKEND: &str = r#"
[[auth.keys]]
key = "backend"
user = "backend"
sessions = ["*"]
"#;

async fn open(config: &str) -> Server {
    open_room(&format!("{config}\n{BACKEND}")).await
}

async fn notify(server: &Server, by: &str, user: &str, body: &Value) -> Answer {
    let request = server.post(&format!("/v1/users/{user}/notifications"), body).bearer_auth(by);
    Answer::of(server.send(request).await).await
}

/// Tells bob something; returns its position.
async fn tell_bob(server: &Server, content: &str) -> String {
    let answer = notify(server, "backend", "bob", &json!({"content": content})).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()["position"].as_str().unwrap().to_owned()
}

async fn events(server: &Server, user: &str, after: Option<&str>) -> Sse {
    let request = server.get("/v1/notifications").bearer_auth(user);
    server
        .sse_of(match after {
            Some(id) => request.header("last-event-id", id),
            None => request,
        })
        .await
}

/// The log that a position is in.
fn log(position: &str) -> &str {
    position.split_once('-').unwrap().0
}

async fn told(socket: &mut Socket, expected: &str) -> Value {
    let message = socket.until("system").await.pop().unwrap();
    assert_eq!(content(&message), expected);
    message
}

#[tokio::test]
async fn a_notification_reaches_all_sockets_of_its_user_and_no_others() {
    let server = open("").await;
    let elsewhere = Socket::open(&server, "bobs-own", &[("authorization", "Bearer bob")]).await.unwrap();
    let mut elsewhere = elsewhere;
    elsewhere.hello(&[]).await;
    elsewhere.expect("welcome").await;
    let (mut ann, _) = enter(&server, "ann", &[]).await;
    let (mut bob, _) = enter(&server, "bob", &[]).await;
    // The first makes the inbox, the second finds it.
    for content in ["one", "two"] {
        let position = tell_bob(&server, content).await;
        for socket in [&mut bob, &mut elsewhere] {
            let message = told(socket, content).await;
            assert_eq!(message["position"], position);
            assert_eq!(message["data"]["from"], "backend");
        }
    }
    // Whoever comes now was not told of those, and is told of the next.
    let (mut late, _) = enter(&server, "bob", &[]).await;
    tell_bob(&server, "three").await;
    for socket in [&mut bob, &mut elsewhere, &mut late] {
        told(socket, "three").await;
    }
    super::say(&mut ann, "a-1", "to all").await;
    assert!(!ann.until("text").await.iter().any(|message| message["type"] == "system"));
    for socket in [ann, bob, elsewhere, late] {
        socket.leave().await;
    }
    server.finish().await;
}

#[tokio::test]
async fn who_comes_back_to_a_socket_is_told_what_it_missed() {
    let server = open("").await;
    let (mut bob, _) = enter(&server, "bob", &[]).await;
    let held = tell_bob(&server, "one").await;
    told(&mut bob, "one").await;
    bob.leave().await;
    tell_bob(&server, "two").await;
    tell_bob(&server, "three").await;
    let (mut bob, _) = enter(&server, "bob", &[(log(&held), &held)]).await;
    told(&mut bob, "two").await;
    told(&mut bob, "three").await;
    tell_bob(&server, "four").await;
    told(&mut bob, "four").await;
    bob.leave().await;
    // A place that was never there.
    let ahead = format!("{}-0000-0000000099", log(&held));
    let mut bob = super::socket(&server, "bob").await;
    bob.hello(&[(log(&held), &ahead)]).await;
    let reset = bob.expect("reset").await;
    assert_eq!(reset["data"], json!({"log": log(&held), "reason": "ahead"}));
    for content in ["one", "two", "three", "four"] {
        told(&mut bob, content).await;
    }
    bob.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn they_come_over_sse_with_ids_and_are_resumed() {
    let server = open("").await;
    let mut bob = events(&server, "bob", None).await;
    tell_bob(&server, "one").await;
    let first = bob.expect("system").await;
    assert_eq!(first.json(), json!({"content": "one", "from": "backend"}));
    drop(bob);
    tell_bob(&server, "two").await;
    let mut bob = events(&server, "bob", Some(first.id())).await;
    assert_eq!(bob.expect("system").await.json()["content"], "two");
    tell_bob(&server, "three").await;
    assert_eq!(bob.expect("system").await.json()["content"], "three");
    drop(bob);
    let mut anew = events(&server, "bob", None).await;
    for content in ["one", "two", "three"] {
        assert_eq!(anew.expect("system").await.json()["content"], content);
    }
    drop(anew);
    server.finish().await;
}

#[tokio::test]
async fn the_same_id_is_one_notification() {
    let server = open("").await;
    let body = json!({"content": "paid", "id": "invoice-7"});
    let first = notify(&server, "backend", "bob", &body).await;
    let again = notify(&server, "backend", "bob", &body).await;
    assert_eq!((first.status, again.status), (201, 200));
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(first.json(), again.json());
    server.finish().await;
}

#[tokio::test]
async fn only_who_speaks_for_all_tells_others_something_and_nobody_reads_anothers() {
    let server = open("").await;
    let hi = json!({"content": "hi"});
    assert_eq!(notify(&server, "cyd", "bob", &hi).await.status, 403);
    assert_eq!(notify(&server, "bob", "bob", &hi).await.status, 201, "a note to oneself");
    assert_eq!(notify(&server, "backend", "bob", &json!({"content": ""})).await.status, 422);
    let long = "u".repeat(257);
    assert_eq!(notify(&server, "backend", &long, &hi).await.status, 422);
    let tell = server.post("/v1/users/bob/notifications", &hi);
    assert_eq!(server.send(tell).await.status(), 401);
    // The inbox is not among the sessions, and has no name that somebody could say.
    let list = Answer::of(server.send(server.get("/v1/sessions").bearer_auth("backend")).await).await;
    let names: Vec<Value> = list.json()["sessions"].as_array().unwrap().clone();
    assert_eq!(names.iter().map(|session| session["session"].clone()).collect::<Vec<_>>(), ["room-1"]);
    // A ticket opens one session.
    let ask = server.post("/v1/tickets", &json!({"session": "room-1", "user": "bob"})).bearer_auth("backend");
    let ticket = Answer::of(server.send(ask).await).await.json()["ticket"].as_str().unwrap().to_owned();
    let read = server.get(&format!("/v1/notifications?ticket={ticket}"));
    assert_eq!(server.send(read).await.status(), 403);
    server.finish().await;
}

#[tokio::test]
async fn what_is_forgotten_is_gone_and_the_next_is_told_all_the_same() {
    let server = open("").await;
    let (mut bob, _) = enter(&server, "bob", &[]).await;
    tell_bob(&server, "one").await;
    told(&mut bob, "one").await;
    let forget = || server.delete("/v1/notifications").bearer_auth("bob");
    assert_eq!(server.send(forget()).await.status(), 204);
    assert_eq!(server.send(forget()).await.status(), 204);
    tell_bob(&server, "two").await;
    told(&mut bob, "two").await;
    let mut events = events(&server, "bob", None).await;
    assert_eq!(events.expect("system").await.json()["content"], "two");
    drop(events);
    bob.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn an_inbox_outlives_sessions_that_nobody_looks_at() {
    for (inbox_ttl_s, kept) in [(3600, true), (1, false)] {
        let server = open(&format!("[rooms]\nempty_ttl_s = 1\ninbox_ttl_s = {inbox_ttl_s}\n")).await;
        tell_bob(&server, "one").await;
        let inbox = async || server.app.hub.inbox("default", "bob").await.unwrap().is_some();
        let swept = async {
            let room = || server.get("/v1/sessions/room-1").bearer_auth("ann");
            while server.send(room()).await.status() != 404 || (!kept && inbox().await) {
                tokio::time::sleep(Duration::from_millis(50)).await;
                server.app.sweep().await;
            }
        };
        soon("what is over its time to be forgotten", swept).await;
        assert_eq!(inbox().await, kept);
        server.finish().await;
    }
}

#[tokio::test]
async fn a_notification_crosses_nodes() {
    let shared = Shared::new();
    let config = format!("{PEOPLE}\n{BACKEND}");
    let one = Server::node(shared.node(0), &config).await;
    let two = Server::node(shared.node(1), &config).await;
    name(&one).await;
    let (mut here, _) = enter(&one, "bob", &[]).await;
    let (mut there, _) = enter(&two, "bob", &[]).await;
    for (server, content) in [(&one, "one"), (&two, "two"), (&one, "three")] {
        tell_bob(server, content).await;
        told(&mut here, content).await;
        told(&mut there, content).await;
    }
    here.leave().await;
    there.leave().await;
    one.finish().await;
    two.finish().await;
}
