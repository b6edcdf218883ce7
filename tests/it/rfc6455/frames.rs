//! Frames and messages: sizes, pings and pongs, reserved bits and opcodes, masks, fragments.

use super::wire::{BINARY, CONTINUATION, PING, PONG, frame, text};
use super::{Case, Then, answer, case, fragments, padded, ping, play};

const BROKEN: [Then; 1] = [Then::Close(1002)];

/// A ping of ours in a message of exactly so many bytes.
fn sized(id: &str, bytes: usize) -> String {
    padded(&ping(id), bytes)
}

#[tokio::test]
async fn text_of_every_size() {
    let sizes = [125, 126, 127, 128, 4095, 4096, 65_534, 65_535, 65_536];
    let mut cases: Vec<Case> = sizes
        .iter()
        .map(|size| case(format!("{size} bytes"), [text(sized("x", *size))], [answer("x")]))
        .collect();
    cases.push(case("no bytes", [text("")], [Then::Error("bad_request")]));
    cases.push(case("not JSON", [text("hello")], [Then::Error("bad_request")]));
    cases.push(case("JSON, but no message", [text("[1]")], [Then::Error("bad_request")]));
    for (size, name) in [(0, "binary of no bytes"), (125, "short binary"), (65_535, "long binary")] {
        cases.push(case(name, [frame(BINARY, vec![0; size])], [Then::Close(1007)]));
    }
    play(&cases).await;
}

#[tokio::test]
async fn pings_are_answered_in_order_and_pongs_are_not() {
    let pong = |payload: &[u8]| Then::Pong(payload.to_vec());
    let bytes: Vec<u8> = (0..125).map(|n| 255 - n).collect();
    let many: Vec<Vec<u8>> = (0..10).map(|n| format!("payload-{n}").into_bytes()).collect();
    play(&[
        case("no payload", [frame(PING, "")], [pong(b"")]),
        case("text", [frame(PING, "Hello, world!")], [pong(b"Hello, world!")]),
        case("bytes that are not UTF-8", [frame(PING, b"\x00\xff\xfe\xfd")], [pong(b"\x00\xff\xfe\xfd")]),
        case("125 bytes", [frame(PING, &bytes)], [pong(&bytes)]),
        case("126 bytes", [frame(PING, vec![1; 126])], BROKEN),
        case("a pong that nobody asked for", [frame(PONG, "")], []),
        case("one with payload", [frame(PONG, "unsolicited")], []),
        case("a pong of 126 bytes", [frame(PONG, vec![1; 126])], BROKEN),
        case("a pong, then a ping", [frame(PONG, "unsolicited"), frame(PING, "p")], [pong(b"p")]),
        case(
            "ten pings",
            many.iter().map(|payload| frame(PING, payload)).collect::<Vec<_>>(),
            many.iter().map(|payload| pong(payload)).collect::<Vec<_>>(),
        ),
    ])
    .await;
}

#[tokio::test]
async fn reserved_bits_and_opcodes_break_the_protocol() {
    let mut cases = Vec::new();
    for reserved in 1..8 {
        for (name, frame) in
            [("text", text(ping("x"))), ("ping", frame(PING, "x")), ("close", super::wire::close(1000, ""))]
        {
            cases.push(case(
                format!("{name} with reserved bits {reserved:03b}"),
                [frame.reserved(reserved)],
                BROKEN,
            ));
        }
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        cases.push(case(format!("opcode {opcode}"), [frame(opcode, "")], BROKEN));
        cases.push(case(
            format!("a message, then opcode {opcode}"),
            [text(ping("x")), frame(opcode, "payload")],
            [answer("x"), Then::Close(1002)],
        ));
    }
    cases.push(case("text without a mask", [text(ping("x")).unmasked()], BROKEN));
    cases.push(case("a ping without a mask", [frame(PING, "x").unmasked()], BROKEN));
    play(&cases).await;
}

#[tokio::test]
async fn fragments_are_put_together_and_what_comes_between_is_answered() {
    let message = ping("x");
    let (first, second) = message.split_at(9);
    let begin = || text(first).more();
    let end = || frame(CONTINUATION, second);
    let between = Then::Pong(b"between".to_vec());
    let in_the_middle = [text(ping("y")), frame(BINARY, "")];
    let mut cases = vec![
        case("two fragments", [begin(), end()], [answer("x")]),
        case("one byte each", fragments(&message, 1), [answer("x")]),
        case("empty ones between", [begin(), frame(CONTINUATION, "").more(), end()], [answer("x")]),
        case(
            "an empty first and last",
            [text("").more(), frame(CONTINUATION, &message).more(), frame(CONTINUATION, "")],
            [answer("x")],
        ),
        case(
            "only empty ones",
            [text("").more(), frame(CONTINUATION, "").more(), frame(CONTINUATION, "")],
            [Then::Error("bad_request")],
        ),
        case("a ping between", [begin(), frame(PING, "between"), end()], [between.clone(), answer("x")]),
        case("a pong between", [begin(), frame(PONG, "between"), end()], [answer("x")]),
        case(
            "pings between all of three",
            [
                text("").more(),
                frame(PING, "between"),
                frame(CONTINUATION, first).more(),
                frame(PING, "between"),
                end(),
            ],
            [between.clone(), between, answer("x")],
        ),
        case("a ping in two fragments", [frame(PING, "p").more(), frame(CONTINUATION, "q")], BROKEN),
        case("a pong in two fragments", [frame(PONG, "p").more(), frame(CONTINUATION, "q")], BROKEN),
        case("a continuation of nothing", [frame(CONTINUATION, &message)], BROKEN),
        case("an open one of nothing", [frame(CONTINUATION, &message).more()], BROKEN),
        case(
            "one after the end",
            [begin(), end(), frame(CONTINUATION, "z")],
            [answer("x"), Then::Close(1002)],
        ),
        case("64 KiB in small ones", fragments(&sized("x", 65_536), 64), [answer("x")]),
    ];
    cases
        .extend(in_the_middle.map(|frame| case("a message within another", [begin(), frame, end()], BROKEN)));
    play(&cases).await;
}
