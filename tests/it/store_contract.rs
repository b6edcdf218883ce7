//! What every store promises (`relaystream::store::Store`), as one suite that runs on any engine.
//!
//! An engine's own module calls `contract(|| …).await` and `bounded(|total, user| …).await`; see `store_memory`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use relaystream::log::{Bad, Batch, Draft, Framing, LogId, Page, Position, Raw, Record, Refused};
use relaystream::store::{Error, Meta, Store};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::store_coordination::coordination;

pub(crate) const START: Position = Position::START;
/// Long enough for any engine on a loaded machine; a wait that should end takes microseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn draft(text: &str) -> Draft {
    let payload = Bytes::copy_from_slice(text.as_bytes());
    Draft { kind: 2, at_ms: 1_761_500_000_123, payload, framing: Framing::Own }
}

pub(crate) fn batch(expected: Position, texts: &[&str]) -> Batch {
    let drafts = texts.iter().map(|text| draft(text)).collect();
    Batch { expected, epoch: expected.epoch, drafts, seal: false }
}

pub(crate) fn sealing(expected: Position, texts: &[&str]) -> Batch {
    Batch { seal: true, ..batch(expected, texts) }
}

pub(crate) fn meta(owner: &str) -> Meta {
    Meta { owner: owner.into(), data: Bytes::from_static(b"{\"a\":1}"), trim_bytes: None }
}

pub(crate) fn text(record: &Record) -> String {
    String::from_utf8_lossy(&record.draft.payload).into_owned()
}

pub(crate) fn texts(page: &Page) -> Vec<String> {
    page.records.iter().map(text).collect()
}

pub(crate) async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}: nothing came"))
}

pub(crate) async fn created(store: &dyn Store, id: u128) -> LogId {
    let log = LogId(id);
    store.create(log, meta("a/b"), Bytes::new()).await.expect("a new log");
    log
}

/// The suite. `make` gives an empty store without limits.
pub(crate) async fn contract(make: impl Fn() -> Arc<dyn Store>) {
    creates_once(&*make()).await;
    appends_all_or_nothing(&*make()).await;
    reads_what_was_asked(&*make()).await;
    keeps_every_field(&*make()).await;
    says_why_a_position_is_bad(&*make()).await;
    new_epochs_go_on_counting(&*make()).await;
    a_closed_log_takes_no_more_and_stays_readable(&*make()).await;
    changed_answers_at_once_or_waits(make()).await;
    changed_never_misses(make()).await;
    racing_writers_make_one_line(make()).await;
    remove_forgets_and_wakes(make()).await;
    a_room_is_trimmed(&*make()).await;
    held_counts_and_returns(&*make()).await;
    removal_beats_a_racing_append(make()).await;
    coordination(make).await;
}

async fn creates_once(store: &dyn Store) {
    let log = LogId(1);
    assert_eq!(store.read(log, START, 100).await.err(), Some(Error::NotFound));
    assert_eq!(store.append(log, batch(START, &["x"])).await, Err(Error::NotFound));
    assert_eq!(store.check(log, START).await, Err(Error::NotFound));
    assert_eq!(store.changed(log, START).await, Err(Error::NotFound));
    assert_eq!(store.meta(log).await, Err(Error::NotFound));
    assert_eq!(store.remove(log).await, Ok(()), "forgetting what is not there is fine");
    store.create(log, meta("a/b"), Bytes::new()).await.expect("a new log");
    assert_eq!(store.create(log, meta("c/d"), Bytes::new()).await, Err(Error::Exists));
    assert_eq!(store.meta(log).await, Ok(meta("a/b")));
    let page = store.read(log, START, 100).await.expect("there");
    assert!(page.records.is_empty() && page.head == START && !page.closed);
    store.append(log, sealing(START, &["end"])).await.expect("accepted");
    assert_eq!(
        store.create(log, meta("a/b"), Bytes::new()).await,
        Err(Error::Exists),
        "a sealed log is still there"
    );
    assert_eq!(store.meta(log).await, Ok(meta("a/b")));
}

async fn appends_all_or_nothing(store: &dyn Store) {
    let log = created(store, 1).await;
    let head = store.append(log, batch(START, &["a", "b", "c"])).await.expect("accepted");
    assert_eq!(head, Position::new(0, 3));
    let stale = Err(Error::Refused(Refused::Stale { head }));
    for expected in [START, Position::new(0, 2), Position::new(0, 4), Position::new(1, 3)] {
        assert_eq!(store.append(log, batch(expected, &["no", "never"])).await, stale, "{expected:?}");
        assert_eq!(store.append(log, sealing(expected, &["no"])).await, stale, "{expected:?}");
    }
    let page = store.read(log, START, usize::MAX).await.expect("there");
    assert_eq!(texts(&page), ["a", "b", "c"], "a refused append leaves nothing");
    assert!(!page.closed && page.head == head);
    assert_eq!(store.append(log, batch(head, &[])).await, Ok(head), "nothing is a batch too");
}

async fn reads_what_was_asked(store: &dyn Store) {
    let log = created(store, 1).await;
    let pieces: Vec<String> = (1..=20).map(|n| format!("{n:0>100}")).collect();
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    let head = store.append(log, batch(START, &pieces)).await.expect("accepted");
    let one = draft(pieces[0]).weight();
    for (limit, expected) in [(0, 1), (1, 1), (one, 1), (2 * one, 2), (2 * one + 1, 2), (usize::MAX, 20)] {
        let page = store.read(log, START, limit).await.expect("there");
        assert_eq!(page.records.len(), expected, "limit {limit}");
        assert_eq!((page.head, page.closed), (head, false));
    }
    for seq in 0..=20 {
        let page = store.read(log, Position::new(0, seq), usize::MAX).await.expect("there");
        assert_eq!(texts(&page), &pieces[seq as usize..]);
        let places: Vec<u64> = page.records.iter().map(|record| record.position.seq).collect();
        assert_eq!(places, (seq + 1..=20).collect::<Vec<_>>());
    }
}

async fn keeps_every_field(store: &dyn Store) {
    let log = created(store, 1).await;
    let raw = Raw { dialect: 0x81, own_at: 3, usage_only: true, bytes: Bytes::from_static(b"\0\r\n\xffraw") };
    let framings = [Framing::Own, Framing::Part(7), Framing::Raw(raw)];
    let kept = |framing: &Framing| Draft { kind: 200, framing: framing.clone(), ..draft("\u{0}\n\u{1F980}") };
    let drafts: Vec<Draft> = framings.iter().map(kept).collect();
    let all = Batch { expected: START, epoch: 0, drafts: drafts.clone(), seal: true };
    store.append(log, all).await.expect("accepted");
    let page = store.read(log, START, usize::MAX).await.expect("there");
    assert_eq!(page.records.iter().map(|record| Draft::clone(&record.draft)).collect::<Vec<_>>(), drafts);
}

async fn says_why_a_position_is_bad(store: &dyn Store) {
    let log = created(store, 1).await;
    let ahead = Ok(Err(Bad::Ahead));
    assert_eq!(store.check(log, START).await, Ok(Ok(())));
    assert_eq!(store.check(log, Position::new(0, 1)).await, ahead);
    let head = store.append(log, batch(START, &["a", "b"])).await.expect("accepted");
    for seq in 0..=head.seq {
        assert_eq!(store.check(log, Position::new(0, seq)).await, Ok(Ok(())), "{seq}");
    }
    for bad in
        [Position::new(0, 3), Position::new(1, 2), Position::new(1, 0), Position::new(0, Position::LAST)]
    {
        assert_eq!(store.check(log, bad).await, ahead, "{bad:?}");
    }
}

async fn new_epochs_go_on_counting(store: &dyn Store) {
    let log = created(store, 1).await;
    let head = store.append(log, batch(START, &["a", "b"])).await.expect("accepted");
    let taken = Batch { epoch: 2, ..batch(head, &["c"]) };
    let head = store.append(log, taken).await.expect("a later owner goes on");
    assert_eq!(head, Position::new(2, 3));
    let stale = Err(Error::Refused(Refused::Stale { head }));
    let old_owner = Batch { epoch: 0, ..batch(head, &["x"]) };
    assert_eq!(store.append(log, old_owner).await, stale, "the old owner is out, even with the right place");
    let guess = Batch { epoch: 0, ..batch(Position::new(0, 3), &["x"]) };
    assert_eq!(store.append(log, guess).await, stale);
    for (position, expected) in [
        (Position::new(0, 2), Ok(())),
        (Position::new(2, 3), Ok(())),
        (Position::new(0, 3), Err(Bad::Lost)),
        (Position::new(1, 3), Err(Bad::Lost)),
        (Position::new(3, 3), Err(Bad::Ahead)),
        (Position::new(2, 2), Err(Bad::Ahead)),
    ] {
        assert_eq!(store.check(log, position).await, Ok(expected), "{position:?}");
    }
    let page = store.read(log, Position::new(0, 1), usize::MAX).await.expect("there");
    let places: Vec<Position> = page.records.iter().map(|record| record.position).collect();
    assert_eq!(places, [Position::new(0, 2), Position::new(2, 3)]);
}

async fn a_closed_log_takes_no_more_and_stays_readable(store: &dyn Store) {
    let log = created(store, 1).await;
    let head = store.append(log, batch(START, &["a"])).await.expect("accepted");
    let head = store.append(log, sealing(head, &["end"])).await.expect("accepted");
    let closed = Err(Error::Refused(Refused::Closed));
    assert_eq!(store.append(log, batch(head, &["x"])).await, closed);
    assert_eq!(store.append(log, sealing(head, &["x"])).await, closed);
    assert_eq!(store.append(log, batch(START, &["x"])).await, closed);
    for after in [START, Position::new(0, 1), head] {
        let page = store.read(log, after, usize::MAX).await.expect("there");
        assert_eq!(texts(&page), &["a", "end"][after.seq as usize..]);
        assert!(page.closed && page.head == head);
        assert_eq!(store.check(log, after).await, Ok(Ok(())));
        soon("nothing will ever be", store.changed(log, after)).await.expect("there");
    }
    store.sweep();
    assert_eq!(store.read(log, START, 1).await.expect("there").head, head);
}

async fn changed_answers_at_once_or_waits(store: Arc<dyn Store>) {
    let log = created(&*store, 1).await;
    let mut waiting = JoinSet::new();
    let (waiter, asked) = (store.clone(), Instant::now());
    waiting.spawn(async move { waiter.changed(log, START).await });
    sleep(Duration::from_millis(50)).await;
    assert!(waiting.try_join_next().is_none(), "nothing has changed yet");
    let head = store.append(log, batch(START, &["a"])).await.expect("accepted");
    soon("an append", waiting.join_next()).await.expect("one").expect("no panic").expect("there");
    assert!(asked.elapsed() >= Duration::from_millis(50));
    soon("something is there already", store.changed(log, START)).await.expect("there");
    let (waiter, sealer) = (store.clone(), store.clone());
    waiting.spawn(async move { waiter.changed(log, head).await });
    sleep(Duration::from_millis(20)).await;
    assert!(waiting.try_join_next().is_none());
    sealer.append(log, sealing(head, &[])).await.expect("a seal without a record");
    soon("a seal", waiting.join_next()).await.expect("one").expect("no panic").expect("there");
}

/// Readers that take the notification before they read get everything, however appends fall in between.
async fn changed_never_misses(store: Arc<dyn Store>) {
    const RECORDS: u64 = 300;
    let log = created(&*store, 1).await;
    let mut readers = JoinSet::new();
    for reader in 0..8 {
        let store = store.clone();
        readers.spawn(async move {
            let (mut at, mut seen) = (START, Vec::new());
            loop {
                soon("the next append", store.changed(log, at)).await.expect("there");
                let page = store.read(log, at, 200 * (reader + 1)).await.expect("there");
                seen.extend(page.records.iter().map(|record| record.position.seq));
                at = page.records.last().map_or(at, |record| record.position);
                if page.closed && at == page.head {
                    return seen;
                }
                if reader % 2 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    let mut head = START;
    while head.seq < RECORDS {
        head = store.append(log, batch(head, &["a", "b", "c"])).await.expect("accepted");
        if head.seq.is_multiple_of(2) {
            tokio::task::yield_now().await;
        }
    }
    store.append(log, sealing(head, &["end"])).await.expect("accepted");
    while let Some(seen) = readers.join_next().await {
        assert_eq!(seen.expect("no panic"), (1..=RECORDS + 1).collect::<Vec<_>>());
    }
}

/// Compare-and-retry, as a room's log is written by several nodes.
async fn racing_writers_make_one_line(store: Arc<dyn Store>) {
    let log = created(&*store, 1).await;
    let mut writers = JoinSet::new();
    for writer in 0..6 {
        let store = store.clone();
        writers.spawn(async move {
            let mut expected = START;
            for n in 0..30 {
                let text = format!("{writer}:{n}");
                loop {
                    match store.append(log, batch(expected, &[&text, "+"])).await {
                        Ok(head) => break expected = head,
                        Err(Error::Refused(Refused::Stale { head })) => expected = head,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("no panic");
    }
    let page = store.read(log, START, usize::MAX).await.expect("there");
    let all = texts(&page);
    assert_eq!(all.len(), 6 * 30 * 2);
    assert!(all.chunks(2).all(|pair| pair[0].contains(':') && pair[1] == "+"), "batches are not torn");
    for writer in 0..6 {
        let own: Vec<_> = all.iter().filter(|text| text.starts_with(&format!("{writer}:"))).collect();
        assert_eq!(
            own,
            (0..30).map(|n| format!("{writer}:{n}")).collect::<Vec<_>>().iter().collect::<Vec<_>>()
        );
    }
}

async fn remove_forgets_and_wakes(store: Arc<dyn Store>) {
    for sealed in [false, true] {
        let log = created(&*store, 1).await;
        let head = store.append(log, batch(START, &["a"])).await.expect("accepted");
        let mut waiting = JoinSet::new();
        if sealed {
            store.append(log, sealing(head, &[])).await.expect("accepted");
        } else {
            for _ in 0..3 {
                let waiter = store.clone();
                waiting.spawn(async move { waiter.changed(log, head).await });
            }
            sleep(Duration::from_millis(20)).await;
        }
        store.remove(log).await.expect("forgotten");
        while let Some(woken) = soon("removal", waiting.join_next()).await {
            assert_eq!(woken.expect("no panic"), Err(Error::NotFound));
        }
        assert_eq!(store.read(log, START, 1).await.err(), Some(Error::NotFound));
        assert_eq!(store.append(log, batch(head, &["b"])).await, Err(Error::NotFound));
        assert_eq!(store.meta(log).await, Err(Error::NotFound));
        assert_eq!(store.held(), 0);
    }
}

async fn a_room_is_trimmed(store: &dyn Store) {
    let log = LogId(1);
    let one = draft("0000").weight();
    let meta = Meta { trim_bytes: Some(10 * one), ..meta("a/b") };
    store.create(log, meta, Bytes::new()).await.expect("a new log");
    let empty = store.held();
    let mut head = START;
    for n in 0..100 {
        head = store.append(log, batch(head, &[&format!("{n:0>4}")])).await.expect("accepted");
        assert!(store.held() - empty <= 10 * one as u64, "kept {}", store.held() - empty);
    }
    assert_eq!(head.seq, 100);
    assert_eq!(store.check(log, START).await, Ok(Err(Bad::Trimmed)));
    assert_eq!(store.check(log, Position::new(0, 5)).await, Ok(Err(Bad::Trimmed)));
    // The place right before the oldest kept record can be read on from.
    let page = store.read(log, Position::new(0, 90), usize::MAX).await.expect("there");
    assert_eq!(texts(&page).first().map(String::as_str), Some("0090"));
    for seq in 90..=100 {
        assert_eq!(store.check(log, Position::new(0, seq)).await, Ok(Ok(())), "{seq}");
    }
    assert_eq!(store.check(log, Position::new(0, 89)).await, Ok(Err(Bad::Trimmed)));
}

async fn held_counts_and_returns(store: &dyn Store) {
    assert_eq!(store.held(), 0);
    let (a, b) = (created(store, 1).await, created(store, 2).await);
    // What is said about a log at its creation is kept too.
    let empty = store.held();
    let head = store.append(a, batch(START, &["aaaa", "bb"])).await.expect("accepted");
    let expected = empty + (draft("aaaa").weight() + draft("bb").weight()) as u64;
    assert_eq!(store.held(), expected);
    assert!(store.append(a, batch(START, &["refused"])).await.is_err());
    assert_eq!(store.held(), expected, "what was refused costs nothing");
    store.append(a, sealing(head, &[])).await.expect("accepted");
    store.append(b, batch(START, &["c"])).await.expect("accepted");
    assert_eq!(store.held(), expected + draft("c").weight() as u64);
    store.remove(a).await.expect("forgotten");
    store.remove(b).await.expect("forgotten");
    assert_eq!(store.held(), 0);
}

/// Whatever order they come in: the log is gone, nobody waits on it, nothing is counted.
async fn removal_beats_a_racing_append(store: Arc<dyn Store>) {
    for round in 0..400_u128 {
        let log = created(&*store, round + 1).await;
        let (writer, remover, reader) = (store.clone(), store.clone(), store.clone());
        let mut racers = JoinSet::new();
        racers.spawn(async move {
            let mut head = START;
            for n in 0..6 {
                let next = Batch { seal: n == 5, ..batch(head, &["some text"]) };
                let Ok(moved) = writer.append(log, next).await else { return };
                head = moved;
            }
        });
        racers.spawn(async move {
            for _ in 0..round % 40 {
                std::hint::spin_loop();
            }
            remover.remove(log).await.expect("forgotten");
        });
        racers.spawn(async move {
            let mut at = START;
            while soon("append or removal", reader.changed(log, at)).await.is_ok() {
                let Ok(page) = reader.read(log, at, 1).await else { return };
                at = page.records.last().map_or(at, |record| record.position);
                if page.closed {
                    return;
                }
            }
        });
        while let Some(done) = racers.join_next().await {
            done.expect("no panic");
        }
        assert_eq!(store.meta(log).await, Err(Error::NotFound), "round {round}");
        store.sweep();
        assert_eq!(store.held(), 0, "round {round}");
    }
}

/// What a bounded engine does at its limits. `make(total_bytes, user_bytes)`, 0 for none.
pub(crate) async fn bounded(make: impl Fn(u64, u64) -> Arc<dyn Store>) {
    full_refuses_but_for_endings(&*make(4_000, 0), "a/b").await;
    full_refuses_but_for_endings(&*make(0, 4_000), "a/b").await;
    finished_logs_make_room(&*make(20_000, 0)).await;
}

pub(crate) async fn full_refuses_but_for_endings(store: &dyn Store, owner: &str) {
    let log = LogId(1);
    store.create(log, meta(owner), Bytes::new()).await.expect("a new log");
    let text = "x".repeat(500);
    let mut head = START;
    let refused = loop {
        match store.append(log, batch(head, &[&text])).await {
            Ok(moved) => head = moved,
            Err(error) => break error,
        }
        assert!(head.seq < 20, "there is no limit");
    };
    assert_eq!(refused, Error::Full);
    assert!(store.held() <= 4_000);
    assert_eq!(store.read(log, START, usize::MAX).await.expect("there").head, head, "nothing half-way");
    let end = store.append(log, sealing(head, &[&text])).await.expect("an ending is always accepted");
    assert_eq!(end.seq, head.seq + 1);
}

/// A running log is never dropped for room; finished ones go, the least recently read first.
async fn finished_logs_make_room(store: &dyn Store) {
    let text = "x".repeat(1_000);
    let running = LogId(100);
    store.create(running, meta("r/r"), Bytes::new()).await.expect("a new log");
    let mut head = store.append(running, batch(START, &[&text])).await.expect("accepted");
    for n in 1..=8 {
        let log = LogId(n);
        store.create(log, meta("a/b"), Bytes::new()).await.expect("a new log");
        store.append(log, sealing(START, &[&text])).await.expect("accepted");
    }
    store.read(LogId(1), START, 1).await.expect("there");
    let mut appended = 1;
    while store.append(running, batch(head, &[&text])).await.map(|moved| head = moved).is_ok() {
        appended += 1;
        let gone = |n: u128| async move { store.meta(LogId(n)).await == Err(Error::NotFound) };
        if gone(1).await {
            for n in 2..=8 {
                assert!(gone(n).await, "{n} was read longer ago than 1");
            }
        }
        assert!(appended < 50, "there is no limit");
    }
    let page = store.read(running, START, usize::MAX).await.expect("running logs stay");
    assert_eq!(page.records.len(), appended);
    assert_eq!(store.meta(LogId(1)).await, Err(Error::NotFound), "all that could go has gone");
}
