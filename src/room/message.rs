//! The session socket's messages: JSON text, `{type, id?, data?, stream?, position?, timestamp}`.
//!
//! Payload fields are in `data` both ways. Unknown fields are ignored; unknown types are answered with an error,
//! since a client that sends one waits for something.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use super::Kind;
use super::roster::{About, Diff, Greeting};
use super::talk::Text;
use crate::auth::Role;
use crate::event::{self, Event, Status};
use crate::log::{EventId, LogId, Position, Record};

/// The subprotocol that clients may name.
pub const SUBPROTOCOL: &str = "relaystream.v1";

/// The longest id of a client's message.
pub const ID_BYTES: usize = 128;

/// What a client says.
#[derive(Debug, Clone, PartialEq)]
pub enum Inbound {
    /// Attach or resume: `after` maps a stream's id, or the session's name, to an event id.
    Hello {
        after: BTreeMap<String, String>,
        greeting: Greeting,
    },
    /// Something for everybody, kept.
    Text {
        content: String,
    },
    /// What it says of itself now.
    Presence(Change),
    Typing(bool),
    /// For one member's connections, never kept.
    Signal {
        to: String,
        data: Value,
    },
    /// Sends a member away.
    Kick {
        member: String,
    },
    /// The fields of `POST /v1/streams`.
    Start(Map<String, Value>),
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

/// What a member changes of what it says of itself; what is not named stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    status: Option<String>,
    /// Null takes it away.
    cursor: Option<Value>,
    meta: Option<Value>,
}

impl Change {
    pub fn apply(self, about: &mut About) {
        if let Some(status) = self.status {
            about.status = status;
        }
        for (change, at) in [(self.cursor, &mut about.cursor), (self.meta, &mut about.meta)] {
            if let Some(value) = change {
                *at = Some(value).filter(|value| !value.is_null());
            }
        }
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

/// What is wrong with a client's message, and its id if it could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Unreadable {
    pub id: Option<String>,
    pub why: String,
}

/// Reads a client's message.
pub fn parse(text: &str) -> Result<Envelope, Unreadable> {
    let wire: Wire = serde_json::from_str(text)
        .map_err(|error: serde_json::Error| Unreadable { id: None, why: error.to_string() })?;
    let id = wire.id.clone();
    match inbound(wire) {
        Ok(message) => Ok(Envelope { id, message }),
        Err(why) => Err(Unreadable { id, why }),
    }
}

fn inbound(wire: Wire) -> Result<Inbound, String> {
    Ok(match wire.r#type.as_str() {
        "hello" => {
            let after = wire.data.get("after").cloned().unwrap_or_default();
            let after = if after.is_null() {
                BTreeMap::new()
            } else {
                serde_json::from_value(after).map_err(|error| format!("data.after: {error}"))?
            };
            Inbound::Hello { after, greeting: greeting(&wire.data)? }
        }
        "presence" => Inbound::Presence(change(&wire.data)?),
        "typing" => match wire.data.get("typing") {
            Some(Value::Bool(typing)) => Inbound::Typing(*typing),
            _ => return Err("data.typing: expected true or false".into()),
        },
        "signal" => Inbound::Signal {
            to: named(&wire.data, "to")?,
            data: wire.data.get("data").cloned().unwrap_or_default(),
        },
        "kick" => Inbound::Kick { member: named(&wire.data, "member")? },
        "text" => Inbound::Text { content: content(wire.data.get("content"))? },
        "start" => match wire.data {
            Value::Object(fields) => Inbound::Start(fields),
            _ => return Err("data: expected an object".into()),
        },
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
    })
}

/// The longest name and status, and the largest cursor and meta as JSON.
const NAME_BYTES: usize = 128;
const META_BYTES: usize = 2048;

fn named(data: &Value, field: &str) -> Result<String, String> {
    data.get(field)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| format!("data.{field}: is missing"))
}

fn short(data: &Value, field: &str) -> Result<Option<String>, String> {
    match data.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if (1..=NAME_BYTES).contains(&text.len()) => Ok(Some(text.clone())),
        Some(_) => Err(format!("data.{field}: expected a string of at most {NAME_BYTES} bytes")),
    }
}

fn small(data: &Value, field: &str) -> Result<Option<Value>, String> {
    match data.get(field) {
        Some(value) if value.to_string().len() > META_BYTES => {
            Err(format!("data.{field}: is larger than {META_BYTES} bytes"))
        }
        other => Ok(other.cloned()),
    }
}

fn greeting(data: &Value) -> Result<Greeting, String> {
    let (name, meta) = (short(data, "name")?, small(data, "meta")?.filter(|meta| !meta.is_null()));
    Ok(Greeting { name, meta })
}

fn change(data: &Value) -> Result<Change, String> {
    let (status, cursor, meta) = (short(data, "status")?, small(data, "cursor")?, small(data, "meta")?);
    if status.is_none() && cursor.is_none() && meta.is_none() {
        return Err("data: expected status, cursor or meta".into());
    }
    Ok(Change { status, cursor, meta })
}

/// What somebody says: some text.
pub fn content(content: Option<&Value>) -> Result<String, String> {
    match content {
        Some(Value::String(content)) if !content.is_empty() => Ok(content.clone()),
        Some(Value::String(_)) => Err("content: is empty".to_owned()),
        Some(other) => Err(format!("content: expected a string, got {}", crate::chat::kind(other))),
        None => Err("content: is missing".to_owned()),
    }
}

/// One of the room's streams, for a viewer that comes in.
#[derive(Debug)]
pub struct Summary {
    pub stream: LogId,
    /// What the viewer has after this message: the end of `text`, or the position that it holds itself.
    pub position: Position,
    pub status: Status,
    pub model: String,
    /// Who asked for it.
    pub by: Option<String>,
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
    /// A list of `Member`, written already.
    pub members: Arc<RawValue>,
}

#[derive(Serialize)]
struct Welcome<'a> {
    member: &'a str,
    user: &'a str,
    role: Role,
    version: u64,
    members: &'a RawValue,
    room: String,
    position: String,
    streams: Vec<Value>,
}

/// The answer to `hello`.
pub fn welcome(presence: &Presence, room: EventId, streams: &[Summary], now_ms: u64) -> String {
    let streams: Vec<Value> = streams
        .iter()
        .map(|summary| {
            let position = EventId { log: summary.stream, position: summary.position };
            let mut value = json!({"stream": summary.stream.to_string(), "position": position.to_string(),
                                   "status": summary.status.as_str(), "model": summary.model});
            if let Some(by) = &summary.by {
                value["by"] = by.as_str().into();
            }
            if let Some(text) = &summary.text {
                value["text"] = text.as_str().into();
            }
            value
        })
        .collect();
    let Presence { member, user, role, version, members } = presence;
    let (role, version, position) = (*role, *version, room.to_string());
    let room = room.log.to_string();
    told("welcome", now_ms, &Welcome { member, user, role, version, members, room, position, streams })
}

/// Members came, left or changed.
pub fn presence(diff: &Diff, now_ms: u64) -> String {
    json!({"type": "presence", "timestamp": now_ms, "data": diff}).to_string()
}

/// All members anew, for whoever has missed a change.
pub fn everybody(version: u64, members: &RawValue, now_ms: u64) -> String {
    #[derive(Serialize)]
    struct Everybody<'a> {
        version: u64,
        members: &'a RawValue,
    }
    told("presence", now_ms, &Everybody { version, members })
}

/// A message that holds what was written already.
fn told(kind: &str, now_ms: u64, data: &impl Serialize) -> String {
    let data = to_raw_value(data).expect("messages have string keys");
    format!(r#"{{"type":"{kind}","timestamp":{now_ms},"data":{data}}}"#)
}

pub fn typing(user: &str, typing: bool, now_ms: u64) -> String {
    json!({"type": "typing", "timestamp": now_ms, "data": {"user": user, "typing": typing}}).to_string()
}

/// From a member, by its id and its user.
pub fn signal(from: &str, user: &str, data: &Value, now_ms: u64) -> String {
    json!({"type": "signal", "timestamp": now_ms, "data": {"from": from, "user": user, "data": data}})
        .to_string()
}

pub fn reset(log: &str, reason: &str, now_ms: u64) -> String {
    json!({"type": "reset", "timestamp": now_ms, "data": {"log": log, "reason": reason}}).to_string()
}

pub fn ack(id: Option<&str>, now_ms: u64) -> String {
    json!({"type": "ack", "id": id, "timestamp": now_ms}).to_string()
}

/// The answer to a `start`: the stream, and where it stood.
pub fn started(id: Option<&str>, at: EventId, now_ms: u64) -> String {
    json!({"type": "ack", "id": id, "stream": at.log.to_string(), "position": at.to_string(), "timestamp": now_ms})
        .to_string()
}

/// The answer to a `text`, once it is kept.
pub fn said(id: Option<&str>, position: EventId, now_ms: u64) -> String {
    json!({"type": "ack", "id": id, "position": position.to_string(), "timestamp": now_ms}).to_string()
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

/// What was said in the room, as a message; None if the record says something else.
pub fn talk(room: LogId, record: &Record) -> Option<Value> {
    let (kind, text) = (Kind::of_talk(record.draft.kind)?, Text::of(record)?);
    let position = EventId { log: room, position: record.position };
    Some(json!({"type": kind, "position": position.to_string(), "timestamp": record.draft.at_ms,
                "data": text.shown()}))
}

/// A stream's records as messages: runs of tokens become one, which carries the position of the last.
pub fn frames(log: LogId, records: &[Record]) -> Vec<String> {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < records.len() {
        let kind = event::Kind::from_u8(records[at].draft.kind);
        let run = match kind {
            Some(event::Kind::Token | event::Kind::Reasoning) => {
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

fn frame(log: LogId, kind: event::Kind, run: &[Record]) -> String {
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
