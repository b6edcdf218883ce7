//! What is said in a room, as its log keeps it, and which of it was said before.
//!
//! Pure: records in, answers out. A client that lost its connection says its last words again; under the same id they
//! are one message, on whichever node it comes back.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Kind;
use crate::log::{Position, Record};

/// The same id of one user is one message for ten minutes.
const REPEAT_MS: u64 = 10 * 60 * 1000;
/// More ids than this are not remembered, the newest are.
const MOST_IDS: usize = 16_384;

/// The data of `Text` and `System`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    pub content: String,
    /// The user.
    pub from: String,
    /// Its client's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The highest number that a stream of the session had by then: talk may fill the log so that the records of its
    /// streams are trimmed, and whoever reads it from there on must not give their numbers again.
    #[serde(default)]
    pub given: u32,
}

impl Text {
    /// As the log keeps it, when the next stream would be `next_number`.
    pub fn data(&self, next_number: u32) -> Vec<u8> {
        let text = Text { given: next_number - 1, ..self.clone() };
        serde_json::to_vec(&text).expect("a text has string keys")
    }

    /// None: not what people say, or another version's.
    pub fn of(record: &Record) -> Option<Text> {
        Kind::of_talk(record.draft.kind)?;
        serde_json::from_slice(&record.draft.payload).ok()
    }

    /// What viewers get.
    pub fn shown(&self) -> Value {
        let mut shown = json!({"content": self.content, "from": self.from});
        if let Some(id) = &self.id {
            shown["id"] = id.as_str().into();
        }
        shown
    }
}

pub(super) fn numbered(payload: &[u8]) -> u32 {
    #[derive(Deserialize)]
    struct Given {
        #[serde(default)]
        given: u32,
    }
    serde_json::from_slice(payload).map_or(0, |Given { given }| given)
}

/// The ids of what was said lately, as far as the room's log was read.
#[derive(Debug, Default)]
pub struct Recent {
    known: HashMap<(String, String), (u64, Position)>,
    order: VecDeque<(String, String)>,
}

impl Recent {
    /// Takes the log's next record.
    pub fn apply(&mut self, record: &Record) {
        let Some(Text { from, id: Some(id), .. }) = Text::of(record) else { return };
        let (key, at_ms) = ((from, id), record.draft.at_ms);
        if self.known.insert(key.clone(), (at_ms, record.position)).is_none() {
            self.order.push_back(key);
        }
        while let Some(oldest) = self.order.front() {
            let over = self.known.get(oldest).is_none_or(|(at, _)| at + REPEAT_MS <= at_ms);
            if !over && self.order.len() <= MOST_IDS {
                break;
            }
            self.known.remove(oldest);
            self.order.pop_front();
        }
    }

    /// Where the user said this, if it did within the last ten minutes.
    pub fn find(&self, from: &str, id: &str, now_ms: u64) -> Option<Position> {
        let (at_ms, position) = self.known.get(&(from.to_owned(), id.to_owned()))?;
        (at_ms + REPEAT_MS > now_ms).then_some(*position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Draft, Framing};
    use crate::room::Room;

    fn said(seq: u64, at_ms: u64, id: &str, next_number: u32) -> Record {
        let text = Text { content: "hi".into(), from: "ana".into(), id: Some(id.into()), given: 0 };
        let payload = text.data(next_number).into();
        let draft = Draft { kind: Kind::Text as u8, at_ms, payload, framing: Framing::Own };
        Record { position: Position::new(0, seq), draft: draft.into() }
    }

    #[test]
    fn an_id_is_one_message_for_ten_minutes() {
        let mut recent = Recent::default();
        recent.apply(&said(1, 1000, "a", 1));
        assert_eq!(recent.find("ana", "a", 1000 + REPEAT_MS - 1), Some(Position::new(0, 1)));
        assert_eq!(recent.find("ana", "a", 1000 + REPEAT_MS), None);
        assert_eq!(recent.find("bob", "a", 1000), None);
        recent.apply(&said(2, 2000 + REPEAT_MS, "b", 1));
        assert_eq!((recent.known.len(), recent.order.len()), (1, 1));
        for n in 0..2 * MOST_IDS as u64 {
            recent.apply(&said(3 + n, 3000 + REPEAT_MS, &n.to_string(), 1));
        }
        assert_eq!(recent.known.len(), MOST_IDS);
    }

    #[test]
    fn numbers_are_not_given_again_when_the_log_begins_with_talk() {
        let mut room = Room::default();
        room.apply(&said(900, 1, "a", 8));
        assert_eq!(room.next_number(), 8);
    }
}
