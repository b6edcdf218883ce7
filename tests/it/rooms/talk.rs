//! What people say: kept, in one order for all, resumed by position, paged.

use serde_json::{Value, json};

use super::{PEOPLE, content, enter, name, open_room, say, socket};
use crate::harness::shared::Shared;
use crate::harness::socket::{Received, Socket};
use crate::harness::{Answer, Event, Server};

/// The next `n` texts, whatever else comes between.
async fn texts(socket: &mut Socket, n: usize) -> Vec<Value> {
    let mut texts = Vec::new();
    while texts.len() < n {
        texts.extend(socket.until("text").await.pop());
    }
    texts
}

fn contents(texts: &[Value]) -> Vec<&str> {
    texts.iter().map(content).collect()
}

async fn page(server: &Server, query: &str) -> Value {
    let request = server.get(&format!("/v1/sessions/room-1/messages{query}")).bearer_auth("bob");
    let answer = Answer::of(server.send(request).await).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

async fn post(server: &Server, user: &str, body: &Value) -> Answer {
    let request = server.post("/v1/sessions/room-1/messages", body).bearer_auth(user);
    Answer::of(server.send(request).await).await
}

#[tokio::test]
async fn a_text_is_told_to_all_and_acknowledged_with_its_position() {
    let server = open_room("").await;
    let (mut ann, _) = enter(&server, "ann", &[]).await;
    let (mut bob, welcome) = enter(&server, "bob", &[]).await;
    let request = server.get("/v1/sessions/room-1/events").bearer_auth("cyd");
    let mut mirror = server.sse_of(request).await;
    ann.say(&json!({"type": "text", "id": "a-1", "data": {"content": "Grüße"}})).await;
    let text = bob.expect("text").await;
    assert_eq!(text["data"], json!({"content": "Grüße", "from": "ann", "id": "a-1"}));
    let position = text["position"].as_str().unwrap();
    assert_eq!(position, format!("{}-0000-0000000001", welcome["data"]["room"].as_str().unwrap()));
    assert!(text["timestamp"].is_u64());
    // The sender gets both, in whichever order.
    let mut own = Vec::new();
    while own.len() < 2 {
        match ann.next().await {
            Received::Json(message) if message["type"] == "presence" => {}
            Received::Json(message) => own.push(message),
            close => panic!("{close:?}"),
        }
    }
    own.sort_by_key(|message| message["type"].to_string());
    assert_eq!(
        (&own[0]["type"], &own[0]["id"], &own[0]["position"]),
        (&json!("ack"), &json!("a-1"), &json!(position))
    );
    assert_eq!(own[1], text);
    let event = mirror.expect("text").await;
    assert_eq!(
        (event.id(), event.json()),
        (position, json!({"content": "Grüße", "from": "ann", "id": "a-1"}))
    );
    drop(mirror);
    ann.leave().await;
    bob.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn the_same_id_of_one_user_is_one_message_over_reconnects() {
    let server = open_room("").await;
    let (mut bob, _) = enter(&server, "bob", &[]).await;
    let first = say(&mut bob, "m-1", "once").await;
    bob.leave().await;
    let (mut bob, _) = enter(&server, "bob", &[]).await;
    assert_eq!(say(&mut bob, "m-1", "once").await, first);
    let (mut ann, _) = enter(&server, "ann", &[]).await;
    assert_ne!(say(&mut ann, "m-1", "another's").await, first);
    let answer = post(&server, "bob", &json!({"content": "once", "id": "m-1"})).await;
    assert_eq!((answer.status, answer.header("idempotent-replayed")), (200, "true"));
    assert_eq!(answer.json()["position"], first);
    let page = page(&server, "").await;
    assert_eq!(contents(page["messages"].as_array().unwrap()), ["once", "another's"]);
    bob.leave().await;
    ann.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn who_comes_back_hears_exactly_what_was_said_meanwhile() {
    let server = open_room("").await;
    let (mut ann, _) = enter(&server, "ann", &[]).await;
    let (mut bob, _) = enter(&server, "bob", &[]).await;
    say(&mut ann, "1", "one").await;
    let held = bob.expect("text").await["position"].as_str().unwrap().to_owned();
    bob.leave().await;
    say(&mut ann, "2", "two").await;
    say(&mut ann, "3", "three").await;
    let (mut bob, welcome) = enter(&server, "bob", &[("room-1", &held)]).await;
    let missed = texts(&mut bob, 2).await;
    assert_eq!(contents(&missed), ["two", "three"]);
    assert_eq!(
        welcome["data"]["position"], held,
        "one that loses this connection now has missed nothing yet"
    );
    say(&mut ann, "4", "four").await;
    assert_eq!(contents(&texts(&mut bob, 1).await), ["four"]);
    bob.leave().await;
    // A first visit is told nothing of before.
    let (mut cyd, _) = enter(&server, "cyd", &[]).await;
    say(&mut ann, "5", "five").await;
    assert_eq!(content(&cyd.expect("text").await), "five");
    ann.leave().await;
    cyd.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn positions_before_the_oldest_kept_message_are_named_and_the_rest_is_told() {
    let server = open_room("[rooms]\nhistory_bytes = 2000\n").await;
    let (mut ann, welcome) = enter(&server, "ann", &[]).await;
    let start = welcome["data"]["position"].as_str().unwrap().to_owned();
    for n in 0..30 {
        say(&mut ann, &n.to_string(), &format!("text {n}")).await;
    }
    let mut bob = socket(&server, "bob").await;
    bob.hello(&[("room-1", &start)]).await;
    assert_eq!(bob.expect("reset").await["data"], json!({"log": "room-1", "reason": "trimmed"}));
    bob.expect("welcome").await;
    let kept = page(&server, "").await;
    let kept = kept["messages"].as_array().unwrap();
    assert!((2..29).contains(&kept.len()), "{}", kept.len());
    assert_eq!(&texts(&mut bob, kept.len()).await, kept);
    assert_eq!(content(kept.last().unwrap()), "text 29");
    ann.leave().await;
    bob.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn a_page_and_what_is_live_have_neither_overlap_nor_hole() {
    let server = open_room("").await;
    let (mut ann, _) = enter(&server, "ann", &[]).await;
    for n in 0..25 {
        say(&mut ann, &n.to_string(), &n.to_string()).await;
    }
    let newest = page(&server, "?limit=10").await;
    say(&mut ann, "25", "25").await;
    let (mut bob, _) = enter(&server, "bob", &[("room-1", newest["position"].as_str().unwrap())]).await;
    say(&mut ann, "26", "26").await;
    let live = texts(&mut bob, 2).await;
    let mut pages = vec![newest];
    while let Some(before) = pages.last().unwrap()["before"].as_str() {
        let query = format!("?limit=10&before={before}");
        let page = page(&server, &query).await;
        pages.push(page);
    }
    let paged = pages.iter().rev().flat_map(|page| page["messages"].as_array().unwrap());
    let all: Vec<String> = paged.chain(&live).map(|message| content(message).to_owned()).collect();
    assert_eq!(all, (0..27).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(pages.len(), 3);
    // The welcome's position bounds a page just as well.
    let (cyd, welcome) = enter(&server, "cyd", &[]).await;
    let bounded =
        page(&server, &format!("?limit=1&before={}", welcome["data"]["position"].as_str().unwrap())).await;
    assert_eq!(content(&bounded["messages"][0]), "26");
    for query in [
        "?limit=0",
        "?limit=501",
        "?limit=x",
        "?before=x",
        "?before=01jxk3v9c2m4n5p6q7r8s9t0va-0000-0000000001",
    ] {
        let request = server.get(&format!("/v1/sessions/room-1/messages{query}")).bearer_auth("bob");
        assert_eq!(server.send(request).await.status(), 422, "{query}");
    }
    for socket in [ann, bob, cyd] {
        socket.leave().await;
    }
    server.finish().await;
}

#[tokio::test]
async fn a_fresh_mirror_tells_talk_and_streams_in_the_order_of_the_room() {
    let server = open_room("").await;
    let (mut ann, _) = enter(&server, "ann", &[]).await;
    say(&mut ann, "1", "before").await;
    let body = json!({"input": "Hi", "model": "demo-fast", "session": "room-1"});
    let answer = Answer::of(server.send(server.post("/v1/streams", &body).bearer_auth("ann")).await).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    ann.until("done").await;
    say(&mut ann, "2", "after").await;
    let read = async |after: Option<&str>| {
        let mut request = server.get("/v1/sessions/room-1/events").bearer_auth("bob");
        if let Some(id) = after {
            request = request.header("last-event-id", id);
        }
        let mut mirror = server.sse_of(request).await;
        let mut events = Vec::new();
        while events.last().is_none_or(|event: &Event| event.json()["content"] != "after") {
            events.extend(mirror.next().await);
        }
        events
    };
    let all = read(None).await;
    assert_eq!((all[0].event.as_str(), &all[0].json()["content"]), ("text", &json!("before")));
    assert_eq!(all[all.len() - 2].event, "done");
    // Every id on the way leads to exactly the rest.
    for at in (0..all.len() - 1).step_by(7).chain([all.len() - 2]) {
        let rest = read(Some(all[at].id())).await;
        let (rest, expected) =
            (rest.iter().map(|event| &event.data), all[at + 1..].iter().map(|event| &event.data));
        assert!(rest.eq(expected), "after {}", all[at].id());
    }
    ann.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn a_backend_speaks_and_roles_are_kept() {
    let server = open_room("[rooms]\nmessage_bytes = 500\n").await;
    let (mut bob, _) = enter(&server, "bob", &[]).await;
    let answer = post(&server, "ann", &json!({"content": "Backup at ten", "type": "system"})).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let notice = bob.expect("system").await;
    assert_eq!((content(&notice), &notice["position"]), ("Backup at ten", &answer.json()["position"]));
    assert_eq!(post(&server, "bob", &json!({"content": "hi"})).await.status, 201);
    assert_eq!(bob.expect("text").await["data"], json!({"content": "hi", "from": "bob"}));
    assert_eq!(page(&server, "").await["messages"][0]["type"], "system");
    for (user, body, status, code) in [
        ("bob", json!({"content": "x", "type": "system"}), 403, "not_allowed"),
        ("vic", json!({"content": "x"}), 403, "not_allowed"),
        ("bob", json!({"content": ""}), 422, "invalid"),
        ("bob", json!({"content": 7}), 422, "invalid"),
        ("bob", json!({}), 422, "invalid"),
        ("bob", json!({"content": "x", "type": "song"}), 422, "invalid"),
        ("bob", json!({"content": "x", "id": "x".repeat(200)}), 422, "invalid"),
        ("bob", json!({"content": "x".repeat(501)}), 413, "too_large"),
    ] {
        let refused = post(&server, user, &body).await;
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{body}");
    }
    let (mut vic, _) = enter(&server, "vic", &[]).await;
    for (message, code) in [
        (json!({"type": "text", "id": "1", "data": {"content": "x"}}), "not_allowed"),
        (json!({"type": "text", "id": "2", "data": {}}), "bad_request"),
    ] {
        vic.say(&message).await;
        assert_eq!(vic.until("error").await.pop().unwrap()["data"]["code"], code);
    }
    bob.say(&json!({"type": "text", "id": "x".repeat(200), "data": {"content": "x"}})).await;
    assert_eq!(bob.until("error").await.pop().unwrap()["data"]["code"], "bad_request");
    bob.leave().await;
    vic.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn talk_on_several_nodes_has_one_order_and_no_repeats() {
    let store = Shared::new();
    let (a, b) = (Server::node(store.node(0), PEOPLE).await, Server::node(store.node(1), PEOPLE).await);
    name(&a).await;
    let (mut ann, _) = enter(&a, "ann", &[]).await;
    let (mut bob, _) = enter(&b, "bob", &[]).await;
    let (mut on_a, _) = enter(&a, "cyd", &[]).await;
    let (mut on_b, _) = enter(&b, "vic", &[]).await;
    let talk = async |socket: &mut Socket| {
        for n in 0..20 {
            say(socket, &n.to_string(), &n.to_string()).await;
        }
    };
    tokio::join!(talk(&mut ann), talk(&mut bob));
    let (seen_on_a, seen_on_b) = (texts(&mut on_a, 40).await, texts(&mut on_b, 40).await);
    assert_eq!(seen_on_a, seen_on_b);
    // The same words again, by way of the other node.
    let (mut again, _) = enter(&a, "bob", &[]).await;
    let repeated = say(&mut again, "7", "7").await;
    let first =
        seen_on_a.iter().find(|text| text["data"] == json!({"content": "7", "from": "bob", "id": "7"}));
    assert_eq!(first.unwrap()["position"], repeated);
    for socket in [ann, bob, on_a, on_b, again] {
        socket.leave().await;
    }
    a.finish().await;
    b.finish().await;
}
