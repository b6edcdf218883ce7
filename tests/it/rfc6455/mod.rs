//! The session's socket as RFC 6455 has it: handshakes, frames, fragments, control frames, UTF-8, limits and closing.
//!
//! Modelled on the sections of Autobahn's test suite. Messages are JSON, so what is echoed there is a `ping` here, whose
//! `pong` repeats its id.

mod closing;
mod frames;
mod handshake;
mod limits;
mod utf8;
mod wire;

use serde_json::json;

use crate::harness::Server;
use wire::{CONTINUATION, Frame, Said, TEXT, Wire, frame, text};

/// What must come of what is sent.
#[derive(Debug, Clone)]
enum Then {
    /// A pong with this payload, in this order among other answers.
    Pong(Vec<u8>),
    /// The answer to a `ping` with this id.
    Answer(String),
    /// An `error` of this code.
    Error(&'static str),
    /// The server closes with this code, and the connection ends.
    Close(u16),
}

/// One line of a table: a name, what is sent, what comes of it.
type Case = (String, Vec<Frame>, Vec<Then>);

fn case(name: impl Into<String>, sent: impl Into<Vec<Frame>>, then: impl Into<Vec<Then>>) -> Case {
    (name.into(), sent.into(), then.into())
}

/// A message that is answered with its id.
fn ping(id: &str) -> String {
    json!({"type": "ping", "id": id}).to_string()
}

/// A message with spaces after it, which JSON allows.
fn padded(message: &str, bytes: usize) -> String {
    let mut padded = message.to_owned();
    padded.extend(std::iter::repeat_n(' ', bytes - message.len()));
    padded
}

/// A message in fragments of so many bytes.
fn fragments(message: &str, size: usize) -> Vec<Frame> {
    let pieces = message.as_bytes().chunks(size);
    let mut frames: Vec<Frame> = pieces.map(|piece| frame(CONTINUATION, piece).more()).collect();
    frames.first_mut().expect("a fragment").opcode = TEXT;
    frames.last_mut().expect("a fragment").last = true;
    frames
}

fn answer(id: &str) -> Then {
    Then::Answer(id.to_owned())
}

/// Plays each case on a connection of its own, all frames at once and then byte by byte.
async fn play(cases: &[Case]) {
    let server = Server::new("[rooms]\nmessages_per_s = 0").await;
    for (name, sent, then) in cases {
        let bytes: Vec<u8> = sent.iter().flat_map(Frame::bytes).collect();
        let size = if bytes.len() > 2000 { 997 } else { 1 };
        for pieces in [vec![bytes.as_slice()], bytes.chunks(size).collect()] {
            let mut wire = Wire::enter(&server).await;
            for piece in pieces {
                wire.send_bytes(piece).await;
            }
            check(name, &mut wire, then).await;
        }
    }
    server.finish().await;
}

async fn check(name: &str, wire: &mut Wire, then: &[Then]) {
    for then in then {
        let said = wire.next().await;
        let right = match then {
            Then::Pong(payload) => said == Said::Pong(payload.clone()),
            Then::Answer(id) => {
                matches!(&said, Said::Json(message) if message["type"] == "pong" && message["id"] == *id)
            }
            Then::Error(code) => {
                matches!(&said, Said::Json(message) if message["type"] == "error" && message["data"]["code"] == *code)
            }
            Then::Close(code) => said == Said::Close(*code),
        };
        assert!(right, "{name}: expected {then:?}, got {said:?}");
    }
    if let Some(Then::Close(_)) = then.last() {
        assert_eq!(wire.next().await, Said::End, "{name}");
        return;
    }
    // It goes on as if nothing had been.
    wire.send(&text(ping("alive"))).await;
    let said = wire.next().await;
    assert!(matches!(&said, Said::Json(message) if message["id"] == "alive"), "{name}: {said:?}");
    wire.send(&wire::close(1000, "")).await;
    assert_eq!(wire.next().await, Said::Close(1000), "{name}");
    assert_eq!(wire.next().await, Said::End, "{name}");
}
