//! Where one is in a log, and how that is printed: `<log>-<epoch>-<seq>`.
//!
//! A position names the place right *after* an event. Printed with its log it is the event id, which serves as
//! SSE `id:`, `?after=`, WebSocket position and offset alike: bytewise sortable, only `[0-9a-z-]`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Names a log, of a stream or of a session's room: a ULID, printed in lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub u128);

/// Where a tag is: the first of the ULID's 80 random bits, which print as the four letters after the time.
const TAG_SHIFT: u32 = 60;
const TAG_MASK: u32 = 0xF_FFFF;

impl LogId {
    const LEN: usize = ulid::ULID_LEN;

    /// The id with these 20 bits in place of random ones.
    pub fn tagged(self, tag: u32) -> LogId {
        LogId(self.0 & !(u128::from(TAG_MASK) << TAG_SHIFT) | (u128::from(tag & TAG_MASK) << TAG_SHIFT))
    }

    pub fn tag(self) -> u32 {
        (self.0 >> TAG_SHIFT) as u32 & TAG_MASK
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; Self::LEN];
        let text = ulid::Ulid(self.0).array_to_str(&mut buffer);
        text.make_ascii_lowercase();
        f.write_str(text)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id of this server")]
pub struct Malformed;

impl FromStr for LogId {
    type Err = Malformed;

    /// Only the form that [`LogId`] prints: one log has one name.
    fn from_str(text: &str) -> Result<LogId, Malformed> {
        let id = LogId(ulid::Ulid::from_string(text).map_err(|_| Malformed)?.0);
        if id.to_string() == text { Ok(id) } else { Err(Malformed) }
    }
}

impl Serialize for LogId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LogId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LogId, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The place right after an event. Ordered by epoch, then by seq; `seq` 0 is the start of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Grows whenever an owner other than the one that wrote so far goes on with the log.
    pub epoch: u16,
    /// 1 for the first event, then exactly one more with every event, over epochs.
    pub seq: u64,
}

impl Position {
    pub const START: Position = Position { epoch: 0, seq: 0 };
    /// The largest seq that prints in ten digits; ends what can never be resumed.
    pub const LAST: u64 = 9_999_999_999;

    pub fn new(epoch: u16, seq: u64) -> Position {
        Position { epoch, seq }
    }
}

/// A position printed with its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    pub log: LogId,
    pub position: Position,
}

impl EventId {
    /// The printed length, always the same.
    pub const LEN: usize = LogId::LEN + 1 + 4 + 1 + 10;
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand: it is printed for every token, and the formatting machinery takes ten times as long.
        let mut text = [b'-'; Self::LEN];
        let mut ulid = [0; LogId::LEN];
        ulid::Ulid(self.log.0).array_to_str(&mut ulid).make_ascii_lowercase();
        text[..LogId::LEN].copy_from_slice(&ulid);
        for (at, digit) in text[LogId::LEN + 1..][..4].iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[usize::from(self.position.epoch >> (12 - 4 * at) & 15)];
        }
        let mut seq = self.position.seq;
        for digit in text[LogId::LEN + 6..].iter_mut().rev() {
            *digit = b'0' + (seq % 10) as u8;
            seq /= 10;
        }
        f.write_str(std::str::from_utf8(&text).expect("digits, letters and hyphens"))
    }
}

impl FromStr for EventId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<EventId, Malformed> {
        if text.len() != EventId::LEN || !text.is_ascii() {
            return Err(Malformed);
        }
        let (log, rest) = text.split_at(LogId::LEN);
        let rest = rest.strip_prefix('-').ok_or(Malformed)?;
        let (epoch, seq) = rest.split_once('-').ok_or(Malformed)?;
        let canonical = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if epoch.len() != 4 || !epoch.bytes().all(canonical) || !seq.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Malformed);
        }
        let position = Position {
            epoch: u16::from_str_radix(epoch, 16).map_err(|_| Malformed)?,
            seq: seq.parse().map_err(|_| Malformed)?,
        };
        Ok(EventId { log: log.parse()?, position })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_documented_and_sorts_bytewise() {
        let id: EventId =
            "01jxk3v9c2m4n5p6q7r8s9t0va-0000-0000000057".parse().expect("the documented example");
        assert_eq!(id.position, Position::new(0, 57));
        assert_eq!(id.to_string(), "01jxk3v9c2m4n5p6q7r8s9t0va-0000-0000000057");
        let later = EventId { position: Position::new(1, 58), ..id };
        assert!(later > id && later.to_string() > id.to_string());
    }

    #[test]
    fn refuses_everything_it_would_not_print() {
        for text in [
            "",
            "x",
            "01JXK3V9C2M4N5P6Q7R8S9T0VA-0000-0000000057",
            "01jxk3v9c2m4n5p6q7r8s9t0va-000-00000000570",
            "01jxk3v9c2m4n5p6q7r8s9t0va-00FF-0000000057",
            "01jxk3v9c2m4n5p6q7r8s9t0va-0000-+000000057",
            "81jxk3v9c2m4n5p6q7r8s9t0va-0000-0000000057",
            "01jxk3v9c2m4n5p6q7r8s9t0vé-0000-000000057",
        ] {
            assert_eq!(text.parse::<EventId>(), Err(Malformed), "{text}");
        }
    }
}
