//! An error as a client is told about it: a body before the stream, a frame within it, in each dialect's own shape.

use serde_json::{Value, json};

use super::Surface;
use crate::sse;

/// An error before any dialect.
#[derive(Debug, Clone, PartialEq)]
pub struct Complaint {
    /// As HTTP has it.
    pub status: u16,
    pub code: String,
    pub message: String,
    /// The field or parameter at fault.
    pub param: Option<String>,
    pub request_id: Option<String>,
}

impl Complaint {
    /// The body of an error response, and its content type.
    pub fn body(&self, surface: Surface) -> (&'static str, String) {
        let json = match surface {
            Surface::Native | Surface::Plain | Surface::OpenAiChat | Surface::OpenAiResponses => {
                self.openai()
            }
            Surface::Anthropic => self.anthropic(),
            Surface::Gemini => self.gemini(),
            // The AI SDK shows the body as the error's message.
            Surface::AiSdk => return ("text/plain; charset=utf-8", self.message.clone()),
        };
        ("application/json", json.to_string())
    }

    /// The same within a stream, which it ends.
    pub fn frame(&self, surface: Surface) -> Vec<u8> {
        let (event, data) = match surface {
            Surface::Native | Surface::Plain | Surface::OpenAiChat => ("", self.openai()),
            // Flat: SDKs yield it as an event.
            Surface::OpenAiResponses => (
                "error",
                json!({"type": "error", "code": self.code, "message": self.message, "param": self.param, "sequence_number": 0}),
            ),
            Surface::Anthropic => ("error", self.anthropic()),
            Surface::Gemini => ("", self.gemini()),
            Surface::AiSdk => ("", json!({"type": "error", "errorText": self.message})),
        };
        let mut out = Vec::new();
        sse::write(&mut out, None, event, None, data.to_string().as_bytes());
        out
    }

    /// `{"error": {code, message, type, param, request_id}}`; the native shape too.
    fn openai(&self) -> Value {
        json!({"error": {
            "code": self.code,
            "message": self.message,
            "type": self.class("server_error"),
            "param": self.param,
            "request_id": self.request_id,
        }})
    }

    /// Source: Anthropic's API reference, "Errors".
    fn anthropic(&self) -> Value {
        let class = match self.status {
            413 => "request_too_large",
            529 => "overloaded_error",
            _ => self.class("api_error"),
        };
        // Where their SDKs look for a code.
        let details = json!({"error_code": self.code});
        let error = json!({"type": class, "message": self.message, "code": self.code, "details": details});
        json!({"type": "error", "error": error, "request_id": self.request_id})
    }

    /// Source: google.rpc.Status and google.rpc.Code.
    fn gemini(&self) -> Value {
        let status = match self.status {
            400 | 413 | 422 => "INVALID_ARGUMENT",
            401 => "UNAUTHENTICATED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            409 => "ABORTED",
            429 => "RESOURCE_EXHAUSTED",
            499 => "CANCELLED",
            502 | 503 => "UNAVAILABLE",
            504 => "DEADLINE_EXCEEDED",
            _ => "INTERNAL",
        };
        let info = json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": self.code, "domain": "relaystream"});
        json!({"error": {"code": self.status, "message": self.message, "status": status, "details": [info]}})
    }

    /// The class that SDKs map to their exception types. `own`: what the dialect calls a fault of the server.
    fn class<'a>(&self, own: &'a str) -> &'a str {
        match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            504 => "timeout_error",
            _ => own,
        }
    }
}
