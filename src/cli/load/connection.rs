//! One HTTP/1.1 or WebSocket connection as a load generator needs it: raw bytes in, payload out, next to no cost.
//!
//! Not a general client: no TLS, no redirects, no pool, no compression, no HTTP/2; what a server sends is trusted to
//! be small. The product's own clients use reqwest and tungstenite; here their cost would be measured instead of the
//! server's.

use std::io;

use anyhow::{Context, bail};
use memchr::{memchr, memmem};
use reqwest::Url;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes read at once.
const READ: usize = 16 * 1024;
/// The largest response head.
const HEAD: usize = 64 * 1024;

/// What to ask for.
#[derive(Debug, Clone)]
pub(super) struct Request<'a> {
    pub method: &'a str,
    pub url: &'a Url,
    pub headers: Vec<(&'a str, &'a str)>,
    pub body: &'a [u8],
}

/// How the rest of the connection is to be read.
#[derive(Debug)]
enum Framing {
    Chunked(Chunked),
    Length(u64),
    UntilClose,
    Socket(Vec<u8>),
}

#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
    /// How much of `buffer` has been read and not decoded yet.
    filled: usize,
    framing: Framing,
    pub status: u16,
    /// HTTP chunks or WebSocket messages received so far.
    pub frames: u64,
}

/// Whether more is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    More,
    End,
}

impl Connection {
    /// Sends the request and reads the answer's head.
    pub(super) async fn open(request: &Request<'_>) -> anyhow::Result<Connection> {
        let url = request.url;
        if !matches!(url.scheme(), "http" | "ws") {
            bail!("{url}: only http:// URLs are measured");
        }
        let host = url.host_str().with_context(|| format!("{url} names no host"))?;
        let port = url.port_or_known_default().context("http has a default port")?;
        let mut socket =
            TcpStream::connect((host, port)).await.with_context(|| format!("cannot reach {host}:{port}"))?;
        socket.set_nodelay(true)?;
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut head =
            format!("{} {}{query} HTTP/1.1\r\nHost: {host}:{port}\r\n", request.method, url.path());
        for (name, value) in &request.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if request.method != "GET" {
            head += &format!("Content-Length: {}\r\n", request.body.len());
        }
        let bytes = [head.as_bytes(), b"\r\n", request.body].concat();
        socket.write_all(&bytes).await.context("the request was not accepted")?;
        Self::read_head(socket).await
    }

    /// Becomes a WebSocket viewer.
    pub(super) async fn upgrade(url: &Url, key: Option<&str>) -> anyhow::Result<Connection> {
        let mut headers = vec![
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            // Any 16 bytes: the server's answer to it is not checked.
            ("Sec-WebSocket-Key", "cmVsYXlzdHJlYW0gbG9hZA=="),
        ];
        headers.extend(key.map(|key| ("Authorization", key)));
        let connection = Self::open(&Request { method: "GET", url, headers, body: b"" }).await?;
        if connection.status != 101 {
            bail!("the WebSocket was refused with status {}", connection.status);
        }
        Ok(connection)
    }

    async fn read_head(mut socket: TcpStream) -> anyhow::Result<Connection> {
        let (mut buffer, mut filled) = (vec![0; READ], 0);
        let end = loop {
            if let Some(at) = memmem::find(&buffer[..filled], b"\r\n\r\n") {
                break at + 4;
            }
            if filled == buffer.len() {
                if filled >= HEAD {
                    bail!("the answer's head is larger than {HEAD} bytes");
                }
                buffer.resize(2 * filled, 0);
            }
            match socket.read(&mut buffer[filled..]).await? {
                0 => bail!("the connection was closed before an answer"),
                read => filled += read,
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let status =
            head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("the answer is not HTTP")?;
        let field = |name: &str| {
            head.lines()
                .find_map(|line| line.split_once(':').filter(|(field, _)| *field == name))
                .map(|(_, value)| value.trim())
        };
        let framing = match (status, field("content-length").and_then(|length| length.parse().ok())) {
            (101, _) => Framing::Socket(Vec::new()),
            (204 | 304, _) => Framing::Length(0),
            (_, Some(length)) => Framing::Length(length),
            _ if field("transfer-encoding") == Some("chunked") => Framing::Chunked(Chunked::default()),
            _ => Framing::UntilClose,
        };
        buffer.copy_within(end..filled, 0);
        Ok(Connection { socket, buffer, filled: filled - end, framing, status, frames: 0 })
    }

    /// Reads once and hands the payload on in pieces. A body that breaks off is an error.
    pub(super) async fn next(&mut self, mut payload: impl FnMut(&[u8])) -> io::Result<Flow> {
        if matches!(self.framing, Framing::Length(0)) {
            return Ok(Flow::End);
        }
        if self.filled == 0 {
            self.filled = self.socket.read(&mut self.buffer).await?;
            if self.filled == 0 {
                let proper = matches!(self.framing, Framing::UntilClose);
                return if proper { Ok(Flow::End) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
        let bytes = &self.buffer[..std::mem::take(&mut self.filled)];
        match &mut self.framing {
            Framing::Chunked(chunked) => chunked.push(bytes, &mut self.frames, payload),
            Framing::UntilClose => {
                payload(bytes);
                Ok(Flow::More)
            }
            Framing::Length(left) => {
                payload(bytes);
                *left = left.saturating_sub(bytes.len() as u64);
                Ok(if *left == 0 { Flow::End } else { Flow::More })
            }
            Framing::Socket(pending) => {
                pending.extend_from_slice(bytes);
                let mut pongs = Vec::new();
                let flow = messages(pending, &mut self.frames, &mut pongs, payload);
                if !pongs.is_empty() {
                    self.socket.write_all(&pongs).await?;
                }
                Ok(flow)
            }
        }
    }

    /// Sends a WebSocket text message.
    pub(super) async fn send(&mut self, text: &str) -> io::Result<()> {
        let mut frame = Vec::new();
        write_masked(&mut frame, 0x1, text.as_bytes());
        self.socket.write_all(&frame).await
    }
}

/// HTTP/1.1's chunked coding, incrementally.
#[derive(Debug, Default)]
struct Chunked {
    part: Part,
    /// Bytes left of the chunk, or its size so far.
    size: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Part {
    #[default]
    Size,
    Extension,
    Data,
    /// The line end after a chunk.
    Gap,
    Trailer,
}

impl Chunked {
    fn push(
        &mut self,
        mut bytes: &[u8],
        frames: &mut u64,
        mut payload: impl FnMut(&[u8]),
    ) -> io::Result<Flow> {
        while !bytes.is_empty() {
            match self.part {
                Part::Data => {
                    let take = bytes.len().min(usize::try_from(self.size).unwrap_or(usize::MAX));
                    payload(&bytes[..take]);
                    bytes = &bytes[take..];
                    self.size -= take as u64;
                    if self.size == 0 {
                        self.part = Part::Gap;
                    }
                }
                Part::Size => {
                    let digit = char::from(bytes[0]).to_digit(16);
                    match digit {
                        Some(digit) => {
                            self.size = self.size * 16 + u64::from(digit);
                            bytes = &bytes[1..];
                        }
                        None => self.part = Part::Extension,
                    }
                }
                Part::Extension | Part::Gap => {
                    let Some(at) = memchr(b'\n', bytes) else { return Ok(Flow::More) };
                    bytes = &bytes[at + 1..];
                    self.part = match (self.part, self.size) {
                        (Part::Gap, _) => Part::Size,
                        (_, 0) => Part::Trailer,
                        _ => Part::Data,
                    };
                    *frames += u64::from(self.part == Part::Data);
                }
                // No server here sends trailers, and nothing is asked on this connection any more.
                Part::Trailer => return Ok(Flow::End),
            }
        }
        Ok(if self.part == Part::Trailer { Flow::End } else { Flow::More })
    }
}

/// Takes the complete frames out of `pending`. A server's frames are not masked.
fn messages(
    pending: &mut Vec<u8>,
    frames: &mut u64,
    pongs: &mut Vec<u8>,
    mut payload: impl FnMut(&[u8]),
) -> Flow {
    let mut at = 0;
    let mut flow = Flow::More;
    while let [first, second, ..] = pending[at..] {
        let rest = &pending[at + 2..];
        let (wide, length) = match second & 0x7f {
            126 if rest.len() >= 2 => (2, usize::from(u16::from_be_bytes([rest[0], rest[1]]))),
            127 if rest.len() >= 8 => {
                (8, rest[..8].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
            }
            126 | 127 => break,
            short => (0, usize::from(short)),
        };
        let Some(body) = rest.get(wide..wide + length) else { break };
        match first & 0x0f {
            0x8 => flow = Flow::End,
            0x9 => write_masked(pongs, 0xa, body),
            0xa => {}
            _ => {
                *frames += 1;
                payload(body);
            }
        }
        at += 2 + wide + length;
    }
    pending.drain(..at);
    flow
}

/// A client's frame must be masked; a mask of zeros leaves its payload as it is.
fn write_masked(out: &mut Vec<u8>, opcode: u8, body: &[u8]) {
    out.push(0x80 | opcode);
    match u16::try_from(body.len()) {
        Ok(short @ 0..126) => out.push(0x80 | short as u8),
        Ok(length) => {
            out.push(0x80 | 126);
            out.extend(length.to_be_bytes());
        }
        Err(_) => {
            out.push(0x80 | 127);
            out.extend((body.len() as u64).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_decoded_however_they_are_cut() {
        let wire = b"5\r\nhello\r\n1;x=y\r\n \r\nA\r\n0123456789\r\n0\r\n\r\n";
        for cut in 0..=wire.len() {
            let (mut chunked, mut frames, mut out) = (Chunked::default(), 0, Vec::new());
            let mut flow = Flow::More;
            for part in [&wire[..cut], &wire[cut..]] {
                flow = chunked.push(part, &mut frames, |bytes| out.extend_from_slice(bytes)).unwrap();
            }
            assert_eq!(
                (out.as_slice(), frames, flow),
                (b"hello 0123456789".as_slice(), 3, Flow::End),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn messages_are_decoded_however_they_are_cut() {
        let long = vec![b'x'; 300];
        let mut wire = vec![0x81, 2, b'h', b'i', 0x89, 1, b'p', 0x81, 126, 1, 44];
        wire.extend(&long);
        wire.extend([0x88, 2, 3, 232]);
        for cut in 0..=wire.len() {
            let (mut pending, mut frames, mut pongs, mut out) = (Vec::new(), 0, Vec::new(), Vec::new());
            let mut flow = Flow::More;
            for part in [&wire[..cut], &wire[cut..]] {
                pending.extend_from_slice(part);
                if flow == Flow::More {
                    flow =
                        messages(&mut pending, &mut frames, &mut pongs, |body| out.extend_from_slice(body));
                }
            }
            assert_eq!(out, [b"hi".as_slice(), &long].concat(), "cut at {cut}");
            assert_eq!((frames, flow), (2, Flow::End));
            assert_eq!(pongs, [0x8a, 0x81, 0, 0, 0, 0, b'p']);
        }
    }
}
