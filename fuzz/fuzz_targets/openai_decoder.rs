#![no_main]
//! The openai-chat decoder: no panic, no cut that matters, one ending at most, frames that hold events.

use libfuzzer_sys::fuzz_target;
use relaystream::event::Event;
use relaystream::provider::{DecodeError, Frame, Provider};

const LIMIT: usize = 4096;

fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<DecodeError>) {
    let (mut decoder, mut frames) = (Provider::OpenAiChat.decoder(LIMIT), Vec::new());
    for piece in pieces {
        if let Err(error) = decoder.push(piece, &mut frames) {
            return (frames, Some(error));
        }
    }
    let error = decoder.finish(&mut frames).err();
    (frames, error)
}

// The first byte says how the rest is cut.
fuzz_target!(|input: &[u8]| {
    let Some((&size, body)) = input.split_first() else { return };
    let whole = decode([body]);
    assert_eq!(decode(body.chunks(1 + usize::from(size))), whole);
    let (frames, _) = whole;
    assert!(frames.iter().all(|frame| !frame.events.is_empty()));
    let done = |event: &&Event| matches!(event, Event::Done(_));
    assert!(frames.iter().flat_map(|frame| &frame.events).filter(done).count() <= 1);
    for frame in &frames {
        let raw = frame.raw.as_ref().expect("a frame of a stream has its bytes");
        assert!(raw.own_at as usize <= raw.bytes.len());
        for event in &frame.events {
            let data = event.data();
            assert_eq!(Event::parse(event.kind(), &data).expect("parses"), *event);
        }
    }
    if let Ok(frames) = Provider::OpenAiChat.decoder(LIMIT).whole(body) {
        assert!(frames.iter().flat_map(|frame| &frame.events).filter(done).count() == 1);
    }
});
