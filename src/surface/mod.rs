//! Downstream dialects: canonical events in, a client's bytes out.
//!
//! The set is closed, so it is an enum and this file its table of contents: what each dialect says while it is
//! silent, how it ends, and the shape of its errors. Pure. Surfaces know nothing of providers beyond the number
//! that raw frames carry.

pub mod native;
pub mod openai_chat;
pub mod plain;

use serde_json::{Value, json};

use crate::event::Status;
use crate::log::{LogId, Record};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Surface {
    Native,
    /// Token text as raw SSE data, then `[DONE]`: for a bare `EventSource` and for `curl`.
    Plain,
    OpenAiChat,
}

/// A surface and the options that change its bytes. One rendition is kept for each format in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format {
    pub surface: Surface,
    /// The client asked for token counts (openai-chat's `stream_options.include_usage`).
    pub usage: bool,
    /// Frames carry `id:` lines.
    pub ids: bool,
}

impl Format {
    pub fn new(surface: Surface) -> Format {
        Format { surface, usage: true, ids: true }
    }
}

/// How the body ends once the last event is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Clean,
    /// The body is broken off, since the dialect's clients take a clean end for success.
    Broken,
}

impl Surface {
    pub const ALL: [Surface; 3] = [Surface::Native, Surface::Plain, Surface::OpenAiChat];

    /// The name in `?format=`.
    pub fn name(self) -> &'static str {
        match self {
            Surface::Native => "native",
            Surface::Plain => "plain",
            Surface::OpenAiChat => "openai-chat",
        }
    }

    pub fn parse(name: &str) -> Option<Surface> {
        Surface::ALL.into_iter().find(|surface| surface.name() == name)
    }

    /// What is sent after a while of silence. A lone comment line: a blank line after it would be an empty event
    /// to openai-python once an `id:` was seen (openai/openai-python#2722).
    pub fn keep_alive(self) -> &'static [u8] {
        match self {
            Surface::Native | Surface::Plain | Surface::OpenAiChat => b":\n",
        }
    }

    pub fn ending(self, status: Status) -> Ending {
        match (self, status) {
            (Surface::Native, _) | (_, Status::Completed | Status::Running) => Ending::Clean,
            _ => Ending::Broken,
        }
    }

    pub fn encoder(self, format: Format, log: LogId) -> Encoder {
        match self {
            Surface::Native => Encoder::Native(native::Encoder::new(log)),
            Surface::Plain => Encoder::Plain(plain::Encoder::new(log)),
            Surface::OpenAiChat => Encoder::OpenAiChat(openai_chat::Encoder::new(format, log)),
        }
    }
}

/// Turns a log's records, in order from its start, into a client's bytes. Bytes already written never change.
#[derive(Debug)]
pub enum Encoder {
    Native(native::Encoder),
    Plain(plain::Encoder),
    OpenAiChat(openai_chat::Encoder),
}

impl Encoder {
    pub fn encode(&mut self, record: &Record, out: &mut Vec<u8>) {
        match self {
            Encoder::Native(encoder) => encoder.encode(record, out),
            Encoder::Plain(encoder) => encoder.encode(record, out),
            Encoder::OpenAiChat(encoder) => encoder.encode(record, out),
        }
    }
}

/// An error as a client is told about it, before any dialect.
#[derive(Debug, Clone, PartialEq)]
pub struct Complaint {
    pub status: u16,
    pub code: String,
    pub message: String,
    /// The field or parameter at fault.
    pub param: Option<String>,
    pub request_id: Option<String>,
}

impl Complaint {
    /// The class that SDKs map to their exception types.
    fn class(&self) -> &'static str {
        match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            504 => "timeout_error",
            _ => "server_error",
        }
    }

    /// The body of an error response. Native and OpenAI share one shape.
    pub fn body(&self, surface: Surface) -> Value {
        match surface {
            Surface::Native | Surface::Plain | Surface::OpenAiChat => json!({"error": {
                "code": self.code,
                "message": self.message,
                "type": self.class(),
                "param": self.param,
                "request_id": self.request_id,
            }}),
        }
    }
}
