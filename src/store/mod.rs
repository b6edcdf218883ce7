//! Where logs are kept: the one trait of ours, and its contract.
//!
//! A store knows records, not events: payloads are opaque to it. Beside logs it keeps what nodes need to agree on: who
//! holds a key, and what is said between them. Every engine passes the same contract suite
//! (`tests/it/store_contract.rs`). What is said here holds for all of them.

mod coordination;
pub mod disk;
mod ledger;
pub mod memory;
pub mod redis;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::broadcast;

use crate::log::{Bad, Batch, LogId, Page, Position, Refused};

/// What is fixed about a log when it is created.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Meta {
    /// Whose bytes these are, for limits by user.
    pub owner: String,
    /// Opaque to the store.
    pub data: Bytes,
    /// Sealed logs are dropped a while after their end; rooms' logs, which are trimmed instead, never end and have no
    /// writer of their own.
    pub trim_bytes: Option<usize>,
}

/// How far an engine's logs reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Span {
    /// They are gone with the process.
    Process,
    /// The next process on this machine finds them.
    Restarts,
    /// Other nodes read and write them too.
    Nodes,
}

/// A running log whose writer is gone.
#[derive(Debug, Clone, PartialEq)]
pub struct Orphan {
    pub log: LogId,
    pub head: Position,
    /// What its writer left for whoever goes on.
    pub plan: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no such log")]
    NotFound,
    #[error("the log exists already")]
    Exists,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the store is full")]
    Full,
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    /// What was kept of this log cannot be read back.
    #[error("what was kept of the log is damaged")]
    Damaged,
}

/// The outcome of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The key was free and now holds the caller's value.
    Won,
    /// The key holds this value, of whoever came first.
    Held(String),
}

type Answer<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// An engine that keeps logs.
///
/// - An append is atomic, and once it returned, no reader ever misses it: what was seen can be resumed.
/// - Appends of one log are ordered by their position; an append that does not expect the head is refused.
/// - A running log is never dropped. A sealed one is kept for its window, and may go earlier only when the total
///   of bytes demands it, the least recently read first.
/// - The last append of a log (`seal`) is accepted even when the store is full.
/// - A running log without `trim_bytes` has one writer: the node that created it, or took it over as an orphan. What
///   keeps a writer that was taken for dead from going on is the epoch: whoever takes over appends under the next one.
pub trait Store: Send + Sync + 'static {
    /// `plan`: what somebody else needs to go on with the log, see [`Orphan`]; forgotten at the seal. After `Unavailable` the
    /// log may be there nevertheless, and be an orphan one day: it is the caller's to take back.
    fn create(&self, log: LogId, meta: Meta, plan: Bytes) -> Answer<'_, ()>;

    /// Returns the new head.
    fn append(&self, log: LogId, batch: Batch) -> Answer<'_, Position>;

    /// Everything after `after` up to `limit` bytes, at least one record if there is any. `after` must have been
    /// checked, or come from an earlier page.
    fn read(&self, log: LogId, after: Position, limit: usize) -> Answer<'_, Page>;

    /// Whether one can read on from `position`; `Ok(Err(_))` says why not.
    fn check(&self, log: LogId, position: Position) -> Answer<'_, Result<(), Bad>>;

    /// Resolves when there is something after `after`, or nothing will ever be. Call it before `read`: an append
    /// in between is then never missed.
    fn changed(&self, log: LogId, after: Position) -> Answer<'_, ()>;

    fn meta(&self, log: LogId) -> Answer<'_, Meta>;

    /// Forgets the log at once. Readers get `NotFound`.
    fn remove(&self, log: LogId) -> Answer<'_, ()>;

    /// Holds `key` for `ttl`, unless somebody does already. Claiming again with the same value renews it.
    fn claim(&self, key: &str, value: &str, ttl: Duration) -> Answer<'_, Claim>;

    /// Who holds `key`, if anybody does.
    fn claimed(&self, key: &str) -> Answer<'_, Option<String>>;

    /// Gives `key` up, if it still holds `value`.
    fn release(&self, key: &str, value: &str) -> Answer<'_, ()>;

    /// Every key that begins with `prefix`, with who holds it, in order of the keys.
    fn list(&self, prefix: &str) -> Answer<'_, Vec<(String, String)>>;

    /// A clock that runs ahead, the heart of a rate limit that holds for all nodes: moves the time under `key` on by
    /// `by_us` microseconds, from now if it lies in the past, and returns how far ahead of now it is then. A negative
    /// `by_us` gives back. The key is forgotten once its time has come.
    fn advance(&self, key: &str, by_us: i64) -> Answer<'_, Duration>;

    /// Tells whoever subscribes to `topic`, on any node. Never stored: who is not there does not hear of it.
    fn publish(&self, topic: &str, message: Bytes) -> Answer<'_, ()>;

    /// Hears what is published from when this returns until the receiver is dropped.
    fn subscribe(&self, topic: &str) -> Answer<'_, broadcast::Receiver<Bytes>>;

    /// Running logs whose writer is gone. Each is the caller's from now on and is not told of again while it lives. To
    /// be called at the start and then every second or so.
    fn orphans(&self) -> Answer<'_, Vec<Orphan>>;

    /// Leaves the log to whoever asks for orphans next.
    fn disown(&self, log: LogId) -> Answer<'_, ()>;

    /// How far its logs reach.
    fn span(&self) -> Span;

    /// Whether appends go through, as far as is known now. `Full` and `Unavailable` are told to `/readyz`.
    fn health(&self) -> Result<(), Error>;

    /// Writes out what is still to be written. The last call.
    fn close(&self) -> Answer<'_, ()>;

    /// Bytes kept, bookkeeping included.
    fn held(&self) -> u64;

    /// Housekeeping, to be called about once a second.
    fn sweep(&self);
}

/// moka counts weight in 32 bits; in these units a log may still be large.
const WEIGHT_UNIT: u64 = 64;

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes / WEIGHT_UNIT).unwrap_or(u32::MAX)
}

fn ready<'a, T: Send + 'a>(answer: Result<T, Error>) -> Answer<'a, T> {
    std::future::ready(answer).boxed()
}

/// No code between lock and unlock can panic half-way through a change, so a poisoned lock is still sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
