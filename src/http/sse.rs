//! A viewer's connection: shared bytes from its offset, keep-alives, and an ending that its client understands.
//!
//! The body is written by hand: axum's SSE type renders anew for each viewer and ends its keep-alives with a blank
//! line, which crashes openai-python once an id was sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, LINK};
use axum::http::{Extensions, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use serde_json::json;
use tokio::time::{Instant, Sleep, sleep};

use super::connection::Flushes;
use super::counted::Counted;
use super::envelope::jitter_ms;
use super::error::ApiError;
use crate::event::Status;
use crate::log::LogId;
use crate::relay::Facts;
use crate::relay::tail::End;
use crate::relay::viewer::{Step, Viewer};
use crate::relay::watch::Watch;
use crate::surface::{Ending, Surface, native};

/// Whether this is a route for browsers' `EventSource`, which gives up for good on any status but 200.
pub fn for_event_source(path: &str) -> bool {
    path.ends_with("/events") || ["/v1/chat/stream", "/v1/notifications"].contains(&path)
}

/// The headers of every event stream: no cache, no transformation, no buffering by proxies.
pub fn headers() -> HeaderMap {
    HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ])
}

pub const X_SESSION_ID: HeaderName = HeaderName::from_static("x-session-id");

/// The headers of every answer that belongs to a stream.
pub fn stream_headers(id: LogId, facts: &Facts) -> HeaderMap {
    let value = |text: String| HeaderValue::try_from(text).expect("ids and session names are header values");
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("x-stream-id"), value(id.to_string()));
    if let Some(session) = &facts.session {
        headers.insert(X_SESSION_ID, value(session.clone()));
    }
    headers.insert(LINK, value(format!("</v1/streams/{id}/events>; rel=\"events\"")));
    headers
}

/// What a body holds as long as it lives: permits and counts.
pub type Held = Box<dyn Send + Sync>;

pub struct Events {
    viewer: Viewer,
    /// Sent before the viewer's bytes: resets.
    preface: Option<Bytes>,
    breaking: Option<Breaking>,
    /// What stands before the break is out.
    said_goodbye: bool,
    over: bool,
    flushes: Option<Arc<Flushes>>,
    _held: Held,
    _counted: Counted,
}

/// The last frame is on its way; once it is written the body errs.
struct Breaking {
    flushes_before: u64,
    flushes_seen: u64,
    watch: Watch,
    /// Runs out when nothing more was written for a while.
    quiet: Pin<Box<Sleep>>,
}

/// HTTP/2 flushes after a frame, not after the queue: the queue is empty when flushes have stopped for this long, and the
/// socket still takes bytes.
const QUIET: Duration = Duration::from_millis(50);
/// On an HTTP/2 connection that others keep busy: after so many flushes a queue of `H2_SEND_BUFFER` has had its turns.
const MANY_FLUSHES: u64 = 64;

impl Events {
    pub fn new(
        viewer: Viewer,
        preface: Option<Bytes>,
        extensions: &Extensions,
        held: Held,
        counted: Counted,
    ) -> Events {
        let flushes = extensions.get::<Arc<Flushes>>().cloned();
        Events {
            viewer,
            preface,
            breaking: None,
            said_goodbye: false,
            over: false,
            flushes,
            _held: held,
            _counted: counted,
        }
    }

    pub fn into_response(self) -> Response {
        let surface = self.viewer.format().surface;
        let mut response = Response::new(Body::new(self));
        response.headers_mut().extend(headers());
        if surface == Surface::AiSdk {
            // `v1` in every version of the AI SDK; other clients of the protocol tell it by this.
            let name = HeaderName::from_static("x-vercel-ai-ui-message-stream");
            response.headers_mut().insert(name, HeaderValue::from_static("v1"));
        }
        response
    }

    /// What is still to be said at the end, then how to end.
    fn end(&mut self, end: End) -> (Option<Bytes>, Ending) {
        let surface = self.viewer.format().surface;
        match end {
            End::Ended(status) => (None, surface.ending(status)),
            // The log was taken away under its viewers.
            End::Gone if surface == Surface::Native => {
                let reset = native::aside("reset", None, &json!({"reason": "lost"}));
                (Some(reset.into()), Ending::Clean)
            }
            End::Gone => (None, surface.ending(Status::Interrupted)),
            End::Leaving | End::Away => {
                let error = if end == End::Away { ApiError::store_away() } else { ApiError::draining() };
                match surface {
                    Surface::Native | Surface::Plain => (Some(come_back(&error)), Ending::Clean),
                    _ => (Some(error.complaint("").frame(surface).into()), Ending::Broken),
                }
            }
        }
    }

    fn poll_break(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(flushes) = self.flushes.clone().filter(|flushes| !flushes.direct()) else {
            self.over = true;
            return Poll::Ready(Some(Err(Broken)));
        };
        let breaking = self.breaking.get_or_insert_with(|| Breaking {
            flushes_before: flushes.count(),
            flushes_seen: flushes.count(),
            watch: flushes.watchers.join(),
            quiet: Box::pin(sleep(QUIET)),
        });
        breaking.watch.register(cx);
        let count = flushes.count();
        if count != breaking.flushes_seen {
            breaking.flushes_seen = count;
            breaking.quiet.as_mut().reset(Instant::now() + QUIET);
        }
        let waited = breaking.quiet.as_mut().poll(cx).is_ready();
        let since = count - breaking.flushes_before;
        if since == 0 || (!waited && since < MANY_FLUSHES) || flushes.blocked() {
            return Poll::Pending;
        }
        self.over = true;
        Poll::Ready(Some(Err(Broken)))
    }
}

/// Tells why nothing more comes here and when to come back, each viewer another moment.
pub fn come_back(why: &ApiError) -> Bytes {
    let data = json!({"code": why.code, "message": why.message});
    native::aside("notice", Some(1000 + jitter_ms(4000)), &data).into()
}

/// Makes hyper break the connection off, without the chunk that would mark a proper end.
#[derive(Debug, thiserror::Error)]
#[error("the stream did not complete")]
pub struct Broken;

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        if this.breaking.is_some() {
            return this.poll_break(cx);
        }
        if let Some(preface) = this.preface.take() {
            return Poll::Ready(Some(Ok(Frame::data(preface))));
        }
        match std::task::ready!(this.viewer.poll(cx)) {
            Step::Bytes(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Step::Silence => {
                let keep_alive = this.viewer.format().surface.keep_alive();
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(keep_alive)))))
            }
            Step::End(end) => {
                let (last, ending) = this.end(end);
                match (last, ending) {
                    (Some(last), Ending::Broken) if !std::mem::replace(&mut this.said_goodbye, true) => {
                        Poll::Ready(Some(Ok(Frame::data(last))))
                    }
                    (_, Ending::Broken) => this.poll_break(cx),
                    (last, Ending::Clean) => {
                        this.over = true;
                        Poll::Ready(last.map(|bytes| Ok(Frame::data(bytes))))
                    }
                }
            }
        }
    }
}
