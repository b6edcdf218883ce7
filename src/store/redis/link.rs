//! One connection to Redis that is opened again whenever it breaks, shared by all of a node's tasks.
//!
//! Two of these exist: one for commands, one for what Redis pushes. A command waits a while for a connection and is not
//! repeated here: only its caller knows whether it may run twice. For a cluster the library keeps a connection to each
//! server behind this one.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, PushInfo, RedisError, RedisResult, ServerErrorKind, Value,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::address::{self, Address};
use super::scripts::Script;
use crate::store::Error;

/// Longer than any command takes; a server that stands still this long is asked over a new connection.
const RESPONSE: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_millis(1_500);
const SHORTEST_REST: Duration = Duration::from_millis(50);
const LONGEST_REST: Duration = Duration::from_millis(1_000);
/// Between two tries of what a cluster cannot answer while it changes, in milliseconds.
const SHORTEST_RETRY_MS: u64 = 10;
const LONGEST_RETRY_MS: u64 = 100;
/// Commands that may wait to be written; the library's own 50 would hold up a busy node.
const QUEUE: usize = 1024;

/// Why a command was not answered as hoped.
#[derive(Debug, Clone)]
pub enum Failure {
    /// Not now: no connection, no answer, or a server that cannot serve yet. It may have been done nevertheless.
    Away(String),
    /// Redis is at its `maxmemory`.
    Full,
    /// Never: a command that it does not know, or that this user may not give.
    Refused(String),
    NoScript,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Full => Error::Full,
            Failure::Away(why) | Failure::Refused(why) => Error::Unavailable(why),
            Failure::NoScript => Error::Unavailable("it does not keep scripts".into()),
        }
    }
}

#[derive(Clone)]
enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

#[derive(Clone)]
struct Open {
    generation: u64,
    connection: Connection,
}

/// What a server said unasked, and over which connection.
pub type Push = (u64, PushInfo);

pub struct Link {
    address: Address,
    pushes: Option<mpsc::UnboundedSender<Push>>,
    open: watch::Sender<Option<Open>>,
    /// The last generation that is known to be broken.
    broken: watch::Sender<u64>,
}

impl Link {
    /// `pushes`: where to send what the server says unasked.
    pub fn new(address: Address, pushes: Option<mpsc::UnboundedSender<Push>>) -> Arc<Link> {
        Arc::new(Link { address, pushes, open: watch::Sender::new(None), broken: watch::Sender::new(0) })
    }

    /// Keeps a connection open until it is told to stop.
    pub async fn run(&self, stop: &CancellationToken) {
        let (mut generation, mut rest, mut complained) = (0, SHORTEST_REST, false);
        let mut broken = self.broken.subscribe();
        while !stop.is_cancelled() {
            generation += 1;
            match timeout(2 * CONNECT, self.connect(generation)).await.unwrap_or_else(|_| Err(no_answer())) {
                Ok(connection) => {
                    if std::mem::take(&mut complained) {
                        tracing::info!("Redis is back");
                    }
                    rest = SHORTEST_REST;
                    self.open.send_replace(Some(Open { generation, connection }));
                    tokio::select! {
                        _ = broken.wait_for(|last| *last >= generation) => {}
                        () = stop.cancelled() => {}
                    }
                    self.open.send_replace(None);
                }
                Err(error) if !std::mem::replace(&mut complained, true) => {
                    tracing::warn!(error = %describe(&error), "no connection to Redis");
                }
                Err(_) => {}
            }
            // Nodes that lost the same server at the same moment do not come back in step.
            let jittered = rest.mul_f64(0.5 + fraction());
            tokio::select! { () = sleep(jittered) => {}, () = stop.cancelled() => {} }
            rest = (rest * 2).min(LONGEST_REST);
        }
    }

    async fn connect(&self, generation: u64) -> RedisResult<Connection> {
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(RESPONSE))
            .set_pipeline_buffer_size(QUEUE);
        let pushed = self.pushes.clone().map(|pushes| move |info| pushes.send((generation, info)));
        if let Some(pushed) = pushed.clone() {
            config = config.set_push_sender(pushed);
        }
        match &self.address {
            Address::One(client) => {
                client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::One)
            }
            Address::Sentinel { hosts, master, login, trust } => {
                let mut client = address::sentinels(hosts, master, login, trust.as_ref())?;
                client.get_async_connection_with_config(&config).await.map(Connection::One)
            }
            Address::Cluster { hosts, trust } => {
                // The library tries again what a cluster cannot answer at the moment, by itself for many minutes.
                let mut builder = address::cluster(hosts, trust.as_ref())
                    .connection_timeout(CONNECT)
                    .response_timeout(RESPONSE)
                    .overall_response_timeout(Some(RESPONSE))
                    .min_retry_wait(SHORTEST_RETRY_MS)
                    .max_retry_wait(LONGEST_RETRY_MS);
                if let Some(pushed) = pushed {
                    builder = builder.push_sender(pushed);
                }
                builder.build()?.get_async_connection().await.map(Connection::Cluster)
            }
        }
    }

    /// Resolves with the first connection that is opened after `last`.
    pub async fn opened_after(&self, last: u64) -> u64 {
        let newer = |open: &Option<Open>| open.as_ref().is_some_and(|open| open.generation > last);
        let mut open = self.open.subscribe();
        // The sender is ours: this wait cannot fail.
        let found = open.wait_for(newer).await;
        found.ok().and_then(|open| open.as_ref().map(|open| open.generation)).unwrap_or(last)
    }

    /// Of the present connection, if there is one.
    pub fn generation(&self) -> Option<u64> {
        self.open.borrow().as_ref().map(|open| open.generation)
    }

    pub fn is_cluster(&self) -> bool {
        self.address.is_cluster()
    }

    pub async fn call(&self, command: &Cmd) -> Result<Value, Failure> {
        let mut open = self.open.subscribe();
        let found = timeout(RESPONSE, open.wait_for(Option::is_some)).await;
        let Some(Open { generation, mut connection }) = found.ok().and_then(|open| open.ok()?.clone()) else {
            return Err(Failure::Away("there is no connection to Redis".into()));
        };
        let answer = match &mut connection {
            Connection::One(one) => one.req_packed_command(command).await,
            Connection::Cluster(cluster) => cluster.req_packed_command(command).await,
        };
        answer.and_then(Value::extract_error).map_err(|error| {
            let failure = classify(&error);
            // A cluster's connections are the library's to mend: others of them may be well.
            if matches!(failure, Failure::Away(_))
                && matches!(connection, Connection::One(_))
                && useless(&error)
            {
                self.renew(generation);
            }
            failure
        })
    }

    /// Runs a script.
    pub async fn run_script(&self, script: &Script, keys: &[&str], args: &[&[u8]]) -> Result<Value, Failure> {
        match self.call(&script.command(false, keys, args)).await {
            Err(Failure::NoScript) => self.call(&script.command(true, keys, args)).await,
            answer => answer,
        }
    }

    /// Gives this connection up: the next command waits for another.
    pub fn renew(&self, generation: u64) {
        self.open.send_if_modified(|open| {
            let this = open.as_ref().is_some_and(|open| open.generation == generation);
            this.then(|| *open = None).is_some()
        });
        self.broken.send_if_modified(|last| {
            *last < generation && {
                *last = generation;
                true
            }
        });
    }

    /// Gives the present connection up, if there is one.
    pub fn renew_any(&self) {
        self.generation().into_iter().for_each(|generation| self.renew(generation));
    }
}

fn no_answer() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// The connection is dead, or leads to a server that is no longer the one to ask.
fn useless(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

fn classify(error: &RedisError) -> Failure {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, NoScript, ReadOnly, TryAgain};
    let text = || describe(error);
    match (error.kind(), error.code()) {
        (ErrorKind::Server(NoScript), _) => Failure::NoScript,
        (_, Some("OOM")) => Failure::Full,
        (
            ErrorKind::Server(Ask | BusyLoading | ClusterDown | MasterDown | Moved | ReadOnly | TryAgain),
            _,
        )
        | (_, Some("BUSY" | "UNBLOCKED" | "NOREPLICAS" | "MISCONF")) => Failure::Away(text()),
        (ErrorKind::Server(_) | ErrorKind::Extension, _) => Failure::Refused(text()),
        _ => Failure::Away(text()),
    }
}

/// What went wrong, without what was sent.
fn describe(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("{code} {}", error.detail().unwrap_or_default()),
        None => error.to_string(),
    }
}

/// From 0 to 1. An id's random bits are as good as any.
fn fraction() -> f64 {
    f64::from(ulid::Ulid::generate().0 as u32) / f64::from(u32::MAX)
}
