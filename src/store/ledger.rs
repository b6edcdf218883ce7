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
    owners: Mutex<HashMap<String, Account>>,
}

impl Ledger {
    /// The account of an owner. One that is not in use begins with what `kept` says.
    pub fn account(&self, owner: &str, kept: impl FnOnce() -> u64) -> Account {
        let mut owners = lock(&self.owners);
        match owners.get(owner) {
            Some(account) => account.clone(),
            None => owners.entry(owner.to_owned()).or_insert_with(|| Arc::new(kept().into())).clone(),
        }
    }

    pub fn replace(&self, account: &AtomicU64, before: u64, after: u64) {
        let change = after.wrapping_sub(before);
        self.total.fetch_add(change, Relaxed);
        account.fetch_add(change, Relaxed);
    }

    /// Every account in use.
    pub fn accounts(&self) -> Vec<(String, Account)> {
        lock(&self.owners).iter().map(|(owner, account)| (owner.clone(), account.clone())).collect()
    }

    /// Forgets accounts that no log uses.
    pub fn sweep(&self) {
        lock(&self.owners).retain(|_, account| Arc::strong_count(account) > 1);
    }
}
