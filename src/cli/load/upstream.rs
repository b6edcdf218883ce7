//! A provider for measurements: OpenAI-compatible, paced, and as cheap as it can be.
//!
//! The model names the pace: `500x20` is 500 tokens, one every 20 ms; `5000x0` is 5,000 at once. Every token's text is
//! a mark and the microsecond at which it was sent, so that a reader counts tokens by counting marks and knows how
//! long each one travelled, whatever carried it. It knows nothing of tools, errors or images.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use async_stream::stream;
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::Stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until};

/// Stands before the time stamp of every token. It occurs nowhere else in what this upstream says.
pub(super) const MARK: u8 = b'@';
/// Decimal digits of a time stamp: microseconds since the Unix epoch.
pub(super) const STAMP: usize = 16;
/// Tokens in one write where there is no pause between them.
const BURST: usize = 50;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Upstream {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Tokens of an answer whose model does not name a pace
    #[arg(long, default_value_t = 200)]
    tokens: u64,
    /// Pause between two tokens, in milliseconds
    #[arg(long, default_value_t = 20)]
    interval_ms: u64,
}

/// How much an answer says and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    pub tokens: u64,
    pub interval: Duration,
}

impl Pace {
    /// Reads `<tokens>x<milliseconds>`, with or without a provider before it.
    pub(super) fn of(model: &str) -> Option<Pace> {
        let (tokens, ms) = model.rsplit('/').next()?.split_once('x')?;
        Some(Pace { tokens: tokens.parse().ok()?, interval: Duration::from_millis(ms.parse().ok()?) })
    }
}

/// Now, in microseconds since the Unix epoch: the one clock that two processes share.
pub(super) fn now_us() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "stamps are compared across processes")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// Serves until it is killed.
pub(super) async fn run(args: Upstream) -> anyhow::Result<ExitCode> {
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let fallback = Pace { tokens: args.tokens, interval: Duration::from_millis(args.interval_ms) };
    let models = json!({"object": "list", "data": [{"id": "500x20", "object": "model", "created": 0, "owned_by": "load"}]});
    let router = Router::new().route("/v1/models", get(async move || Json(models))).route(
        "/v1/chat/completions",
        post(async move |Json(request): Json<Value>| answer(&request, fallback)),
    );
    let listener = listener.tap_io(|socket| {
        // Without it the second token waits for the acknowledgement of the first. A socket that refuses is still served.
        let _slower = socket.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(ExitCode::SUCCESS)
}

fn answer(request: &Value, fallback: Pace) -> Response {
    let pace = request["model"].as_str().and_then(Pace::of).unwrap_or(fallback);
    if request["stream"] != Value::Bool(true) {
        let error = json!({"error": {"message": "only streams are served", "type": "invalid_request_error"}});
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    }
    let usage = request["stream_options"]["include_usage"] == Value::Bool(true);
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(frames(pace, usage))).into_response()
}

fn frames(pace: Pace, usage: bool) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream! {
        let token = Token::new();
        let (mut sent, mut due) = (0, Instant::now());
        let mut out = chunk(&json!({"role": "assistant", "content": ""}), &Value::Null);
        while sent < pace.tokens {
            let burst = if pace.interval.is_zero() { BURST as u64 } else { 1 };
            for _ in 0..burst.min(pace.tokens - sent) {
                token.write(&mut out, now_us());
                sent += 1;
            }
            yield Ok(std::mem::take(&mut out).into());
            // Counted from the first token, so that a late one does not delay all that follow.
            due += pace.interval;
            if sent < pace.tokens && !pace.interval.is_zero() {
                sleep_until(due).await;
            }
        }
        out.extend(chunk(&json!({}), &"stop".into()));
        if usage {
            let usage = json!({"prompt_tokens": 1, "completion_tokens": pace.tokens, "total_tokens": pace.tokens + 1});
            let data = json!({"id": "chatcmpl-load", "object": "chat.completion.chunk", "created": 0, "model": "load",
                              "choices": [], "usage": usage});
            out.extend(format!("data: {data}\n\n").into_bytes());
        }
        out.extend(b"data: [DONE]\n\n");
        yield Ok(out.into());
    }
}

fn chunk(delta: &Value, finish: &Value) -> Vec<u8> {
    let data = json!({"id": "chatcmpl-load", "object": "chat.completion.chunk", "created": 0, "model": "load",
                      "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
    format!("data: {data}\n\n").into_bytes()
}

/// The frame of a token, prebuilt but for its stamp.
struct Token {
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Token {
    fn new() -> Token {
        let frame = chunk(&json!({"content": format!(" {}", char::from(MARK))}), &Value::Null);
        let at = memchr::memchr(MARK, &frame).expect("the mark was just written");
        Token { before: frame[..=at].to_vec(), after: frame[at + 1..].to_vec() }
    }

    fn write(&self, out: &mut Vec<u8>, now_us: u64) {
        out.extend_from_slice(&self.before);
        out.extend_from_slice(format!("{now_us:0STAMP$}").as_bytes());
        out.extend_from_slice(&self.after);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    #[test]
    fn a_model_names_its_pace() {
        let pace = Pace { tokens: 500, interval: Duration::from_millis(20) };
        assert_eq!(Pace::of("500x20"), Some(pace));
        assert_eq!(Pace::of("load/500x20"), Some(pace));
        assert_eq!(Pace::of("demo"), None);
        assert_eq!(Pace::of("mixtral"), None);
    }

    #[tokio::test]
    async fn tokens_come_at_their_pace_and_are_marked() {
        let began = Instant::now();
        let pace = Pace { tokens: 5, interval: Duration::from_millis(5) };
        let all: Vec<_> = frames(pace, true).map(|frame| frame.unwrap()).collect().await;
        assert!(began.elapsed() >= 4 * pace.interval);
        assert_eq!(all.len(), 6);
        let bytes = all.concat();
        assert_eq!(memchr::memchr_iter(MARK, &bytes).count(), 5);
        let at = memchr::memchr(MARK, &bytes).unwrap();
        assert!(std::str::from_utf8(&bytes[at + 1..][..STAMP]).unwrap().parse::<u64>().is_ok());
        assert!(bytes.ends_with(b"data: [DONE]\n\n"));
    }
}
