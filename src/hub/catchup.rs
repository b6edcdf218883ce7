//! What a viewer of a session has missed, from the logs, up to a moment of the mirror.
//!
//! Private to the viewer and made as it is read: a part of a stream at a time, so that coming late costs the
//! server no more than one slice of memory.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use super::Session;
use super::mirror::{Snapshot, encode, encode_talk};
use crate::event::Status;
use crate::log::transcript::Transcript;
use crate::log::{Bad, EventId, LogId, Page, Position, Record};
use crate::relay::Relay;
use crate::relay::tail::{End, Tail};
use crate::room::Vector;
use crate::room::message::{self, Summary};
use crate::room::talk::Text;
use crate::store::Error;
use crate::surface::native;

/// Records encoded at a time.
const SLICE_RECORDS: usize = 2_000;
/// Bytes of the room's log that are read at a time.
const SLICE_BYTES: usize = 256 * 1024;

/// One stream's missing part.
struct Part {
    n: u32,
    tail: Arc<Tail>,
    from: Position,
    upto: Position,
    /// The seq of the room's record that closed it, if this part comes to its end.
    closed: Option<u64>,
}

/// A viewer's way from where it stood to a moment of the mirror.
pub struct CatchUp {
    room: LogId,
    vector: Vector,
    target: Vector,
    resets: Vec<(Option<String>, Bad)>,
    parts: VecDeque<Part>,
    /// What people said.
    talk: VecDeque<Record>,
}

/// As much of what a viewer holds as is true: places that the logs know.
pub async fn confirmed(relay: &Relay, session: &Session, held: &Vector) -> Result<Vector, Error> {
    let mut confirmed = Vector::default();
    if relay.store.check(session.log, held.room).await?.is_ok() {
        confirmed.room = held.room;
    }
    for (n, entry) in session.streams() {
        let Some(at) = held.streams.get(&n) else { continue };
        match relay.store.check(entry.stream, *at).await {
            Ok(Ok(())) => _ = confirmed.streams.insert(n, *at),
            Ok(Err(_)) | Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(confirmed)
}

impl CatchUp {
    /// `after`: the id that the viewer holds, if any. A fresh viewer gets everything that is kept.
    pub async fn new(
        relay: &Relay,
        room: LogId,
        after: Option<&str>,
        moment: &Snapshot,
    ) -> Result<CatchUp, Error> {
        let (mut vector, mut resets) = (Vector::default(), Vec::new());
        match after.map(Vector::parse) {
            None => {}
            Some(Err(_)) => resets.push((None, Bad::Unknown)),
            Some(Ok((log, _))) if log != room => resets.push((None, Bad::Foreign)),
            Some(Ok((_, held))) => match relay.store.check(room, held.room).await? {
                Ok(()) => vector = held,
                Err(bad) => resets.push((None, bad)),
            },
        }
        if vector.streams.keys().any(|n| !moment.room.streams.contains_key(n)) {
            resets.push((None, Bad::Expired));
            vector = Vector::default();
        }
        // What the mirror still reads ends after this moment, even if the room has closed it: no id may leave it out.
        for n in moment.tails.keys() {
            if let Some(from) = moment.room.resume(&vector, *n) {
                vector.streams.insert(*n, from);
            }
        }
        let parts = parts(relay, &vector, moment, &mut resets).await?;
        let talk = talk(relay, room, vector.room, moment.vector.room).await?;
        Ok(CatchUp { room, vector, target: moment.vector.clone(), resets, parts, talk })
    }

    pub fn resets(&self) -> &[(Option<String>, Bad)] {
        &self.resets
    }

    /// What must be said before anything else.
    pub fn preface(&self) -> Option<Bytes> {
        let mut out = Vec::new();
        for (stream, bad) in &self.resets {
            let mut data = json!({"reason": bad.as_str()});
            if let Some(stream) = stream {
                data["stream"] = stream.as_str().into();
            }
            out.extend(native::aside("reset", None, &data));
        }
        (!out.is_empty()).then(|| out.into())
    }

    /// The next slice of events; None when the viewer has arrived at the moment.
    pub fn next_slice(&mut self) -> Option<Bytes> {
        // In the order of the room's log: one id tells of all that lies before a place in it.
        let closed = self.parts.front().map_or(u64::MAX, |part| part.closed.unwrap_or(u64::MAX));
        let bytes = match self.talk.front() {
            Some(said) if said.position.seq < closed => self.slice_of_talk(closed),
            _ => self.slice_of_stream()?,
        };
        if self.parts.is_empty() && self.talk.is_empty() {
            self.vector = self.target.clone();
        }
        Some(bytes.into())
    }

    /// What was said before the stream that closed at `closed` had ended.
    fn slice_of_talk(&mut self, closed: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < SLICE_BYTES
            && let Some(said) = self.talk.pop_front_if(|said| said.position.seq < closed)
        {
            bytes.extend(encode_talk(self.room, &mut self.vector, &said));
        }
        bytes
    }

    fn slice_of_stream(&mut self) -> Option<Vec<u8>> {
        let part = self.parts.front_mut()?;
        let records = part.tail.with_records(|all| {
            let missing = &all[part.from.seq as usize..part.upto.seq as usize];
            missing[..missing.len().min(SLICE_RECORDS)].to_vec()
        });
        part.from = records.last().map_or(part.upto, |record| record.position);
        let bytes = encode(self.room, &mut self.vector, part.n, part.tail.log, &records);
        if part.from >= part.upto {
            if let Some(closed) = part.closed.filter(|closed| *closed > self.vector.room.seq) {
                self.vector.room = Position::new(self.target.room.epoch, closed);
            }
            if part.closed.is_some() {
                self.vector.streams.remove(&part.n);
            }
            self.parts.pop_front();
        }
        Some(bytes)
    }

    /// The same as WebSocket messages, all tokens of a part merged.
    pub fn next_frames(&mut self) -> Option<Vec<String>> {
        if let Some(said) = self.talk.pop_front() {
            return Some(message::talk(self.room, &said).iter().map(ToString::to_string).collect());
        }
        let part = self.parts.pop_front()?;
        let records =
            part.tail.with_records(|all| all[part.from.seq as usize..part.upto.seq as usize].to_vec());
        Some(message::frames(part.tail.log, &records))
    }
}

/// What is missing of streams, those that have ended first, as they ended: each is then covered by the room's position
/// and leaves the id.
async fn parts(
    relay: &Relay,
    vector: &Vector,
    moment: &Snapshot,
    resets: &mut Vec<(Option<String>, Bad)>,
) -> Result<VecDeque<Part>, Error> {
    let mut parts = VecDeque::new();
    for (n, entry) in &moment.room.streams {
        let Some(mut from) = moment.room.resume(vector, *n) else { continue };
        let tail = match moment.tails.get(n) {
            Some(tail) => tail.clone(),
            None => match relay.tail(entry.stream).await {
                Ok(tail) => tail,
                Err(Error::NotFound) => {
                    if from != Position::START {
                        resets.push((Some(entry.stream.to_string()), Bad::Expired));
                    }
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        // The room says that it has ended; its own log may not have come here as far yet.
        let closed = entry.closed.filter(|_| !moment.tails.contains_key(n));
        if closed.is_some() {
            tail.ended().await;
            if !tail.is_over() {
                return Err(Error::Unavailable("a stream could not be read to its end".into()));
            }
        }
        if let Err(bad) = relay.check(&tail, EventId { log: entry.stream, position: from }).await? {
            resets.push((Some(entry.stream.to_string()), bad));
            from = Position::START;
        }
        let upto = moment.vector.streams.get(n).copied().unwrap_or_else(|| tail.head());
        if from < upto {
            parts.push_back(Part { n: *n, tail, from, upto, closed });
        }
    }
    parts.make_contiguous().sort_by_key(|part| part.closed.unwrap_or(u64::MAX));
    Ok(parts)
}

/// What people said after `from`, which is a good position or the start, up to `upto`.
pub async fn talk(
    relay: &Relay,
    room: LogId,
    mut from: Position,
    upto: Position,
) -> Result<VecDeque<Record>, Error> {
    let mut talk = VecDeque::new();
    while from < upto {
        let Page { records, .. } = relay.store.read(room, from, SLICE_BYTES).await?;
        let Some(last) = records.last() else { break };
        from = last.position;
        talk.extend(
            records.into_iter().filter(|record| record.position <= upto && Text::of(record).is_some()),
        );
    }
    Ok(talk)
}

/// A WebSocket viewer comes in: every stream's text so far, but for those whose position it holds, which go on from
/// there.
pub struct Arrival {
    pub streams: Vec<Summary>,
    pub resets: Vec<(String, Bad)>,
    pub missed: CatchUp,
}

impl Arrival {
    /// `after` maps a stream's id to the event id that the viewer holds; `heard`: where it stands in the room's log, if
    /// it was here before.
    pub async fn new(
        relay: &Relay,
        room: LogId,
        after: &std::collections::BTreeMap<String, String>,
        heard: Option<Position>,
        moment: &Snapshot,
    ) -> Result<Arrival, Error> {
        let everything = parts(relay, &Vector::default(), moment, &mut Vec::new()).await?;
        let (mut streams, mut resets, mut parts) = (Vec::new(), Vec::new(), VecDeque::new());
        for part in everything {
            let stream = part.tail.log;
            let held = after.get(&stream.to_string()).map(|id| held(&part.tail, id));
            let (mut text, mut position) = (None, part.upto);
            match held {
                Some(Ok(own)) if own <= part.upto => {
                    position = own;
                    if own < part.upto {
                        parts.push_back(Part { from: own, tail: part.tail.clone(), ..part });
                    }
                }
                other => {
                    // A place beyond the mirror's, learned by another way: the mirror's next entries would be told twice.
                    if let Some(held) = other {
                        resets.push((stream.to_string(), held.err().unwrap_or(Bad::Ahead)));
                    }
                    let all = part.tail.with_records(|all| Transcript::of(&all[..part.upto.seq as usize]));
                    text = Some(all.said());
                }
            }
            let status = match part.tail.end() {
                Some(End::Ended(status)) if part.tail.head() == position => status,
                _ => Status::Running,
            };
            let start = part.tail.with_records(|all| Transcript::of(&all[..all.len().min(1)])).start;
            let (model, by) = start.map(|start| (start.model, start.by)).unwrap_or_default();
            streams.push((part.n, Summary { stream, position, status, model, by, text }));
        }
        streams.sort_unstable_by_key(|(n, _)| *n);
        let streams: Vec<Summary> = streams.into_iter().map(|(_, summary)| summary).collect();
        for (log, id) in after {
            let known = streams.iter().any(|summary| summary.stream.to_string() == *log);
            if !known {
                let readable = log.parse::<LogId>().is_ok() && id.parse::<EventId>().is_ok();
                resets.push((log.clone(), if readable { Bad::Expired } else { Bad::Unknown }));
            }
        }
        let talk = match heard {
            Some(from) => talk(relay, room, from, moment.vector.room).await?,
            None => VecDeque::new(),
        };
        let (vector, target) = (moment.vector.clone(), moment.vector.clone());
        let missed = CatchUp { room, vector, target, resets: Vec::new(), parts, talk };
        Ok(Arrival { streams, resets, missed })
    }
}

fn held(tail: &Tail, id: &str) -> Result<Position, Bad> {
    let id: EventId = id.parse().map_err(|_| Bad::Unknown)?;
    tail.check(id)?;
    Ok(id.position)
}
