//! What keeping logs costs: an append in each engine, and a million finished streams on the disk.
//!
//!     cargo bench --bench store -- append
//!     cargo bench --bench store -- million [COUNT [RECORDS]]
//!
//! Times are of one append: a batch of one record of 90 bytes, the answer awaited. Nothing is asserted.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use relaystream::log::{Batch, Draft, Framing, LogId, Position};
use relaystream::store::disk::{Disk, Options, Sync};
use relaystream::store::memory::{self, Memory};
use relaystream::store::{Meta, Store};

fn batch(expected: Position, records: usize, seal: bool) -> Batch {
    let payload = Bytes::from(vec![b'x'; 90]);
    let draft = Draft { kind: 2, at_ms: 0, payload, framing: Framing::Own };
    Batch { expected, epoch: 0, drafts: vec![draft; records], seal }
}

fn meta() -> Meta {
    Meta { owner: "a/b".into(), data: Bytes::from(vec![b'm'; 400]), trim_bytes: None }
}

/// So many writers, each a log of its own and one append after the other, on so many threads.
fn appends(name: &str, store: &Arc<dyn Store>, threads: usize, writers: usize, each: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).build().unwrap();
    let began = Instant::now();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..writers {
            let store = store.clone();
            tasks.spawn(async move {
                let log = LogId(n as u128 + 1);
                store.create(log, meta(), Bytes::new()).await.unwrap();
                let mut head = Position::START;
                for _ in 0..each {
                    head = store.append(log, batch(head, 1, false)).await.unwrap();
                    if writers > 1 {
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
        tasks.join_all().await;
    });
    let all = began.elapsed().as_secs_f64() / (writers * each) as f64;
    println!("{name:28} {threads} threads {writers:5} logs  {:8.2} µs an append", all * 1e6);
}

fn append() {
    for (threads, writers, each) in [(1, 1, 100_000), (1, 1_000, 100), (2, 1_000, 100)] {
        let options = memory::Options { replay_window: Duration::ZERO, total_bytes: 0, user_bytes: 0 };
        let memory: Arc<dyn Store> = Arc::new(Memory::new(options));
        appends("memory", &memory, threads, writers, each);
        for (name, sync) in [
            ("disk os, inline", Sync::Os),
            ("disk interval:20, inline", Sync::Interval(Duration::from_millis(20))),
            ("disk always, by a thread", Sync::Always),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let each = if sync == Sync::Always { each / 50 + 1 } else { each };
            let options = Options { sync, ..Options::new(folder.path()) };
            let disk: Arc<dyn Store> = Arc::new(Disk::open(&options).unwrap());
            appends(name, &disk, threads, writers, each);
        }
        // The same write inline and handed to the journal's thread, where a sync costs nothing.
        for (name, sync) in [("tmpfs, inline", Sync::Os), ("tmpfs, handed to a thread", Sync::Always)] {
            let folder = tempfile::tempdir_in("/dev/shm").unwrap();
            let options = Options { sync, ..Options::new(folder.path()) };
            let disk: Arc<dyn Store> = Arc::new(Disk::open(&options).unwrap());
            appends(name, &disk, threads, writers, each);
        }
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

async fn fill(path: &Path, count: u128, records: usize) {
    let store = Disk::open(&Options::new(path)).unwrap();
    let began = Instant::now();
    for n in 1..=count {
        store.create(id(n), meta(), Bytes::new()).await.unwrap();
        store.append(id(n), batch(Position::START, records, true)).await.unwrap();
        if n % 1_000 == 0 {
            store.sweep();
        }
    }
    let took = began.elapsed();
    // No server ends streams as fast as this: the last of them are put away as they are a few seconds after their end.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        store.sweep();
    }
    store.close().await.unwrap();
    println!("{count} finished streams of {records} records written in {:.1} s", took.as_secs_f64());
}

/// As ids come: in order of time, with a random part.
fn id(n: u128) -> LogId {
    LogId(n << 80 | (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) & 0xFFFF_FFFF))
}

async fn look(path: &Path, count: u128, records: usize) {
    let before = resident_kib();
    let began = Instant::now();
    let store = Disk::open(&Options::new(path)).unwrap();
    println!("opened in {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
    println!("{} KiB more resident after the start", resident_kib().saturating_sub(before));
    let mut times = Vec::new();
    for n in 0..10_000_u128 {
        let log = id(1 + n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % count);
        let began = Instant::now();
        let page = store.read(log, Position::START, usize::MAX).await.unwrap();
        assert_eq!(page.records.len(), records);
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!("a stream read back: p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("{} KiB more resident after 10,000 of them", resident_kib().saturating_sub(before));
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let what = arguments.next().unwrap_or_default();
    let mut number =
        |default: usize| arguments.next().and_then(|number| number.parse().ok()).unwrap_or(default);
    let (count, records) = (number(1_000_000), number(10));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build().unwrap();
    match (what.as_str(), arguments.next()) {
        ("append", _) => append(),
        // In a process of its own, so that memory is what a start takes.
        ("look", Some(path)) => runtime.block_on(look(Path::new(&path), count as u128, records)),
        ("million", _) => {
            let folder = tempfile::tempdir().unwrap();
            runtime.block_on(fill(folder.path(), count as u128, records));
            let program = std::env::current_exe().unwrap();
            let arguments =
                ["look", &count.to_string(), &records.to_string(), folder.path().to_str().unwrap()];
            assert!(std::process::Command::new(program).args(arguments).status().unwrap().success());
        }
        _ => println!("append, or million [COUNT [RECORDS]]"),
    }
}
