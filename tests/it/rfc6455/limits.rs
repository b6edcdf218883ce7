//! Limits: a message of just the size that may be, one byte more, in one frame or many, and sizes that nobody can mean.

use super::wire::{Said, TEXT, Wire, head, text};
use super::{Then, answer, case, fragments, padded, ping, play};
use crate::harness::Server;

/// `rooms.message_bytes`, unless it is changed.
const MOST: usize = 65_536;

fn sized(bytes: usize) -> String {
    padded(&ping("x"), bytes)
}

#[tokio::test]
async fn a_message_may_be_as_large_as_is_said_and_no_larger() {
    let more = sized(MOST + 1);
    play(&[
        case("just as large", [text(sized(MOST))], [answer("x")]),
        case("a byte more", [text(&more)], [Then::Close(1009)]),
        case("a byte more, in two frames", fragments(&more, MOST), [Then::Close(1009)]),
        case("a byte more, in many frames", fragments(&more, 1000), [Then::Close(1009)]),
    ])
    .await;
}

#[tokio::test]
async fn a_frame_that_promises_too_much_is_not_waited_for() {
    let server = Server::demo().await;
    for length in [MOST as u64 + 1, 1 << 32, i64::MAX as u64, u64::MAX] {
        let mut wire = Wire::enter(&server).await;
        wire.send_bytes(&[head(0x80 | TEXT, true, length), vec![1, 2, 3, 4, b'{']].concat()).await;
        let said = wire.next().await;
        assert!(matches!(said, Said::Close(1002 | 1009)), "{length} bytes: {said:?}");
        assert_eq!(wire.next().await, Said::End);
    }
    server.finish().await;
}
