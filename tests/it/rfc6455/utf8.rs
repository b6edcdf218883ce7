//! Text is UTF-8: whole characters wherever a frame ends, and nothing else.

use super::wire::{CONTINUATION, Frame, frame, text};
use super::{Case, Then, answer, case, ping, play};

const GOOD: [&str; 12] = [
    "κόσμε",
    "Hello-µ@ßöäüàá-UTF-8!!",
    "\u{0}x",
    "\u{7f}",
    "\u{80}",
    "\u{7ff}",
    "\u{800}",
    "\u{d7ff}\u{e000}",
    "\u{ffff}\u{fffd}",
    "\u{10000}",
    "\u{10ffff}",
    "👩‍👩‍👧",
];

/// Truncated, overlong, surrogates, beyond the last character, bytes that never are.
const BAD: [&[u8]; 22] = [
    b"\x80",
    b"\xbf",
    b"\xc3",
    b"\xe1\xbd",
    b"\xf0\x9f\x98",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    b"\xc0\xaf",
    b"\xc1\xbf",
    b"\xe0\x80\xaf",
    b"\xe0\x9f\xbf",
    b"\xf0\x80\x80\xaf",
    b"\xf0\x8f\xbf\xbf",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
    b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xfe",
    b"\xff",
    b"\xfe\xfe\xff\xff",
    b"abc\xc3\x28",
];

/// A message cut in two at each byte.
fn halves(message: &[u8]) -> impl Iterator<Item = [Frame; 2]> {
    (0..=message.len())
        .map(|at| message.split_at(at))
        .map(|(first, second)| [text(first).more(), frame(CONTINUATION, second)])
}

#[tokio::test]
async fn characters_may_be_cut_anywhere() {
    let mut cases: Vec<Case> =
        GOOD.iter().map(|good| case(*good, [text(ping(good))], [answer(good)])).collect();
    for cut in halves(ping("κ👩").as_bytes()) {
        cases.push(case("cut in two", cut, [answer("κ👩")]));
    }
    play(&cases).await;
}

#[tokio::test]
async fn what_is_not_utf8_ends_the_connection() {
    let mut cases: Vec<Case> = Vec::new();
    for bad in BAD {
        cases.push(case(format!("{bad:x?}"), [text(bad)], [Then::Close(1007)]));
        cases.push(case(
            format!("{bad:x?} after good text"),
            [text("κόσμε").more(), frame(CONTINUATION, bad)],
            [Then::Close(1007)],
        ));
    }
    for cut in halves(b"\xce\xba\xed\xa0\x80") {
        cases.push(case("a surrogate, cut in two", cut, [Then::Close(1007)]));
    }
    play(&cases).await;
}
