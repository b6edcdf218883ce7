//! Health, metrics, the API's description, and which pages may use the server.

use crate::harness::socket::Socket;
use crate::harness::{Answer, FakeProvider, Script, Server, hi};

#[tokio::test]
async fn health_and_readiness() {
    let server = Server::demo().await;
    assert_eq!(server.send(server.get("/healthz")).await.status(), 200);
    let ready = server.json("/readyz").await;
    assert_eq!(ready["status"], "ready");
    assert_eq!(ready["checks"]["store"]["ok"], true);
    let page = Answer::of(server.send(server.get("/")).await).await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"));
    server.finish().await;
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let provider = FakeProvider::new([Script::answer(&["Hello", " world"])]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let events = server.replay(&id).await;
    server.sse(&format!("/v1/streams/{id}/events?after={}", events[1].id())).await.rest().await;
    server.app.sweep().await;
    let answer = Answer::of(server.send(server.get("/metrics")).await).await;
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"));
    for line in [
        "relaystream_streams_running 0",
        "relaystream_streams_total{status=\"completed\"} 1",
        "relaystream_tokens_total 2",
        "relaystream_resumes_total{result=\"ok\"} 1",
        "relaystream_time_to_first_token_seconds_count 1",
        "relaystream_time_between_tokens_seconds_count 1",
        "relaystream_upstream_connections_open 0",
        "gen_ai_client_token_usage_total{gen_ai_token_type=\"output\"} 5",
    ] {
        assert!(answer.text.lines().any(|known| known == line), "{line} in\n{}", answer.text);
    }
    for name in
        ["relaystream_viewers", "relaystream_connection_duration_seconds", "relaystream_delivery_lag_seconds"]
    {
        assert!(answer.text.contains(name), "{name}");
    }
    assert!(server.metric("relaystream_bytes_held") > 0.0);
    assert!(answer.text.trim_end().ends_with("# EOF"));
    assert!(!answer.text.contains(&id));
    server.finish().await;
}

#[tokio::test]
async fn the_api_describes_itself() {
    let server = Server::demo().await;
    let description = server.json("/openapi.json").await;
    assert!(
        description["openapi"].as_str().is_some_and(|version| version.starts_with("3.")),
        "{description}"
    );
    for path in ["/v1/streams", "/v1/streams/{id}/events", "/v1/chat/stream", "/v1/chat/completions"] {
        assert!(description["paths"].get(path).is_some(), "{path}");
    }
    server.finish().await;
}

async fn allowed(server: &Server, origin: &str) -> bool {
    let response = server.send(server.get("/v1/models").header("origin", origin)).await;
    let allowed = response.headers().get("access-control-allow-origin").cloned();
    assert!(allowed.as_ref().is_none_or(|value| value == origin));
    assert_eq!(response.status(), if allowed.is_some() { 200 } else { 403 }, "{origin}");
    if allowed.is_none() {
        assert_eq!(Answer::of(response).await.code(), "origin_not_allowed");
    }
    let socket = Socket::open(server, "room", &[("origin", origin)]).await;
    assert_eq!(socket.as_ref().err().copied(), if allowed.is_some() { None } else { Some(403) }, "{origin}");
    allowed.is_some()
}

#[tokio::test]
async fn with_open_access_any_loopback_origin_may_ask_and_no_other() {
    let server = Server::new("[server]\nallowed_origins = [\"https://app.example\"]").await;
    for origin in ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:5173", "https://app.example"] {
        assert!(allowed(&server, origin).await, "{origin}");
    }
    for origin in [
        "https://evil.example",
        "https://app.example:8443",
        "http://app.example",
        "https://app.example.evil.example",
        "http://localhost.evil.example",
        "null",
    ] {
        assert!(!allowed(&server, origin).await, "{origin}");
    }
    server.finish().await;
}

#[tokio::test]
async fn with_keys_only_listed_origins_and_its_own_may_ask() {
    let config =
        "[server]\nallowed_origins = [\"https://app.example\"]\n[[auth.keys]]\nkey = \"a\"\nuser = \"ann\"\n";
    let server = Server::new(config).await;
    let own = format!("http://{}", server.address);
    for (origin, may) in [
        ("https://app.example", true),
        (own.as_str(), true),
        ("http://localhost:3000", false),
        ("null", false),
    ] {
        let request = server.get("/v1/models").bearer_auth("a").header("origin", origin);
        let response = server.send(request).await;
        assert_eq!(response.headers().contains_key("access-control-allow-origin"), may, "{origin}");
        let headers = [("origin", origin), ("authorization", "Bearer a")];
        let socket = Socket::open(&server, "room", &headers).await;
        assert_eq!(socket.err(), if may { None } else { Some(403) }, "{origin}");
    }
    // No origin is no browser.
    assert!(Socket::open(&server, "room", &[("authorization", "Bearer a")]).await.is_ok());
    server.finish().await;
}

#[tokio::test]
async fn a_preflight_is_answered_before_anyone_is_asked_for_a_key() {
    let config =
        "[server]\nallowed_origins = [\"https://app.example\"]\n[[auth.keys]]\nkey = \"a\"\nuser = \"ann\"\n";
    let server = Server::new(config).await;
    let preflight = |method: &str| {
        server
            .client
            .request(reqwest::Method::OPTIONS, server.url("/v1/streams"))
            .header("origin", "https://app.example")
            .header("access-control-request-method", method)
            .header(
                "access-control-request-headers",
                "authorization,content-type,last-event-id,idempotency-key",
            )
    };
    for method in ["POST", "GET", "DELETE"] {
        let response = server.send(preflight(method)).await;
        assert_eq!(response.status(), 200);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_lowercase();
        assert_eq!(header("access-control-allow-origin"), "https://app.example");
        assert!(header("access-control-allow-methods").contains(&method.to_lowercase()));
        for name in ["authorization", "content-type", "last-event-id", "idempotency-key"] {
            assert!(header("access-control-allow-headers").contains(name), "{name}");
        }
    }
    // Errors are readable for pages too.
    let refused = server.send(server.get("/v1/models").header("origin", "https://app.example")).await;
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["access-control-allow-origin"], "https://app.example");
    let exposed = refused.headers()["access-control-expose-headers"].to_str().unwrap();
    for name in ["x-stream-id", "x-session-id", "x-request-id", "link", "location", "retry-after"] {
        assert!(exposed.contains(name), "{name} in {exposed}");
    }
    server.finish().await;
}

#[tokio::test]
async fn with_open_access_a_name_that_is_not_this_machines_is_refused() {
    // A page whose name its owner lets point here (DNS rebinding) sends that name as host and as origin.
    let server = Server::demo().await;
    for (host, status) in [("rebound.example", 403), ("localhost:1234", 200), ("127.0.0.1", 200)] {
        let request =
            server.get("/v1/models").header("host", host).header("origin", format!("http://{host}"));
        assert_eq!(server.send(request).await.status(), status, "{host}");
    }
    server.finish().await;
}
