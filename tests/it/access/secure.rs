//! TLS in process, over real sockets: both protocols, event streams, sockets, and certificates that change.

use std::path::Path;
use std::sync::Arc;

use axum::http::{Method, Request, Version};
use bytes::Bytes;
use h2::ext::Protocol;
use rcgen::{CertifiedKey, KeyPair};
use relaystream::tls::{self, certificates};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::binary::Binary;
use crate::harness::{Answer, FakeProvider, Gate, Script, Server, Sse, hi, soon};

type Made = CertifiedKey<KeyPair>;

fn made() -> Made {
    rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap()
}

/// Writes the pair, and what the configuration says about it.
fn put(folder: &Path, made: &Made) -> String {
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    format!("[tls]\ncert = {cert:?}\nkey = {key:?}\n")
}

/// With TLS, and the demo provider.
pub async fn served_with(folder: &TempDir, made: &Made) -> Server {
    Server::new(&put(folder.path(), made)).await
}

fn trusting(made: &Made) -> rustls::ClientConfig {
    tls::config(&certificates(made.cert.pem().as_bytes()).unwrap()).unwrap()
}

/// A client that trusts this certificate and speaks these protocols, most liked first.
fn client(made: &Made, protocols: &[&str]) -> reqwest::Client {
    let mut config = trusting(made);
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    tls::client().tls_backend_preconfigured(config).build().unwrap()
}

/// A connection with this protocol, or none agreed on.
async fn connect(
    address: &str,
    made: &Made,
    protocol: Option<&str>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = trusting(made);
    config.alpn_protocols = protocol.iter().map(|name| name.as_bytes().to_vec()).collect();
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await
}

#[tokio::test]
async fn http_1_and_2_are_agreed_on_and_everything_works_over_both() {
    let (folder, made, gate) = (tempfile::tempdir().unwrap(), made(), Gate::default());
    let provider = FakeProvider::new([Script::stream().token("Hel").wait(&gate).token("lo").finish()]).await;
    let server = Server::before(&provider, &put(folder.path(), &made)).await;
    let url = |path: &str| format!("https://{}{path}", server.address);
    let mut viewers = Vec::new();
    let clients = [client(&made, &["http/1.1"]), client(&made, &["h2", "http/1.1"])];
    let ask = clients[0].post(url("/v1/streams")).body(hi().to_string());
    let id = Answer::of(server.send(ask).await).await.json()["id"].as_str().unwrap().to_owned();
    for (client, version) in clients.iter().zip([Version::HTTP_11, Version::HTTP_2]) {
        let response = server.send(client.get(url(&format!("/v1/streams/{id}/events")))).await;
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
        let mut viewer = Sse::new(response);
        viewer.until("token").await;
        viewers.push(viewer);
    }
    // It waits now: on HTTP/1.1 its body is lent no more.
    gate.open();
    for viewer in &mut viewers {
        let events = viewer.until("done").await;
        assert_eq!(events[0].json()["text"], "lo");
        assert!(viewer.rest().await.is_empty());
    }
    // And the connection goes on after it.
    for client in &clients {
        let again = Answer::of(server.send(client.get(url(&format!("/v1/streams/{id}")))).await).await;
        assert_eq!(again.json()["text"], "Hello");
    }
    // Pages of its own are those of https; without TLS nobody is answered.
    for (origin, status) in [("https", 200), ("http", 403)] {
        let origin = format!("{origin}://{}", server.address);
        // Over loopback either is let in by open access: a name is not.
        let named = origin.replace("127.0.0.1", "relay.example");
        let host = named.split("://").nth(1).unwrap().to_owned();
        let request = clients[0].get(url("/healthz")).header("origin", named).header("host", host);
        let answer = Answer::of(server.send(request).await).await;
        let refused = answer.text.contains("pages of this origin");
        assert_eq!(refused, status == 403, "{origin}: {}", answer.text);
    }
    assert!(reqwest::Client::get(&server.client, server.url("/healthz")).send().await.is_err());
    drop((viewers, clients));
    server.finish().await;
}

#[tokio::test]
async fn sockets_work_over_tls() {
    let (folder, made) = (tempfile::tempdir().unwrap(), made());
    let server = served_with(&folder, &made).await;
    let address = server.address.to_string();
    let stream = soon("a handshake", connect(&address, &made, Some("http/1.1"))).await.unwrap();
    let request = format!("wss://{address}/v1/sessions/room/ws").into_client_request().unwrap();
    let (mut socket, _) = soon("a socket", client_async(request, stream)).await.unwrap();
    use futures_util::{SinkExt, StreamExt};
    socket.send(Message::text(json!({"type": "hello", "data": {}}).to_string())).await.unwrap();
    let welcome = soon("welcome", socket.next()).await.unwrap().unwrap().into_text().unwrap();
    assert!(welcome.contains("welcome"));
    socket.close(None).await.unwrap();
    // The close is answered before the connection goes.
    let answer = soon("the close's answer", socket.next()).await.unwrap().unwrap();
    assert!(matches!(answer, Message::Close(_)), "{answer:?}");
    let more = soon("the end", socket.next()).await;
    assert!(!matches!(more, Some(Ok(_))), "{more:?}");
    server.finish().await;
}

/// A text frame of a client, its mask all zeros.
fn frame(text: &str) -> Bytes {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 126).expect("a short text");
    [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat().into()
}

/// Browsers open sockets over the HTTP/2 connection that they have (RFC 8441).
#[tokio::test]
async fn sockets_work_over_http_2() {
    let (folder, made) = (tempfile::tempdir().unwrap(), made());
    let server = served_with(&folder, &made).await;
    let address = server.address.to_string();
    let stream = soon("a handshake", connect(&address, &made, Some("h2"))).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut client = soon("its turn", client.ready()).await.unwrap();
    crate::harness::eventually("word of the server", || client.is_extended_connect_protocol_enabled()).await;
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://{address}/v1/sessions/room/ws"))
        .version(Version::HTTP_2)
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "relaystream.v1")
        .header("origin", format!("https://{address}"))
        .body(())
        .unwrap();
    let (answer, mut send) = client.send_request(request, false).unwrap();
    let answer = soon("an answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "relaystream.v1");
    send.send_data(frame(&json!({"type": "hello", "data": {}}).to_string()), false).unwrap();
    let mut body = answer.into_body();
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains("\"welcome\"") {
        heard.extend_from_slice(&soon("welcome", body.data()).await.unwrap().unwrap());
    }
    send.send_data(Bytes::from_static(&[0x88, 0x80, 0, 0, 0, 0]), false).unwrap();
    // The close is answered, and the stream ends: a browser waits for both.
    let mut answer = Vec::new();
    while let Some(data) = soon("the close's answer", body.data()).await {
        answer.extend_from_slice(&data.unwrap());
    }
    assert_eq!(answer, [0x88, 0]);
    drop((send, body, client));
    soon("the connection's end", connection).await.unwrap().unwrap();
    server.finish().await;
}

#[tokio::test]
async fn proxies_may_speak_http_2_in_the_clear() {
    let provider = FakeProvider::new([Script::answer(&["Hel", "lo"])]).await;
    let server = Server::before(&provider, "").await;
    let client = tls::client().http2_prior_knowledge().build().unwrap();
    let id = server.start(&hi()).await;
    let response = server.send(client.get(server.url(&format!("/v1/streams/{id}/events")))).await;
    assert_eq!((response.status().as_u16(), response.version()), (200, Version::HTTP_2));
    assert_eq!(Sse::new(response).rest().await.last().unwrap().event, "done");
    drop(client);
    server.finish().await;
}

/// Whether a new connection is met with this certificate.
async fn met_with(binary: &Binary, made: &Made) -> bool {
    soon("a handshake", connect(&binary.address, made, None)).await.is_ok()
}

async fn until_met_with(binary: &Binary, made: &Made) {
    let met = async {
        while !met_with(binary, made).await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    soon("the new certificate", met).await;
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_restart_and_drops_nobody() {
    let gate = Gate::default();
    let provider = FakeProvider::new([Script::stream().token("Hel").wait(&gate).token("lo").finish()]).await;
    let (folder, certificates) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let [first, second, third] = [made(), made(), made()];
    let config = format!("{}{}", provider.config(), put(certificates.path(), &first));
    std::fs::write(folder.path().join("config.toml"), config).unwrap();
    let binary = Binary::serving(&folder, &["--config", "config.toml"], &[]).await;
    let url = |path: &str| format!("https://{}{path}", binary.address);
    let mut viewers = Vec::new();
    let clients = [client(&first, &["http/1.1"]), client(&first, &["h2"])];
    let ask = clients[0].post(url("/v1/streams")).body(hi().to_string());
    let started: Value =
        serde_json::from_str(&soon("a start", ask.send()).await.unwrap().text().await.unwrap()).unwrap();
    for client in &clients {
        let path = format!("/v1/streams/{}/events", started["id"].as_str().unwrap());
        let mut viewer = Sse::new(soon("an answer", client.get(url(&path)).send()).await.unwrap());
        viewer.until("token").await;
        viewers.push(viewer);
    }
    // The files change; nobody says anything.
    put(certificates.path(), &second);
    until_met_with(&binary, &second).await;
    assert!(!met_with(&binary, &first).await);
    // One without the other is a mistake, which changes nothing.
    std::fs::write(certificates.path().join("cert.pem"), third.cert.pem()).unwrap();
    binary.signal("HUP");
    binary.until_it_says("not reloaded").await;
    assert!(met_with(&binary, &second).await);
    std::fs::write(certificates.path().join("key.pem"), third.signing_key.serialize_pem()).unwrap();
    binary.signal("HUP");
    until_met_with(&binary, &third).await;
    // Other files are named, and from then on it is they that count.
    let elsewhere = tempfile::tempdir().unwrap();
    let [fourth, fifth] = [made(), made()];
    let config = format!("{}{}", provider.config(), put(elsewhere.path(), &fourth));
    std::fs::write(folder.path().join("config.toml"), config).unwrap();
    until_met_with(&binary, &fourth).await;
    put(elsewhere.path(), &fifth);
    until_met_with(&binary, &fifth).await;
    gate.open();
    for viewer in &mut viewers {
        assert_eq!(viewer.until("done").await[0].json()["text"], "lo");
    }
    drop((viewers, clients));
    binary.signal("TERM");
    assert!(binary.exit().await.success());
}
