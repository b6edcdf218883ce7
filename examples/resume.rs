//! Start a stream, cut the connection in the middle of the answer, continue with `Last-Event-ID`, and check that not
//! a character was lost or doubled.
//!
//! ```text
//! cargo run --release &                                             # a server on 127.0.0.1:8080
//! cargo run --example resume -- http://127.0.0.1:8080
//! ```
//!
//! Set `RELAYSTREAM_API_KEY` if the server asks for a key.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use relaystream::sse::Parser;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Value, json};

/// The connection is dropped after so many pieces of text, each time it is made.
const CUT_AFTER: usize = 15;
/// How often it is dropped.
const CUTS: usize = 3;

/// What this client knows: the text so far, and the id of the last event it has seen. Nothing else is needed.
#[derive(Default)]
struct Reader {
    text: String,
    last_id: Option<String>,
    done: Option<Value>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let base = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8080".into());
    let client = client()?;

    let started: Value = answer(
        client
            .post(format!("{base}/v1/streams"))
            .header(CONTENT_TYPE, "application/json")
            .body(json!({"input": "What happens to an answer when the train enters a tunnel?"}).to_string()),
    )
    .await?;
    let id = started["id"].as_str().context("the answer names the stream")?;
    println!("stream {id}\n");

    let events = format!("{base}/v1/streams/{id}/events");
    let mut reader = Reader::default();
    for connection in 0..=CUTS + 100 {
        let cut_after = if connection < CUTS { CUT_AFTER } else { usize::MAX };
        reader.read(&client, &events, cut_after).await?;
        if reader.done.is_some() {
            break;
        }
        print!("✂");
        std::io::stdout().flush()?;
        // The provider does not stop for us: what it says meanwhile is waiting when we come back.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    let done = reader.done.context("the stream did not end")?;
    println!("\n\nended: {done}");
    ensure!(done["status"] == "completed", "the stream did not complete");
    let snapshot = answer(client.get(format!("{base}/v1/streams/{id}"))).await?;
    ensure!(snapshot["text"] == reader.text.as_str(), "the text differs from the stream's own: {snapshot}");
    println!(
        "{} characters over {} connections, none lost, none doubled",
        reader.text.chars().count(),
        CUTS + 1
    );
    Ok(())
}

impl Reader {
    /// One connection: from the last id on, until the stream's end or `cut_after` pieces of text.
    async fn read(&mut self, client: &reqwest::Client, url: &str, cut_after: usize) -> Result<()> {
        let mut request = client.get(url);
        if let Some(id) = &self.last_id {
            request = request.header("Last-Event-ID", id);
        }
        let mut response = request.send().await?;
        ensure!(response.status() == 200, "the events were refused: {}", response.status());
        let mut parser = Parser::new(1024 * 1024);
        let mut pieces = 0;
        // A broken connection is like a cut: come back for the rest.
        while let Ok(Some(bytes)) = response.chunk().await {
            let mut events = Vec::new();
            parser.feed(&bytes, |frame| {
                let data: Value = serde_json::from_str(&frame.data).unwrap_or_default();
                events.push((frame.event.into_owned(), frame.id.map(str::to_owned), data));
            })?;
            for (event, id, data) in events {
                self.last_id = id;
                match event.as_str() {
                    "token" => {
                        let text = data["text"].as_str().context("a token has text")?;
                        print!("{text}");
                        std::io::stdout().flush()?;
                        self.text += text;
                        pieces += 1;
                    }
                    // The server could not go on from our id, and says so: what follows is the whole stream.
                    "reset" => self.text.clear(),
                    "done" => self.done = Some(data),
                    _ => {}
                }
                if pieces >= cut_after {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn client() -> Result<reqwest::Client> {
    let mut headers = HeaderMap::new();
    #[expect(clippy::disallowed_methods, reason = "an example has no configuration file")]
    if let Ok(key) = std::env::var("RELAYSTREAM_API_KEY") {
        headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {key}"))?);
    }
    Ok(relaystream::tls::client().default_headers(headers).read_timeout(Duration::from_secs(45)).build()?)
}

/// Sends a request and reads the JSON it is answered with.
async fn answer(request: reqwest::RequestBuilder) -> Result<Value> {
    let response = request.send().await?;
    let (status, body) = (response.status(), response.bytes().await?);
    ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
    Ok(serde_json::from_slice(&body)?)
}
