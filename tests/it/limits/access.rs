//! API keys, and what they open.

use serde_json::{Value, json};

use crate::harness::socket::Socket;
use crate::harness::{Answer, FakeProvider, Script, Server};

/// Ann owns what she names; Bob may watch `shared-1`, Eve is a member of every session; Mallory is of another tenant.
fn config() -> String {
    [
        ("a", "ann", "default", "owner", "[]"),
        ("b", "bob", "default", "viewer", "[\"shared-1\"]"),
        ("e", "eve", "default", "member", "[\"*\"]"),
        ("m", "mallory", "other", "owner", "[\"*\"]"),
        ("n", "nobody", "default", "owner", "[]"),
    ]
    .map(|(key, user, tenant, role, sessions)| {
        format!("[[auth.keys]]\nkey = \"{key}\"\nuser = \"{user}\"\ntenant = \"{tenant}\"\nrole = \"{role}\"\nsessions = {sessions}\n")
    })
    .concat()
}

async fn get(server: &Server, key: &str, path: &str) -> Answer {
    Answer::of(server.send(server.get(path).bearer_auth(key)).await).await
}

async fn post(server: &Server, key: &str, path: &str, body: &Value) -> Answer {
    Answer::of(server.send(server.post(path, body).bearer_auth(key)).await).await
}

#[tokio::test]
async fn a_key_is_needed_and_taken_from_where_sdks_put_it() {
    // "secret" hashed, as `printf secret | sha256sum` prints it; and one from the environment.
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    let config = format!(
        "[[auth.keys]]\nsha256 = \"{hash}\"\nuser = \"ann\"\n[[auth.keys]]\nkey = \"env:BOBS_KEY\"\nuser = \"bob\"\n"
    );
    let server = Server::with(&config, &[("BOBS_KEY", "bobs")]).await;
    for (name, value) in [
        ("authorization", "Bearer secret"),
        ("authorization", "Bearer bobs"),
        ("x-api-key", "secret"),
        ("x-goog-api-key", "secret"),
        ("api-key", "bobs"),
    ] {
        let response = server.send(server.get("/v1/models").header(name, value)).await;
        assert_eq!(response.status(), 200, "{name}");
    }
    for (name, value) in [
        ("x-none", "x"),
        ("authorization", "Bearer wrong"),
        ("authorization", "Basic secret"),
        ("x-api-key", ""),
        ("authorization", hash),
    ] {
        for path in
            ["/v1/models", "/v1/streams/x/events", "/v1/sessions/x/events", "/v1/chat/stream?prompt=x"]
        {
            let answer = Answer::of(server.send(server.get(path).header(name, value)).await).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (401, "unauthorized"),
                "{name} {value} {path}"
            );
            assert_eq!(answer.json()["error"]["type"], "authentication_error");
            assert!(!answer.text.contains("wrong"));
        }
    }
    // A reconnect with a credential that is no longer good is told so: it would be refused for ever.
    let request = server.get("/v1/streams/x/events?after=x").header("x-api-key", "old");
    assert_eq!(server.send(request).await.status(), 401);
    server.finish().await;
}

#[tokio::test]
async fn a_stream_without_a_session_is_its_principals_alone() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, &config()).await;
    let id = post(&server, "a", "/v1/streams", &json!({"model": "fake-1", "input": "Hi"})).await.json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    for key in ["b", "e", "m", "n"] {
        for path in ["", "/events", "/poll?wait=0"] {
            let answer = get(&server, key, &format!("/v1/streams/{id}{path}")).await;
            assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{key} {path}");
        }
        let cancel = post(&server, key, &format!("/v1/streams/{id}/cancel"), &json!({})).await;
        assert_eq!(cancel.status, 404, "{key}");
        let forget = server.send(server.delete(&format!("/v1/streams/{id}")).bearer_auth(key)).await;
        assert_eq!(forget.status(), 404, "{key}");
    }
    assert_eq!(get(&server, "a", &format!("/v1/streams/{id}")).await.json()["status"], "running");
    post(&server, "a", &format!("/v1/streams/{id}/cancel"), &json!({})).await;
    server.finish().await;
}

#[tokio::test]
async fn grants_and_roles_open_sessions() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, &config()).await;
    let body = json!({"model": "fake-1", "input": "Hi", "session": "shared-1"});
    let start = post(&server, "a", "/v1/streams", &body).await;
    assert_eq!(start.status, 201);
    let id = start.header("x-stream-id").to_owned();
    // Who may see the session and its streams, with which role.
    for (key, role) in
        [("a", Some("owner")), ("b", Some("viewer")), ("e", Some("member")), ("m", None), ("n", None)]
    {
        let session = get(&server, key, "/v1/sessions/shared-1").await;
        assert_eq!(session.status, if role.is_some() { 200 } else { 404 }, "{key}");
        let snapshot = get(&server, key, &format!("/v1/streams/{id}")).await;
        assert_eq!(snapshot.status, session.status, "{key}");
        let listed = get(&server, key, "/v1/sessions").await.json()["sessions"].as_array().unwrap().len();
        assert_eq!(listed, usize::from(role.is_some()), "{key}");
        if let Some(role) = role {
            assert_eq!(session.json()["role"], role);
            let bearer = format!("Bearer {key}");
            let mut socket = Socket::open(&server, "shared-1", &[("authorization", &bearer)]).await.unwrap();
            socket.hello(&[]).await;
            assert_eq!(socket.expect("welcome").await["data"]["role"], role);
            socket.leave().await;
        }
    }
    // A viewer watches, a member starts and ends its own, an owner ends any.
    let refused = post(&server, "b", "/v1/streams", &body).await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "not_allowed"));
    assert_eq!(refused.json()["error"]["type"], "permission_error");
    for key in ["b", "e"] {
        let cancel = post(&server, key, &format!("/v1/streams/{id}/cancel"), &json!({})).await;
        assert_eq!((cancel.status, cancel.code().as_str()), (403, "not_allowed"), "{key}");
        let forget = server.send(server.delete("/v1/sessions/shared-1").bearer_auth(key)).await;
        assert_eq!(forget.status(), 403, "{key}");
    }
    let own = post(&server, "e", "/v1/streams", &body).await;
    assert_eq!(own.status, 201);
    let own = own.header("x-stream-id").to_owned();
    let cancel = post(&server, "a", &format!("/v1/streams/{own}/cancel"), &json!({})).await;
    assert_eq!(cancel.json()["by"], "ann");
    // Somebody without a role in it cannot start there, nor learn that it exists.
    for path in ["/v1/streams", "/v1/chat/completions"] {
        let chat = json!({"model": "fake-1", "messages": [{"role": "user", "content": "Hi"}], "session": "shared-1"});
        let body = if path == "/v1/streams" { &body } else { &chat };
        let request = server.post(path, body).bearer_auth("n").header("x-session-id", "shared-1");
        let refused = Answer::of(server.send(request).await).await;
        assert_eq!((refused.status, refused.code().as_str()), (404, "not_found"), "{path}");
    }
    let gone = server.send(server.delete("/v1/sessions/shared-1").bearer_auth("a")).await;
    assert_eq!(gone.status(), 204);
    server.finish().await;
}

#[tokio::test]
async fn another_tenants_equal_name_is_another_session() {
    let provider = FakeProvider::new([Script::answer(&["Hello"])]).await;
    let server = Server::before(&provider, &config()).await;
    let body = json!({"model": "fake-1", "input": "Hi", "session": "room"});
    let mut rooms = Vec::new();
    for key in ["a", "m"] {
        let start = post(&server, key, "/v1/streams", &body).await;
        assert_eq!(start.status, 201);
        let session = get(&server, key, "/v1/sessions/room").await.json();
        assert_eq!(session["streams"].as_array().unwrap().len(), 1);
        rooms.push(session["room"].clone());
        let events = server
            .send(server.get(&format!("/v1/streams/{}/events", start.header("x-stream-id"))).bearer_auth(key))
            .await;
        crate::harness::Sse::new(events).rest().await;
    }
    assert_ne!(rooms[0], rooms[1]);
    server.finish().await;
}
