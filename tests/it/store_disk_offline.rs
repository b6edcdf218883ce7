//! What looks after a data directory that no server uses: it reads without writing, and what it is cut short in leaves
//! what was there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use relaystream::log::LogId;
use relaystream::store::disk::Options;
use relaystream::store::disk::files::{Directory, Hook, Operation};
use relaystream::store::disk::offline::Offline;
use relaystream::store::disk::record::State;
use relaystream::store::{Error, Store};
use tokio::time::sleep;

use crate::store_contract::{START, batch, created, sealing, soon};
use crate::store_disk::{Disks, open};

/// Logs 1 to 3 in an archive, 4 runs.
async fn filled(options: &Options) {
    let store = open(options);
    for n in 1..=3 {
        let log = created(&*store, n).await;
        store.append(log, sealing(START, &[&format!("log {n} {}", "x".repeat(500))])).await.unwrap();
    }
    let running = created(&*store, 4).await;
    store.append(running, batch(START, &["runs"])).await.unwrap();
    drop(store);
    let store = open(&Options { archive_bytes: 1, ..options.clone() });
    soon("the archive", async {
        while !options.path.join("archive/0000000001").exists() {
            store.sweep();
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

fn offline(path: &Path, hook: Option<Hook>) -> Offline {
    Offline::of(Directory::open(path, hook).unwrap()).unwrap()
}

fn shown(offline: &Offline) -> BTreeMap<LogId, State> {
    let mut shown = BTreeMap::new();
    let each = offline.each(|log, _, state| {
        assert!(shown.insert(log, state).is_none(), "{log} twice");
        Ok::<_, io::Error>(())
    });
    each.unwrap();
    shown
}

/// The logs' files, by name.
fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in ["journal", "archive"] {
        for entry in std::fs::read_dir(path.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            files.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
    files
}

fn passes(operation: Operation) -> usize {
    if let Operation::Write(length) = operation { length } else { 0 }
}

#[tokio::test]
async fn a_damaged_index_hides_no_log_and_is_told_and_left_as_it_is() {
    let disks = Disks::new();
    let options = disks.options();
    filled(&options).await;
    let archive = options.path.join("archive/0000000001");
    let whole = std::fs::read(&archive).unwrap();
    let said = shown(&offline(&options.path, None));
    assert_eq!(said.len(), 4);
    // In the footer, and in the entry of the second log.
    for from_end in [50, 96 + 64 + 30] {
        let mut flawed = whole.clone();
        flawed[whole.len() - from_end] ^= 1;
        std::fs::write(&archive, &flawed).unwrap();
        let offline = offline(&options.path, None);
        let before = files(&options.path);
        assert_eq!(offline.flaws().unwrap().archives, 1);
        assert_eq!(shown(&offline), said);
        assert_eq!(files(&options.path), before, "a look changes nothing");
    }
}

#[tokio::test]
async fn compacting_a_full_disk_leaves_it_as_it_was() {
    let disks = Disks::new();
    let options = disks.options();
    filled(&options).await;
    let before = files(&options.path);
    // The reserve is there; of what is written anew, some fits.
    for fits in 0..4 {
        let writes = AtomicUsize::new(0);
        let hook: Hook = Arc::new(move |operation| match operation {
            Operation::Write(_) if writes.fetch_add(1, Relaxed) >= fits => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(passes(operation)),
        });
        offline(&options.path, Some(hook)).compact().unwrap_err();
        assert_eq!(files(&options.path), before, "{fits} writes");
    }
    assert_eq!(offline(&options.path, None).compact().unwrap(), 4);
}

#[tokio::test]
async fn what_was_removed_stays_so_when_compacting_is_cut_short() {
    let disks = Disks::new();
    let options = disks.options();
    filled(&options).await;
    // What marks a log in its archive is the only write of one byte.
    let hook: Hook = Arc::new(|operation| match operation {
        Operation::Write(1) => Err(io::Error::from_raw_os_error(5)),
        _ => Ok(passes(operation)),
    });
    let store = open(&Options { hook: Some(hook), ..options.clone() });
    store.remove(LogId(1)).await.unwrap();
    drop(store);
    let removed = AtomicUsize::new(0);
    let hook: Hook = Arc::new(move |operation| match operation {
        Operation::Remove if removed.fetch_add(1, Relaxed) > 0 => Err(io::Error::from_raw_os_error(5)),
        _ => Ok(passes(operation)),
    });
    offline(&options.path, Some(hook)).compact().unwrap_err();
    let logs = |path: &Path| shown(&offline(path, None)).into_keys().collect::<BTreeSet<_>>();
    let left = BTreeSet::from([LogId(2), LogId(3), LogId(4)]);
    assert_eq!(logs(&options.path), left);
    let store = open(&options);
    assert_eq!(store.meta(LogId(1)).await, Err(Error::NotFound));
    assert!(store.meta(LogId(2)).await.is_ok());
    drop(store);
    assert_eq!(offline(&options.path, None).compact().unwrap(), 3);
    assert_eq!(logs(&options.path), left);
}

#[tokio::test]
async fn an_import_that_fails_can_be_done_again() {
    let disks = Disks::new();
    let options = disks.options();
    filled(&options).await;
    let said = shown(&offline(&options.path, None));
    let elsewhere = disks.options().path;
    let all = || said.clone().into_iter().map(Ok);
    let cut = all().chain([Err(io::Error::other("no such line"))]);
    offline(&elsewhere, None).import(cut).unwrap_err();
    assert_eq!(files(&elsewhere), BTreeMap::new());
    assert_eq!(offline(&elsewhere, None).import(all()).unwrap(), 4);
    assert_eq!(shown(&offline(&elsewhere, None)), said);
    let store = open(&Options { path: elsewhere, ..options });
    assert_eq!(store.orphans().await.unwrap()[0].plan, Bytes::new());
}
