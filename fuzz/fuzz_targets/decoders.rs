#![no_main]
//! The decoders of all dialects: no panic, no cut that matters, one ending at most, frames that hold events.

use libfuzzer_sys::fuzz_target;
use relaystream::event::Event;
use relaystream::provider::{DecodeError, Frame, Provider};

const LIMIT: usize = 4096;

fn decode<'a>(
    dialect: Provider,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Frame>, Option<DecodeError>) {
    let (mut decoder, mut frames) = (dialect.decoder(LIMIT), Vec::new());
    for piece in pieces {
        if let Err(error) = decoder.push(piece, &mut frames) {
            return (frames, Some(error));
        }
    }
    let error = decoder.finish(&mut frames).err();
    (frames, error)
}

// The first byte names the dialect, the second says how the rest is cut.
fuzz_target!(|input: &[u8]| {
    let [dialect, size, body @ ..] = input else { return };
    let dialect = Provider::ALL[usize::from(*dialect) % Provider::ALL.len()];
    let whole = decode(dialect, [body]);
    assert_eq!(decode(dialect, body.chunks(1 + usize::from(*size))), whole);
    let (frames, _) = whole;
    assert!(frames.iter().all(|frame| !frame.events.is_empty()));
    let done = |event: &&Event| matches!(event, Event::Done(_));
    assert!(frames.iter().flat_map(|frame| &frame.events).filter(done).count() <= 1);
    for frame in &frames {
        assert!(frame.raw.as_ref().is_none_or(|raw| raw.own_at as usize <= raw.bytes.len()));
        for event in &frame.events {
            let data = event.data();
            assert_eq!(Event::parse(event.kind(), &data).expect("parses"), *event);
        }
    }
    if let Ok(frames) = dialect.decoder(LIMIT).whole(body) {
        assert!(frames.iter().flat_map(|frame| &frame.events).filter(done).count() == 1);
    }
});
