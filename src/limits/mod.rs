//! How much one may have at a time: counted permits by key, given back when dropped. What one may spend is `ledger`,
//! and what wrong credentials cost is `strikes`.
//!
//! Rates are the governor's (`http::rate`); bytes are the store's. Pure: no clock, no I/O.

pub mod ledger;
pub mod strikes;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// At most `limit` permits for each key at a time; zero is no limit.
#[derive(Debug)]
pub struct Permits<K: Eq + Hash> {
    limit: u64,
    held: Arc<Mutex<HashMap<K, u64>>>,
}

/// One of a key's permits, given back on drop.
#[derive(Debug)]
pub struct Permit<K: Eq + Hash> {
    key: K,
    held: Arc<Mutex<HashMap<K, u64>>>,
}

impl<K: Eq + Hash + Clone> Permits<K> {
    pub fn new(limit: u64) -> Permits<K> {
        Permits { limit, held: Arc::default() }
    }

    /// None if the key holds as many as it may.
    pub fn take(&self, key: &K) -> Option<Permit<K>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(key.clone()).or_default();
        if self.limit > 0 && *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Permit { key: key.clone(), held: self.held.clone() })
    }

    /// All permits that are out, of all keys.
    pub fn out(&self) -> u64 {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

impl<K: Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}

/// Every limit that counts heads, as configured. Zero is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub requests_per_minute: u32,
    pub running_streams_per_user: u64,
    pub viewers_per_stream: u64,
    pub viewers_per_session: u64,
    pub viewers_per_user: u64,
    /// Sockets of sessions.
    pub connections_per_user: u64,
    /// Sessions that a user owns.
    pub sessions_per_user: u64,
    /// Tokens of each user.
    pub budgets: ledger::Budgets,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_counted_by_key_and_given_back() {
        let permits = Permits::new(2);
        let first = permits.take(&"a").expect("one of two");
        let _second = permits.take(&"a").expect("two of two");
        assert!(permits.take(&"a").is_none());
        assert!(permits.take(&"b").is_some());
        drop(first);
        assert!(permits.take(&"a").is_some());
        assert_eq!(permits.out(), 1);
    }
}
