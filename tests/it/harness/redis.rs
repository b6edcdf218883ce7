//! Redis and Valkey on free ports, in folders that go with them: one server, a master with replica and sentinel.
//!
//! Every process is ended by its id. Without the programs a test fails; `make test` installs them.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, FromRedisValue, cmd};
use relaystream::store::Store;
use relaystream::store::redis::{Options, Redis};
use tokio::time::sleep;

use super::{eventually, soon};

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Redis,
    Valkey,
}

/// Runs these tests once on each engine: `name::redis` and `name::valkey`.
macro_rules! on_each_engine {
    ($($test:ident),+ $(,)?) => {$(
        mod $test {
            use $crate::harness::redis::Engine;

            #[tokio::test(flavor = "multi_thread")]
            async fn redis() {
                super::$test(Engine::Redis).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn valkey() {
                super::$test(Engine::Valkey).await;
            }
        }
    )+};
}
pub(crate) use on_each_engine;

impl Engine {
    /// The scheme of its addresses.
    pub fn scheme(self) -> &'static str {
        match self {
            Engine::Redis => "redis",
            Engine::Valkey => "valkey",
        }
    }

    /// Starts its `server` or `sentinel`. They are one program, which does what it is called by; the package that has it
    /// under this name starts no service.
    fn spawn(self, role: &str, arguments: &[String]) -> Child {
        let program = format!("{}-check-rdb", self.scheme());
        let mut command = Command::new(&program);
        command.arg0(format!("{}-{role}", self.scheme())).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; `make test` installs it"))
    }
}

/// A server, killed when it is dropped.
pub struct RedisServer {
    child: Child,
    pub port: u16,
    engine: Engine,
    role: &'static str,
    arguments: Vec<String>,
    /// Gone with the server.
    directory: Option<tempfile::TempDir>,
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A cluster's servers also need the port ten thousand further on.
fn free_port() -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port < 55_000 {
            return port;
        }
    }
}

impl RedisServer {
    /// With nothing but these options beside the address.
    pub async fn with(engine: Engine, options: &[&str]) -> RedisServer {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().display().to_string();
        let mut all = vec!["--dir", &folder, "--save", "", "--appendonly", "no"];
        all.extend(options);
        RedisServer::in_folder(directory, engine, "server", &all).await
    }

    async fn in_folder(
        directory: tempfile::TempDir,
        engine: Engine,
        role: &'static str,
        options: &[&str],
    ) -> RedisServer {
        // Somebody else may have taken the port in between.
        for _ in 0..20 {
            let port = free_port();
            let mut arguments: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
            arguments.extend(["--port".into(), port.to_string(), "--bind".into(), "127.0.0.1".into()]);
            let child = engine.spawn(role, &arguments);
            let mut server = RedisServer { child, port, engine, role, arguments, directory: None };
            if server.answers().await {
                server.directory = Some(directory);
                return server;
            }
        }
        panic!("a {role} of {engine:?} does not start");
    }

    pub async fn start(engine: Engine) -> RedisServer {
        RedisServer::with(engine, &[]).await
    }

    /// False if the process has ended.
    async fn answers(&mut self) -> bool {
        soon("a server", async {
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

    /// Starts again what was killed, on the same port and folder, with these options too. Does not wait.
    pub fn restart(&mut self, options: &[&str]) {
        let more = options.iter().map(|&option| option.to_owned());
        let arguments: Vec<String> = self.arguments.iter().cloned().chain(more).collect();
        self.child = self.engine.spawn(self.role, &arguments);
    }

    /// `STOP` and `CONT`: a server that stands still with all its connections open.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.engine.scheme(), self.port)
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

/// A master, its replica and the sentinel that watches both.
pub struct Watched {
    pub master: RedisServer,
    pub replica: RedisServer,
    sentinel: RedisServer,
}

impl Watched {
    pub async fn start(engine: Engine) -> Watched {
        let master = RedisServer::start(engine).await;
        let of = format!("127.0.0.1 {}", master.port);
        let replica = RedisServer::with(engine, &["--replicaof", &of]).await;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sentinel.conf");
        let text = format!(
            "sentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 2000\n",
            master.port
        );
        std::fs::write(&file, text).unwrap();
        let sentinel =
            RedisServer::in_folder(directory, engine, "sentinel", &[&file.display().to_string()]).await;
        let watched = Watched { master, replica, sentinel };
        soon("the sentinel to know the replica", async {
            loop {
                let known: Vec<redis::Value> = watched.sentinel.run("SENTINEL REPLICAS main").await.unwrap();
                let linked: String = watched.replica.run("INFO replication").await.unwrap();
                if !known.is_empty() && linked.contains("master_link_status:up") {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        watched
    }

    /// Waits until the replica has all that the master has.
    pub async fn in_step(&self) {
        soon("the replica", async {
            while !self.master.run::<String>("INFO replication").await.unwrap().contains("lag=0") {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// Parts the replica from its master for good: what that accepts from here on it accepts alone.
    pub async fn part(&self) {
        self.replica.run::<()>("CONFIG SET masteruser nobody").await.unwrap();
        self.replica.run::<()>("CONFIG SET masterauth wrong").await.unwrap();
        let _gone = self.master.run::<i64>("CLIENT KILL TYPE replica").await.unwrap();
    }

    pub fn url(&self) -> String {
        format!("{}+sentinel://127.0.0.1:{}/main", self.sentinel.engine.scheme(), self.sentinel.port)
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
        gather: Duration::from_millis(5),
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
    eventually("the store's health", || store.health().is_ok() == well).await;
}
