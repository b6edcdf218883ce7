//! A provider over HTTP/2: many streams share a connection, and there are as many connections as that takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::ask;
use crate::harness::provider::{closing, frame};
use crate::harness::{Server, eventually};

/// Answers every request with a token, and with the rest once it is let.
pub async fn provider(gate: Arc<Semaphore>, connections: Arc<AtomicUsize>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            connections.fetch_add(1, SeqCst);
            let gate = gate.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let gate = gate.clone();
                    tokio::spawn(async move {
                        let head =
                            axum::http::Response::builder().header("content-type", "text/event-stream");
                        let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
                        body.send_data(Bytes::from(frame("Hel")), false).unwrap();
                        let _through = gate.acquire().await.unwrap();
                        let rest = Bytes::from(frame("lo") + &closing());
                        let _client_may_have_left = body.send_data(rest, true);
                    });
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_hundred_streams_share_a_connection_and_the_next_ones_have_another() {
    const STREAMS: usize = 130;
    let (gate, connections) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let address = provider(gate.clone(), connections.clone()).await;
    let config = format!(
        "[models.m]\ntargets = [{{ provider = \"a\", model = \"x\" }}]\n\
         [providers.a]\ndialect = \"openai-chat\"\nbase_url = \"http://{address}/v1\"\nhttp2 = true\n"
    );
    let server = Server::new(&config).await;
    let mut ids = Vec::new();
    for _ in 0..STREAMS {
        ids.push(server.start(&ask()).await);
    }
    eventually("the first words", || server.metric("relaystream_tokens_total") >= STREAMS as f64).await;
    assert_eq!(connections.load(SeqCst), 2);
    gate.add_permits(STREAMS);
    for id in ids {
        assert_eq!(server.ended(&id).await["text"], "Hello");
    }
    // Places on connections are given back.
    let id = server.start(&ask()).await;
    assert_eq!(server.ended(&id).await["text"], "Hello");
    assert_eq!(connections.load(SeqCst), 2);
    server.finish().await;
}

#[tokio::test]
async fn no_more_connections_are_opened_than_may_be() {
    const STREAMS: usize = 130;
    let (gate, connections) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let address = provider(gate.clone(), connections.clone()).await;
    let config = format!(
        "[models.m]\ntargets = [{{ provider = \"a\", model = \"x\" }}]\ntimeouts = {{ connect_ms = 0 }}\n\
         [providers.a]\ndialect = \"openai-chat\"\nbase_url = \"http://{address}/v1\"\nhttp2 = true\n\
         pool = {{ max_connections = 1 }}\n"
    );
    let server = Server::new(&config).await;
    let mut ids = Vec::new();
    for _ in 0..STREAMS {
        ids.push(server.start(&ask()).await);
    }
    eventually("the first hundred", || server.metric("relaystream_tokens_total") >= 100.0).await;
    gate.add_permits(STREAMS);
    for id in ids {
        assert_eq!(server.ended(&id).await["text"], "Hello");
    }
    assert_eq!(connections.load(SeqCst), 1);
    server.finish().await;
}
