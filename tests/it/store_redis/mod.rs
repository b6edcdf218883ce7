//! The Redis engine before real servers, Redis and Valkey: the contract suite, several nodes, and every way in which they
//! fail. What does not depend on whose server it is, and takes long, runs on Redis only.

mod access;
mod cluster;
mod contract;
mod failover;
mod failures;
mod nodes;

use std::sync::Arc;

use relaystream::log::{Batch, LogId, Position, Record};
use relaystream::store::redis::Redis;
use relaystream::store::{Error, Store};
use tokio::task::JoinHandle;

use crate::harness::redis::{node, options};
use crate::store_contract::{START, batch, text, texts};

const LOG: LogId = LogId(7);

/// Two nodes over one Redis.
async fn pair(url: &str) -> (Arc<Redis>, Arc<Redis>) {
    let options = options(url);
    (node(&options).await, node(&options).await)
}

/// Reads along in a task of its own.
fn reading(store: &Arc<Redis>, log: LogId) -> JoinHandle<Vec<String>> {
    let store = store.clone();
    tokio::spawn(async move { read_along(&*store, log).await.iter().map(text).collect() })
}

/// All that the log holds.
async fn whole(store: &dyn Store, log: LogId) -> Result<Vec<String>, Error> {
    store.read(log, START, usize::MAX).await.map(|page| texts(&page))
}

/// Appends `count` records, each by itself, and returns their texts and the head.
async fn write(store: &dyn Store, log: LogId, mut head: Position, count: usize) -> (Vec<String>, Position) {
    let mut written = Vec::new();
    for _ in 0..count {
        let text = format!("word {}", head.seq + 1);
        head = store.append(log, batch(head, &[&text])).await.expect("accepted");
        written.push(text);
    }
    (written, head)
}

fn next_epoch(head: Position, texts: &[&str]) -> Batch {
    Batch { epoch: head.epoch + 1, ..batch(head, texts) }
}

/// Reads along until the log is closed.
async fn read_along(store: &dyn Store, log: LogId) -> Vec<Record> {
    let (mut at, mut seen) = (START, Vec::new());
    loop {
        store.changed(log, at).await.expect("there");
        let page = store.read(log, at, 400).await.expect("there");
        seen.extend(page.records);
        at = seen.last().map_or(at, |record| record.position);
        if page.closed && at == page.head {
            return seen;
        }
    }
}
