//! A viewer over WebSocket.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, Response};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::{Server, soon};

pub struct Socket {
    inner: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub response: Response<Option<Vec<u8>>>,
}

/// What came next.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    Json(Value),
    /// A close frame's code and reason; 0 if the connection just ended.
    Close(u16, String),
}

impl Socket {
    /// Opens the session's socket. A refusal is its HTTP status.
    pub async fn open(server: &Server, session: &str, headers: &[(&str, &str)]) -> Result<Socket, u16> {
        Socket::open_at(server, &format!("/v1/sessions/{session}/ws"), headers).await
    }

    /// Opens the socket at this path and query.
    pub async fn open_at(server: &Server, path: &str, headers: &[(&str, &str)]) -> Result<Socket, u16> {
        match Socket::connect(server.address, path, headers).await {
            Ok(socket) => Ok(socket),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Opens it at a node that may not be there just now, and says hello with these positions.
    pub async fn try_enter(
        node: SocketAddr,
        session: &str,
        after: &BTreeMap<String, String>,
    ) -> Option<Socket> {
        let mut socket = Socket::connect(node, &format!("/v1/sessions/{session}/ws"), &[]).await.ok()?;
        let hello = json!({"type": "hello", "data": {"after": after}});
        soon("to be heard", socket.inner.send(Message::text(hello.to_string()))).await.ok()?;
        Some(socket)
    }

    async fn connect(node: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Socket, Error> {
        let mut request = format!("ws://{node}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).unwrap();
            request.headers_mut().insert(name, HeaderValue::try_from(*value).unwrap());
        }
        let (inner, response) = soon("a socket", connect_async(request)).await?;
        Ok(Socket { inner, response })
    }

    /// Opens it, says hello with these positions and returns the `welcome` too.
    pub async fn enter(server: &Server, session: &str, after: &[(&str, &str)]) -> (Socket, Value) {
        let mut socket = Socket::open(server, session, &[]).await.unwrap();
        socket.hello(after).await;
        let welcome = socket.expect("welcome").await;
        (socket, welcome)
    }

    pub async fn hello(&mut self, after: &[(&str, &str)]) {
        let after: BTreeMap<_, _> = after.iter().copied().collect();
        self.say(&json!({"type": "hello", "data": {"after": after}})).await;
    }

    /// Says hello without positions to a server that may have closed already.
    pub async fn hello_unheard(&mut self) {
        let hello = json!({"type": "hello", "data": {}}).to_string();
        let _closed_already = soon("to be heard", self.inner.send(Message::text(hello))).await;
    }

    pub async fn say(&mut self, message: &Value) {
        self.say_raw(Message::text(message.to_string())).await;
    }

    pub async fn say_raw(&mut self, message: Message) {
        soon("to be heard", self.inner.send(message)).await.unwrap();
    }

    /// Says it, unless the other side has gone.
    pub async fn try_say(&mut self, message: &Value) {
        drop(soon("to be heard", self.inner.send(Message::text(message.to_string()))).await);
    }

    /// The next message that is not a ping or pong of the protocol.
    pub async fn next(&mut self) -> Received {
        soon("a message", self.next_of_ours()).await
    }

    async fn next_of_ours(&mut self) -> Received {
        loop {
            match self.inner.next().await {
                Some(Ok(Message::Text(text))) => return Received::Json(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) = frame
                        .map_or((0, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
                    return Received::Close(code, reason);
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Received::Close(0, String::new()),
            }
        }
    }

    /// The next message, which must be of this type.
    pub async fn expect(&mut self, kind: &str) -> Value {
        match self.next().await {
            Received::Json(message) if message["type"] == kind => message,
            other => panic!("expected {kind}, got {other:?}"),
        }
    }

    /// Everything up to and with the first message of this type.
    pub async fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut messages = Vec::new();
        loop {
            match self.next().await {
                Received::Json(message) => {
                    messages.push(message);
                    if messages.last().is_some_and(|message| message["type"] == kind) {
                        return messages;
                    }
                }
                close => panic!("no {kind} came before {close:?}: {messages:?}"),
            }
        }
    }

    /// The code that it is closed with, other messages passed over.
    pub async fn closed(&mut self) -> u16 {
        loop {
            if let Received::Close(code, _) = self.next().await {
                return code;
            }
        }
    }

    pub async fn leave(mut self) {
        drop(self.inner.close(None).await);
    }
}

/// The text that the token messages of one stream spell.
pub fn text_of(messages: &[Value], stream: &str) -> String {
    let tokens = messages.iter().filter(|message| message["type"] == "token" && message["stream"] == stream);
    tokens.map(|message| message["data"]["text"].as_str().unwrap().to_owned()).collect()
}
