//! Credentials that end while a connection is open.

use serde_json::{Value, json};

use super::issuer;
use crate::harness::socket::{Received, Socket};
use crate::harness::sse::{BodyEnd, types};
use crate::harness::{FakeProvider, Gate, Script, Server, chat};

const GRACE: &str = "[rooms]\nexpiry_grace_ms = 300\n";

async fn server(provider: &FakeProvider) -> Server {
    Server::before(provider, &format!("{GRACE}{}", issuer::config())).await
}

async fn start(server: &Server, token: &str, session: &str) -> String {
    let body = json!({"model": "fake-1", "input": "Hi", "session": session});
    let response = server.send(server.post("/v1/streams", &body).bearer_auth(token)).await;
    assert_eq!(response.status(), 201);
    response.headers()["x-stream-id"].to_str().unwrap().to_owned()
}

async fn cancel(server: &Server, token: &str, id: &str) {
    let request = server.post(&format!("/v1/streams/{id}/cancel"), &Value::Null).bearer_auth(token);
    assert_eq!(server.send(request).await.status(), 200);
}

#[tokio::test]
async fn event_streams_end_after_the_grace_and_come_back_only_with_a_fresh_token() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = server(&provider).await;
    let good = issuer::token("ann", &json!({}));
    let id = start(&server, &good, "room").await;
    let short = issuer::lasting("ann", &json!({}), 2);
    let events = format!("/v1/streams/{id}/events");
    for (path, end) in [
        (events.clone(), BodyEnd::Clean),
        ("/v1/sessions/room/events".into(), BodyEnd::Clean),
        (format!("{events}?format=openai-chat"), BodyEnd::Broken),
    ] {
        let short = issuer::lasting("ann", &json!({}), 2);
        let mut viewer = server.sse_of(server.get(&path).bearer_auth(&short)).await;
        let seen = viewer.rest().await;
        assert_eq!(viewer.end, Some(end), "{path}");
        if end == BodyEnd::Clean {
            let notice = seen.last().unwrap();
            assert_eq!((notice.event.as_str(), notice.id.as_deref()), ("notice", None), "{:?}", types(&seen));
            assert_eq!(notice.json()["code"], "expired");
            assert!(notice.retry_ms.is_some());
        }
    }
    let again = |token: &str| server.get(&format!("{events}?after={id}-0000-0000000001")).bearer_auth(token);
    assert_eq!(server.send(again(&short)).await.status(), 401);
    assert_eq!(server.send(again(&issuer::token("ann", &json!({})))).await.status(), 200);
    cancel(&server, &good, &id).await;
    server.finish().await;
}

#[tokio::test]
async fn who_was_allowed_to_ask_gets_the_whole_answer() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::stream().token("Hel").wait(&gate).token("lo").finish()]).await;
    let server = server(&provider).await;
    let short = issuer::lasting("ann", &json!({}), 1);
    let mut answer = server.sse_of(server.post("/v1/chat/completions", &chat()).bearer_auth(&short)).await;
    answer.next().await.unwrap();
    let refused = async {
        while server.send(server.get("/v1/models").bearer_auth(&short)).await.status() != 401 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    crate::harness::soon("the token to end", refused).await;
    // Longer than the grace.
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    gate.open();
    answer.rest().await;
    assert_eq!(answer.end, Some(BodyEnd::Clean));
    assert!(String::from_utf8_lossy(&answer.raw).contains("[DONE]"));
    server.finish().await;
}

/// In the session's socket with this token.
async fn entered(server: &Server, token: &str) -> Socket {
    let offered = format!("relaystream.v1, bearer.{token}");
    let mut socket = Socket::open(server, "room", &[("sec-websocket-protocol", &offered)]).await.unwrap();
    assert_eq!(socket.response.headers()["sec-websocket-protocol"], "relaystream.v1");
    socket.hello(&[]).await;
    socket.expect("welcome").await;
    socket
}

async fn answer(socket: &mut Socket, message: Value) -> Value {
    socket.say(&message).await;
    loop {
        match socket.next().await {
            Received::Json(answer) if answer["id"] == message["id"] => return answer,
            Received::Json(_) => {}
            closed => panic!("{closed:?}"),
        }
    }
}

#[tokio::test]
async fn a_socket_is_warned_may_only_watch_then_and_is_closed() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let config = format!("[rooms]\nexpiry_grace_ms = 2000\n{}", issuer::config());
    let server = Server::before(&provider, &config).await;
    let good = issuer::token("ann", &json!({}));
    let id = start(&server, &good, "room").await;
    let mut socket = entered(&server, &issuer::lasting("ann", &json!({}), 1)).await;
    let warned = socket.until("error").await.pop().unwrap();
    assert_eq!((&warned["data"]["code"], &warned["data"]["retryable"]), (&json!("expired"), &json!(true)));
    assert_eq!(warned["data"]["grace_ms"], 2000);
    let refused = answer(&mut socket, json!({"type": "cancel", "id": "c", "data": {"stream": id}})).await;
    assert_eq!((&refused["type"], &refused["data"]["code"]), (&json!("error"), &json!("unauthorized")));
    assert_eq!(socket.closed().await, 4009);
    cancel(&server, &good, &id).await;
    server.finish().await;
}

#[tokio::test]
async fn a_fresh_credential_keeps_a_socket_open_and_changes_what_it_may_do() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = server(&provider).await;
    let good = issuer::token("ann", &json!({}));
    let id = start(&server, &good, "room").await;
    let mut socket = entered(&server, &issuer::lasting("bob", &json!({"room": "viewer"}), 2)).await;
    let auth =
        |field: &str, credential: &str| json!({"type": "auth", "id": "a", "data": {(field): credential}});
    let forged = format!("{}x", issuer::token("bob", &json!({"room": "owner"})));
    for (credential, code) in [
        (forged, "unauthorized"),
        (issuer::lasting("bob", &json!({"room": "owner"}), 0), "unauthorized"),
        (issuer::token("eve", &json!({"room": "owner"})), "not_allowed"),
        (issuer::token("bob", &json!({"elsewhere": "owner"})), "not_found"),
    ] {
        let refused = answer(&mut socket, auth("token", &credential)).await;
        assert_eq!((&refused["type"], &refused["data"]["code"]), (&json!("error"), &json!(code)));
    }
    let nothing = answer(&mut socket, json!({"type": "ping", "id": "p"})).await;
    assert_eq!(nothing["type"], "pong");
    socket.say(&json!({"type": "auth", "id": "b", "data": {}})).await;
    assert_eq!(socket.until("error").await.pop().unwrap()["data"]["code"], "bad_request");
    let cancel = json!({"type": "cancel", "id": "c", "data": {"stream": id}});
    assert_eq!(answer(&mut socket, cancel.clone()).await["data"]["code"], "not_allowed");
    // A better token before the first one ends, then a ticket before that one does.
    let better = issuer::lasting("bob", &json!({"room": "owner", "*": "owner"}), 3);
    assert_eq!(answer(&mut socket, auth("token", &better)).await["type"], "ack");
    let ask = server.post("/v1/tickets", &json!({"session": "room", "role": "owner"}));
    let lasting = issuer::token("bob", &json!({"room": "owner"}));
    let ticket: Value =
        serde_json::from_str(&server.send(ask.bearer_auth(&lasting)).await.text().await.unwrap()).unwrap();
    assert_eq!(answer(&mut socket, auth("ticket", ticket["ticket"].as_str().unwrap())).await["type"], "ack");
    let refused = async {
        while server.send(server.get("/v1/models").bearer_auth(&better)).await.status() != 401 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    crate::harness::soon("the tokens to end", refused).await;
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    assert_eq!(answer(&mut socket, cancel).await["type"], "ack");
    socket.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn a_key_that_was_withdrawn_does_nothing_more_on_a_socket() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let key = |name: &str| format!("[[auth.keys]]\nkey = \"{name}\"\nuser = \"ann\"\nsessions = [\"*\"]\n");
    let server = Server::before(&provider, &format!("{}{}", key("one"), key("two"))).await;
    let id = start(&server, "one", "room").await;
    let mut socket = entered(&server, "two").await;
    let cancel_it = json!({"type": "cancel", "id": "c", "data": {"stream": "no-such"}});
    assert_eq!(answer(&mut socket, cancel_it.clone()).await["data"]["code"], "not_found");
    server.reload(&format!("{}{}", key("one").replace("\"*\"", ""), provider.config()));
    assert_eq!(answer(&mut socket, cancel_it.clone()).await["data"]["code"], "unauthorized");
    let auth = json!({"type": "auth", "id": "a", "data": {"token": "one"}});
    assert_eq!(answer(&mut socket, auth).await["type"], "ack");
    assert_eq!(answer(&mut socket, cancel_it).await["data"]["code"], "not_found");
    socket.leave().await;
    cancel(&server, "one", &id).await;
    server.finish().await;
}
