//! Google's Gemini API.

use super::framer::{Framer, Told};
use super::{Ask, DecodeError, Frame, Provider};
use crate::chat::{Invalid, Request};
use crate::event::{Done, Event, Status};
use crate::sse;

pub fn ask(_request: &Request, _model: &str) -> Result<Ask, Invalid> {
    todo!()
}

#[derive(Debug)]
pub struct Decoder {
    framer: Framer,
    state: State,
}

#[derive(Debug, Default)]
struct State {}

impl Decoder {
    pub fn new(limit: usize) -> Decoder {
        Decoder { framer: Framer::new(Provider::Gemini, limit), state: State::default() }
    }

    pub fn push(&mut self, bytes: &[u8], frames: &mut Vec<Frame>) -> Result<(), DecodeError> {
        let state = &mut self.state;
        self.framer.push(bytes, frames, |frame, events| state.read(frame, events))
    }

    pub fn finish(&mut self, frames: &mut Vec<Frame>) -> Result<(), DecodeError> {
        let state = &mut self.state;
        self.framer.finish(frames, |_| false, |frame, events| state.read(frame, events))
    }
}

impl State {
    fn read(&mut self, _frame: &sse::Frame<'_>, _events: &mut Vec<Event>) -> Result<Told, DecodeError> {
        todo!()
    }
}

pub fn whole(body: &[u8]) -> Result<Vec<Frame>, DecodeError> {
    Ok(super::whole(Provider::Gemini, body, Vec::new(), Done::ended(Status::Completed)))
}
