//! Handshakes: what is answered by 101, what is refused and how, and extensions that are not there.

use super::wire::{Wire, request};
use crate::harness::Server;

/// The answer's status and head to a request with these lines.
async fn shake(server: &Server, changes: &[(&str, Option<&str>)]) -> (u16, String) {
    let (head, _) = Wire::shake(server, &request(server, changes)).await;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {head:?}")), head.to_lowercase())
}

#[tokio::test]
async fn a_proper_handshake_is_answered_with_the_keys_digest() {
    let server = Server::demo().await;
    let proper: [&[(&str, Option<&str>)]; 5] = [
        &[],
        &[("Upgrade", Some("WebSocket"))],
        &[("Connection", Some("keep-alive, upgrade"))],
        &[("Sec-WebSocket-Protocol", Some("other, relaystream.v1"))],
        &[("Sec-WebSocket-Extensions", Some("permessage-deflate; client_max_window_bits, x-other"))],
    ];
    for changes in proper {
        let (status, head) = shake(&server, changes).await;
        assert_eq!(status, 101, "{changes:?}: {head}");
        // The example of RFC 6455, section 1.3.
        assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        // No extension is agreed upon.
        assert!(!head.contains("sec-websocket-extensions"), "{head}");
        let named = changes.iter().any(|(name, _)| *name == "Sec-WebSocket-Protocol");
        assert_eq!(head.contains("sec-websocket-protocol: relaystream.v1"), named, "{head}");
    }
    server.finish().await;
}

#[tokio::test]
async fn what_is_no_handshake_is_refused() {
    let server = Server::demo().await;
    let wrong: [(&str, Option<&str>); 8] = [
        ("Upgrade", None),
        ("Upgrade", Some("h2c")),
        ("Connection", None),
        ("Connection", Some("keep-alive")),
        ("Sec-WebSocket-Key", None),
        ("Sec-WebSocket-Version", None),
        ("Sec-WebSocket-Version", Some("8")),
        ("Host", None),
    ];
    for change in wrong {
        let (status, head) = shake(&server, &[change]).await;
        assert!((400..=426).contains(&status), "{change:?}: {head}");
    }
    server.finish().await;
}
