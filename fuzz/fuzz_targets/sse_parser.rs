#![no_main]
//! The SSE parser: no panic, no cut that matters, nothing kept beyond the cap, and frames that can be forwarded.

use libfuzzer_sys::fuzz_target;
use relaystream::sse::{Frame, Parser, write_id};

const LIMIT: usize = 512;

type Seen = Vec<(String, String, Option<String>, Vec<u8>)>;

fn parse<'a>(limit: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Seen, Option<u64>, bool) {
    let (mut parser, mut seen) = (Parser::new(limit), Vec::new());
    let mut keep = |frame: Frame<'_>| {
        let id = frame.id.map(str::to_owned);
        seen.push((frame.event.into_owned(), frame.data.into_owned(), id, frame.raw.to_vec()));
    };
    let fed = pieces.into_iter().try_for_each(|piece| parser.feed(piece, &mut keep));
    let ok = fed.and_then(|()| parser.finish(&mut keep)).is_ok();
    (seen, parser.retry_ms(), ok)
}

// The first byte says how the rest is cut.
fuzz_target!(|input: &[u8]| {
    let Some((&size, body)) = input.split_first() else { return };
    let whole = parse(LIMIT, [body]);
    assert_eq!(parse(LIMIT, body.chunks(1 + usize::from(size))), whole);
    assert_eq!(parse(LIMIT, body.chunks(1)), whole);
    let mut sent = Vec::new();
    for (at, (.., raw)) in whole.0.iter().enumerate() {
        assert!(raw.len() <= LIMIT + 4);
        write_id(&mut sent, Some(&at));
        sent.extend_from_slice(raw);
    }
    let (again, ..) = parse(usize::MAX, [sent.as_slice()]);
    assert_eq!(again.len(), whole.0.len());
    for (at, (a, b)) in again.iter().zip(&whole.0).enumerate() {
        assert_eq!((&a.0, &a.1, a.2.as_deref()), (&b.0, &b.1, Some(at.to_string().as_str())));
    }
});
