//! `relaystream tail`: a stream's text in a terminal as it arrives, resumed after every cut.
//!
//! A client of the native surface like any other: it holds an id and asks for what comes after it. Standard output
//! gets the text and nothing else; what happens to the connection is told on standard error.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::event::{Done, Status};
use crate::relay::random;
use crate::sse::Parser;
use crate::tls;

/// Follow a stream and print its text.
#[derive(Debug, clap::Args)]
pub(super) struct Tail {
    /// A stream's id, or the URL of a stream or of its events
    #[arg(value_name = "ID|URL")]
    stream: String,
    /// The server's base URL, for an id
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    server: String,
    /// API key
    #[arg(long)]
    key: Option<String>,
    /// Begin after this event id
    #[arg(long, value_name = "EVENT-ID")]
    after: Option<String>,
    /// Print every event as a line of JSON: {id, type, data}
    #[arg(long)]
    json: bool,
    /// Give up after so many connections in a row that brought nothing
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    attempts: u32,
}

/// The server breaks a silence every 15 s, unless it is told otherwise.
const SILENCE: Duration = Duration::from_secs(45);
const CONNECT: Duration = Duration::from_secs(10);
/// The first wait after a cut may be this long, every further one twice as long, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// The largest event accepted.
const EVENT_BYTES: usize = 32 * 1024 * 1024;

/// How one connection ended.
enum Pass {
    /// There is nothing more to read.
    Over(ExitCode),
    /// There may be: come back. Says what happened.
    Cut(String),
}

/// Reads to the stream's end. Exit code 0 if it completed, 1 otherwise.
pub(super) async fn run(args: Tail) -> anyhow::Result<ExitCode> {
    let url = events_url(&args)?;
    let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("text/event-stream"))]);
    if let Some(key) = &args.key {
        let mut value =
            HeaderValue::try_from(format!("Bearer {key}")).context("--key cannot be sent in a header")?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    let client = tls::client()
        .default_headers(headers)
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .user_agent(concat!("relaystream-tail/", env!("CARGO_PKG_VERSION")))
        .build()?;
    let mut reader = Reader {
        client,
        url,
        last_id: args.after,
        json: args.json,
        retry: None,
        heard: false,
        mid_line: false,
    };
    let mut in_vain = 0;
    loop {
        reader.heard = false;
        let reason = match reader.connect().await? {
            Pass::Over(code) => return Ok(code),
            Pass::Cut(reason) => reason,
        };
        in_vain = if reader.heard { 0 } else { in_vain + 1 };
        if in_vain >= args.attempts {
            reader.tell(&format!("{reason}; giving up after {in_vain} attempts"));
            return Ok(ExitCode::FAILURE);
        }
        let wait = reader.wait(in_vain);
        reader.tell(&format!("{reason}; going on in {} ms", wait.as_millis()));
        sleep(wait).await;
    }
}

/// The events of what was named on the command line.
fn events_url(args: &Tail) -> anyhow::Result<Url> {
    if !args.stream.contains("://") {
        let base = &args.server;
        let mut url = Url::parse(base).with_context(|| format!("--server {base}"))?;
        let path = ["v1", "streams", &args.stream, "events"];
        // Pushed one by one, so that whatever was given as an id stays one segment.
        url.path_segments_mut().ok().with_context(|| format!("--server {base}"))?.pop_if_empty().extend(path);
        return Ok(url);
    }
    let mut url = Url::parse(&args.stream).with_context(|| args.stream.clone())?;
    let segments: Vec<&str> = url.path().trim_end_matches('/').split('/').collect();
    if let [.., "streams", _] = segments[..] {
        url.set_path(&format!("{}/events", segments.join("/")));
    }
    Ok(url)
}

struct Reader {
    client: Client,
    url: Url,
    last_id: Option<String>,
    json: bool,
    /// The server's wish, how long to wait before coming back.
    retry: Option<Duration>,
    /// This connection brought an event.
    heard: bool,
    /// The terminal's cursor is behind text.
    mid_line: bool,
}

/// An event that has arrived.
struct Arrived {
    id: Option<String>,
    name: String,
    data: Value,
}

impl Reader {
    async fn connect(&mut self) -> anyhow::Result<Pass> {
        let mut request = self.client.get(self.url.clone());
        if let Some(id) = &self.last_id {
            request = request.header("Last-Event-ID", id);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Ok(Pass::Cut(innermost(&error.without_url()))),
        };
        match response.status() {
            StatusCode::OK => self.read(response).await,
            StatusCode::NO_CONTENT => self.nothing_more().await,
            status if status.is_server_error() || matches!(status.as_u16(), 408 | 429) => {
                self.retry = retry_after(response.headers()).or(self.retry);
                Ok(Pass::Cut(refusal(response).await))
            }
            _ => {
                let refusal = refusal(response).await;
                self.tell(&refusal);
                Ok(Pass::Over(ExitCode::FAILURE))
            }
        }
    }

    async fn read(&mut self, mut response: Response) -> anyhow::Result<Pass> {
        let mut parser = Parser::new(EVENT_BYTES);
        loop {
            let bytes = match response.chunk().await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Ok(Pass::Cut("the connection was closed".into())),
                Err(error) => return Ok(Pass::Cut(innermost(&error.without_url()))),
            };
            let mut arrived = Vec::new();
            parser.feed(&bytes, |frame| {
                arrived.push(Arrived {
                    id: frame.id.map(str::to_owned),
                    name: frame.event.into_owned(),
                    data: serde_json::from_str(&frame.data).unwrap_or_default(),
                });
            })?;
            self.retry = parser.retry_ms().map(Duration::from_millis).or(self.retry);
            for event in arrived {
                if let Some(code) = self.take(event)? {
                    return Ok(Pass::Over(code));
                }
            }
        }
    }

    /// Prints one event; the exit code if it was the last.
    fn take(&mut self, event: Arrived) -> anyhow::Result<Option<ExitCode>> {
        let Arrived { id, name, data } = event;
        if self.json {
            self.print(&format!("{}\n", json!({"id": id, "type": name, "data": data})))?;
        }
        if id.is_some() {
            self.heard = true;
            self.last_id = id;
        }
        match name.as_str() {
            "token" if !self.json => self.print(data["text"].as_str().unwrap_or_default())?,
            "reset" => {
                self.last_id = None;
                self.tell(&format!(
                    "reset ({}): the text starts again",
                    data["reason"].as_str().unwrap_or("?")
                ));
            }
            "notice" => {
                let [code, message] =
                    ["code", "message"].map(|field| data[field].as_str().unwrap_or_default());
                self.tell(&format!("{code}: {message}"));
            }
            "done" => {
                let done: Done = serde_json::from_value(data).context("`done` is not as documented")?;
                self.tell(&ending(&done));
                return Ok(Some(exit_code(done.status)));
            }
            _ => {}
        }
        Ok(None)
    }

    /// The server says that all was read: how did it end?
    async fn nothing_more(&mut self) -> anyhow::Result<Pass> {
        let mut snapshot = self.url.clone();
        snapshot.set_query(None);
        snapshot.set_path(self.url.path().trim_end_matches("/events"));
        let answer = self.client.get(snapshot).send().await;
        let bytes = match answer.and_then(Response::error_for_status) {
            Ok(answer) => answer.bytes().await.unwrap_or_default(),
            Err(_) => Default::default(),
        };
        let snapshot: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let status = serde_json::from_value(snapshot["status"].clone()).unwrap_or(Status::Completed);
        self.tell(&format!("{}: nothing comes after this position", status.as_str()));
        Ok(Pass::Over(exit_code(status)))
    }

    /// Full jitter: clients that were cut off together come back apart.
    fn wait(&self, in_vain: u32) -> Duration {
        let first = self.retry.unwrap_or(FIRST_WAIT).clamp(FIRST_WAIT, LONGEST_WAIT);
        let ceiling = first.saturating_mul(1 << in_vain.min(16)).min(LONGEST_WAIT);
        ceiling.mul_f64(random())
    }

    #[expect(clippy::print_stdout, reason = "the text is this command's result")]
    fn print(&mut self, text: &str) -> anyhow::Result<()> {
        self.mid_line = if text.is_empty() { self.mid_line } else { !text.ends_with('\n') };
        print!("{text}");
        std::io::stdout().flush().context("standard output is gone")
    }

    /// A line for the person; on its own line even in the middle of the text.
    #[expect(clippy::print_stderr, reason = "what happens to the connection is not the text")]
    fn tell(&mut self, what: &str) {
        let line_end = if std::mem::take(&mut self.mid_line) { "\n" } else { "" };
        eprintln!("{line_end}relaystream: {what}");
    }
}

fn exit_code(status: Status) -> ExitCode {
    if status == Status::Completed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn ending(done: &Done) -> String {
    let mut line = done.status.as_str().to_owned();
    if let Some(reason) = &done.finish_reason {
        line += &format!(" ({reason})");
    }
    if let Some(by) = &done.by {
        line += &format!(" by {by}");
    }
    if let Some(error) = &done.error {
        line += &format!(": {}: {}", error.code, error.message);
    }
    if let Some(usage) = done.usage {
        line += &format!(", {} tokens in, {} out", usage.input_tokens, usage.output_tokens);
    }
    line
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get("retry-after")?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

async fn refusal(response: Response) -> String {
    let status = response.status();
    let body = response.bytes().await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = body["error"]["message"].as_str().unwrap_or("no reason given");
    format!("{status}: {message}")
}

/// The cause that says most: reqwest wraps it several times.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(stream: &str, server: &str) -> String {
        let args = Tail {
            stream: stream.into(),
            server: server.into(),
            key: None,
            after: None,
            json: false,
            attempts: 1,
        };
        events_url(&args).unwrap().into()
    }

    #[test]
    fn ids_and_urls_name_the_same_events() {
        let events = "http://host:1/v1/streams/01abc/events";
        assert_eq!(url("01abc", "http://host:1"), events);
        assert_eq!(url("01abc", "http://host:1/"), events);
        assert_eq!(url("01abc", "http://host:1/base/"), "http://host:1/base/v1/streams/01abc/events");
        assert_eq!(url("http://host:1/v1/streams/01abc", ""), events);
        assert_eq!(url(events, ""), events);
        assert_eq!(url("../x", "http://host:1"), "http://host:1/v1/streams/..%2Fx/events");
    }

    #[test]
    fn an_ending_is_told_in_one_line() {
        assert_eq!(ending(&Done::failed("too_slow", "x")), "failed: too_slow: x");
        assert_eq!(ending(&Done::cancelled("ada")), "cancelled by ada");
    }
}
