//! What another process needs to go on with a stream: left with the store at the start, forgotten at the end.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::running::OnDisconnect;
use crate::chat::Request;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    pub request: Request,
    pub on_disconnect: OnDisconnect,
    /// Whose permits and budgets it takes from.
    pub allowance: String,
    /// The key that its end settles.
    pub hold: Option<Hold>,
}

/// A claim under which later requests find the stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    pub key: String,
    /// Of the request: the same key with another one is refused.
    pub print: String,
    /// Only a whole answer is one for others.
    pub cache: bool,
}

impl Plan {
    pub fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(self).expect("a plan has string keys").into()
    }

    /// None: another version's.
    pub fn parse(bytes: &[u8]) -> Option<Plan> {
        serde_json::from_slice(bytes).ok()
    }
}
