//! A log encoded for one format, once, shared by every viewer of it.
//!
//! Append-only bytes in a few chunks. A viewer's place is a byte offset; live viewers are handed slices of the
//! same allocation. Small chunks are merged as they age, so that a finished stream replays in large pieces.

use bytes::Bytes;

use crate::log::{Draft, Framing, LogId, Position, Record};
use crate::surface::{Encoder, Format};

/// So many chunks of one age become one.
const FAN_IN: usize = 32;

/// The largest piece given to a viewer at once: a late one gets a whole answer in a few of these.
const SLICE: usize = 512 * 1024;

#[derive(Debug)]
pub struct Rendition {
    pub format: Format,
    log: LogId,
    encoder: Encoder,
    chunks: Vec<Chunk>,
    len: u64,
}

#[derive(Debug)]
struct Chunk {
    start: u64,
    /// How often it was merged.
    age: u32,
    bytes: Bytes,
    marks: Vec<Mark>,
}

impl Chunk {
    /// Neighbours as one.
    fn of(family: &[Chunk], age: u32) -> Chunk {
        if let [only] = family {
            return Chunk { bytes: only.bytes.clone(), marks: only.marks.clone(), start: only.start, age };
        }
        let mut bytes = Vec::with_capacity(family.iter().map(|chunk| chunk.bytes.len()).sum());
        let mut marks = Vec::with_capacity(family.iter().map(|chunk| chunk.marks.len()).sum());
        for chunk in family {
            let shift = bytes.len();
            bytes.extend_from_slice(&chunk.bytes);
            marks.extend(chunk.marks.iter().map(|mark| Mark { end: mark.end + shift, ..*mark }));
        }
        Chunk { start: family[0].start, age, bytes: bytes.into(), marks }
    }
}

/// After the event `seq` the chunk has been read up to `end`.
#[derive(Debug, Clone, Copy)]
struct Mark {
    seq: u64,
    end: usize,
}

/// Where a position lies in the rendition.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// Read on from this offset.
    At(u64),
    /// Inside a provider's frame, which ends with event `upto`: what is left of it must be encoded apart, and the
    /// shared bytes go on at `then`.
    Inside { upto: u64, then: u64 },
}

impl Rendition {
    pub fn new(format: Format, log: LogId) -> Rendition {
        Rendition { format, log, encoder: format.surface.encoder(format, log), chunks: Vec::new(), len: 0 }
    }

    /// Encodes the log's next records.
    pub fn push(&mut self, records: &[Record]) {
        // What a record is written as is its content and, mostly, an id, a name and line ends.
        let size = records.iter().map(|record| record.draft.weight()).sum();
        let mut out = Vec::with_capacity(size);
        let mut marks = Vec::with_capacity(records.len());
        for record in records {
            self.encoder.encode(record, &mut out);
            // A part of a frame has no place of its own: its bytes come with the frame's last event.
            if !matches!(record.draft.framing, Framing::Part(_)) {
                marks.push(Mark { seq: record.position.seq, end: out.len() });
            }
        }
        for (bytes, marks) in pieces(out, marks) {
            let start = self.len;
            self.len += bytes.len() as u64;
            self.chunks.push(Chunk { start, age: 0, bytes, marks });
            self.merge();
        }
    }

    /// Merges many young chunks into one older one, so that every byte is copied a few times at most.
    fn merge(&mut self) {
        loop {
            let Some(young) = self.chunks.len().checked_sub(FAN_IN) else { return };
            let (family, age) = (&self.chunks[young..], self.chunks[young].age);
            // The youngest first: mostly it tells already, and the others are not touched for each token.
            if family.iter().rev().any(|chunk| chunk.age != age)
                || family.iter().map(|chunk| chunk.bytes.len()).sum::<usize>() > SLICE
            {
                return;
            }
            let merged = Chunk::of(family, age + 1);
            self.chunks.truncate(young);
            self.chunks.push(merged);
        }
    }

    /// The log is closed: what is left in small chunks is joined, for those who come late.
    pub fn compact(&mut self) {
        let mut chunks = std::mem::take(&mut self.chunks).into_iter().peekable();
        while let Some(first) = chunks.next() {
            let (mut size, mut family) = (first.bytes.len(), vec![first]);
            while let Some(next) = chunks.next_if(|next| size + next.bytes.len() <= SLICE) {
                size += next.bytes.len();
                family.push(next);
            }
            self.chunks.push(Chunk::of(&family, 0));
        }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The next bytes from `offset`, shared, not copied. None at the end.
    pub fn slice(&self, offset: u64) -> Option<Bytes> {
        let at = self.chunks.partition_point(|chunk| chunk.start + chunk.bytes.len() as u64 <= offset);
        let chunk = self.chunks.get(at)?;
        Some(chunk.bytes.slice((offset - chunk.start) as usize..))
    }

    /// The offset of the first frame for which `past` holds; the end so far if there is none.
    pub fn seek(&self, past: impl Fn(&[u8]) -> bool) -> u64 {
        for chunk in &self.chunks {
            let mut from = 0;
            for at in memchr::memchr_iter(b'\n', &chunk.bytes) {
                let rest = &chunk.bytes[at + 1..];
                let blank = [&b"\n"[..], b"\r\n"].into_iter().find(|blank| rest.starts_with(blank));
                let Some(blank) = blank.filter(|_| at >= from) else { continue };
                if past(&chunk.bytes[from..at]) {
                    return chunk.start + from as u64;
                }
                from = at + 1 + blank.len();
            }
        }
        self.len
    }

    /// Where to read on after `position`, which must be one of this log's, not beyond what was pushed.
    pub fn place(&self, position: Position) -> Place {
        if position.seq == 0 {
            return Place::At(0);
        }
        let at = self
            .chunks
            .partition_point(|chunk| chunk.marks.last().is_none_or(|mark| mark.seq < position.seq));
        let Some(chunk) = self.chunks.get(at) else { return Place::At(self.len) };
        let mark = chunk.marks[chunk.marks.partition_point(|mark| mark.seq < position.seq)];
        let offset = chunk.start + mark.end as u64;
        if mark.seq == position.seq {
            Place::At(offset)
        } else {
            Place::Inside { upto: mark.seq, then: offset }
        }
    }

    /// Encodes the events after `position` up to `upto` by themselves, for a viewer that stands inside a frame.
    /// `records` is the log from its start.
    pub fn remainder(&self, records: &[Record], position: Position, upto: u64) -> Bytes {
        let mut encoder = self.format.surface.encoder(self.format, self.log);
        let (mut seen, mut out) = (Vec::new(), Vec::new());
        for record in records.iter().take_while(|record| record.position.seq <= upto) {
            if record.position.seq <= position.seq {
                // What came before is encoded too: it sets up the encoder's state.
                encoder.encode(record, &mut seen);
                seen.clear();
            } else {
                let apart = Draft { framing: Framing::Own, ..Draft::clone(&record.draft) };
                encoder.encode(&Record { draft: apart.into(), ..*record }, &mut out);
            }
        }
        out.into()
    }
}

/// Cuts encoded bytes into chunks of at most `SLICE`, at event borders.
fn pieces(out: Vec<u8>, marks: Vec<Mark>) -> Vec<(Bytes, Vec<Mark>)> {
    // Not fitted to its content: that would cost each token a reallocation, and merging does it for many at once.
    let bytes = Bytes::from(out);
    if bytes.len() <= SLICE {
        return vec![(bytes, marks)];
    }
    let mut pieces = Vec::new();
    let (mut from, mut pending) = (0, Vec::new());
    for (at, mark) in marks.iter().enumerate() {
        pending.push(Mark { end: mark.end - from, ..*mark });
        let next = marks.get(at + 1).map(|next| next.end - from);
        if next.is_none_or(|next| next > SLICE) {
            // Behind the last mark may lie events of a frame whose own mark is still to come.
            let end = if next.is_some() { mark.end } else { bytes.len() };
            pieces.push((bytes.slice(from..end), std::mem::take(&mut pending)));
            from = end;
        }
    }
    pieces
}
