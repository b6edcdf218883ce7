//! Tokens in a cookie, which browsers send unasked. What origins make of them is in the table; this is the rest.

use serde_json::json;

use super::issuer;
use crate::harness::{Answer, FakeProvider, Script, Server};

#[tokio::test]
async fn a_cookie_is_one_among_others_and_comes_after_every_other_credential() {
    let server =
        Server::new(&format!("{}[[auth.keys]]\nkey = \"k\"\nuser = \"kim\"\n", issuer::config())).await;
    let (good, bad) = (issuer::token("ann", &json!({})), issuer::lasting("ann", &json!({}), 0));
    for (cookie, key, status) in [
        (format!("id={good}"), None, 200),
        (format!("other=1; id={good}; more=a=b"), None, 200),
        (format!("id={bad}"), None, 401),
        (format!("ID={good}"), None, 401),
        (format!("xid={good}"), None, 401),
        ("id=".into(), None, 401),
        (format!("id={bad}"), Some("k"), 200),
        (format!("id={good}"), Some("wrong"), 401),
    ] {
        let mut request = server.get("/v1/models").header("cookie", &cookie);
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        assert_eq!(server.send(request).await.status(), status, "{cookie:.20} {key:?}");
    }
    server.finish().await;
    // Where none is configured, none is looked at.
    let server = Server::new(&issuer::config().replace("cookie = \"id\"\n", "")).await;
    let request = server.get("/v1/models").header("cookie", format!("id={good}"));
    assert_eq!(server.send(request).await.status(), 401);
    server.finish().await;
}

#[tokio::test]
async fn an_event_source_that_starts_something_must_be_of_our_own_pages() {
    let provider = FakeProvider::new([Script::answer(&["Hello"])]).await;
    let server = Server::before(&provider, &issuer::config()).await;
    let cookie = format!("id={}", issuer::token("ann", &json!({})));
    let path = "/v1/chat/stream?prompt=Hi&model=fake-1";
    for (site, status) in [
        (Some("same-origin"), 200),
        (Some("same-site"), 403),
        (Some("cross-site"), 403),
        (Some("none"), 403),
        (None, 403),
    ] {
        let mut request = server.get(path).header("cookie", &cookie);
        if let Some(site) = site {
            request = request.header("sec-fetch-site", site);
        }
        let answer = Answer::of(server.send(request).await).await;
        assert_eq!(answer.status, status, "{site:?}");
        if status == 403 {
            assert_eq!(answer.code(), "origin_not_allowed");
        }
    }
    // What is said about the site helps nobody who acts.
    let forged =
        server.post("/v1/streams", &json!({"model": "fake-1", "input": "Hi"})).header("cookie", &cookie);
    assert_eq!(server.send(forged.header("sec-fetch-site", "same-origin")).await.status(), 403);
    assert_eq!(provider.calls(), 1);
    server.finish().await;
}

#[tokio::test]
async fn listed_pages_may_use_credentials_and_no_others() {
    let listed = "[server]\nallowed_origins = [\"https://app.example\"]\n";
    let server = Server::new(&format!("{listed}{}", issuer::config())).await;
    let cookie = format!("id={}", issuer::token("ann", &json!({})));
    for (origin, may) in [("https://app.example", true), ("https://evil.example", false), ("null", false)] {
        let preflight = server.client.request(reqwest::Method::OPTIONS, server.url("/v1/tickets"));
        let preflight = preflight.header("origin", origin).header("access-control-request-method", "POST");
        let preflight = preflight.header("access-control-request-headers", "content-type");
        let asked = server.get("/v1/models").header("origin", origin).header("cookie", &cookie);
        for request in [preflight, asked] {
            let response = server.send(request).await;
            let header =
                |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(header("access-control-allow-origin"), may.then(|| origin.to_owned()), "{origin}");
            assert!(header("vary").unwrap_or_default().to_lowercase().contains("origin"), "{origin}");
            if may {
                // Never for everybody: the origin is named, and credentials are for it.
                assert_eq!(header("access-control-allow-credentials").as_deref(), Some("true"));
            }
        }
    }
    server.finish().await;
}
