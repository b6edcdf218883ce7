//! What nodes agree on, where there is only one node: claims, clocks and messages, in memory.
//!
//! Shared by the engines of one node. Nothing here survives the process; an engine that keeps claims feeds them back in.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::{Claim, lock};

/// A subscriber that is this many messages behind misses the oldest.
const BACKLOG: usize = 256;

#[derive(Default)]
pub struct Coordination {
    claims: Mutex<BTreeMap<String, (String, Instant)>>,
    clocks: Mutex<HashMap<String, Instant>>,
    topics: Mutex<HashMap<String, broadcast::Sender<Bytes>>>,
}

impl Coordination {
    pub fn claim(&self, key: &str, value: &str, ttl: Duration) -> Claim {
        let now = Instant::now();
        let mut claims = lock(&self.claims);
        match claims.get(key) {
            Some((held, until)) if *until > now && held != value => Claim::Held(held.clone()),
            _ => {
                claims.insert(key.to_owned(), (value.to_owned(), now + ttl));
                Claim::Won
            }
        }
    }

    pub fn claimed(&self, key: &str) -> Option<String> {
        let now = Instant::now();
        lock(&self.claims).get(key).filter(|(_, until)| *until > now).map(|(value, _)| value.clone())
    }

    /// True if `value` held it.
    pub fn release(&self, key: &str, value: &str) -> bool {
        let mut claims = lock(&self.claims);
        let held = claims.get(key).is_some_and(|(held, _)| held == value);
        held && claims.remove(key).is_some()
    }

    pub fn list(&self, prefix: &str) -> Vec<(String, String)> {
        let now = Instant::now();
        lock(&self.claims)
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(_, (_, until))| *until > now)
            .map(|(key, (value, _))| (key.clone(), value.clone()))
            .collect()
    }

    /// Every claim, with what is left of its time.
    pub fn claims(&self) -> Vec<(String, String, Duration)> {
        let now = Instant::now();
        let claims = lock(&self.claims);
        let held = claims.iter().filter(|(_, (_, until))| *until > now);
        held.map(|(key, (value, until))| (key.clone(), value.clone(), *until - now)).collect()
    }

    pub fn advance(&self, key: &str, by_us: i64) -> Duration {
        let now = Instant::now();
        let mut clocks = lock(&self.clocks);
        let from = clocks.get(key).copied().filter(|at| *at > now).unwrap_or(now);
        let by = Duration::from_micros(by_us.unsigned_abs());
        let then = if by_us < 0 { from.checked_sub(by).unwrap_or(now).max(now) } else { from + by };
        if then > now {
            clocks.insert(key.to_owned(), then);
        } else {
            clocks.remove(key);
        }
        then - now
    }

    pub fn publish(&self, topic: &str, message: Bytes) {
        if let Some(sender) = lock(&self.topics).get(topic) {
            let _nobody_there = sender.send(message);
        }
    }

    pub fn subscribe(&self, topic: &str) -> broadcast::Receiver<Bytes> {
        let mut topics = lock(&self.topics);
        topics.entry(topic.to_owned()).or_insert_with(|| broadcast::channel(BACKLOG).0).subscribe()
    }

    /// Forgets what is over.
    pub fn sweep(&self) {
        let now = Instant::now();
        lock(&self.claims).retain(|_, (_, until)| *until > now);
        lock(&self.clocks).retain(|_, at| *at > now);
        lock(&self.topics).retain(|_, sender| sender.receiver_count() > 0);
    }
}
