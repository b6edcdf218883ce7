#![no_main]
//! Messages of a session's socket: no panic, and answers that are one JSON object each.

use libfuzzer_sys::fuzz_target;
use relaystream::room::message;

fuzz_target!(|text: &str| {
    let answer = match message::parse(text) {
        Ok(envelope) => message::ack(envelope.id.as_deref(), 1),
        Err(error) => message::error(None, "bad_request", &error, 1),
    };
    assert!(answer.starts_with('{') && answer.ends_with('}') && !answer.contains('\n'));
    let reset = message::reset(text, "unknown", 1);
    assert!(!reset.contains('\n'));
});
