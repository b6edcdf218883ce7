//! The server-side prompts and their variables.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::error::ApiError;
use super::extract::Caller;
use crate::app::App;

/// `GET /v1/prompts`
pub async fn list(State(app): State<Arc<App>>, Caller(_): Caller) -> Json<Value> {
    let settings = app.settings.load();
    let prompts: Vec<Value> = settings
        .prompts
        .names()
        .filter_map(|name| settings.prompts.get(name))
        .map(|prompt| json!({"name": prompt.name, "description": prompt.description}))
        .collect();
    Json(json!({"prompts": prompts}))
}

/// `GET /v1/prompts/{name}`
pub async fn show(
    State(app): State<Arc<App>>,
    Caller(_): Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let settings = app.settings.load();
    let prompt = settings.prompts.get(&name);
    let prompt = prompt.ok_or_else(|| ApiError::not_found(format!("there is no prompt \"{name}\"")))?;
    Ok(Json(json!(prompt)))
}
