//! Sessions: a list, a snapshot, and the mirror over SSE.

use std::collections::BTreeMap;
use std::sync::Arc;

use relaystream::hub::catchup::CatchUp;
use relaystream::hub::mirror::Snapshot;
use relaystream::log::Position;
use relaystream::room::Vector;
use serde_json::{Value, json};

use crate::harness::{Answer, Event, FakeProvider, Gate, Script, Server, Sse, eventually};
use crate::heard::blocks;

fn ask(session: &str) -> Value {
    json!({"model": "fake-1", "input": "Hi", "session": session})
}

/// The text of each stream that a mirror showed.
fn texts(events: &[Event]) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::<String, String>::new();
    for event in events.iter().filter(|event| event.event == "token") {
        let data = event.json();
        let stream = data["stream"].as_str().unwrap().to_owned();
        texts.entry(stream).or_default().push_str(data["text"].as_str().unwrap());
    }
    texts
}

/// Reads until that many streams have ended.
async fn until_done(mirror: &mut Sse, endings: usize) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..endings {
        events.extend(mirror.until("done").await);
    }
    events
}

#[tokio::test]
async fn a_session_lists_its_streams_in_order() {
    let provider = FakeProvider::new([Script::answer(&["one"]), Script::stream().token("two").stall()]).await;
    let server = Server::before(&provider, "").await;
    let first = server.start(&ask("room-1")).await;
    server.ended(&first).await;
    let second = server.start(&ask("room-1")).await;
    let session = server.json("/v1/sessions/room-1").await;
    assert_eq!(
        (&session["session"], &session["owner"], &session["role"]),
        (&json!("room-1"), &json!("local"), &json!("owner"))
    );
    assert_eq!(
        session["streams"],
        json!([{"n": 1, "stream": first, "running": false}, {"n": 2, "stream": second, "running": true}])
    );
    assert_eq!(session["streams_running"], 1);
    assert_eq!(session["links"]["events"], "/v1/sessions/room-1/events");
    let list = server.json("/v1/sessions").await;
    assert_eq!(list["sessions"][0]["session"], "room-1");
    server.cancel(&second).await;
    server.finish().await;
}

#[tokio::test]
async fn the_mirror_shows_every_stream_to_early_and_late_viewers_alike() {
    let gate = Gate::default();
    let script = |word: &str| Script::stream().token(word).wait(&gate).token("!").finish();
    let provider = FakeProvider::new([script("one"), script("two")]).await;
    let server = Server::before(&provider, "").await;
    let mut early = server.sse("/v1/sessions/room-1/events").await;
    let first = server.start(&ask("room-1")).await;
    early.until("token").await;
    let second = server.start(&ask("room-1")).await;
    let before = early.until("token").await;
    let mut late = server.sse("/v1/sessions/room-1/events").await;
    let mut shown = late.until("token").await;
    shown.extend(late.until("token").await);
    assert_eq!(
        texts(&shown),
        BTreeMap::from([(first.clone(), "one".into()), (second.clone(), "two".into())])
    );
    gate.open();
    gate.open();
    let mut early_events = before;
    early_events.extend(until_done(&mut early, 2).await);
    shown.extend(until_done(&mut late, 2).await);
    assert_eq!(
        texts(&shown),
        BTreeMap::from([(first.clone(), "one!".into()), (second.clone(), "two!".into())])
    );
    assert!(shown.iter().all(|event| event.json()["stream"].is_string()));
    let starts: Vec<_> = shown
        .iter()
        .filter(|event| event.event == "start")
        .map(|event| event.json()["stream"].clone())
        .collect();
    assert_eq!(starts, [json!(first), json!(second)]);
    drop((early, late));
    server.finish().await;
}

#[tokio::test]
async fn every_id_of_the_mirror_resumes_all_its_streams() {
    let gate = Gate::default();
    let script = |words: [&str; 2]| Script::stream().token(words[0]).wait(&gate).token(words[1]).finish();
    let provider = FakeProvider::new([script(["a", "b"]), script(["c", "d"])]).await;
    let server = Server::before(&provider, "").await;
    let path = "/v1/sessions/room-1/events";
    let mut viewer = server.sse(path).await;
    let first = server.start(&ask("room-1")).await;
    let mut all = viewer.until("token").await;
    let second = server.start(&ask("room-1")).await;
    all.extend(viewer.until("token").await);
    gate.open();
    gate.open();
    all.extend(until_done(&mut viewer, 2).await);
    drop(viewer);
    let expected = BTreeMap::from([(first.clone(), "ab".to_owned()), (second.clone(), "cd".to_owned())]);
    assert_eq!(texts(&all), expected);
    for cut in 0..all.len() {
        let (mut events, id) = (all[..=cut].to_vec(), all[cut].id());
        let missing = all[cut + 1..].iter().filter(|event| event.event == "done").count();
        let mut again = server.sse_of(server.get(path).header("last-event-id", id)).await;
        events.extend(until_done(&mut again, missing).await);
        assert_eq!(texts(&events), expected, "cut after {id}");
        let mut seen = std::collections::HashSet::new();
        let key = |event: &Event| (event.event.clone(), event.data.clone());
        assert!(
            events.iter().filter(|event| event.event != "token").all(|event| seen.insert(key(event))),
            "cut after {id}"
        );
    }
    server.finish().await;
}

#[tokio::test]
async fn no_id_leaves_out_a_stream_that_the_room_has_closed_and_whose_end_is_still_to_come() {
    let gate = Gate::default();
    let script = |word: &str| Script::stream().token(word).wait(&gate).token("!").finish();
    let provider = FakeProvider::new([script("one"), script("two"), script("three")]).await;
    let server = Server::before(&provider, "").await;
    let mut viewer = server.sse("/v1/sessions/room-1/events").await;
    for _ in 0..3 {
        server.start(&ask("room-1")).await;
        viewer.until("token").await;
    }
    let session = server.app.hub.get("local", "room-1").await.unwrap().expect("the session");
    let mirror = server.app.hub.mirror(&session).await.unwrap();
    let before = mirror.snapshot();
    for _ in 0..3 {
        gate.open();
    }
    eventually("the mirror to come to all ends", || mirror.is_quiet()).await;
    let after = mirror.snapshot();
    // The room is told of all ends; the mirror has come to that of the second stream only.
    let (mut streams, mut tails) = (before.vector.streams, before.tails);
    assert!(streams.remove(&2).is_some() && tails.remove(&2).is_some());
    let vector = Vector { room: after.vector.room, streams };
    let moment = Snapshot { next: 0, vector, room: after.room.clone(), tails };
    let mut missed = CatchUp::new(&server.app.relay, session.log, None, &moment).await.unwrap();
    let mut ids = 0;
    while let Some(slice) = missed.next_slice() {
        for id in blocks(&slice).into_iter().filter_map(|block| block.id) {
            let (_, held) = Vector::parse(&id).unwrap();
            for n in [1, 3] {
                assert!(
                    after.room.resume(&held, n).is_some(),
                    "{id} says that stream {n} was seen to its end"
                );
            }
            ids += 1;
        }
    }
    assert!(ids > 3);
    drop((viewer, mirror, moment, missed));
    server.finish().await;
}

#[tokio::test]
async fn a_mirror_that_has_ended_takes_in_nobody_who_has_seen_more() {
    let provider = FakeProvider::new([Script::answer(&["one"])]).await;
    let server = Server::before(&provider, "").await;
    server.ended(&server.start(&ask("room-1")).await).await;
    let session = server.app.hub.get("local", "room-1").await.unwrap().expect("the session");
    let mirror = server.app.hub.mirror(&session).await.unwrap();
    let seen = mirror.snapshot().vector;
    let more = Vector { room: Position::new(seen.room.epoch, seen.room.seq + 100), ..seen.clone() };
    server.app.relay.store.remove(session.log).await.unwrap();
    eventually("the mirror to end", || mirror.is_over()).await;
    assert!(mirror.snapshot_from(&seen).await.is_ok());
    assert!(mirror.snapshot_from(&more).await.is_err());
    let another = server.app.hub.mirror(&session).await.unwrap();
    assert!(!Arc::ptr_eq(&mirror, &another), "one that has ended is nobody's mirror any more");
    drop((mirror, another));
    server.finish().await;
}

#[tokio::test]
async fn a_returning_viewer_gets_what_it_missed_while_streams_still_run() {
    let gate = Gate::default();
    let script = Script::stream().token("a").wait(&gate).token("b").wait(&gate).token("c").stall();
    let provider = FakeProvider::new([script]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&ask("room-1")).await;
    let mut viewer = server.sse("/v1/sessions/room-1/events").await;
    let last = viewer.until("token").await.pop().unwrap();
    let composite = last.id().to_owned();
    assert!(composite.contains("~1.0.2"), "{composite}");
    drop(viewer);
    gate.open();
    let mut direct = server.sse(&format!("/v1/streams/{id}/events")).await;
    direct.until("token").await;
    direct.expect("token").await;
    let mut again = server.sse_of(server.get(&format!("/v1/sessions/room-1/events?after={composite}"))).await;
    assert_eq!(again.expect("token").await.json()["text"], "b");
    gate.open();
    assert_eq!(again.expect("token").await.json()["text"], "c");
    server.cancel(&id).await;
    again.expect("done").await;
    drop((again, direct));
    server.finish().await;
}

#[tokio::test]
async fn bad_positions_of_a_mirror_are_named() {
    let provider = FakeProvider::new([Script::answer(&["one"]), Script::answer(&["two"])]).await;
    let server = Server::before(&provider, "").await;
    let first = server.start(&ask("room-1")).await;
    server.ended(&first).await;
    let second = server.start(&ask("room-1")).await;
    server.ended(&second).await;
    let room = server.json("/v1/sessions/room-1").await["room"].as_str().unwrap().to_owned();
    let other = server.start(&ask("room-2")).await;
    server.ended(&other).await;
    let foreign = server.json("/v1/sessions/room-2").await["position"].as_str().unwrap().to_owned();
    let path = "/v1/sessions/room-1/events";
    for (position, reset) in [
        ("nonsense".to_owned(), json!({"reason": "unknown"})),
        (format!("{room}-0000-0000000001~x"), json!({"reason": "unknown"})),
        (foreign, json!({"reason": "foreign"})),
        (format!("{room}-0000-0000000099"), json!({"reason": "ahead"})),
        (format!("{room}-0000-0000000001~1.0.99"), json!({"reason": "ahead", "stream": first})),
    ] {
        let mut viewer = server.sse_of(server.get(&format!("{path}?after={position}"))).await;
        let word = viewer.expect("reset").await;
        assert_eq!((word.json(), word.id), (reset, None), "{position}");
        let events = until_done(&mut viewer, 2).await;
        assert_eq!(texts(&events).len(), 2, "{position}");
    }
    server.finish().await;
}

#[tokio::test]
async fn a_position_in_a_stream_that_is_forgotten_is_expired() {
    let provider = FakeProvider::new([Script::answer(&["one"]), Script::answer(&["two"])]).await;
    let server = Server::before(&provider, "").await;
    let first = server.start(&ask("room-1")).await;
    let mut viewer = server.sse("/v1/sessions/room-1/events").await;
    let position = viewer.until("token").await.pop().unwrap().id().to_owned();
    viewer.until("done").await;
    drop(viewer);
    let second = server.start(&ask("room-1")).await;
    server.ended(&second).await;
    assert_eq!(server.send(server.delete(&format!("/v1/streams/{first}"))).await.status(), 204);
    for _ in 0..2 {
        let mut again =
            server.sse_of(server.get(&format!("/v1/sessions/room-1/events?after={position}"))).await;
        assert_eq!(again.expect("reset").await.json()["reason"], "expired");
        assert_eq!(texts(&again.until("done").await), BTreeMap::from([(second.clone(), "two".into())]));
        // Housekeeping forgets its number, which changes nothing.
        server.app.sweep().await;
    }
    server.finish().await;
}

#[tokio::test]
async fn a_forgotten_session_is_not_found_and_its_viewers_end() {
    let provider = FakeProvider::new([Script::stream().token("one").stall()]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&ask("room-1")).await;
    let mut viewer = server.sse("/v1/sessions/room-1/events").await;
    viewer.until("token").await;
    assert_eq!(server.send(server.delete("/v1/sessions/room-1")).await.status(), 204);
    viewer.rest().await;
    provider.abandoned(0).await;
    for path in ["/v1/sessions/room-1".to_owned(), format!("/v1/streams/{id}")] {
        let answer = Answer::of(server.send(server.get(&path)).await).await;
        assert_eq!(answer.status, 404, "{path}");
    }
    server.finish().await;
}
