//! Watch a session over WebSocket: everything that is said in it, from wherever it stands.
//!
//! ```text
//! cargo run --release &                                             # a server on 127.0.0.1:8080
//! cargo run --example watch -- http://127.0.0.1:8080 room-42
//! ```
//!
//! Run it in two terminals: both show the same text. The first one to come finds the session empty and starts a
//! stream in it; it ends when that stream is done. Set `RELAYSTREAM_API_KEY` if the server asks for a key.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::io::Write;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let base = arguments.next().unwrap_or_else(|| "http://127.0.0.1:8080".into());
    let session = arguments.next().unwrap_or_else(|| "room-42".into());
    #[expect(clippy::disallowed_methods, reason = "an example has no configuration file")]
    let key = std::env::var("RELAYSTREAM_API_KEY").ok();

    let url = format!("{}/v1/sessions/{session}/ws", base.replacen("http", "ws", 1));
    let mut request = url.into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("relaystream.v1"));
    if let Some(key) = &key {
        request.headers_mut().insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {key}"))?);
    }
    let (mut socket, _) = connect_async(request).await.context("the socket was refused")?;

    // A viewer that comes back would send the positions it holds: {"after": {"<stream>": "<event id>"}}.
    socket.send(Message::text(json!({"type": "hello", "id": "1", "data": {}}).to_string())).await?;

    let mut watched: Option<String> = None;
    while let Some(message) = socket.next().await {
        let text = match message? {
            Message::Text(text) => text,
            Message::Close(frame) => bail!("the server closed the socket: {frame:?}"),
            _ => continue,
        };
        let message: Value = serde_json::from_str(&text)?;
        let (stream, data) = (message["stream"].as_str(), &message["data"]);
        match message["type"].as_str().unwrap_or_default() {
            "welcome" => {
                println!("{} in {session}\n", data["user"].as_str().unwrap_or("somebody"));
                // A late joiner is given the text so far and goes on from there.
                match data["streams"].as_array().and_then(|streams| streams.last()) {
                    Some(last) => {
                        watched = last["stream"].as_str().map(str::to_owned);
                        show(last["text"].as_str().unwrap_or_default())?;
                        if last["status"] != "running" {
                            println!("\n\nended before: {}", last["status"]);
                            return Ok(());
                        }
                    }
                    None => watched = Some(start(&base, &session, key.as_deref()).await?),
                }
            }
            "token" if stream == watched.as_deref() => show(data["text"].as_str().unwrap_or_default())?,
            "done" if stream == watched.as_deref() => {
                println!("\n\nended: {data}");
                ensure!(data["status"] == "completed", "the stream did not complete");
                return Ok(());
            }
            "error" => bail!("the server did not understand: {data}"),
            // There is more: presence, typing, what people write to each other, the other streams of the session.
            _ => {}
        }
    }
    bail!("the socket broke before the stream was done")
}

fn show(text: &str) -> Result<()> {
    print!("{text}");
    Ok(std::io::stdout().flush()?)
}

/// Starts a stream in the session; everybody in it will see it.
async fn start(base: &str, session: &str, key: Option<&str>) -> Result<String> {
    let body = json!({"session": session, "input": "Explain tides to a sailor."});
    let mut request = relaystream::tls::client()
        .build()?
        .post(format!("{base}/v1/streams"))
        .header(CONTENT_TYPE, "application/json")
        .body(body.to_string());
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    let response = request.send().await?;
    let (status, body) = (response.status(), response.bytes().await?);
    ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
    let started: Value = serde_json::from_slice(&body)?;
    Ok(started["id"].as_str().context("the answer names the stream")?.to_owned())
}
