//! One log in memory: running, finished but not archived yet, or read back from an archive.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;

use super::archive::Archive;
use super::journal::Place;
use super::record::{Created, State};
use crate::log::{Log, LogId};
use crate::store::ledger::{Account, Ledger};
use crate::store::{Error, Meta, lock};

pub struct Entry {
    pub id: LogId,
    pub meta: Meta,
    pub account: Account,
    kept: Mutex<Kept>,
    /// An append was made or settled, the log was sealed, or it is gone.
    pub changed: Notify,
    /// When it was last read, or sealed, by the store's own count. Of what is archived, the archive knows.
    pub read_at: AtomicU64,
}

#[derive(Default)]
pub struct Kept {
    pub log: Log,
    pub plan: Bytes,
    /// When it was sealed, in milliseconds since the Unix epoch.
    pub sealed_ms: Option<u64>,
    pub damaged: bool,
    /// Forgotten or evicted: whoever still holds the entry must not append, wait or count any more.
    pub gone: bool,
    /// Once it is gone: whether the journal says so.
    pub buried: Option<Result<(), Error>>,
    /// A write is on its way; the next one waits for it.
    pub busy: bool,
    /// Its frames in the segments that are there, in order.
    pub places: Vec<Place>,
    /// It can be read back without any segment before this one. Known before its first frame is written.
    pub needs: u32,
    /// What its frames take from there on.
    pub bytes: u64,
    /// The archive that it is in.
    pub archive: Option<Arc<Archive>>,
}

impl Entry {
    pub fn new(id: LogId, meta: Meta, account: Account, kept: Kept) -> Entry {
        Entry {
            id,
            meta,
            account,
            kept: Mutex::new(kept),
            changed: Notify::new(),
            read_at: AtomicU64::new(0),
        }
    }

    /// A finished log as its archive has it.
    pub fn archived(id: LogId, state: State, account: Account, archive: Arc<Archive>) -> Entry {
        let (sealed_ms, damaged) = (state.sealed_ms, state.damaged);
        let (created, log) = state.restored();
        let kept = Kept { log, sealed_ms, damaged, archive: Some(archive), ..Kept::default() };
        Entry::new(id, created.meta, account, kept)
    }

    pub fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }

    /// Reads of what is there; the reason why it is not.
    pub fn look<T>(&self, read: impl FnOnce(&Kept) -> T) -> Result<T, Error> {
        let kept = self.kept();
        match (kept.gone, kept.damaged) {
            (true, _) => Err(Error::NotFound),
            (_, true) => Err(Error::Damaged),
            _ => Ok(read(&kept)),
        }
    }

    /// What it costs to keep this log: its records, and what was said about it at its creation.
    pub fn weight(&self, kept: &Kept) -> u64 {
        (kept.log.weight() + self.meta.data.len() + kept.plan.len() + size_of::<Entry>()) as u64
    }

    /// A frame that says all there is to say about it.
    pub fn state(&self, kept: &Kept) -> Vec<u8> {
        let created = Created { meta: self.meta.clone(), plan: kept.plan.clone() };
        State::of(created, &kept.log, kept.sealed_ms, kept.damaged).frame(self.id)
    }

    /// Waits until the journal says that it is gone, or cannot.
    pub async fn buried(&self) -> Result<(), Error> {
        let changed = self.changed.notified();
        tokio::pin!(changed);
        loop {
            changed.as_mut().enable();
            if let Some(buried) = self.kept().buried.clone() {
                return buried;
            }
            changed.as_mut().await;
            changed.set(self.changed.notified());
        }
    }

    /// Takes its bytes off the ledger, once, and tells those who wait. True if it was there.
    pub fn forget(&self, kept: &mut Kept, ledger: &Ledger) -> bool {
        let was_there = !std::mem::replace(&mut kept.gone, true);
        if was_there {
            ledger.replace(&self.account, self.weight(kept), 0);
        }
        self.changed.notify_waiters();
        was_there
    }
}
