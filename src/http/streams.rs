//! The native API of streams: start, look, cancel, forget.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::error::ApiError;
use super::extract::{Caller, JsonBody, after, ids, parameter, stream_id};
use super::sse::stream_headers;
use super::{view, wish};
use crate::app::App;
use crate::app::start::Started;
use crate::auth::Principal;
use crate::event::{Kind, Status};
use crate::log::transcript::Transcript;
use crate::log::{EventId, LogId, Position, Record};
use crate::relay::Facts;
use crate::relay::tail::Tail;
use crate::surface::{Format, Surface};

pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// Says whether the stream is another request's.
pub fn mark(headers: &mut HeaderMap, started: &Started) {
    match (started.cache, started.replayed) {
        (true, hit) => {
            headers.insert(X_CACHE, HeaderValue::from_static(if hit { "hit" } else { "miss" }));
        }
        (false, true) => {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        (false, false) => {}
    }
}

/// `POST /v1/streams`: 201, or 200 for a repeated idempotency key.
pub async fn start(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    headers: HeaderMap,
    JsonBody(fields): JsonBody,
) -> Result<Response, ApiError> {
    let wish = wish::read(&app, fields, &headers)?;
    let started = app.start(&principal, wish).await?;
    let facts = app.relay.facts(started.id).await?;
    let tail = app.relay.tail(started.id).await?;
    let transcript = tail.with_records(|records| Transcript::of(records));
    let body = brief(started.id, &facts, &transcript, tail.head());
    let mut response = (StatusCode::CREATED, stream_headers(started.id, &facts), Json(body)).into_response();
    if started.replayed {
        *response.status_mut() = StatusCode::OK;
    }
    mark(response.headers_mut(), &started);
    let location =
        HeaderValue::try_from(format!("/v1/streams/{}", started.id)).expect("an id is a header value");
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// `GET /v1/streams/{id}`: everything so far.
pub async fn snapshot(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let id = stream_id(&id)?;
    let facts = app.readable(&principal, id).await?;
    let tail = app.relay.tail(id).await?;
    let viewers = app.relay.viewers(id);
    let body = tail.with_records(|records| full(id, &facts, records, viewers));
    Ok((stream_headers(id, &facts), Json(body)).into_response())
}

/// `GET /v1/streams/{id}/events`: SSE from the start or after a position.
pub async fn events(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let id = stream_id(&id)?;
    let facts = app.readable(&principal, id).await?;
    let query = request.uri().query().unwrap_or_default();
    let format = format(&app, query)?;
    let after = after(request.headers(), query);
    let ask =
        view::Ask { id, facts: &facts, format, after: after.as_deref(), extensions: request.extensions() };
    view::events(&app, &principal, ask).await
}

/// `?format=` and `?ids=`.
pub fn format(app: &App, query: &str) -> Result<Format, ApiError> {
    let surface = match parameter(query, "format") {
        None => Surface::Native,
        Some(name) => Surface::parse(&name).ok_or_else(|| {
            let known: Vec<_> = Surface::ALL.iter().map(|surface| surface.name()).collect();
            ApiError::invalid("format", format!("\"{name}\" is not one of {}", known.join(", ")))
        })?,
    };
    Ok(Format { ids: ids(query), parts: app.settings.load().ai_sdk.parts, ..Format::new(surface) })
}

/// `POST /v1/streams/{id}/cancel`: stops it; again and again is fine. Viewers are told by whom.
pub async fn cancel(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let id = stream_id(&id)?;
    let facts = app.readable(&principal, id).await?;
    let tail = stop(&app, &principal, id, &facts).await?;
    let viewers = app.relay.viewers(id);
    let body = tail.with_records(|records| full(id, &facts, records, viewers));
    Ok((stream_headers(id, &facts), Json(body)).into_response())
}

/// Stops a stream, if it runs and this principal may; its log is at its end then.
pub async fn stop(app: &App, principal: &Principal, id: LogId, facts: &Facts) -> Result<Arc<Tail>, ApiError> {
    allow(app, principal, facts).await?;
    let tail = app.relay.tail(id).await?;
    if tail.end().is_none() {
        app.relay.stop(id, &principal.user).await?;
    }
    tail.ended().await;
    Ok(tail)
}

/// `DELETE /v1/streams/{id}`: forgets it, stopping it first if it runs.
pub async fn forget(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let id = stream_id(&id)?;
    let facts = app.readable(&principal, id).await?;
    allow(&app, &principal, &facts).await?;
    app.relay.forget(id, principal.user.clone()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn allow(app: &App, principal: &Principal, facts: &Facts) -> Result<(), ApiError> {
    let refused = || ApiError::not_allowed("your role in this session does not allow it to end this stream");
    if app.may_end(principal, facts).await? { Ok(()) } else { Err(refused()) }
}

/// What `POST` answers, and where to go from there.
fn brief(id: LogId, facts: &Facts, transcript: &Transcript, head: Position) -> Value {
    let status = transcript.done.as_ref().map_or(Status::Running, |done| done.status);
    let socket = facts.session.as_ref().map(|session| format!("/v1/sessions/{session}/ws"));
    json!({
        "id": id.to_string(),
        "session": facts.session,
        "status": status.as_str(),
        "model": facts.model,
        "position": EventId { log: id, position: head }.to_string(),
        "links": {
            "self": format!("/v1/streams/{id}"),
            "events": format!("/v1/streams/{id}/events"),
            "poll": format!("/v1/streams/{id}/poll"),
            "cancel": format!("/v1/streams/{id}/cancel"),
            "socket": socket,
        },
    })
}

fn full(id: LogId, facts: &Facts, records: &[Record], viewers: usize) -> Value {
    let transcript = Transcript::of(records);
    let head = records.last().map_or(Position::START, |record| record.position);
    let mut body = brief(id, facts, &transcript, head);
    let done = transcript.done.as_ref();
    let time_of = |kinds: &[Kind]| {
        records
            .iter()
            .find(|record| kinds.iter().any(|kind| *kind as u8 == record.draft.kind))
            .map(|r| r.draft.at_ms)
    };
    body["provider"] = json!(transcript.start.as_ref().map(|start| &start.provider));
    body["text"] = transcript.said().into();
    body["reasoning"] = transcript.reasoning.as_str().into();
    body["tool_calls"] = json!(transcript.tool_calls);
    body["finish_reason"] = json!(done.and_then(|done| done.finish_reason.as_deref()));
    body["usage"] = json!(done.and_then(|done| done.usage).or(transcript.usage));
    body["error"] = json!(done.and_then(|done| done.error.as_ref()));
    body["by"] = json!(done.and_then(|done| done.by.as_deref()));
    body["metadata"] = json!(facts.metadata);
    body["viewers"] = viewers.into();
    // Milliseconds since the Unix epoch.
    body["times"] = json!({
        "created_ms": time_of(&[Kind::Start]),
        "first_token_ms": time_of(&Kind::SPOKEN),
        "ended_ms": time_of(&[Kind::Done]),
    });
    body
}
