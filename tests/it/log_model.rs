//! The log against a model too simple to be wrong, and renditions against encoding everything at once.

use std::sync::Arc;

use bytes::Bytes;
use relaystream::event::{Done, Event, Notice, Status, Tool, Usage};
use relaystream::log::{Bad, Batch, Draft, Framing, Log, Position, Raw, Record, Refused};
use relaystream::relay::rendition::{Place, Rendition};
use relaystream::surface::{Format, Surface};

use crate::fixtures::{self, LOG, draft, encode, formats, log_of, number, start};
use crate::heard::{Heard, spoken};
use crate::seed::{Random, Seed};

/// Everything that was ever appended, and how much of it is no longer kept.
#[derive(Default)]
struct Model {
    all: Vec<Record>,
    trimmed: usize,
    head: Position,
    closed: bool,
}

impl Model {
    fn append(&mut self, batch: &Batch) -> Result<Position, Refused> {
        if self.closed {
            return Err(Refused::Closed);
        }
        if batch.expected != self.head || batch.epoch < self.head.epoch {
            return Err(Refused::Stale { head: self.head });
        }
        for draft in &batch.drafts {
            self.head = Position::new(batch.epoch, self.all.len() as u64 + 1);
            self.all.push(Record { position: self.head, draft: Arc::new(draft.clone()) });
        }
        self.closed = batch.seal;
        Ok(self.head)
    }

    fn weight(&self) -> usize {
        self.all[self.trimmed..].iter().map(|record| record.draft.weight()).sum()
    }

    fn trim(&mut self, limit: usize) {
        while self.weight() > limit {
            self.trimmed += 1;
        }
    }

    fn read(&self, after: Position, limit: usize) -> Vec<Record> {
        let from = self.trimmed.max(after.seq as usize).min(self.all.len());
        let (mut size, mut page) = (0, Vec::new());
        for record in &self.all[from..] {
            size += record.draft.weight();
            if !page.is_empty() && size > limit {
                break;
            }
            page.push(record.clone());
        }
        page
    }

    fn check(&self, position: Position) -> Result<(), Bad> {
        if position.seq > self.all.len() as u64 {
            return Err(Bad::Ahead);
        }
        if position.seq < self.trimmed as u64 {
            return Err(Bad::Trimmed);
        }
        let there = match position.seq {
            0 => 0,
            seq => self.all[seq as usize - 1].position.epoch,
        };
        match position.epoch {
            epoch if epoch == there => Ok(()),
            epoch if epoch < there => Err(Bad::Lost),
            _ => Err(Bad::Ahead),
        }
    }
}

fn any_position(random: &mut Random, model: &Model) -> Position {
    let seq = random.below(model.all.len() + 3) as u64;
    let there = model.all.get((seq as usize).wrapping_sub(1)).map_or(0, |record| record.position.epoch);
    let epoch = if random.chance(60) { there } else { random.below(6) as u16 };
    Position::new(epoch, seq)
}

fn any_batch(random: &mut Random, model: &Model, tag: usize) -> Batch {
    let expected = if random.chance(75) { model.head } else { any_position(random, model) };
    let epoch = match random.below(10) {
        0 => expected.epoch.saturating_sub(1),
        1 => expected.epoch + 1 + random.below(3) as u16,
        _ => expected.epoch,
    };
    let some =
        |n| Draft { at_ms: n as u64, ..draft(&Event::Token(format!("{tag}.{n} {}", "x".repeat(n * 7)))) };
    let drafts = (0..random.below(5)).map(some).collect();
    Batch { expected, epoch, drafts, seal: random.chance(1) }
}

#[test]
fn the_log_does_what_the_model_does() {
    let seed = Seed::of_this_run();
    let mut random = seed.random();
    for _ in 0..200 {
        let (mut log, mut model) = (Log::default(), Model::default());
        for tag in 0..120 {
            match random.below(10) {
                0..5 => {
                    let batch = any_batch(&mut random, &model, tag);
                    assert_eq!(log.append(batch.clone()), model.append(&batch), "{batch:?}");
                }
                5 if random.chance(30) => {
                    let limit = random.below(model.weight() + 100);
                    log.trim(limit);
                    model.trim(limit);
                }
                6 | 7 => {
                    let at = any_position(&mut random, &model);
                    assert_eq!(log.check(at), model.check(at), "{at:?} of {:?}", model.head);
                }
                _ => {
                    let at = any_position(&mut random, &model);
                    let limit = random.below(2_000);
                    if model.check(at).is_ok() {
                        let page = log.read(at, limit);
                        assert_eq!(page.records, model.read(at, limit), "after {at:?}, {limit} bytes");
                        assert_eq!((page.head, page.closed), (model.head, model.closed));
                    }
                }
            }
            assert_eq!((log.head(), log.closed()), (model.head, model.closed));
            assert_eq!(log.weight(), model.weight());
        }
    }
}

/// An answer of made-up events: lone ones, and frames of several that carry the provider's bytes.
fn made_up(random: &mut Random, events: usize, longest: usize) -> Vec<Record> {
    let mut drafts = vec![draft(&start())];
    let mut said = 0;
    while drafts.len() < events {
        let text = |random: &mut Random| "wör🦀 ".repeat(1 + random.below(longest));
        if random.chance(50) {
            drafts.push(draft(&match random.below(8) {
                0 => Event::Reasoning(text(random)),
                1 => Event::Tool(Tool {
                    index: 0,
                    id: Some("c".into()),
                    name: Some("f".into()),
                    arguments: None,
                    signature: None,
                }),
                2 => Event::Usage(Usage { input_tokens: 1, ..Usage::default() }),
                3 => Event::Notice(Notice {
                    code: "retried".into(),
                    message: "again".into(),
                    provider: None,
                    model: None,
                }),
                _ => Event::Token(text(random)),
            }));
            continue;
        }
        said += 1;
        let (thought, word) = (text(random), text(random));
        let delta =
            serde_json::json!({"choices": [{"index": 0, "delta": {"reasoning": thought, "content": word}}]});
        let bytes = Bytes::from(format!("data: {delta}\n\n"));
        let part = Draft { framing: Framing::Part(1), ..draft(&Event::Reasoning(thought)) };
        let raw = Raw { dialect: 1, own_at: 0, usage_only: false, bytes };
        drafts.extend([part, Draft { framing: Framing::Raw(raw), ..draft(&Event::Token(word)) }]);
    }
    assert!(events < 20 || said > 0);
    drafts.push(draft(&Event::Done(Done::ended(Status::Completed))));
    number(drafts)
}

fn read_all(rendition: &Rendition, from: u64) -> Vec<u8> {
    let (mut bytes, mut at) = (Vec::new(), from);
    while let Some(piece) = rendition.slice(at) {
        assert!(!piece.is_empty());
        at += piece.len() as u64;
        bytes.extend_from_slice(&piece);
    }
    assert_eq!(at, rendition.len());
    bytes
}

/// Pushes in random portions, cut anywhere, even inside a frame; readers pull at random in between.
fn interleave(random: &mut Random, format: Format, records: &[Record], what: &str) -> Rendition {
    let expected = encode(format, records);
    let mut rendition = Rendition::new(format, LOG);
    let mut readers: Vec<(u64, Vec<u8>)> = vec![(0, Vec::new()); 4];
    let mut rest = records;
    while !rest.is_empty() {
        let most = rest.len().min(random.below(400) + 1);
        let (now, later) = rest.split_at(random.below(most) + 1);
        rendition.push(now);
        rest = later;
        for (at, got) in &mut readers {
            while random.chance(60) {
                let Some(piece) = rendition.slice(*at) else { break };
                let taken = if random.chance(50) { piece.len() } else { 1 + random.below(piece.len()) };
                got.extend_from_slice(&piece[..taken]);
                *at += taken as u64;
            }
        }
    }
    assert_eq!(rendition.len(), expected.len() as u64, "{what}");
    for (at, mut got) in readers {
        got.extend(read_all(&rendition, at));
        assert!(got == expected, "{what}: a reader got other bytes");
    }
    for _ in 0..20 {
        let from = random.below(expected.len() + 1);
        assert!(read_all(&rendition, from as u64) == expected[from..], "{what}: from byte {from}");
    }
    rendition
}

/// Standing at any event, what comes next is exactly the rest.
fn resume_everywhere(rendition: &Rendition, records: &[Record], what: &str) {
    let surface = rendition.format.surface;
    let whole = encode(rendition.format, records);
    for at in 0..=records.len() {
        let position = at.checked_sub(1).map_or(Position::START, |at| records[at].position);
        let (head, from) = match rendition.place(position) {
            Place::At(offset) => (Bytes::new(), offset),
            Place::Inside { upto, then } => {
                assert!(upto > position.seq, "{what}: {at}");
                (rendition.remainder(records, position, upto), then)
            }
        };
        let mut bytes = head.to_vec();
        bytes.extend(read_all(rendition, from));
        if head.is_empty() {
            assert!(whole.ends_with(&bytes), "{what}: {at}");
        }
        let heard = Heard::of(surface, &bytes);
        let (text, reasoning) = spoken(&records[at..]);
        assert_eq!(heard.text, text, "{what}: after event {at}");
        if surface != Surface::Plain {
            assert_eq!(heard.reasoning, reasoning, "{what}: after event {at}");
        }
        assert_eq!(heard.ended, at < records.len(), "{what}: after event {at}");
    }
}

#[test]
fn renditions_of_the_fixtures_are_the_same_however_they_grow() {
    let seed = Seed::of_this_run();
    let mut random = seed.random();
    for fixture in fixtures::all() {
        let records = log_of(&fixture);
        for (name, format) in formats() {
            let what = format!("{} as {name}", fixture.name);
            let rendition = interleave(&mut random, format, &records, &what);
            resume_everywhere(&rendition, &records, &what);
        }
    }
}

#[test]
fn renditions_of_made_up_answers_are_the_same_however_they_grow() {
    let seed = Seed::of_this_run();
    let mut random = seed.random();
    for round in 0..12 {
        let events = 1 + random.below(120);
        let records = made_up(&mut random, events, 12);
        for (name, format) in formats() {
            let what = format!("round {round} as {name}");
            let rendition = interleave(&mut random, format, &records, &what);
            resume_everywhere(&rendition, &records, &what);
        }
    }
}

/// Beyond the size of one slice: a chunk is cut at event borders, and nothing falls off its end.
#[test]
fn large_renditions_lose_nothing() {
    let seed = Seed::of_this_run();
    let mut random = seed.random();
    let records = made_up(&mut random, 800, 600);
    for (name, format) in formats().into_iter().take(3) {
        let expected = encode(format, &records);
        assert!(expected.len() > 600 * 1024, "{name}: {} bytes are not large", expected.len());
        // Also cut right inside a frame: the store's pages end where their bytes do.
        let inside = records
            .iter()
            .rposition(|record| matches!(record.draft.framing, Framing::Part(_)))
            .expect("frames");
        let mut rendition = Rendition::new(format, LOG);
        rendition.push(&records[..=inside]);
        rendition.push(&records[inside + 1..]);
        assert!(read_all(&rendition, 0) == expected, "{name}: in two pushes");
        let last = records[inside].position;
        let (upto, then) = match rendition.place(last) {
            Place::Inside { upto, then } => (upto, then),
            place => panic!("{name}: {place:?}"),
        };
        let mut rest = rendition.remainder(&records, last, upto).to_vec();
        rest.extend(read_all(&rendition, then));
        let (text, _) = spoken(&records[inside + 1..]);
        assert_eq!(Heard::of(format.surface, &rest).text, text, "{name}");
        interleave(&mut random, format, &records, name);
    }
}

#[test]
fn slices_are_shared_not_copied() {
    let records = made_up(&mut Random::new(1), 40, 4);
    let mut rendition = Rendition::new(Format::new(Surface::Native), LOG);
    rendition.push(&records);
    let (a, b) = (rendition.slice(10).expect("there"), rendition.slice(10).expect("there"));
    assert_eq!(a.as_ptr(), b.as_ptr());
    let shared: Arc<[u8]> = a.to_vec().into();
    assert_eq!(*shared, *b);
}
