//! Tokens checked with a key set that is fetched: rotation, storms of unknown keys, and a provider that fails.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use relaystream::app::entry::now_s;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::issuer;
use crate::harness::{Answer, Server, eventually};

/// A key that the identity provider signs with.
struct Pair {
    id: String,
    pair: Ed25519KeyPair,
}

impl Pair {
    fn new(id: &str) -> Pair {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Pair { id: id.into(), pair: Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap() }
    }

    fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key());
        json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.id, "x": x})
    }

    fn token(&self) -> String {
        let header = json!({"alg": "EdDSA", "kid": self.id});
        let signed = issuer::unsigned(&header, &issuer::claims("ann", &json!({}), now_s() + 3600));
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// Serves a document, and counts how often it was asked for.
#[derive(Clone)]
struct Provider {
    url: String,
    shown: Arc<Mutex<(u16, String)>>,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    async fn showing(keys: &[&Pair]) -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let provider = Provider { url, shown: Arc::default(), asked: Arc::default() };
        provider.show(keys);
        let router = Router::new().route("/keys", get(answer)).route("/elsewhere", get(elsewhere));
        let router = router.with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        provider
    }

    fn show(&self, keys: &[&Pair]) {
        let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
        self.answer(200, &json!({"keys": keys}).to_string());
    }

    fn answer(&self, status: u16, text: &str) {
        *self.shown.lock().unwrap() = (status, text.to_owned());
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    fn config(&self) -> String {
        format!(
            "[auth.jwt]\njwks_url = \"{}\"\nalg = \"EdDSA\"\nissuer = \"test\"\naudience = \"relaystream\"\n",
            self.url
        )
    }
}

async fn answer(State(provider): State<Provider>) -> impl IntoResponse {
    provider.asked.fetch_add(1, SeqCst);
    let (status, text) = provider.shown.lock().unwrap().clone();
    (axum::http::StatusCode::from_u16(status).unwrap(), [("location", "/elsewhere")], text)
}

async fn elsewhere(State(provider): State<Provider>) -> String {
    provider.shown.lock().unwrap().1.clone()
}

async fn come(server: &Server, token: &str) -> Answer {
    Answer::of(server.send(server.get("/v1/prompts").bearer_auth(token)).await).await
}

#[tokio::test]
async fn keys_are_rotated_without_a_restart_and_guesses_ask_nobody() {
    let (a, b, c) = (Pair::new("a"), Pair::new("b"), Pair::new("c"));
    let provider = Provider::showing(&[&a]).await;
    let server = Server::new(&provider.config()).await;
    eventually("the first keys", || !server.app.key_sets.current().keys.is_empty()).await;
    assert_eq!(come(&server, &a.token()).await.status, 200);
    assert_eq!(provider.asked(), 1);
    provider.show(&[&a, &b]);
    assert_eq!(come(&server, &b.token()).await.status, 200);
    assert_eq!(come(&server, &a.token()).await.status, 200);
    assert_eq!(provider.asked(), 2);
    for guess in 0..20 {
        assert_eq!(come(&server, &Pair::new(&format!("guess-{guess}")).token()).await.status, 401);
    }
    // Named like a known key, signed with another.
    assert_eq!(come(&server, &Pair::new("a").token()).await.status, 401);
    // One look in a while, whoever asks.
    provider.show(&[&c]);
    assert_eq!(come(&server, &c.token()).await.status, 401);
    assert_eq!(provider.asked(), 2);
    server.finish().await;
}

#[tokio::test]
async fn a_provider_that_fails_shuts_nobody_out_whose_key_is_known() {
    let (a, b) = (Pair::new("a"), Pair::new("b"));
    let provider = Provider::showing(&[&a]).await;
    let server = Server::new(&provider.config()).await;
    eventually("the first keys", || !server.app.key_sets.current().keys.is_empty()).await;
    provider.answer(500, "no");
    assert_eq!(come(&server, &b.token()).await.status, 401);
    assert_eq!(provider.asked(), 2);
    assert_eq!(come(&server, &a.token()).await.status, 200);
    // Another provider's keys are not this one's.
    let other = Provider::showing(&[&b]).await;
    server.reload(&other.config());
    assert_eq!(come(&server, &b.token()).await.status, 200);
    assert_eq!(come(&server, &a.token()).await.status, 401);
    server.finish().await;
}

#[tokio::test]
async fn asking_again_and_again_does_not_put_off_the_next_try() {
    let provider = Provider::showing(&[]).await;
    let server = Server::new(&provider.config()).await;
    eventually("the first try", || provider.asked() == 1).await;
    server.app.key_sets.ask().await;
    eventually("the try that was asked for", || provider.asked() == 2).await;
    let asked_at = Instant::now();
    while provider.asked() == 2 {
        // Well before asking counts again, which is after 30 s.
        assert!(asked_at.elapsed() < Duration::from_secs(20));
        server.app.key_sets.ask().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.finish().await;
}

#[tokio::test]
async fn without_any_keys_yet_clients_are_told_to_come_again() {
    let a = Pair::new("a");
    let good = json!({"keys": [a.jwk()]}).to_string();
    for (status, text) in [
        (500, good.clone()),
        // Nobody is followed to where another address may stand.
        (302, good.clone()),
        (200, format!("{good}{}", " ".repeat(300_000))),
        (200, "{\"keys\": []}".into()),
        (200, "<html>".into()),
    ] {
        let provider = Provider::showing(&[]).await;
        provider.answer(status, &text);
        let server = Server::new(&provider.config()).await;
        let answer = come(&server, &a.token()).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "keys_unavailable"), "{status} {text:.20}");
        assert!(!answer.header("retry-after").is_empty());
        let request =
            server.get("/v1/sessions/room/events").bearer_auth(a.token()).header("last-event-id", "x");
        let notice = server.sse_of(request).await.rest().await;
        assert_eq!(notice[0].json()["code"], "keys_unavailable");
        server.finish().await;
    }
}
