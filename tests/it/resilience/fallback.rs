//! Before the first word: other targets in order or by weight, one deadline for all, early errors in band.

use std::time::Duration;

use relaystream::config::{Config, Environment};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{PLAIN, ask, assert_gapless, done, model, notices, replay};
use crate::harness::provider::{chunk, closing, frame, nobody, usage};
use crate::harness::sse::{text_of, types};
use crate::harness::{Answer, FakeProvider, Gate, Script, Server, chat, soon};
use crate::seed::Seed;

fn named(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(code, provider)| ((*code).to_owned(), (*provider).to_owned())).collect()
}

fn boom(status: u16) -> Script {
    Script::json(status, &json!({"error": {"message": "boom"}}))
}

#[tokio::test]
async fn targets_are_asked_in_order_until_one_answers() {
    let refuses = FakeProvider::new([boom(500)]).await;
    let answers = FakeProvider::new([Script::answer(&["Hel", "lo"])]).await;
    let nobody = nobody();
    let config = format!(
        "[models.m]\ntargets = [{}]\n{PLAIN}\n{}{}[providers.gone]\ndialect = \"openai-chat\"\nbase_url = \"http://{}/v1\"\n",
        ["a", "gone", "c"].map(|name| format!("{{ provider = \"{name}\", model = \"x\" }}")).join(", "),
        refuses.named("a"),
        answers.named("c"),
        nobody.address,
    );
    let server = Server::new(&config).await;
    let events = replay(&server, &ask()).await;
    assert_eq!(types(&events), ["start", "notice", "notice", "token", "token", "usage", "done"]);
    assert_eq!(notices(&events), named(&[("fallback", "gone"), ("fallback", "c")]));
    assert_eq!((&events[0].json()["provider"], text_of(&events).as_str()), (&json!("a"), "Hello"));
    assert_eq!(done(&events)["status"], "completed");
    assert_gapless(&events, "fallback");
    assert_eq!(server.metric("relaystream_seams_total{code=\"fallback\"}"), 2.0);
    assert_eq!(answers.request(0).await.body()["model"], "x");
    server.finish().await;
}

#[tokio::test]
async fn what_the_first_target_never_said_is_not_seen_and_the_next_one_is_forwarded_as_it_is() {
    let role = || Script::stream().send(chunk(&json!({"role": "assistant", "content": ""}), &Value::Null));
    let error = "data: {\"error\":{\"message\":\"overloaded\"}}\n\n";
    let body = format!("{}{}", frame("Hello"), closing());
    for first in [
        role().send(error).end(),
        role().send(usage()).send(error).end(),
        role().send(usage()).cut(),
        role().reset(),
        role().send("data: {oops}\n\n").stall(),
        boom(529),
        boom(404),
        boom(401),
    ] {
        let early = FakeProvider::new([first]).await;
        let next = FakeProvider::new([Script::stream().send(&body).end()]).await;
        let server = Server::new(&model(&[("a", &early), ("b", &next)], PLAIN)).await;
        let mut chat = chat();
        chat["model"] = "m".into();
        chat["stream_options"] = json!({"include_usage": true});
        let mut viewer = server.sse_of(server.post("/v1/chat/completions?ids=0", &chat)).await;
        viewer.rest().await;
        assert_eq!(viewer.text(), body);
        assert_eq!((early.calls(), next.calls()), (1, 1));
        server.finish().await;
    }
}

#[tokio::test]
async fn a_target_is_asked_as_often_as_it_may_before_the_next_one() {
    let (first, next) =
        (FakeProvider::new([boom(503)]).await, FakeProvider::new([boom(503), Script::answer(&["x"])]).await);
    let settings = "retry = { attempts = 2, base_ms = 1, max_ms = 5 }";
    let server = Server::new(&model(&[("a", &first), ("b", &next)], settings)).await;
    let events = replay(&server, &ask()).await;
    assert_eq!(notices(&events), named(&[("retried", "a"), ("fallback", "b"), ("retried", "b")]));
    assert_eq!((first.calls(), next.calls()), (2, 2));
    server.finish().await;
}

#[tokio::test]
async fn a_clients_own_mistake_is_told_and_not_passed_on() {
    for status in [400, 413, 422] {
        let (first, next) =
            (FakeProvider::new([boom(status)]).await, FakeProvider::new([Script::answer(&["x"])]).await);
        let server = Server::new(&model(&[("a", &first), ("b", &next)], PLAIN)).await;
        let mut chat = chat();
        chat["model"] = "m".into();
        let answer = Answer::of(server.send(server.post("/v1/chat/completions", &chat)).await).await;
        assert_eq!((answer.status, next.calls()), (status, 0));
        server.finish().await;
    }
}

#[tokio::test]
async fn the_last_refusal_is_the_answer_when_nobody_is_left() {
    let (first, next) = (FakeProvider::new([boom(500)]).await, FakeProvider::new([boom(529)]).await);
    let server = Server::new(&model(&[("a", &first), ("b", &next)], PLAIN)).await;
    let mut chat = chat();
    chat["model"] = "m".into();
    let answer = Answer::of(server.send(server.post("/v1/chat/completions", &chat)).await).await;
    assert_eq!((answer.status, answer.header("x-should-retry")), (529, "false"));
    server.finish().await;
}

#[tokio::test]
async fn a_target_that_wants_us_gone_for_long_makes_room_for_the_next() {
    let first = FakeProvider::new([Script::status(429, &[("retry-after", "3600")], "{}")]).await;
    let next = FakeProvider::new([Script::answer(&["x"])]).await;
    let settings = "retry = { attempts = 3, base_ms = 1, max_ms = 5000 }";
    let server = Server::new(&model(&[("a", &first), ("b", &next)], settings)).await;
    let id = server.start(&ask()).await;
    assert_eq!(soon("no wait for an hour", server.ended(&id)).await["text"], "x");
    assert_eq!(first.calls(), 1);
    server.finish().await;
}

#[tokio::test]
async fn all_attempts_share_one_deadline() {
    let silent = || async { FakeProvider::new([Script::silence()]).await };
    let (first, next) = (silent().await, silent().await);
    let settings = "timeouts = { first_token_ms = 300, total_ms = 500 }\nretry = { attempts = 1 }";
    let server = Server::new(&model(&[("a", &first), ("b", &next)], settings)).await;
    let began = Instant::now();
    let events = replay(&server, &ask()).await;
    assert_eq!(done(&events)["error"]["code"], "total_timeout");
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert_eq!((first.calls(), next.calls()), (1, 1));
    // Nor is there a wait that would go beyond it.
    let busy = FakeProvider::new([Script::status(429, &[("retry-after", "3")], "{}")]).await;
    let settings = "timeouts = { total_ms = 1000 }\nretry = { attempts = 3, base_ms = 1, max_ms = 8000 }";
    let other = Server::new(&model(&[("a", &busy)], settings)).await;
    let events = replay(&other, &ask()).await;
    assert_eq!((&done(&events)["error"]["code"], busy.calls()), (&json!("upstream_status"), 1));
    other.finish().await;
    server.finish().await;
}

/// What came before the first word is out after a second. Nothing was said yet: that can still be asked for anew.
#[tokio::test]
async fn what_is_held_back_goes_out_in_time_and_does_not_tie_us_to_its_target() {
    let gate = Gate::default();
    let first = FakeProvider::new([Script::stream().send(usage()).wait(&gate).cut()]).await;
    let next = FakeProvider::new([Script::answer(&["Hel", "lo"])]).await;
    let server = Server::new(&model(&[("a", &first), ("b", &next)], PLAIN)).await;
    let id = server.start(&ask()).await;
    let mut viewer = server.sse(&format!("/v1/streams/{id}/events")).await;
    viewer.expect("start").await;
    viewer.expect("usage").await;
    gate.open();
    let rest = viewer.rest().await;
    assert_eq!(types(&rest), ["notice", "token", "token", "usage", "done"]);
    assert_eq!((notices(&rest), text_of(&rest)), (named(&[("fallback", "b")]), "Hello".into()));
    assert_gapless(&server.replay(&id).await, "held");
    assert!(server.metric("relaystream_first_frame_held_seconds_sum") >= 1.0);
    server.finish().await;
}

#[test]
fn load_is_shared_by_weight_and_the_rest_stands_behind() {
    let text = "[models.m]\ntargets = [{ provider = \"demo\", model = \"last\" }, { provider = \"demo\", model = \"one\", weight = 1 }, \
                { provider = \"demo\", model = \"three\", weight = 3 }, { provider = \"demo\", model = \"none\", weight = 0 }]\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let routes = Config::load(Some(file.path()), &Environment::new()).unwrap().routes(&Environment::new());
    let route = routes.unwrap().resolve("m", None).unwrap();
    let seed = Seed::of_this_run();
    let mut random = seed.random();
    let (mut three, mut none) = (0, 0);
    for _ in 0..4000 {
        let mut route = route.clone();
        route.draw(|| random.below(1 << 20) as f64 / f64::from(1 << 20));
        let order: Vec<_> = route.targets.iter().map(|target| target.model.as_str()).collect();
        assert_eq!(order[3], "last", "{order:?}");
        three += u32::from(order[0] == "three");
        none += u32::from(order[0] == "none");
    }
    assert!((2850..3150).contains(&three), "three quarters, not {three} of 4000");
    assert_eq!(none, 0);
}

/// The guide's example, with providers that break off and go on.
#[tokio::test]
async fn the_guides_example_does_what_the_guide_says() {
    let guide = include_str!("../../../docs/fallbacks.md");
    let example =
        guide.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let refused = Script::status(401, &[], "{}");
    let cut = Script::stream().tokens(&["The sky", " is"]).cut();
    let openai = FakeProvider::new([cut, refused, boom(500)]).await;
    let openrouter = FakeProvider::new([Script::answer(&[" blue."])]).await;
    let config = example
        .replace("https://api.openai.com/v1", &openai.base_url())
        .replace("https://openrouter.ai/api/v1", &openrouter.base_url());
    let keys = [("OPENAI_API_KEY", "k1"), ("OPENAI_SPARE_KEY", "k2"), ("OPENROUTER_API_KEY", "k3")];
    let server = Server::with(&config, &keys).await;
    let events = replay(&server, &json!({"model": "assistant", "input": "Hi"})).await;
    assert_eq!(
        (text_of(&events).as_str(), &done(&events)["status"]),
        ("The sky is blue.", &json!("completed"))
    );
    let seams = [("continued", "openai"), ("continued", "openai"), ("continued", "openrouter")];
    assert_eq!(notices(&events), named(&seams));
    assert_eq!(openai.request(2).await.header("authorization"), "Bearer k2");
    assert_eq!(openrouter.request(0).await.body()["model"], "openai/gpt-4.1-mini");
    assert_gapless(&events, "the guide");
    server.finish().await;
}
