//! Sessions: list, look, mirror over SSE, forget.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::Frame;
use serde_json::{Value, json};

use super::counted::Counted;
use super::error::ApiError;
use super::extract::{Caller, after, session_name};
use super::sse::{Held, X_SESSION_ID, come_back, headers};
use super::view::permits_of;
use crate::app::App;
use crate::auth::{Principal, Role};
use crate::hub::Session;
use crate::hub::catchup::{CatchUp, confirmed};
use crate::hub::cursor::Cursor;
use crate::hub::mirror::Find;
use crate::log::EventId;
use crate::room::Vector;
use crate::surface::Surface;

/// `GET /v1/sessions`: those that the caller has a role in.
pub async fn list(State(app): State<Arc<App>>, Caller(principal): Caller) -> Result<Json<Value>, ApiError> {
    let sessions: Vec<Value> = app.hub.list(&principal).await?.iter().map(|session| brief(session)).collect();
    Ok(Json(json!({"sessions": sessions})))
}

/// `GET /v1/sessions/{sid}`: its streams in order.
pub async fn snapshot(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let (session, role) = find(&app, &principal, &name).await?;
    let mut body = brief(&session);
    body["role"] = json!(role);
    let streams: Vec<Value> = session
        .streams()
        .iter()
        .map(|(n, entry)| {
            json!({"n": n, "stream": entry.stream.to_string(), "running": entry.closed.is_none()})
        })
        .collect();
    body["streams"] = streams.into();
    Ok(Json(body))
}

fn brief(session: &Session) -> Value {
    let running = session.streams().iter().filter(|(_, entry)| entry.closed.is_none()).count();
    let position = EventId { log: session.log, position: session.room().position };
    json!({
        "session": session.name,
        "owner": session.owner,
        "room": session.log.to_string(),
        "position": position.to_string(),
        "created_ms": session.created_ms,
        "streams_running": running,
        "viewers": session.viewers(),
        "links": {"events": format!("/v1/sessions/{}/events", session.name),
                  "socket": format!("/v1/sessions/{}/ws", session.name)},
    })
}

pub async fn find(app: &App, principal: &Principal, name: &str) -> Result<(Arc<Session>, Role), ApiError> {
    app.hub
        .find(principal, name)
        .await?
        .ok_or_else(|| ApiError::not_found(format!("there is no session \"{name}\"")))
}

/// `DELETE /v1/sessions/{sid}`: forgets it and its streams. For owners.
pub async fn forget(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let (session, role) = find(&app, &principal, &name).await?;
    if role < Role::Owner {
        return Err(ApiError::not_allowed("only an owner may forget a session"));
    }
    app.hub.forget(&session, &principal.user).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The session's permits for one more viewer.
pub fn permits(app: &App, principal: &Principal, session: &Session) -> Result<Held, ApiError> {
    let key = (session.tenant.clone(), session.name.clone());
    permits_of(app, principal, (&app.session_viewers, &key), "this session")
}

/// `GET /v1/sessions/{sid}/events`: all its streams, interleaved, under one id. A session that nobody has named yet
/// begins with its first viewer.
pub async fn events(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let after = after(request.headers(), request.uri().query().unwrap_or_default());
    let session = if after.is_some() {
        find(&app, &principal, &name).await?.0
    } else {
        enter(&app, &principal, &name).await?.0
    };
    let mut response = mirrored(&app, &principal, session, after).await?;
    let name = HeaderValue::try_from(name).expect("session names are header values");
    response.headers_mut().insert(X_SESSION_ID, name);
    Ok(response)
}

/// A session's events from a viewer's place on.
pub async fn mirrored(
    app: &Arc<App>,
    principal: &Principal,
    session: Arc<Session>,
    after: Option<String>,
) -> Result<Response, ApiError> {
    let held = permits(app, principal, &session)?;
    let mirror = app.hub.mirror(&session).await?;
    let seen = match after.as_deref().map(Vector::parse) {
        Some(Ok((log, seen))) if log == session.log => confirmed(&app.relay, &session, &seen).await?,
        _ => Vector::default(),
    };
    let (cursor, moment) = Cursor::join_from(mirror, &seen).await?;
    let catch_up = CatchUp::new(&app.relay, session.log, after.as_deref(), &moment).await?;
    if after.is_some() {
        app.metrics.resumed(catch_up.resets().first().map_or("ok", |(_, bad)| bad.as_str()));
    }
    let closing = app.clone();
    let body = MirrorEvents {
        preface: catch_up.preface().into_iter().collect(),
        catch_up: Some(catch_up),
        beats: cursor.beats(),
        cursor,
        closing: Box::pin(async move { closing.closing().await }),
        over: false,
        _held: held,
        _counted: Counted::new(&app.metrics, "sse"),
    };
    let mut response = Response::new(Body::new(body));
    response.headers_mut().extend(headers());
    Ok(response)
}

/// The session and the caller's role in it, made if need be.
pub async fn enter(app: &App, principal: &Principal, name: &str) -> Result<(Arc<Session>, Role), ApiError> {
    session_name("session", name)?;
    let missing = || ApiError::not_found(format!("there is no session \"{name}\""));
    app.hub.enter(principal, name).await?.ok_or_else(missing)
}

struct MirrorEvents {
    preface: VecDeque<Bytes>,
    catch_up: Option<CatchUp>,
    cursor: Cursor,
    beats: u64,
    closing: BoxFuture<'static, ()>,
    over: bool,
    _held: Held,
    _counted: Counted,
}

impl MirrorEvents {
    fn next_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(bytes) = self.preface.pop_front() {
            return Poll::Ready(Some(bytes));
        }
        if let Some(catch_up) = &mut self.catch_up {
            match catch_up.next_slice() {
                Some(bytes) => return Poll::Ready(Some(bytes)),
                None => self.catch_up = None,
            }
        }
        match self.cursor.poll(cx) {
            Find::Entries(entries) => {
                self.beats = self.cursor.beats();
                Poll::Ready(Some(match entries.as_slice() {
                    [only] => only.sse.clone(),
                    many => many.iter().map(|entry| entry.sse.as_ref()).collect::<Vec<_>>().concat().into(),
                }))
            }
            // Too slow for the window, or the session was forgotten: the id it holds says where to go on.
            Find::Behind | Find::Gone => Poll::Ready(None),
            Find::Nothing if self.cursor.beats() != self.beats => {
                self.beats = self.cursor.beats();
                Poll::Ready(Some(Bytes::from_static(Surface::Native.keep_alive())))
            }
            Find::Nothing => {
                std::task::ready!(self.closing.as_mut().poll(cx));
                self.over = true;
                Poll::Ready(Some(come_back(&ApiError::draining())))
            }
        }
    }
}

impl http_body::Body for MirrorEvents {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        this.next_bytes(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
