//! What a member may do and how much: caps, rates, sizes, roles, and the code that each ends with.

use serde_json::{Value, json};

use super::{PEOPLE, enter, name, open_room, socket};
use crate::harness::shared::Shared;
use crate::harness::socket::Socket;
use crate::harness::{Answer, FakeProvider, Script, Server};

async fn error(socket: &mut Socket) -> (Value, String) {
    let error = socket.until("error").await.pop().unwrap();
    (error["id"].clone(), error["data"]["code"].as_str().unwrap().to_owned())
}

/// Reads until this user has joined.
async fn until_there(socket: &mut Socket, user: &str) {
    loop {
        let presence = socket.until("presence").await.pop().unwrap();
        if presence["data"]["joins"].as_array().unwrap().iter().any(|member| member["user"] == user) {
            return;
        }
    }
}

#[tokio::test]
async fn a_full_room_is_a_status_and_a_close_code() {
    for (limit, code) in
        [("max_members = 1", 4105), ("max_connections = 1", 4106), ("max_connections_per_user = 1", 4106)]
    {
        let server = open_room(&format!("[rooms]\n{limit}\n")).await;
        let (first, _) = enter(&server, "ann", &[]).await;
        let user = if limit.contains("members") { "bob" } else { "ann" };
        let credential = format!("Bearer {user}");
        let headers = [("authorization", credential.as_str())];
        assert_eq!(Socket::open(&server, "room-1", &headers).await.err(), Some(429), "{limit}");
        let named = [headers[0], ("sec-websocket-protocol", "relaystream.v1")];
        let mut refused = Socket::open(&server, "room-1", &named).await.unwrap();
        assert_eq!(refused.closed().await, code, "{limit}");
        first.leave().await;
        server.finish().await;
    }
}

#[tokio::test]
async fn a_user_names_so_many_sessions_and_no_more() {
    let backend = "[[auth.keys]]\nkey = \"backend\"\nuser = \"backend\"\nsessions = [\"*\"]\n";
    let server = open_room(&format!("[rooms]\nmax_sessions_per_user = 2\n{backend}")).await;
    let say = async |user: &str, session: &str| {
        let path = format!("/v1/sessions/{session}/messages");
        let request = server.post(&path, &json!({"content": "hi"})).bearer_auth(user);
        Answer::of(server.send(request).await).await
    };
    assert_eq!(say("ann", "second").await.status, 201);
    let third = say("ann", "third").await;
    assert_eq!((third.status, third.code()), (429, "too_many_sessions".to_owned()));
    assert_eq!(third.header("retry-after"), "60");
    // What is there is there, others have their own, and a backend names sessions for all.
    assert_eq!(say("ann", "second").await.status, 201);
    assert_eq!(say("bob", "third").await.status, 201);
    for session in ["a", "b", "c"] {
        assert_eq!(say("backend", session).await.status, 201);
    }
    let forget = server.delete("/v1/sessions/second").bearer_auth("ann");
    assert_eq!(server.send(forget).await.status(), 204);
    assert_eq!(say("ann", "fourth").await.status, 201);
    server.finish().await;
}

#[tokio::test]
async fn who_says_hello_too_late_for_the_last_place_is_closed() {
    let server = open_room("[rooms]\nmax_connections = 1\n").await;
    let mut late = socket(&server, "bob").await;
    let (ann, _) = enter(&server, "ann", &[]).await;
    late.hello(&[]).await;
    assert_eq!(late.closed().await, 4106);
    ann.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn too_many_messages_are_refused_and_going_on_closes() {
    let server = open_room("[rooms]\nmessages_per_s = 1\n").await;
    let (mut bob, _) = enter(&server, "bob", &[]).await;
    for n in 0..3 {
        bob.say(&json!({"type": "ping", "id": n.to_string()})).await;
    }
    bob.until("pong").await;
    bob.until("pong").await;
    let refused = bob.expect("error").await;
    assert_eq!(refused["id"], "2");
    assert_eq!(
        (&refused["data"]["code"], &refused["data"]["retryable"]),
        (&json!("rate_limited"), &json!(true))
    );
    for _ in 0..210 {
        bob.try_say(&json!({"type": "ping"})).await;
    }
    assert_eq!(bob.closed().await, 4101);
    server.finish().await;
}

#[tokio::test]
async fn who_floods_without_listening_learns_why_it_was_closed() {
    let server = open_room("[rooms]\nmessages_per_s = 1\n").await;
    for _ in 0..20 {
        let (mut bob, _) = enter(&server, "bob", &[]).await;
        for _ in 0..3000 {
            bob.try_say(&json!({"type": "ping"})).await;
        }
        assert_eq!(bob.closed().await, 4101);
    }
    server.finish().await;
}

#[tokio::test]
async fn signals_reach_one_member_wherever_it_is_and_nobody_else() {
    let store = Shared::new();
    let config = format!("[rooms]\nsignal_bytes = 100\n{PEOPLE}");
    let (a, b) = (Server::node(store.node(0), &config).await, Server::node(store.node(1), &config).await);
    name(&a).await;
    let (mut ann, welcome) = enter(&a, "ann", &[]).await;
    let to_ann = welcome["data"]["member"].clone();
    let (mut near, _) = enter(&a, "bob", &[]).await;
    let (mut far, _) = enter(&b, "cyd", &[]).await;
    // Until the other node knows of ann there is no such member there.
    let offer = json!({"type": "signal", "data": {"to": to_ann, "data": {"sdp": "far"}}});
    until_there(&mut far, "ann").await;
    far.say(&offer).await;
    let signal = ann.until("signal").await.pop().unwrap();
    assert_eq!((&signal["data"]["user"], &signal["data"]["data"]), (&json!("cyd"), &json!({"sdp": "far"})));
    near.say(&json!({"type": "signal", "data": {"to": to_ann, "data": {"sdp": "near"}}})).await;
    assert_eq!(ann.until("signal").await.pop().unwrap()["data"]["data"], json!({"sdp": "near"}));
    for (data, code) in [
        (json!({"to": "nobody", "data": 1}), "not_found"),
        (json!({"to": to_ann, "data": "x".repeat(200)}), "too_large"),
        (json!({"data": 1}), "bad_request"),
    ] {
        near.say(&json!({"type": "signal", "data": data})).await;
        assert_eq!(error(&mut near).await.1, code);
    }
    // Nothing of it is kept, and nobody else heard it.
    near.say(&json!({"type": "ping"})).await;
    assert!(near.until("pong").await.iter().all(|message| message["type"] != "signal"));
    for socket in [ann, near, far] {
        socket.leave().await;
    }
    a.finish().await;
    b.finish().await;
}

#[tokio::test]
async fn an_owner_sends_a_member_away_from_every_node() {
    let store = Shared::new();
    let (a, b) = (Server::node(store.node(0), PEOPLE).await, Server::node(store.node(1), PEOPLE).await);
    name(&a).await;
    let (mut ann, _) = enter(&a, "ann", &[]).await;
    let (mut here, welcome) = enter(&a, "bob", &[]).await;
    let (mut there, _) = enter(&b, "bob", &[]).await;
    let member = welcome["data"]["member"].clone();
    here.say(&json!({"type": "kick", "id": "k", "data": {"member": member}})).await;
    assert_eq!(error(&mut here).await, (json!("k"), "not_allowed".into()));
    ann.say(&json!({"type": "kick", "id": "k", "data": {"member": "nobody"}})).await;
    assert_eq!(error(&mut ann).await, (json!("k"), "not_found".into()));
    ann.say(&json!({"type": "kick", "id": "k", "data": {"member": member}})).await;
    ann.until("ack").await;
    assert_eq!((here.closed().await, there.closed().await), (4005, 4005));
    ann.leave().await;
    a.finish().await;
    b.finish().await;
}

#[tokio::test]
async fn a_member_starts_and_cancels_from_the_room() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall(), Script::answer(&["x"])]).await;
    let server = open_room(&provider.config()).await;
    let (mut bob, _) = enter(&server, "bob", &[]).await;
    let (mut ann, _) = enter(&server, "ann", &[]).await;
    let start = json!({"type": "start", "id": "s-1", "data": {"model": "fake-1", "input": "Hi"}});
    bob.say(&start).await;
    let ack = bob.until("ack").await.pop().unwrap();
    assert_eq!(ack["id"], "s-1");
    let begun = ann.until("start").await.pop().unwrap();
    assert_eq!((&begun["stream"], &begun["data"]["session"]), (&ack["stream"], &json!("room-1")));
    ann.until("token").await;
    // Said again, it is the same stream.
    bob.say(&start).await;
    assert_eq!(bob.until("ack").await.pop().unwrap()["stream"], ack["stream"]);
    bob.say(&json!({"type": "start", "id": "s-1", "data": {"model": "fake-1", "input": "Else"}})).await;
    assert_eq!(error(&mut bob).await, (json!("s-1"), "idempotency_key_reused".into()));
    bob.say(&json!({"type": "start", "id": "s-2", "data": {"model": "fake-1"}})).await;
    assert_eq!(error(&mut bob).await.1, "invalid");
    let (mut vic, _) = enter(&server, "vic", &[]).await;
    vic.say(&json!({"type": "start", "id": "v", "data": {"model": "fake-1", "input": "Hi"}})).await;
    assert_eq!(error(&mut vic).await, (json!("v"), "not_allowed".into()));
    bob.say(&json!({"type": "cancel", "id": "c", "data": {"stream": ack["stream"]}})).await;
    bob.until("ack").await;
    let done = ann.until("done").await.pop().unwrap();
    assert_eq!((&done["data"]["status"], &done["data"]["by"]), (&json!("cancelled"), &json!("bob")));
    for socket in [ann, bob, vic] {
        socket.leave().await;
    }
    server.finish().await;
}

#[tokio::test]
async fn a_socket_whose_lifetime_is_over_is_told_to_come_back() {
    let server = open_room("[rooms]\nlifetime_s = 1\n").await;
    let (mut ann, _) = enter(&server, "ann", &[]).await;
    assert_eq!(ann.closed().await, 4201);
    server.finish().await;
}
