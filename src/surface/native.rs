//! The native surface: an SSE event for each event of the log, `event:` its type, `data:` its JSON, `id:` the
//! position after it. The data is the log's payload itself.

use crate::event::Kind;
use crate::log::{EventId, LogId, Record};
use crate::sse;

/// How long a browser waits before it reconnects, told in the first event, in milliseconds.
pub const RETRY_MS: u64 = 1000;

#[derive(Debug)]
pub struct Encoder {
    log: LogId,
}

impl Encoder {
    pub fn new(log: LogId) -> Encoder {
        Encoder { log }
    }

    pub fn encode(&mut self, record: &Record, out: &mut Vec<u8>) {
        let Some(kind) = Kind::from_u8(record.draft.kind) else { return };
        let id = EventId { log: self.log, position: record.position };
        let retry = (kind == Kind::Start).then_some(RETRY_MS);
        sse::write(out, Some(&id), kind.name(), retry, &record.draft.payload);
    }
}

/// An event that is not in the log and so has no id: `reset`, or a `notice` about the connection.
pub fn aside(event: &str, retry_ms: Option<u64>, data: &serde_json::Value) -> Vec<u8> {
    let mut out = Vec::new();
    sse::write(&mut out, None, event, retry_ms, data.to_string().as_bytes());
    out
}
