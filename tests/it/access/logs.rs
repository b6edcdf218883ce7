//! The real program, at its most talkative: no credential reaches its logs.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::issuer;
use crate::binary::Binary;
use crate::harness::{client, soon};

/// The parts of a token by which it would be known.
fn parts(token: &str) -> impl Iterator<Item = String> {
    token.split('.').skip(1).map(str::to_owned)
}

#[tokio::test]
async fn no_key_token_or_ticket_is_ever_logged() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "{}[[auth.keys]]\nkey = \"very-secret-key\"\nuser = \"ann\"\nsessions = [\"*\"]\n",
        issuer::config()
    );
    std::fs::write(folder.path().join("config.toml"), config).unwrap();
    let environment = [("RUST_LOG", "trace")];
    let binary = Binary::serving(&folder, &["--config", "config.toml"], &environment).await;
    let (client, url) = (client(), format!("http://{}", binary.address));
    let http2 = relaystream::tls::client().http2_prior_knowledge().build().unwrap();
    // Over both protocols; the answers must be the same.
    let get = async |path: &str, name: &str, value: &str| {
        let mut statuses = Vec::new();
        for client in [&client, &http2] {
            let request = client.get(format!("{url}{path}")).header(name, value);
            statuses.push(soon("an answer", request.send()).await.unwrap().status().as_u16());
        }
        assert_eq!(statuses[0], statuses[1], "{path}");
        statuses[0]
    };
    let ask = client.post(format!("{url}/v1/tickets")).bearer_auth("very-secret-key");
    let ask = ask.body(json!({"session": "room", "role": "member"}).to_string());
    let ticket: Value =
        serde_json::from_str(&soon("a ticket", ask.send()).await.unwrap().text().await.unwrap()).unwrap();
    let ticket = ticket["ticket"].as_str().unwrap();
    let token = issuer::token("bob", &json!({"room": "member"}));
    let late = issuer::lasting("carol", &json!({}), 0);
    let forged = format!("{}A", issuer::token("dave", &json!({})));
    assert_eq!(get("/v1/models", "authorization", &format!("Bearer {token}")).await, 200);
    assert_eq!(get("/v1/models", "cookie", &format!("id={token}")).await, 200);
    assert_eq!(get("/v1/models", "x-api-key", "very-secret-key").await, 200);
    assert_eq!(get("/v1/models", "x-api-key", "mistyped-secret").await, 401);
    for bad in [&late, &forged] {
        assert_eq!(get("/v1/models", "authorization", &format!("Bearer {bad}")).await, 401);
    }
    assert_eq!(get(&format!("/v1/sessions/room?ticket={ticket}"), "accept", "*/*").await, 200);
    assert_eq!(get("/v1/sessions/room?ticket=made-up-ticket", "accept", "*/*").await, 401);
    assert_eq!(
        get("/v1/chat/stream?prompt=secret-question&ticket=made-up-ticket", "accept", "*/*").await,
        401
    );
    let path = format!("ws://{}/v1/sessions/room/ws?ticket={ticket}", binary.address);
    for offered in ["relaystream.v1".to_owned(), format!("relaystream.v1, bearer.{token}")] {
        let mut request = path.as_str().into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", offered.parse().unwrap());
        let (mut socket, _) = soon("a socket", connect_async(request)).await.unwrap();
        for message in [
            json!({"type": "hello", "data": {}}),
            json!({"type": "auth", "id": "a", "data": {"token": token}}),
            json!({"type": "auth", "id": "b", "data": {"ticket": ticket}}),
        ] {
            socket.send(Message::text(message.to_string())).await.unwrap();
            soon("an answer", socket.next()).await.unwrap().unwrap();
        }
        socket.close(None).await.unwrap();
    }
    binary.signal("TERM");
    let said = binary.exit_saying().await;
    assert!(said.contains("serving") && said.contains("DEBUG"), "it was asked to say everything");
    let secrets =
        ["very-secret-key", "mistyped-secret", "made-up-ticket", "secret-question"].map(str::to_owned);
    let tokens = [&token, &late, &forged].into_iter().flat_map(|token| parts(token));
    for secret in secrets.into_iter().chain(tokens).chain(ticket.split('.').map(str::to_owned)) {
        let told = said.lines().find(|line| line.contains(&secret));
        assert_eq!(told, None, "{secret}");
    }
}
