//! Event streams that fall silent, as bytes on HTTP/1.1: hyper begins them, we go on, and hyper gets the connection back.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{FakeProvider, Gate, Script, Server, chat, hi, soon};

/// Reads until the text that came ends with `end`; that text.
async fn until(socket: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let byte = soon(end, socket.read_u8()).await;
        text.push(byte.unwrap_or_else(|error| panic!("{error} after {}", String::from_utf8_lossy(&text))));
    }
    String::from_utf8(text).unwrap()
}

async fn rest(socket: &mut TcpStream) -> String {
    let mut text = String::new();
    soon("the connection's end", socket.read_to_string(&mut text)).await.unwrap();
    text
}

const LAST_CHUNK: &str = "\r\n0\r\n\r\n";

#[tokio::test]
async fn a_connection_serves_on_after_a_stream_that_waited() {
    let gate = Gate::default();
    let waiting = Script::stream().token("Hel").wait(&gate).token("lo").finish();
    let provider = FakeProvider::new([waiting.clone(), waiting.clone(), waiting]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let head = format!("GET /v1/streams/{id}/events HTTP/1.1\r\nhost: {}\r\n", server.address);
    let look = head.replace("GET", "HEAD");
    socket.write_all(format!("{look}\r\n").as_bytes()).await.unwrap();
    assert!(until(&mut socket, "\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
    socket.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    let begun = until(&mut socket, "{\"text\":\"Hel\"}\n\n\r\n").await.to_ascii_lowercase();
    assert!(begun.contains("transfer-encoding: chunked\r\n") && begun.contains("\r\ndate: "), "{begun}");
    // The next requests come while the first is being answered: larger than what is read of them by then.
    let padding = "x".repeat(500);
    let next = format!("GET /healthz HTTP/1.1\r\nhost: {}\r\nx-padding: {padding}\r\n\r\n", server.address);
    socket.write_all(next.as_bytes()).await.unwrap();
    let body = chat().to_string();
    let chat = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        server.address,
        body.len()
    );
    socket.write_all(chat.as_bytes()).await.unwrap();
    gate.open();
    let ended = until(&mut socket, LAST_CHUNK).await;
    assert!(ended.contains("{\"text\":\"lo\"}") && ended.contains("event: done"), "{ended}");
    let health = until(&mut socket, "\r\n\r\n").await;
    assert!(health.starts_with("HTTP/1.1 200 "), "{health}");
    let forwarded = until(&mut socket, "null}]}\n\n\r\n").await;
    assert!(forwarded.contains("HTTP/1.1 200 ") && forwarded.contains("Hel"), "{forwarded}");
    gate.open();
    assert!(until(&mut socket, LAST_CHUNK).await.contains("[DONE]"));
    // A client that asks for it is closed after its answer.
    let id = server.start(&hi()).await;
    let head = format!("GET /v1/streams/{id}/events HTTP/1.1\r\nhost: {}\r\n", server.address);
    socket.write_all(format!("{head}Connection: Close\r\n\r\n").as_bytes()).await.unwrap();
    until(&mut socket, "{\"text\":\"Hel\"}\n\n\r\n").await;
    gate.open();
    assert!(rest(&mut socket).await.ends_with(LAST_CHUNK));
    server.finish().await;
}

#[tokio::test]
async fn http_1_0_gets_no_chunks() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::stream().token("Hel").wait(&gate).token("lo").finish()]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let head = format!("GET /v1/streams/{id}/events HTTP/1.0\r\nhost: {}\r\n\r\n", server.address);
    socket.write_all(head.as_bytes()).await.unwrap();
    until(&mut socket, "{\"text\":\"Hel\"}\n\n").await;
    gate.open();
    let ended = rest(&mut socket).await;
    assert!(ended.starts_with("id: ") && ended.ends_with("}\n\n"), "{ended}");
    server.finish().await;
}

#[tokio::test]
async fn a_connection_that_waits_is_closed_after_its_answer_when_the_server_stops() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::stream().token("Hel").wait(&gate).token("lo").finish()]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&hi()).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let head = format!("GET /v1/streams/{id}/events HTTP/1.1\r\nhost: {}\r\n\r\n", server.address);
    socket.write_all(head.as_bytes()).await.unwrap();
    until(&mut socket, "{\"text\":\"Hel\"}\n\n\r\n").await;
    server.stop();
    gate.open();
    assert!(rest(&mut socket).await.ends_with(LAST_CHUNK));
    server.finish().await;
}
