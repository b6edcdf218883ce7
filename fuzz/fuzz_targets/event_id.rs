#![no_main]
//! Ids: what is accepted is exactly what is printed, for one log and for a whole session.

use libfuzzer_sys::fuzz_target;
use relaystream::log::{EventId, LogId};
use relaystream::room::Vector;

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<EventId>() {
        assert_eq!(id.to_string(), text);
        assert!(text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase() || byte == b'-'));
    }
    if let Ok(log) = text.parse::<LogId>() {
        assert_eq!(log.to_string(), text);
    }
    if let Ok((log, vector)) = Vector::parse(text) {
        // Numbers may be given with zeros in front or twice; printed they have one form.
        let printed = vector.print(log);
        assert_eq!(Vector::parse(&printed), Ok((log, vector)));
    }
});
