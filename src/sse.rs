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
                event: text(&self.event),
                data: text(&self.data),
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

/// Well-formed text first: that check takes many bytes at a time, the lossy one each character.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures_util::{FutureExt, StreamExt};
    use proptest::prelude::*;
    use proptest::sample::Index;

    /// An event, its data, the last id so far, and the frame's own bytes.
    type Seen = (String, String, Option<String>, Vec<u8>);

    fn parse<'a>(
        limit: usize,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<Seen>, Option<u64>, Option<TooLarge>) {
        let (mut parser, mut seen) = (Parser::new(limit), Vec::new());
        let mut keep = |frame: Frame<'_>| {
            seen.push((
                frame.event.into_owned(),
                frame.data.into_owned(),
                frame.id.map(str::to_owned),
                frame.raw.to_vec(),
            ));
        };
        let fed = pieces.into_iter().try_for_each(|piece| parser.feed(piece, &mut keep));
        let failed = fed.and_then(|()| parser.finish(&mut keep)).err();
        (seen, parser.retry_ms(), failed)
    }

    /// Dispatched events of the oracle: blocks with data, ids carried over as the standard says.
    type Heard = (Vec<(String, String, Option<String>)>, Option<u64>);

    fn oracle(bytes: &[u8]) -> Heard {
        let input = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::copy_from_slice(bytes))]);
        let mut blocks = sse_stream::SseByteStream::new(input);
        let (mut seen, mut id, mut retry) = (Vec::new(), None, None);
        while let Some(block) = blocks.next().now_or_never().expect("nothing to wait for") {
            let block = block.expect("UTF-8");
            id = block.id.or(id);
            retry = block.retry.or(retry);
            if let Some(data) = block.data {
                let last_id = id.clone().filter(|id: &String| !id.is_empty());
                seen.push((block.event.unwrap_or_default(), data, last_id));
            }
        }
        (seen, retry)
    }

    fn line() -> impl Strategy<Value = String> {
        let value = prop_oneof![Just(String::new()), "[a-z:é🦀 ]{0,12}", " {0,2}[0-9]{1,4}", "\u{0}?x"];
        let field = prop::sample::select(vec!["data", "data", "data", "event", "id", "retry", "", "other"]);
        let line =
            (field, prop_oneof![Just(""), Just(":"), Just(": ")], value).prop_map(|(field, colon, value)| {
                if colon.is_empty() { field.to_owned() } else { format!("{field}{colon}{value}") }
            });
        prop_oneof![3 => line, 2 => Just(String::new())]
    }

    /// A body in one kind of line ends or a mix of them, with or without a byte order mark.
    fn body() -> impl Strategy<Value = Vec<u8>> {
        let ends = prop::sample::select(vec![
            vec!["\n"],
            vec!["\r\n"],
            vec!["\r"],
            vec!["\n", "\r\n"],
            vec!["\n", "\r\n", "\r"],
        ]);
        let lines = prop::collection::vec((line(), any::<Index>()), 0..40);
        (any::<bool>(), lines, ends, any::<bool>()).prop_map(|(bom, lines, ends, open)| {
            let mut text = String::from(if bom { "\u{feff}" } else { "" });
            for (line, end) in lines {
                text.push_str(&line);
                text.push_str(ends[end.index(ends.len())]);
            }
            text.push_str(if open { "data: unfinished" } else { "" });
            text.into_bytes()
        })
    }

    fn cut<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_another_parser_however_it_is_cut(body in body(), cuts in prop::collection::vec(any::<Index>(), 0..8)) {
            let (seen, retry, failed) = parse(1 << 20, cut(&body, &cuts));
            prop_assert_eq!(failed, None);
            prop_assert_eq!(&seen, &parse(1 << 20, [body.as_slice()]).0);
            prop_assert_eq!(&seen, &parse(1 << 20, body.chunks(1)).0);
            let (expected, _) = oracle(&body);
            // The oracle tells of a retry with its block, we at its line: close the last block for it.
            let (_, expected_retry) = oracle(&[body.as_slice(), b"\n\n"].concat());
            let known: Vec<_> = seen.iter().map(|(event, data, id, _)| (event.clone(), data.clone(), id.clone())).collect();
            prop_assert_eq!(known, expected);
            prop_assert_eq!(retry, expected_retry);
        }

        /// Forwarded frames, each with an id of ours in front, are the same events to the next reader.
        #[test]
        fn raw_frames_can_be_forwarded(body in body()) {
            let (seen, ..) = parse(1 << 20, [body.as_slice()]);
            let mut sent = Vec::new();
            for (at, (.., raw)) in seen.iter().enumerate() {
                prop_assert!(!raw.starts_with(b"\xEF\xBB\xBF"));
                write_id(&mut sent, Some(&format!("ours-{at}")));
                sent.extend_from_slice(raw);
            }
            let (again, _) = oracle(&sent);
            let expected: Vec<_> = seen.iter().enumerate()
                .map(|(at, (event, data, ..))| (event.clone(), data.clone(), Some(format!("ours-{at}")))).collect();
            prop_assert_eq!(again, expected);
        }

        /// Beyond the limit is an error, wherever the cuts are; never more memory.
        #[test]
        fn lines_and_events_are_capped(body in body(), limit in 1_usize..60, cuts in prop::collection::vec(any::<Index>(), 0..8)) {
            let whole = parse(limit, [body.as_slice()]);
            prop_assert_eq!(&parse(limit, cut(&body, &cuts)), &whole);
            prop_assert_eq!(&parse(limit, body.chunks(1)), &whole);
            prop_assert!(whole.0.iter().all(|(_, data, ..)| data.len() <= limit));
            let text = String::from_utf8_lossy(&body);
            let longest = text.split(['\n', '\r']).map(str::len).max().unwrap_or(0);
            prop_assert!(longest <= limit || whole.2.is_some(), "a line of {longest} bytes was taken");
        }

        #[test]
        fn what_is_written_is_read(text in "[a-z \r\n:é]{0,40}", name in "[a-z]{0,6}", id in "[a-z0-9-]{1,20}") {
            let (mut out, json) = (Vec::new(), serde_json::json!({"text": text}).to_string());
            write(&mut out, Some(&id), &name, Some(5), json.as_bytes());
            write_text(&mut out, None, &text);
            let (seen, retry, _) = parse(1 << 20, [out.as_slice()]);
            prop_assert_eq!((&seen[0].0, &seen[0].1, seen[0].2.as_deref()), (&name, &json, Some(id.as_str())));
            prop_assert_eq!(retry, Some(5));
            prop_assert_eq!(&seen[1].1, &text.replace("\r\n", "\n").replace('\r', "\n"));
        }
    }

    #[test]
    fn a_stream_of_lone_crs_is_dispatched_at_once() {
        let mut parser = Parser::new(100);
        let mut count = 0;
        parser.feed(b"data: a\r\rdata: b\r\r", |_| count += 1).expect("small");
        assert_eq!(count, 2, "only the very first lone CR waits for what follows it");
    }

    #[test]
    fn an_endless_line_or_event_is_refused_before_it_is_kept() {
        let mut parser = Parser::new(100);
        let endless = |_: Frame<'_>| panic!("no frame");
        assert_eq!(parser.feed(&[b'x'; 101], endless), Err(TooLarge { limit: 100 }));
        let mut parser = Parser::new(100);
        let fed = (0..100).try_for_each(|_| parser.feed(b"data: abc\n", endless));
        assert_eq!(fed, Err(TooLarge { limit: 100 }));
        assert!(parser.raw.len() <= 100 && parser.data.len() <= 100);
    }
}
