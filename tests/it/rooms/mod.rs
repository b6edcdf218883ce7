//! Many people in one session: what they say, who is there, and what everybody sees of it.

mod documented;
mod limits;
mod model;
mod notifications;
mod presence;
mod talk;

use serde_json::{Value, json};

use crate::harness::Server;
use crate::harness::socket::Socket;

/// Everyone's key is their name. Ann names the rooms; the others were invited, vic to watch.
const PEOPLE: &str = r#"
[[auth.keys]]
key = "ann"
user = "ann"
[[auth.keys]]
key = "bob"
user = "bob"
role = "member"
sessions = ["*"]
[[auth.keys]]
key = "cyd"
user = "cyd"
role = "member"
sessions = ["*"]
[[auth.keys]]
key = "vic"
user = "vic"
role = "viewer"
sessions = ["*"]
"#;

/// A server for these people, with a session `room-1` of ann's.
async fn open_room(config: &str) -> Server {
    let server = Server::new(&format!("{config}\n{PEOPLE}")).await;
    name(&server).await;
    server
}

/// Makes `room-1` ann's.
async fn name(server: &Server) {
    let (first, _) = enter(server, "ann", &[]).await;
    first.leave().await;
}

async fn socket(server: &Server, user: &str) -> Socket {
    Socket::open(server, "room-1", &[("authorization", &format!("Bearer {user}"))]).await.unwrap()
}

/// Into `room-1` with these positions; returns the `welcome` too.
async fn enter(server: &Server, user: &str, after: &[(&str, &str)]) -> (Socket, Value) {
    let mut socket = socket(server, user).await;
    socket.hello(after).await;
    let welcome = socket.expect("welcome").await;
    (socket, welcome)
}

/// Says it and waits for the `ack`; returns its position.
async fn say(socket: &mut Socket, id: &str, content: &str) -> String {
    socket.say(&json!({"type": "text", "id": id, "data": {"content": content}})).await;
    let ack = socket.until("ack").await.pop().unwrap();
    assert_eq!(ack["id"], id);
    ack["position"].as_str().unwrap().to_owned()
}

fn content(message: &Value) -> &str {
    message["data"]["content"].as_str().unwrap_or_else(|| panic!("no content: {message}"))
}
