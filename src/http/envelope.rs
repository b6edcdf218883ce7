//! What is put around every answer: a request id, a span, errors printed in the route's dialect, and mercy for
//! reconnects.
//!
//! A native EventSource gives up for good on any status but 200. So a request that carries a position and meets a
//! limit or a draining server gets 200, a `notice` with `retry:`, and a close; only a first request gets 429 or 503.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tracing::{Instrument, info_span};

use super::error::ApiError;
use super::extract;
use super::sse;
use crate::app::App;
use crate::surface::{Surface, native};

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The same, where Anthropic's SDKs look for it.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

pub async fn envelope(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let sent =
        request.headers().get(X_REQUEST_ID).filter(|id| id.len() <= 128 && id.to_str().is_ok()).cloned();
    let id = sent.unwrap_or_else(|| {
        let id = format!("req_{}", ulid::Ulid::generate().to_string().to_lowercase());
        HeaderValue::try_from(id).expect("a ULID is a header value")
    });
    request.headers_mut().insert(X_REQUEST_ID, id.clone());
    let surface = surface(request.uri().path(), request.headers());
    let reconnect = Reconnect::of(&request);
    let text = id.to_str().unwrap_or_default().to_owned();
    // Paths only: query strings may hold prompts and tickets.
    let span = info_span!("request", id = text, method = %request.method(), path = request.uri().path());
    let mut response = next.run(request).instrument(span).await;
    let failed = response.status().is_client_error() || response.status().is_server_error();
    let ours = response.extensions_mut().remove::<Arc<ApiError>>();
    // What the framework refuses by itself, in its own words, is told in ours.
    let plain =
        || response.headers().get(CONTENT_TYPE).is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if let Some(error) = ours.or_else(|| (failed && plain()).then(|| Arc::new(framework(response.status()))))
    {
        app.metrics.refuse(&error.code);
        let headers = std::mem::take(response.headers_mut());
        let passing = matches!(error.status.as_u16(), 429 | 503);
        response = match reconnect.filter(|_| passing) {
            Some(reconnect) => reconnect.come_back(&error),
            None => print(&error, surface, &text),
        };
        response.headers_mut().extend(headers);
    }
    if surface == Surface::Anthropic {
        response.headers_mut().insert(REQUEST_ID, id.clone());
    }
    response.headers_mut().insert(X_REQUEST_ID, id);
    response
}

/// The dialect that a path's clients speak; two that share a path are told apart by what only one of them sends.
fn surface(path: &str, headers: &HeaderMap) -> Surface {
    match path {
        "/v1/chat/completions" => Surface::OpenAiChat,
        "/v1/models" if headers.contains_key("anthropic-version") => Surface::Anthropic,
        "/v1/models" if headers.contains_key("x-goog-api-key") => Surface::Gemini,
        "/v1/models" => Surface::OpenAiChat,
        _ if path.starts_with("/v1beta/") || path.starts_with("/v1/models/") => Surface::Gemini,
        _ if path.starts_with("/v1/messages") => Surface::Anthropic,
        _ if path.starts_with("/v1/responses") => Surface::OpenAiResponses,
        _ if path.starts_with("/api/chat") => Surface::AiSdk,
        _ => Surface::Native,
    }
}

fn framework(status: StatusCode) -> ApiError {
    let code = if status.is_server_error() { "internal" } else { "bad_request" };
    ApiError::new(
        status,
        code,
        status.canonical_reason().unwrap_or("the request was refused").to_ascii_lowercase(),
    )
}

fn print(error: &ApiError, surface: Surface, request_id: &str) -> Response {
    let refusal = error.refusal.as_ref().filter(|refusal| surface.dialect() == Some(refusal.dialect));
    let (kind, body) = match refusal {
        // The provider's own words, in the client's own dialect.
        Some(refusal) if !refusal.body.is_empty() => {
            let kind = refusal.content_type.as_deref().and_then(|kind| HeaderValue::try_from(kind).ok());
            (kind.unwrap_or(HeaderValue::from_static("application/json")), Body::from(refusal.body.clone()))
        }
        _ => {
            let (kind, body) = error.complaint(request_id).body(surface);
            (HeaderValue::from_static(kind), Body::from(body))
        }
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    *response.status_mut() = error.status;
    let headers = response.headers_mut();
    let wait = error.refusal.as_ref().and_then(|refusal| refusal.retry_after.clone());
    let wait = wait.or_else(|| error.retry_after_s.map(|seconds| seconds.to_string()));
    if let Some(value) = wait.and_then(|wait| HeaderValue::try_from(wait).ok()) {
        headers.insert(RETRY_AFTER, value);
    }
    if error.retried {
        headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    response
}

/// A request that goes on from a position, on a route whose clients know no other status than 200.
enum Reconnect {
    EventSource,
    Poll { after: String },
}

impl Reconnect {
    fn of(request: &Request) -> Option<Reconnect> {
        let path = request.uri().path();
        let after = extract::after(request.headers(), request.uri().query().unwrap_or_default())?;
        if sse::for_event_source(path) {
            Some(Reconnect::EventSource)
        } else if path.ends_with("/poll") {
            Some(Reconnect::Poll { after })
        } else {
            None
        }
    }

    /// 200, when to come back, and no news.
    fn come_back(self, error: &ApiError) -> Response {
        let seconds = error.retry_after_s.unwrap_or(1).max(1);
        match self {
            Reconnect::EventSource => {
                let data = json!({"code": error.code, "message": error.message});
                let notice = native::aside("notice", Some(seconds * 1000 + jitter_ms(1000)), &data);
                (sse::headers(), notice).into_response()
            }
            Reconnect::Poll { after } => {
                let notice = json!({"id": null, "type": "notice", "data": {"code": error.code, "message": error.message}});
                let body = json!({"events": [notice], "position": after, "status": "running"});
                ([(RETRY_AFTER, seconds.to_string())], Json(body)).into_response()
            }
        }
    }
}

/// A random wait below `ceiling` milliseconds, so that clients do not come back together.
pub fn jitter_ms(ceiling: u64) -> u64 {
    ulid::Ulid::generate().0 as u64 % ceiling.max(1)
}
