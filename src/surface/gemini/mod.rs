//! Google's Gemini API towards clients.

use super::Format;
use crate::log::{LogId, Record};

#[derive(Debug)]
pub struct Encoder {
    log: LogId,
}

impl Encoder {
    pub fn new(log: LogId) -> Encoder {
        Encoder { log }
    }

    pub fn encode(&mut self, _record: &Record, _out: &mut Vec<u8>) {
        todo!()
    }
}

/// The whole answer.
pub fn collect(_log: LogId, _records: &[Record]) -> Vec<u8> {
    todo!()
}
