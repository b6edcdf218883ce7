//! A cluster that changes while streams run: slots move from server to server, connections break, a master dies.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use relaystream::log::{LogId, Position};
use relaystream::store::redis::Redis;
use relaystream::store::{Error, Store};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{pair, read_along, reading, whole, write};
use crate::harness::cluster::Cluster;
use crate::harness::redis::{Engine, healthy, node, on_each_engine, options};
use crate::harness::soon;
use crate::store_contract::{START, batch, created, sealing, text};

on_each_engine! {
    slots_move_while_streams_run,
    a_log_is_made_once_its_slot_has_moved,
    servers_that_give_all_away_are_missed_by_nobody,
}

/// Looks after a store every second, as the server does.
fn sweep(store: &Arc<Redis>) {
    let store = Arc::downgrade(store);
    tokio::spawn(async move {
        while let Some(store) = store.upgrade() {
            store.sweep();
            drop(store);
            sleep(Duration::from_secs(1)).await;
        }
    });
}

type Seen = Vec<(Position, String)>;

/// A log that is written by one node and read along at both.
struct Running {
    log: LogId,
    writer: JoinHandle<Seen>,
    readers: [JoinHandle<Seen>; 2],
}

impl Running {
    /// Every append must be accepted, until `enough`.
    async fn start([one, two]: [&Arc<Redis>; 2], log: u128, enough: &CancellationToken) -> Running {
        let log = created(&**one, log).await;
        let (store, enough) = (one.clone(), enough.clone());
        let writer = tokio::spawn(async move {
            let (mut head, mut written) = (START, Vec::new());
            while !enough.is_cancelled() {
                let text = format!("word {}", written.len());
                head = store.append(log, batch(head, &[&text])).await.expect("accepted");
                written.push((head, text));
                sleep(Duration::from_millis(2)).await;
            }
            head = store.append(log, sealing(head, &["end"])).await.expect("accepted");
            written.push((head, "end".into()));
            written
        });
        let readers = [one, two].map(|store| {
            let store = store.clone();
            tokio::spawn(async move {
                let records = read_along(&*store, log).await;
                records.iter().map(|record| (record.position, text(record))).collect()
            })
        });
        Running { log, writer, readers }
    }

    /// Every record once at every reader, under the position that its writer was told.
    async fn ends_whole(self) {
        let written = soon("the writer", self.writer).await.expect("no panic");
        assert!(written.iter().map(|(position, _)| position.seq).eq(1..=written.len() as u64));
        for reader in self.readers {
            assert_eq!(soon("a reader", reader).await.expect("no panic"), written, "{}", self.log);
        }
    }
}

/// Step by step, so that each answer of a cluster whose slots move is given to somebody.
async fn slots_move_while_streams_run(engine: Engine) {
    let cluster = Cluster::start(engine).await;
    let options = options(&cluster.url());
    let (one, two) = (node(&options).await, node(&options).await);
    let enough = CancellationToken::new();
    let mut all = Vec::new();
    for log in 1..=3 {
        let running = Running::start([&one, &two], log, &enough).await;
        let key = |name: &str| format!("{}{{{}}}:{name}", options.prefix, running.log);
        soon("its first record", two.changed(running.log, START)).await.expect("there");
        let slot = cluster.begin_move(&key("meta")).await;
        slot.key(&key("meta")).await;
        cluster.answers_with("TRYAGAIN").await;
        slot.key(&key("log")).await;
        cluster.answers_with("ASK").await;
        slot.end().await;
        // What is said at the new place is heard there: nothing else makes this node look.
        for _ in 0..2 {
            let told = one.read(running.log, START, 0).await.expect("there").head;
            soon("what follows", async {
                while two.read(running.log, START, 0).await.expect("there").head.seq <= told.seq {
                    sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
        }
        all.push(running);
    }
    assert!(cluster.errors("MOVED").await > 0);
    enough.cancel();
    for running in all {
        running.ends_whole().await;
    }
}

/// Of keys that are not there yet nobody knows on which side they are to be: whoever makes them waits for the end.
async fn a_log_is_made_once_its_slot_has_moved(engine: Engine) {
    let cluster = Cluster::start(engine).await;
    let options = options(&cluster.url());
    let (one, two) = (node(&options).await, node(&options).await);
    let key = |log: LogId, name: &str| format!("{}{{{log}}}:{name}", options.prefix);
    let (new, empty) = (LogId(1), created(&*one, 2).await);
    for log in [new, empty] {
        let slot = cluster.begin_move(&key(log, "meta")).await;
        if log == empty {
            slot.key(&key(log, "meta")).await;
        }
        let store = one.clone();
        let made = tokio::spawn(async move {
            if log == new {
                created(&*store, 1).await;
            }
            store.append(log, sealing(START, &["end"])).await
        });
        cluster.answers_with("TRYAGAIN").await;
        slot.end().await;
        soon("the append", made).await.expect("no panic").expect("accepted");
        assert_eq!(whole(&*two, log).await, Ok(vec!["end".into()]));
    }
}

/// Among all that is there: leases, canaries, topics, and the news of logs that were forgotten.
async fn servers_that_give_all_away_are_missed_by_nobody(engine: Engine) {
    let cluster = Cluster::start(engine).await;
    let (one, two) = pair(&cluster.url()).await;
    sweep(&one);
    sweep(&two);
    let enough = CancellationToken::new();
    let (mut all, mut topics) = (Vec::new(), Vec::new());
    for n in 1..=8 {
        all.push(Running::start([&one, &two], n, &enough).await);
        let topic = format!("t{n}");
        topics.push((two.subscribe(&topic).await.expect("reachable"), topic));
    }
    let over = created(&*one, 9).await;
    one.append(over, sealing(START, &["end"])).await.expect("accepted");
    whole(&*two, over).await.expect("there");
    cluster.drain(0).await;
    cluster.drain(1).await;
    for (mut heard, topic) in topics {
        let talking = async {
            loop {
                one.publish(&topic, Bytes::from_static(b"hello")).await.expect("reachable");
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            message = soon("a message", heard.recv()) => assert!(message.is_ok()),
            () = talking => {}
        }
    }
    one.remove(over).await.expect("forgotten");
    soon("forgotten everywhere", async {
        while two.meta(over).await != Err(Error::NotFound) {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    enough.cancel();
    for running in all {
        running.ends_whole().await;
    }
    healthy(&one, true).await;
    healthy(&two, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_the_place_of_a_dead_master() {
    let mut cluster = Cluster::with_replica(Engine::Redis).await;
    let (one, two) = pair(&cluster.url()).await;
    sweep(&one);
    sweep(&two);
    let enough = CancellationToken::new();
    let mut running = Vec::new();
    for log in 1..=8 {
        running.push(Running::start([&one, &two], log, &enough).await);
    }
    sleep(Duration::from_millis(300)).await;
    cluster.servers[0].kill();
    soon("the replica", async {
        while !cluster.reports(3, "INFO replication", "role:master").await {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    healthy(&one, true).await;
    enough.cancel();
    for running in running {
        running.ends_whole().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_goes_on_where_its_servers_are_well() {
    let cluster = Cluster::start(Engine::Redis).await;
    let (one, two) = pair(&cluster.url()).await;
    sweep(&two);
    let mut ends = Vec::new();
    for log in 1..=12 {
        let log = created(&*one, log).await;
        let reader = reading(&two, log);
        ends.push((log, reader));
    }
    for (log, reader) in ends {
        let (mut written, head) = write(&*one, log, START, 30).await;
        for server in &cluster.servers {
            server.run::<i64>("CLIENT KILL TYPE pubsub").await.expect("reachable");
        }
        let (tail, head) = write(&*one, log, head, 30).await;
        one.append(log, sealing(head, &["end"])).await.expect("accepted");
        written.extend(tail);
        written.push("end".into());
        assert_eq!(soon("the reader", reader).await.expect("no panic"), written);
    }
    cluster.servers[1].signal("STOP");
    healthy(&one, false).await;
    cluster.servers[1].signal("CONT");
    healthy(&one, true).await;
}
