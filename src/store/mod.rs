//! Where logs are kept: the one trait of ours, and its contract.
//!
//! A store knows records, not events: payloads are opaque to it. Every engine passes the same contract suite
//! (`tests/it/store_contract.rs`). What is said here holds for all of them.

pub mod memory;

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::log::{Bad, Batch, LogId, Page, Position, Refused};

/// What is fixed about a log when it is created.
#[derive(Debug, Clone, PartialEq)]
pub struct Meta {
    /// Whose bytes these are, for limits by user.
    pub owner: String,
    /// Opaque to the store.
    pub data: Bytes,
    /// Sealed logs are dropped a while after their end; rooms' logs, which are trimmed instead, never end.
    pub trim_bytes: Option<usize>,
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
pub trait Store: Send + Sync + 'static {
    fn create(&self, log: LogId, meta: Meta) -> Answer<'_, ()>;

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

    /// Bytes kept, bookkeeping included.
    fn held(&self) -> u64;

    /// Housekeeping, to be called about once a second.
    fn sweep(&self);
}
