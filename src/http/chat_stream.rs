//! `GET /v1/chat/stream`: one EventSource URL that starts a stream and, when the browser reconnects by itself, goes on
//! with that same stream.
//!
//! It never starts a second one for a reconnect: a position of a stream that is not there any more gets `reset`, an
//! ending, and at the next reconnect 204.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, json};

use super::error::ApiError;
use super::extract::{Caller, after, parameter};
use super::streams::{format, mark_replayed};
use super::{sse, view, wish};
use crate::app::App;
use crate::chat;
use crate::event::{Done, Event, Status};
use crate::log::{Bad, EventId, LogId, Position};
use crate::store;
use crate::surface::native;

pub async fn stream(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    request: Request,
) -> Result<Response, ApiError> {
    if request.method() == Method::HEAD {
        // Axum sends HEAD where GET goes, and this GET costs money.
        return Ok((sse::headers(), ()).into_response());
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let format = format(&app, &query)?;
    let held = after(request.headers(), &query);
    let (id, replayed) = match held.as_deref().map(str::parse::<EventId>) {
        None => {
            let wish = wanted(&app, &query, request.headers())?;
            let started = app.start(&principal, wish).await?;
            (started.id, started.replayed)
        }
        Some(Ok(id)) if id.position.seq == Position::LAST => {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        Some(Ok(id)) => (id.log, false),
        Some(Err(_)) => {
            app.metrics.resumed(Bad::Unknown.as_str());
            return Ok(lost(LogId(0), Bad::Unknown));
        }
    };
    let facts = match app.readable(&principal, id).await {
        Ok(facts) => facts,
        Err(store::Error::NotFound) => {
            app.metrics.resumed("missing");
            return Ok(lost(id, Bad::Lost));
        }
        Err(error) => return Err(error.into()),
    };
    let ask =
        view::Ask { id, facts: &facts, format, after: held.as_deref(), extensions: request.extensions() };
    let mut response = view::events(&app, &principal, ask).await?;
    mark_replayed(&mut response, replayed);
    Ok(response)
}

/// The query as a request: `prompt`, and optionally `model`, `session`, `on_disconnect`, `key`.
fn wanted(app: &App, query: &str, headers: &HeaderMap) -> Result<crate::app::start::Wish, ApiError> {
    let prompt = parameter(query, "prompt").ok_or_else(|| ApiError::invalid("prompt", "is missing"))?;
    let model = parameter(query, "model").filter(|model| !model.is_empty());
    let model = model.or_else(|| app.settings.load().routes.default_model().map(str::to_owned));
    let model = model.ok_or_else(|| ApiError::invalid("model", "is missing"))?;
    let messages = json!([{"role": "user", "content": prompt}]);
    let request = chat::Request::new(model, messages, Map::new(), true)?;
    let (session, policy) = (parameter(query, "session"), parameter(query, "on_disconnect"));
    let mut wish = wish::wish(request, session, policy, Map::new(), headers)?;
    if let Some(key) = parameter(query, "key").filter(|key| !key.is_empty()) {
        wish.idempotency_key = Some(wish::idempotency_key(key)?);
    }
    Ok(wish)
}

/// What a reconnect to nothing gets: a reset, and an ending whose own reconnect is 204.
fn lost(log: LogId, reason: Bad) -> Response {
    let mut body = native::aside("reset", None, &json!({"reason": reason.as_str()}));
    let done = Event::Done(Done::ended(Status::Interrupted));
    let id = EventId { log, position: Position::new(0, Position::LAST) };
    crate::sse::write(&mut body, Some(&id), done.kind().name(), None, &done.data());
    (sse::headers(), body).into_response()
}
