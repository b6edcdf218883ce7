//! Bytes kept, in total and by owner, for the engines of one node.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::lock;

/// The bytes of one owner, shared by its logs: an append looks nothing up.
pub type Account = Arc<AtomicU64>;

#[derive(Default)]
pub struct Ledger {
    pub total: AtomicU64,
    /// By the hash of their names.
    owners: Mutex<HashMap<u64, Account>>,
}

/// An owner by a number, in archives, too.
pub fn owner_hash(owner: &str) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, owner.as_bytes());
    u64::from_le_bytes(*digest.as_ref().first_chunk().expect("a digest of 32 bytes"))
}

impl Ledger {
    /// The account of an owner. One that is not in use begins with what `kept` says, which must stay true until this
    /// returns.
    pub fn account(&self, owner: &str, kept: impl FnOnce() -> u64) -> Account {
        if let Some(account) = self.in_use(owner) {
            return account;
        }
        // It may read from a disk: whoever looks up another account does not wait for that.
        let kept = kept();
        lock(&self.owners).entry(owner_hash(owner)).or_insert_with(|| Arc::new(kept.into())).clone()
    }

    /// The account of an owner that has logs here.
    pub fn in_use(&self, owner: &str) -> Option<Account> {
        lock(&self.owners).get(&owner_hash(owner)).cloned()
    }

    pub fn replace(&self, account: &AtomicU64, before: u64, after: u64) {
        let change = after.wrapping_sub(before);
        self.total.fetch_add(change, Relaxed);
        account.fetch_add(change, Relaxed);
    }

    /// Takes bytes off the account of an owner, if that is in use.
    pub fn give_back(&self, owner: u64, bytes: u64) {
        if let Some(account) = lock(&self.owners).get(&owner) {
            account.fetch_sub(bytes, Relaxed);
        }
    }

    /// Forgets accounts that no log uses.
    pub fn sweep(&self) {
        lock(&self.owners).retain(|_, account| Arc::strong_count(account) > 1);
    }
}
