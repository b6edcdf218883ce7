//! Disks that are slow or fail at the wrong moment, while two threads of the store are at work: what one of them has not
//! finished is not taken for done by the other.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Wake, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use relaystream::log::{LogId, Position};
use relaystream::store::disk::files::{Hook, Operation};
use relaystream::store::disk::{Disk, Options, Sync};
use relaystream::store::{Claim, Error, Meta, Store};
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::store_contract::{START, batch, created, meta, sealing, soon};
use crate::store_disk::{Disks, open};

/// Long enough for a thread to do what it must not do.
const WHILE: Duration = Duration::from_millis(50);

/// A disk that stops at some operation while the gate is closed.
#[derive(Default)]
struct Gate {
    closed: AtomicBool,
    reached: AtomicBool,
}

impl Gate {
    fn hook(
        self: &Arc<Gate>,
        stops: impl Fn(Operation) -> bool + Send + std::marker::Sync + 'static,
    ) -> Option<Hook> {
        let gate = self.clone();
        Some(Arc::new(move |operation| {
            if stops(operation) && gate.closed.load(Relaxed) {
                gate.reached.store(true, Relaxed);
                while gate.closed.load(Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            Ok(passes(operation))
        }))
    }

    /// Closes it, and does something on a thread of this name, which stops there.
    async fn held(
        self: &Arc<Gate>,
        name: &str,
        work: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) -> JoinHandle<()> {
        self.reached.store(false, Relaxed);
        self.closed.store(true, Relaxed);
        let handle = Handle::current();
        let thread = std::thread::Builder::new().name(name.into());
        let thread = thread.spawn(move || handle.block_on(work).unwrap()).unwrap();
        self.reached().await;
        thread
    }

    fn open(&self) {
        self.closed.store(false, Relaxed);
    }

    async fn reached(&self) {
        soon("the gate", until(&self.reached)).await;
    }
}

/// Whoever tells it of anything waits while it is closed.
impl Wake for Gate {
    fn wake(self: Arc<Gate>) {
        self.reached.store(true, Relaxed);
        while self.closed.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

async fn until(flag: &AtomicBool) {
    while !flag.load(Relaxed) {
        sleep(Duration::from_millis(1)).await;
    }
}

/// All of it.
fn passes(operation: Operation) -> usize {
    if let Operation::Write(length) = operation { length } else { 0 }
}

fn on_thread(name: &str) -> bool {
    std::thread::current().name() == Some(name)
}

#[tokio::test]
async fn the_segment_of_a_create_on_its_way_is_not_deleted() {
    let (disks, gate) = (Disks::new(), Arc::new(Gate::default()));
    let hook = gate.hook(|operation| operation == Operation::Sync && on_thread("store-journal"));
    // Each write is a segment.
    let options = Options { sync: Sync::Always, segment_bytes: 1, hook, ..disks.options() };
    let store = open(&options);
    store.claim("key", "value", Duration::from_secs(600)).await.unwrap();
    gate.closed.store(true, Relaxed);
    let creating = tokio::spawn({
        let (store, meta) = (store.clone(), Meta { data: Bytes::from(vec![b'm'; 1_000]), ..meta("a/b") });
        async move { store.create(LogId(1), meta, Bytes::new()).await }
    });
    gate.reached().await;
    for _ in 0..10 {
        store.sweep();
        sleep(WHILE / 10).await;
    }
    gate.closed.store(false, Relaxed);
    soon("the create", creating).await.unwrap().unwrap();
    drop(store);
    let store = open(&Options { hook: None, ..options });
    assert!(store.meta(LogId(1)).await.is_ok());
}

#[tokio::test]
async fn what_says_that_a_log_is_gone_stays_until_the_log_is() {
    let disks = Disks::new();
    let options = Options { segment_bytes: 1, ..disks.options() };
    archived(&options, 2).await;
    let log = LogId(1);

    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    // What marks a log in its archive is the only write of one byte.
    let hook: Hook = Arc::new(move |operation| match operation {
        Operation::Write(1) => {
            counted.fetch_add(1, Relaxed);
            Err(std::io::Error::from_raw_os_error(5))
        }
        _ => Ok(passes(operation)),
    });
    let store = open(&Options { hook: Some(hook), ..options.clone() });
    store.remove(log).await.unwrap();
    soon("an attempt", async {
        while attempts.load(Relaxed) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    sleep(WHILE).await;
    assert_eq!(attempts.load(Relaxed), 1, "the next one waits for the next look");
    for n in 0..10 {
        store.claim(&format!("key {n}"), "value", Duration::from_secs(600)).await.unwrap();
        store.release(&format!("key {n}"), "value").await.unwrap();
        store.sweep();
        sleep(WHILE / 10).await;
    }
    drop(store);
    let store = open(&options);
    assert_eq!(store.meta(log).await, Err(Error::NotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_waits_for_the_one_that_is_under_way() {
    let (disks, gate) = (Disks::new(), Arc::new(Gate::default()));
    let hook = gate.hook(|operation| operation == Operation::Sync);
    let store = open(&Options { sync: Sync::Always, hook, ..disks.options() });
    let log = created(&*store, 1).await;
    // Without its threads: who writes now syncs, too.
    store.close().await.unwrap();
    gate.closed.store(true, Relaxed);
    let handle = Handle::current();
    let (writer, in_writer) = (store.clone(), handle.clone());
    let writing = std::thread::spawn(move || in_writer.block_on(writer.append(log, batch(START, &["a"]))));
    gate.reached().await;
    let (closer, at_gate) = (store.clone(), gate.clone());
    let closing = std::thread::spawn(move || {
        handle.block_on(closer.close()).unwrap();
        assert!(!at_gate.closed.load(Relaxed), "what was written before is synced");
    });
    sleep(WHILE).await;
    gate.closed.store(false, Relaxed);
    closing.join().unwrap();
    writing.join().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_whether_the_disk_is_well_again_does_not_undo_that_it_is_broken() {
    let (disks, gate) = (Disks::new(), Arc::new(Gate::default()));
    let (fails, tears) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (failing, tearing) = (fails.clone(), tears.clone());
    let slow = gate.hook(|operation| operation == Operation::Write(1 << 20)).unwrap();
    let hook: Hook = Arc::new(move |operation| {
        let looks = operation == Operation::Write(1 << 20);
        let write = matches!(operation, Operation::Write(_)) && !looks;
        let broken = (write && failing.load(Relaxed))
            || (matches!(operation, Operation::Truncate(_)) && tearing.load(Relaxed));
        if broken { Err(std::io::Error::from_raw_os_error(5)) } else { slow(operation) }
    });
    let store = open(&Options { hook: Some(hook), ..disks.options() });
    let log = created(&*store, 1).await;
    gate.closed.store(true, Relaxed);
    fails.store(true, Relaxed);
    store.append(log, batch(START, &["refused"])).await.unwrap_err();
    store.sweep();
    gate.reached().await;
    tears.store(true, Relaxed);
    let (writer, handle) = (store.clone(), Handle::current());
    // An ending is tried whatever the disk said before.
    let ending = std::thread::spawn(move || handle.block_on(writer.append(log, sealing(START, &["torn"]))));
    sleep(WHILE).await;
    gate.closed.store(false, Relaxed);
    ending.join().unwrap().unwrap();
    for _ in 0..10 {
        store.sweep();
        sleep(WHILE / 10).await;
    }
    assert!(matches!(store.health(), Err(Error::Unavailable(_))), "for good");
}

const TTL: Duration = Duration::from_secs(600);

/// One thread writes slowly, the journal's own is busy with something else: what comes now must wait for what waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_at_once_does_not_pass_by_what_waits() {
    for sync in [Sync::Os, Sync::Interval(Duration::from_secs(600))] {
        let (disks, gate) = (Disks::new(), Arc::new(Gate::default()));
        let hook = gate.hook(|operation| matches!(operation, Operation::Write(_)) && on_thread("slow"));
        let options = Options { sync, hook, ..disks.options() };
        let store = open(&options);
        let log = created(&*store, 1).await;
        store.claim("key", "first", TTL).await.unwrap();
        let append = |seq: u64| {
            let store = store.clone();
            async move { store.append(log, batch(Position::new(0, seq), &["slow"])).await.map(drop) }
        };

        let slow = gate.held("slow", append(0)).await;
        let mut told = store.claim("other", "value", TTL);
        let answered = Arc::new(Gate { closed: true.into(), ..Gate::default() });
        let waker = Waker::from(answered.clone());
        assert!(told.poll_unpin(&mut Context::from_waker(&waker)).is_pending(), "it waits for the slow one");
        gate.open();
        slow.join().unwrap();
        // The journal's thread has written it, and is held up by whoever it tells.
        answered.reached().await;

        let slow = gate.held("slow", append(1)).await;
        let released = store.release("key", "first");
        gate.open();
        slow.join().unwrap();
        let claimed = store.claim("key", "second", TTL);
        answered.open();
        soon("the release", released).await.unwrap();
        assert_eq!(soon("the claim", claimed).await, Ok(Claim::Won));
        drop(told);
        drop(store);
        let store = open(&Options { hook: None, ..options });
        assert_eq!(store.claimed("key").await, Ok(Some("second".into())));
    }
}

/// The length of a frame that says no more than whose it is: that a log is gone, or in an archive.
const SHORT: Operation = Operation::Write(32);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_is_not_answered_before_it_is_written() {
    for archived in [false, true] {
        let (disks, gate) = (Disks::new(), Arc::new(Gate::default()));
        let hook = gate.hook(|operation| {
            let slow = matches!(operation, Operation::Write(_)) && on_thread("slow");
            slow || (operation == SHORT && !on_thread("store-keeper"))
        });
        let options = Options { hook, archive_bytes: 1, ..disks.options() };
        let store = open(&options);
        let log = created(&*store, 1).await;
        let slow = if archived {
            store.append(log, sealing(START, &["secret"])).await.unwrap();
            archive(&store, &options, 1).await;
            let store = store.clone();
            gate.held("removes", async move { store.remove(log).await }).await
        } else {
            let store = store.clone();
            gate.held("slow", async move {
                let appended = store.append(log, batch(START, &["secret"])).await;
                assert!(matches!(appended, Ok(_) | Err(Error::NotFound)));
                Ok(())
            })
            .await
        };
        let mut removals = [store.remove(log), store.remove(log)];
        for removal in &mut removals {
            let early = tokio::time::timeout(WHILE, removal).await;
            assert!(early.is_err(), "answered while nothing says so on the disk");
        }
        assert_eq!(store.meta(log).await, Err(Error::NotFound), "it is out of sight at once");
        gate.open();
        for removal in removals {
            soon("the removal", removal).await.unwrap();
        }
        slow.join().unwrap();
        drop(store);
        let store = open(&Options { hook: None, ..options });
        assert_eq!(store.meta(log).await, Err(Error::NotFound));
    }
}

/// A client that goes while its removal is on its way takes nothing back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_nobody_waits_for_is_done() {
    let disks = Disks::new();
    let options = disks.options();
    archived(&options, 2).await;
    let store = open(&options);
    let before = store.held();
    let mut removal = store.remove(LogId(1));
    let _mostly_pending = removal.poll_unpin(&mut Context::from_waker(Waker::noop()));
    drop(removal);
    let archive = options.path.join("archive/0000000001");
    soon("the log to be overwritten", async {
        while memchr::memmem::find_iter(&std::fs::read(&archive).unwrap(), &[b'x'; 1_000]).count() > 1 {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert!(store.held() < before);
    drop(store);
    let store = open(&options);
    assert_eq!(store.meta(LogId(1)).await, Err(Error::NotFound));
    assert!(store.meta(LogId(2)).await.is_ok());
}

/// So many logs in one archive; returns what they weigh.
async fn archived(options: &Options, logs: u128) -> u64 {
    let store = open(options);
    for n in 1..=logs {
        let log = created(&*store, n).await;
        store.append(log, sealing(START, &[&"x".repeat(1_000)])).await.unwrap();
    }
    drop(store);
    let store = open(&Options { archive_bytes: 1, ..options.clone() });
    archive(&store, options, 1).await;
    store.held()
}

/// Until there are so many archives.
async fn archive(store: &Disk, options: &Options, number: u32) {
    let archive = options.path.join(format!("archive/{number:010}"));
    soon("the archive", async {
        while !archive.exists() {
            store.sweep();
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// The first log of an owner opens its account with what archives hold of it, while that is taken away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archived_log_comes_off_its_owner_s_account_once() {
    const OWNERS: u32 = 100;
    let disks = Disks::new();
    let options = Options { archive_bytes: 1, user_bytes: 10_000, ..disks.options() };
    let store = open(&options);
    for n in 1..=OWNERS {
        let log = LogId(n.into());
        store.create(log, meta(&format!("owner/{n}")), Bytes::new()).await.unwrap();
        store.append(log, sealing(START, &[&"x".repeat(1_000)])).await.unwrap();
        archive(&store, &options, n).await;
    }
    drop(store);

    let store = open(&options);
    for n in 1..=OWNERS {
        let (remover, creator, log) = (store.clone(), store.clone(), LogId(u128::from(OWNERS + n)));
        let removes = tokio::spawn(async move { remover.remove(LogId(n.into())).await });
        let creates = tokio::spawn(async move {
            creator.create(log, meta(&format!("owner/{n}")), Bytes::new()).await?;
            creator.append(log, batch(START, &["within its limit"])).await
        });
        removes.await.unwrap().unwrap();
        let head = creates.await.unwrap().unwrap();
        store.append(log, sealing(head, &["to the end"])).await.unwrap();
    }
    let held = store.held();
    drop(store);
    assert_eq!(open(&options).held(), held);
}

/// Of three logs that were removed, two are marked in their archive when the process ends.
#[tokio::test]
async fn what_comes_off_an_archive_is_not_taken_off_again_by_the_next_process() {
    let disks = Disks::new();
    let options = disks.options();
    let all = archived(&options, 4).await;
    let (erased, third, marked) = (Arc::new(Gate::default()), Arc::new(Gate::default()), AtomicUsize::new(0));
    let at_erased =
        erased.hook(|operation| operation == Operation::Sync && on_thread("store-keeper")).unwrap();
    // What marks a log in its archive is the only write of one byte.
    let at_third =
        third.hook(move |operation| operation == Operation::Write(1) && marked.fetch_add(1, Relaxed) == 2);
    let at_third = at_third.unwrap();
    let hook: Hook = Arc::new(move |operation| at_erased(operation).and_then(|_| at_third(operation)));
    let store = open(&Options { hook: Some(hook), ..options.clone() });
    erased.closed.store(true, Relaxed);
    store.remove(LogId(1)).await.unwrap();
    erased.reached().await;
    store.remove(LogId(2)).await.unwrap();
    store.remove(LogId(3)).await.unwrap();
    third.closed.store(true, Relaxed);
    erased.open();
    third.reached().await;
    let copy = disks.options();
    copied(&options.path, &copy.path);
    third.open();
    drop(store);
    for path in [options.path, copy.path] {
        let store = open(&Options { path, ..disks.options() });
        assert!(store.held() > 0 && store.held() < all / 3, "{} of {all}", store.held());
        assert_eq!(store.meta(LogId(3)).await, Err(Error::NotFound));
        assert!(store.meta(LogId(4)).await.is_ok());
    }
}

/// A data directory as a process leaves it that ends just now.
fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copied(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archived_log_that_many_ask_for_is_read_once() {
    let disks = Disks::new();
    let options = Options { archive_bytes: 1, ..disks.options() };
    let store = open(&options);
    let log = created(&*store, 1).await;
    store.append(log, sealing(START, &[&"x".repeat(4 << 20)])).await.unwrap();
    archive(&store, &options, 1).await;
    drop(store);
    let store = open(&options);
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let store = store.clone();
        readers.spawn(async move { store.read(log, START, 1).await.unwrap().records.remove(0).draft });
    }
    let read = readers.join_all().await;
    assert!(read.iter().all(|draft| Arc::ptr_eq(draft, &read[0])), "each has a copy of its own");
}
