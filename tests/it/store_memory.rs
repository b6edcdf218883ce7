//! The memory store: the contract, and what it promises beyond: who goes by age and by bytes, and who never.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use relaystream::log::{LogId, Position};
use relaystream::store::memory::{Memory, Options};
use relaystream::store::{Error, Meta, Store};
use tokio::time::{Instant, sleep};

use crate::store_contract::{PATIENCE, START, batch, bounded, contract, created, meta, sealing};

fn memory(replay_window: Duration, total_bytes: u64, user_bytes: u64) -> Arc<Memory> {
    Arc::new(Memory::new(Options { replay_window, total_bytes, user_bytes }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn memory_keeps_the_contract() {
    contract(|| memory(Duration::ZERO, 0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn memory_keeps_the_contract_with_limits_far_away() {
    contract(|| memory(Duration::from_secs(3600), 1 << 30, 1 << 28)).await;
}

#[tokio::test]
async fn memory_is_bounded() {
    bounded(|total, user| memory(Duration::from_secs(3600), total, user)).await;
}

#[tokio::test]
async fn memory_lets_finished_logs_go_by_age_and_never_running_ones() {
    let store = memory(Duration::from_millis(150), 1 << 20, 0);
    let (running, room) = (created(&*store, 1).await, LogId(3));
    store
        .create(room, Meta { trim_bytes: Some(1 << 16), ..meta("a/b") }, Bytes::new())
        .await
        .expect("a new log");
    let head = store.append(running, batch(START, &["on its way"])).await.expect("accepted");
    store.append(room, batch(START, &["hello"])).await.expect("accepted");
    let kept = store.held();
    let finished = created(&*store, 2).await;
    store.append(finished, sealing(START, &["done"])).await.expect("accepted");
    assert_eq!(store.read(finished, START, 100).await.expect("replayable").records.len(), 1);
    let began = Instant::now();
    while store.held() > kept {
        assert!(began.elapsed() < PATIENCE, "the ledger was not told");
        sleep(Duration::from_millis(20)).await;
        store.sweep();
    }
    assert!(began.elapsed() >= Duration::from_millis(100), "gone before its window was over");
    assert_eq!(store.read(finished, START, 100).await.err(), Some(Error::NotFound));
    assert_eq!(store.check(finished, Position::new(0, 1)).await, Err(Error::NotFound));
    // Reading does not lengthen the window of a finished log; a running one has none.
    assert_eq!(store.append(running, batch(head, &["and on"])).await, Ok(Position::new(0, 2)));
    assert_eq!(store.read(room, START, 100).await.expect("rooms stay").records.len(), 1);
    store.remove(running).await.expect("forgotten");
    store.remove(room).await.expect("forgotten");
    assert_eq!(store.held(), 0);
}

#[tokio::test]
async fn memory_counts_each_owner_apart() {
    let store = memory(Duration::from_secs(3600), 0, 3_000);
    let text = "x".repeat(700);
    for (id, owner) in [(1, "t/greedy"), (2, "t/modest")] {
        store.create(LogId(id), meta(owner), Bytes::new()).await.expect("a new log");
    }
    let mut head = START;
    while let Ok(moved) = store.append(LogId(1), batch(head, &[&text])).await {
        head = moved;
        assert!(head.seq < 20, "there is no limit");
    }
    assert_eq!(store.append(LogId(1), batch(head, &[&text])).await, Err(Error::Full));
    store.append(LogId(2), batch(START, &[&text])).await.expect("another's bytes are not ours");
    // Its own finished logs make room for an owner, those of others do not.
    store.append(LogId(2), sealing(Position::new(0, 1), &[&text])).await.expect("accepted");
    assert_eq!(store.append(LogId(1), batch(head, &[&text])).await, Err(Error::Full));
    store.append(LogId(1), sealing(head, &[])).await.expect("an ending");
    store.create(LogId(3), meta("t/greedy"), Bytes::new()).await.expect("a new log");
    store.append(LogId(3), batch(START, &[&text])).await.expect("in place of its own finished one");
    assert_eq!(store.meta(LogId(1)).await, Err(Error::NotFound));
    assert!(store.meta(LogId(2)).await.is_ok());
}
