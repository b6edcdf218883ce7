//! Disks that fail: full, broken, torn, with flipped bits. Whatever happens, a log says what was written or says that it
//! cannot; never anything else, and never another log's.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaystream::log::{LogId, Position};
use relaystream::store::disk::files::{Hook, Operation};
use relaystream::store::disk::{Disk, Options, Sync};
use relaystream::store::{Error, Store};
use tokio::time::sleep;

use crate::store_contract::{START, batch, created, sealing, soon};
use crate::store_disk::{Disks, open};

/// A disk whose faults can be switched.
#[derive(Default)]
struct Faults {
    /// Bytes that still fit; less than none: no limit.
    room: AtomicI64,
    write: AtomicBool,
    sync: AtomicBool,
    truncate: AtomicBool,
    syncs: AtomicU64,
    /// A write passes in two parts.
    short: AtomicBool,
}

impl Faults {
    fn new() -> Arc<Faults> {
        Arc::new(Faults { room: (-1).into(), ..Faults::default() })
    }

    fn hook(self: &Arc<Faults>) -> Option<Hook> {
        let faults = self.clone();
        Some(Arc::new(move |operation| faults.decide(operation)))
    }

    fn decide(&self, operation: Operation) -> io::Result<usize> {
        let broken = || io::Error::from_raw_os_error(5);
        match operation {
            Operation::Write(_) if self.write.load(Relaxed) => Err(broken()),
            Operation::Write(length) => {
                let room = self.room.load(Relaxed);
                if room == 0 {
                    return Err(ErrorKind::StorageFull.into());
                }
                let passes = if self.short.load(Relaxed) { length.div_ceil(2) } else { length };
                let passes = if room < 0 { passes } else { passes.min(room as usize) };
                if room > 0 {
                    self.room.fetch_sub(passes as i64, Relaxed);
                }
                Ok(passes)
            }
            Operation::Sync => {
                self.syncs.fetch_add(1, Relaxed);
                if self.sync.load(Relaxed) { Err(broken()) } else { Ok(0) }
            }
            Operation::Truncate(_) if self.truncate.load(Relaxed) => Err(broken()),
            // The reserve is given up.
            Operation::Truncate(0) if self.room.load(Relaxed) >= 0 => {
                self.room.fetch_add(1 << 20, Relaxed);
                Ok(0)
            }
            Operation::Truncate(_) | Operation::Remove => Ok(0),
        }
    }
}

async fn texts(store: &Disk, log: LogId) -> Vec<String> {
    let page = store.read(log, START, usize::MAX).await.unwrap();
    page.records.iter().map(|record| String::from_utf8(record.draft.payload.to_vec()).unwrap()).collect()
}

async fn healthy(store: &Disk) {
    soon("health", async {
        while store.health().is_err() {
            store.sweep();
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_full_disk_refuses_what_does_not_fit_keeps_endings_and_recovers() {
    for sync in [Sync::Os, Sync::Always] {
        let (disks, faults) = (Disks::new(), Faults::new());
        let options = Options { sync, hook: faults.hook(), ..disks.options() };
        let store = open(&options);
        let (ending, other) = (created(&*store, 1).await, created(&*store, 2).await);
        let head = store.append(ending, batch(START, &["before"])).await.unwrap();
        store.append(other, batch(START, &["before"])).await.unwrap();
        faults.room.store(50, Relaxed);
        assert_eq!(store.append(ending, batch(head, &["does not fit"])).await, Err(Error::Full));
        assert_eq!(store.health(), Err(Error::Full));
        assert_eq!(store.create(LogId(3), Default::default(), Default::default()).await, Err(Error::Full));
        assert_eq!(texts(&store, ending).await, ["before"], "what was refused is not there");
        faults.room.store(0, Relaxed);
        store.append(ending, sealing(head, &["the end"])).await.unwrap();
        store.sweep();
        sleep(Duration::from_millis(50)).await;
        assert_eq!(store.health(), Err(Error::Full), "there is no room yet");
        assert_eq!(texts(&store, other).await, ["before"], "everything else is served");
        faults.room.store(-1, Relaxed);
        healthy(&store).await;
        store.append(other, batch(Position::new(0, 1), &["after"])).await.unwrap();
        drop(store);
        let store = open(&Options { hook: None, ..options });
        assert_eq!(texts(&store, ending).await, ["before", "the end"]);
        assert!(store.read(ending, START, 1).await.unwrap().closed, "the ending survived");
        assert_eq!(texts(&store, other).await, ["before", "after"]);
    }
}

#[tokio::test]
async fn a_disk_that_fails_to_write_is_said_to_and_what_it_wrote_in_parts_is_whole() {
    let (disks, faults) = (Disks::new(), Faults::new());
    let options = Options { hook: faults.hook(), ..disks.options() };
    let store = open(&options);
    let log = created(&*store, 1).await;
    faults.short.store(true, Relaxed);
    let head = store.append(log, batch(START, &["in", "parts"])).await.unwrap();
    faults.short.store(false, Relaxed);
    faults.write.store(true, Relaxed);
    assert!(matches!(store.append(log, batch(head, &["x"])).await, Err(Error::Unavailable(_))));
    assert!(matches!(store.health(), Err(Error::Unavailable(_))));
    assert!(matches!(store.claim("k", "v", Duration::from_secs(9)).await, Err(Error::Unavailable(_))));
    assert_eq!(store.claimed("k").await, Ok(None), "what is not written is not held");
    faults.write.store(false, Relaxed);
    healthy(&store).await;
    store.append(log, batch(head, &["on"])).await.unwrap();
    // A torn write that cannot be cut off: whatever came after it would be lost, so nothing does.
    faults.room.store(10, Relaxed);
    faults.truncate.store(true, Relaxed);
    assert!(store.append(log, batch(Position::new(0, 3), &["torn"])).await.is_err());
    faults.room.store(-1, Relaxed);
    faults.truncate.store(false, Relaxed);
    store.sweep();
    sleep(Duration::from_millis(50)).await;
    assert!(matches!(store.health(), Err(Error::Unavailable(_))), "for good");
    assert!(store.append(log, batch(Position::new(0, 3), &["more"])).await.is_err());
    drop(store);
    let store = open(&Options { hook: None, ..options });
    assert_eq!(texts(&store, log).await, ["in", "parts", "on"]);
}

#[tokio::test]
async fn the_reserve_is_spent_on_endings_alone_and_missed_once_it_is() {
    let (disks, faults) = (Disks::new(), Faults::new());
    let options = Options { hook: faults.hook(), ..disks.options() };
    let store = open(&options);
    let (ending, other) = (created(&*store, 1).await, created(&*store, 2).await);
    let reserve = || std::fs::metadata(options.path.join("reserve")).unwrap().len();
    faults.room.store(10, Relaxed);
    assert_eq!(store.create(LogId(3), Default::default(), Default::default()).await, Err(Error::Full));
    assert_eq!(reserve(), 1 << 20, "what was never written needs no end");
    assert_eq!(store.meta(LogId(3)).await, Err(Error::NotFound));
    faults.room.store(-1, Relaxed);
    healthy(&store).await;
    // The first to meet the full disk is an ending.
    faults.room.store(0, Relaxed);
    store.append(ending, sealing(START, &["the end"])).await.unwrap();
    assert_eq!(reserve(), 0);
    assert_eq!(store.health(), Err(Error::Full));
    assert_eq!(store.append(other, batch(START, &["of the reserve"])).await, Err(Error::Full));
}

#[tokio::test]
async fn a_claim_that_cannot_be_renewed_is_still_held() {
    let (disks, faults) = (Disks::new(), Faults::new());
    let store = open(&Options { hook: faults.hook(), ..disks.options() });
    let ttl = Duration::from_secs(60);
    store.claim("held", "value", ttl).await.unwrap();
    faults.write.store(true, Relaxed);
    assert!(matches!(store.claim("held", "value", ttl).await, Err(Error::Unavailable(_))));
    assert_eq!(store.claimed("held").await, Ok(Some("value".into())));
    // Nobody waits for the answer.
    drop(store.claim("new", "value", ttl));
    assert_eq!(store.claimed("new").await, Ok(None), "what is not written is not held");
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_written_and_endings_are_still_shown() {
    let (disks, faults) = (Disks::new(), Faults::new());
    let options = Options { sync: Sync::Always, hook: faults.hook(), ..disks.options() };
    let store = open(&options);
    let log = created(&*store, 1).await;
    let head = store.append(log, batch(START, &["synced"])).await.unwrap();
    faults.sync.store(true, Relaxed);
    assert!(matches!(store.append(log, batch(head, &["not synced"])).await, Err(Error::Unavailable(_))));
    faults.sync.store(false, Relaxed);
    assert_eq!(texts(&store, log).await, ["synced"], "never shown");
    let before = faults.syncs.load(Relaxed);
    store.sweep();
    assert!(matches!(store.append(log, batch(head, &["again"])).await, Err(Error::Unavailable(_))));
    assert!(matches!(store.health(), Err(Error::Unavailable(_))));
    assert_eq!(faults.syncs.load(Relaxed), before, "a second sync would only say that all is well");
    store.append(log, sealing(head, &["failed"])).await.unwrap();
    assert!(store.read(log, START, 1).await.unwrap().closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_promise_of_sync_is_kept() {
    let count = |sync| async move {
        let (disks, faults) = (Disks::new(), Faults::new());
        let store = open(&Options { sync, hook: faults.hook(), ..disks.options() });
        let mut writers = tokio::task::JoinSet::new();
        for n in 1..=64 {
            let store = store.clone();
            writers.spawn(async move {
                let log = created(&*store, n).await;
                store.append(log, batch(START, &["a"])).await.unwrap();
            });
        }
        writers.join_all().await;
        let at_once = faults.syncs.load(Relaxed);
        if let Sync::Interval(_) = sync {
            soon("a sync by itself", async {
                while faults.syncs.load(Relaxed) == 0 {
                    sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
        }
        at_once
    };
    assert_eq!(count(Sync::Os).await, 0);
    count(Sync::Interval(Duration::from_millis(20))).await;
    let always = count(Sync::Always).await;
    assert!((1..128).contains(&always), "many appends share a sync: {always} for 128 writes");
    // With `always`, nothing is visible before it is synced.
    let (disks, gate) = (Disks::new(), Arc::new(Mutex::new(())));
    let (held, in_sync) = (gate.clone(), Arc::new(AtomicBool::new(false)));
    let seen = in_sync.clone();
    let hook: Hook = Arc::new(move |operation| {
        if operation == Operation::Sync {
            seen.store(true, Relaxed);
            drop(held.lock());
        }
        Ok(if let Operation::Write(length) = operation { length } else { 0 })
    });
    let store = open(&Options { sync: Sync::Always, hook: Some(hook), ..disks.options() });
    let log = created(&*store, 1).await;
    let closed = gate.lock().unwrap();
    in_sync.store(false, Relaxed);
    let writer = store.clone();
    let append = tokio::spawn(async move { writer.append(log, batch(START, &["a"])).await });
    while !in_sync.load(Relaxed) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (reader, handle) = (store.clone(), tokio::runtime::Handle::current());
    let looked = std::thread::spawn(move || handle.block_on(texts(&reader, log))).join().unwrap();
    assert!(looked.is_empty() && !append.is_finished());
    drop(closed);
    soon("the append", append).await.unwrap().unwrap();
    assert_eq!(texts(&store, log).await, ["a"]);
}

/// A few logs of several appends each, in one segment; what each one says, and its bytes.
async fn journal(
    options: &Options,
    logs: u128,
    appends: usize,
    padding: usize,
) -> BTreeMap<LogId, Vec<String>> {
    let store = open(options);
    let mut said = BTreeMap::new();
    for n in 1..=logs {
        created(&*store, n).await;
    }
    let mut heads = vec![START; logs as usize];
    for at in 0..appends {
        for n in 1..=logs {
            let text = format!("log {n}, append {at}: {}", "x".repeat(padding));
            let head = &mut heads[n as usize - 1];
            *head = store.append(LogId(n), batch(*head, &[&text])).await.unwrap();
            said.entry(LogId(n)).or_insert_with(Vec::new).push(text);
        }
    }
    said
}

#[tokio::test]
async fn every_length_that_a_torn_tail_can_have_is_cut_to_what_was_whole() {
    let disks = Disks::new();
    let options = disks.options();
    let said = journal(&options, 4, 30, 40).await;
    let segment = options.path.join("journal/0000000001");
    let whole = std::fs::read(&segment).unwrap();
    assert!(whole.len() > 8_192);
    let mut records = 0;
    for length in whole.len() - 4_096..=whole.len() {
        std::fs::write(&segment, &whole[..length]).unwrap();
        let store = open(&options);
        let mut found = 0;
        for (log, said) in &said {
            let kept = texts(&store, *log).await;
            assert!(said.starts_with(&kept), "{length}");
            found += kept.len();
        }
        assert!(found >= records, "a longer file never says less");
        records = found;
        drop(store);
        assert!(std::fs::metadata(&segment).unwrap().len() <= length as u64);
    }
    assert_eq!(records, 4 * 30);
}

#[tokio::test]
async fn a_flipped_bit_is_an_explicit_error_of_one_log() {
    let disks = Disks::new();
    let options = disks.options();
    let said = journal(&options, 3, 6, 10).await;
    let segment = options.path.join("journal/0000000001");
    let whole = std::fs::read(&segment).unwrap();
    let mut outcomes = BTreeMap::<&str, usize>::new();
    for at in 0..whole.len() {
        let mut flawed = whole.clone();
        flawed[at] ^= 1 << (at % 8);
        std::fs::write(&segment, &flawed).unwrap();
        let store = open(&options);
        let mut hit = 0;
        for (log, said) in &said {
            let outcome = match store.read(*log, START, usize::MAX).await {
                Ok(_) if texts(&store, *log).await == *said => "whole",
                Ok(page) => {
                    // The last append of its log, and nothing tells whose it was: it goes on from an earlier place.
                    assert!(!page.closed && said.starts_with(&texts(&store, *log).await), "{at}");
                    "shorter"
                }
                Err(Error::Damaged) => "damaged",
                Err(error) => panic!("byte {at}: {error}"),
            };
            hit += usize::from(outcome != "whole");
            *outcomes.entry(outcome).or_default() += 1;
        }
        assert_eq!(hit, 1, "byte {at} is one log's");
        let orphans = store.orphans().await.unwrap();
        for log in said.keys() {
            let damaged = store.meta(*log).await == Err(Error::Damaged);
            assert_eq!(orphans.iter().any(|orphan| orphan.log == *log), !damaged, "byte {at}");
        }
    }
    assert!(outcomes["damaged"] > outcomes["shorter"], "{outcomes:?}");
}

#[tokio::test]
async fn a_flipped_bit_in_an_archive_is_an_explicit_error_of_one_log() {
    let disks = Disks::new();
    let options = Options { archive_bytes: 1 << 30, ..disks.options() };
    let said = journal(&options, 5, 3, 10).await;
    let store = open(&options);
    for log in said.keys() {
        store.append(*log, sealing(Position::new(0, 3), &[])).await.unwrap();
    }
    drop(store);
    let options = Options { archive_bytes: 1, ..options };
    drop(open(&options));
    let archive = options.path.join("archive/0000000001");
    let store = open(&options);
    soon("the archive", async {
        while !archive.exists() {
            store.sweep();
            sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    drop(store);
    let whole = std::fs::read(&archive).unwrap();
    for at in 0..whole.len() {
        let mut flawed = whole.clone();
        flawed[at] ^= 1 << (at % 8);
        std::fs::write(&archive, &flawed).unwrap();
        let store = open(&options);
        let mut hit = 0;
        for (log, said) in &said {
            match store.read(*log, START, usize::MAX).await {
                Ok(_) => assert_eq!(texts(&store, *log).await, *said, "byte {at}"),
                Err(Error::Damaged | Error::NotFound) => hit += 1,
                Err(error) => panic!("byte {at}: {error}"),
            }
        }
        assert!(hit <= 1, "byte {at} hit {hit} logs");
    }
}
