//! Several nodes over one store: a stream outlives the node that asked for it, and any node stops, shows and resumes it.

use std::sync::Arc;
use std::time::Duration;

use relaystream::store::Store;
use serde_json::{Value, json};

use crate::harness::provider::{Request, chunk};
use crate::harness::shared::Shared;
use crate::harness::sse::text_of;
use crate::harness::{Answer, Event, FakeProvider, Gate, Script, Server, eventually, hi, soon};

const ANSWER: [&str; 6] = ["Grüße ", "aus ", "東京, ", "wo es ", "regnet", "."];

/// Says half of the answer and then waits at the gate; whoever is to go on gets the rest.
async fn provider(gate: &Gate) -> FakeProvider {
    let gate = gate.clone();
    FakeProvider::by(move |_, request| match said(request) {
        None => Script::stream().tokens(&ANSWER[..3]).wait(&gate).tokens(&ANSWER[3..]).finish(),
        Some(said) => {
            let whole = ANSWER.concat();
            Script::answer(&[whole.strip_prefix(&said).expect("byte for byte what was said")])
        }
    })
    .await
}

fn said(request: &Request) -> Option<String> {
    let messages = request.body()["messages"].as_array().expect("messages").clone();
    let begun = messages.iter().find(|message| message["role"] == "assistant")?;
    Some(begun["content"].as_str().expect("text").to_owned())
}

/// Two nodes over one store, before one provider.
struct Pair {
    store: Arc<Shared>,
    a: Server,
    b: Server,
}

impl Pair {
    async fn new(provider: &FakeProvider) -> Pair {
        let (store, config) = (Shared::new(), provider.config());
        let a = Server::node(store.node(0), &config).await;
        let b = Server::node(store.node(1), &config).await;
        Pair { store, a, b }
    }

    async fn finish(self) {
        self.store.let_back(0);
        self.a.finish().await;
        self.b.finish().await;
    }
}

/// The position, which is of this epoch.
fn seq_in(event: &Event, epoch: &str) -> u64 {
    let mut parts = event.id().split('-').skip(1);
    assert_eq!(parts.next(), Some(epoch), "{event:?}");
    parts.next().expect("a seq").parse().expect("a number")
}

#[tokio::test]
async fn another_node_goes_on_where_the_first_was_cut_off() {
    let gate = Gate::default();
    let provider = provider(&gate).await;
    let pair = Pair::new(&provider).await;
    let id = pair.a.start(&hi()).await;
    let mut first = pair.a.sse(&format!("/v1/streams/{id}/events")).await;
    let mut seen = first.until("token").await;
    seen.extend(first.until("token").await);
    let held = seen.last().expect("events").id().to_owned();
    pair.store.cut_off(0);
    let mut resumed =
        pair.b.sse_of(pair.b.get(&format!("/v1/streams/{id}/events")).header("last-event-id", &held)).await;
    seen.extend(resumed.rest().await);
    assert_eq!(text_of(&seen), ANSWER.concat());
    let notice = seen.iter().position(|event| event.event == "notice").expect("a seam");
    assert_eq!(seen[notice].json()["code"], "continued");
    for (n, event) in seen.iter().enumerate() {
        let epoch = if n < notice { "0000" } else { "0001" };
        assert_eq!(seq_in(event, epoch), n as u64 + 1);
    }
    assert_eq!(seen.last().expect("an ending").json()["status"], "completed");
    // The first one is back, and finds that the stream is another's now: nothing it has to say is heard.
    pair.store.let_back(0);
    gate.open();
    let app = pair.a.app.clone();
    eventually("the first node to let go", || app.relay.running_count() == 0).await;
    assert_eq!(pair.a.replay(&id).await, pair.b.replay(&id).await);
    assert_eq!(provider.calls(), 2);
    pair.finish().await;
}

#[tokio::test]
async fn what_had_said_nothing_yet_is_asked_anew() {
    let provider = FakeProvider::by(|n, _| match n {
        0 => Script::silence(),
        _ => Script::answer(&ANSWER),
    })
    .await;
    let pair = Pair::new(&provider).await;
    let id = pair.a.start(&hi()).await;
    provider.request(0).await;
    pair.store.cut_off(0);
    let events = pair.b.replay(&id).await;
    assert_eq!(text_of(&events), ANSWER.concat());
    assert_eq!(events[1].json()["code"], "retried");
    pair.a.app.relay.give_up_all();
    pair.finish().await;
}

#[tokio::test]
async fn calls_of_tools_are_not_gone_on_with_and_end_interrupted() {
    let call = chunk(
        &json!({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]}),
        &Value::Null,
    );
    let provider = FakeProvider::new([Script::stream().send(call).stall()]).await;
    let pair = Pair::new(&provider).await;
    let id = pair.a.start(&hi()).await;
    pair.a.sse(&format!("/v1/streams/{id}/events")).await.until("tool").await;
    pair.store.cut_off(0);
    let events = pair.b.replay(&id).await;
    let done = events.last().expect("an ending").json();
    assert_eq!((&done["status"], &done["error"]["code"]), (&json!("interrupted"), &json!("interrupted")));
    assert_eq!(provider.calls(), 1);
    pair.a.app.relay.give_up_all();
    pair.finish().await;
}

#[tokio::test]
async fn by_policy_what_ran_ends_interrupted_and_its_room_is_told() {
    let gate = Gate::default();
    let provider = provider(&gate).await;
    let (store, config) =
        (Shared::new(), format!("[store]\non_restart = \"interrupt\"\n{}", provider.config()));
    let a = Server::node(store.node(0), &config).await;
    let b = Server::node(store.node(1), &config).await;
    let pair = Pair { store, a, b };
    let mut body = hi();
    body["session"] = "room".into();
    let id = pair.a.start(&body).await;
    let mut viewer = pair.b.sse(&format!("/v1/streams/{id}/events")).await;
    let mut seen = viewer.until("token").await;
    pair.store.cut_off(0);
    seen.extend(viewer.rest().await);
    let done = seen.last().expect("an ending");
    assert_eq!((&done.json()["status"], seq_in(done, "0001")), (&json!("interrupted"), seen.len() as u64));
    let quiet = async {
        while pair.b.json("/v1/sessions/room").await["streams_running"] != 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the room to be told", quiet).await;
    assert_eq!(provider.calls(), 1);
    gate.open();
    pair.finish().await;
}

#[tokio::test]
async fn any_node_stops_a_stream() {
    let gate = Gate::default();
    let provider = provider(&gate).await;
    let pair = Pair::new(&provider).await;
    let id = pair.a.start(&hi()).await;
    pair.a.sse(&format!("/v1/streams/{id}/events")).await.until("token").await;
    let stopped = pair.b.cancel(&id).await;
    assert_eq!(stopped["status"], "cancelled");
    provider.abandoned(0).await;
    assert_eq!(pair.a.ended(&id).await["status"], "cancelled");
    pair.finish().await;
}

#[tokio::test]
async fn who_looks_on_another_node_keeps_a_stream_alive_until_it_leaves() {
    let gate = Gate::default();
    let provider = provider(&gate).await;
    let pair = Pair::new(&provider).await;
    let mut body = hi();
    body["on_disconnect"] = "grace:2".into();
    let id = pair.a.start(&body).await;
    let path = format!("/v1/streams/{id}/events");
    let mut here = pair.a.sse(&path).await;
    let mut there = pair.b.sse(&path).await;
    here.until("token").await;
    there.until("token").await;
    drop(here);
    // Longer than the grace.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(pair.b.json(&format!("/v1/streams/{id}")).await["status"], "running");
    drop(there);
    let ended = soon("the stream to be abandoned", pair.b.ended(&id)).await;
    assert_eq!((&ended["status"], provider.calls()), (&json!("cancelled"), 1));
    pair.finish().await;
}

#[tokio::test]
async fn who_cannot_be_heard_for_a_moment_is_not_taken_for_gone() {
    let gate = Gate::default();
    let provider = provider(&gate).await;
    let pair = Pair::new(&provider).await;
    let mut signals = pair.store.node(1).subscribe("streams").await.unwrap();
    let mut body = hi();
    body["on_disconnect"] = "cancel".into();
    let id = pair.a.start(&body).await;
    let path = format!("/v1/streams/{id}/events");
    let here = pair.a.sse(&path).await;
    let mut there = pair.b.sse(&path).await;
    // Once it is said again the first time was heard.
    for _ in 0..2 {
        let looking = async { while !said_to_look(&signals.recv().await.unwrap(), &id) {} };
        soon("a node to say that it looks", looking).await;
    }
    drop(here);
    pair.store.mute(0);
    let other = pair.b.start(&hi()).await;
    let mut news = pair.a.sse(&format!("/v1/streams/{other}/events")).await;
    eventually("node A to try", || pair.store.unheard(0) > 2).await;
    pair.store.unmute(0);
    gate.open();
    gate.open();
    assert_eq!(there.rest().await.last().expect("an ending").json()["status"], "completed");
    news.rest().await;
    pair.finish().await;
}

fn said_to_look(message: &[u8], id: &str) -> bool {
    let message: Value = serde_json::from_slice(message).expect("JSON");
    let streams = message["looking"]["streams"].as_array();
    streams.is_some_and(|streams| streams.iter().any(|stream| stream == id))
}

#[tokio::test]
async fn a_session_is_one_on_all_nodes() {
    let gate = Gate::default();
    let provider = provider(&gate).await;
    let pair = Pair::new(&provider).await;
    let mut body = hi();
    body["session"] = "room".into();
    let one = pair.a.start(&body).await;
    let mut mirror = pair.b.sse("/v1/sessions/room/events").await;
    mirror.until("token").await;
    let two = pair.b.start(&body).await;
    let room = pair.a.json("/v1/sessions/room").await;
    let streams = json!([{"n": 1, "stream": one, "running": true}, {"n": 2, "stream": two, "running": true}]);
    assert_eq!(room["streams"], streams);
    assert_eq!(pair.b.json("/v1/sessions").await["sessions"][0]["room"], room["room"]);
    // The node of the first one is gone: what it would have told the room is told by the other.
    pair.store.cut_off(0);
    gate.open();
    gate.open();
    let mut ended = std::collections::BTreeSet::new();
    while ended.len() < 2 {
        let done = mirror.until("done").await.pop().expect("an ending").json();
        assert_eq!(done["status"], "completed", "{done}");
        ended.insert(done["stream"].as_str().expect("a stream").to_owned());
    }
    assert_eq!(ended, [one, two].into());
    let quiet = async {
        while pair.b.json("/v1/sessions/room").await["streams_running"] != 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the room to be told", quiet).await;
    drop(mirror);
    pair.store.let_back(0);
    assert_eq!(pair.a.send(pair.a.delete("/v1/sessions/room")).await.status(), 204);
    assert_eq!(pair.b.send(pair.b.get("/v1/sessions/room")).await.status(), 404);
    pair.finish().await;
}

#[tokio::test]
async fn a_key_counts_on_all_nodes_and_after_a_takeover() {
    let gate = Gate::default();
    let provider = provider(&gate).await;
    let pair = Pair::new(&provider).await;
    let start = |server: &Server| server.post("/v1/streams", &hi()).header("idempotency-key", "k");
    let first = Answer::of(pair.a.send(start(&pair.a)).await).await;
    let again = Answer::of(pair.b.send(start(&pair.b)).await).await;
    assert_eq!((first.status, again.status), (201, 200));
    assert_eq!(first.json()["id"], again.json()["id"]);
    let id = first.json()["id"].as_str().expect("an id").to_owned();
    pair.b.sse(&format!("/v1/streams/{id}/events")).await.until("token").await;
    pair.store.cut_off(0);
    pair.b.replay(&id).await;
    let later = Answer::of(pair.b.send(start(&pair.b)).await).await;
    assert_eq!((later.status, later.header("idempotent-replayed")), (200, "true"));
    assert_eq!(later.json()["id"], id.as_str());
    gate.open();
    pair.finish().await;
}

#[tokio::test]
async fn a_start_that_broke_off_and_was_taken_over_is_not_taken_back() {
    let provider = FakeProvider::new([Script::answer(&ANSWER)]).await;
    let Pair { store, a, b } = Pair::new(&provider).await;
    let start = |server: &Server| server.post("/v1/streams", &hi()).header("idempotency-key", "k");
    store.cut_off_after_create(0);
    assert_eq!(a.send(start(&a)).await.status(), 503);
    // The other node goes on with it, and at the end its key leads to it.
    let seen = store.node(1);
    let held = async {
        while seen.list("idempotency/").await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the key to be held", held).await;
    let again = async || Answer::of(b.send(start(&b)).await).await;
    let id = again().await.json()["id"].as_str().expect("an id").to_owned();
    store.let_back(0);
    // Whatever it had left to do is done.
    a.finish().await;
    assert_eq!(text_of(&b.replay(&id).await), ANSWER.concat());
    assert_eq!((again().await.json()["id"].as_str(), provider.calls()), (Some(id.as_str()), 1));
    b.finish().await;
}

#[tokio::test]
async fn a_node_that_goes_leaves_its_streams_to_the_others() {
    let gate = Gate::default();
    let provider = provider(&gate).await;
    let pair = Pair::new(&provider).await;
    let id = pair.a.start(&hi()).await;
    let mut viewer = pair.b.sse(&format!("/v1/streams/{id}/events")).await;
    let mut seen = viewer.until("token").await;
    pair.a.app.drain(Duration::ZERO).await;
    seen.extend(viewer.rest().await);
    assert_eq!(text_of(&seen), ANSWER.concat());
    assert_eq!(seen.last().expect("an ending").json()["status"], "completed");
    pair.finish().await;
}

#[tokio::test]
async fn limits_of_a_user_hold_for_all_nodes_together() {
    let gate = Gate::default();
    let held = gate.clone();
    let provider = FakeProvider::by(move |n, _| match n {
        0 | 1 => Script::stream().tokens(&ANSWER[..3]).wait(&held).tokens(&ANSWER[3..]).finish(),
        // As dear as the day's budget.
        _ => {
            let usage = json!({"choices": [], "usage": {"prompt_tokens": 900, "completion_tokens": 400}});
            Script::stream().token("Hi").send(format!("data: {usage}\n\n")).finish()
        }
    })
    .await;
    let limits = "[limits]\nrunning_streams_per_user = 2\ntokens_per_day = 1000\n";
    let (store, config) = (Shared::new(), format!("{limits}{}", provider.config()));
    let a = Server::node(store.node(0), &config).await;
    let b = Server::node(store.node(1), &config).await;
    let pair = Pair { store, a, b };
    let (one, two) = (pair.a.start(&hi()).await, pair.b.start(&hi()).await);
    let third = Answer::of(pair.b.send(pair.b.post("/v1/streams", &hi())).await).await;
    assert_eq!((third.status, third.code().as_str()), (429, "too_many_streams"));
    gate.open();
    gate.open();
    pair.a.ended(&one).await;
    pair.b.ended(&two).await;
    let free = async {
        while !pair.store.node(2).list("running/").await.expect("reachable").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the streams to count no more", free).await;
    let dear = pair.a.start(&hi()).await;
    pair.a.ended(&dear).await;
    let refused = async {
        loop {
            let answer = Answer::of(pair.b.send(pair.b.post("/v1/streams", &hi())).await).await;
            if answer.status == 429 {
                return answer;
            }
            // The first node has yet to tell.
            pair.b.cancel(answer.json()["id"].as_str().expect("an id")).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(soon("the budget to be spent on both nodes", refused).await.code(), "budget_exceeded");
    pair.finish().await;
}

#[tokio::test]
async fn a_node_without_its_store_says_so() {
    let provider = FakeProvider::new([Script::answer(&ANSWER)]).await;
    let pair = Pair::new(&provider).await;
    let id = pair.a.start(&hi()).await;
    pair.a.ended(&id).await;
    let ready = async |status: u16| {
        let answer = Answer::of(pair.a.send(pair.a.get("/readyz")).await).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        answer.json()
    };
    let before = ready(200).await;
    assert_eq!((&before["status"], &before["checks"]["store"]["ok"]), (&json!("ready"), &json!(true)));
    pair.store.cut_off(0);
    let cut_off = ready(503).await;
    assert_eq!(
        (&cut_off["status"], &cut_off["checks"]["store"]["code"]),
        (&json!("store_unavailable"), &json!("store_unavailable"))
    );
    assert_eq!(pair.a.send(pair.a.get("/healthz")).await.status(), 200);
    let refused = Answer::of(pair.a.send(pair.a.post("/v1/streams", &hi())).await).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "store_unavailable"));
    pair.store.let_back(0);
    ready(200).await;
    assert_eq!(text_of(&pair.a.replay(&id).await), ANSWER.concat());
    pair.finish().await;
}
