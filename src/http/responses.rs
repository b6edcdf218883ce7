//! OpenAI Responses for every provider: create, look again at any time, go on from any event, cancel, forget.
//!
//! A response is a stream under another name, `resp_<stream>`; a provider's own id is remembered for whoever asked. The
//! whole log can be read as long as it is kept, with `background` or without.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::counted::Counted;
use super::error::ApiError;
use super::extract::{Caller, after, head_and_body, parameter};
use super::sse::{self, Events, stream_headers};
use super::{compat, streams, view, wish};
use crate::app::App;
use crate::app::start::{Started, Wish};
use crate::auth::Principal;
use crate::chat::Message;
use crate::event::Status;
use crate::log::transcript::Transcript;
use crate::log::{LogId, Position};
use crate::provider::{Provider, openai_responses as wire};
use crate::relay::Facts;
use crate::relay::follow::PAGE_BYTES;
use crate::relay::running::Running;
use crate::relay::viewer::Viewer;
use crate::store;
use crate::surface::openai_responses::{self as surface, Asked, PREFIX};
use crate::surface::{Format, Surface};

/// `POST /v1/responses`: a stream, the whole, or with `background` the response as it stands.
pub async fn create(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, fields) = head_and_body(&app, request).await?;
    let asked = surface::read(fields, own_headers(&parts.headers))?;
    let (background, stream) = (asked.background, asked.request.stream);
    let route = compat::route(&app, &asked.request.model, Provider::OpenAiResponses)?;
    let same =
        route.targets.first().is_some_and(|target| target.endpoint.dialect == Provider::OpenAiResponses);
    let wish = wish_of(&app, &principal, &parts, asked, same).await?;
    let started = app.start(&principal, wish).await?;
    if let (true, Some(running)) = (same, &started.running) {
        settle(&app, &principal, running.clone());
    }
    let format = Format { ids: compat::ids(&parts), ..Format::new(Surface::OpenAiResponses) };
    if background {
        in_background(&app, &principal, &parts, &started, stream, format).await
    } else {
        compat::respond(&app, &principal, &parts, &started, stream, format).await
    }
}

/// The dialect's own request headers.
fn own_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let beta = headers.get("openai-beta").and_then(|value| value.to_str().ok());
    beta.map(|value| ("openai-beta".to_owned(), value.to_owned())).into_iter().collect()
}

/// `same`: the provider speaks this dialect, and is sent what the client wrote.
async fn wish_of(
    app: &App,
    principal: &Principal,
    parts: &Parts,
    asked: Asked,
    same: bool,
) -> Result<Wish, ApiError> {
    let mut request = asked.request;
    let own = request.original.as_ref().and_then(|original| original.body.get("prompt"));
    let prompted = own.is_some_and(|prompt| !prompt.is_null());
    let mut said = Some(Vec::new());
    if let Some(name) = &asked.previous {
        let earlier = earlier(app, principal, name).await?;
        let known = earlier.is_some();
        let (messages, id) = earlier.unwrap_or_default();
        if messages.is_none() && !same {
            let message = "there is no such response, or its conversation was not kept (`store: false`)";
            return Err(ApiError::invalid("previous_response_id", message));
        }
        if known && name.starts_with(PREFIX) && id.as_ref() != Some(name) {
            // The provider does not know our name for it: it is told its own, or the conversation.
            match (id, &mut request.original) {
                (Some(id), Some(original)) => {
                    original.body.insert("previous_response_id".into(), id.into());
                }
                _ => request.original = None,
            }
        }
        said = messages;
    }
    // What cannot be read cannot be gone on with either.
    let input = std::mem::take(&mut request.messages);
    let readable = request.untranslatable.is_none();
    let said = said.filter(|_| readable).map(|before| [before, input.clone()].concat());
    let conversation = said.as_ref().filter(|_| asked.store).map(|said| json!(said).to_string());
    if conversation.as_ref().is_some_and(|text| text.len() > app.edge.request_bytes) {
        return Err(ApiError::new(
            axum::http::StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "the conversation so far and this request are larger than a request may be",
        ));
    }
    request.messages = asked.instructions.into_iter().chain(said.unwrap_or(input)).collect();
    // In the background somebody may look while it is being said.
    request.stream |= asked.background;
    let header = |name: &str| parts.headers.get(name)?.to_str().ok().map(str::to_owned);
    let (session, policy) = (header("x-session-id"), header("x-on-disconnect"));
    let mut wish = wish::wish(request, session, policy, asked.metadata, &parts.headers)?;
    wish.response = (!same).then_some(asked.response);
    wish.conversation = conversation;
    wish.prompted = prompted;
    wish.known_as = same.then(|| known_as(principal));
    Ok(wish)
}

/// What led to a response and what it answered, if that was kept; and its provider's id for it.
type Earlier = (Option<Vec<Message>>, Option<String>);

async fn earlier(app: &App, principal: &Principal, name: &str) -> Result<Option<Earlier>, ApiError> {
    let found = match find(app, principal, name).await {
        Ok((id, facts)) => (id, facts),
        Err(store::Error::NotFound) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (id, facts) = found;
    let tail = app.relay.tail(id).await?;
    let (transcript, provider) = tail.with_records(|records| {
        (Transcript::of(records), surface::provider_id(records.iter().map(|record| &*record.draft)))
    });
    let Some(done) = &transcript.done else {
        return Err(ApiError::invalid("previous_response_id", "this response is still being generated"));
    };
    let whole = done.status == Status::Completed;
    let conversation = facts.conversation.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let messages = conversation.map(|mut messages: Vec<Message>| {
        messages.extend(answer(transcript, whole));
        messages
    });
    Ok(Some((messages, provider)))
}

/// What was answered, as a message. Calls that were cut off cannot be answered: they are left out.
fn answer(transcript: Transcript, whole: bool) -> Option<Message> {
    let mut message = Message::new("assistant", &transcript.text);
    if !transcript.refusal.is_empty() {
        let mut parts = vec![json!({"type": "refusal", "refusal": transcript.refusal})];
        if !transcript.text.is_empty() {
            parts.insert(0, json!({"type": "text", "text": transcript.text}));
        }
        message.content = parts.into();
    }
    let thoughts: Vec<Value> = transcript
        .thoughts
        .into_iter()
        .map(|thought| {
            json!({"text": thought.text, "signature": thought.signature, "redacted": thought.redacted})
        })
        .collect();
    let calls: Vec<Value> = transcript
        .tool_calls
        .into_iter()
        .filter(|_| whole)
        .map(|call| {
            json!({"id": call.id, "type": "function", "signature": call.signature,
                   "function": {"name": call.name, "arguments": call.arguments}})
        })
        .collect();
    if message.content == "" && calls.is_empty() {
        return None;
    }
    if !calls.is_empty() {
        if message.content == "" {
            message.content = Value::Null;
        }
        message.rest.insert("tool_calls".into(), calls.into());
    }
    if !thoughts.is_empty() {
        message.rest.insert("reasoning".into(), thoughts.into());
    }
    Some(message)
}

/// Answers at once: nobody waits for the provider's first word.
async fn in_background(
    app: &Arc<App>,
    principal: &Principal,
    parts: &Parts,
    started: &Started,
    stream: bool,
    format: Format,
) -> Result<Response, ApiError> {
    let facts = app.relay.facts(started.id).await?;
    let mut response = if stream {
        let held = view::permits(app, principal, started.id)?;
        let viewer = app.relay.view(app.relay.tail(started.id).await?, format, Position::START);
        Events::new(viewer, None, &parts.extensions, held, Counted::new(&app.metrics, "sse")).into_response()
    } else {
        let body = object(app, started.id).await?;
        let mut object: Value = serde_json::from_slice(&body).unwrap_or_default();
        object["background"] = true.into();
        if object["status"] == "in_progress" && object["output"].as_array().is_none_or(Vec::is_empty) {
            object["status"] = "queued".into();
        }
        Json(object).into_response()
    };
    response.headers_mut().extend(stream_headers(started.id, &facts));
    streams::mark(response.headers_mut(), started);
    Ok(response)
}

/// Where a provider's own id of a response is noted for this principal; the relay adds the id, and does it.
fn known_as(principal: &Principal) -> String {
    format!("response/{}/", principal.key())
}

/// The note about an ended response goes when the response goes.
fn settle(app: &Arc<App>, principal: &Principal, running: Arc<Running>) {
    let (store, window) = (app.relay.store.clone(), app.edge.replay_window);
    let known_as = known_as(principal);
    if window.is_zero() {
        return;
    }
    app.tracker.spawn(async move {
        running.finished.cancelled().await;
        let settled = async {
            let page = store.read(running.id, Position::START, PAGE_BYTES).await?;
            let Some(name) = surface::provider_id(page.records.iter().map(|record| &*record.draft)) else {
                return Ok(());
            };
            store.claim(&format!("{known_as}{name}"), &running.id.to_string(), window).await.map(drop)
        };
        match settled.await {
            Ok(()) | Err(store::Error::NotFound) => {}
            Err(error) => tracing::warn!(%error, "the note of a provider's id could not be settled"),
        }
    });
}

/// The stream behind either of a response's ids, and that this principal may read it.
async fn find(app: &App, principal: &Principal, name: &str) -> Result<(LogId, Facts), store::Error> {
    let ours = name.strip_prefix(PREFIX).and_then(|id| id.parse().ok());
    let id = match ours {
        Some(id) => Some(id),
        None => {
            let noted = app.relay.store.claimed(&format!("{}{name}", known_as(principal))).await?;
            noted.and_then(|id| id.parse().ok())
        }
    };
    let id = id.ok_or(store::Error::NotFound)?;
    Ok((id, app.readable(principal, id).await?))
}

async fn known(app: &App, principal: &Principal, name: &str) -> Result<(LogId, Facts), ApiError> {
    find(app, principal, name).await.map_err(|error| match error {
        store::Error::NotFound => ApiError::not_found(format!("Response with id '{name}' not found.")),
        other => other.into(),
    })
}

/// The response object as it stands.
async fn object(app: &App, id: LogId) -> Result<Vec<u8>, ApiError> {
    let tail = app.relay.tail(id).await?;
    Ok(tail.with_records(|records| Surface::OpenAiResponses.collect(id, records)).unwrap_or_default())
}

async fn shown(app: &App, id: LogId, facts: &Facts) -> Result<Response, ApiError> {
    let kind = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((stream_headers(id, facts), kind, object(app, id).await?).into_response())
}

/// `GET /v1/responses/{id}`: the object, or with `?stream=true` its events after `starting_after` or `Last-Event-ID`.
pub async fn retrieve(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let (id, facts) = known(&app, &principal, &name).await?;
    let (parts, _) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default();
    if !matches!(parameter(query, "stream").as_deref(), Some("true" | "1")) {
        return shown(&app, id, &facts).await;
    }
    let format = Format { ids: compat::ids(&parts), ..Format::new(Surface::OpenAiResponses) };
    let tail = app.relay.tail(id).await?;
    let viewer = match (parameter(query, "starting_after"), after(&parts.headers, query)) {
        (Some(number), _) => {
            let number: u64 = number.parse().map_err(|_| {
                let mut error = ApiError::bad_request("starting_after must be a sequence number");
                error.param = Some("starting_after".into());
                error
            })?;
            let past = |frame: &[u8]| surface::sequence_number(frame).is_some_and(|n| n > number);
            let offset = tail.seek(format, past);
            resumed(&app, app.relay.view_at(tail, format, offset))
        }
        (None, Some(position)) => {
            let from = view::position(&app, &tail, Some(&position)).await?;
            if let Some(bad) = from.reset {
                app.metrics.resumed(bad.as_str());
                let message = format!("the position cannot be resumed: {}", bad.as_str());
                return Err(ApiError::bad_request(message));
            }
            resumed(&app, app.relay.view(tail, format, from.position))
        }
        (None, None) => app.relay.view(tail, format, Position::START),
    };
    if viewer.at_end() {
        return Ok((stream_headers(id, &facts), sse::headers(), Body::empty()).into_response());
    }
    let held = view::permits(&app, &principal, id)?;
    let counted = Counted::new(&app.metrics, "sse");
    let mut response = Events::new(viewer, None, &parts.extensions, held, counted).into_response();
    response.headers_mut().extend(stream_headers(id, &facts));
    Ok(response)
}

/// Counts it as one that came back.
fn resumed(app: &App, viewer: Viewer) -> Viewer {
    app.metrics.resumed(if viewer.at_end() { "done" } else { "ok" });
    viewer
}

/// `POST /v1/responses/{id}/cancel`: stops it, in the background or not; again and again is fine.
pub async fn cancel(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let (id, facts) = known(&app, &principal, &name).await?;
    streams::stop(&app, &principal, id, &facts).await?;
    shown(&app, id, &facts).await
}

/// `DELETE /v1/responses/{id}`: forgets it, stopping it first if it runs.
pub async fn forget(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let (id, facts) = known(&app, &principal, &name).await?;
    streams::allow(&app, &principal, &facts).await?;
    app.relay.forget(id, principal.user.clone()).await?;
    Ok(Json(json!({"id": name, "object": "response", "deleted": true})))
}

/// `GET /v1/responses/{id}/input_items`: what it answers, newest first unless `?order=asc`.
pub async fn input_items(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let (id, facts) = known(&app, &principal, &name).await?;
    let messages: Option<Vec<Message>> =
        facts.conversation.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let missing = || ApiError::not_found("the input of this response was not kept");
    let mut items = wire::items(&messages.ok_or_else(missing)?).map_err(|_| missing())?;
    for (at, item) in items.iter_mut().enumerate() {
        item["id"] = format!("in_{id}_{at}").into();
        if let Some(text) = item["content"].as_str().map(str::to_owned) {
            item["content"] = json!([{"type": "input_text", "text": text}]);
        }
    }
    let query = request.uri().query().unwrap_or_default();
    if parameter(query, "order").as_deref() != Some("asc") {
        items.reverse();
    }
    if let Some(last) = parameter(query, "after") {
        let seen = items.iter().position(|item| item["id"] == last.as_str());
        items.drain(..seen.map_or(0, |at| at + 1));
    }
    let limit = parameter(query, "limit").and_then(|limit| limit.parse().ok()).unwrap_or(20_usize);
    let more = items.len() > limit.clamp(1, 100);
    items.truncate(limit.clamp(1, 100));
    let ends = [items.first(), items.last()].map(|item| item.map(|item| item["id"].clone()));
    Ok(Json(
        json!({"object": "list", "data": items, "first_id": ends[0], "last_id": ends[1], "has_more": more}),
    ))
}
