//! Accepted sockets: our own loop, since axum's has no header timeout, no TCP_NODELAY, and a shutdown that waits for
//! every stream for ever.
//!
//! Each connection counts its flushes. A body that must break off after an error frame waits for one: hyper drops what
//! is still queued when a body errs.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use axum::{BoxError, Router};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::{Request, service};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::loan::{self, Lent, Loan, Terms};
use super::secure::{Acceptor, Transport};
use crate::relay::watch::Watchers;

/// The other end of the connection, in every request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub address: SocketAddr,
    /// It speaks TLS with us.
    pub tls: bool,
}

/// How a connection's queue drains into its socket.
#[derive(Debug, Default)]
pub struct Flushes {
    count: AtomicU64,
    /// The socket took no more when it was last written to.
    blocked: AtomicBool,
    /// Nothing is queued: what a body has given is written before it is asked for more.
    direct: AtomicBool,
    pub watchers: Arc<Watchers>,
}

impl Flushes {
    pub fn count(&self) -> u64 {
        self.count.load(SeqCst)
    }

    pub fn blocked(&self) -> bool {
        self.blocked.load(SeqCst)
    }

    pub fn direct(&self) -> bool {
        self.direct.load(SeqCst)
    }
}

/// A client that has not sent its request's head by then is sent away.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// What one HTTP/2 stream may have queued, in bytes: a slow reader must not pin more.
const H2_SEND_BUFFER: usize = 64 * 1024;

/// Serves until `stop`, then lets every connection finish what it is doing. Connections are dealt out in turn to the
/// runtimes in `cores`: whatever a connection starts stays on its own.
pub async fn serve(
    listener: TcpListener,
    cores: Vec<Handle>,
    acceptor: Acceptor,
    router: Router,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    for core in cores.iter().cycle() {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted.and_then(|(socket, peer)| Ok((socket.into_std()?, peer))),
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, peer)) => {
                let connection = connection(socket, peer, acceptor.clone(), router.clone(), stop.clone());
                tracker.spawn_on(connection, core);
            }
            Err(error) => {
                // Out of file descriptors, mostly: others will close theirs.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Runs where the socket is to live: only now is it registered with a runtime.
async fn connection(
    socket: std::net::TcpStream,
    peer: SocketAddr,
    acceptor: Acceptor,
    router: Router,
    stop: CancellationToken,
) {
    // Without it the kernel holds small writes back for 40 ms.
    let Ok(socket) = socket.set_nodelay(true).and_then(|()| TcpStream::from_std(socket)) else { return };
    let flushes = Arc::new(Flushes::default());
    let opening = Box::pin(timeout(HEAD_TIMEOUT, open(socket, &acceptor, flushes.clone())));
    let opened = tokio::select! {
        opened = opening => opened,
        () = stop.cancelled() => return,
    };
    // What serves is boxed: while a viewer waits none of it is left.
    let result = match opened {
        Ok(Ok((socket, http2))) => {
            let peer = Peer { address: peer, tls: socket.transport.is_tls() };
            let edge = Edge { router, peer, flushes };
            if http2 {
                Box::pin(self::http2(socket, edge, stop)).await
            } else {
                http1(socket, edge, stop).await
            }
        }
        Ok(Err(error)) => Err(error.into()),
        Err(late) => Err(late.into()),
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Ready for requests, and whether they come over HTTP/2.
async fn open(socket: TcpStream, acceptor: &Acceptor, flushes: Arc<Flushes>) -> io::Result<(Socket, bool)> {
    let transport = acceptor.accept(socket).await?;
    let agreed = transport.agreed_on_http2();
    let mut socket = Socket { transport, flushes, ahead: Bytes::new() };
    let http2 = match agreed {
        Some(http2) => http2,
        None => socket.speaks_http2().await?,
    };
    Ok((socket, http2))
}

/// What every request of a connection is answered with.
#[derive(Clone)]
struct Edge {
    router: Router,
    peer: Peer,
    flushes: Arc<Flushes>,
}

impl Edge {
    async fn answer(self, mut request: Request<Body>) -> Result<Response, Infallible> {
        request.extensions_mut().insert(self.peer);
        request.extensions_mut().insert(self.flushes);
        self.router.oneshot(request).await
    }
}

async fn http2(socket: Socket, edge: Edge, stop: CancellationToken) -> Result<(), BoxError> {
    let service =
        service::service_fn(move |request: Request<Incoming>| edge.clone().answer(request.map(Body::new)));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_send_buf_size(H2_SEND_BUFFER)
        .keep_alive_interval(Duration::from_secs(30))
        .enable_connect_protocol();
    let mut serving = pin!(builder.serve_connection(TokioIo::new(socket), service));
    tokio::select! {
        result = serving.as_mut() => return Ok(result?),
        () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    Ok(serving.await?)
}

async fn http1(mut socket: Socket, edge: Edge, stop: CancellationToken) -> Result<(), BoxError> {
    loop {
        let Some((taken, Lent { body, last })) = Box::pin(until_it_waits(socket, &edge, &stop)).await? else {
            return Ok(());
        };
        socket = taken;
        edge.flushes.direct.store(true, SeqCst);
        loan::write(&mut socket, body).await?;
        edge.flushes.direct.store(false, SeqCst);
        if last || stop.is_cancelled() {
            return Ok(socket.shutdown().await?);
        }
    }
}

/// Lets hyper serve requests, until an answer has to wait: what is left of it, and the socket to write it to.
async fn until_it_waits(
    socket: Socket,
    edge: &Edge,
    stop: &CancellationToken,
) -> Result<Option<(Socket, Lent)>, BoxError> {
    let loan = Loan::default();
    let service = service::service_fn(|request: Request<Incoming>| {
        let (terms, request) = Terms::of(request);
        let (answer, loan) = (edge.clone().answer(request), loan.clone());
        async move { answer.await.map(|response| loan.lend(&terms, response)) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(8 * 1024 + 8 * 1024);
    let mut serving = builder.serve_connection(TokioIo::new(socket), service).with_upgrades();
    let (mut stopped, mut stopping) = (pin!(stop.cancelled()), false);
    let waits = poll_fn(|cx| {
        if !stopping && stopped.as_mut().poll(cx).is_ready() {
            stopping = true;
            Pin::new(&mut serving).graceful_shutdown();
        }
        match Pin::new(&mut serving).poll(cx) {
            Poll::Ready(result) => Poll::Ready(result.map(|()| None)),
            // Something of hyper's is still on its way.
            Poll::Pending if edge.flushes.blocked() => Poll::Pending,
            Poll::Pending => loan.take_back().map_or(Poll::Pending, |lent| Poll::Ready(Ok(Some(lent)))),
        }
    });
    let Some(lent) = waits.await? else { return Ok(None) };
    let Some(parts) = serving.into_parts() else { return Ok(None) };
    let mut socket = parts.io.into_inner();
    socket.ahead = [parts.read_buf, socket.ahead].concat().into();
    Ok(Some((socket, lent)))
}

/// A socket that counts its flushes, and may have been read further than was asked for.
pub struct Socket {
    transport: Transport,
    flushes: Arc<Flushes>,
    ahead: Bytes,
}

/// How an HTTP/2 client begins.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Socket {
    async fn speaks_http2(&mut self) -> io::Result<bool> {
        let (mut begin, mut length) = ([0; PREFACE.len()], 0);
        let same = loop {
            let read = self.transport.read(&mut begin[length..]).await?;
            length += read;
            if begin == *PREFACE {
                break true;
            }
            if read == 0 || !PREFACE.starts_with(&begin[..length]) {
                break false;
            }
        };
        self.ahead = Bytes::copy_from_slice(&begin[..length]);
        Ok(same)
    }

    /// Ends when the client has left. What it sends before that is a request that has to wait.
    pub async fn left(&mut self) -> io::Error {
        poll_fn(|cx| {
            if !self.ahead.is_empty() {
                return Poll::Pending;
            }
            let mut bytes = [0; 64];
            let mut read = ReadBuf::new(&mut bytes);
            if let Err(error) = ready!(Pin::new(&mut self.transport).poll_read(cx, &mut read)) {
                return Poll::Ready(error);
            }
            if read.filled().is_empty() {
                return Poll::Ready(io::ErrorKind::UnexpectedEof.into());
            }
            self.ahead = Bytes::copy_from_slice(read.filled());
            Poll::Pending
        })
        .await
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.transport).poll_read(cx, buf);
        }
        let length = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write(cx, buf);
        self.flushes.blocked.store(written.is_pending(), SeqCst);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write_vectored(cx, bufs);
        self.flushes.blocked.store(written.is_pending(), SeqCst);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    /// Called once what was queued has been written: all of it on HTTP/1.1, a frame or more on HTTP/2.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.transport).poll_flush(cx);
        // With TLS bytes may be on their way that were taken already.
        self.flushes.blocked.store(flushed.is_pending(), SeqCst);
        ready!(flushed)?;
        self.flushes.count.fetch_add(1, SeqCst);
        if self.flushes.watchers.count() > 0 {
            self.flushes.watchers.wake_all();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
