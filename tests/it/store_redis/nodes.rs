//! Several nodes over one Redis: each sees what the others do, and one of them goes on where another has died.

use std::time::Duration;

use bytes::Bytes;
use relaystream::log::{Bad, LogId, Position, Refused};
use relaystream::store::redis::Options;
use relaystream::store::{Error, Meta, Orphan, Store};
use tokio::time::sleep;

use super::{LOG, next_epoch, pair, reading, whole, write};
use crate::harness::redis::{Engine, RedisServer, node, on_each_engine, options};
use crate::harness::{Server, soon};
use crate::store_contract::{START, batch, created, meta, sealing};

on_each_engine! {
    what_one_appends_the_other_reads,
    a_room_is_written_by_all,
    a_dead_nodes_logs_are_taken_over_once,
    of_two_writers_one_is_fenced,
    what_is_disowned_is_anybodys,
    claims_clocks_and_messages_are_everybodys,
    any_node_serves_any_stream,
}

/// Asks until something is left behind.
async fn orphans(store: &dyn Store) -> Vec<Orphan> {
    soon("an orphan", async {
        loop {
            let found = store.orphans().await.expect("reachable");
            if !found.is_empty() {
                return found;
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

async fn what_one_appends_the_other_reads(engine: Engine) {
    let server = RedisServer::start(engine).await;
    let (one, two) = pair(&server.url()).await;
    created(&*one, 7).await;
    assert_eq!(two.meta(LOG).await, Ok(meta("a/b")));
    let reader = reading(&two, LOG);
    let (mut written, head) = write(&*one, LOG, START, 200).await;
    // Whoever saw it on one node, may ask the other for what follows.
    assert_eq!(two.check(LOG, head).await, Ok(Ok(())));
    assert_eq!(two.check(LOG, Position::new(0, head.seq + 1)).await, Ok(Err(Bad::Ahead)));
    one.append(LOG, sealing(head, &["end"])).await.expect("accepted");
    written.push("end".into());
    assert_eq!(soon("the reader", reader).await.expect("no panic"), written);
    assert_eq!(whole(&*two, LOG).await, Ok(written));
    two.remove(LOG).await.expect("forgotten");
    soon("forgotten everywhere", async {
        while one.meta(LOG).await != Err(Error::NotFound) {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn a_room_is_written_by_all(engine: Engine) {
    let server = RedisServer::start(engine).await;
    let options = options(&server.url());
    let nodes = [node(&options).await, node(&options).await, node(&options).await];
    let room = Meta { trim_bytes: Some(1 << 20), ..meta("a/b") };
    nodes[0].create(LOG, room, Bytes::new()).await.expect("a new log");
    let writers = nodes.iter().enumerate().map(|(at, store)| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut expected = START;
            for n in 0..50 {
                let text = format!("{at}:{n}");
                loop {
                    match store.append(LOG, batch(expected, &[&text])).await {
                        Ok(head) => break expected = head,
                        Err(Error::Refused(Refused::Stale { head })) => expected = head,
                        Err(error) => panic!("{error}"),
                    }
                }
                assert!(whole(&*store, LOG).await.expect("there").contains(&text), "its writer finds it");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        soon("a writer", writer).await.expect("no panic");
    }
    // What others wrote last may still be on its way to a node.
    let all = soon("every record", async {
        loop {
            let all = whole(&*nodes[0], LOG).await.expect("there");
            if all.len() >= 150 {
                return all;
            }
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(all.len(), 150);
    for store in &nodes {
        soon("the same everywhere", async {
            while whole(&**store, LOG).await.expect("there") != all {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

async fn a_dead_nodes_logs_are_taken_over_once(engine: Engine) {
    let server = RedisServer::start(engine).await;
    let options = Options { lease: Duration::from_secs(1), ..options(&server.url()) };
    let (one, two, three) = (node(&options).await, node(&options).await, node(&options).await);
    let plan = Bytes::from_static(b"\0how to go on");
    let ended = LogId(8);
    for log in [LOG, ended] {
        one.create(log, meta("a/b"), plan.clone()).await.expect("a new log");
    }
    let (_, head) = write(&*one, LOG, START, 5).await;
    one.append(ended, sealing(START, &["end"])).await.expect("accepted");
    assert_eq!(two.orphans().await, Ok(Vec::new()), "its writer lives");
    drop(one);
    let (found, others) = tokio::join!(orphans(&*two), async {
        sleep(Duration::from_secs(3)).await;
        three.orphans().await.expect("reachable")
    });
    assert_eq!((found, others), (vec![Orphan { log: LOG, head, plan: plan.clone() }], Vec::new()));
    assert_eq!(two.orphans().await, Ok(Vec::new()), "told once");
    let head = two.append(LOG, next_epoch(head, &["on"])).await.expect("accepted");
    assert_eq!(head, Position::new(1, 6));
    assert_eq!(three.check(LOG, Position::new(0, 5)).await, Ok(Ok(())));
    assert_eq!(three.check(LOG, Position::new(0, 6)).await, Ok(Err(Bad::Lost)));
    // And once more, from a node that leaves in good order.
    two.close().await.expect("reachable");
    assert_eq!(orphans(&*three).await, [Orphan { log: LOG, head, plan }]);
}

async fn of_two_writers_one_is_fenced(engine: Engine) {
    let server = RedisServer::start(engine).await;
    let (one, two) = pair(&server.url()).await;
    created(&*one, 7).await;
    let (mut written, head) = write(&*one, LOG, START, 3).await;
    let stale = |head| Err(Error::Refused(Refused::Stale { head }));
    assert_eq!(two.append(LOG, batch(head, &["x"])).await, stale(head), "it is written by another");
    let reader = reading(&one, LOG);
    let taken = two.append(LOG, next_epoch(head, &["taken"])).await.expect("a later epoch wins");
    assert_eq!(one.append(LOG, batch(head, &["y"])).await, stale(taken));
    two.append(LOG, sealing(taken, &["end"])).await.expect("accepted");
    written.extend(["taken".into(), "end".into()]);
    assert_eq!(soon("who reads at the fenced node", reader).await.expect("no panic"), written);
}

async fn what_is_disowned_is_anybodys(engine: Engine) {
    let server = RedisServer::start(engine).await;
    let (one, two) = pair(&server.url()).await;
    created(&*one, 7).await;
    let (_, head) = write(&*one, LOG, START, 2).await;
    one.disown(LOG).await.expect("reachable");
    let found: Vec<LogId> = orphans(&*two).await.into_iter().map(|orphan| orphan.log).collect();
    assert_eq!(found, [LOG]);
    assert!(one.append(LOG, batch(head, &["x"])).await.is_err());
    assert_eq!(one.orphans().await, Ok(Vec::new()));
    two.append(LOG, next_epoch(head, &["on"])).await.expect("accepted");
}

async fn claims_clocks_and_messages_are_everybodys(engine: Engine) {
    let server = RedisServer::start(engine).await;
    let (one, two) = pair(&server.url()).await;
    let long = Duration::from_secs(60);
    one.claim("k/1", "one", long).await.expect("reachable");
    assert_eq!(two.claimed("k/1").await, Ok(Some("one".into())));
    assert_eq!(two.list("k").await, Ok(vec![("k/1".into(), "one".into())]));
    one.advance("c", 3_600_000_000).await.expect("reachable");
    assert!(two.advance("c", 0).await.expect("reachable") > Duration::from_secs(3_000));
    let mut heard = two.subscribe("t").await.expect("reachable");
    one.publish("t", Bytes::from_static(b"hello")).await.expect("reachable");
    assert_eq!(soon("a message", heard.recv()).await, Ok(Bytes::from_static(b"hello")));
}

/// Through the whole server: started at one node, watched at another while it runs, replayed after its end.
async fn any_node_serves_any_stream(engine: Engine) {
    let redis = RedisServer::start(engine).await;
    let config = format!("[store]\nengine = \"redis\"\nurl = \"{}\"\n", redis.url());
    let (one, two) = (Server::new(&config).await, Server::new(&config).await);
    let id = one.start(&serde_json::json!({"model": "demo-fast", "input": "Hi"})).await;
    let live = two.replay(&id).await;
    assert_eq!(live.last().map(|event| event.event.as_str()), Some("done"));
    let ended = one.ended(&id).await;
    assert_eq!((&ended["status"], ended["text"].as_str().is_some()), (&"completed".into(), true));
    assert_eq!(two.json(&format!("/v1/streams/{id}")).await["text"], ended["text"]);
    assert_eq!(one.replay(&id).await, live);
    one.finish().await;
    two.finish().await;
}
