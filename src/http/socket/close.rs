//! How sockets end: close codes that tell a client whether to stop, to back off, or to come back at once.

use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

use crate::http::error::ApiError;
use crate::store;

/// Close codes: 40xx stop, 41xx back off, 42xx come back at once with positions.
pub const CREDENTIAL: u16 = 4001;
pub const NOT_ALLOWED: u16 = 4003;
pub const NO_SESSION: u16 = 4004;
pub const KICKED: u16 = 4005;
pub const EXPIRED: u16 = 4009;
pub const OVERLOADED: u16 = 4100;
pub const RATE: u16 = 4101;
pub const ROOM_FULL: u16 = 4105;
pub const TOO_MANY: u16 = 4106;
pub const BEHIND: u16 = 4200;
pub const LIFETIME: u16 = 4201;
pub const DRAIN: u16 = 4202;
/// And the standard's own: a broken protocol, not text, too large.
pub const PROTOCOL: u16 = 1002;
pub const NOT_TEXT: u16 = 1007;
pub const TOO_LARGE: u16 = 1009;

pub fn code(error: &ApiError) -> u16 {
    match (error.status.as_u16(), error.code.as_str()) {
        (401, _) => CREDENTIAL,
        (403, _) => NOT_ALLOWED,
        (429, "rate_limited") => RATE,
        (429, "room_full") => ROOM_FULL,
        (429, _) => TOO_MANY,
        (503, _) => OVERLOADED,
        _ => NO_SESSION,
    }
}

/// Why a socket ends.
pub enum Goodbye {
    /// The client left or broke the protocol, which tungstenite has answered.
    Left,
    Close(u16, &'static str),
}

impl From<tungstenite::Error> for Goodbye {
    fn from(error: tungstenite::Error) -> Goodbye {
        match error {
            tungstenite::Error::Capacity(_) => Goodbye::Close(TOO_LARGE, "message too large"),
            tungstenite::Error::Utf8(_) => Goodbye::Close(NOT_TEXT, "not UTF-8"),
            tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Goodbye::Left,
            tungstenite::Error::Protocol(_) => Goodbye::Close(PROTOCOL, "protocol error"),
            _ => Goodbye::Left,
        }
    }
}

/// What a store that fails, or lacks the session, means for a socket.
impl From<store::Error> for Goodbye {
    fn from(error: store::Error) -> Goodbye {
        Goodbye::Close(code(&error.into()), "the session cannot be read")
    }
}
