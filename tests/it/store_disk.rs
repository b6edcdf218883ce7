//! The disk store: the contract, and what it promises beyond: what survives a restart, and what is gone from the disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use relaystream::log::{Bad, Batch, LogId, Position};
use relaystream::store::disk::{Disk, Options, Sync};
use relaystream::store::{Claim, Error, Meta, Orphan, Store};
use tokio::time::sleep;

use crate::store_contract::{START, batch, bounded, contract, created, meta, sealing, soon};

/// A folder with as many stores as are asked for.
pub struct Disks {
    folder: tempfile::TempDir,
    next: AtomicU32,
}

impl Disks {
    pub fn new() -> Disks {
        Disks { folder: tempfile::tempdir().unwrap(), next: AtomicU32::new(0) }
    }

    /// Options for a new empty store.
    pub fn options(&self) -> Options {
        Options::new(self.folder.path().join(self.next.fetch_add(1, Relaxed).to_string()))
    }
}

pub fn open(options: &Options) -> Arc<Disk> {
    Arc::new(Disk::open(options).unwrap())
}

/// All bytes of all files below a folder.
pub fn content(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            bytes.extend(content(&path));
        } else if let Ok(file) = std::fs::read(&path) {
            bytes.extend(file);
        }
    }
    bytes
}

pub fn mentions(options: &Options, text: &str) -> bool {
    memchr::memmem::find(&content(&options.path), text.as_bytes()).is_some()
}

/// Until the text is nowhere in the directory.
async fn gone(store: &Disk, options: &Options, text: &str) {
    soon("the text to be gone", async {
        while mentions(options, text) {
            store.sweep();
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

async fn texts(store: &Disk, log: LogId) -> Vec<String> {
    let page = store.read(log, START, usize::MAX).await.unwrap();
    page.records.iter().map(|record| String::from_utf8(record.draft.payload.to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn disk_keeps_the_contract() {
    for sync in [Sync::Os, Sync::Interval(Duration::from_millis(5)), Sync::Always] {
        let disks = Disks::new();
        contract(|| open(&Options { sync, ..disks.options() })).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn disk_keeps_the_contract_with_every_log_archived_at_once() {
    let disks = Disks::new();
    let limits = Options { retain: Duration::from_secs(3600), archive_bytes: 1, ..disks.options() };
    contract(|| {
        open(&Options {
            total_bytes: 1 << 30,
            user_bytes: 1 << 28,
            path: disks.options().path,
            ..limits.clone()
        })
    })
    .await;
}

#[tokio::test]
async fn disk_is_bounded() {
    let disks = Disks::new();
    let retain = Duration::from_secs(3600);
    bounded(|total_bytes, user_bytes| open(&Options { total_bytes, user_bytes, retain, ..disks.options() }))
        .await;
}

#[tokio::test]
async fn what_ran_and_what_ended_is_there_after_a_restart() {
    for archive_bytes in [1, u64::MAX] {
        let disks = Disks::new();
        let options = Options { archive_bytes, ..disks.options() };
        let store = open(&options);
        let (running, ended, room) = (LogId(1), LogId(2), LogId(3));
        let plan = Bytes::from_static(b"how to go on");
        store.create(running, meta("a/b"), plan.clone()).await.unwrap();
        store.create(ended, meta("a/b"), plan.clone()).await.unwrap();
        let trim_bytes = Some(3 * crate::store_contract::draft("1").weight());
        store.create(room, Meta { trim_bytes, ..meta("") }, Bytes::new()).await.unwrap();
        let head = store.append(running, batch(START, &["a", "b"])).await.unwrap();
        let at = store.append(ended, batch(START, &["c"])).await.unwrap();
        store.append(ended, sealing(at, &["d"])).await.unwrap();
        let mut last = START;
        for n in 0..9 {
            last = store.append(room, batch(last, &[&n.to_string()])).await.unwrap();
        }
        store.claim("key", "value", Duration::from_secs(60)).await.unwrap();
        store.claim("short", "value", Duration::from_millis(1)).await.unwrap();
        store.claim("given up", "value", Duration::from_secs(60)).await.unwrap();
        store.release("given up", "value").await.unwrap();
        store.sweep();
        let held = store.held();
        drop(store);
        // The short one's time passes.
        sleep(Duration::from_millis(20)).await;

        for _ in 0..3 {
            let store = open(&options);
            assert_eq!(store.held(), held);
            assert_eq!(texts(&store, running).await, ["a", "b"]);
            assert_eq!(texts(&store, ended).await, ["c", "d"]);
            assert_eq!(texts(&store, room).await, ["6", "7", "8"]);
            assert_eq!(store.check(room, Position::new(0, 5)).await, Ok(Err(Bad::Trimmed)));
            assert_eq!(store.check(room, Position::new(0, 6)).await, Ok(Ok(())));
            assert_eq!(store.meta(ended).await, Ok(meta("a/b")));
            assert!(store.read(ended, START, 1).await.unwrap().closed);
            assert_eq!(store.create(ended, meta("a/b"), Bytes::new()).await, Err(Error::Exists));
            assert_eq!(store.claimed("key").await, Ok(Some("value".into())));
            assert_eq!(store.claimed("short").await, Ok(None));
            assert_eq!(store.claimed("given up").await, Ok(None));
            assert_eq!(
                store.claim("key", "other", Duration::from_secs(1)).await,
                Ok(Claim::Held("value".into()))
            );
            let orphan = Orphan { log: running, head, plan: plan.clone() };
            assert_eq!(store.orphans().await, Ok(vec![orphan.clone()]), "with what its writer left");
            assert_eq!(store.orphans().await, Ok(vec![]), "told once");
            store.disown(running).await.unwrap();
            assert_eq!(store.orphans().await, Ok(vec![orphan]));
        }
        let store = open(&options);
        let taken = Batch { epoch: 1, ..sealing(head, &["and on"]) };
        store.append(running, taken).await.unwrap();
        drop(store);
        let store = open(&options);
        assert_eq!(store.orphans().await, Ok(vec![]), "it ended");
        assert_eq!(texts(&store, running).await, ["a", "b", "and on"]);
        assert_eq!(store.check(running, Position::new(0, 3)).await, Ok(Err(Bad::Lost)));
        assert_eq!(store.check(running, Position::new(1, 3)).await, Ok(Ok(())));
    }
}

#[tokio::test]
async fn what_is_removed_is_gone_from_the_disk() {
    for archive_bytes in [1, u64::MAX] {
        let disks = Disks::new();
        let options = Options { archive_bytes, ..disks.options() };
        let store = open(&options);
        let (running, ended, other) =
            (created(&*store, 1).await, created(&*store, 2).await, created(&*store, 3).await);
        store.append(running, batch(START, &["first secret"])).await.unwrap();
        let head = store.append(ended, batch(START, &["second secret"])).await.unwrap();
        store.append(ended, sealing(head, &["ended"])).await.unwrap();
        store.append(other, sealing(START, &["what stays"])).await.unwrap();
        store.sweep();
        assert!(mentions(&options, "first secret") && mentions(&options, "second secret"));
        for log in [running, ended] {
            store.remove(log).await.unwrap();
            assert_eq!(store.meta(log).await, Err(Error::NotFound));
        }
        gone(&store, &options, "secret").await;
        drop(store);
        let store = open(&options);
        assert!(!mentions(&options, "secret"));
        for log in [running, ended] {
            assert_eq!(store.meta(log).await, Err(Error::NotFound));
        }
        assert_eq!(store.orphans().await, Ok(vec![]));
        assert_eq!(texts(&store, other).await, ["what stays"]);
        store.remove(other).await.unwrap();
        gone(&store, &options, "what stays").await;
        assert_eq!(store.held(), 0);
    }
}

#[tokio::test]
async fn finished_logs_go_by_age_with_their_bytes_and_running_ones_stay() {
    for archive_bytes in [1, u64::MAX] {
        let disks = Disks::new();
        let retain = Duration::from_millis(300);
        let options = Options { archive_bytes, retain, ..disks.options() };
        let store = open(&options);
        let (running, ended) = (created(&*store, 1).await, created(&*store, 2).await);
        store.append(running, batch(START, &["on its way"])).await.unwrap();
        let kept = store.held();
        store.append(ended, sealing(START, &["over"])).await.unwrap();
        store.sweep();
        assert_eq!(texts(&store, ended).await, ["over"]);
        sleep(retain).await;
        assert_eq!(store.read(ended, START, 1).await.err(), Some(Error::NotFound), "at once, swept or not");
        gone(&store, &options, "over").await;
        soon("the bytes to be given back", async {
            while store.held() != store.held().min(kept) {
                store.sweep();
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        drop(store);
        let store = open(&options);
        assert_eq!(store.meta(ended).await, Err(Error::NotFound));
        assert_eq!(texts(&store, running).await, ["on its way"]);
    }
}

#[tokio::test]
async fn archives_make_room_in_total_by_owner_and_by_what_finished_logs_may_take() {
    let text = "x".repeat(1_000);
    for (total_bytes, user_bytes, retain_bytes) in [(20_000, 0, 0), (0, 20_000, 0), (0, 0, 20_000)] {
        let disks = Disks::new();
        let options = Options { archive_bytes: 1, total_bytes, user_bytes, retain_bytes, ..disks.options() };
        let store = open(&options);
        let other = LogId(1000);
        store.create(other, meta("some/body"), Bytes::new()).await.unwrap();
        store.append(other, sealing(START, &["another's"])).await.unwrap();
        for n in 1..=60 {
            let log = created(&*store, n).await;
            store.append(log, sealing(START, &[&text])).await.unwrap();
            store.sweep();
            sleep(Duration::from_millis(1)).await;
        }
        soon("the oldest to go", async {
            while store.held() > 24_000 {
                store.sweep();
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!(store.meta(LogId(1)).await, Err(Error::NotFound));
        assert!(store.meta(LogId(60)).await.is_ok());
        assert_eq!(store.meta(other).await.is_ok(), user_bytes > 0, "another's room is not ours");
        drop(store);
        let store = open(&options);
        assert!(store.held() <= 24_000, "{}", store.held());
        assert!(store.meta(LogId(60)).await.is_ok());
        assert_eq!(store.meta(LogId(1)).await, Err(Error::NotFound));
    }
}

/// Also when nothing of it stays in memory.
#[tokio::test]
async fn an_archive_that_was_read_lately_outlives_a_younger_one() {
    let disks = Disks::new();
    let options = Options { archive_bytes: 1, cache_bytes: 0, ..disks.options() };
    let text = "x".repeat(10_000);
    let ended = async |store: &Disk, n: u32| {
        let log = created(store, n.into()).await;
        store.append(log, sealing(START, &[&text])).await.unwrap();
        let archive = options.path.join(format!("archive/{n:010}"));
        soon("the archive", async {
            while !archive.exists() {
                store.sweep();
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        log
    };
    let store = open(&options);
    let (read, unread) = (ended(&store, 1).await, ended(&store, 2).await);
    let retain_bytes = store.held() * 5 / 4;
    drop(store);
    let store = open(&Options { retain_bytes, ..options.clone() });
    assert_eq!(texts(&store, read).await, [text.as_str()]);
    let last = ended(&store, 3).await;
    soon("one to go", async {
        while store.held() > retain_bytes {
            store.sweep();
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(store.meta(unread).await, Err(Error::NotFound));
    assert!(store.meta(read).await.is_ok() && store.meta(last).await.is_ok());
}

/// Claims that take more than a segment are written anew now and then, not for ever.
#[tokio::test]
async fn many_claims_do_not_keep_the_journal_busy() {
    let disks = Disks::new();
    let options = Options { segment_bytes: 4_096, ..disks.options() };
    let store = open(&options);
    for n in 0..1_000 {
        store.claim(&format!("key {n}"), &"v".repeat(50), Duration::from_secs(600)).await.unwrap();
        store.sweep();
        if n % 2 == 0 {
            store.release(&format!("key {n}"), &"v".repeat(50)).await.unwrap();
        }
    }
    drop(store);
    let store = open(&options);
    for n in 0..1_000 {
        assert_eq!(store.claimed(&format!("key {n}")).await.unwrap().is_some(), n % 2 == 1, "{n}");
    }
    assert!(content(&options.path.join("journal")).len() < 400_000);
}

/// A room is written to for ever, beside a stream that just stands there: neither pins what others left behind.
#[tokio::test]
async fn the_journal_stays_short_whatever_runs_on() {
    let disks = Disks::new();
    let options = Options { segment_bytes: 16_384, archive_bytes: 50_000, ..disks.options() };
    let store = open(&options);
    let (silent, room) = (created(&*store, 1).await, LogId(2));
    let at = store.append(silent, batch(START, &["said long ago"])).await.unwrap();
    store.create(room, Meta { trim_bytes: Some(4_000), ..meta("") }, Bytes::new()).await.unwrap();
    store.claim("key", "value", Duration::from_secs(600)).await.unwrap();
    let mut head = START;
    for n in 0..6_000_u32 {
        head = store.append(room, batch(head, &[&format!("line {n:0>60}")])).await.unwrap();
        if n % 50 == 0 {
            let log = created(&*store, 100 + u128::from(n)).await;
            store.append(log, sealing(START, &["ended"])).await.unwrap();
        }
        if n % 100 == 0 {
            store.sweep();
            sleep(Duration::from_millis(1)).await;
        }
    }
    soon("the journal to be short", async {
        let journal = options.path.join("journal");
        while content(&journal).len() > 150_000 {
            store.sweep();
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    drop(store);
    let store = open(&options);
    assert_eq!(texts(&store, silent).await, ["said long ago"]);
    assert_eq!(store.claimed("key").await, Ok(Some("value".into())));
    assert_eq!(store.check(room, START).await, Ok(Err(Bad::Trimmed)));
    assert_eq!(store.check(room, head).await, Ok(Ok(())));
    assert_eq!(texts(&store, room).await.last(), Some(&format!("line {:0>60}", 5_999)));
    assert_eq!(texts(&store, LogId(150)).await, ["ended"]);
    store.append(silent, Batch { epoch: 1, ..batch(at, &["and on"]) }).await.unwrap();
}

#[tokio::test]
async fn a_directory_is_one_process_s_and_for_its_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let disks = Disks::new();
    let options = disks.options();
    let store = open(&options);
    created(&*store, 1).await;
    let Err(refused) = Disk::open(&options) else { panic!("two at once") };
    assert!(refused.to_string().contains("in use by another process"), "{refused}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&options.path), mode(&options.path.join("journal"))), (0o700, 0o700));
    for entry in std::fs::read_dir(options.path.join("journal")).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    store.close().await.unwrap();
    drop(store);
    assert!(open(&options).meta(LogId(1)).await.is_ok(), "what a process left locked opens at once");
    let file = options.path.join("lock").join("below a file");
    assert!(Disk::open(&Options::new(file)).is_err());
}
