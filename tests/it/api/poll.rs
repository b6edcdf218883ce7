//! The same events for clients that cannot stream.

use serde_json::{Value, json};

use crate::harness::{Answer, FakeProvider, Gate, Script, Server, hi, soon};

fn kinds(answer: &Value) -> Vec<&str> {
    answer["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn polls_add_up_to_the_log() {
    let gate = Gate::default();
    let script = Script::stream().token("one").wait(&gate).token(" two").wait(&gate).finish();
    let provider = FakeProvider::new([script]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let (mut events, mut after) = (Vec::new(), String::new());
    loop {
        let answer = server.json(&format!("/v1/streams/{id}/poll?after={after}")).await;
        after = answer["position"].as_str().unwrap().to_owned();
        let new = answer["events"].as_array().unwrap();
        assert!(!new.is_empty(), "a long poll ended without news");
        assert_eq!(new.last().unwrap()["id"], after.as_str());
        events.extend(new.clone());
        if answer["status"] != "running" {
            assert_eq!(answer["status"], "completed");
            break;
        }
        gate.open();
    }
    let replay = server.replay(&id).await;
    let expected: Vec<Value> = replay
        .iter()
        .map(|event| json!({"id": event.id(), "type": event.event, "data": event.json()}))
        .collect();
    assert_eq!(events, expected);
    server.finish().await;
}

#[tokio::test]
async fn no_wait_answers_at_once_and_a_long_wait_is_woken_by_a_token() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::stream().wait(&gate).token("one").stall()]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    provider.request(0).await;
    let first = server.json(&format!("/v1/streams/{id}/poll?wait=0")).await;
    assert_eq!((kinds(&first), &first["status"]), (vec!["start"], &json!("running")));
    let position = first["position"].as_str().unwrap();
    let none = server.json(&format!("/v1/streams/{id}/poll?wait=0&after={position}")).await;
    assert_eq!((kinds(&none), &none["position"]), (vec![], &json!(position)));
    let path = format!("/v1/streams/{id}/poll?wait=60&after={position}");
    let (waiting, ()) = tokio::join!(server.json(&path), async {
        let name = "relaystream_viewers{transport=\"poll\"}";
        crate::harness::eventually("the poll to wait", || server.metric(name) > 0.0).await;
        gate.open();
    });
    assert_eq!(kinds(&waiting), ["token"]);
    // The header counts here too.
    let request = server.get(&format!("/v1/streams/{id}/poll?wait=0")).header("last-event-id", position);
    let answer = Answer::of(server.send(request).await).await.json();
    assert_eq!(kinds(&answer), ["token"]);
    server.cancel(&id).await;
    server.finish().await;
}

#[tokio::test]
async fn the_end_of_an_ended_stream_has_no_events_and_no_wait() {
    let provider = FakeProvider::new([Script::answer(&["one"])]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let position = server.ended(&id).await["position"].as_str().unwrap().to_owned();
    let answer =
        soon("the end", server.json(&format!("/v1/streams/{id}/poll?wait=60&after={position}"))).await;
    assert_eq!(answer, json!({"events": [], "position": position, "status": "completed"}));
    server.finish().await;
}

#[tokio::test]
async fn a_bad_position_gets_reset_and_the_replay_in_one_answer() {
    let provider = FakeProvider::new([Script::answer(&["one"])]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    server.ended(&id).await;
    for (position, reason) in [("nonsense".to_owned(), "unknown"), (format!("{id}-0000-0000000099"), "ahead")]
    {
        let answer = server.json(&format!("/v1/streams/{id}/poll?after={position}")).await;
        assert_eq!(answer["events"][0], json!({"id": null, "type": "reset", "data": {"reason": reason}}));
        assert_eq!(kinds(&answer), ["reset", "start", "token", "usage", "done"]);
        assert_eq!(answer["status"], "completed");
    }
    server.finish().await;
}

#[tokio::test]
async fn a_wait_must_be_a_number_of_seconds_up_to_60() {
    let provider = FakeProvider::new([Script::answer(&["one"])]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    server.ended(&id).await;
    for wait in ["61", "-1", "x", "1.5"] {
        let answer = server.send(server.get(&format!("/v1/streams/{id}/poll?wait={wait}"))).await;
        let answer = Answer::of(answer).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, "invalid"), "{wait}");
        assert_eq!(answer.json()["error"]["param"], "wait");
    }
    server.finish().await;
}
