//! Accepted sockets: our own loop, since axum's has no header timeout, no TCP_NODELAY, and a shutdown that waits for
//! every stream for ever.
//!
//! Each connection counts its flushes. A body that must break off after an error frame waits for one: hyper drops what
//! is still queued when a body errs.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::{Request, service};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::relay::watch::Watchers;

/// The other end of the connection, in every request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// How a connection's queue drains into its socket.
#[derive(Debug, Default)]
pub struct Flushes {
    count: AtomicU64,
    /// The socket took no more when it was last written to.
    blocked: AtomicBool,
    pub watchers: Arc<Watchers>,
}

impl Flushes {
    pub fn count(&self) -> u64 {
        self.count.load(SeqCst)
    }

    pub fn blocked(&self) -> bool {
        self.blocked.load(SeqCst)
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
                tracker.spawn_on(connection(socket, peer, router.clone(), stop.clone()), core);
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
async fn connection(socket: std::net::TcpStream, peer: SocketAddr, router: Router, stop: CancellationToken) {
    // Without it the kernel holds small writes back for 40 ms.
    let Ok(socket) = socket.set_nodelay(true).and_then(|()| TcpStream::from_std(socket)) else { return };
    let flushes = Arc::new(Flushes::default());
    let io = TokioIo::new(Counted { socket, flushes: flushes.clone() });
    let service = service::service_fn(move |request: Request<Incoming>| {
        let (router, flushes) = (router.clone(), flushes.clone());
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            request.extensions_mut().insert(flushes);
            router.oneshot(request).await
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(8 * 1024 + 8 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_send_buf_size(H2_SEND_BUFFER)
        .keep_alive_interval(Duration::from_secs(30))
        .enable_connect_protocol();
    let serving = builder.serve_connection_with_upgrades(io, service);
    tokio::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// A socket that counts its flushes.
struct Counted {
    socket: TcpStream,
    flushes: Arc<Flushes>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.flushes.blocked.store(written.is_pending(), SeqCst);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.flushes.blocked.store(written.is_pending(), SeqCst);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    /// Called once what was queued has been written: all of it on HTTP/1.1, a frame or more on HTTP/2.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        self.flushes.count.fetch_add(1, SeqCst);
        if self.flushes.watchers.count() > 0 {
            self.flushes.watchers.wake_all();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
