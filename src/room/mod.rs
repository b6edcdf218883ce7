//! A session's room as a state machine: which streams it has seen, and where a viewer of all of them stands.
//!
//! The room's log says when streams opened and closed and what people said. Pure: records in, state out.

pub mod message;
pub mod roster;
pub mod talk;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::auth::jwt::valid_tenant;
use crate::log::{EventId, LogId, Malformed, Position, Record};

/// The types of a room's records, one byte in the log. Values are stored: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Opened = 33,
    Closed = 34,
    /// Somebody said something.
    Text = 35,
    /// A backend told everybody something.
    System = 36,
}

impl Kind {
    /// The name of what is shown to viewers; streams have events of their own.
    pub fn of_talk(kind: u8) -> Option<&'static str> {
        match kind {
            kind if kind == Kind::Text as u8 => Some("text"),
            kind if kind == Kind::System as u8 => Some("system"),
            _ => None,
        }
    }
}

/// The data of `Opened` and `Closed`: the stream and its number in the session, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    pub n: u32,
    pub stream: LogId,
}

#[derive(Serialize, Deserialize)]
struct WireSeat {
    n: u32,
    stream: String,
}

impl Seat {
    pub fn data(&self) -> Vec<u8> {
        let wire = WireSeat { n: self.n, stream: self.stream.to_string() };
        serde_json::to_vec(&wire).expect("a seat has string keys")
    }

    fn parse(data: &[u8]) -> Option<Seat> {
        let wire: WireSeat = serde_json::from_slice(data).ok()?;
        Some(Seat { n: wire.n, stream: wire.stream.parse().ok()? })
    }
}

/// One stream of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub stream: LogId,
    /// The seq of the room's record that opened it.
    pub opened: u64,
    /// And of the one that closed it.
    pub closed: Option<u64>,
}

/// The streams of a session, as told by the room's log up to `position`.
#[derive(Debug, Clone, Default)]
pub struct Room {
    pub position: Position,
    pub streams: BTreeMap<u32, Entry>,
    /// The highest number that a stream was given.
    given: u32,
}

impl Room {
    /// Takes the log's next record.
    pub fn apply(&mut self, record: &Record) {
        self.position = record.position;
        if Kind::of_talk(record.draft.kind).is_some() {
            self.given = self.given.max(talk::numbered(&record.draft.payload));
            return;
        }
        let seq = record.position.seq;
        let Some(seat) = Seat::parse(&record.draft.payload) else { return };
        if record.draft.kind == Kind::Opened as u8 {
            self.given = self.given.max(seat.n);
            // A process that stood still may tell of a stream that another has taken over and told of meanwhile.
            if self.holds(seat.stream) {
                return;
            }
            self.streams.insert(seat.n, Entry { stream: seat.stream, opened: seq, closed: None });
        } else if record.draft.kind == Kind::Closed as u8
            && let Some(entry) = self.streams.get_mut(&seat.n)
        {
            // Two processes may both have thought that it was theirs to tell.
            entry.closed.get_or_insert(seq);
        }
    }

    /// Numbers are never given twice, even when the records of earlier streams have been trimmed: see [`talk::Text`].
    pub fn next_number(&self) -> u32 {
        self.given + 1
    }

    /// Whether this is one of its streams.
    pub fn holds(&self, stream: LogId) -> bool {
        self.streams.values().any(|entry| entry.stream == stream)
    }

    /// Forgets a stream that is no longer kept.
    pub fn forget(&mut self, n: u32) {
        self.streams.remove(&n);
    }

    /// Where a viewer that stands at `vector` goes on in stream `n`; None if it has seen that one to its end.
    pub fn resume(&self, vector: &Vector, n: u32) -> Option<Position> {
        let entry = self.streams.get(&n)?;
        match vector.streams.get(&n) {
            Some(position) => Some(*position),
            // Not named: either it opened later, or it had ended and been left out.
            None if entry.closed.is_some_and(|closed| closed <= vector.room.seq) => None,
            None => Some(Position::START),
        }
    }
}

/// Where a viewer of a whole session stands: in the room's log and in each running stream's.
///
/// Printed it is the room's event id, then `~<n>.<epoch>.<seq>` for each running stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vector {
    pub room: Position,
    pub streams: BTreeMap<u32, Position>,
}

/// More streams than this at a time are not named in one id.
const MOST_STREAMS: usize = 1024;

impl Vector {
    pub fn print(&self, log: LogId) -> String {
        use fmt::Write;
        let mut text = EventId { log, position: self.room }.to_string();
        for (n, position) in &self.streams {
            let _infallible = write!(text, "~{n}.{}.{}", position.epoch, position.seq);
        }
        text
    }

    /// The room's log, which must be compared, and the vector.
    pub fn parse(text: &str) -> Result<(LogId, Vector), Malformed> {
        let mut parts = text.split('~');
        let id: EventId = parts.next().ok_or(Malformed)?.parse()?;
        let mut streams = BTreeMap::new();
        for part in parts {
            let mut numbers = part.split('.');
            let n = number(numbers.next())?;
            let epoch = number(numbers.next())?;
            let seq = number(numbers.next())?;
            if numbers.next().is_some() || streams.len() >= MOST_STREAMS {
                return Err(Malformed);
            }
            streams.insert(n, Position::new(epoch, seq));
        }
        Ok((id.log, Vector { room: id.position, streams }))
    }
}

fn number<T: FromStr>(text: Option<&str>) -> Result<T, Malformed> {
    let text = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).ok_or(Malformed)?;
    text.parse().map_err(|_| Malformed)
}

/// Whether this may name a session: `[A-Za-z0-9_.:-]{1,128}`, a tenant's name without an `@`.
pub fn valid_name(name: &str) -> bool {
    valid_tenant(name) && !name.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_id_parses_and_prints() {
        let text = "01jxk3v9c2m4n5p6q7r8s9t0va-0000-0000000012~3.0.57~4.1.9";
        let (log, vector) = Vector::parse(text).expect("the documented example");
        assert_eq!(vector.streams, BTreeMap::from([(3, Position::new(0, 57)), (4, Position::new(1, 9))]));
        assert_eq!(vector.print(log), text);
        for bad in [
            "",
            "x",
            "01jxk3v9c2m4n5p6q7r8s9t0va-0000-0000000012~",
            "01jxk3v9c2m4n5p6q7r8s9t0va-0000-0000000012~1.2",
        ] {
            assert!(Vector::parse(bad).is_err(), "{bad}");
        }
    }
}
