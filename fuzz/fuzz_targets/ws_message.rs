#![no_main]
//! Messages of a session's socket: no panic, and answers that are one JSON object each.

use libfuzzer_sys::fuzz_target;
use relaystream::room::message::{self, Unreadable};

fuzz_target!(|text: &str| {
    let answer = match message::parse(text) {
        Ok(envelope) => message::ack(envelope.id.as_deref(), 1),
        Err(Unreadable { id, why }) => message::error(id.as_deref(), "bad_request", &why, 1),
    };
    assert!(answer.starts_with('{') && answer.ends_with('}') && !answer.contains('\n'));
    let reset = message::reset(text, "unknown", 1);
    assert!(!reset.contains('\n'));
});
