//! The session socket's messages: JSON text, `{type, id?, data?, stream?, position?, timestamp}`.
//!
//! Payload fields are in `data` both ways. Unknown fields are ignored; unknown types are answered with an error,
//! since a client that sends one waits for something.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::roster::Member;
use crate::auth::Role;
use crate::event::{Event, Kind, Status};
use crate::log::{EventId, LogId, Position, Record};

/// The subprotocol that clients may name.
pub const SUBPROTOCOL: &str = "relaystream.v1";

/// What a client says.
#[derive(Debug, Clone, PartialEq)]
pub enum Inbound {
    /// Attach or resume: `after` maps a stream's id, or the session's name, to an event id.
    Hello {
        after: BTreeMap<String, String>,
    },
    Cancel {
        stream: String,
    },
    /// Another credential of the same user, before the one it came in by ends.
    Auth(Fresh),
    Ping,
    Unknown {
        name: String,
    },
}

/// A credential. Not to be printed.
#[derive(Clone, PartialEq)]
pub enum Fresh {
    /// An API key or a token.
    Token(String),
    Ticket(String),
}

impl std::fmt::Debug for Fresh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fresh")
    }
}

/// A message and its client's own id for it, which answers repeat.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    pub id: Option<String>,
    pub message: Inbound,
}

#[derive(Deserialize)]
struct Wire {
    r#type: String,
    id: Option<String>,
    #[serde(default)]
    data: Value,
    stream: Option<String>,
}

/// Reads a client's message; the error says what is wrong with it.
pub fn parse(text: &str) -> Result<Envelope, String> {
    let wire: Wire = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let message = match wire.r#type.as_str() {
        "hello" => {
            let after = wire.data.get("after").cloned().unwrap_or_default();
            let after = if after.is_null() {
                BTreeMap::new()
            } else {
                serde_json::from_value(after).map_err(|error| format!("data.after: {error}"))?
            };
            Inbound::Hello { after }
        }
        "cancel" => {
            let named = wire.data.get("stream").and_then(Value::as_str).map(str::to_owned);
            Inbound::Cancel { stream: named.or(wire.stream).ok_or("data.stream: is missing")? }
        }
        "auth" => {
            let text = |field: &str| wire.data.get(field).and_then(Value::as_str).map(str::to_owned);
            let token = text("token").map(Fresh::Token);
            Inbound::Auth(
                token.or_else(|| text("ticket").map(Fresh::Ticket)).ok_or("data.token: is missing")?,
            )
        }
        "ping" => Inbound::Ping,
        other => Inbound::Unknown { name: other.to_owned() },
    };
    Ok(Envelope { id: wire.id, message })
}

/// One of the room's streams, for a viewer that comes in.
#[derive(Debug)]
pub struct Summary {
    pub stream: LogId,
    /// What the viewer has after this message: the end of `text`, or the position that it holds itself.
    pub position: Position,
    pub status: Status,
    /// All text so far, unless the viewer holds a position of this stream.
    pub text: Option<String>,
}

/// Who the viewer is in the room, and who else is there.
#[derive(Debug)]
pub struct Presence {
    pub member: String,
    pub user: String,
    pub role: Role,
    pub version: u64,
    pub members: Vec<Member>,
}

/// The answer to `hello`.
pub fn welcome(presence: &Presence, room: EventId, streams: &[Summary], now_ms: u64) -> String {
    let streams: Vec<Value> = streams
        .iter()
        .map(|summary| {
            let position = EventId { log: summary.stream, position: summary.position };
            let mut value = json!({"stream": summary.stream.to_string(), "position": position.to_string(),
                                   "status": summary.status.as_str()});
            if let Some(text) = &summary.text {
                value["text"] = text.as_str().into();
            }
            value
        })
        .collect();
    json!({"type": "welcome", "timestamp": now_ms, "data": {
        "member": presence.member, "user": presence.user, "role": presence.role,
        "version": presence.version, "members": presence.members,
        "room": room.log.to_string(), "position": room.to_string(), "streams": streams,
    }})
    .to_string()
}

pub fn reset(log: &str, reason: &str, now_ms: u64) -> String {
    json!({"type": "reset", "timestamp": now_ms, "data": {"log": log, "reason": reason}}).to_string()
}

pub fn ack(id: Option<&str>, now_ms: u64) -> String {
    json!({"type": "ack", "id": id, "timestamp": now_ms}).to_string()
}

pub fn pong(id: Option<&str>, now_ms: u64) -> String {
    json!({"type": "pong", "id": id, "timestamp": now_ms}).to_string()
}

/// What the client sent is wrong: sent again it would be wrong again.
pub fn error(id: Option<&str>, code: &str, message: &str, now_ms: u64) -> String {
    refused(id, code, message, false, now_ms)
}

/// `retryable`: the same may do later.
pub fn refused(id: Option<&str>, code: &str, message: &str, retryable: bool, now_ms: u64) -> String {
    json!({"type": "error", "id": id, "timestamp": now_ms,
           "data": {"code": code, "message": message, "retryable": retryable}})
    .to_string()
}

/// The credential has expired: the socket is closed after `grace_ms` unless a fresh one comes.
pub fn expired(grace_ms: u64, now_ms: u64) -> String {
    json!({"type": "error", "id": null, "timestamp": now_ms,
           "data": {"code": "expired", "message": "the credential has expired: send a fresh one with auth",
                    "retryable": true, "grace_ms": grace_ms}})
    .to_string()
}

pub fn going_away(retry_ms: u64, now_ms: u64) -> String {
    json!({"type": "going-away", "timestamp": now_ms, "data": {"retry_ms": retry_ms}}).to_string()
}

/// A stream's records as messages: runs of tokens become one, which carries the position of the last.
pub fn frames(log: LogId, records: &[Record]) -> Vec<String> {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < records.len() {
        let kind = Kind::from_u8(records[at].draft.kind);
        let run = match kind {
            Some(Kind::Token | Kind::Reasoning) => {
                records[at..].iter().take_while(|record| record.draft.kind == records[at].draft.kind).count()
            }
            _ => 1,
        };
        if let Some(kind) = kind {
            frames.push(frame(log, kind, &records[at..at + run]));
        }
        at += run;
    }
    frames
}

fn frame(log: LogId, kind: Kind, run: &[Record]) -> String {
    let last = &run[run.len() - 1];
    let position = EventId { log, position: last.position };
    let data = if run.len() == 1 {
        String::from_utf8_lossy(&last.draft.payload).into_owned()
    } else {
        let text: String = run
            .iter()
            .filter_map(|record| match Event::parse(kind, &record.draft.payload) {
                Ok(Event::Token(text) | Event::Reasoning(text)) => Some(text),
                _ => None,
            })
            .collect();
        json!({"text": text}).to_string()
    };
    format!(
        r#"{{"type":"{}","stream":"{log}","position":"{position}","timestamp":{},"data":{data}}}"#,
        kind.name(),
        last.draft.at_ms,
    )
}
