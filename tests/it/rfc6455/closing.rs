//! Closing: the client's code is answered, a wrong one is a broken protocol, and nothing is said afterwards.

use super::wire::{CLOSE, CONTINUATION, PING, Said, Wire, close, frame, text};
use super::{Case, Then, case, ping, play};
use crate::harness::Server;

#[tokio::test]
async fn a_close_is_answered_with_its_code() {
    let valid = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    let mut cases: Vec<Case> = valid
        .iter()
        .map(|code| case(format!("code {code}"), [close(*code, "")], [Then::Close(*code)]))
        .collect();
    cases.push(case("without a code", [frame(CLOSE, "")], [Then::Close(0)]));
    cases.push(case("with a reason", [close(1000, "the day is över")], [Then::Close(1000)]));
    cases.push(case("with the longest reason", [close(1000, vec![b'*'; 123])], [Then::Close(1000)]));
    cases.push(case("twice", [close(1000, ""), close(1000, "")], [Then::Close(1000)]));
    cases.push(case("then a message", [close(1000, ""), text(ping("late"))], [Then::Close(1000)]));
    cases.push(case("then a ping", [close(1000, ""), frame(PING, "late")], [Then::Close(1000)]));
    cases.push(case(
        "in the middle of a message",
        [text("{").more(), close(1000, ""), frame(CONTINUATION, "}")],
        [Then::Close(1000)],
    ));
    play(&cases).await;
}

#[tokio::test]
async fn a_close_that_is_none_breaks_the_protocol() {
    let invalid = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535];
    let mut cases: Vec<Case> = invalid
        .iter()
        .map(|code| case(format!("code {code}"), [close(*code, "")], [Then::Close(1002)]))
        .collect();
    cases.push(case("of one byte", [frame(CLOSE, [3])], [Then::Close(1002)]));
    cases.push(case("of 126 bytes", [close(1000, vec![b'*'; 124])], [Then::Close(1002)]));
    cases.push(case("in two frames", [close(1000, "").more()], [Then::Close(1002)]));
    cases.push(case("a reason that is not UTF-8", [close(1000, b"\xff")], [Then::Close(1007)]));
    play(&cases).await;
}

#[tokio::test]
async fn who_just_goes_is_let_go() {
    let server = Server::demo().await;
    for _ in 0..20 {
        drop(Wire::enter(&server).await);
        let mut wire = Wire::enter(&server).await;
        wire.send_bytes(&text(ping("half a frame")).bytes()[..7]).await;
    }
    let mut wire = Wire::enter(&server).await;
    wire.send(&close(1000, "")).await;
    assert_eq!(wire.next().await, Said::Close(1000));
    server.finish().await;
}
