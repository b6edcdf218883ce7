//! The AI SDK's `useChat` with its default transport: send, resume, stop.
//!
//! A chat is a session, and its answers are the session's streams. Resuming is a replay from the start: the client holds no
//! position, and merges by the message's id. What has ended is replayed too, for as long as it is kept: a client that lost
//! the tail and is told 204 would show half an answer as the whole.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use http_body::Body;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::extract::{Caller, JsonBody, head_and_body, session_name};
use super::{compat, streams, view, wish};
use crate::app::{App, Settings};
use crate::auth::Principal;
use crate::chat;
use crate::event::Status;
use crate::hub::Session;
use crate::log::LogId;
use crate::log::transcript::Transcript;
use crate::store;
use crate::surface::ai_sdk::{self, Asked};
use crate::surface::{Format, Surface};

/// `POST /api/chat`: asks for an answer. Another answer in place of a running one stops that.
pub async fn chat(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, fields) = head_and_body(&app, request).await?;
    let settings = app.settings.load_full();
    let mut asked = ai_sdk::read(fields)?;
    session_name("id", &asked.chat)?;
    let (chat, regenerate, goes_on) = (asked.chat.clone(), asked.regenerate, asked.goes_on.take());
    let policy = parts.headers.get("x-on-disconnect").and_then(|policy| policy.to_str().ok());
    let request = furnished(&settings, asked)?;
    let mut wish = wish::wish(request, Some(chat), policy.map(str::to_owned), Map::new(), &parts.headers)?;
    wish.message = goes_on.as_ref().and_then(|message| message["id"].as_str()).map(str::to_owned);
    wish.goes_on = goes_on;
    wish.prompted = settings.ai_sdk.prompt.is_some();
    if let Some(session) = wish.session.as_deref().filter(|_| regenerate)
        && let Some((session, _)) = app.hub.find(&principal, session).await?
    {
        // The new answer is given also beside one that goes on.
        let _not_all_are_ours = stop_running(&app, &principal, &session, None).await;
    }
    compat::answer(&app, &principal, &parts, wish, format(&settings)).await
}

fn format(settings: &Settings) -> Format {
    Format { parts: settings.ai_sdk.parts, ..Format::new(Surface::AiSdk) }
}

/// Completes what was asked by what is configured: the model and the prompt.
fn furnished(settings: &Settings, asked: Asked) -> Result<chat::Request, ApiError> {
    let (mut messages, mut params, mut prompts_model) = (Vec::new(), Map::new(), None);
    match (&settings.ai_sdk.prompt, asked.variables) {
        (Some(name), variables) => {
            let rendered = settings.prompts.render(name, &variables.unwrap_or_default(), &[])?;
            let system = |text: &str| json!({"role": "system", "content": text});
            messages.extend(rendered.instructions().into_iter().map(system));
            (params, prompts_model) = (rendered.config, rendered.model);
        }
        (None, Some(_)) => {
            return Err(ApiError::invalid("variables", "are for a prompt, and none is configured"));
        }
        (None, None) => {}
    }
    messages.extend(asked.messages);
    params.extend(asked.params);
    let model = asked.model.or_else(|| settings.ai_sdk.model.clone()).or(prompts_model);
    let model = model.or_else(|| settings.routes.default_model().map(str::to_owned));
    let model = model.ok_or_else(|| ApiError::invalid("model", "is missing"))?;
    Ok(chat::Request::new(model, messages.into(), params, true)?)
}

/// `GET /api/chat/{id}/stream`: the running answer, or else the newest that has ended, from its start; 204 if there is none.
pub async fn resume(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(chat): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let nothing = || StatusCode::NO_CONTENT.into_response();
    let Some((session, _)) = app.hub.find(&principal, &chat).await? else { return Ok(nothing()) };
    let Some(id) = newest(&app, &session).await? else { return Ok(nothing()) };
    let facts = match app.readable(&principal, id).await {
        Ok(facts) => facts,
        Err(store::Error::NotFound) => return Ok(nothing()),
        Err(error) => return Err(error.into()),
    };
    let format = format(&app.settings.load());
    let ask = view::Ask { id, facts: &facts, format, after: None, extensions: request.extensions() };
    view::events(&app, &principal, ask).await
}

/// The chat's stream to show: the last one that runs, else the last one if it has something to show.
async fn newest(app: &App, session: &Session) -> Result<Option<LogId>, ApiError> {
    let streams = session.streams();
    let mut newest_first = streams.iter().rev().map(|(_, entry)| entry);
    if let Some(running) = newest_first.clone().find(|entry| entry.closed.is_none()) {
        return Ok(Some(running.stream));
    }
    let Some(id) = newest_first.next().map(|entry| entry.stream) else { return Ok(None) };
    match app.relay.tail(id).await {
        // A refusal was told by the answer to its request; an empty message is not worth showing.
        Ok(tail) => Ok(tail.with_records(|records| {
            let ended = Transcript::of(records).done.map_or(Status::Running, |done| done.status);
            (ended == Status::Completed || compat::has_spoken(records)).then_some(id)
        })),
        Err(store::Error::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `POST /api/chat/{id}/stop`: stops the chat's running answer. `activeStreamId` names the one that is meant: if another
/// runs by now, nothing happens.
pub async fn stop(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(chat): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let fields = if request.body().is_end_stream() {
        Map::new()
    } else {
        JsonBody::from_request(request, &app).await?.0
    };
    let only = match fields.get("activeStreamId") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) => Some(id.as_str()),
        Some(other) => {
            let message = format!("expected a string, got {}", chat::kind(other));
            return Err(ApiError::invalid("activeStreamId", message));
        }
    };
    if let Some((session, _)) = app.hub.find(&principal, &chat).await? {
        stop_running(&app, &principal, &session, only).await?;
    }
    Ok(Json(json!({"success": true})))
}

/// Stops what runs in the session, or `only` this. What the caller may not stop goes on, and is the error.
async fn stop_running(
    app: &App,
    principal: &Principal,
    session: &Session,
    only: Option<&str>,
) -> Result<(), ApiError> {
    let mut stopped = Ok(());
    for (_, entry) in session.streams() {
        let meant = only.is_none_or(|only| only == entry.stream.to_string());
        if entry.closed.is_some() || !meant {
            continue;
        }
        // What has no facts is gone meanwhile.
        let Ok(facts) = app.relay.facts(entry.stream).await else { continue };
        match streams::stop(app, principal, entry.stream, &facts).await {
            Ok(_) => {}
            Err(refused) => stopped = Err(refused),
        }
    }
    stopped
}
