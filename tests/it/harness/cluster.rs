//! A cluster: three servers that share the slots, if wanted with a replica, and slots on their way between the servers.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::sleep;

use super::redis::{Engine, RedisServer};
use super::soon;

/// The last slot of each server.
const SHARES: [u16; 3] = [5_461, 10_922, 16_383];

pub struct Cluster {
    /// Three masters, then their replicas.
    pub servers: Vec<RedisServer>,
    engine: Engine,
    /// After how many milliseconds a silent server is taken for dead.
    timeout: &'static str,
}

impl Cluster {
    pub async fn start(engine: Engine) -> Cluster {
        Cluster::of_masters(engine, "15000").await
    }

    async fn of_masters(engine: Engine, timeout: &'static str) -> Cluster {
        let mut cluster = Cluster { servers: Vec::new(), engine, timeout };
        let mut first = 0;
        for last in SHARES {
            let server = cluster.add().await;
            server.run::<()>(&format!("CLUSTER ADDSLOTSRANGE {first} {last}")).await.unwrap();
            first = last + 1;
        }
        cluster.agrees().await;
        cluster
    }

    /// With a replica of the first server, which takes its place when that is dead.
    pub async fn with_replica(engine: Engine) -> Cluster {
        let mut cluster = Cluster::of_masters(engine, "2000").await;
        let master = cluster.id(0).await;
        cluster.add().await;
        cluster.agrees().await;
        cluster.servers[3].run::<()>(&format!("CLUSTER REPLICATE {master}")).await.unwrap();
        soon("the replica", async {
            while !cluster.reports(3, "INFO replication", "master_link_status:up").await {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        cluster
    }

    /// One more server, without slots.
    async fn add(&mut self) -> &RedisServer {
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", self.timeout];
        let server = RedisServer::with(self.engine, &options).await;
        if let Some(first) = self.servers.first() {
            first.run::<()>(&format!("CLUSTER MEET 127.0.0.1 {}", server.port)).await.unwrap();
        }
        self.servers.push(server);
        &self.servers[self.servers.len() - 1]
    }

    /// Waits until each server knows all, and finds that all is well.
    async fn agrees(&self) {
        let known = format!("cluster_known_nodes:{}", self.servers.len());
        for server in 0..self.servers.len() {
            soon("the cluster", async {
                while !(self.reports(server, "CLUSTER INFO", "cluster_state:ok").await
                    && self.reports(server, "CLUSTER INFO", &known).await)
                {
                    sleep(Duration::from_millis(50)).await;
                }
            })
            .await;
        }
    }

    pub async fn reports(&self, server: usize, command: &str, text: &str) -> bool {
        self.servers[server].run::<String>(command).await.unwrap().contains(text)
    }

    async fn id(&self, server: usize) -> String {
        self.servers[server].run("CLUSTER MYID").await.unwrap()
    }

    pub fn url(&self) -> String {
        let hosts: Vec<String> =
            self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        format!("{}+cluster://{}", self.engine.scheme(), hosts.join(","))
    }

    /// How often the servers have answered with this error.
    pub async fn errors(&self, code: &str) -> u64 {
        let mut sum = 0;
        for server in &self.servers {
            let stats: String = server.run("INFO errorstats").await.unwrap();
            let count = stats.lines().find_map(|line| line.strip_prefix(&format!("errorstat_{code}:count=")));
            sum += count.map_or(0, |count| count.trim().parse::<u64>().unwrap());
        }
        sum
    }

    /// Waits until some server has answered with this error once more.
    pub async fn answers_with(&self, code: &str) {
        let before = self.errors(code).await;
        soon(code, async {
            while self.errors(code).await == before {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn slot(&self, name: &str) -> u16 {
        self.servers[0].run(&format!("CLUSTER KEYSLOT {name}")).await.unwrap()
    }

    /// Begins to move the slot of this key, which never moved before, to the next server.
    pub async fn begin_move(&self, key: &str) -> Moving<'_> {
        let slot = self.slot(key).await;
        self.begin(slot, SHARES.iter().position(|last| slot <= *last).unwrap()).await
    }

    async fn begin(&self, slot: u16, from: usize) -> Moving<'_> {
        let moving = Moving { cluster: self, slot, from, to: (from + 1) % SHARES.len() };
        moving.set(moving.to, "IMPORTING", from).await;
        moving.set(from, "MIGRATING", moving.to).await;
        moving
    }

    /// Moves every slot of a server in which there is anything to the next, as if it were to be taken away.
    pub async fn drain(&self, from: usize) {
        let server = &self.servers[from];
        let mut names: Vec<String> = server.run("KEYS *").await.unwrap();
        names.extend(server.run::<Vec<String>>("PUBSUB SHARDCHANNELS").await.unwrap());
        let mut moved = BTreeSet::new();
        for name in names {
            let slot = self.slot(&name).await;
            if !moved.insert(slot) {
                continue;
            }
            let moving = self.begin(slot, from).await;
            let keys: Vec<String> = server.run(&format!("CLUSTER GETKEYSINSLOT {slot} 99")).await.unwrap();
            for key in keys {
                moving.key(&key).await;
            }
            moving.end().await;
        }
    }
}

/// A slot on its way from one server to another.
pub struct Moving<'a> {
    cluster: &'a Cluster,
    slot: u16,
    from: usize,
    to: usize,
}

impl Moving<'_> {
    async fn set(&self, at: usize, state: &str, other: usize) {
        let other = self.cluster.id(other).await;
        let set = format!("CLUSTER SETSLOT {} {state} {other}", self.slot);
        self.cluster.servers[at].run::<()>(&set).await.unwrap();
    }

    pub async fn key(&self, key: &str) {
        let Cluster { servers, .. } = self.cluster;
        let migrate = format!("MIGRATE 127.0.0.1 {} {key} 0 5000", servers[self.to].port);
        assert_eq!(servers[self.from].run::<String>(&migrate).await.unwrap(), "OK", "{key} was there");
    }

    /// The new owner first: as long as only the old one knows, it would send everybody away and nobody would take them.
    pub async fn end(self) {
        let others = (0..SHARES.len()).filter(|server| *server != self.to);
        for server in [self.to].into_iter().chain(others) {
            self.set(server, "NODE", self.to).await;
        }
    }
}
