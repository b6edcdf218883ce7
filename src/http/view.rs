//! Letting a viewer in: may it read, from where, and is there room for it.

use std::hash::Hash;
use std::sync::Arc;

use axum::http::{Extensions, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;

use super::counted::Counted;
use super::error::ApiError;
use super::sse::{Events, Held, stream_headers};
use crate::app::App;
use crate::auth::Principal;
use crate::limits::Permits;
use crate::log::{Bad, EventId, LogId, Position};
use crate::relay::Facts;
use crate::relay::tail::{End, Tail};
use crate::store::Error;
use crate::surface::{Complaint, Format, Surface, ai_sdk, native};

/// Where a viewer goes on, and why not where it wanted to.
pub struct From {
    pub position: Position,
    pub reset: Option<Bad>,
}

/// Reads a position that a client sent. A bad one gets a named reason and the log from its start.
pub async fn position(app: &App, tail: &Tail, after: Option<&str>) -> Result<From, Error> {
    let anew = |reset| From { position: Position::START, reset };
    let Some(text) = after else { return Ok(anew(None)) };
    let Ok(id) = text.parse::<EventId>() else { return Ok(anew(Some(Bad::Unknown))) };
    Ok(match app.relay.check(tail, id).await? {
        Ok(()) => From { position: id.position, reset: None },
        Err(bad) => anew(Some(bad)),
    })
}

/// Whether everything has been read: the log is closed and this is its end.
pub fn at_end(tail: &Tail, position: Position) -> bool {
    matches!(tail.end(), Some(End::Ended(_))) && position == tail.head()
}

/// The permits that a viewer of a stream needs.
pub fn permits(app: &App, principal: &Principal, stream: LogId) -> Result<Held, ApiError> {
    permits_of(app, principal, (&app.stream_viewers, &stream), "this stream")
}

/// One of what is viewed and one of who views it.
pub fn permits_of<K: Eq + Hash + Clone + Send + Sync + 'static>(
    app: &App,
    principal: &Principal,
    (viewers, key): (&Permits<K>, &K),
    name: &str,
) -> Result<Held, ApiError> {
    let full = |what: &str| {
        ApiError::limited("too_many_viewers", format!("{what} has as many viewers as it may"), 5)
    };
    let of_viewed = viewers.take(key).ok_or_else(|| full(name))?;
    let of_user = app.user_viewers.take(&principal.allowance).ok_or_else(|| full("this user"))?;
    Ok(Box::new((of_viewed, of_user)))
}

/// A request for a stream's events.
pub struct Ask<'a> {
    pub id: LogId,
    pub facts: &'a Facts,
    pub format: Format,
    pub after: Option<&'a str>,
    pub extensions: &'a Extensions,
}

/// The stream's events as an SSE answer, or 204 if the viewer has them all.
pub async fn events(app: &Arc<App>, principal: &Principal, ask: Ask<'_>) -> Result<Response, ApiError> {
    let tail = app.relay.tail(ask.id).await?;
    let from = position(app, &tail, ask.after).await?;
    if ask.after.is_some() {
        let ok = if at_end(&tail, from.position) { "done" } else { "ok" };
        app.metrics.resumed(from.reset.map_or(ok, Bad::as_str));
    }
    if at_end(&tail, from.position) {
        return Ok((StatusCode::NO_CONTENT, stream_headers(ask.id, ask.facts)).into_response());
    }
    let held = permits(app, principal, ask.id)?;
    let preface = match (from.reset, &ask.facts.goes_on) {
        // Its clients hold no positions; what they get is the replay that they always get, of the whole message.
        (_, Some(message)) if ask.format.surface == Surface::AiSdk && from.position == Position::START => {
            Some(ai_sdk::retold(message).into())
        }
        (reset, _) => reset.and_then(|bad| preface(ask.format.surface, bad)),
    };
    let viewer = app.relay.view(tail, ask.format, from.position);
    let counted = Counted::new(&app.metrics, "sse");
    let mut response = Events::new(viewer, preface, ask.extensions, held, counted).into_response();
    response.headers_mut().extend(stream_headers(ask.id, ask.facts));
    Ok(response)
}

/// Word of a reset, in the surface's own terms.
fn preface(surface: Surface, bad: Bad) -> Option<Bytes> {
    match surface {
        Surface::Native | Surface::Plain => {
            Some(native::aside("reset", None, &json!({"reason": bad.as_str()})).into())
        }
        // A replay is what its clients always get.
        Surface::AiSdk => None,
        // An SDK would take a replay for more of the same: an error frame makes it raise instead.
        _ => {
            let complaint = Complaint {
                status: 400,
                code: bad.as_str().to_owned(),
                message: format!("the position cannot be resumed: {}", bad.as_str()),
                param: None,
                request_id: None,
            };
            Some(complaint.frame(surface).into())
        }
    }
}
