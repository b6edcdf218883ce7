//! Connections to a provider: how many there may be, how many are kept, and that none follows a redirect.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use axum::http::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Barrier;

use super::{PLAIN, ask, done, model, notices, replay};
use crate::harness::provider::{closing, frame};
use crate::harness::sse::text_of;
use crate::harness::{Answer, FakeProvider, Gate, Script, Server, chat, eventually};

/// The pool's settings follow the last section's own, which are a provider's.
fn pooled(provider: &FakeProvider, pool: &str, settings: &str) -> String {
    format!("{}pool = {{ {pool} }}\n", model(&[("a", provider)], settings))
}

fn said(n: usize) -> Value {
    json!({"model": "m", "input": n.to_string()})
}

#[tokio::test]
async fn who_finds_all_connections_in_use_waits_in_line() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::stream().token("x").wait(&gate).finish()]).await;
    let server = Server::new(&pooled(&provider, "max_connections = 2", PLAIN)).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(server.start(&said(n)).await);
        if n < 2 {
            provider.request(n).await;
        }
    }
    for n in 2..5 {
        assert_eq!(provider.calls(), n, "two are at work, the others wait");
        gate.open();
        let next = provider.request(n).await.body();
        assert_eq!(next["messages"][0]["content"], n.to_string(), "in order");
    }
    gate.open();
    gate.open();
    for id in ids {
        assert_eq!(server.ended(&id).await["text"], "x");
    }
    server.finish().await;
}

#[tokio::test]
async fn who_waits_for_too_long_goes_elsewhere_or_is_told_and_the_provider_is_not_blamed() {
    let gate = Gate::default();
    let busy = FakeProvider::new([Script::stream().token("x").wait(&gate).finish()]).await;
    let next = FakeProvider::new([Script::answer(&["y"])]).await;
    let settings = "timeouts = { connect_ms = 50 }\nretry = { attempts = 1 }\nbreaker = { failures = 1, open_ms = 3600000 }";
    let two = model(&[("a", &busy), ("b", &next)], settings);
    let two = two.replace("[providers.b]", "pool = { max_connections = 1 }\n[providers.b]");
    let alone = "[models.alone]\ntargets = [{ provider = \"a\", model = \"fake-1\" }]\n";
    let config = format!("{alone}{settings}\n{two}");
    let server = Server::new(&config).await;
    let first = server.start(&ask()).await;
    busy.request(0).await;
    let events = replay(&server, &ask()).await;
    assert_eq!((text_of(&events).as_str(), notices(&events)[0].0.as_str()), ("y", "fallback"));
    let events = replay(&server, &json!({"model": "alone", "input": "Hi"})).await;
    assert_eq!(done(&events)["error"]["code"], "connect_timeout");
    assert_eq!((busy.calls(), server.app.relay.health.report()), (1, Vec::new()));
    gate.open();
    assert_eq!(server.ended(&first).await["text"], "x");
    server.finish().await;
}

/// Answers on connections that it keeps, two requests at a time; returns how many were opened, and how many are open.
async fn keeping() -> (SocketAddr, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (opened, open, both) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(2)));
    let counts = (opened.clone(), open.clone());
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let ((opened, open), both) = (counts.clone(), both.clone());
            opened.fetch_add(1, SeqCst);
            open.fetch_add(1, SeqCst);
            let answer = service_fn(move |_| {
                let both = both.clone();
                async move {
                    both.wait().await;
                    let answer = Response::builder().header("content-type", "text/event-stream");
                    Ok::<_, Infallible>(answer.body(frame("x") + &closing()).unwrap())
                }
            });
            tokio::spawn(async move {
                let _however_it_ends =
                    http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
                open.fetch_sub(1, SeqCst);
            });
        }
    });
    (address, opened, open)
}

async fn two_at_once(server: &Server) {
    for id in [server.start(&said(1)).await, server.start(&said(2)).await] {
        assert_eq!(server.ended(&id).await["text"], "x");
    }
}

#[tokio::test]
async fn as_many_idle_connections_are_kept_as_may_be() {
    let (address, opened, open) = keeping().await;
    for (pool, kept) in [("max_idle = 1", 1), ("max_idle = 2", 2), ("idle_timeout_ms = 20", 0)] {
        let config = format!(
            "[models.m]\ntargets = [{{ provider = \"a\", model = \"x\" }}]\n\
             [providers.a]\ndialect = \"openai-chat\"\nbase_url = \"http://{address}/v1\"\npool = {{ {pool} }}\n"
        );
        let server = Server::new(&config).await;
        let before = opened.load(SeqCst);
        two_at_once(&server).await;
        eventually(pool, || open.load(SeqCst) == kept).await;
        two_at_once(&server).await;
        assert_eq!(opened.load(SeqCst) - before, 4 - kept, "{pool}");
        server.finish().await;
        eventually("its connections go with the server", || open.load(SeqCst) == 0).await;
    }
}

#[tokio::test]
async fn redirects_are_not_followed_so_that_keys_stay_where_they_belong() {
    for status in [301, 302, 303, 307, 308] {
        let elsewhere = FakeProvider::new([Script::answer(&["x"])]).await;
        let to = format!("{}/chat/completions", elsewhere.base_url());
        let provider = FakeProvider::new([Script::status(status, &[("location", &to)], "")]).await;
        let server = Server::new(&model(&[("a", &provider)], PLAIN)).await;
        let mut chat = chat();
        chat["model"] = "m".into();
        let answer = Answer::of(server.send(server.post("/v1/chat/completions", &chat)).await).await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_status"), "{status}");
        assert_eq!((provider.calls(), elsewhere.calls()), (1, 0), "{status}");
        assert!(!answer.text.contains(&to), "{}", answer.text);
        server.finish().await;
    }
}
