//! A client of the session's socket that writes and reads frames byte by byte, so that it can break every rule.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Server, soon};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame to be sent, as wrong as one likes.
#[derive(Debug, Clone)]
pub struct Frame {
    pub last: bool,
    /// The reserved bits, as a number from 0 to 7.
    pub reserved: u8,
    pub opcode: u8,
    pub masked: bool,
    pub payload: Vec<u8>,
}

pub fn frame(opcode: u8, payload: impl AsRef<[u8]>) -> Frame {
    Frame { last: true, reserved: 0, opcode, masked: true, payload: payload.as_ref().to_vec() }
}

pub fn text(payload: impl AsRef<[u8]>) -> Frame {
    frame(TEXT, payload)
}

/// A close frame with this code and reason.
pub fn close(code: u16, reason: impl AsRef<[u8]>) -> Frame {
    frame(CLOSE, [&code.to_be_bytes(), reason.as_ref()].concat())
}

impl Frame {
    /// Another one of its message follows.
    pub fn more(self) -> Frame {
        Frame { last: false, ..self }
    }

    pub fn reserved(self, reserved: u8) -> Frame {
        Frame { reserved, ..self }
    }

    pub fn unmasked(self) -> Frame {
        Frame { masked: false, ..self }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = head(
            u8::from(self.last) << 7 | self.reserved << 4 | self.opcode,
            self.masked,
            self.payload.len() as u64,
        );
        if self.masked {
            bytes.extend(MASK);
            bytes.extend(self.payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        } else {
            bytes.extend(&self.payload);
        }
        bytes
    }
}

/// The beginning of a frame whose payload has so many bytes.
pub fn head(first: u8, masked: bool, length: u64) -> Vec<u8> {
    let mask = u8::from(masked) << 7;
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(mask | length as u8),
        126..=0xffff => {
            bytes.push(mask | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(mask | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes
}

/// What the server said.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Json(Value),
    Pong(Vec<u8>),
    /// A close frame; 0 if it names no code.
    Close(u16),
    /// The connection has ended.
    End,
}

pub struct Wire {
    stream: TcpStream,
}

impl Wire {
    /// Sends a handshake of these lines; returns its answer's head and the connection.
    pub async fn shake(server: &Server, request: &str) -> (String, Wire) {
        let mut stream = TcpStream::connect(server.address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        stream.write_all(request.as_bytes()).await.expect("to be heard");
        let mut head = Vec::new();
        let ended = async {
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
        };
        soon("an answer", ended).await;
        (String::from_utf8(head).expect("text"), Wire { stream })
    }

    /// A socket that has said hello and was welcomed.
    pub async fn enter(server: &Server) -> Wire {
        let (answer, mut wire) = Wire::shake(server, &request(server, &[])).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        wire.send(&text(json!({"type": "hello", "data": {}}).to_string())).await;
        match wire.next().await {
            Said::Json(message) if message["type"] == "welcome" => wire,
            other => panic!("no welcome: {other:?}"),
        }
    }

    pub async fn send(&mut self, frame: &Frame) {
        self.send_bytes(&frame.bytes()).await;
    }

    /// A server that has closed already need not hear it.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        drop(soon("to be heard", self.stream.write_all(bytes)).await);
    }

    /// The next frame but for what is said of people, which must be right in every bit.
    pub async fn next(&mut self) -> Said {
        loop {
            match soon("a frame", self.read()).await {
                Said::Json(message) if message["type"] == "presence" => {}
                other => return other,
            }
        }
    }

    async fn read(&mut self) -> Said {
        let Some((mut last, opcode, mut payload)) = self.read_frame().await else { return Said::End };
        while !last {
            let (end, kind, more) = self.read_frame().await.expect("the rest of a message");
            assert_eq!((opcode, kind), (TEXT, CONTINUATION), "only text comes in fragments");
            payload.extend(more);
            last = end;
        }
        match opcode {
            TEXT => Said::Json(serde_json::from_slice(&payload).expect("JSON")),
            PONG => Said::Pong(payload),
            CLOSE if payload.is_empty() => Said::Close(0),
            CLOSE => {
                std::str::from_utf8(&payload[2..]).expect("a reason in UTF-8");
                Said::Close(u16::from_be_bytes([payload[0], payload[1]]))
            }
            PING => panic!("nobody waits for so long"),
            other => panic!("opcode {other}"),
        }
    }

    /// Whether it is its message's last, its opcode and its payload; None at the end of the connection.
    async fn read_frame(&mut self) -> Option<(bool, u8, Vec<u8>)> {
        let first = self.stream.read_u8().await.ok()?;
        let second = self.stream.read_u8().await.expect("a whole frame");
        assert_eq!((first & 0x70, second & 0x80), (0, 0), "no reserved bits, no mask");
        let length = match second {
            127 => {
                let length = self.stream.read_u64().await.expect("a whole frame");
                assert!(length > 0xffff, "as short as can be");
                length
            }
            126 => {
                let length = self.stream.read_u16().await.expect("a whole frame");
                assert!(length > 125, "as short as can be");
                length.into()
            }
            length => length.into(),
        };
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await.expect("a whole frame");
        let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
        assert!(opcode < CLOSE || (last && length <= 125), "a control frame of {length} bytes");
        Some((last, opcode, payload))
    }
}

/// The request for a socket, with these lines in place of the usual ones of the same name, or beside them.
pub fn request(server: &Server, changes: &[(&str, Option<&str>)]) -> String {
    let host = server.address.to_string();
    let mut lines = vec![
        ("Host", Some(host.as_str())),
        ("Upgrade", Some("websocket")),
        ("Connection", Some("Upgrade")),
        ("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZQ==")),
        ("Sec-WebSocket-Version", Some("13")),
    ];
    for (name, value) in changes {
        lines.retain(|(usual, _)| usual != name);
        lines.push((name, *value));
    }
    let lines = lines.iter().filter_map(|(name, value)| value.map(|value| format!("{name}: {value}\r\n")));
    format!("GET /v1/sessions/room-1/ws HTTP/1.1\r\n{}\r\n", lines.collect::<String>())
}
