//! What every dialect over SSE shares: bytes, cut anywhere, into frames with their events and their own bytes.
//!
//! The dialect says what a frame holds; frames without events wait here and ride along with the next that has some.

use crate::log::Raw;
use crate::sse;

use super::{DecodeError, Frame, Provider, Reader};

#[derive(Debug)]
pub(super) struct Framer {
    parser: sse::Parser,
    kept: Kept,
}

#[derive(Debug)]
struct Kept {
    /// Frames that held no event, waiting for one that does.
    held: Vec<u8>,
    dialect: Provider,
    limit: usize,
    ended: bool,
}

/// What a frame turned out to be, beside its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Something,
    /// Nothing but token counts.
    Usage,
    /// Nothing at all: it is not forwarded either.
    Nothing,
    /// The ending: later bytes are ignored.
    End,
}

impl Framer {
    /// `limit`: the largest frame accepted, in bytes.
    pub fn new(dialect: Provider, limit: usize) -> Framer {
        let kept = Kept { held: Vec::new(), dialect, limit, ended: false };
        Framer { parser: sse::Parser::new(limit), kept }
    }

    /// Takes the next bytes.
    pub fn push(
        &mut self,
        bytes: &[u8],
        frames: &mut Vec<Frame>,
        reader: &mut Reader,
    ) -> Result<(), DecodeError> {
        let (kept, mut failed) = (&mut self.kept, Ok(()));
        let fed = self.parser.feed(bytes, |frame| {
            if failed.is_ok() {
                failed = kept.take(&frame, frames, reader);
            }
        });
        // What went wrong first, however the bytes were cut: a frame that is too large comes after those that were told.
        failed.and(fed.map_err(DecodeError::from))
    }

    /// The body ended. Some servers close right after their last frame, without the blank line that the standard wants:
    /// if it ends the answer it was said; any other that is cut short was not.
    pub fn finish(&mut self, frames: &mut Vec<Frame>, reader: &mut Reader) -> Result<(), DecodeError> {
        let (kept, mut failed) = (&mut self.kept, Ok(()));
        let finished = self.parser.finish(|frame| failed = kept.take(&frame, frames, reader));
        let closed = finished.and_then(|()| {
            self.parser.feed(b"\n\n", |frame| {
                if failed.is_ok() && reader.closes(&frame) {
                    failed = kept.take(&frame, frames, reader);
                }
            })
        });
        failed.and(closed.map_err(DecodeError::from))?;
        if !kept.ended {
            let events = reader.close();
            if !events.is_empty() {
                frames.push(Frame { events, raw: kept.rest() });
            }
        }
        Ok(())
    }
}

impl Kept {
    fn take(
        &mut self,
        frame: &sse::Frame<'_>,
        frames: &mut Vec<Frame>,
        reader: &mut Reader,
    ) -> Result<(), DecodeError> {
        if self.ended {
            return Ok(());
        }
        // Mostly one: a list that grows by itself begins with room for four.
        let mut events = Vec::with_capacity(1);
        let told = reader.read(frame, &mut events)?;
        self.ended = told == Told::End;
        if told == Told::Nothing {
            return Ok(());
        }
        let own_at = self.held.len() as u32;
        self.held.extend_from_slice(frame.raw);
        if events.is_empty() {
            let limit = self.limit;
            return if self.held.len() > limit { Err(sse::TooLarge { limit }.into()) } else { Ok(()) };
        }
        // An exact copy: what is kept must not pin the read buffer's spare room.
        let bytes = std::mem::take(&mut self.held).into_boxed_slice().into();
        let raw = Raw { dialect: self.dialect as u8, own_at, usage_only: told == Told::Usage, bytes };
        frames.push(Frame { events, raw: Some(raw) });
        Ok(())
    }

    /// What still waits for an event.
    fn rest(&mut self) -> Option<Raw> {
        let held = std::mem::take(&mut self.held);
        let own_at = held.len() as u32;
        let bytes = held.into_boxed_slice().into();
        let raw = Raw { dialect: self.dialect as u8, own_at, usage_only: false, bytes };
        (own_at > 0).then_some(raw)
    }
}
