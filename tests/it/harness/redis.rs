//! Debian's redis-server on free ports, in folders that go with it: one, a master with replica and sentinel, a cluster.
//!
//! Every process is ended by its id. Without redis-server a test fails; `make test` installs it.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, FromRedisValue, cmd};
use relaystream::store::Store;
use relaystream::store::redis::{Options, Redis};
use tokio::time::sleep;

use super::soon;

/// A server, killed when it is dropped.
pub struct RedisServer {
    child: Child,
    pub port: u16,
    arguments: Vec<String>,
    directory: Arc<tempfile::TempDir>,
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(program: &str, arguments: &[String]) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; `make test` installs it"))
}

impl RedisServer {
    /// With nothing but these options beside the address.
    pub async fn with(options: &[&str]) -> RedisServer {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let mut arguments: Vec<String> = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
            .into_iter()
            .chain(options.iter().copied())
            .map(str::to_owned)
            .collect();
        arguments.extend(["--dir".into(), directory.path().display().to_string()]);
        // Somebody else may have taken the port in between.
        for _ in 0..20 {
            let port = free_port();
            let mut all = vec!["--port".into(), port.to_string()];
            all.extend(arguments.iter().cloned());
            let mut server = RedisServer {
                child: spawn("redis-server", &all),
                port,
                arguments: all,
                directory: directory.clone(),
            };
            if server.answers().await {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    pub async fn start() -> RedisServer {
        RedisServer::with(&[]).await
    }

    /// False if the process has ended.
    async fn answers(&mut self) -> bool {
        soon("redis-server", async {
            loop {
                if self.child.try_wait().unwrap().is_some() {
                    return false;
                }
                if self.connection().await.is_ok() {
                    return true;
                }
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// Ends the process at once, as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts again what was killed, on the same port and folder.
    pub async fn restart(&mut self) {
        self.child = spawn("redis-server", &self.arguments);
        assert!(self.answers().await, "redis-server does not start again");
    }

    /// `STOP` and `CONT`: a server that stands still with all its connections open.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    async fn connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        let mut connection = Client::open(self.url())?.get_multiplexed_async_connection().await?;
        cmd("PING").query_async::<()>(&mut connection).await?;
        Ok(connection)
    }

    /// Runs a command given as words.
    pub async fn run<T: FromRedisValue>(&self, words: &str) -> redis::RedisResult<T> {
        let mut words = words.split_whitespace();
        let mut command = cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(super::PATIENCE));
        let client = Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        command.query_async(&mut connection).await
    }
}

/// Options of a store there, with keys that nobody else has.
pub fn options(url: &str) -> Options {
    static STORES: AtomicUsize = AtomicUsize::new(0);
    Options {
        url: url.to_owned(),
        authority: None,
        prefix: format!("test{}:", STORES.fetch_add(1, Relaxed)),
        lease: Duration::from_secs(5),
        patience: Duration::from_secs(30),
        replay_window: Duration::from_secs(3600),
        total_bytes: 0,
        user_bytes: 0,
    }
}

/// A node of its own, once its store is well.
pub async fn node(options: &Options) -> Arc<Redis> {
    let store = Arc::new(Redis::open(options.clone()).unwrap());
    healthy(&store, true).await;
    store
}

/// Waits until the store's health is so.
pub async fn healthy(store: &Redis, well: bool) {
    soon("the store's health", async {
        while store.health().is_ok() != well {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
