//! The log: append-only, ordered events, closed at its end. The rules live here once, above every store.
//!
//! Pure: no locks, no clock, no I/O. The memory store keeps this very struct; other engines keep the same
//! rules in their own form and are held to them by one contract suite.

pub mod position;
pub mod transcript;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::event::Event;

pub use position::{EventId, LogId, Malformed, Position};

/// The bytes of one provider frame, for surfaces of the same dialect.
#[derive(Debug, Clone, PartialEq)]
pub struct Raw {
    /// Which provider dialect the bytes are, as a number of the provider module.
    pub dialect: u8,
    /// Where the frame of this record begins in `bytes`; before it lie frames that held no event of their own.
    pub own_at: u32,
    /// The record's own frame says nothing but token counts.
    pub usage_only: bool,
    pub bytes: Bytes,
}

/// How a record relates to the provider's frames.
#[derive(Debug, Clone, PartialEq)]
pub enum Framing {
    /// Not from a frame of any dialect: each surface encodes it.
    Own,
    /// An earlier event of a frame, of this dialect, whose bytes ride on a later record of the same append.
    Part(u8),
    /// The last event of its frame, and the frame.
    Raw(Raw),
}

/// A record before it has its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// What it is, opaque to stores: an `event::Kind` in a stream's log, a `room` kind in a room's.
    pub kind: u8,
    /// When it happened, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub payload: Bytes,
    pub framing: Framing,
}

impl Draft {
    /// An event of our own, which came in no provider's frame.
    pub fn own(event: &Event, at_ms: u64) -> Draft {
        Draft { kind: event.kind() as u8, at_ms, payload: event.data().into(), framing: Framing::Own }
    }

    /// What it costs to keep, in bytes: its content and the bookkeeping beside it.
    pub fn weight(&self) -> usize {
        let raw = if let Framing::Raw(raw) = &self.framing { raw.bytes.len() } else { 0 };
        self.payload.len() + raw + size_of::<Draft>() + size_of::<Record>()
    }
}

/// An event and its position. Cheap to clone: the store and whoever reads share the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub position: Position,
    pub draft: Arc<Draft>,
}

/// One atomic append.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Where the writer believes the head is; anything else refuses the append.
    pub expected: Position,
    /// The writer's epoch, not below the head's.
    pub epoch: u16,
    pub drafts: Vec<Draft>,
    /// The last append: nothing may follow it.
    pub seal: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the log has moved on to {head:?}")]
    Stale { head: Position },
    #[error("the log is closed")]
    Closed,
}

/// Why a position cannot be read from. The names are those of the `reset` event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// Not a position at all.
    Unknown,
    /// Of another log.
    Foreign,
    /// Beyond the head: after a loss, or made up.
    Ahead,
    /// Its log is no longer kept.
    Expired,
    /// Before the oldest kept event.
    Trimmed,
    /// Names an event that was lost; what stands there now is another one.
    Lost,
}

impl Bad {
    pub const ALL: [Bad; 6] = [Bad::Unknown, Bad::Foreign, Bad::Ahead, Bad::Expired, Bad::Trimmed, Bad::Lost];

    pub fn as_str(self) -> &'static str {
        match self {
            Bad::Unknown => "unknown",
            Bad::Foreign => "foreign",
            Bad::Ahead => "ahead",
            Bad::Expired => "expired",
            Bad::Trimmed => "trimmed",
            Bad::Lost => "lost",
        }
    }
}

/// What a read returns: records after the position asked for, and where the log stands.
#[derive(Debug, Clone)]
pub struct Page {
    pub records: Vec<Record>,
    pub head: Position,
    /// Nothing will ever follow `head`.
    pub closed: bool,
}

#[derive(Debug, Default)]
pub struct Log {
    records: VecDeque<Record>,
    /// Each epoch in use with its first seq, in order.
    epochs: Vec<(u16, u64)>,
    /// Everything up to here was trimmed.
    trimmed: Position,
    head: Position,
    weight: usize,
    closed: bool,
}

impl Log {
    /// A log as an engine kept it: `drafts` are those after `trimmed`, `epochs` as [`Log::epochs`] told them.
    pub fn restored(
        trimmed: Position,
        epochs: Vec<(u16, u64)>,
        drafts: Vec<Arc<Draft>>,
        closed: bool,
    ) -> Log {
        let mut log = Log { trimmed, head: trimmed, closed, ..Log::default() };
        for draft in drafts {
            let seq = log.head.seq + 1;
            log.head = Position::new(epoch_at(&epochs, seq), seq);
            log.weight += draft.weight();
            log.records.push_back(Record { position: log.head, draft });
        }
        log.epochs = epochs;
        log
    }

    pub fn head(&self) -> Position {
        self.head
    }

    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Everything up to here was trimmed.
    pub fn trimmed(&self) -> Position {
        self.trimmed
    }

    /// Each epoch in use with its first seq, in order.
    pub fn epochs(&self) -> &[(u16, u64)] {
        &self.epochs
    }

    /// What is kept.
    pub fn records(&self) -> impl ExactSizeIterator<Item = &Record> {
        self.records.iter()
    }

    /// Bytes kept, bookkeeping included.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Whether [`Log::append`] would take it.
    pub fn admits(&self, batch: &Batch) -> Result<(), Refused> {
        if self.closed {
            return Err(Refused::Closed);
        }
        if batch.expected != self.head || batch.epoch < self.head.epoch {
            return Err(Refused::Stale { head: self.head });
        }
        Ok(())
    }

    /// Compare-and-append: all of the batch or nothing.
    pub fn append(&mut self, batch: Batch) -> Result<Position, Refused> {
        self.admits(&batch)?;
        if !batch.drafts.is_empty() && self.epochs.last().is_none_or(|(epoch, _)| *epoch < batch.epoch) {
            self.epochs.push((batch.epoch, self.head.seq + 1));
        }
        for draft in batch.drafts {
            self.head = Position::new(batch.epoch, self.head.seq + 1);
            self.weight += draft.weight();
            self.records.push_back(Record { position: self.head, draft: draft.into() });
        }
        self.closed = batch.seal;
        Ok(self.head)
    }

    /// Whether one can read on from `position`. The start is always good while nothing was trimmed.
    pub fn check(&self, position: Position) -> Result<(), Bad> {
        check(position, self.trimmed, self.head, &self.epochs)
    }

    /// Everything after `after`, up to `limit` bytes but at least one record.
    pub fn read(&self, after: Position, limit: usize) -> Page {
        let skip = after.seq.saturating_sub(self.trimmed.seq) as usize;
        let mut size = 0;
        let records = self
            .records
            .iter()
            .skip(skip)
            .take_while(|record| {
                let first = size == 0;
                size += record.draft.weight();
                first || size <= limit
            })
            .cloned()
            .collect();
        Page { records, head: self.head, closed: self.closed }
    }

    /// Drops the oldest records until at most `limit` bytes are kept. Only rooms do this: a stream's start must
    /// stay replayable.
    pub fn trim(&mut self, limit: usize) {
        while self.weight > limit {
            let Some(record) = self.records.pop_front() else { return };
            self.weight -= record.draft.weight();
            self.trimmed = record.position;
        }
    }
}

/// The rule behind [`Log::check`], for engines that keep their own index: `epochs` is each epoch with its first
/// seq, in order.
///
/// Why the epoch is compared at all: a log that lost its tail and went on has other text under the same numbers,
/// and a bare counter would resume a client into it without a word.
pub fn check(
    position: Position,
    trimmed: Position,
    head: Position,
    epochs: &[(u16, u64)],
) -> Result<(), Bad> {
    if position.seq > head.seq {
        return Err(Bad::Ahead);
    }
    if position.seq < trimmed.seq {
        return Err(Bad::Trimmed);
    }
    if position.seq == 0 {
        return if position.epoch == 0 { Ok(()) } else { Err(Bad::Ahead) };
    }
    match position.epoch.cmp(&epoch_at(epochs, position.seq)) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(Bad::Lost),
        std::cmp::Ordering::Greater => Err(Bad::Ahead),
    }
}

/// Who wrote the event at `seq`.
fn epoch_at(epochs: &[(u16, u64)], seq: u64) -> u16 {
    epochs.iter().rev().find(|(_, first)| *first <= seq).map_or(0, |(epoch, _)| *epoch)
}
