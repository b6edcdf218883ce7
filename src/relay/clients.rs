//! The HTTP clients that providers are asked with: how they connect, whom they trust, how many streams share a
//! connection, and how many connections there may be. Who finds all of them in use waits in line.
//!
//! One for each provider and patience, and for each runtime: a connection lives on the runtime that opened it, and reading
//! it from another would hand every token from thread to thread. Over HTTP/2 one connection carries so many streams at most:
//! then another client, with a connection of its own, takes the next ones.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::route::{Endpoint, Pool};
use super::upstream::Fault;
use crate::tls::{self, Certificate};

/// Streams of one HTTP/2 connection: what providers allow by default.
const STREAMS: usize = 100;

#[derive(Default)]
pub struct Clients {
    shards: Mutex<HashMap<Profile, Vec<Shard>>>,
    /// By provider and how many there are: another number is another line.
    places: Mutex<HashMap<(String, usize), Arc<Semaphore>>>,
    /// By whom is trusted beside those whom the machine trusts. Shared: each would keep a megabyte of certificates.
    tls: Mutex<HashMap<Vec<Certificate>, ClientConfig>>,
}

/// What clients differ by.
#[derive(PartialEq, Eq, Hash)]
struct Profile {
    runtime: runtime::Id,
    provider: String,
    connect: Duration,
    http2: bool,
    trusts: Vec<Certificate>,
    pool: Pool,
}

#[derive(Clone)]
struct Shard {
    client: reqwest::Client,
    streams: Arc<AtomicUsize>,
}

/// A client, and a stream's place on its connection for as long as it lives.
pub struct Lease {
    pub client: reqwest::Client,
    streams: Arc<AtomicUsize>,
    _place: Option<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lease")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Relaxed);
    }
}

impl Clients {
    /// Reads the certificates that this machine trusts.
    pub fn warm(&self) -> Result<(), Fault> {
        self.tls(&[]).map(drop)
    }

    /// A client to ask this provider with, once one of its places is free. `connect`: how long to wait for that, and then
    /// for a connection.
    pub async fn lease(&self, endpoint: &Endpoint, connect: Duration) -> Result<Lease, Fault> {
        let place = match self.line(endpoint) {
            None => None,
            Some(line) => Some(within(connect, line.acquire_owned()).await.ok_or_else(|| full(endpoint))?),
        };
        let Shard { client, streams } = self.shard(endpoint, connect)?;
        Ok(Lease { client, streams, _place: place })
    }

    /// Where to wait for a place, in order; None: there is room for everybody.
    fn line(&self, endpoint: &Endpoint) -> Option<Arc<Semaphore>> {
        let each = if endpoint.http2 { STREAMS } else { 1 };
        let most = endpoint.pool.connections.saturating_mul(each).min(Semaphore::MAX_PERMITS);
        if most == 0 {
            return None;
        }
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let line = places.entry((endpoint.name.clone(), most));
        Some(line.or_insert_with(|| Semaphore::new(most).into()).clone())
    }

    /// A client with room for a stream, which is counted.
    fn shard(&self, endpoint: &Endpoint, connect: Duration) -> Result<Shard, Fault> {
        let profile = Profile {
            runtime: runtime::Handle::current().id(),
            provider: endpoint.name.clone(),
            connect,
            http2: endpoint.http2,
            trusts: endpoint.trusts.clone(),
            pool: endpoint.pool,
        };
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let shards = shards.entry(profile).or_default();
        // HTTP/1.1 has a connection for each stream anyway.
        let free = |shard: &&Shard| !endpoint.http2 || shard.streams.load(Relaxed) < STREAMS;
        let shard = match shards.iter().find(free) {
            Some(shard) => shard.clone(),
            None => {
                let shard = Shard { client: self.build(endpoint, connect)?, streams: Arc::default() };
                shards.push(shard.clone());
                shard
            }
        };
        shard.streams.fetch_add(1, Relaxed);
        Ok(shard)
    }

    /// No redirects: keys must not follow. No total timeout: it would cut long answers, the pump has deadlines of its own.
    fn build(&self, endpoint: &Endpoint, connect: Duration) -> Result<reqwest::Client, Fault> {
        let mut tls = self.tls(&endpoint.trusts)?;
        tls.alpn_protocols = vec![if endpoint.http2 { "h2" } else { "http/1.1" }.into()];
        let mut builder = tls::client()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .user_agent(concat!("relaystream/", env!("CARGO_PKG_VERSION")));
        builder = if endpoint.http2 { builder.http2_prior_knowledge() } else { builder.http1_only() };
        if !connect.is_zero() {
            builder = builder.connect_timeout(connect);
        }
        let Pool { idle, idle_timeout, .. } = endpoint.pool;
        builder = builder.pool_idle_timeout(Some(idle_timeout).filter(|timeout| !timeout.is_zero()));
        builder = builder.pool_max_idle_per_host(if idle == 0 { usize::MAX } else { idle });
        let failed =
            |error| Fault::new("connect_failed", format!("provider {}: {error}", endpoint.name), false);
        builder.build().map_err(failed)
    }

    fn tls(&self, trusts: &[Certificate]) -> Result<ClientConfig, Fault> {
        let mut configs = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = configs.get(trusts) {
            return Ok(config.clone());
        }
        let config = tls::config(trusts).map_err(|error| {
            Fault::new("connect_failed", format!("no trusted certificates: {error}"), false)
        })?;
        Ok(configs.entry(trusts.to_vec()).or_insert(config).clone())
    }
}

/// What comes in time; zero: whenever it comes.
async fn within<T, E>(patience: Duration, what: impl Future<Output = Result<T, E>>) -> Option<T> {
    match patience.is_zero() {
        true => what.await.ok(),
        false => tokio::time::timeout(patience, what).await.ok()?.ok(),
    }
}

/// Our own limit: the provider is well.
fn full(endpoint: &Endpoint) -> Fault {
    let message = format!("provider {}: all of its connections are in use", endpoint.name);
    Fault { ill: false, ..Fault::new("connect_timeout", message, true) }
}
