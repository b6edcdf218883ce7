//! The session's WebSocket.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::harness::socket::{Received, Socket, text_of};
use crate::harness::{FakeProvider, Gate, Script, Server, soon};

fn ask() -> Value {
    json!({"model": "fake-1", "input": "Hi", "session": "room-1"})
}

#[tokio::test]
async fn a_viewer_is_welcomed_and_sees_streams_from_their_start() {
    let provider = FakeProvider::new([Script::answer(&["Hello", " world"])]).await;
    let server = Server::before(&provider, "").await;
    let (mut socket, welcome) = Socket::enter(&server, "room-1", &[]).await;
    let data = &welcome["data"];
    assert_eq!(
        (&data["user"], &data["role"], &data["streams"]),
        (&json!("local"), &json!("owner"), &json!([]))
    );
    let room = data["room"].as_str().unwrap();
    assert_eq!(data["position"], format!("{room}-0000-0000000000"));
    assert!(welcome["timestamp"].is_u64());
    let id = server.start(&ask()).await;
    let messages = socket.until("done").await;
    assert_eq!((&messages[0]["type"], &messages[0]["stream"]), (&json!("start"), &json!(id)));
    assert_eq!(messages[0]["position"], format!("{id}-0000-0000000001"));
    assert_eq!(messages[0]["data"]["model"], "fake-1");
    assert_eq!(text_of(&messages, &id), "Hello world");
    let done = messages.last().unwrap();
    assert_eq!(
        (&done["data"]["status"], &done["position"]),
        (&json!("completed"), &json!(format!("{id}-0000-0000000005")))
    );
    assert!(messages.iter().all(|message| message["timestamp"].is_u64() && message["stream"] == id));
    socket.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn a_late_joiner_gets_a_snapshot_and_then_lives() {
    let gate = Gate::default();
    let ended = Script::answer(&["before"]);
    let script = Script::stream().tokens(&["Hel", "lo"]).wait(&gate).token(" world").finish();
    let provider = FakeProvider::new([ended, script]).await;
    let server = Server::before(&provider, "").await;
    let old = server.start(&ask()).await;
    server.ended(&old).await;
    let id = server.start(&ask()).await;
    let mut direct = server.sse(&format!("/v1/streams/{id}/events")).await;
    direct.until("token").await;
    direct.expect("token").await;
    let (mut socket, welcome) = Socket::enter(&server, "room-1", &[]).await;
    let position = |seq: u64, id: &str| format!("{id}-0000-{seq:010}");
    assert_eq!(
        welcome["data"]["streams"],
        json!([{"stream": old, "position": position(4, &old), "status": "completed", "text": "before",
                "model": "fake-1", "by": "local"},
               {"stream": id, "position": position(3, &id), "status": "running", "text": "Hello",
                "model": "fake-1", "by": "local"}])
    );
    gate.open();
    let messages = socket.until("done").await;
    assert_eq!(text_of(&messages, &id), " world");
    assert_eq!(messages[0]["type"], "token");
    drop(direct);
    socket.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn streams_are_told_in_the_order_in_which_they_began() {
    let gate = Gate::default();
    let long = Script::stream().token("long").wait(&gate).finish();
    let provider = FakeProvider::new([long, Script::answer(&["short"])]).await;
    let server = Server::before(&provider, "").await;
    let first = server.start(&ask()).await;
    server.sse(&format!("/v1/streams/{first}/events")).await.until("token").await;
    let second = server.start(&ask()).await;
    server.ended(&second).await;
    let (socket, welcome) = Socket::enter(&server, "room-1", &[]).await;
    let told = welcome["data"]["streams"].as_array().unwrap();
    assert_eq!(told.iter().map(|stream| &stream["stream"]).collect::<Vec<_>>(), [&first, &second]);
    gate.open();
    server.ended(&first).await;
    socket.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn a_returning_viewer_gets_exactly_what_it_missed() {
    let gate = Gate::default();
    let script = Script::stream()
        .token("one")
        .wait(&gate)
        .tokens(&[" two", " three"])
        .wait(&gate)
        .token(" four")
        .finish();
    let provider = FakeProvider::new([script]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&ask()).await;
    let (mut socket, welcome) = Socket::enter(&server, "room-1", &[]).await;
    let mut known = welcome["data"]["streams"][0].clone();
    if known["text"] != "one" {
        known = socket.until("token").await.pop().unwrap();
    }
    let position = known["position"].as_str().unwrap().to_owned();
    assert_eq!(position, format!("{id}-0000-0000000002"));
    socket.leave().await;
    gate.open();
    let mut direct = server.sse(&format!("/v1/streams/{id}/events?after={position}")).await;
    direct.expect("token").await;
    direct.expect("token").await;
    let (mut socket, welcome) = Socket::enter(&server, "room-1", &[(&id, &position)]).await;
    let stream = &welcome["data"]["streams"][0];
    assert_eq!((&stream["stream"], stream.get("text")), (&json!(id), None));
    let missed = socket.expect("token").await;
    assert_eq!(missed["data"]["text"], " two three");
    assert_eq!(missed["position"], format!("{id}-0000-0000000004"));
    gate.open();
    assert_eq!(text_of(&socket.until("done").await, &id), " four");
    drop(direct);
    socket.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn bad_positions_are_named_before_the_welcome() {
    let provider = FakeProvider::new([Script::answer(&["Hello"])]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&ask()).await;
    server.ended(&id).await;
    let gone = "01jxk3v9c2m4n5p6q7r8s9t0va";
    for (log, position, reason) in [
        (id.as_str(), "nonsense".to_owned(), "unknown"),
        (&id, format!("{id}-0000-0000000099"), "ahead"),
        (&id, format!("{gone}-0000-0000000001"), "foreign"),
        (gone, format!("{gone}-0000-0000000001"), "expired"),
        ("room-1", "nonsense".to_owned(), "unknown"),
        ("room-1", format!("{gone}-0000-0000000001"), "foreign"),
    ] {
        let mut socket = Socket::open(&server, "room-1", &[]).await.unwrap();
        socket.hello(&[(log, &position)]).await;
        let reset = socket.expect("reset").await;
        assert_eq!(reset["data"], json!({"log": log, "reason": reason}), "{position}");
        let welcome = socket.expect("welcome").await;
        assert_eq!(welcome["data"]["streams"][0]["text"], "Hello", "{position}");
        socket.leave().await;
    }
    server.finish().await;
}

#[tokio::test]
async fn a_member_can_cancel_and_is_acknowledged() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, "").await;
    let (mut socket, _) = Socket::enter(&server, "room-1", &[]).await;
    let id = server.start(&ask()).await;
    socket.until("token").await;
    socket.say(&json!({"type": "cancel", "id": "c-1", "data": {"stream": id}})).await;
    let (mut ack, mut done) = (Value::Null, Value::Null);
    while ack.is_null() || done.is_null() {
        match socket.next().await {
            Received::Json(message) if message["type"] == "ack" => ack = message,
            Received::Json(message) if message["type"] == "done" => done = message,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ack["id"], "c-1");
    let data = &done["data"];
    assert_eq!((&data["status"], &data["by"]), (&json!("cancelled"), &json!("local")));
    assert_eq!(data["usage"]["estimated"], true);
    provider.abandoned(0).await;
    // Again is fine, a stream of no session here is not found.
    socket.say(&json!({"type": "cancel", "id": "c-2", "data": {"stream": id}})).await;
    assert_eq!(socket.expect("ack").await["id"], "c-2");
    socket
        .say(&json!({"type": "cancel", "id": "c-3", "data": {"stream": "01jxk3v9c2m4n5p6q7r8s9t0va"}}))
        .await;
    let error = socket.expect("error").await;
    assert_eq!((&error["id"], &error["data"]["code"]), (&json!("c-3"), &json!("not_found")));
    socket.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn strange_messages_are_answered_and_do_not_end_the_socket() {
    let server = Server::demo().await;
    let mut socket = Socket::open(&server, "room-1", &[]).await.unwrap();
    socket.say(&json!({"type": "cancel", "id": "1", "data": {"stream": "x"}})).await;
    assert_eq!(socket.expect("error").await["data"]["code"], "bad_request");
    socket.hello(&[]).await;
    socket.expect("welcome").await;
    for message in [json!({"type": "dance", "id": "2"}), json!({"type": "cancel", "id": "3"}), json!([1])] {
        socket.say(&message).await;
        let error = socket.expect("error").await;
        assert_eq!(
            (&error["data"]["code"], &error["data"]["retryable"]),
            (&json!("bad_request"), &json!(false))
        );
    }
    socket.say_raw(Message::text("not json")).await;
    socket.expect("error").await;
    socket.say(&json!({"type": "ping", "id": "4"})).await;
    assert_eq!(socket.expect("pong").await["id"], "4");
    socket.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn faults_of_the_protocol_close_with_their_code() {
    let server = Server::new("[rooms]\nmessage_bytes = 1000").await;
    let (mut socket, _) = Socket::enter(&server, "room-1", &[]).await;
    socket.say_raw(Message::binary(vec![1, 2, 3])).await;
    assert_eq!(socket.closed().await, 1007);
    let (mut socket, _) = Socket::enter(&server, "room-1", &[]).await;
    socket.say_raw(Message::text("x".repeat(2000))).await;
    assert_eq!(socket.closed().await, 1009);
    server.finish().await;
}

#[tokio::test]
async fn refusals_are_statuses_or_for_our_subprotocol_close_codes() {
    let config = "[limits]\nviewers_per_session = 1\n[[auth.keys]]\nkey = \"a\"\nuser = \"ann\"\n[[auth.keys]]\nkey = \"b\"\nuser = \"bob\"\n";
    let server = Server::new(config).await;
    let ann = ("authorization", "Bearer a");
    let mut first =
        Socket::open(&server, "room-1", &[ann, ("sec-websocket-protocol", "relaystream.v1")]).await.unwrap();
    assert_eq!(first.response.headers()["sec-websocket-protocol"], "relaystream.v1");
    first.hello(&[]).await;
    first.expect("welcome").await;
    for (credential, session, status, code) in [
        ("Bearer a", "room-1", 429, 4106),
        ("Bearer b", "room-1", 404, 4004),
        ("Bearer wrong", "room-1", 401, 4001),
        ("Bearer a", "not%20a%20name", 422, 4004),
    ] {
        let credential = ("authorization", credential);
        let refused = Socket::open(&server, session, &[credential]).await.err();
        assert_eq!(refused, Some(status), "{session}");
        let named = [credential, ("sec-websocket-protocol", "relaystream.v1")];
        match Socket::open(&server, session, &named).await {
            Ok(mut socket) => assert_eq!(socket.closed().await, code, "{session}"),
            Err(status) => panic!("{credential:?} {session}: refused with {status}, not closed with {code}"),
        }
    }
    first.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn a_forgotten_session_closes_its_sockets() {
    let server = Server::demo().await;
    let (mut socket, _) = Socket::enter(&server, "room-1", &[]).await;
    assert_eq!(server.send(server.delete("/v1/sessions/room-1")).await.status(), 204);
    assert_eq!(socket.closed().await, 4004);
    server.finish().await;
}

/// A client in a thread of its own, which answers pings at once; returns what it was closed with.
fn prompt_client(server: &Server, leave: Arc<AtomicBool>) -> std::thread::JoinHandle<Option<CloseCode>> {
    let address = server.address;
    std::thread::spawn(move || {
        let stream = TcpStream::connect(address).unwrap();
        let request = format!("ws://{address}/v1/sessions/room-1/ws");
        let (mut socket, _) = tungstenite::client(request, stream).unwrap();
        socket.send(Message::text(json!({"type": "hello", "data": {}}).to_string())).unwrap();
        loop {
            match socket.read().unwrap() {
                Message::Ping(_) if leave.load(Relaxed) => socket.close(None).unwrap(),
                Message::Ping(_) => socket.flush().unwrap(),
                Message::Close(frame) => return frame.map(|frame| frame.code),
                _ => {}
            }
        }
    })
}

#[tokio::test]
async fn a_pong_that_came_in_time_counts_however_late_it_is_read() {
    let server = Server::new("[rooms]\nping_ms = 50\npong_ms = 50").await;
    let leave = Arc::new(AtomicBool::new(false));
    let client = prompt_client(&server, leave.clone());
    crate::harness::eventually("it", || server.metric("relaystream_members") == 1.0).await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        // The server stands still, with a ping under way.
        std::thread::sleep(Duration::from_millis(80));
    }
    leave.store(true, Relaxed);
    let closed = tokio::task::spawn_blocking(|| client.join().unwrap());
    assert_eq!(soon("its end", closed).await.unwrap(), None, "it left by itself");
    server.finish().await;
}

#[tokio::test]
async fn a_viewer_that_does_not_pong_is_closed() {
    let server = Server::new("[rooms]\nping_ms = 20\npong_ms = 20").await;
    // Pings are answered only while somebody reads: this one does not, until it is too late.
    let (socket, _) = Socket::enter(&server, "room-1", &[]).await;
    let name = "relaystream_viewers{transport=\"websocket\"}";
    crate::harness::eventually("the close", || server.metric(name) == 0.0).await;
    drop(socket);
    server.finish().await;
}
