//! How records look in Redis, and how appends are announced.
//!
//! An entry's field `d` is one record without its position, which is the entry's id. A message is a head and the same
//! bytes: who follows a log needs not read it back. All numbers are big-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use redis::Value;

use super::link::Failure;
use crate::log::{Batch, Draft, Framing, Position, Raw};

/// `4 weight · 1 kind · 8 at_ms · 1 framing · 4 length · payload`, then by framing nothing, `1 dialect`, or `1 dialect ·
/// 1 usage_only · 4 own_at · 4 length · bytes`. The weight is for the script that trims.
pub fn record(draft: &Draft) -> Bytes {
    let mut out = BytesMut::with_capacity(64 + draft.payload.len());
    out.put_u32(u32::try_from(draft.weight()).unwrap_or(u32::MAX));
    out.put_u8(draft.kind);
    out.put_u64(draft.at_ms);
    out.put_u8(match &draft.framing {
        Framing::Own => 0,
        Framing::Part(_) => 1,
        Framing::Raw(_) => 2,
    });
    put(&mut out, &draft.payload);
    match &draft.framing {
        Framing::Own => {}
        Framing::Part(dialect) => out.put_u8(*dialect),
        Framing::Raw(raw) => {
            out.put_u8(raw.dialect);
            out.put_u8(raw.usage_only.into());
            out.put_u32(raw.own_at);
            put(&mut out, &raw.bytes);
        }
    }
    out.freeze()
}

/// Takes one record off the front; None if these are not our bytes.
pub fn take_record(bytes: &mut Bytes) -> Option<Draft> {
    bytes.try_get_u32().ok()?;
    let kind = bytes.try_get_u8().ok()?;
    let at_ms = bytes.try_get_u64().ok()?;
    let framing = bytes.try_get_u8().ok()?;
    let payload = take(bytes)?;
    let framing = match framing {
        0 => Framing::Own,
        1 => Framing::Part(bytes.try_get_u8().ok()?),
        2 => {
            let dialect = bytes.try_get_u8().ok()?;
            let usage_only = bytes.try_get_u8().ok()? != 0;
            let own_at = bytes.try_get_u32().ok()?;
            Framing::Raw(Raw { dialect, own_at, usage_only, bytes: take(bytes)? })
        }
        _ => return None,
    };
    Some(Draft { kind, at_ms, payload, framing })
}

/// The beginning of an append as it is told to those who follow the log: `2 expected.epoch · 8 expected.seq · 2 epoch ·
/// 1 seal`. The records follow.
pub fn message_head(batch: &Batch) -> Bytes {
    let mut out = BytesMut::with_capacity(13);
    out.put_u16(batch.expected.epoch);
    out.put_u64(batch.expected.seq);
    out.put_u16(batch.epoch);
    out.put_u8(batch.seal.into());
    out.freeze()
}

/// Reads a message; None means that something else happened to the log, which is to be read back.
pub fn message(mut bytes: Bytes) -> Option<Batch> {
    let expected = Position::new(bytes.try_get_u16().ok()?, bytes.try_get_u64().ok()?);
    let epoch = bytes.try_get_u16().ok()?;
    let seal = bytes.try_get_u8().ok()? != 0;
    let mut drafts = Vec::new();
    while bytes.has_remaining() {
        drafts.push(take_record(&mut bytes)?);
    }
    Some(Batch { expected, epoch, drafts, seal })
}

/// A position as Redis has it: `<epoch>-<seq>`.
pub fn entry_id(position: Position) -> String {
    format!("{}-{}", position.epoch, position.seq)
}

pub fn position(text: &[u8]) -> Option<Position> {
    let (epoch, seq) = std::str::from_utf8(text).ok()?.split_once('-')?;
    Some(Position::new(epoch.parse().ok()?, seq.parse().ok()?))
}

/// What a script answers, taken apart. Anything unexpected is another program's data under our keys.
pub fn unexpected() -> Failure {
    Failure::Refused("an answer that no script of ours gives".into())
}

pub fn array(value: Value) -> Result<Vec<Value>, Failure> {
    if let Value::Array(values) | Value::Set(values) = value { Ok(values) } else { Err(unexpected()) }
}

pub fn integer(value: &Value) -> Result<i64, Failure> {
    if let Value::Int(number) = value { Ok(*number) } else { Err(unexpected()) }
}

pub fn bulk(value: Value) -> Result<Bytes, Failure> {
    match value {
        Value::BulkString(bytes) => Ok(bytes.into()),
        Value::SimpleString(text) => Ok(text.into()),
        _ => Err(unexpected()),
    }
}

pub fn text(value: Value) -> Result<String, Failure> {
    String::from_utf8(bulk(value)?.into()).map_err(|_| unexpected())
}

pub fn head(value: Value) -> Result<Position, Failure> {
    position(&bulk(value)?).ok_or_else(unexpected)
}

fn put(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).expect("an event is far smaller than 4 GiB"));
    out.put_slice(bytes);
}

fn take(bytes: &mut Bytes) -> Option<Bytes> {
    let length = bytes.try_get_u32().ok()? as usize;
    (bytes.len() >= length).then(|| bytes.split_to(length))
}
