//! `GET /v1/usage`: what the caller has spent, and what is left of its budgets.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::error::ApiError;
use super::extract::Caller;
use crate::app::App;
use crate::relay::since_start;

/// Counts since the process started, of streams that have ended; a stream that runs is in `left` already.
pub async fn usage(State(app): State<Arc<App>>, Caller(principal): Caller) -> Result<Json<Value>, ApiError> {
    if principal.scope.is_some() {
        return Err(ApiError::not_allowed(
            "a ticket is for its session or stream, not for its user's account",
        ));
    }
    let account = app.ledger.account(&principal.allowance);
    app.share_budget(&principal.allowance, &account).await?;
    let [minute, day] = account.left(since_start());
    let mut usage = json!(account.spent());
    usage["budgets"] = json!({"minute": minute, "day": day});
    Ok(Json(usage))
}
