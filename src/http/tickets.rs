//! `POST /v1/tickets`: a credential for URLs, which can carry no headers: those of EventSource and of browsers' sockets.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::extract::{Caller, JsonBody, session_name, stream_id};
use crate::app::App;
use crate::app::tickets::{Ask, LONGEST_TTL_S};
use crate::auth::{Role, Scope};
use crate::chat;

/// 201 `{ticket, expires_at}`, the time in seconds since the Unix epoch.
pub async fn issue(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    JsonBody(fields): JsonBody,
) -> Result<Response, ApiError> {
    let (ticket, expires_at) = app.issue(&principal, ask(fields)?).await?;
    let body = json!({"ticket": ticket, "expires_at": expires_at});
    Ok((StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

fn ask(mut fields: Map<String, Value>) -> Result<Ask, ApiError> {
    let scope = match (text(&mut fields, "session")?, text(&mut fields, "stream")?) {
        (Some(name), None) => {
            session_name("session", &name)?;
            Scope::Session(name)
        }
        (None, Some(id)) => Scope::Stream(stream_id(&id)?),
        _ => return Err(ApiError::invalid("session", "give either session or stream")),
    };
    let role = match text(&mut fields, "role")? {
        None => Role::Viewer,
        Some(name) => serde_json::from_value(name.into())
            .map_err(|_| ApiError::invalid("role", "is not one of viewer, member, owner"))?,
    };
    let ttl_s = match fields.remove("ttl_s") {
        None | Some(Value::Null) => 60,
        Some(value) => value.as_u64().filter(|ttl| (1..=LONGEST_TTL_S).contains(ttl)).ok_or_else(|| {
            ApiError::invalid("ttl_s", format!("is not a number of seconds from 1 to {LONGEST_TTL_S}"))
        })?,
    };
    let single_use = match fields.remove("single_use") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(single_use)) => single_use,
        Some(other) => return Err(expected("single_use", "a boolean", &other)),
    };
    let (user, name) = (text(&mut fields, "user")?, text(&mut fields, "name")?);
    Ok(Ask { scope, role, ttl_s, single_use, user, name })
}

/// A short text, if there is one. Both names end up in a URL.
fn text(fields: &mut Map<String, Value>, field: &str) -> Result<Option<String>, ApiError> {
    match fields.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text))
            if text.is_empty() || text.len() > 256 || text.contains(char::is_control) =>
        {
            Err(ApiError::invalid(field, "is not a name of 1 to 256 bytes"))
        }
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(expected(field, "a string", &other)),
    }
}

fn expected(field: &str, what: &str, found: &Value) -> ApiError {
    ApiError::invalid(field, format!("expected {what}, got {}", chat::kind(found)))
}
