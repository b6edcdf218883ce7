//! One server that fails: cut connections, standing still, full, read-only, empty, gone.

use std::sync::Arc;
use std::time::Duration;

use relaystream::log::{Bad, LogId, Position, Refused};
use relaystream::store::redis::Options;
use relaystream::store::{Error, Store};
use tokio::time::{Instant, sleep};

use super::{LOG, pair, reading, whole, write};
use crate::harness::redis::{Engine, RedisServer, healthy, node, on_each_engine, options};
use crate::harness::{eventually, soon};
use crate::store_contract::{START, batch, created, sealing, texts};

on_each_engine! {
    cut_pushes_lose_nothing,
    a_full_server_takes_endings_only,
    a_read_only_server_is_waited_for,
    an_emptied_server_gets_back_what_runs,
    a_caller_that_leaves_half_way_leaves_nothing_half_done,
}

/// The contract's bound, with room for a loaded machine.
const SOON: Duration = Duration::from_secs(5 + 4);

/// Cuts connections of a kind again and again while something is done.
async fn while_cutting<T>(server: &RedisServer, kind: &str, done: impl Future<Output = T>) -> T {
    let cutting = async {
        loop {
            sleep(Duration::from_millis(100)).await;
            server.run::<i64>(&format!("CLIENT KILL TYPE {kind} SKIPME yes")).await.expect("reachable");
        }
    };
    tokio::select! {
        done = done => done,
        () = cutting => unreachable!("it never ends"),
    }
}

async fn cut_pushes_lose_nothing(engine: Engine) {
    let server = RedisServer::start(engine).await;
    let (one, two) = pair(&server.url()).await;
    created(&*one, 7).await;
    let reader = reading(&two, LOG);
    let written = while_cutting(&server, "pubsub", async {
        let (mut head, mut written) = (START, Vec::new());
        for _ in 0..40 {
            let (more, moved) = write(&*one, LOG, head, 5).await;
            (head, _) = (moved, written.extend(more));
            sleep(Duration::from_millis(10)).await;
        }
        one.append(LOG, sealing(head, &["end"])).await.expect("accepted");
        written.push("end".to_owned());
        written
    })
    .await;
    assert_eq!(soon("the reader", reader).await.expect("no panic"), written);
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_commands_are_repeated_and_never_doubled() {
    let server = RedisServer::start(Engine::Redis).await;
    let (one, two) = pair(&server.url()).await;
    created(&*one, 7).await;
    let (written, _) = while_cutting(&server, "normal", async {
        let (mut head, mut written) = (START, Vec::new());
        for _ in 0..10 {
            let (more, moved) = write(&*one, LOG, head, 20).await;
            (head, _) = (moved, written.extend(more));
            sleep(Duration::from_millis(10)).await;
        }
        (written, head)
    })
    .await;
    assert_eq!(written.len(), 200);
    for store in [&one, &two] {
        // Cut often enough, no canary came through.
        healthy(store, true).await;
        assert_eq!(soon("a reader", whole(&**store, LOG)).await.as_ref(), Ok(&written));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_is_told_of_and_waited_for() {
    let server = RedisServer::start(Engine::Redis).await;
    let (one, two) = pair(&server.url()).await;
    created(&*one, 7).await;
    let (_, head) = write(&*one, LOG, START, 3).await;
    let ended = created(&*one, 8).await;
    one.append(ended, sealing(START, &["end"])).await.expect("accepted");
    whole(&*two, LOG).await.expect("there");
    whole(&*two, ended).await.expect("there");
    server.signal("STOP");
    let stopped = Instant::now();
    healthy(&one, false).await;
    healthy(&two, false).await;
    assert!(stopped.elapsed() < SOON, "red only after {:?}", stopped.elapsed());
    assert!(matches!(one.health(), Err(Error::Unavailable(_))));
    assert!(
        matches!(two.read(LOG, START, 1).await, Err(Error::Unavailable(_))),
        "nobody knows whether it is true"
    );
    assert!(whole(&*two, ended).await.is_ok(), "it cannot have changed");
    let waiting = tokio::spawn({
        let (one, two) = (one.clone(), two.clone());
        async move {
            let (appended, seen) =
                tokio::join!(one.append(LOG, batch(head, &["late"])), two.changed(LOG, head));
            seen.expect("who reads goes on waiting");
            appended
        }
    });
    sleep(Duration::from_millis(500)).await;
    assert!(!waiting.is_finished());
    server.signal("CONT");
    let going = Instant::now();
    healthy(&one, true).await;
    healthy(&two, true).await;
    assert!(going.elapsed() < SOON, "green only after {:?}", going.elapsed());
    let head = soon("the append", waiting).await.expect("no panic").expect("accepted");
    assert_eq!(head, Position::new(0, 4));
    assert_eq!(texts(&two.read(LOG, Position::new(0, 3), 1).await.expect("there")), ["late"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_away_ends_what_waits() {
    let mut server = RedisServer::start(Engine::Redis).await;
    let options = Options { patience: Duration::from_secs(1), ..options(&server.url()) };
    let one = node(&options).await;
    created(&*one, 7).await;
    let (_, head) = write(&*one, LOG, START, 3).await;
    server.kill();
    let refused = soon("an end", one.append(LOG, batch(head, &["x"]))).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    healthy(&one, false).await;
    assert!(matches!(one.claimed("k").await, Err(Error::Unavailable(_))));
}

async fn a_full_server_takes_endings_only(engine: Engine) {
    let server = RedisServer::start(engine).await;
    let one = node(&options(&server.url())).await;
    created(&*one, 7).await;
    let (_, head) = write(&*one, LOG, START, 3).await;
    server.run::<()>("CONFIG SET maxmemory 1").await.expect("a limit");
    assert_eq!(one.append(LOG, batch(head, &["x"])).await, Err(Error::Full));
    assert_eq!(
        one.create(LogId(8), crate::store_contract::meta("a/b"), bytes::Bytes::new()).await,
        Err(Error::Full)
    );
    eventually("the news", || one.health() == Err(Error::Full)).await;
    let end = one.append(LOG, sealing(head, &["end"])).await.expect("an ending is always accepted");
    assert_eq!(whole(&*one, LOG).await.expect("there").len() as u64, end.seq);
    server.run::<()>("CONFIG SET maxmemory 0").await.expect("no limit");
    healthy(&one, true).await;
    created(&*one, 8).await;
}

async fn a_read_only_server_is_waited_for(engine: Engine) {
    let server = RedisServer::start(engine).await;
    let one = node(&options(&server.url())).await;
    created(&*one, 7).await;
    let (mut written, head) = write(&*one, LOG, START, 3).await;
    server.run::<()>("REPLICAOF 127.0.0.1 1").await.expect("read-only");
    let writer = tokio::spawn({
        let one = one.clone();
        async move { one.append(LOG, batch(head, &["late"])).await }
    });
    sleep(Duration::from_millis(700)).await;
    assert!(!writer.is_finished());
    server.run::<()>("REPLICAOF NO ONE").await.expect("writable");
    soon("the append", writer).await.expect("no panic").expect("accepted");
    written.push("late".into());
    assert_eq!(whole(&*one, LOG).await, Ok(written));
}

async fn an_emptied_server_gets_back_what_runs(engine: Engine) {
    let server = RedisServer::start(engine).await;
    let (one, two) = pair(&server.url()).await;
    created(&*one, 7).await;
    let silent = created(&*one, 8).await;
    let over = created(&*one, 9).await;
    let (mut written, head) = write(&*one, LOG, START, 300).await;
    write(&*one, silent, START, 2).await;
    one.append(over, sealing(START, &["end"])).await.expect("accepted");
    assert_eq!(whole(&*two, LOG).await.as_ref(), Ok(&written));
    let waiting: Vec<_> = [one.clone(), two.clone()]
        .into_iter()
        .map(|store: Arc<_>| tokio::spawn(async move { store.changed(LOG, head).await }))
        .collect();
    sleep(Duration::from_millis(50)).await;
    server.run::<()>("FLUSHALL").await.expect("reachable");
    let anew = soon("the owner goes on", one.append(LOG, batch(head, &["on"]))).await.expect("accepted");
    written.push("on".into());
    assert_eq!(anew, Position::new(1, 301));
    for reader in waiting {
        let told = soon("who read the old one", reader).await.expect("no panic");
        assert_eq!(told, Err(Error::NotFound), "its place is gone");
    }
    for store in [&one, &two] {
        assert_eq!(whole(&**store, LOG).await.as_ref(), Ok(&written));
        assert_eq!(store.check(LOG, head).await, Ok(Err(Bad::Lost)));
        assert_eq!(store.check(LOG, anew).await, Ok(Ok(())));
    }
    assert_eq!(two.meta(over).await, Err(Error::NotFound), "it was only in Redis");
    // Nobody appends to this one, and yet it comes back.
    soon("the silent log", async {
        while two.check(silent, Position::new(1, 2)).await != Ok(Ok(())) {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(whole(&*two, silent).await, Ok(vec!["word 1".into(), "word 2".into()]));
}

async fn a_caller_that_leaves_half_way_leaves_nothing_half_done(engine: Engine) {
    let server = RedisServer::start(engine).await;
    let one = node(&options(&server.url())).await;
    created(&*one, 7).await;
    let (mut written, head) = write(&*one, LOG, START, 2).await;
    {
        let append = one.append(LOG, batch(head, &["left"]));
        tokio::pin!(append);
        assert!(futures_util::poll!(append).is_pending());
    }
    written.push("left".into());
    soon("what was on its way", one.changed(LOG, head)).await.expect("there");
    assert_eq!(whole(&*one, LOG).await.as_ref(), Ok(&written));
    let head = Position::new(0, 3);
    let stale = Err(Error::Refused(Refused::Stale { head }));
    assert_eq!(one.append(LOG, batch(START, &["x"])).await, stale);
    one.append(LOG, sealing(head, &["end"])).await.expect("accepted");
}
