//! Opens the store that the configuration names.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::config::{Config, Engine, Environment};
use crate::store::Store;
use crate::store::disk::{self, Disk};
use crate::store::memory::{self, Memory};
use crate::store::redis::{self, Redis};

/// Within the runtime that is to run the store's own tasks.
pub fn open(config: &Config, environment: &Environment) -> Result<Arc<dyn Store>> {
    let (total_bytes, user_bytes) = (config.limits.total_bytes, config.limits.user_bytes);
    let retain = retain(config);
    Ok(match config.store.engine {
        Engine::Memory => {
            Arc::new(Memory::new(memory::Options { replay_window: retain, total_bytes, user_bytes }))
        }
        Engine::Disk => Arc::new(
            Disk::open(&disk::Options {
                sync: config.store.sync.0,
                retain,
                retain_bytes: config.store.retain_bytes,
                total_bytes,
                user_bytes,
                ..disk::Options::new(&config.store.path)
            })
            .context("store.path")?,
        ),
        Engine::Redis => {
            let opened = Redis::open(redis_options(config, environment)?);
            Arc::new(opened.map_err(|why| anyhow!("store: {why}"))?)
        }
    })
}

/// Whether what the configuration says of the store makes sense, as far as that is known without opening it.
pub fn check(config: &Config, environment: &Environment) -> Result<()> {
    match config.store.engine {
        Engine::Memory | Engine::Disk => Ok(()),
        Engine::Redis => redis_options(config, environment)?.check().map_err(|why| anyhow!("store: {why}")),
    }
}

fn redis_options(config: &Config, environment: &Environment) -> Result<redis::Options> {
    let only = &config.store.redis;
    Ok(redis::Options {
        url: config.store_url(environment)?,
        authority: authority(&only.ca)?,
        prefix: only.prefix.clone(),
        lease: Duration::from_millis(only.lease_ms),
        patience: Duration::from_millis(only.wait_ms),
        gather: Duration::from_millis(only.gather_ms),
        replay_window: retain(config),
        total_bytes: config.limits.total_bytes,
        user_bytes: config.limits.user_bytes,
    })
}

fn retain(config: &Config) -> Duration {
    Duration::from_secs(config.store.retain_s.unwrap_or(config.server.replay_window_s))
}

fn authority(file: &std::path::Path) -> Result<Option<Vec<u8>>> {
    if file.as_os_str().is_empty() {
        return Ok(None);
    }
    let pem =
        std::fs::read(file).with_context(|| format!("store.redis.ca: cannot read {}", file.display()))?;
    Ok(Some(pem))
}
