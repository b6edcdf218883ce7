//! What every store promises beside logs: claims, clocks, messages, ownership. A part of the contract suite.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use relaystream::log::LogId;
use relaystream::store::{Claim, Meta, Store};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::store_contract::{START, created, meta, sealing, soon};

pub(crate) async fn coordination(make: impl Fn() -> Arc<dyn Store>) {
    claims_are_held_for_their_time(make()).await;
    keys_are_listed(&*make()).await;
    clocks_run_ahead_and_come_back(make()).await;
    messages_reach_who_is_there(&*make()).await;
    a_log_that_runs_here_is_no_orphan(&*make()).await;
}

async fn claims_are_held_for_their_time(store: Arc<dyn Store>) {
    let long = Duration::from_secs(60);
    assert_eq!(store.claimed("k").await, Ok(None));
    assert_eq!(store.claim("k", "one", long).await, Ok(Claim::Won));
    assert_eq!(store.claim("k", "two", long).await, Ok(Claim::Held("one".into())));
    assert_eq!(store.claim("other", "two", long).await, Ok(Claim::Won), "keys do not touch");
    assert_eq!(store.claimed("k").await, Ok(Some("one".into())));
    store.release("k", "two").await.expect("somebody else's value gives nothing up");
    assert_eq!(store.claimed("k").await, Ok(Some("one".into())));
    store.release("k", "one").await.expect("released");
    store.release("k", "one").await.expect("again");
    assert_eq!(store.claimed("k").await, Ok(None));
    assert_eq!(store.claim("k", "", Duration::from_millis(60)).await, Ok(Claim::Won));
    assert_eq!(store.claim("k", "late", long).await, Ok(Claim::Held(String::new())));
    sleep(Duration::from_millis(90)).await;
    assert_eq!(store.claimed("k").await, Ok(None), "its time is over");
    store.sweep();
    assert_eq!(store.claim("k", "next", long).await, Ok(Claim::Won));
    let mut racers = JoinSet::new();
    for n in 0..16 {
        let store = store.clone();
        racers.spawn(async move { store.claim("race", &n.to_string(), long).await });
    }
    let mut outcomes = Vec::new();
    while let Some(outcome) = racers.join_next().await {
        outcomes.push(outcome.expect("no panic").expect("reachable"));
    }
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Claim::Won).count(), 1);
    let winner = store.claimed("race").await.expect("reachable").expect("held");
    let held = |outcome: &&Claim| **outcome == Claim::Held(winner.clone());
    assert_eq!(outcomes.iter().filter(held).count(), 15);
}

async fn keys_are_listed(store: &dyn Store) {
    let long = Duration::from_secs(60);
    for (key, value, ttl) in [
        ("a/2", "two", long),
        ("a/1", "one", long),
        ("a/3", "gone", Duration::from_millis(20)),
        ("a", "not below", long),
        ("ab/1", "beside", long),
        ("a/*[?]", "not a pattern", long),
    ] {
        store.claim(key, value, ttl).await.expect("reachable");
    }
    sleep(Duration::from_millis(60)).await;
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let all = pairs(&[("a/*[?]", "not a pattern"), ("a/1", "one"), ("a/2", "two")]);
    assert_eq!(store.list("a/").await, Ok(all));
    assert_eq!(store.list("a/*").await, Ok(pairs(&[("a/*[?]", "not a pattern")])));
    assert_eq!(store.list("b").await, Ok(Vec::new()));
    store.release("a/1", "one").await.expect("reachable");
    assert_eq!(store.list("a/1").await, Ok(Vec::new()));
}

async fn clocks_run_ahead_and_come_back(store: Arc<dyn Store>) {
    let hour = 3_600_000_000;
    let close = |ahead: Duration, expected: i64| {
        let slack = Duration::from_secs(30);
        let expected = Duration::from_micros(expected.unsigned_abs());
        assert!(ahead <= expected && ahead + slack > expected, "{ahead:?} is not {expected:?}");
    };
    assert_eq!(store.advance("c", 0).await, Ok(Duration::ZERO));
    close(store.advance("c", hour).await.expect("reachable"), hour);
    close(store.advance("c", hour).await.expect("reachable"), 2 * hour);
    close(store.advance("c", -hour).await.expect("reachable"), hour);
    assert_eq!(store.advance("d", 0).await, Ok(Duration::ZERO), "keys do not touch");
    assert_eq!(store.advance("c", -5 * hour).await, Ok(Duration::ZERO), "nobody saves up");
    close(store.advance("c", hour).await.expect("reachable"), hour);
    let mut racers = JoinSet::new();
    for _ in 0..16 {
        let store = store.clone();
        racers.spawn(async move { store.advance("race", hour).await });
    }
    while let Some(outcome) = racers.join_next().await {
        outcome.expect("no panic").expect("reachable");
    }
    close(store.advance("race", 0).await.expect("reachable"), 16 * hour);
}

async fn messages_reach_who_is_there(store: &dyn Store) {
    let message = |text: &'static str| Bytes::from_static(text.as_bytes());
    store.publish("t", message("nobody hears")).await.expect("reachable");
    let mut one = store.subscribe("t").await.expect("reachable");
    let mut two = store.subscribe("t").await.expect("reachable");
    let mut other = store.subscribe("t/2").await.expect("reachable");
    for text in ["a", "b"] {
        store.publish("t", message(text)).await.expect("reachable");
    }
    store.publish("t/2", message("c")).await.expect("reachable");
    for receiver in [&mut one, &mut two] {
        assert_eq!(soon("a message", receiver.recv()).await, Ok(message("a")));
        assert_eq!(soon("a message", receiver.recv()).await, Ok(message("b")));
    }
    assert_eq!(soon("a message", other.recv()).await, Ok(message("c")));
    drop((one, two));
    store.publish("t", message("nobody hears")).await.expect("reachable");
    let mut late = store.subscribe("t").await.expect("reachable");
    store.publish("t", message("d")).await.expect("reachable");
    assert_eq!(soon("a message", late.recv()).await, Ok(message("d")));
}

async fn a_log_that_runs_here_is_no_orphan(store: &dyn Store) {
    let log = created(store, 1).await;
    let room = Meta { trim_bytes: Some(1 << 16), ..meta("a/b") };
    store.create(LogId(2), room, Bytes::new()).await.expect("a new log");
    assert_eq!(store.orphans().await, Ok(Vec::new()));
    store.append(log, sealing(START, &["x"])).await.expect("accepted");
    assert_eq!(store.orphans().await, Ok(Vec::new()));
    assert_eq!(store.health(), Ok(()));
}
