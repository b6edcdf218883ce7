//! Identical requests share one answer, where that is asked for.

use serde_json::{Value, json};

use super::{PLAIN, ask, assert_gapless, done, model};
use crate::harness::sse::{text_of, types};
use crate::harness::{Answer, Event, FakeProvider, Gate, Script, Server, soon};

async fn start(server: &Server, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
    let request =
        headers.iter().fold(server.post(path, body), |request, (name, value)| request.header(*name, *value));
    Answer::of(server.send(request).await).await
}

/// Asks until that is a miss.
async fn missed(server: &Server) -> Answer {
    let asking = async {
        loop {
            let next = start(server, "/v1/streams", &ask(), &[]).await;
            if next.header("x-cache") == "miss" {
                return next;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    soon("another answer", asking).await
}

#[tokio::test]
async fn one_answer_for_all_who_ask_the_same_while_it_runs_and_after() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::stream().token("Hel").wait(&gate).token("lo").finish()]).await;
    let server = Server::new(&model(&[("a", &provider)], &format!("{PLAIN}\ncache = true"))).await;
    let first = start(&server, "/v1/streams", &ask(), &[]).await;
    assert_eq!((first.status, first.header("x-cache")), (201, "miss"));
    let id = first.header("x-stream-id");
    let second = start(&server, "/v1/streams", &ask(), &[]).await;
    assert_eq!((second.status, second.header("x-cache"), second.header("x-stream-id")), (200, "hit", id));
    assert_eq!(second.header("idempotent-replayed"), "");
    gate.open();
    assert_eq!(server.ended(id).await["text"], "Hello");
    let third = start(&server, "/v1/streams", &ask(), &[]).await;
    assert_eq!((third.header("x-cache"), third.header("x-stream-id")), ("hit", id));
    // Others ask for something else, or want an answer of their own.
    gate.open();
    let mut other = ask();
    other["temperature"] = json!(0.5);
    assert_eq!(start(&server, "/v1/streams", &other, &[]).await.header("x-cache"), "miss");
    gate.open();
    let own = start(&server, "/v1/streams", &ask(), &[("x-cache", "off")]).await;
    assert_eq!((own.header("x-cache"), own.status), ("", 201));
    gate.open();
    let keyed = start(&server, "/v1/streams", &ask(), &[("idempotency-key", "k")]).await;
    assert_eq!((keyed.header("x-cache"), keyed.status), ("", 201));
    assert_eq!(start(&server, "/v1/streams", &ask(), &[("x-cache", "maybe")]).await.status, 400);
    for _ in 0..3 {
        gate.open();
    }
    crate::harness::eventually("the ends", || server.app.relay.running_count() == 0).await;
    assert_eq!(provider.calls(), 4);
    server.finish().await;
}

#[tokio::test]
async fn a_request_may_ask_for_it_and_a_dialects_answer_is_the_same_to_the_byte() {
    let provider = FakeProvider::new([Script::answer(&["Hel", "lo"])]).await;
    let server = Server::before(&provider, "").await;
    for stream in [true, false] {
        let body =
            json!({"model": "fake-1", "messages": [{"role": "user", "content": "Hi"}], "stream": stream});
        let mut texts = Vec::new();
        for expected in ["miss", "hit"] {
            let answer = start(&server, "/v1/chat/completions", &body, &[("x-cache", "on")]).await;
            assert_eq!((answer.status, answer.header("x-cache")), (200, expected), "{}", answer.text);
            texts.push(answer.text);
        }
        assert_eq!(texts[0], texts[1]);
    }
    assert_eq!(provider.calls(), 2);
    server.finish().await;
}

#[tokio::test]
async fn only_a_whole_answer_is_one_for_others() {
    let provider = FakeProvider::new([Script::stream().token("Hel").cut(), Script::answer(&["Hello"])]).await;
    let server =
        Server::new(&model(&[("a", &provider)], &format!("{PLAIN}\ncache = true\ncontinue = false"))).await;
    let first = start(&server, "/v1/streams", &ask(), &[]).await;
    assert_eq!(server.ended(first.header("x-stream-id")).await["status"], "failed");
    // What failed is forgotten a moment after its end.
    let next = missed(&server).await;
    assert_eq!(server.ended(next.header("x-stream-id")).await["text"], "Hello");
    server.finish().await;
}

#[tokio::test]
async fn what_one_user_got_is_not_anothers() {
    let provider = FakeProvider::new([Script::answer(&["Hello"])]).await;
    let config = "[[auth.keys]]\nkey = \"a\"\nuser = \"ann\"\n[[auth.keys]]\nkey = \"b\"\nuser = \"bob\"\n[defaults]\ncache = true\n";
    let server = Server::before(&provider, config).await;
    for key in ["Bearer a", "Bearer b"] {
        let answer = start(&server, "/v1/streams", &crate::harness::hi(), &[("authorization", key)]).await;
        assert_eq!(answer.header("x-cache"), "miss");
    }
    crate::harness::eventually("the ends", || server.app.relay.running_count() == 0).await;
    server.finish().await;
}

#[tokio::test]
async fn what_was_cancelled_is_no_answer_for_others() {
    let provider =
        FakeProvider::new([Script::stream().token("Hel").stall(), Script::answer(&["Hello"])]).await;
    let server = Server::new(&model(&[("a", &provider)], &format!("{PLAIN}\ncache = true"))).await;
    let first = start(&server, "/v1/streams", &ask(), &[]).await;
    server.cancel(first.header("x-stream-id")).await;
    let next = missed(&server).await;
    assert_eq!(server.ended(next.header("x-stream-id")).await["text"], "Hello");
    server.finish().await;
}

/// An answer is kept as any log is: for its window, as long as there is room, until it is deleted.
#[tokio::test]
async fn an_answer_is_shared_for_as_long_as_it_is_kept() {
    let provider = FakeProvider::new([Script::answer(&["Hello", &"x".repeat(4000)])]).await;
    let settings = format!("{PLAIN}\ncache = true");
    for (what, limits) in [
        ("age", "[server]\nreplay_window_s = 1"),
        ("bytes", "[limits]\ntotal_bytes = 30000"),
        ("deleted", ""),
    ] {
        let server = Server::new(&format!("{limits}\n{}", model(&[("a", &provider)], &settings))).await;
        let first = start(&server, "/v1/streams", &ask(), &[]).await;
        let id = first.header("x-stream-id");
        server.ended(id).await;
        match what {
            "bytes" => {
                for n in 0..20 {
                    let other = server.start(&json!({"model": "m", "input": n.to_string()})).await;
                    server.ended(&other).await;
                }
            }
            "deleted" => {
                let gone = server.send(server.delete(&format!("/v1/streams/{id}"))).await;
                assert_eq!(gone.status(), 204);
            }
            _ => {}
        }
        let next = missed(&server).await;
        assert_ne!(next.header("x-stream-id"), id, "{what}");
        server.ended(next.header("x-stream-id")).await;
        server.finish().await;
    }
}

#[tokio::test]
async fn a_dialects_own_headers_ask_for_another_answer() {
    let provider = FakeProvider::new([Script::answer(&["Hello"])]).await;
    let server = Server::before(&provider, "").await;
    let body = json!({"model": "fake-1", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]});
    for (beta, expected) in [("a-1", "miss"), ("a-1", "hit"), ("b-2", "miss")] {
        let headers = [("x-cache", "on"), ("anthropic-beta", beta)];
        let answer = start(&server, "/v1/messages", &body, &headers).await;
        assert_eq!((answer.status, answer.header("x-cache")), (200, expected), "{}", answer.text);
    }
    server.finish().await;
}

/// Data and kinds; ids and the start, which names its stream, are a stream's own.
fn said(events: &[Event]) -> Vec<(String, String)> {
    events[1..].iter().map(|event| (event.event.clone(), event.data.clone())).collect()
}

#[tokio::test]
async fn a_kept_answer_may_be_told_at_a_pace_as_a_stream_of_its_own() {
    let provider = FakeProvider::new([Script::answer(&["one ", "two ", "three ", "four"])]).await;
    let settings = format!("{PLAIN}\ncache = true\ncache_tokens_per_s = 1000");
    let server = Server::new(&model(&[("a", &provider)], &settings)).await;
    let first = start(&server, "/v1/streams", &ask(), &[]).await;
    let kept = server.replay(first.header("x-stream-id")).await;
    let hit = start(&server, "/v1/streams", &ask(), &[]).await;
    assert_eq!((hit.status, hit.header("x-cache")), (200, "hit"));
    let id = hit.header("x-stream-id");
    assert_ne!(id, first.header("x-stream-id"));
    let told = server.replay(id).await;
    assert_eq!((said(&told), types(&told)), (said(&kept), types(&kept)));
    assert_gapless(&told, "told again");
    assert_eq!(done(&told)["usage"], done(&kept)["usage"]);
    // Cut anywhere, it goes on there.
    for (n, event) in told.iter().enumerate().take(told.len() - 1) {
        let rest = server.get(&format!("/v1/streams/{id}/events")).header("last-event-id", event.id());
        assert_eq!(server.sse_of(rest).await.rest().await, told[n + 1..], "after {n}");
    }
    // It cost nobody anything.
    let usage = server.json("/v1/usage").await;
    assert_eq!((&usage["streams"], provider.calls()), (&json!(1), 1), "{usage}");
    server.finish().await;
}

#[tokio::test]
async fn a_dialects_frames_are_told_as_they_came_and_an_answer_in_one_piece_at_once() {
    let provider = FakeProvider::new([Script::answer(&["Hel", "lo"])]).await;
    let settings = format!("{PLAIN}\ncache = true\ncache_tokens_per_s = 1000");
    let server = Server::new(&model(&[("a", &provider)], &settings)).await;
    for stream in [true, false] {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream});
        let first = start(&server, "/v1/chat/completions?ids=0", &body, &[]).await;
        let hit = start(&server, "/v1/chat/completions?ids=0", &body, &[]).await;
        assert_eq!((hit.header("x-cache"), &hit.text), ("hit", &first.text));
        assert_eq!(hit.header("x-stream-id") != first.header("x-stream-id"), stream);
    }
    server.finish().await;
}

#[tokio::test]
async fn what_is_told_again_can_be_cancelled_and_what_runs_is_shared_as_it_runs() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::stream().token("Hel").wait(&gate).token("lo").finish()]).await;
    // An hour a token.
    let settings = format!("{PLAIN}\ncache = true\ncache_tokens_per_s = 0.0003");
    let server = Server::new(&model(&[("a", &provider)], &settings)).await;
    let first = start(&server, "/v1/streams", &ask(), &[]).await;
    let kept = first.header("x-stream-id");
    assert_eq!(start(&server, "/v1/streams", &ask(), &[]).await.header("x-stream-id"), kept);
    gate.open();
    server.ended(kept).await;
    let hit = start(&server, "/v1/streams", &ask(), &[]).await;
    let mut viewer = server.sse(&format!("/v1/streams/{}/events", hit.header("x-stream-id"))).await;
    viewer.expect("start").await;
    let cancelled = server.cancel(hit.header("x-stream-id")).await;
    assert_eq!((&cancelled["status"], &cancelled["usage"]), (&json!("cancelled"), &Value::Null));
    viewer.expect("done").await;
    assert_eq!(text_of(&server.replay(kept).await), "Hello", "the first one's is untouched");
    server.finish().await;
}
