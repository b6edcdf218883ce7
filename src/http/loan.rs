//! Answers that wait. hyper keeps two buffers of 8 KiB for each connection that it serves, and the viewer of a silent
//! stream needs neither. So a body is lent to hyper, which writes the head and what there is at once; then it is taken
//! back, with the socket, and the rest is written here. After a proper end hyper gets the socket for the next request.
//!
//! HTTP/1.1 only: chunks are a frame's size in hexadecimal, the frame, and an empty one at the end.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::BoxError;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Method, Request, Version};
use axum::response::Response;
use bytes::{Buf, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt;

use super::connection::Socket;

/// What hyper has of an answer that may have to wait.
pub struct Lent {
    pub body: Body,
    /// The client asked for the connection to be closed then.
    pub last: bool,
}

#[derive(Clone, Default)]
pub struct Loan(Arc<Mutex<Option<Lent>>>);

impl Loan {
    /// The answer as hyper gets it. Nothing is lent of a body whose size is known.
    pub fn lend(&self, terms: &Terms, response: Response) -> Response {
        let known = response.body().size_hint().exact().is_some();
        if known || !terms.chunked || !terms.read.load(SeqCst) {
            return response;
        }
        response.map(|body| {
            *self.lent() = Some(Lent { body, last: terms.last });
            Body::new(self.clone())
        })
    }

    /// What is on loan. hyper must not be asked for more then.
    pub fn take_back(&self) -> Option<Lent> {
        self.lent().take()
    }

    fn lent(&self) -> MutexGuard<'_, Option<Lent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl http_body::Body for Loan {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut lent = self.lent();
        let Some(Lent { body, .. }) = lent.as_mut() else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            *lent = None;
        }
        Poll::Ready(frame)
    }
}

/// What a request says about how it can be answered.
pub struct Terms {
    /// Not before HTTP/1.1, and an answer to HEAD has no body at all.
    chunked: bool,
    last: bool,
    /// Its own body was read to the end: before that the socket is hyper's.
    read: Arc<AtomicBool>,
}

impl Terms {
    pub fn of(request: Request<Incoming>) -> (Terms, Request<Body>) {
        let closes = |value: &HeaderValue| {
            value.as_bytes().to_ascii_lowercase().windows(5).any(|word| word == b"close")
        };
        let read = Arc::new(AtomicBool::new(request.body().is_end_stream()));
        let terms = Terms {
            chunked: request.version() == Version::HTTP_11 && request.method() != Method::HEAD,
            last: request.headers().get_all(CONNECTION).iter().any(closes),
            read: read.clone(),
        };
        (terms, request.map(|body| Body::new(Asked { body, read })))
    }
}

struct Asked {
    body: Incoming,
    read: Arc<AtomicBool>,
}

impl http_body::Body for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.read.store(true, SeqCst);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Writes what is left of a body that was taken back. An error is one of the socket or of the body, which breaks off then.
pub async fn write(socket: &mut Socket, mut body: Body) -> Result<(), BoxError> {
    // With TLS the last bytes of what hyper wrote may still be on their way.
    socket.flush().await?;
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            error = socket.left() => return Err(error.into()),
        };
        let Some(frame) = frame else { break };
        let Ok(data) = frame?.into_data() else { continue };
        if data.is_empty() {
            continue;
        }
        let mut line = [0; SIZE_LINE];
        let size = size_line(data.len(), &mut line);
        socket.write_all_buf(&mut size.chain(data).chain(&b"\r\n"[..])).await?;
        socket.flush().await?;
    }
    socket.write_all(b"0\r\n\r\n").await?;
    Ok(socket.flush().await?)
}

const SIZE_LINE: usize = usize::BITS as usize / 4 + 2;

/// What stands before a chunk. By hand: it is written for every token.
fn size_line(mut size: usize, line: &mut [u8; SIZE_LINE]) -> &[u8] {
    let mut at = SIZE_LINE - 2;
    line[at..].copy_from_slice(b"\r\n");
    while size > 0 {
        at -= 1;
        line[at] = b"0123456789abcdef"[size % 16];
        size /= 16;
    }
    &line[at..]
}
