//! Tickets: what they open, how often, until when, and on which node.

use relaystream::app::entry::now_s;
use serde_json::{Value, json};

use super::issuer;
use crate::harness::shared::Shared;
use crate::harness::socket::Socket;
use crate::harness::{Answer, FakeProvider, Script, Server, eventually, soon};

const KEYS: &str = "[limits]\nrequests_per_minute = 0\n\
    [[auth.keys]]\nkey = \"backend\"\nuser = \"backend\"\nsessions = [\"*\"]\n\
    [[auth.keys]]\nkey = \"ann\"\nuser = \"ann\"\n\
    [[auth.keys]]\nkey = \"eve\"\nuser = \"eve\"\nrole = \"member\"\nsessions = [\"room\"]\n";

async fn ask(server: &Server, key: &str, body: &Value) -> Answer {
    Answer::of(server.send(server.post("/v1/tickets", body).bearer_auth(key)).await).await
}

async fn ticket(server: &Server, key: &str, body: &Value) -> String {
    let answer = ask(server, key, body).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()["ticket"].as_str().unwrap().to_owned()
}

async fn get(server: &Server, path: &str) -> Answer {
    Answer::of(server.send(server.get(path)).await).await
}

async fn start(server: &Server, key: &str, session: Option<&str>) -> String {
    let body = json!({"model": "fake-1", "input": "Hi", "session": session});
    let answer = Answer::of(server.send(server.post("/v1/streams", &body).bearer_auth(key)).await).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.header("x-stream-id").to_owned()
}

async fn cancel(server: &Server, key: &str, id: &str) {
    let request = server.post(&format!("/v1/streams/{id}/cancel"), &Value::Null).bearer_auth(key);
    assert_eq!(server.send(request).await.status(), 200);
}

#[tokio::test]
async fn a_ticket_says_who_it_is_for_and_until_when() {
    let server = Server::new(KEYS).await;
    let body = json!({"session": "room", "role": "member", "user": "zoe", "name": "Zoe", "ttl_s": 5});
    let before = now_s();
    let answer = ask(&server, "backend", &body).await;
    assert_eq!((answer.status, answer.header("cache-control")), (201, "no-store"));
    let expires_at = answer.json()["expires_at"].as_u64().unwrap();
    assert!((before + 5..=now_s() + 5).contains(&expires_at));
    let ticket = answer.json()["ticket"].as_str().unwrap().to_owned();
    assert!(
        ticket.len() < 512
            && ticket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    );
    let session = get(&server, &format!("/v1/sessions/room?ticket={ticket}")).await.json();
    assert_eq!((&session["role"], &session["owner"]), (&json!("member"), &json!("backend")));
    let mut socket =
        Socket::open_at(&server, &format!("/v1/sessions/room/ws?ticket={ticket}"), &[]).await.unwrap();
    socket.say(&json!({"type": "hello", "data": {"name": "Somebody else"}})).await;
    let welcome = socket.expect("welcome").await;
    assert_eq!((&welcome["data"]["user"], &welcome["data"]["role"]), (&json!("zoe"), &json!("member")));
    // What a ticket vouches for is not the client's to choose.
    assert_eq!(welcome["data"]["members"][0]["name"], "Zoe");
    socket.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn the_ticket_that_opened_a_socket_pages_what_was_said() {
    let server = Server::new(KEYS).await;
    let single = ticket(&server, "ann", &json!({"session": "room", "single_use": true})).await;
    let mut socket =
        Socket::open_at(&server, &format!("/v1/sessions/room/ws?ticket={single}"), &[]).await.unwrap();
    socket.hello(&[]).await;
    let welcome = socket.expect("welcome").await;
    let position = welcome["data"]["position"].as_str().unwrap();
    let page = |query: String| format!("/v1/sessions/room/messages?ticket={single}{query}");
    assert_eq!(get(&server, &page(String::new())).await.status, 401);
    assert_eq!(get(&server, &page(format!("&before={position}"))).await.status, 200);
    assert_eq!(get(&server, &page("&before=nowhere".into())).await.status, 401);
    socket.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn nobody_gives_more_than_they_have() {
    let server = Server::new(KEYS).await;
    ticket(&server, "ann", &json!({"session": "room", "role": "owner"})).await;
    for (key, body, status, code) in [
        ("eve", json!({"session": "room", "role": "owner"}), 403, "not_allowed"),
        ("eve", json!({"session": "room", "user": "ann"}), 403, "not_allowed"),
        // She owns the room, but not everything.
        ("ann", json!({"session": "room", "user": "eve"}), 403, "not_allowed"),
        ("ann", json!({"stream": "01jxk3v9c2m4n5p6q7r8s9t0va"}), 404, "not_found"),
        ("ann", json!({}), 422, "invalid"),
        ("ann", json!({"session": "room", "stream": "01jxk3v9c2m4n5p6q7r8s9t0va"}), 422, "invalid"),
        ("ann", json!({"session": "no room"}), 422, "invalid"),
        ("ann", json!({"session": "room", "role": "admin"}), 422, "invalid"),
        ("ann", json!({"session": "room", "ttl_s": 0}), 422, "invalid"),
        ("ann", json!({"session": "room", "ttl_s": 86401}), 422, "invalid"),
        ("ann", json!({"session": "room", "single_use": "yes"}), 422, "invalid"),
        ("ann", json!({"session": "room", "user": ""}), 422, "invalid"),
        ("nobody", json!({"session": "room"}), 401, "unauthorized"),
    ] {
        let answer = ask(&server, key, &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{key} {body}");
    }
    // A ticket is no credential for more tickets.
    let own = ticket(&server, "ann", &json!({"session": "room", "role": "owner"})).await;
    let more = server.post(&format!("/v1/tickets?ticket={own}"), &json!({"session": "room"}));
    assert_eq!(server.send(more).await.status(), 401);
    server.finish().await;
}

#[tokio::test]
async fn a_ticket_opens_its_session_or_stream_and_nothing_else() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, KEYS).await;
    let (in_room, elsewhere, alone) = (
        start(&server, "ann", Some("room")).await,
        start(&server, "ann", Some("other")).await,
        start(&server, "ann", None).await,
    );
    let room = ticket(&server, "ann", &json!({"session": "room", "role": "owner"})).await;
    let stream = ticket(&server, "ann", &json!({"stream": alone, "role": "owner"})).await;
    for (ticket, path, status) in [
        (&room, format!("/v1/streams/{in_room}"), 200),
        (&room, format!("/v1/streams/{elsewhere}"), 404),
        (&room, format!("/v1/streams/{alone}"), 404),
        (&room, "/v1/sessions/other".into(), 404),
        (&room, "/v1/sessions/unheard-of/events".into(), 404),
        (&room, "/v1/usage".into(), 403),
        (&room, "/v1/models".into(), 200),
        // It is for starting in its session.
        (&room, "/v1/chat/stream?prompt=Hi&model=fake-1".into(), 403),
        (&room, "/v1/chat/stream?prompt=Hi&model=fake-1&session=other".into(), 404),
        (&room, format!("/api/chat/other/stream?of={elsewhere}"), 204),
        (&stream, format!("/v1/streams/{alone}"), 200),
        (&stream, format!("/v1/streams/{in_room}"), 404),
        (&stream, "/v1/sessions/room".into(), 404),
        (&stream, "/v1/chat/stream?prompt=Hi&model=fake-1".into(), 403),
        (&stream, "/v1/chat/stream?prompt=Hi&model=fake-1&session=room".into(), 404),
    ] {
        let path = format!("{path}{}ticket={ticket}", if path.contains('?') { "&" } else { "?" });
        assert_eq!(get(&server, &path).await.status, status, "{path}");
    }
    let listed = get(&server, &format!("/v1/sessions?ticket={room}")).await.json();
    let names: Vec<_> =
        listed["sessions"].as_array().unwrap().iter().map(|one| one["session"].clone()).collect();
    assert_eq!(names, ["room"]);
    // One that a page starts with it is its own.
    let mut started =
        server.sse(&format!("/v1/chat/stream?prompt=Hi&model=fake-1&session=room&ticket={room}")).await;
    let own = started.until("token").await[0].json()["stream"].as_str().unwrap().to_owned();
    drop(started);
    for id in [in_room, elsewhere, alone, own] {
        cancel(&server, "ann", &id).await;
    }
    server.finish().await;
}

#[tokio::test]
async fn a_used_ticket_admits_reconnects_that_carry_a_position_and_nothing_else() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, KEYS).await;
    let (id, other) = (start(&server, "ann", Some("room")).await, start(&server, "ann", None).await);
    let first = format!("{id}-0000-0000000001");
    // Once, by any way in.
    let ticket_of = async |body: Value| ticket(&server, "ann", &body).await;
    let single = ticket_of(json!({"session": "room", "single_use": true})).await;
    let events = format!("/v1/streams/{id}/events");
    let mut mirror = server.sse(&format!("/v1/sessions/room/events?ticket={single}")).await;
    let held = mirror.until("token").await.pop().unwrap().id().to_owned();
    // Seconds are counted whole: of three there are more than two, also for a slow machine.
    let short = ticket_of(json!({"stream": id, "ttl_s": 3})).await;
    server.sse(&format!("{events}?ticket={short}")).await.until("token").await;
    let start_s = now_s();
    eventually("the short one to be late", || now_s() > start_s + 3).await;
    for (path, after, status) in [
        (format!("/v1/sessions/room/events?ticket={single}"), None, 401),
        (format!("/v1/sessions/room/events?ticket={single}"), Some(held.as_str()), 200),
        (format!("{events}?ticket={single}"), Some(first.as_str()), 200),
        (format!("{events}?ticket={single}&after={first}"), None, 200),
        (format!("/v1/sessions/room?ticket={single}"), None, 401),
        (format!("{events}?ticket={short}"), None, 401),
        (format!("{events}?ticket={short}"), Some(first.as_str()), 200),
        (format!("{events}?ticket={short}"), Some(held.as_str()), 401),
        (format!("{events}?ticket={short}"), Some("nonsense"), 401),
        (format!("{events}?ticket={short}"), Some(&format!("{other}-0000-0000000001")), 401),
        (format!("/v1/sessions/room/events?ticket={single}"), Some(&format!("{other}-0000-0000000001")), 401),
    ] {
        let mut request = server.get(&path);
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        assert_eq!(server.send(request).await.status(), status, "{path} {after:?}");
    }
    // A socket shows its positions in its first message.
    let path = format!("/v1/sessions/room/ws?ticket={single}");
    for (after, code) in [
        (vec![], Some(4001)),
        (vec![(id.as_str(), "nonsense")], Some(4001)),
        (vec![(other.as_str(), "01jxk3v9c2m4n5p6q7r8s9t0va-0000-0000000001")], Some(4001)),
        (vec![(id.as_str(), first.as_str())], None),
    ] {
        let mut socket = Socket::open_at(&server, &path, &[]).await.unwrap();
        socket.hello(&after).await;
        match code {
            Some(code) => assert_eq!(socket.closed().await, code, "{after:?}"),
            None => {
                socket.expect("welcome").await;
                socket.leave().await;
            }
        }
    }
    drop(mirror);
    for id in [id, other] {
        cancel(&server, "ann", &id).await;
    }
    server.finish().await;
}

#[tokio::test]
async fn a_used_ticket_that_is_replayed_is_a_wrong_credential_and_a_reconnect_is_not() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, KEYS).await;
    let id = start(&server, "ann", Some("room")).await;
    let first = format!("{id}-0000-0000000001");
    let used = async || {
        let single = ticket(&server, "ann", &json!({"session": "room", "single_use": true})).await;
        assert_eq!(get(&server, &format!("/v1/sessions/room?ticket={single}")).await.status, 200);
        single
    };
    let (kept, leaked) = (used().await, used().await);
    let enter = async |ticket: &str, after: &[(&str, &str)]| {
        let path = format!("/v1/sessions/room/ws?ticket={ticket}");
        let mut socket = Socket::open_at(&server, &path, &[]).await?;
        socket.hello(after).await;
        Ok::<Socket, u16>(socket)
    };
    let reconnects = async || {
        let events = format!("/v1/streams/{id}/events?ticket={kept}&after={first}");
        assert_eq!(server.send(server.get(&events)).await.status(), 200);
        let mut socket = enter(&kept, &[(&id, &first)]).await.unwrap();
        socket.expect("welcome").await;
        socket
    };
    for _ in 0..12 {
        reconnects().await.leave().await;
    }
    let alone = format!("/v1/sessions/room?ticket={leaked}");
    for _ in 0..5 {
        assert_eq!(get(&server, &alone).await.status, 401);
        assert_eq!(enter(&leaked, &[]).await.unwrap().closed().await, 4001);
    }
    assert_eq!(get(&server, &alone).await.status, 429);
    assert_eq!(enter(&leaked, &[]).await.err(), Some(429));
    let mut socket = reconnects().await;
    // Nor is it a fresh credential for a socket that is open.
    socket.say(&json!({"type": "auth", "id": "a", "data": {"ticket": kept}})).await;
    assert_eq!(socket.until("error").await.pop().unwrap()["data"]["code"], "unauthorized");
    socket.leave().await;
    cancel(&server, "ann", &id).await;
    server.finish().await;
}

#[tokio::test]
async fn of_many_at_once_one_uses_a_ticket_for_single_use() {
    let server = Server::new(KEYS).await;
    let single = ticket(&server, "ann", &json!({"session": "room", "single_use": true})).await;
    let path = format!("/v1/sessions/room?ticket={single}");
    // Fewer than the wrong ones that an address may send.
    let answers = futures_util::future::join_all((0..9).map(|_| get(&server, &path))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == 401).count(), 8);
    server.finish().await;
}

#[tokio::test]
async fn a_ticket_ends_with_its_issuers_credential() {
    let server = Server::new(&format!("{KEYS}{}", issuer::config())).await;
    let token = issuer::lasting("tom", &json!({}), 2);
    let ends = now_s() + 2;
    let by_token = ticket(&server, &token, &json!({"session": "toms", "ttl_s": 600})).await;
    let by_key = ticket(&server, "ann", &json!({"session": "anns", "ttl_s": 600})).await;
    let of = async |name: &str, ticket: &str| {
        get(&server, &format!("/v1/sessions/{name}?ticket={ticket}")).await.status
    };
    assert_eq!((of("toms", &by_token).await, of("anns", &by_key).await), (200, 200));
    eventually("the token to end", || now_s() > ends).await;
    assert_eq!((of("toms", &by_token).await, of("anns", &by_key).await), (401, 200));
    // Ann leaves the company.
    server.reload(&issuer::config());
    assert_eq!(of("anns", &by_key).await, 401);
    server.finish().await;
}

#[tokio::test]
async fn a_ticket_does_not_open_another_session_of_the_same_name() {
    let server = Server::new(KEYS).await;
    let old = ticket(&server, "ann", &json!({"session": "room", "role": "owner", "ttl_s": 600})).await;
    let path = format!("/v1/sessions/room?ticket={old}");
    assert_eq!(get(&server, &path).await.status, 200);
    let forget = server.delete("/v1/sessions/room").bearer_auth("ann");
    assert_eq!(server.send(forget).await.status(), 204);
    assert_eq!(get(&server, &path).await.status, 404);
    ticket(&server, "backend", &json!({"session": "room"})).await;
    assert_eq!(get(&server, &path).await.status, 401);
    server.finish().await;
}

#[tokio::test]
async fn a_ticket_of_one_node_is_good_on_another_and_used_up_for_all() {
    let shared = Shared::new();
    let (one, two) = (Server::node(shared.node(0), KEYS).await, Server::node(shared.node(1), KEYS).await);
    let single = ticket(&one, "ann", &json!({"session": "room", "single_use": true})).await;
    let many = ticket(&two, "ann", &json!({"session": "room"})).await;
    let path = |ticket: &str| format!("/v1/sessions/room?ticket={ticket}");
    assert_eq!(get(&two, &path(&single)).await.status, 200);
    assert_eq!(get(&one, &path(&single)).await.status, 401);
    assert_eq!((get(&one, &path(&many)).await.status, get(&two, &path(&many)).await.status), (200, 200));
    // Those who know it may leave, as long as the store stays.
    for server in [one, two] {
        soon("the end", server.finish()).await;
    }
    let three = Server::node(shared.node(2), KEYS).await;
    assert_eq!(
        (get(&three, &path(&many)).await.status, get(&three, &path(&single)).await.status),
        (200, 401)
    );
    // Another store has another secret.
    let stranger = Server::new(KEYS).await;
    assert_eq!(get(&stranger, &path(&many)).await.status, 401);
    for server in [three, stranger] {
        soon("the end", server.finish()).await;
    }
}

#[tokio::test]
async fn a_socket_is_told_that_the_store_is_away_and_nothing_of_the_store() {
    let shared = Shared::new();
    let server = Server::node(shared.node(0), KEYS).await;
    let fresh = ticket(&server, "ann", &json!({"session": "room"})).await;
    let mut socket = Socket::open(&server, "room", &[("authorization", "Bearer ann")]).await.unwrap();
    socket.hello(&[]).await;
    socket.expect("welcome").await;
    shared.cut_off(0);
    for message in [
        json!({"type": "auth", "id": "a", "data": {"ticket": fresh}}),
        json!({"type": "cancel", "id": "c", "data": {"stream": "01jxk3v9c2m4n5p6q7r8s9t0va"}}),
    ] {
        socket.say(&message).await;
        let refused = socket.until("error").await.pop().unwrap();
        let data = json!({"code": "store_unavailable", "message": "the server cannot reach its store",
                          "retryable": true});
        assert_eq!((&refused["id"], &refused["data"]), (&message["id"], &data));
    }
    shared.let_back(0);
    socket.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn a_ticket_outlives_the_process_that_issued_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("{KEYS}[store]\npath = {:?}\n", folder.path().join("data"));
    let first = Server::new(&config).await;
    let many = ticket(&first, "ann", &json!({"session": "room", "ttl_s": 600})).await;
    let single = ticket(&first, "ann", &json!({"session": "room", "ttl_s": 600, "single_use": true})).await;
    let path = |ticket: &str| format!("/v1/sessions/room?ticket={ticket}");
    assert_eq!(get(&first, &path(&single)).await.status, 200);
    let store = first.app.relay.store.clone();
    soon("the end", first.finish()).await;
    soon("what is to be written", store.close()).await.unwrap();
    drop(store);
    let second = Server::new(&config).await;
    assert_eq!(
        (get(&second, &path(&many)).await.status, get(&second, &path(&single)).await.status),
        (200, 401)
    );
    second.finish().await;
}
