//! Logs as JSON lines, to be read by people and other programs, and back. Pure.
//!
//! A log is one line that says what it is, then a line for each of its records. Bytes are text where they are UTF-8, else
//! `{"hex": "…"}`.

use std::sync::Arc;

use bytes::Bytes;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};

use super::record::{Created, State};
use crate::log::{Draft, Framing, LogId, Position, Raw};
use crate::store::Meta;

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Hex { hex: String },
}

/// A log's first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    log: String,
    owner: String,
    data: Content,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trim_bytes: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plan: Option<Content>,
    /// Absent while it runs. In milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed_ms: Option<u64>,
    /// The position before the first record.
    trimmed: (u16, u64),
    /// Each epoch with its first seq.
    epochs: Vec<(u16, u64)>,
    records: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    kind: u8,
    at_ms: u64,
    payload: Content,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    part: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw: Option<Frame>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Frame {
    dialect: u8,
    own_at: u32,
    usage_only: bool,
    bytes: Content,
}

#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Field(&'static str),
}

/// The lines of a log, each with its line feed.
pub fn write(log: LogId, state: &State) -> String {
    let created = &state.created;
    let head = Head {
        log: log.to_string(),
        owner: created.meta.owner.clone(),
        data: content(&created.meta.data),
        trim_bytes: created.meta.trim_bytes,
        plan: Some(&created.plan).filter(|plan| !plan.is_empty()).map(|plan| content(plan)),
        sealed_ms: state.sealed_ms,
        trimmed: (state.trimmed.epoch, state.trimmed.seq),
        epochs: state.epochs.clone(),
        records: state.drafts.len(),
    };
    let mut lines = line(&head);
    for draft in &state.drafts {
        let (part, raw) = match &draft.framing {
            Framing::Own => (None, None),
            Framing::Part(dialect) => (Some(*dialect), None),
            Framing::Raw(Raw { dialect, own_at, usage_only, bytes }) => {
                let (dialect, own_at, usage_only) = (*dialect, *own_at, *usage_only);
                (None, Some(Frame { dialect, own_at, usage_only, bytes: content(bytes) }))
            }
        };
        let payload = content(&draft.payload);
        lines += &line(&Line { kind: draft.kind, at_ms: draft.at_ms, payload, part, raw });
    }
    lines
}

fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("keys are strings") + "\n"
}

/// Reads what [`write()`] wrote, log by log. A line that is no such line ends it with an error.
pub struct Reader<I>(I);

impl<E, I: Iterator<Item = Result<String, E>>> Reader<I>
where
    Malformed: Into<E>,
{
    pub fn new(lines: I) -> Reader<I> {
        Reader(lines)
    }

    fn log(&mut self, first: &str) -> Result<(LogId, State), E> {
        let head: Head = parse(first)?;
        let log = head.log.parse().map_err(|_| Malformed::Field("log: not an id").into())?;
        let mut drafts = Vec::new();
        for _ in 0..head.records {
            let text = self.0.next().ok_or_else(|| Malformed::Field("records: there are fewer").into())??;
            let line: Line = parse(&text)?;
            let framing = match (line.part, line.raw) {
                (None, None) => Framing::Own,
                (Some(dialect), None) => Framing::Part(dialect),
                (None, Some(Frame { dialect, own_at, usage_only, bytes })) => {
                    Framing::Raw(Raw { dialect, own_at, usage_only, bytes: bytes_of(bytes)? })
                }
                (Some(_), Some(_)) => return Err(Malformed::Field("part: not beside raw").into()),
            };
            let payload = bytes_of(line.payload)?;
            drafts.push(Arc::new(Draft { kind: line.kind, at_ms: line.at_ms, payload, framing }));
        }
        let plan = head.plan.map(bytes_of).transpose()?.unwrap_or_default();
        let meta = Meta { owner: head.owner, data: bytes_of(head.data)?, trim_bytes: head.trim_bytes };
        let state = State {
            created: Created { meta, plan },
            trimmed: Position::new(head.trimmed.0, head.trimmed.1),
            epochs: head.epochs,
            drafts,
            sealed_ms: head.sealed_ms,
            damaged: false,
        };
        Ok((log, state))
    }
}

impl<E, I: Iterator<Item = Result<String, E>>> Iterator for Reader<I>
where
    Malformed: Into<E>,
{
    type Item = Result<(LogId, State), E>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.0.next()?;
        Some(first.and_then(|first| self.log(&first)))
    }
}

fn parse<'a, E, T: Deserialize<'a>>(text: &'a str) -> Result<T, E>
where
    Malformed: Into<E>,
{
    serde_json::from_str(text).map_err(|error| Malformed::from(error).into())
}

fn content(bytes: &[u8]) -> Content {
    match std::str::from_utf8(bytes) {
        Ok(text) => Content::Text(text.to_owned()),
        Err(_) => Content::Hex { hex: HEXLOWER.encode(bytes) },
    }
}

fn bytes_of<E>(content: Content) -> Result<Bytes, E>
where
    Malformed: Into<E>,
{
    let hex = match content {
        Content::Text(text) => return Ok(text.into()),
        Content::Hex { hex } => hex,
    };
    let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes());
    bytes.map(Bytes::from).map_err(|_| Malformed::Field("hex: pairs of digits").into())
}
