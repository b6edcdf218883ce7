//! What a user is told, wherever it is: by its backend, over SSE, and on its sockets.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::error::ApiError;
use super::extract::{Caller, JsonBody, after};
use super::messages::{kept, text};
use super::sessions::mirrored;
use crate::app::App;
use crate::auth::Principal;
use crate::log::EventId;

/// The longest name of a user.
const USER_BYTES: usize = 256;

/// `POST /v1/users/{user}/notifications`: `{content, id?}`, for the user's open connections in every session, and kept for
/// those that come back.
pub async fn notify(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(user): Path<String>,
    JsonBody(fields): JsonBody,
) -> Result<Response, ApiError> {
    let oneself = principal.user == user && principal.scope.is_none();
    if !oneself && !principal.speaks_for_all() {
        return Err(ApiError::not_allowed("only an owner of all sessions may tell other users something"));
    }
    if user.len() > USER_BYTES {
        return Err(ApiError::invalid("user", format!("a user's name has at most {USER_BYTES} bytes")));
    }
    let text = text(&app, &principal, &fields)?;
    let (log, said) = app.hub.notify(&principal.tenant, &user, &text).await?;
    let position = EventId { log, position: said.position() }.to_string();
    Ok(kept(said, json!({"user": user, "position": position})))
}

/// `GET /v1/notifications`: SSE of what the caller was told and is told from now on.
pub async fn events(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    request: Request,
) -> Result<Response, ApiError> {
    own(&principal)?;
    let after = after(request.headers(), request.uri().query().unwrap_or_default());
    let inbox = app.hub.inbox_of(&principal.tenant, &principal.user).await?;
    mirrored(&app, &principal, inbox, after).await
}

/// `DELETE /v1/notifications`: forgets all of it.
pub async fn forget(State(app): State<Arc<App>>, Caller(principal): Caller) -> Result<StatusCode, ApiError> {
    own(&principal)?;
    if let Some(inbox) = app.hub.inbox(&principal.tenant, &principal.user).await? {
        app.hub.forget(&inbox, &principal.user).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

fn own(principal: &Principal) -> Result<(), ApiError> {
    match principal.scope {
        None => Ok(()),
        Some(_) => Err(ApiError::not_allowed("a ticket opens one session or one stream")),
    }
}
