//! One socket's messages, as tungstenite reads and writes them.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Bytes read at a time: tungstenite's own 128 KiB would be paid by every idle viewer.
const READ_BUFFER: usize = 256;
/// Longer messages go out in fragments: a connection keeps a buffer as large as the largest frame that it ever wrote.
const FRAGMENT: usize = 4096;
/// The other side may take so long to close.
const FAREWELL: Duration = Duration::from_secs(1);

pub struct Socket(WebSocketStream<TokioIo<Upgraded>>);

impl Socket {
    pub(super) async fn new(upgraded: Upgraded, most: usize) -> Socket {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(most))
            .max_frame_size(Some(most));
        Socket(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await)
    }

    /// The next message, also of the protocol itself; None once both sides have closed. May be dropped while it waits.
    pub async fn recv(&mut self) -> Option<Result<Message, Error>> {
        self.0.next().await
    }

    /// Resolves once the message is with the kernel.
    pub async fn send(&mut self, message: Message) -> Result<(), Error> {
        match message {
            Message::Text(text) if text.len() > FRAGMENT => self.send_in_fragments(text.into()).await,
            short => self.0.send(short).await,
        }
    }

    async fn send_in_fragments(&mut self, mut rest: Bytes) -> Result<(), Error> {
        let mut kind = Data::Text;
        while !rest.is_empty() {
            let fragment = rest.split_to(FRAGMENT.min(rest.len()));
            let frame = Frame::message(fragment, OpCode::Data(kind), rest.is_empty());
            self.0.send(Message::Frame(frame)).await?;
            kind = Data::Continue;
        }
        Ok(())
    }

    /// Says why, and hears the other side out: a connection that is dropped with something unread is reset, and the client
    /// may never learn why.
    pub async fn close(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        let farewell = async {
            self.0.send(Message::Close(Some(frame))).await?;
            self.finish().await;
            Ok::<(), Error>(())
        };
        // The other side may be gone already, which closes just as well.
        drop(timeout(FAREWELL, farewell).await);
    }

    /// The other side has closed: it is answered.
    pub async fn answer_close(&mut self) {
        drop(timeout(FAREWELL, self.finish()).await);
    }

    async fn finish(&mut self) {
        while let Some(Ok(_)) = self.0.next().await {}
        // What cannot be understood any more.
        let raw = self.0.get_mut();
        let mut rest = [0; READ_BUFFER];
        if raw.shutdown().await.is_ok() {
            while raw.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {}
        }
    }
}
