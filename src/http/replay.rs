//! On Fly, where each machine has a store of its own: a request for a stream of another machine is answered with the
//! header by which Fly's proxy asks that machine instead.
//!
//! Decided by the id alone, before anything is looked up or anybody is admitted: the other machine does that. Sessions are
//! not sent on, their names say nothing.
//! <https://fly.io/docs/networking/dynamic-request-routing/>

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::extract;
use crate::app::App;
use crate::log::{EventId, LogId};

/// The proxy has sent this request on already; where it ends up now it stays.
const SENT_ON: &str = "fly-replay-src";
/// The other machine could not be reached, and the request is back.
const FAILED: &str = "fly-replay-failed";

pub async fn replay(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let settings = app.settings.load();
    let machine = settings.machines.as_ref().and_then(|machines| machines.other(stream(&request)?));
    match machine {
        Some(_) if request.headers().contains_key(FAILED) => {
            let message = "the machine that has the stream cannot be reached";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message).into_response()
        }
        Some(machine) if !request.headers().contains_key(SENT_ON) => {
            let message = "the stream is on another machine";
            let error = ApiError::new(StatusCode::MISDIRECTED_REQUEST, "not_found", message);
            let wish = format!("instance={machine};timeout=10s;fallback=force_self");
            let mut response = error.into_response();
            if let Ok(wish) = HeaderValue::try_from(wish) {
                response.headers_mut().insert("fly-replay", wish);
            }
            response
        }
        _ => {
            drop(settings);
            next.run(request).await
        }
    }
}

/// The stream that a request is about: it is named in the path, or by the position that an `EventSource` comes back with.
fn stream(request: &Request) -> Option<LogId> {
    let path = request.uri().path();
    if path == "/v1/chat/stream" {
        let after = extract::after(request.headers(), request.uri().query().unwrap_or_default())?;
        return after.parse().ok().map(|id: EventId| id.log);
    }
    let response = || path.strip_prefix("/v1/responses/")?.strip_prefix("resp_");
    let rest = path.strip_prefix("/v1/streams/").or_else(response)?;
    rest.split('/').next()?.parse().ok()
}
