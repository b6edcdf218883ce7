//! Disks that are slow or fail at the wrong moment, while two threads of the store are at work: what one of them has not
//! finished is not taken for done by the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use relaystream::log::LogId;
use relaystream::store::disk::files::{Hook, Operation};
use relaystream::store::disk::{Options, Sync};
use relaystream::store::{Error, Meta, Store};
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

    async fn reached(&self) {
        soon("the gate", until(&self.reached)).await;
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
    let options = Options { archive_bytes: 1, segment_bytes: 1, ..disks.options() };
    let store = open(&options);
    let log = created(&*store, 1).await;
    store.append(log, sealing(START, &["archived"])).await.unwrap();
    soon("the archive", async {
        while !options.path.join("archive/0000000001").exists() {
            store.sweep();
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    drop(store);

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
