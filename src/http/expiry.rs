//! Credentials that end while a connection is open: it goes on for a grace, then it ends too.
//!
//! An event stream of ours ends properly, after a notice, and its reconnect is refused unless it brings a fresh
//! credential; in other dialects it breaks off, since their clients take a proper end for success. A socket can bring a
//! fresh credential meanwhile. The answer to a request that started a stream is seen through: it was allowed to ask.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use serde_json::json;
use tokio::time::{Sleep, sleep};

use super::envelope::jitter_ms;
use super::extract::parameter;
use super::sse::{Broken, for_event_source};
use crate::relay::now_ms;
use crate::surface::{Surface, native};

/// How long an answer may go on.
pub struct Limit {
    end_s: u64,
    native: bool,
}

/// Until this second of the Unix epoch has come.
fn until(end_s: u64) -> Duration {
    Duration::from_millis(end_s.saturating_mul(1000).saturating_sub(now_ms()))
}

impl Limit {
    /// For requests that read.
    pub fn of(request: &Request, end_s: u64) -> Option<Limit> {
        let uri = request.uri();
        let format = || parameter(uri.query().unwrap_or_default(), "format");
        let native =
            for_event_source(uri.path()) && format().is_none_or(|name| name == Surface::Native.name());
        (request.method() == Method::GET).then_some(Limit { end_s, native })
    }

    /// On an answer that waits for more; others are at their end already.
    pub fn put_on(self, response: Response, grace: Duration) -> Response {
        if response.headers().get(CONTENT_TYPE).is_none_or(|kind| kind != "text/event-stream") {
            return response;
        }
        let end = Box::pin(sleep(until(self.end_s) + grace));
        response.map(|body| Body::new(Limited { body, end, native: self.native, over: false }))
    }
}

struct Limited {
    body: Body,
    end: Pin<Box<Sleep>>,
    native: bool,
    over: bool,
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.end.as_mut().poll(cx).is_pending() {
            return Pin::new(&mut self.body).poll_frame(cx);
        }
        self.over = true;
        self.body = Body::empty();
        Poll::Ready(Some(match self.native {
            true => {
                let data = json!({"code": "expired", "message": "the credential has expired"});
                Ok(Frame::data(native::aside("notice", Some(1000 + jitter_ms(1000)), &data).into()))
            }
            false => Err(axum::Error::new(Broken)),
        }))
    }
}

/// A socket's credential.
pub struct Term {
    end_s: Option<u64>,
    grace: Duration,
    next: Option<(Turn, Pin<Box<Sleep>>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It has expired; its grace begins.
    Expired,
    /// So has the grace.
    Over,
}

impl Term {
    pub fn new(end_s: Option<u64>, grace: Duration) -> Term {
        let next = end_s.map(|end_s| (Turn::Expired, Box::pin(sleep(until(end_s)))));
        Term { end_s, grace, next }
    }

    /// Another credential took over, or the same one still holds.
    pub fn renew(&mut self, end_s: Option<u64>) {
        if end_s != self.end_s {
            *self = Term::new(end_s, self.grace);
        }
    }

    /// Resolves at its next turn, if there is one. May be dropped and called again.
    pub async fn turn(&mut self) -> Turn {
        let Some((turn, at)) = &mut self.next else { return std::future::pending().await };
        at.as_mut().await;
        let turn = *turn;
        self.next = (turn == Turn::Expired).then(|| (Turn::Over, Box::pin(sleep(self.grace))));
        turn
    }
}
