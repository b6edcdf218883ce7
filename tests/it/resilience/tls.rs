//! Providers over TLS: whom we trust, and HTTP/2 by ALPN.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use serde_json::json;
use tokio::sync::Semaphore;

use super::{PLAIN, ask, done, http2, replay};
use crate::harness::sse::text_of;
use crate::harness::{FakeProvider, Script, Server, TlsFront};

fn model(section: &str) -> String {
    format!("[models.m]\ntargets = [{{ provider = \"a\", model = \"x\" }}]\n{PLAIN}\n{section}")
}

#[tokio::test]
async fn a_certificate_of_ones_own_is_trusted_where_it_was_named_and_nowhere_else() {
    let provider = FakeProvider::new([Script::answer(&["Hel", "lo"])]).await;
    let front = TlsFront::new(provider.address, "http/1.1").await;
    let stranger = TlsFront::new(provider.address, "http/1.1").await;
    let server = Server::new(&model(&front.trusted("a"))).await;
    assert_eq!(text_of(&replay(&server, &ask()).await), "Hello");
    server.finish().await;
    // Nobody's certificate, and another one's.
    let anothers = front.trusted("a").replace(&front.address.to_string(), &stranger.address.to_string());
    for section in [front.distrusted("a"), anothers] {
        let server = Server::new(&model(&section)).await;
        let error = done(&replay(&server, &ask()).await)["error"].clone();
        assert_eq!(error["code"], "connect_failed");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("certificate"), "it says what is wrong: {message}");
        server.finish().await;
    }
    assert_eq!(provider.calls(), 1, "nothing is said to who is not trusted");
}

#[tokio::test]
async fn http2_is_agreed_on_by_alpn_and_by_nothing_less() {
    let (gate, connections) = (Arc::new(Semaphore::new(100)), Arc::new(AtomicUsize::new(0)));
    let provider = http2::provider(gate, connections.clone()).await;
    let two = TlsFront::new(provider, "h2").await;
    let server = Server::new(&model(&format!("{}http2 = true\n", two.trusted("a")))).await;
    for _ in 0..3 {
        assert_eq!(text_of(&replay(&server, &ask()).await), "Hello");
    }
    assert_eq!(connections.load(SeqCst), 1);
    server.finish().await;
    let one = TlsFront::new(provider, "http/1.1").await;
    for section in [two.trusted("a"), format!("{}http2 = true\n", one.trusted("a"))] {
        let server = Server::new(&model(&section)).await;
        assert_eq!(done(&replay(&server, &ask()).await)["error"]["code"], json!("connect_failed"));
        server.finish().await;
    }
    assert_eq!(connections.load(SeqCst), 1);
}
