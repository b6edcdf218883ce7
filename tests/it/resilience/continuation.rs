//! After the first word: the same stream goes on under the same ids, and its text is that of an answer never cut.

use serde_json::{Value, json};

use super::{PLAIN, ask, assert_gapless, before, done, model, notices, replay};
use crate::harness::provider::{Request, chunk, closing, frame, usage};
use crate::harness::sse::text_of;
use crate::harness::{FakeProvider, Script, Server};

/// As tokenizers cut it: characters of several bytes, white space of every kind, a line said twice.
const TOKENS: [&str; 16] = [
    "Grüße", " aus", " 東", "京", "!", "\n\n", "- one", " 🌍", "\n", "- one", " 🌍", "\n", "\n", "The",
    " en", "d.\n",
];

fn whole() -> String {
    TOKENS.concat()
}

/// Whoever is told in words to go on could be saying a line again, or the next one like it: there it is another one.
fn tokens(prefill: bool) -> Vec<&'static str> {
    let mut tokens = TOKENS.to_vec();
    if !prefill {
        tokens[9] = "- two";
    }
    tokens
}

/// The number in the prompt.
fn asked(request: &Request) -> usize {
    request.body()["messages"][0]["content"].as_str().expect("text").parse().expect("a number")
}

fn body(tokens: &[&str]) -> String {
    tokens.iter().map(|token| frame(token)).collect::<String>() + &closing()
}

#[tokio::test]
async fn a_cut_after_any_token_gives_the_whole_text_once() {
    for prefill in [true, false] {
        let provider = FakeProvider::by(move |_, request| match before(request) {
            None => Script::stream().tokens(&tokens(prefill)[..asked(request)]).cut(),
            Some((said, in_words)) => {
                assert_eq!(in_words, !prefill);
                let rest = tokens(prefill)
                    .concat()
                    .strip_prefix(&said)
                    .expect("byte for byte what was said")
                    .to_owned();
                let rest: Vec<&str> = rest.split_inclusive(' ').collect();
                Script::answer(&rest)
            }
        })
        .await;
        let settings = format!("{PLAIN}\nprefill = {prefill}");
        let server = Server::new(&model(&[("a", &provider)], &settings)).await;
        for cut in 1..=TOKENS.len() {
            let what = format!("prefill {prefill}, cut after {cut}");
            let events = replay(&server, &json!({"model": "m", "input": cut.to_string()})).await;
            assert_eq!(text_of(&events), tokens(prefill).concat(), "{what}");
            assert_gapless(&events, &what);
            assert_eq!(notices(&events), [("continued".to_owned(), "a".to_owned())], "{what}");
            // The notice stands where the seam is.
            assert_eq!(events[cut + 1].event, "notice", "{what}");
            let done = done(&events);
            assert_eq!(
                (&done["status"], &done["finish_reason"]),
                (&json!("completed"), &json!("stop")),
                "{what}"
            );
            assert_eq!(done["usage"]["estimated"], true, "nobody counted the first part: {done}");
            assert!(done["usage"]["output_tokens"].as_u64().unwrap() > 5, "{done}");
        }
        server.finish().await;
    }
}

#[tokio::test]
async fn a_cut_after_any_byte_loses_nothing_and_doubles_nothing() {
    let length = body(&TOKENS).len();
    let provider = FakeProvider::by(|_, request| match before(request) {
        None => Script::stream().send(&body(&TOKENS).as_bytes()[..asked(request)]).cut(),
        Some((said, _)) => {
            let rest = whole().strip_prefix(&said).expect("byte for byte what was said").to_owned();
            Script::answer(&[&rest])
        }
    })
    .await;
    let settings = format!("{PLAIN}\nprefill = true");
    let server = Server::new(&model(&[("a", &provider)], &settings)).await;
    for cut in (frame(TOKENS[0]).len()..length).step_by(23).chain([length - 1]) {
        let events = replay(&server, &json!({"model": "m", "input": cut.to_string()})).await;
        assert_eq!(text_of(&events), whole(), "cut after byte {cut}");
        assert_eq!(done(&events)["status"], "completed", "cut after byte {cut}");
        assert_gapless(&events, "bytes");
    }
    server.finish().await;
}

#[tokio::test]
async fn a_model_that_was_told_to_go_on_may_repeat_its_last_words_or_all_of_them() {
    for words in [1, 2, 100] {
        let provider = FakeProvider::by(move |_, request| match before(request) {
            None => Script::stream().tokens(&["There", " were", " three", " little", " pi"]).reset(),
            Some((said, _)) => {
                let again = said.split_inclusive(' ').rev().take(words).collect::<Vec<_>>();
                let again: String = again.into_iter().rev().collect();
                Script::answer(&[&format!("{again}gs"), " at", " home."])
            }
        })
        .await;
        let server = Server::new(&model(&[("a", &provider)], PLAIN)).await;
        let events = replay(&server, &ask()).await;
        assert_eq!(text_of(&events), "There were three little pigs at home.", "{words} words again");
        server.finish().await;
    }
}

#[tokio::test]
async fn every_way_of_breaking_off_is_gone_on_with() {
    let begun = || Script::stream().tokens(&["Hel"]);
    let breaks = [
        begun().cut(),
        begun().reset(),
        begun().end(),
        begun().send("data: {\"choices\":[{\"delta\":{\"con").end(),
        begun().send("data: {oops}\n\n").stall(),
        begun().send("data: {\"error\":{\"message\":\"overloaded\"}}\n\n").stall(),
        Script::stream().send(frame("Hel") + "data: {\"error\":{\"message\":\"overloaded\"}}\n\n").stall(),
        begun().stall(),
        // After the last word, before the terminator.
        begun().token("lo").cut(),
        begun().token("lo").send(chunk(&json!({}), &json!("stop"))).cut(),
        begun().token("lo").send(chunk(&json!({}), &json!("stop"))).send(usage()).cut(),
    ];
    for (n, script) in breaks.into_iter().enumerate() {
        let provider = FakeProvider::by(move |_, request| match before(request) {
            None => script.clone(),
            Some((said, _)) => match "Hello".strip_prefix(&said).expect("what was said") {
                "" => Script::stream().finish(),
                rest => Script::answer(&[rest]),
            },
        })
        .await;
        let settings = format!(
            "{PLAIN}\nprefill = true\ntimeouts = {{ between_tokens_ms = 300, first_token_ms = 5000 }}"
        );
        let server = Server::new(&model(&[("a", &provider)], &settings)).await;
        let events = replay(&server, &ask()).await;
        assert_eq!(
            (text_of(&events).as_str(), &done(&events)["status"]),
            ("Hello", &json!("completed")),
            "{n}"
        );
        assert_eq!((provider.calls(), notices(&events).len()), (2, 1), "{n}");
        assert_eq!(server.metric("relaystream_seams_total{code=\"continued\"}"), 1.0);
        server.finish().await;
    }
}

#[tokio::test]
async fn the_next_target_goes_on_where_the_first_cannot() {
    let dies = FakeProvider::new([Script::stream().tokens(&["Hel"]).cut()]).await;
    let helps = FakeProvider::by(|_, request| {
        assert_eq!(before(request), Some(("Hel".into(), true)));
        Script::answer(&["lo"])
    })
    .await;
    let server = Server::new(&model(&[("a", &dies), ("b", &helps)], PLAIN)).await;
    let mut body = ask();
    body["max_tokens"] = json!(50);
    let events = replay(&server, &body).await;
    assert_eq!((text_of(&events).as_str(), notices(&events)[0].1.as_str()), ("Hello", "b"));
    // A token or so was said already.
    assert_eq!(helps.request(0).await.body()["max_tokens"], 49);
    assert_eq!(done(&events)["usage"]["input_tokens"], 8 + 3);
    server.finish().await;
}

#[tokio::test]
async fn a_model_that_refuses_its_own_beginning_is_told_in_words() {
    let provider = FakeProvider::by(|_, request| match before(request) {
        None => Script::stream().tokens(&["Hel"]).cut(),
        Some((_, false)) => {
            Script::json(400, &json!({"error": {"message": "the last message must be the user's"}}))
        }
        Some((_, true)) => Script::answer(&["lo"]),
    })
    .await;
    let settings = format!("{PLAIN}\nprefill = true");
    let server = Server::new(&model(&[("a", &provider)], &settings)).await;
    let events = replay(&server, &ask()).await;
    assert_eq!((text_of(&events).as_str(), &done(&events)["status"]), ("Hello", &json!("completed")));
    assert_eq!(provider.calls(), 3);
    server.finish().await;
}

#[tokio::test]
async fn an_answer_is_gone_on_with_so_often_and_no_more() {
    let provider = FakeProvider::by(|n, _| Script::stream().tokens(&[&format!("{n} ")]).cut()).await;
    for (most, calls) in [(0, 1), (1, 2), (3, 4)] {
        let already = provider.calls();
        let settings = format!("{PLAIN}\nprefill = true\nmax_continuations = {most}");
        let server = Server::new(&model(&[("a", &provider)], &settings)).await;
        let events = replay(&server, &ask()).await;
        assert_eq!(done(&events)["error"]["code"], "upstream_truncated");
        assert_eq!((provider.calls() - already, notices(&events).len()), (calls, calls - 1));
        assert!(done(&events)["usage"]["estimated"].as_bool().unwrap());
        server.finish().await;
    }
}

#[tokio::test]
async fn what_is_not_plain_text_fails_in_so_many_words() {
    let call =
        json!({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{\"x\""}}]});
    let shaped = json!({"model": "m", "input": "Hi", "response_format": {"type": "json_schema", "json_schema": {"name": "x"}}});
    for (script, body) in [
        (Script::stream().send(chunk(&call, &Value::Null)).cut(), ask()),
        (Script::stream().token("Let me see.").send(chunk(&call, &Value::Null)).cut(), ask()),
        (Script::stream().send(chunk(&json!({"reasoning_content": "Hm."}), &Value::Null)).cut(), ask()),
        (
            Script::stream()
                .send(chunk(&json!({"reasoning_content": "Hm."}), &Value::Null))
                .token("Hel")
                .cut(),
            ask(),
        ),
        (Script::stream().send(chunk(&json!({"refusal": "I"}), &Value::Null)).cut(), ask()),
        (Script::stream().token("{\"a\":").cut(), shaped),
    ] {
        let provider = FakeProvider::new([script, Script::answer(&["never"])]).await;
        let server = Server::new(&model(&[("a", &provider)], PLAIN)).await;
        let events = replay(&server, &body).await;
        assert_eq!(done(&events)["error"]["code"], "upstream_truncated");
        assert_eq!((provider.calls(), notices(&events).len()), (1, 0));
        server.finish().await;
    }
}

#[tokio::test]
async fn a_cancel_while_it_goes_on_reaches_the_provider_that_does() {
    let provider =
        FakeProvider::new([Script::stream().token("Hel").cut(), Script::stream().token("lo").stall()]).await;
    let server = Server::new(&model(&[("a", &provider)], PLAIN)).await;
    let id = server.start(&ask()).await;
    let mut viewer = server.sse(&format!("/v1/streams/{id}/events")).await;
    viewer.until("notice").await;
    viewer.expect("token").await;
    let snapshot = server.cancel(&id).await;
    assert_eq!((&snapshot["status"], &snapshot["text"]), (&json!("cancelled"), &json!("Hello")));
    provider.abandoned(1).await;
    drop(viewer);
    server.finish().await;
}
