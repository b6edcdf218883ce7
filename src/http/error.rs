//! What went wrong, as an answer. The only place that knows which status an error has.
//!
//! A handler returns [`ApiError`]; the envelope middleware prints it in the dialect of the route, with the request
//! id, and counts it. Internal causes are logged, never shown.

use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::app::entry::Barred;
use crate::app::start::StartError;
use crate::app::tickets::TicketError;
use crate::chat::Invalid;
use crate::hub::EnterError;
use crate::prompts::RenderError;
use crate::relay::route::UnknownModel;
use crate::relay::running::Refusal;
use crate::relay::upstream::Fault;
use crate::store;
use crate::surface::Complaint;

#[derive(Debug, Clone)]
pub struct ApiError {
    pub status: StatusCode,
    pub code: String,
    pub message: String,
    pub param: Option<String>,
    pub retry_after_s: Option<u64>,
    /// The server has retried already: clients should not multiply that.
    pub retried: bool,
    /// The provider's own answer, passed on as it is.
    pub refusal: Option<Box<Refusal>>,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>) -> ApiError {
        let (code, message) = (code.to_owned(), message.into());
        ApiError { status, code, message, param: None, retry_after_s: None, retried: false, refusal: None }
    }

    /// 400: the request cannot be read.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 404: not there, or not yours.
    pub fn not_found(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// 403: known, but not allowed to.
    pub fn not_allowed(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, "not_allowed", message)
    }

    /// 422: a field is not what it must be.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> ApiError {
        let (field, message) = (field.into(), message.into());
        let mut error =
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", format!("{field}: {message}"));
        error.param = Some(field);
        error
    }

    /// 429: over a limit; come back after `retry_after_s` seconds.
    pub fn limited(code: &str, message: impl Into<String>, retry_after_s: u64) -> ApiError {
        let mut error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, code, message);
        error.retry_after_s = Some(retry_after_s);
        error
    }

    /// 503: this node goes away.
    pub fn draining() -> ApiError {
        let message = "the server is going away; try again in a moment";
        let mut error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "draining", message);
        error.retry_after_s = Some(1);
        error
    }

    /// 503: the store does not answer.
    pub fn store_away() -> ApiError {
        let message = "the server cannot reach its store";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message)
    }

    /// A stream that failed before it said anything, told as an answer.
    pub fn of_stream(code: &str, message: impl Into<String>) -> ApiError {
        let status = match code {
            "connect_timeout" | "first_token_timeout" | "between_tokens_timeout" | "total_timeout" => {
                StatusCode::GATEWAY_TIMEOUT
            }
            "too_large" => StatusCode::PAYLOAD_TOO_LARGE,
            "budget_exceeded" => StatusCode::TOO_MANY_REQUESTS,
            "store_full" | "store_unavailable" | "interrupted" => StatusCode::SERVICE_UNAVAILABLE,
            // Not a standard status, but what the field uses for a request that its own side called off.
            "cancelled" => StatusCode::from_u16(499).unwrap_or(StatusCode::CONFLICT),
            _ => StatusCode::BAD_GATEWAY,
        };
        ApiError::new(status, code, message)
    }

    /// The form in which surfaces print it.
    pub fn complaint(&self, request_id: &str) -> Complaint {
        Complaint {
            status: self.status.as_u16(),
            code: self.code.clone(),
            message: self.message.clone(),
            param: self.param.clone(),
            request_id: Some(request_id.to_owned()),
        }
    }
}

impl IntoResponse for ApiError {
    /// Empty: the envelope prints it.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> ApiError {
        ApiError::invalid(invalid.field, invalid.message)
    }
}

impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> ApiError {
        match error {
            store::Error::NotFound => ApiError::not_found("there is no such stream"),
            store::Error::Full => ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "store_full",
                "the server has no room for more streams",
            ),
            store::Error::Damaged => {
                let message = "what was kept of the stream is damaged";
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
            }
            store::Error::Exists | store::Error::Refused(_) | store::Error::Unavailable(_) => {
                tracing::error!(%error, "the store failed a request");
                ApiError::store_away()
            }
        }
    }
}

impl From<Barred> for ApiError {
    fn from(barred: Barred) -> ApiError {
        let message = barred.to_string();
        match barred {
            Barred::Refused(_) => ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message),
            // Rounded up: whoever waits exactly that long is let through.
            Barred::TooMany { wait } => ApiError::limited("rate_limited", message, wait.as_secs() + 1),
            Barred::NoKeys => {
                let mut error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable", message);
                error.retry_after_s = Some(5);
                error
            }
            Barred::Store(error) => error.into(),
        }
    }
}

impl From<TicketError> for ApiError {
    fn from(error: TicketError) -> ApiError {
        match error {
            TicketError::NotFound => ApiError::not_found(error.to_string()),
            TicketError::TooMuch | TicketError::OtherUser => ApiError::not_allowed(error.to_string()),
            TicketError::Session(error) => error.into(),
            TicketError::Store(error) => error.into(),
        }
    }
}

impl From<EnterError> for ApiError {
    fn from(error: EnterError) -> ApiError {
        match error {
            EnterError::TooMany => ApiError::limited("too_many_sessions", error.to_string(), 60),
            EnterError::Store(error) => error.into(),
        }
    }
}

impl From<UnknownModel> for ApiError {
    fn from(unknown: UnknownModel) -> ApiError {
        let mut error = ApiError::not_found(unknown.to_string());
        error.param = Some("model".into());
        error
    }
}

impl From<StartError> for ApiError {
    fn from(error: StartError) -> ApiError {
        let message = error.to_string();
        match error {
            StartError::UnknownModel(unknown) => unknown.into(),
            StartError::Invalid(invalid) => invalid.into(),
            StartError::Draining => ApiError::draining(),
            StartError::TooManyStreams { .. } => ApiError::limited("too_many_streams", message, 5),
            StartError::BudgetExceeded { wait } => {
                ApiError::limited("budget_exceeded", message, wait.as_secs().max(1))
            }
            StartError::NoSession(_) => ApiError::not_found(message),
            StartError::Session(error) => error.into(),
            StartError::NotAllowed => ApiError::not_allowed(message),
            StartError::KeyReused => ApiError::new(StatusCode::CONFLICT, "idempotency_key_reused", message),
            StartError::Store(error) => error.into(),
        }
    }
}

/// A provider that was asked on behalf of a waiting client.
impl From<Fault> for ApiError {
    fn from(fault: Fault) -> ApiError {
        let mut error = ApiError::of_stream(fault.code, fault.message);
        if let Some(refusal) = fault.refusal {
            error.status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_GATEWAY);
            error.refusal = Some(refusal);
        }
        error
    }
}

impl From<RenderError> for ApiError {
    fn from(error: RenderError) -> ApiError {
        let message = error.to_string();
        match error {
            RenderError::Unknown { .. } => {
                let mut error = ApiError::not_found(message);
                error.param = Some("prompt".into());
                error
            }
            RenderError::Variables(problems) => {
                let first = problems
                    .first()
                    .map_or("variables".into(), |first| format!("variables.{}", first.variable));
                let mut error = ApiError::invalid(first, "");
                error.message = message;
                error
            }
            RenderError::TooLarge => ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message),
        }
    }
}
