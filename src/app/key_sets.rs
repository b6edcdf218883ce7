//! The key set that tokens are checked with, as it was last fetched, and who waits for a newer one.
//!
//! `reload` fetches; whoever meets a token of an unknown key asks for that once more.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::auth::jwt::Fetched;

/// How long a request waits for keys that are being fetched.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub struct KeySets {
    current: ArcSwap<Fetched>,
    asked: Notify,
    /// How often an answer was given to those that asked.
    answers: watch::Sender<u64>,
}

impl KeySets {
    pub fn current(&self) -> Guard<Arc<Fetched>> {
        self.current.load()
    }

    /// Asks for the keys to be fetched once more, and waits until that was done, or was not to be done.
    pub async fn ask(&self) {
        let mut answers = self.answers.subscribe();
        self.asked.notify_one();
        let _in_vain = timeout(PATIENCE, answers.changed()).await;
    }

    /// Resolves when somebody asks.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    pub fn put(&self, fetched: Fetched) {
        self.current.store(Arc::new(fetched));
    }

    /// Lets those go on who asked.
    pub fn answer(&self) {
        self.answers.send_modify(|answers| *answers += 1);
    }
}
