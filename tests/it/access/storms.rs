//! Clients that do not stop: wrong credentials again and again, guesses, heads that never end.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::issuer;
use crate::harness::socket::Socket;
use crate::harness::{Answer, Server, soon};

fn config() -> String {
    let trusted = "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    format!("{trusted}{}[[auth.keys]]\nkey = \"good\"\nuser = \"ann\"\n", issuer::config())
}

async fn get(server: &Server, credential: &str, from: &str) -> Answer {
    let request = server.get("/v1/prompts").bearer_auth(credential).header("x-forwarded-for", from);
    Answer::of(server.send(request).await).await
}

#[tokio::test]
async fn the_same_wrong_credential_is_not_looked_at_for_ever() {
    let server = Server::new(&config()).await;
    let stale = issuer::lasting("ann", &json!({}), 0);
    for attempt in 0..10 {
        let from = format!("10.0.0.{attempt}");
        assert_eq!(get(&server, &stale, &from).await.status, 401);
    }
    let limited = get(&server, &stale, "10.0.1.1").await;
    assert_eq!((limited.status, limited.code().as_str()), (429, "rate_limited"));
    assert!((1..=7).contains(&limited.header("retry-after").parse::<u64>().unwrap()));
    assert!(!limited.text.contains(&stale));
    // A socket is told to back off, and an EventSource when to come again.
    let offered = format!("relaystream.v1, bearer.{stale}");
    let mut socket = Socket::open(&server, "room", &[("sec-websocket-protocol", &offered)]).await.unwrap();
    assert_eq!(socket.closed().await, 4101);
    let request = server.get("/v1/sessions/room/events").bearer_auth(&stale).header("last-event-id", "x");
    let notice = server.sse_of(request).await.rest().await;
    assert_eq!((notice[0].event.as_str(), &notice[0].json()["code"]), ("notice", &json!("rate_limited")));
    // Others go on.
    assert_eq!(get(&server, &issuer::token("ann", &json!({})), "10.0.0.1").await.status, 200);
    server.finish().await;
}

#[tokio::test]
async fn an_address_that_guesses_is_shut_out_but_not_who_was_good_there() {
    let server = Server::new(&config()).await;
    assert_eq!(get(&server, "good", "10.0.0.1").await.status, 200);
    let mut answers = Vec::new();
    for guess in 0..70 {
        answers.push(get(&server, &format!("guess-{guess}"), "10.0.0.1").await.status);
    }
    assert!(answers[..60].iter().all(|status| *status == 401), "{answers:?}");
    assert!(answers[60..].contains(&429), "{answers:?}");
    let token = issuer::token("ann", &json!({}));
    assert_eq!(get(&server, "good", "10.0.0.1").await.status, 200);
    assert_eq!(get(&server, &token, "10.0.0.2").await.status, 200);
    assert_eq!(get(&server, &token, "10.0.0.1").await.status, 200, "it was good elsewhere");
    // A ticket is a credential too, and no credential at all is no guess.
    let nothing = server.get("/v1/prompts").header("x-forwarded-for", "10.0.0.1");
    assert_eq!(server.send(nothing).await.status(), 401);
    server.finish().await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_not_waited_for() {
    let plain = Server::demo().await;
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tls = super::secure::served_with(&folder, &made).await;
    let silent = async |server: &Server, begin: &[u8], drip: &[u8]| {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(begin).await.unwrap();
        let mut answer = Vec::new();
        loop {
            tokio::select! {
                read = socket.read_buf(&mut answer) => if read.map_or(true, |read| read == 0) { return answer },
                () = tokio::time::sleep(Duration::from_millis(500)) => {
                    let _closed_already = socket.write_all(drip).await;
                }
            }
        }
    };
    let head = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ";
    let all = async {
        tokio::join!(
            silent(&plain, head, b"a"),
            silent(&plain, b"", b""),
            silent(&plain, b"PRI * HTTP", b""),
            silent(&tls, b"", b""),
            silent(&tls, b"\x16\x03\x01", b""),
        )
    };
    let answers = soon("every one of them to be sent away", all).await;
    assert!(!String::from_utf8_lossy(&answers.0).contains("200 OK"));
    for server in [plain, tls] {
        server.finish().await;
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = Server::demo().await;
    let request = server.get("/healthz").header("x-large", "a".repeat(100_000));
    assert_eq!(server.send(request).await.status(), 431);
    server.finish().await;
}
