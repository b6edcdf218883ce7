//! A server that comes back, or whose replica takes its place, without the last of what it had accepted.

use std::sync::Arc;
use std::time::Duration;

use relaystream::log::Position;
use relaystream::store::Store;
use relaystream::store::redis::Redis;
use tokio::time::sleep;

use super::{LOG, pair, reading, whole, write};
use crate::harness::redis::{Engine, RedisServer, Watched, healthy, node, on_each_engine, options};
use crate::harness::soon;
use crate::store_contract::{START, batch, created, sealing};

on_each_engine! {
    a_lost_tail_is_put_back_under_the_same_ids,
    a_lost_seal_is_put_back,
    a_server_that_is_loading_is_waited_for,
    a_sentinel_names_the_new_master,
}

/// The owner, the first of the two, goes on with record `next`, and everybody has all that was written before.
async fn put_back(nodes: [&Arc<Redis>; 2], mut written: Vec<String>, head: Position, next: u64) {
    let going_on = nodes[0].append(LOG, batch(head, &["on"]));
    let head = soon("the owner goes on", going_on).await.expect("accepted");
    written.push("on".into());
    assert_eq!(head, Position::new(0, next), "the same text under the same ids");
    for store in nodes {
        soon("everybody has it again", async {
            while whole(&**store, LOG).await.as_ref() != Ok(&written) {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        healthy(store, true).await;
    }
}

async fn a_lost_tail_is_put_back_under_the_same_ids(engine: Engine) {
    let mut server = RedisServer::start(engine).await;
    let (one, two) = pair(&server.url()).await;
    created(&*one, 7).await;
    let (mut written, head) = write(&*one, LOG, START, 20).await;
    server.run::<()>("SAVE").await.expect("saved");
    let (tail, head) = write(&*one, LOG, head, 300).await;
    written.extend(tail);
    assert_eq!(whole(&*two, LOG).await.as_ref(), Ok(&written));
    server.kill();
    server.restart(&[]);
    put_back([&one, &two], written, head, 321).await;
}

async fn a_lost_seal_is_put_back(engine: Engine) {
    let mut server = RedisServer::start(engine).await;
    let options = options(&server.url());
    let one = node(&options).await;
    created(&*one, 7).await;
    let (mut written, head) = write(&*one, LOG, START, 3).await;
    server.run::<()>("SAVE").await.expect("saved");
    let (tail, head) = write(&*one, LOG, head, 3).await;
    one.append(LOG, sealing(head, &["end"])).await.expect("accepted");
    written.extend(tail);
    written.push("end".into());
    server.kill();
    server.restart(&[]);
    healthy(&one, true).await;
    let two = node(&options).await;
    soon("the end", async {
        while !two.read(LOG, START, 1).await.expect("there").closed {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(whole(&*two, LOG).await, Ok(written));
}

async fn a_server_that_is_loading_is_waited_for(engine: Engine) {
    let mut server = RedisServer::start(engine).await;
    let one = node(&options(&server.url())).await;
    for log in 1..=20 {
        created(&*one, log).await;
    }
    let (mut written, head) = write(&*one, LOG, START, 5).await;
    server.run::<()>("SAVE").await.expect("saved");
    server.kill();
    // A tenth of a second for every key, and an answer to those who ask meanwhile.
    server.restart(&["--key-load-delay", "100000", "--loading-process-events-interval-bytes", "1024"]);
    soon("an append", one.append(LOG, batch(head, &["on"]))).await.expect("accepted");
    written.push("on".into());
    assert_eq!(whole(&*one, LOG).await, Ok(written));
}

async fn a_sentinel_names_the_new_master(engine: Engine) {
    let mut servers = Watched::start(engine).await;
    let (one, two) = pair(&servers.url()).await;
    created(&*one, 7).await;
    let reader = reading(&two, LOG);
    let (mut written, head) = write(&*one, LOG, START, 50).await;
    servers.in_step().await;
    servers.master.kill();
    let (tail, head) = soon("the new master", write(&*one, LOG, head, 50)).await;
    written.extend(tail);
    one.append(LOG, sealing(head, &["end"])).await.expect("accepted");
    written.push("end".into());
    healthy(&one, true).await;
    assert_eq!(soon("the reader", reader).await.expect("no panic"), written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_the_new_master_never_had_is_put_back_under_the_same_ids() {
    let mut servers = Watched::start(Engine::Redis).await;
    let (one, two) = pair(&servers.url()).await;
    created(&*one, 7).await;
    let (mut written, head) = write(&*one, LOG, START, 20).await;
    servers.in_step().await;
    servers.part().await;
    let (tail, head) = write(&*one, LOG, head, 100).await;
    written.extend(tail);
    assert_eq!(whole(&*two, LOG).await.as_ref(), Ok(&written), "it was seen");
    servers.master.kill();
    put_back([&one, &two], written, head, 121).await;
}
