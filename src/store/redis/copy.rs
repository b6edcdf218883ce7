//! This node's copy of a log, from which its readers are served.
//!
//! Whose writer is here, owns its copy: what Redis accepted is added at once, and if Redis loses it, it is put back from
//! here. All other copies follow: they grow by what Redis pushes, and one that may have missed something is `behind`
//! until it has been read back. Nobody is served from a copy that is behind.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::log::{Bad, Batch, Draft, Log, LogId, Page, Position, Record};
use crate::store::ledger::{Account, Ledger};
use crate::store::{Error, Meta, lock};

pub struct Copy {
    pub id: LogId,
    state: Mutex<State>,
    pub changed: Notify,
    /// Held by whoever appends: appends of a log go to Redis one after the other.
    pub writing: tokio::sync::Mutex<()>,
    /// Held by whoever reads the log back from Redis.
    pub reading: tokio::sync::Mutex<()>,
    /// Milliseconds, by the store's own clock.
    used_at: AtomicU64,
    /// Likewise: when it was last known to be all that there is.
    read_at: AtomicU64,
    /// Bytes of all copies of this node, and of their owners.
    ledger: Arc<Ledger>,
}

struct State {
    /// None until it has been read for the first time.
    meta: Option<Meta>,
    log: Log,
    owned: bool,
    /// What somebody else needs to go on; only of an owned log.
    plan: Bytes,
    behind: bool,
    /// How often something may have been missed.
    missed: u64,
    /// Forgotten or lost: whoever still holds the copy must look again.
    gone: bool,
    /// Where its bytes are counted, while they are.
    account: Option<Account>,
    /// Since when Redis does not know a log that nobody forgot.
    missing_since: Option<u64>,
    /// When Redis drops it, by the store's own clock; only of closed logs.
    expires_at: Option<u64>,
}

/// What a reader is to do with a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Closed: nothing about it will ever change.
    Closed,
    Owned,
    Followed,
    /// To be read back first.
    Behind,
    Gone,
}

/// What came of an append that was accepted or told.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    Grown,
    /// It had that already.
    Known,
    /// Something in between is missing.
    Missed,
}

impl Copy {
    pub fn followed(id: LogId, ledger: Arc<Ledger>) -> Arc<Copy> {
        Copy::new(id, None, Log::default(), false, ledger)
    }

    pub fn owned(id: LogId, meta: Meta, plan: Bytes, log: Log, ledger: Arc<Ledger>) -> Arc<Copy> {
        let copy = Copy::new(id, Some(meta), log, true, ledger);
        copy.lock().plan = plan;
        copy
    }

    fn new(id: LogId, meta: Option<Meta>, log: Log, owned: bool, ledger: Arc<Ledger>) -> Arc<Copy> {
        let behind = meta.is_none();
        let (missing_since, expires_at) = (None, None);
        let state = State {
            meta,
            log,
            owned,
            plan: Bytes::new(),
            behind,
            missed: 0,
            gone: false,
            account: None,
            missing_since,
            expires_at,
        };
        let copy = Copy {
            id,
            state: Mutex::new(state),
            changed: Notify::new(),
            writing: tokio::sync::Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            used_at: AtomicU64::new(0),
            read_at: AtomicU64::new(0),
            ledger,
        };
        copy.count(&mut copy.lock());
        Arc::new(copy)
    }

    pub fn standing(&self) -> Standing {
        let state = self.lock();
        match () {
            () if state.gone => Standing::Gone,
            () if state.behind => Standing::Behind,
            () if state.log.closed() => Standing::Closed,
            () if state.owned => Standing::Owned,
            () => Standing::Followed,
        }
    }

    pub fn head(&self) -> Position {
        self.lock().log.head()
    }

    pub fn weight(&self) -> u64 {
        self.lock().weight()
    }

    pub fn meta(&self) -> Option<Meta> {
        self.lock().meta.clone()
    }

    pub fn expires_at(&self) -> Option<u64> {
        self.lock().expires_at
    }

    pub fn used(&self, now: u64) {
        self.used_at.store(now, Relaxed);
    }

    pub fn used_at(&self) -> u64 {
        self.used_at.load(Relaxed)
    }

    pub fn read_at(&self) -> u64 {
        self.read_at.load(Relaxed)
    }

    pub fn check(&self, position: Position) -> Result<(), Bad> {
        self.lock().log.check(position)
    }

    pub fn read(&self, after: Position, limit: usize) -> Result<Page, Error> {
        let state = self.lock();
        state.readable(after)?;
        Ok(state.log.read(after, limit))
    }

    /// Whether there is something to read after `after`.
    pub fn has_more(&self, after: Position) -> Result<bool, Error> {
        let state = self.lock();
        state.readable(after)?;
        Ok(state.log.head().seq > after.seq || state.log.closed())
    }

    /// Every record after `seq`, and whether the log is closed.
    pub fn since(&self, seq: u64) -> (Vec<Record>, bool) {
        let state = self.lock();
        let page = state.log.read(Position::new(0, seq), usize::MAX);
        (page.records, page.closed)
    }

    /// Adds what Redis has accepted. Wakes the readers.
    pub fn apply(&self, batch: Batch) -> Applied {
        let mut state = self.lock();
        if state.gone {
            return Applied::Known;
        }
        let head = state.log.head();
        if batch.expected != head || state.meta.is_none() || state.log.closed() {
            let end = Position::new(batch.epoch, batch.expected.seq + batch.drafts.len() as u64);
            let known = state.log.check(end).is_ok() && (!batch.seal || state.log.closed());
            state.miss(!known);
            return if known { Applied::Known } else { Applied::Missed };
        }
        let before = state.weight();
        let grown = state.log.append(batch).is_ok();
        if let Some(limit) = state.meta.as_ref().and_then(|meta| meta.trim_bytes) {
            state.log.trim(limit);
        }
        state.miss(!grown);
        self.recount(&state, before);
        drop(state);
        self.changed.notify_waiters();
        if grown { Applied::Grown } else { Applied::Missed }
    }

    /// Something may have been missed, unless this node is the one that writes.
    pub fn fall_behind(&self) {
        let mut state = self.lock();
        let followed = !state.owned && !state.log.closed();
        state.miss(followed);
    }

    /// Redis has more than this copy does, whoever wrote it.
    pub fn look_again(&self) {
        let mut state = self.lock();
        let running = !state.log.closed();
        state.miss(running);
    }

    /// Another node writes it now.
    pub fn give_up(&self) {
        let mut state = self.lock();
        state.owned = false;
        let running = !state.log.closed();
        state.miss(running);
    }

    /// This node writes it from now on.
    pub fn take_over(&self, plan: Bytes) {
        let mut state = self.lock();
        (state.owned, state.plan) = (true, plan);
    }

    /// Where its bytes are counted, while they are.
    pub fn account(&self) -> Option<Account> {
        self.lock().account.clone()
    }

    pub fn plan(&self) -> Bytes {
        self.lock().plan.clone()
    }

    pub fn expires(&self, at: u64) {
        self.lock().expires_at = Some(at);
    }

    pub fn is_owned(&self) -> bool {
        self.lock().owned
    }

    /// About to be read back: the count of what may have been missed, for [`Copy::caught_up`].
    pub fn missed(&self) -> u64 {
        self.lock().missed
    }

    /// What the first page says of it. Starts anew where everything that it holds has been trimmed since.
    pub fn introduce(&self, meta: Meta, trimmed: Position) {
        let mut state = self.lock();
        state.missing_since = None;
        let before = state.weight();
        let anew = state.meta.is_none();
        if anew || trimmed.seq > state.log.head().seq {
            state.log = begun(trimmed);
        }
        if anew {
            state.meta = Some(meta);
            self.count(&mut state);
        } else {
            self.recount(&state, before);
        }
    }

    /// Adds a page that was read back: entries of one epoch, the first right after `from`.
    pub fn catch_up(&self, from: Position, epoch: u16, drafts: Vec<Draft>) {
        // Looked at once: a push that comes in between makes this append one that does not fit.
        let expected = self.head();
        let skip = usize::try_from(expected.seq.saturating_sub(from.seq)).unwrap_or(usize::MAX);
        let drafts: Vec<_> = drafts.into_iter().skip(skip).collect();
        if !drafts.is_empty() {
            self.apply(Batch { expected, epoch, drafts, seal: false });
        }
    }

    /// What was read back is all, unless more was missed meanwhile, and for ever if `sealed`.
    pub fn caught_up(&self, missed: u64, sealed: bool, now: u64, expires_at: Option<u64>) {
        self.read_at.store(now, Relaxed);
        let mut state = self.lock();
        state.behind = state.missed != missed;
        if sealed && !state.log.closed() {
            let (expected, epoch) = (state.log.head(), state.log.head().epoch);
            let _closes = state.log.append(Batch { expected, epoch, drafts: Vec::new(), seal: true });
        }
        if sealed {
            state.behind = false;
        }
        state.expires_at = expires_at;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Not there, though nobody forgot it. Returns since when.
    pub fn missing(&self, now: u64) -> u64 {
        let mut state = self.lock();
        state.behind = true;
        *state.missing_since.get_or_insert(now)
    }

    /// It is not to be read any more. Tells those who wait.
    pub fn forget(&self) {
        self.uncount();
        self.lock().gone = true;
        self.changed.notify_waiters();
    }

    /// Takes its bytes off the count, once. Who reads it at the moment, may go on.
    pub fn uncount(&self) {
        let mut state = self.lock();
        if let Some(account) = state.account.take() {
            self.ledger.replace(&account, state.weight(), 0);
        }
    }

    /// Its bytes count from when it is known whose they are.
    fn count(&self, state: &mut State) {
        if let Some(meta) = state.meta.as_ref().filter(|_| !state.gone) {
            let account = self.ledger.account(&meta.owner, || 0);
            self.ledger.replace(&account, 0, state.weight());
            state.account = Some(account);
        }
    }

    fn recount(&self, state: &State, before: u64) {
        if let Some(account) = &state.account {
            self.ledger.replace(account, before, state.weight());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn miss(&mut self, missed: bool) {
        self.behind |= missed;
        self.missed += u64::from(missed);
    }

    fn weight(&self) -> u64 {
        let data = self.meta.as_ref().map_or(0, |meta| meta.data.len());
        (self.log.weight() + data + size_of::<Copy>()) as u64
    }

    /// A reader whose place was lost with Redis's data is sent away: it asks again, and is told why.
    fn readable(&self, after: Position) -> Result<(), Error> {
        match self.log.check(after) {
            _ if self.gone => Err(Error::NotFound),
            Err(Bad::Lost | Bad::Ahead) => Err(Error::NotFound),
            _ => Ok(()),
        }
    }
}

/// A log of which everything up to `trimmed` is gone, and nothing after it is known yet.
pub fn begun(trimmed: Position) -> Log {
    let epochs = if trimmed.seq > 0 { vec![(trimmed.epoch, trimmed.seq)] } else { Vec::new() };
    Log::restored(trimmed, epochs, Vec::new(), false)
}
