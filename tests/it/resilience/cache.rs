//! Identical requests share one answer, where that is asked for.

use serde_json::{Value, json};

use super::{PLAIN, ask, model};
use crate::harness::{Answer, FakeProvider, Gate, Script, Server};

async fn start(server: &Server, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
    let request =
        headers.iter().fold(server.post(path, body), |request, (name, value)| request.header(*name, *value));
    Answer::of(server.send(request).await).await
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
    let again = async {
        // What failed is forgotten a moment after its end.
        loop {
            let next = start(&server, "/v1/streams", &ask(), &[]).await;
            if next.header("x-cache") == "miss" {
                return next;
            }
        }
    };
    let next = crate::harness::soon("another answer", again).await;
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
