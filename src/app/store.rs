//! Opens the store that the configuration names.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, Engine};
use crate::store::{Store, memory};

pub fn open(config: &Config) -> Arc<dyn Store> {
    match config.store.engine {
        Engine::Memory => Arc::new(memory::Memory::new(memory::Options {
            replay_window: Duration::from_secs(config.server.replay_window_s),
            total_bytes: config.limits.total_bytes,
            user_bytes: config.limits.user_bytes,
        })),
    }
}
