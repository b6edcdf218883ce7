//! What is said in a session, over plain requests: its history by page, and a backend's word.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::extract::{Caller, JsonBody, parameter};
use super::sessions;
use super::streams::IDEMPOTENT_REPLAYED;
use crate::app::App;
use crate::auth::{Principal, Role};
use crate::hub::{Said, Session, catchup};
use crate::log::{EventId, Position};
use crate::room::talk::Text;
use crate::room::{Kind, message};

/// Messages in a page, unless the client says otherwise, and at most.
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 500;

/// `GET /v1/sessions/{sid}/messages?before=&limit=`: the newest messages before a place, oldest first. A page and a
/// socket that says `hello` with its `position` have neither overlap nor hole.
pub async fn page(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let (session, _) = sessions::find(&app, &principal, &name).await?;
    let query = request.uri().query().unwrap_or_default();
    let limit = match parameter(query, "limit").map(|limit| limit.parse::<usize>()) {
        None => PAGE,
        Some(Ok(limit)) if (1..=LARGEST_PAGE).contains(&limit) => limit,
        Some(_) => {
            return Err(ApiError::invalid("limit", format!("expected a number from 1 to {LARGEST_PAGE}")));
        }
    };
    let end = match parameter(query, "before") {
        None => session.room().position,
        Some(before) => place(&app, &session, &before).await?,
    };
    let mut talk = catchup::talk(&app.relay, session.log, Position::START, end).await?;
    let earlier = talk.len().saturating_sub(limit);
    let page = talk.split_off(earlier);
    let printed = |position| EventId { log: session.log, position }.to_string();
    let before = talk.back().map(|last| printed(last.position));
    let messages: Vec<Value> = page.iter().filter_map(|record| message::talk(session.log, record)).collect();
    Ok(Json(json!({"messages": messages, "before": before, "position": printed(end)})))
}

async fn place(app: &App, session: &Session, before: &str) -> Result<Position, ApiError> {
    let bad = |why: &str| ApiError::invalid("before", why);
    let id: EventId = before.parse().map_err(|_| bad("is not a position"))?;
    if id.log != session.log {
        return Err(bad("is not a position in this session"));
    }
    match app.relay.store.check(id.log, id.position).await? {
        Ok(()) => Ok(id.position),
        Err(reason) => Err(bad(reason.as_str())),
    }
}

/// `POST /v1/sessions/{sid}/messages`: `{content, type?: "text" | "system", id?}`, kept and told to everybody. Only owners
/// speak as the system.
pub async fn say(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(name): Path<String>,
    JsonBody(fields): JsonBody,
) -> Result<Response, ApiError> {
    let (session, role) = sessions::enter(&app, &principal, &name).await?;
    let kind = match fields.get("type").map(|kind| kind.as_str()) {
        None | Some(Some("text")) => Kind::Text,
        Some(Some("system")) => Kind::System,
        Some(_) => return Err(ApiError::invalid("type", "expected \"text\" or \"system\"")),
    };
    if role < (if kind == Kind::System { Role::Owner } else { Role::Member }) {
        return Err(ApiError::not_allowed("your role does not allow it to say this here"));
    }
    let text = text(&app, &principal, &fields)?;
    let said = app.hub.say(&session, kind, &text).await?;
    let position = EventId { log: session.log, position: said.position() }.to_string();
    Ok(kept(said, json!({"session": session.name, "position": position})))
}

/// What a body says: `{content, id?}`.
pub fn text(app: &App, principal: &Principal, fields: &Map<String, Value>) -> Result<Text, ApiError> {
    let content = message::content(fields.get("content"))
        .map_err(|why| ApiError::invalid("content", why.trim_start_matches("content: ")))?;
    if content.len() > app.edge.message_bytes {
        let message = format!("a message has at most {} bytes", app.edge.message_bytes);
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message));
    }
    let id = match fields.get("id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) if id.len() <= message::ID_BYTES => Some(id.clone()),
        Some(_) => {
            return Err(ApiError::invalid("id", format!("expected at most {} bytes", message::ID_BYTES)));
        }
    };
    Ok(Text { content, from: principal.user.clone(), id, given: 0 })
}

/// The answer to what was said just now, or before under the same id.
pub fn kept(said: Said, body: Value) -> Response {
    match said {
        Said::Now(_) => (StatusCode::CREATED, Json(body)).into_response(),
        Said::Before(_) => (StatusCode::OK, [(IDEMPOTENT_REPLAYED, "true")], Json(body)).into_response(),
    }
}
