//! The plain surface: token text as it is, one unnamed event a token, then `[DONE]`. A failure is an event named
//! `error` whose data is the message.

use crate::event::{Done, Event, Kind, Status};
use crate::log::{EventId, LogId, Record};
use crate::sse;

#[derive(Debug)]
pub struct Encoder {
    log: LogId,
}

impl Encoder {
    pub fn new(log: LogId) -> Encoder {
        Encoder { log }
    }

    pub fn encode(&mut self, record: &Record, out: &mut Vec<u8>) {
        let Some(kind @ (Kind::Token | Kind::Refusal | Kind::Done)) = Kind::from_u8(record.draft.kind) else {
            return;
        };
        let id = EventId { log: self.log, position: record.position };
        match Event::parse(kind, &record.draft.payload) {
            Ok(Event::Token(text) | Event::Refusal(text)) => sse::write_text(out, Some(&id), &text),
            Ok(Event::Done(Done { status: Status::Completed, .. })) => {
                sse::write(out, Some(&id), "", None, b"[DONE]");
            }
            Ok(Event::Done(done)) => {
                let message =
                    done.error.map_or_else(|| done.status.as_str().to_owned(), |error| error.message);
                out.extend_from_slice(b"event: error\n");
                sse::write_text(out, Some(&id), &message);
            }
            _ => {}
        }
    }
}
