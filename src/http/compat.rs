//! Routes for clients that nobody changed: only their `base_url` points here.
//!
//! The body's `stream` decides what is answered, never `Accept`: SDKs send `application/json` for streams. The head is
//! held until the provider said something, so that its early refusal keeps its status.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Map;

use super::counted::Counted;
use super::error::ApiError;
use super::extract::{Caller, head_and_body};
use super::sse::{Events, stream_headers};
use super::streams::mark;
use super::{extract, view, wish};
use crate::app::App;
use crate::app::start::{Started, Wish};
use crate::auth::Principal;
use crate::chat;
use crate::event::{Kind, Status};
use crate::log::transcript::Transcript;
use crate::log::{Position, Record};
use crate::provider::Provider;
use crate::relay::route::Route;
use crate::relay::tail::End;
use crate::relay::viewer::Viewer;
use crate::surface::{Ending, Format, Surface, openai_chat};

/// Starts what was read from a dialect's request and answers in that dialect: a stream, or the whole.
pub async fn answer(
    app: &Arc<App>,
    principal: &Arc<Principal>,
    parts: &Parts,
    wish: Wish,
    format: Format,
) -> Result<Response, ApiError> {
    let stream = wish.request.stream;
    let started = app.start(principal, wish).await?;
    respond(app, principal, parts, &started, stream, format).await
}

/// The answer to what was started.
pub async fn respond(
    app: &Arc<App>,
    principal: &Principal,
    parts: &Parts,
    started: &Started,
    stream: bool,
    format: Format,
) -> Result<Response, ApiError> {
    let facts = app.relay.facts(started.id).await?;
    let held = view::permits(app, principal, started.id)?;
    let tail = app.relay.tail(started.id).await?;
    let mut viewer = app.relay.view(tail, format, Position::START);
    let answer = if stream {
        let counted = Counted::new(&app.metrics, "sse");
        let spoken = hold_head(app, &mut viewer, started).await;
        spoken.map(|()| Events::new(viewer, None, &parts.extensions, held, counted).into_response())
    } else {
        let _counted = Counted::new(&app.metrics, "json");
        whole(&mut viewer, started).await
    };
    let mut response = answer.unwrap_or_else(ApiError::into_response);
    response.headers_mut().extend(stream_headers(started.id, &facts));
    mark(response.headers_mut(), started);
    Ok(response)
}

/// Whom a model's name means to a client of this dialect.
pub fn route(app: &App, model: &str, dialect: Provider) -> Result<Route, ApiError> {
    Ok(app.settings.load().routes.resolve(model, Some(dialect as u8))?)
}

/// What headers say about any dialect's request: its session and what happens when its client leaves.
pub fn wish(request: chat::Request, headers: &HeaderMap) -> Result<Wish, ApiError> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    wish::wish(request, header("x-session-id"), header("x-on-disconnect"), Map::new(), headers)
}

/// `?ids=off` leaves event ids out.
pub fn ids(parts: &Parts) -> bool {
    extract::ids(parts.uri.query().unwrap_or_default())
}

/// `POST /v1/chat/completions`, streaming and not.
pub async fn chat_completions(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, fields) = head_and_body(&app, request).await?;
    let usage =
        fields.get("stream_options").and_then(|options| options["include_usage"].as_bool()).unwrap_or(false);
    let wish = wish(openai_chat::read(fields)?, &parts.headers)?;
    let format = Format { usage, ids: ids(&parts), ..Format::new(Surface::OpenAiChat) };
    answer(&app, &principal, &parts, wish, format).await
}

/// Waits until there is something to answer with: the provider's first word, its refusal, or the end of patience.
async fn hold_head(app: &App, viewer: &mut Viewer, started: &Started) -> Result<(), ApiError> {
    let _patience_may_end_first = tokio::time::timeout(app.edge.head_wait, viewer.until(has_spoken)).await;
    let transcript =
        viewer.tail.with_records(|records| (!has_spoken(records)).then(|| Transcript::of(records)));
    match transcript {
        Some(_) if viewer.tail.end() == Some(End::Leaving) => Err(ApiError::draining()),
        Some(_) if viewer.tail.is_cut_off() => Err(ApiError::store_away()),
        // A dialect with a word for this ending says it in the stream.
        Some(Transcript { done: Some(done), .. })
            if viewer.format().surface.ending(done.status) == Ending::Clean =>
        {
            Ok(())
        }
        Some(transcript) => failed(&transcript, started),
        None => Ok(()),
    }
}

pub fn has_spoken(records: &[Record]) -> bool {
    let quiet = [Kind::Start as u8, Kind::Notice as u8, Kind::Done as u8];
    records.iter().any(|record| !quiet.contains(&record.draft.kind))
}

/// An answer in one piece, once it is complete.
async fn whole(viewer: &mut Viewer, started: &Started) -> Result<Response, ApiError> {
    viewer.until(|_| false).await;
    let tail = &viewer.tail;
    match tail.end() {
        Some(End::Ended(_)) => {}
        Some(End::Leaving) => return Err(ApiError::draining()),
        Some(End::Away) => return Err(ApiError::store_away()),
        _ => return Err(ApiError::of_stream("interrupted", "the stream was forgotten")),
    }
    tail.with_records(|records| failed(&Transcript::of(records), started))?;
    let surface = viewer.format().surface;
    let body = tail.with_records(|records| surface.collect(tail.log, records)).unwrap_or_default();
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response())
}

/// An ending other than a proper one, as an error.
fn failed(transcript: &Transcript, started: &Started) -> Result<(), ApiError> {
    let Some(done) = transcript.done.as_ref().filter(|done| done.status != Status::Completed) else {
        return Ok(());
    };
    let mut error = match &done.error {
        Some(failure) => ApiError::of_stream(&failure.code, failure.message.clone()),
        None => ApiError::of_stream(done.status.as_str(), format!("the stream was {}", done.status.as_str())),
    };
    if let Some(refusal) = started.running.as_ref().and_then(|running| running.refusal.get()) {
        error.status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_GATEWAY);
        error.retried = refusal.retried;
        error.refusal = Some(Box::new(refusal.clone()));
    } else {
        // What failed upstream was retried as often as the route allows.
        error.retried = true;
    }
    Err(error)
}
