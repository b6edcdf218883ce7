//! What frames hold: logs, appends and keys as bytes, and back. Pure.
//!
//! Numbers are little-endian, texts and bytes stand behind their length. Reading takes bytes from anywhere: what does not
//! read as it was written gives None, never a panic and never more memory than the bytes given. Payloads that are read
//! share the memory of the body they came in.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

use super::frame::{self, Kind};
use crate::log::{Draft, Framing, Log, LogId, Position, Raw};
use crate::store::Meta;

/// How a log began.
#[derive(Debug, Clone, PartialEq)]
pub struct Created {
    pub meta: Meta,
    pub plan: Bytes,
}

/// One append, and when it closed the log, if it did.
#[derive(Debug, Clone, PartialEq)]
pub struct Appended {
    pub expected: Position,
    pub epoch: u16,
    pub drafts: Vec<Draft>,
    /// When it was sealed, in milliseconds since the Unix epoch.
    pub sealed_ms: Option<u64>,
}

/// A whole log.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub created: Created,
    pub trimmed: Position,
    /// Each epoch with its first seq.
    pub epochs: Vec<(u16, u64)>,
    pub drafts: Vec<Arc<Draft>>,
    pub sealed_ms: Option<u64>,
    /// A part of it could not be read back: it is kept to say so.
    pub damaged: bool,
}

/// Who holds a key until when, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    pub key: String,
    pub value: String,
    pub until_ms: u64,
}

const ABSENT: u64 = u64::MAX;
/// What an append's frame holds beside its drafts: a position, an epoch, a time and their number.
const FIXED: usize = 10 + 2 + 8 + 4;

pub fn create(log: LogId, meta: &Meta, plan: &Bytes) -> Vec<u8> {
    let mut body = frame::begin(0);
    put_created(&mut body, meta, plan);
    frame::finish(body, Kind::Create, log)
}

pub fn append(
    log: LogId,
    expected: Position,
    epoch: u16,
    drafts: &[Draft],
    sealed_ms: Option<u64>,
) -> Vec<u8> {
    // A draft's bookkeeping takes less in a frame than in memory.
    let mut body = frame::begin(FIXED + drafts.iter().map(Draft::weight).sum::<usize>());
    put_position(&mut body, expected);
    body.put_u16_le(epoch);
    body.put_u64_le(sealed_ms.unwrap_or(ABSENT));
    put_drafts(&mut body, drafts.iter(), drafts.len());
    frame::finish(body, Kind::Append, log)
}

pub fn remove(log: LogId) -> Vec<u8> {
    frame::finish(frame::begin(0), Kind::Remove, log)
}

pub fn archived(log: LogId) -> Vec<u8> {
    frame::finish(frame::begin(0), Kind::Archived, log)
}

pub fn claim(key: &str, value: &str, until_ms: u64) -> Vec<u8> {
    let mut body = frame::begin(0);
    body.put_u64_le(until_ms);
    put_bytes(&mut body, key.as_bytes());
    put_bytes(&mut body, value.as_bytes());
    frame::finish(body, Kind::Claim, LogId(0))
}

pub fn release(key: &str) -> Vec<u8> {
    let mut body = frame::begin(0);
    put_bytes(&mut body, key.as_bytes());
    frame::finish(body, Kind::Release, LogId(0))
}

impl State {
    pub fn of(created: Created, log: &Log, sealed_ms: Option<u64>, damaged: bool) -> State {
        State {
            created,
            trimmed: log.trimmed(),
            epochs: log.epochs().to_vec(),
            drafts: log.records().map(|record| record.draft.clone()).collect(),
            sealed_ms,
            damaged,
        }
    }

    pub fn restored(self) -> (Created, Log) {
        let log = Log::restored(self.trimmed, self.epochs, self.drafts, self.sealed_ms.is_some());
        (self.created, log)
    }

    /// Its frame.
    pub fn frame(&self, log: LogId) -> Vec<u8> {
        let mut body = frame::begin(0);
        put_created(&mut body, &self.created.meta, &self.created.plan);
        body.put_u64_le(self.sealed_ms.unwrap_or(ABSENT));
        body.put_u8(self.damaged.into());
        put_position(&mut body, self.trimmed);
        put_length(&mut body, self.epochs.len());
        for (epoch, first) in &self.epochs {
            body.put_u16_le(*epoch);
            body.put_u64_le(*first);
        }
        put_drafts(&mut body, self.drafts.iter().map(|draft| &**draft), self.drafts.len());
        frame::finish(body, Kind::State, log)
    }
}

impl Created {
    pub fn read(mut body: Bytes) -> Option<Created> {
        let created = take_created(&mut body)?;
        body.is_empty().then_some(created)
    }
}

impl Appended {
    pub fn read(mut body: Bytes) -> Option<Appended> {
        let expected = take_position(&mut body)?;
        let epoch = body.try_get_u16_le().ok()?;
        let sealed_ms = take_time(&mut body)?;
        let drafts = take_drafts(&mut body)?;
        body.is_empty().then_some(Appended { expected, epoch, drafts, sealed_ms })
    }
}

impl State {
    pub fn read(mut body: Bytes) -> Option<State> {
        let created = take_created(&mut body)?;
        let sealed_ms = take_time(&mut body)?;
        let damaged = body.try_get_u8().ok()? != 0;
        let trimmed = take_position(&mut body)?;
        let count = body.try_get_u32_le().ok()?;
        let mut epochs = Vec::new();
        for _ in 0..count {
            epochs.push((body.try_get_u16_le().ok()?, body.try_get_u64_le().ok()?));
        }
        let drafts = take_drafts(&mut body)?.into_iter().map(Arc::new).collect();
        body.is_empty().then_some(State { created, trimmed, epochs, drafts, sealed_ms, damaged })
    }
}

impl Claimed {
    pub fn read(mut body: Bytes) -> Option<Claimed> {
        let until_ms = body.try_get_u64_le().ok()?;
        let key = take_text(&mut body)?;
        let value = take_text(&mut body)?;
        body.is_empty().then_some(Claimed { key, value, until_ms })
    }
}

/// The key that a `Release` gives up.
pub fn released(mut body: Bytes) -> Option<String> {
    take_text(&mut body).filter(|_| body.is_empty())
}

fn put_length(body: &mut Vec<u8>, length: usize) {
    body.put_u32_le(u32::try_from(length).expect("bounded by the limits far below 4 GiB"));
}

fn put_bytes(body: &mut Vec<u8>, bytes: &[u8]) {
    put_length(body, bytes.len());
    body.extend_from_slice(bytes);
}

fn put_position(body: &mut Vec<u8>, position: Position) {
    body.put_u16_le(position.epoch);
    body.put_u64_le(position.seq);
}

fn put_created(body: &mut Vec<u8>, meta: &Meta, plan: &Bytes) {
    put_bytes(body, meta.owner.as_bytes());
    put_bytes(body, &meta.data);
    body.put_u64_le(meta.trim_bytes.map_or(ABSENT, |bytes| bytes as u64));
    put_bytes(body, plan);
}

const OWN: u8 = 0;
const PART: u8 = 1;
const RAW: u8 = 2;
const RAW_USAGE_ONLY: u8 = 3;

fn put_drafts<'a>(body: &mut Vec<u8>, drafts: impl Iterator<Item = &'a Draft>, count: usize) {
    put_length(body, count);
    for draft in drafts {
        body.put_u8(draft.kind);
        body.put_u64_le(draft.at_ms);
        put_bytes(body, &draft.payload);
        match &draft.framing {
            Framing::Own => body.put_u8(OWN),
            Framing::Part(dialect) => body.extend_from_slice(&[PART, *dialect]),
            Framing::Raw(raw) => {
                body.put_u8(if raw.usage_only { RAW_USAGE_ONLY } else { RAW });
                body.put_u8(raw.dialect);
                body.put_u32_le(raw.own_at);
                put_bytes(body, &raw.bytes);
            }
        }
    }
}

fn take_bytes(body: &mut Bytes) -> Option<Bytes> {
    let length = body.try_get_u32_le().ok()? as usize;
    (length <= body.len()).then(|| body.split_to(length))
}

fn take_text(body: &mut Bytes) -> Option<String> {
    String::from_utf8(take_bytes(body)?.to_vec()).ok()
}

fn take_position(body: &mut Bytes) -> Option<Position> {
    Some(Position::new(body.try_get_u16_le().ok()?, body.try_get_u64_le().ok()?))
}

fn take_time(body: &mut Bytes) -> Option<Option<u64>> {
    body.try_get_u64_le().ok().map(|at| Some(at).filter(|at| *at != ABSENT))
}

fn take_created(body: &mut Bytes) -> Option<Created> {
    let owner = take_text(body)?;
    let data = take_bytes(body)?;
    let trim_bytes = match body.try_get_u64_le().ok()? {
        ABSENT => None,
        bytes => Some(usize::try_from(bytes).ok()?),
    };
    let plan = take_bytes(body)?;
    Some(Created { meta: Meta { owner, data, trim_bytes }, plan })
}

fn take_drafts(body: &mut Bytes) -> Option<Vec<Draft>> {
    let count = body.try_get_u32_le().ok()?;
    let mut drafts = Vec::new();
    for _ in 0..count {
        drafts.push(take_draft(body)?);
    }
    Some(drafts)
}

fn take_draft(body: &mut Bytes) -> Option<Draft> {
    let (kind, at_ms) = (body.try_get_u8().ok()?, body.try_get_u64_le().ok()?);
    let payload = take_bytes(body)?;
    let framing = match body.try_get_u8().ok()? {
        OWN => Framing::Own,
        PART => Framing::Part(body.try_get_u8().ok()?),
        tag @ (RAW | RAW_USAGE_ONLY) => {
            let (dialect, own_at) = (body.try_get_u8().ok()?, body.try_get_u32_le().ok()?);
            Framing::Raw(Raw { dialect, own_at, usage_only: tag == RAW_USAGE_ONLY, bytes: take_bytes(body)? })
        }
        _ => return None,
    };
    Some(Draft { kind, at_ms, payload, framing })
}
