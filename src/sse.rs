//! Server-sent events on bytes, both directions: an incremental parser that keeps each frame's own bytes,
//! and the few lines that write one.
//!
//! Source of the rules: the WHATWG HTML standard, "Server-sent events". Deviations, on purpose: lines and
//! events are capped, since an upstream is not trusted with our memory, and a frame's bytes are kept so that
//! it can be forwarded unchanged. No I/O; feed it whatever the socket gave, cut anywhere.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::Write;

/// One dispatched event.
#[derive(Debug, PartialEq)]
pub struct Frame<'a> {
    /// The `event:` field, empty if there was none.
    pub event: Cow<'a, str>,
    /// All `data:` lines joined by a line feed.
    pub data: Cow<'a, str>,
    /// The last `id:` seen so far on this connection.
    pub id: Option<&'a str>,
    /// The frame as it came, closing blank line included, without its comments and its `id:` and `retry:` lines.
    /// Only a lone CR is written as LF, and so is every line end after the first one: beside an LF, where a line
    /// between was left out or ours is put in front, it would read as a CRLF and join two lines or two frames.
    pub raw: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an SSE event is larger than {limit} bytes")]
pub struct TooLarge {
    pub limit: usize,
}

/// A CR that was the last byte so far: whether an LF follows decides what line end it is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cr {
    No,
    /// The line is still open. Only until the first lone CR: from there on lines end so, and must not wait.
    Open,
    /// The line was ended; an LF that follows belongs to the same line end and is dropped.
    Ended,
}

#[derive(Debug)]
pub struct Parser {
    /// The unfinished line, its terminator excluded.
    line: Vec<u8>,
    event: Vec<u8>,
    data: Vec<u8>,
    raw: Vec<u8>,
    id: Option<String>,
    retry_ms: Option<u64>,
    has_data: bool,
    first_line: bool,
    cr: Cr,
    /// A lone CR was seen: a fact about the bytes, not about how they were cut.
    lone_cr: bool,
    limit: usize,
}

impl Parser {
    /// `limit`: the largest line and the largest event accepted, in bytes.
    pub fn new(limit: usize) -> Parser {
        Parser {
            line: Vec::new(),
            event: Vec::new(),
            data: Vec::new(),
            raw: Vec::new(),
            id: None,
            retry_ms: None,
            has_data: false,
            first_line: true,
            cr: Cr::No,
            lone_cr: false,
            limit,
        }
    }

    /// The last `retry:` seen, in milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// Takes the next bytes and calls `on_frame` for each event they complete. Frames without data are not
    /// events and are dropped, as the standard says.
    pub fn feed(&mut self, mut bytes: &[u8], mut on_frame: impl FnMut(Frame<'_>)) -> Result<(), TooLarge> {
        while let Some(first) = bytes.first() {
            match (std::mem::replace(&mut self.cr, Cr::No), first) {
                (Cr::Open, b'\n') => {
                    bytes = &bytes[1..];
                    self.end_line(b"\r\n", &mut on_frame)?;
                    continue;
                }
                (Cr::Open, _) => {
                    self.lone_cr = true;
                    self.end_line(b"\n", &mut on_frame)?;
                }
                (Cr::Ended, b'\n') => {
                    bytes = &bytes[1..];
                    continue;
                }
                (Cr::No | Cr::Ended, _) => {}
            }
            let Some(at) = memchr::memchr2(b'\n', b'\r', bytes) else { return self.extend_line(bytes) };
            self.extend_line(&bytes[..at])?;
            match bytes[at] {
                b'\n' => self.end_line(b"\n", &mut on_frame)?,
                _ if self.lone_cr => {
                    self.cr = Cr::Ended;
                    self.end_line(b"\n", &mut on_frame)?;
                }
                _ => self.cr = Cr::Open,
            }
            bytes = &bytes[at + 1..];
        }
        Ok(())
    }

    /// The connection ended. An unfinished event is discarded, as the standard says; a CR that was waiting for
    /// its LF counts as a line end.
    pub fn finish(&mut self, mut on_frame: impl FnMut(Frame<'_>)) -> Result<(), TooLarge> {
        if std::mem::replace(&mut self.cr, Cr::No) == Cr::Open {
            self.end_line(b"\n", &mut on_frame)?;
        }
        Ok(())
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        if self.line.len() + bytes.len() > self.limit {
            return Err(TooLarge { limit: self.limit });
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, terminator: &[u8], on_frame: &mut impl FnMut(Frame<'_>)) -> Result<(), TooLarge> {
        let mut line = std::mem::take(&mut self.line);
        let skip =
            if std::mem::take(&mut self.first_line) && line.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        let kept = if line.len() == skip {
            self.dispatch(terminator, on_frame);
            false
        } else {
            self.field(&line[skip..])
        };
        if kept {
            if self.raw.len() + line.len() > self.limit {
                return Err(TooLarge { limit: self.limit });
            }
            self.raw.extend_from_slice(&line[skip..]);
            self.raw.extend_from_slice(terminator);
        }
        line.clear();
        self.line = line;
        Ok(())
    }

    /// Takes one line; says whether the line belongs to the frame's own bytes.
    fn field(&mut self, line: &[u8]) -> bool {
        let (name, value) = match memchr::memchr(b':', line) {
            Some(0) => return false,
            Some(at) => {
                let value = &line[at + 1..];
                (&line[..at], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &line[line.len()..]),
        };
        match name {
            b"data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            b"event" => {
                self.event.clear();
                self.event.extend_from_slice(value);
            }
            b"id" => {
                if !value.contains(&0) {
                    self.id = Some(String::from_utf8_lossy(value).into_owned()).filter(|id| !id.is_empty());
                }
                return false;
            }
            b"retry" => {
                if let Some(ms) =
                    std::str::from_utf8(value).ok().filter(|v| v.bytes().all(|b| b.is_ascii_digit()))
                {
                    self.retry_ms = ms.parse().ok().or(self.retry_ms);
                }
                return false;
            }
            _ => {}
        }
        true
    }

    fn dispatch(&mut self, terminator: &[u8], on_frame: &mut impl FnMut(Frame<'_>)) {
        if self.has_data {
            self.raw.extend_from_slice(terminator);
            on_frame(Frame {
                event: String::from_utf8_lossy(&self.event),
                data: String::from_utf8_lossy(&self.data),
                id: self.id.as_deref(),
                raw: &self.raw,
            });
        }
        self.event.clear();
        self.data.clear();
        self.raw.clear();
        self.has_data = false;
    }
}

/// Writes one event. `event` and `id` must not contain line breaks; `data` must be one line.
pub fn write(out: &mut Vec<u8>, id: Option<&dyn Display>, event: &str, retry_ms: Option<u64>, data: &[u8]) {
    debug_assert!(memchr::memchr2(b'\n', b'\r', data).is_none(), "data is one line");
    write_id(out, id);
    if !event.is_empty() {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(event.as_bytes());
        out.push(b'\n');
    }
    if let Some(ms) = retry_ms {
        let _infallible = writeln!(out, "retry: {ms}");
    }
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}

/// Writes an `id:` line, which must be followed by the rest of its frame.
pub fn write_id(out: &mut Vec<u8>, id: Option<&dyn Display>) {
    if let Some(id) = id {
        let _infallible = writeln!(out, "id: {id}");
    }
}

/// Writes free text as one event: a `data:` line for each line of it.
pub fn write_text(out: &mut Vec<u8>, id: Option<&dyn Display>, text: &str) {
    write_id(out, id);
    for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    out.push(b'\n');
}
