//! How anything is written to a file of the store: one frame, found again by its checksums. Pure: bytes in, bytes out.
//!
//! ```text
//! magic 2 · kind 1 · 0 · length of the body 4 · log 16 · CRC-32 of these 24 · CRC-32 of the first 28 and the body · body
//! ```
//!
//! Numbers are little-endian. The head has a checksum of its own, so that a flaw in a body names its log and hides no
//! other frame; after a flawed head the reader looks for the next frame that is whole. What bodies hold is in `record.rs`.

use crc32fast::Hasher;

use crate::log::LogId;

pub const HEAD: usize = 32;
const MAGIC: [u8; 2] = [0x52, 0xF1];
/// Nothing that is written is longer; a length beyond this is a flaw.
pub const LONGEST: usize = 1 << 30;

/// What a frame is. Values are stored: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Overwritten: what was here has been removed. Its body is not checked, since overwriting may be cut short.
    Erased = 0,
    /// A log began.
    Create = 1,
    /// One append to a log.
    Append = 2,
    /// A whole log, in place of all that was said about it before.
    State = 3,
    /// A log was forgotten.
    Remove = 4,
    /// A key is held.
    Claim = 5,
    /// A key was given up.
    Release = 6,
    /// A log is in an archive from now on.
    Archived = 7,
}

impl Kind {
    fn from_u8(kind: u8) -> Option<Kind> {
        use Kind::{Append, Archived, Claim, Create, Erased, Release, Remove, State};
        let all = [Erased, Create, Append, State, Remove, Claim, Release, Archived];
        all.into_iter().find(|known| *known as u8 == kind)
    }
}

/// Room for a frame's head, and for a body of this length, which is written behind it; then `finish` fills the head in.
pub fn begin(body: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + body);
    frame.resize(HEAD, 0);
    frame
}

/// Makes a frame of what was written after [`begin`].
pub fn finish(mut frame: Vec<u8>, kind: Kind, log: LogId) -> Vec<u8> {
    let body = &frame[HEAD..];
    let mut head = head(kind, log, body.len());
    let mut crc = Hasher::new();
    crc.update(&head[..28]);
    crc.update(body);
    head[28..].copy_from_slice(&crc.finalize().to_le_bytes());
    frame[..HEAD].copy_from_slice(&head);
    frame
}

/// What a frame with a body of this length is overwritten with: its text is gone, its place is still told.
pub fn erased(body: usize) -> Vec<u8> {
    let mut frame = head(Kind::Erased, LogId(0), body).to_vec();
    frame.resize(HEAD + body, 0);
    frame
}

fn head(kind: Kind, log: LogId, body: usize) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..2].copy_from_slice(&MAGIC);
    head[2] = kind as u8;
    let length = u32::try_from(body).expect("a batch is bounded by the limits far below 4 GiB");
    head[4..8].copy_from_slice(&length.to_le_bytes());
    head[8..24].copy_from_slice(&log.0.to_le_bytes());
    let crc = crc32fast::hash(&head[..24]);
    head[24..28].copy_from_slice(&crc.to_le_bytes());
    head
}

/// A frame's head that is sound by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub kind: Kind,
    pub log: LogId,
    /// Of the body.
    pub length: usize,
}

impl Head {
    pub fn parse(bytes: &[u8]) -> Option<Head> {
        let head: &[u8; HEAD] = bytes.first_chunk()?;
        if head[..2] != MAGIC || crc32fast::hash(&head[..24]).to_le_bytes() != head[24..28] {
            return None;
        }
        let length = u32::from_le_bytes(*head[4..].first_chunk()?) as usize;
        let log = LogId(u128::from_le_bytes(*head[8..].first_chunk()?));
        let kind = Kind::from_u8(head[2]).filter(|_| length <= LONGEST)?;
        Some(Head { kind, log, length })
    }
}

/// What a reader finds at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    Frame {
        at: usize,
        head: Head,
        body: &'a [u8],
    },
    /// Flawed, and there is more after it. `head` if that much is sound.
    Damaged {
        at: usize,
        length: usize,
        head: Option<Head>,
    },
    /// From here to the end nothing is whole: what a crash leaves of the last write. `head` if that much is sound.
    Torn {
        at: usize,
        head: Option<Head>,
    },
}

/// Goes through a file's bytes, frame by frame.
#[derive(Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    pub fn new(bytes: &'a [u8]) -> Frames<'a> {
        Frames { bytes, at: 0 }
    }

    /// The next place at or after `from` where a whole frame begins.
    fn whole_after(&self, from: usize) -> Option<usize> {
        memchr::memmem::find_iter(self.bytes.get(from..)?, &MAGIC)
            .map(|at| from + at)
            .find(|at| whole(&self.bytes[*at..]).is_some())
    }
}

fn whole(bytes: &[u8]) -> Option<(Head, &[u8])> {
    let head = Head::parse(bytes)?;
    let body = bytes.get(HEAD..HEAD + head.length)?;
    if head.kind == Kind::Erased {
        return Some((head, &[]));
    }
    let mut crc = Hasher::new();
    crc.update(&bytes[..28]);
    crc.update(body);
    (crc.finalize().to_le_bytes() == bytes[28..HEAD]).then_some((head, body))
}

impl<'a> Iterator for Frames<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        let at = self.at;
        let rest = self.bytes.get(at..).filter(|rest| !rest.is_empty())?;
        if let Some((head, body)) = whole(rest) {
            self.at = at + HEAD + head.length;
            return Some(Found::Frame { at, head, body });
        }
        let head = Head::parse(rest);
        // A sound head tells where the next frame begins; nothing inside a body is taken for one.
        let from = at + head.map_or(1, |head| HEAD + head.length);
        match self.whole_after(from) {
            Some(next) => {
                // Between the end of this one and the next whole one lie others without a sound head, or with one:
                // each is told by itself.
                let end = if head.is_some() { from } else { self.headed(from, next) };
                self.at = end;
                Some(Found::Damaged { at, length: end - at, head })
            }
            None => {
                self.at = self.bytes.len();
                Some(Found::Torn { at, head })
            }
        }
    }
}

impl Frames<'_> {
    /// The first place before `next` with a sound head, else `next`.
    fn headed(&self, from: usize, next: usize) -> usize {
        memchr::memmem::find_iter(&self.bytes[from..next], &MAGIC)
            .map(|at| from + at)
            .find(|at| Head::parse(&self.bytes[*at..]).is_some_and(|head| at + HEAD + head.length <= next))
            .unwrap_or(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(log: u128, body: &[u8]) -> Vec<u8> {
        let mut frame = begin(0);
        frame.extend_from_slice(body);
        finish(frame, Kind::Append, LogId(log))
    }

    fn bodies(bytes: &[u8]) -> Vec<Vec<u8>> {
        Frames::new(bytes)
            .filter_map(
                |found| if let Found::Frame { body, .. } = found { Some(body.to_vec()) } else { None },
            )
            .collect()
    }

    #[test]
    fn every_length_of_a_cut_file_gives_whole_frames_and_says_that_it_is_torn() {
        let frames: Vec<_> = (0..4).map(|n| frame(n, &vec![b'a' + n as u8; 40 * n as usize])).collect();
        let (whole, mut ends) = (frames.concat(), vec![0]);
        frames.iter().for_each(|frame| ends.push(ends[ends.len() - 1] + frame.len()));
        for cut in 0..=whole.len() {
            let found: Vec<_> = Frames::new(&whole[..cut]).collect();
            let complete = ends.iter().filter(|end| **end > 0 && **end <= cut).count();
            assert_eq!(bodies(&whole[..cut]).len(), complete, "{cut}");
            let torn = matches!(found.last(), Some(Found::Torn { at, .. }) if *at == ends[complete]);
            assert_eq!(torn, !ends.contains(&cut), "{cut}");
            assert!(!found.iter().any(|found| matches!(found, Found::Damaged { .. })), "{cut}");
        }
    }

    #[test]
    fn a_flipped_bit_costs_one_frame_and_no_other() {
        let frames: Vec<_> = (0..3).map(|n| frame(n, b"some text")).collect();
        let (whole, length) = (frames.concat(), frames[0].len());
        for bit in 0..8 * whole.len() {
            let mut flawed = whole.clone();
            flawed[bit / 8] ^= 1 << (bit % 8);
            let hit = bit / 8 / length;
            let left: Vec<_> = (0..3).filter(|n| *n != hit).map(|_| b"some text".to_vec()).collect();
            assert_eq!(bodies(&flawed), left, "bit {bit}");
            let named = Frames::new(&flawed).find_map(|found| match found {
                Found::Damaged { at, length: l, head } => Some((at, l, head.map(|head| head.log))),
                Found::Torn { at, head } => Some((at, length, head.map(|head| head.log))),
                Found::Frame { .. } => None,
            });
            let (at, l, log) = named.expect("it is told");
            assert_eq!((at, l), (hit * length, length), "bit {bit}");
            assert!(log.is_none_or(|log| log == LogId(hit as u128)), "bit {bit}: another's name");
        }
    }

    #[test]
    fn what_was_erased_is_passed_over_even_half_done() {
        let (first, second) = (frame(1, b"secret"), frame(2, b"other"));
        let mut bytes = [first.clone(), second].concat();
        bytes[..HEAD].copy_from_slice(&erased(6)[..HEAD]);
        assert_eq!(bodies(&bytes), [b"".to_vec(), b"other".to_vec()]);
    }
}
