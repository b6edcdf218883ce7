//! Bad input, and what it gets.

use serde_json::json;

use crate::harness::provider::nobody;
use crate::harness::{Answer, FakeProvider, Script, Server, chat, hi};

async fn raw(server: &Server, path: &str, body: &str) -> Answer {
    let request = server.client.post(server.url(path)).body(body.to_owned());
    Answer::of(server.send(request).await).await
}

#[tokio::test]
async fn malformed_json_is_400_with_where() {
    let server = Server::demo().await;
    for path in ["/v1/streams", "/v1/chat/completions"] {
        let answer = raw(&server, path, "{\"model\": \"demo\",\n  \"input\": }").await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"), "{path}");
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("line 2 column 12"), "{message}");
        for body in ["", "[]", "3", "\"x\"", "null"] {
            let answer = raw(&server, path, body).await;
            assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"), "{path} {body}");
        }
        let answer =
            Answer::of(server.send(server.client.post(server.url(path)).body(vec![b'{', 0xff])).await).await;
        assert_eq!(answer.status, 400);
    }
    server.finish().await;
}

#[tokio::test]
async fn an_unknown_model_is_404_with_the_names_that_exist() {
    let alias = "[models.fast]\ntargets = [{ provider = \"demo\", model = \"demo-fast\" }]\n";
    let server = Server::new(alias).await;
    for (path, body) in [
        ("/v1/streams", json!({"model": "nowhere/x", "input": "Hi"})),
        ("/v1/streams", json!({"model": "demo/nothing", "input": "Hi"})),
        (
            "/v1/chat/completions",
            json!({"model": "nowhere/x", "messages": [{"role": "user", "content": "Hi"}]}),
        ),
    ] {
        let answer = Answer::of(server.send(server.post(path, &body)).await).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{body}");
        let error = &answer.json()["error"];
        assert_eq!((&error["param"], &error["type"]), (&json!("model"), &json!("not_found_error")));
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("fast") && message.contains("demo/demo-fast"), "{message}");
    }
    server.finish().await;
}

#[tokio::test]
async fn wrong_types_are_422_by_field() {
    let server = Server::demo().await;
    let say = json!([{"role": "user", "content": "Hi"}]);
    let cases = [
        (json!({"model": 3, "input": "Hi"}), "model"),
        (json!({"model": "demo"}), "messages"),
        (json!({"model": "demo", "messages": []}), "messages"),
        (json!({"model": "demo", "messages": "Hi"}), "messages"),
        (json!({"model": "demo", "messages": [1]}), "messages[0]"),
        (json!({"model": "demo", "messages": [{"content": "Hi"}]}), "messages[0].role"),
        (json!({"model": "demo", "messages": [{"role": "king", "content": "Hi"}]}), "messages[0].role"),
        (json!({"model": "demo", "messages": [{"role": "user", "content": 1}]}), "messages[0].content"),
        (json!({"model": "demo", "messages": [{"role": "user", "content": [1]}]}), "messages[0].content[0]"),
        (json!({"model": "demo", "messages": say, "temperature": "hot"}), "temperature"),
        (json!({"model": "demo", "messages": say, "temperature": 3}), "temperature"),
        (json!({"model": "demo", "messages": say, "max_tokens": -1}), "max_tokens"),
        (json!({"model": "demo", "messages": say, "tools": {}}), "tools"),
        (json!({"model": "demo", "messages": say, "stop": 1}), "stop"),
        (json!({"model": "demo", "messages": say, "n": 2}), "n"),
        (json!({"model": "demo", "messages": say, "session": 1}), "session"),
        (json!({"model": "demo", "messages": say, "session": "a b"}), "session"),
        (json!({"model": "demo", "messages": say, "session": ""}), "session"),
        (json!({"model": "demo", "messages": say, "on_disconnect": "never"}), "on_disconnect"),
        (json!({"model": "demo", "messages": say, "on_disconnect": "grace:-1"}), "on_disconnect"),
        (json!({"model": "demo", "messages": say, "metadata": []}), "metadata"),
        (json!({"model": "demo", "messages": say, "input": "Hi"}), "input"),
        (json!({"model": "demo", "prompt": "translate", "variables": []}), "variables"),
    ];
    for (body, param) in cases {
        let answer = Answer::of(server.send(server.post("/v1/streams", &body)).await).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, "invalid"), "{body}");
        let error = &answer.json()["error"];
        assert_eq!(
            (&error["param"], &error["type"]),
            (&json!(param), &json!("invalid_request_error")),
            "{body}"
        );
        assert!(error["message"].as_str().unwrap().starts_with(param), "{error}");
    }
    for (body, param) in [
        (json!({"messages": say}), "model"),
        (json!({"model": "demo"}), "messages"),
        (json!({"model": "demo", "messages": say, "stream": "yes"}), "stream"),
        (json!({"model": "demo", "messages": say, "n": 2}), "n"),
    ] {
        let answer = Answer::of(server.send(server.post("/v1/chat/completions", &body)).await).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, "invalid"), "{body}");
        assert_eq!(answer.json()["error"]["param"], param);
    }
    server.finish().await;
}

#[tokio::test]
async fn unknown_streams_sessions_and_routes_are_404() {
    let server = Server::demo().await;
    for path in [
        "/v1/streams/01jxk3v9c2m4n5p6q7r8s9t0va",
        "/v1/streams/nonsense",
        "/v1/streams/01jxk3v9c2m4n5p6q7r8s9t0va/events",
        "/v1/streams/01jxk3v9c2m4n5p6q7r8s9t0va/events?after=01jxk3v9c2m4n5p6q7r8s9t0va-0000-0000000003",
        "/v1/streams/01jxk3v9c2m4n5p6q7r8s9t0va/poll",
        "/v1/sessions/nobody",
        "/v1/sessions/nobody/events?after=01jxk3v9c2m4n5p6q7r8s9t0va-0000-0000000003",
        "/v1/nothing",
    ] {
        let answer = Answer::of(server.send(server.get(path)).await).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{path}");
    }
    let answer = Answer::of(server.send(server.get("/v1/chat/completions")).await).await;
    assert_eq!((answer.status, answer.code().as_str()), (405, "bad_request"));
    server.finish().await;
}

#[tokio::test]
async fn an_unreachable_provider_is_502_naming_the_target_and_no_secret() {
    let models = "[models.m]\ntargets = [{ provider = \"fake\", model = \"fake-1\" }]\nretry = { attempts = 2, base_ms = 1, max_ms = 5 }\n";
    let nobody = nobody();
    let server = Server::new(&format!("{models}{}", nobody.config())).await;
    let secrets = ["us3r", "pa55w0rd", "s3cret"];
    for stream in [true, false] {
        let mut ask = chat();
        ask["model"] = "m".into();
        ask["stream"] = stream.into();
        let answer = Answer::of(server.send(server.post("/v1/chat/completions", &ask)).await).await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "connect_failed"));
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("provider fake"), "{message}");
        assert!(secrets.iter().all(|secret| !answer.text.contains(secret)), "{message}");
        assert_eq!(answer.header("x-should-retry"), "false");
    }
    let mut ask = hi();
    ask["model"] = "m".into();
    let id = server.start(&ask).await;
    let text = server.sse(&format!("/v1/streams/{id}/events")).await.rest().await;
    let done = text.last().unwrap().json();
    assert_eq!((&done["status"], &done["error"]["code"]), (&json!("failed"), &json!("connect_failed")));
    assert!(text.iter().all(|event| secrets.iter().all(|secret| !event.data.contains(secret))));
    server.finish().await;
}

#[tokio::test]
async fn a_native_start_answers_201_and_the_refusal_is_in_the_log() {
    let provider =
        FakeProvider::new([Script::json(400, &json!({"error": {"message": "no such engine"}}))]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let events = server.replay(&id).await;
    assert_eq!(crate::harness::sse::types(&events), ["start", "done"]);
    let done = events[1].json();
    assert_eq!((&done["status"], &done["error"]["code"]), (&json!("failed"), &json!("upstream_status")));
    assert!(done["error"]["message"].as_str().unwrap().contains("no such engine"));
    assert_eq!(server.ended(&id).await["error"], done["error"]);
    server.finish().await;
}

#[tokio::test]
async fn every_answer_says_what_its_body_must_not_be_taken_for() {
    let server = Server::demo().await;
    for path in ["/", "/healthz", "/v1/models", "/v1/nothing"] {
        let response = server.send(server.get(path)).await;
        assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{path}");
        assert!(response.headers().contains_key("x-request-id"), "{path}");
    }
    server.finish().await;
}
