//! `kill -9` at random moments under load: what was acknowledged is there, and nothing that was never said.
//!
//! The child is this test binary, asked for one test. It says on its standard output what the store has accepted; the
//! parent kills it, opens the directory, and holds it to that.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use relaystream::log::{Batch, LogId, Position};
use relaystream::store::disk::{Disk, Options, Sync};
use relaystream::store::{Error, Meta, Store};

use crate::seed::{Random, Seed};
use crate::store_contract::{START, draft, meta};

const ROUNDS: usize = 100;
const SYNCS: [Sync; 3] = [Sync::Os, Sync::Interval(Duration::from_millis(2)), Sync::Always];
const TRIM: usize = 4_096;

fn options(path: &Path, sync: Sync) -> Options {
    let small = Options { segment_bytes: 32_768, archive_bytes: 65_536, ..Options::new(path) };
    Options { sync, ..small }
}

/// What a log says at a place: told by its name, so that any other text is noticed.
fn text(log: LogId, seq: u64) -> String {
    format!("{log}:{seq} {}", "x".repeat((log.0 % 100) as usize + (seq % 100) as usize))
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Writes some batches to a log and seals it, removes it, or leaves it.
async fn write(store: &Disk, log: LogId, mut random: Random, mut head: Position, epoch: u16) {
    for _ in 0..random.below(30) {
        let batch = next(log, head, epoch, 1 + random.below(4));
        head = store.append(log, batch).await.unwrap();
        say(&format!("at {log} {}", head.seq));
        if random.chance(30) {
            tokio::task::yield_now().await;
        }
    }
    if random.chance(60) {
        let last = Batch { seal: true, ..next(log, head, epoch, 1) };
        head = store.append(log, last).await.unwrap();
        say(&format!("sealed {log} {}", head.seq));
    }
    if random.chance(20) {
        say(&format!("removing {log}"));
        store.remove(log).await.unwrap();
        say(&format!("removed {log}"));
    }
}

fn next(log: LogId, head: Position, epoch: u16, count: usize) -> Batch {
    let drafts = (1..=count as u64).map(|n| draft(&text(log, head.seq + n))).collect();
    Batch { expected: head, epoch, drafts, seal: false }
}

async fn work(path: &Path, sync: Sync, seed: u64) {
    let store = Arc::new(Disk::open(&options(path, sync)).unwrap());
    let mut random = Random::new(seed);
    let mut tasks = tokio::task::JoinSet::new();
    for orphan in store.orphans().await.unwrap() {
        assert_eq!(orphan.plan, orphan.log.to_string().as_bytes(), "the plan is the log's own");
        let (store, random) = (store.clone(), random.fork());
        tasks.spawn(async move {
            write(&store, orphan.log, random, orphan.head, orphan.head.epoch + 1).await;
        });
    }
    for task in 0..8 {
        let (store, mut random) = (store.clone(), random.fork());
        tasks.spawn(async move {
            for n in 0.. {
                let log = LogId(u128::from(seed) << 64 | task << 32 | n);
                let plan = Bytes::from(log.to_string());
                store.create(log, meta("a/b"), plan).await.unwrap();
                say(&format!("at {log} 0"));
                write(&store, log, random.fork(), START, 0).await;
                let key = format!("key {log}");
                store.claim(&key, "held", Duration::from_secs(600)).await.unwrap();
                say(&format!("claimed {log} 0"));
                store.sweep();
            }
        });
    }
    let (room, store) = (LogId(u128::from(seed) << 64 | u128::from(u64::MAX)), store.clone());
    tasks.spawn(async move {
        let meta = Meta { trim_bytes: Some(TRIM), ..meta("") };
        store.create(room, meta, Bytes::new()).await.unwrap();
        let mut head = START;
        loop {
            head = store.append(room, next(room, head, 0, 1)).await.unwrap();
            say(&format!("at {room} {}", head.seq));
            tokio::task::yield_now().await;
        }
    });
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

/// The child: a process of its own for the test below. By itself it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_child_that_is_killed() {
    let Ok(order) = std::env::var("RELAYSTREAM_TEST_STORE") else { return };
    let mut parts = order.splitn(3, ' ');
    let mut part = || parts.next().unwrap();
    let (sync, seed) = (part().parse::<usize>().unwrap(), part().parse().unwrap());
    work(Path::new(part()), SYNCS[sync], seed).await;
}

/// What a child has said about a log.
#[derive(Default, Clone, Copy)]
struct Said {
    seq: u64,
    sealed: bool,
    removing: bool,
    removed: bool,
    claimed: bool,
}

/// Lets a child work until it has said so much, kills it, and hears it out.
fn round(path: &Path, sync: usize, seed: u64, lines: usize, said: &mut BTreeMap<LogId, Said>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store_disk_kill::the_child_that_is_killed", "--nocapture"])
        .env("RELAYSTREAM_TEST_STORE", format!("{sync} {seed} {}", path.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut killed = false;
    let mut heard = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        let (Some(what), Some(log)) = (words.next(), words.next()) else { continue };
        let Ok(log) = log.parse::<LogId>() else { continue };
        let seq = words.next().and_then(|seq| seq.parse().ok()).unwrap_or(0);
        let about = said.entry(log).or_default();
        match what {
            "at" => about.seq = about.seq.max(seq),
            "sealed" => (about.seq, about.sealed) = (seq, true),
            "removing" => about.removing = true,
            "removed" => about.removed = true,
            "claimed" => about.claimed = true,
            // A line that the kill cut off.
            _ => continue,
        }
        heard += 1;
        if heard >= lines && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    let status = child.wait().unwrap();
    assert!(killed, "the child ended by itself: {status}");
}

async fn verify(path: &Path, said: &BTreeMap<LogId, Said>) {
    let store = Disk::open(&options(path, Sync::Os)).unwrap();
    for (log, said) in said {
        let page = match store.read(*log, START, usize::MAX).await {
            Ok(page) => page,
            Err(Error::NotFound) if said.removing => continue,
            Err(error) => panic!("{log}, which was at {}: {error}", said.seq),
        };
        assert!(!said.removed, "{log} came back");
        assert!(page.head.seq >= said.seq, "{log} lost its end: {:?} of {}", page.head, said.seq);
        assert!(page.closed || !said.sealed, "{log} was sealed");
        let first = page.records.first().map_or(page.head.seq + 1, |record| record.position.seq);
        for (record, seq) in page.records.iter().zip(first..) {
            assert_eq!(record.position.seq, seq);
            assert_eq!(record.draft.payload, text(*log, seq), "{log} says something else");
        }
        let room = store.meta(*log).await.unwrap().trim_bytes.is_some();
        assert!(first == 1 || room, "{log} lost its beginning");
        if said.claimed {
            assert_eq!(store.claimed(&format!("key {log}")).await, Ok(Some("held".into())));
        }
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9_at_any_moment() {
    let seed = Seed::of_this_run();
    let mut random = seed.random();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for sync in 0..SYNCS.len() {
        // Some rounds on one directory, one after the other: crashes upon crashes.
        let (mut folder, mut said) = (tempfile::tempdir().unwrap(), BTreeMap::new());
        for n in 0..ROUNDS / SYNCS.len() {
            if n % 12 == 0 {
                (folder, said) = (tempfile::tempdir().unwrap(), BTreeMap::new());
            }
            let most = *random.pick(&[40, 1_500]);
            let lines = 1 + random.below(most);
            round(folder.path(), sync, random.next(), lines, &mut said);
            runtime.block_on(verify(folder.path(), &said));
        }
    }
}
