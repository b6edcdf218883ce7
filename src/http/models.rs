//! `GET /v1/models`: one list, in the shape of the client that asks.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use serde_json::{Value, json};

use super::extract::Caller;
use super::gemini;
use crate::app::App;

/// Clients that share the path are told apart by what only one of them sends.
pub async fn models(State(app): State<Arc<App>>, Caller(_): Caller, request: Request) -> Json<Value> {
    if gemini::speaks(request.headers(), request.uri().query().unwrap_or_default()) {
        return gemini::list(&app).await;
    }
    let settings = app.settings.load_full();
    let models = app.relay.models(&settings.routes).await;
    Json(match request.headers().contains_key("anthropic-version") {
        true => anthropic(&models),
        false => openai(&models),
    })
}

/// Names of models with their providers'.
type Models = [(String, String)];

fn openai(models: &Models) -> Value {
    let model = |(id, owner): &(String, String)| json!({"id": id, "object": "model", "created": 0, "owned_by": owner});
    json!({"object": "list", "data": models.iter().map(model).collect::<Vec<_>>()})
}

/// All of them on one page. Source: Anthropic's API reference, "List Models", where an unknown date is the epoch's.
fn anthropic(models: &Models) -> Value {
    let model = |(id, _): &(String, String)| {
        json!({"type": "model", "id": id, "display_name": id, "created_at": "1970-01-01T00:00:00Z",
               "lifecycle": "active"})
    };
    let end = |model: Option<&(String, String)>| model.map(|(id, _)| id.clone());
    json!({"data": models.iter().map(model).collect::<Vec<_>>(), "has_more": false,
           "first_id": end(models.first()), "last_id": end(models.last())})
}
