//! Routes for Google's SDKs: a model's methods under `/v1beta/models/` and, as the newer SDKs ask, `/v1/models/`.
//!
//! A path ends in `<model>:<method>`; models are named with slashes and colons (`openai/gpt-4o`, `ollama/llama3:8b`), so
//! the method is behind the last colon. Without `?alt=sse` the dialect streams one JSON array: it is answered as an array
//! of the whole answer, once that is complete.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::compat;
use super::error::ApiError;
use super::extract::{Caller, head_and_body, parameter};
use crate::app::App;
use crate::chat;
use crate::provider::{Provider, gemini};
use crate::relay::route::Route;
use crate::surface::gemini::read;
use crate::surface::{Format, Surface, opening};

/// `POST …/models/{model}:{generateContent, streamGenerateContent, countTokens}`.
pub async fn call(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(path): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let (model, method) = path.rsplit_once(':').unwrap_or((&path, ""));
    let sse = parameter(request.uri().query().unwrap_or_default(), "alt").as_deref() == Some("sse");
    let stream = match method {
        "generateContent" => false,
        "streamGenerateContent" => sse,
        "countTokens" => false,
        _ => return Err(ApiError::not_found(format!("models have no method \"{method}\""))),
    };
    let (parts, fields) = head_and_body(&app, request).await?;
    if method == "countTokens" {
        return count(&app, model, fields).await;
    }
    let wish = compat::wish(read(model.to_owned(), stream, fields)?, &parts.headers)?;
    let format = Format { ids: false, ..Format::new(Surface::Gemini) };
    let response = compat::answer(&app, &principal, &parts, wish, format).await?;
    if method == "streamGenerateContent" && !sse { array(response).await } else { Ok(response) }
}

/// The answer as the only element of a list; errors stay what they are.
async fn array(response: Response) -> Result<Response, ApiError> {
    if response.status() != StatusCode::OK {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await;
    let body = body.map_err(|_| ApiError::of_stream("upstream_truncated", "the answer broke off"))?;
    parts.headers.remove(CONTENT_LENGTH);
    Ok(Response::from_parts(parts, Body::from([b"[".as_slice(), &body, b"]"].concat())))
}

/// Only a provider of this dialect can count: the question is passed on to it, and so is its answer.
async fn count(app: &App, model: &str, mut fields: Map<String, Value>) -> Result<Response, ApiError> {
    let route = compat::route(app, model, Provider::Gemini)?;
    let target = route.targets.iter().find(|target| target.endpoint.dialect == Provider::Gemini);
    let Some(target) = target else {
        return Err(ApiError::invalid("model", format!("the provider of \"{model}\" cannot count tokens")));
    };
    if let Some(prompt) = app.settings.load().openings.get(model) {
        // Only a whole request can be counted with an instruction; contents alone become one.
        let whole = fields.shift_remove("generateContentRequest");
        let mut whole = whole.map_or_else(|| Ok(std::mem::take(&mut fields)), object)?;
        opening::in_gemini(&mut whole, &prompt.instructions, &Map::new());
        fields.insert("generateContentRequest".into(), whole.into());
    }
    let ask = gemini::count(fields, &target.model)?;
    let body = app.relay.call(target, ask, &route.policy.timeouts).await?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response())
}

fn object(value: Value) -> Result<Map<String, Value>, ApiError> {
    match value {
        Value::Object(fields) => Ok(fields),
        other => {
            let message = format!("expected an object, got {}", chat::kind(&other));
            Err(ApiError::invalid("generateContentRequest", message))
        }
    }
}

/// `GET /v1beta/models`.
pub async fn models(State(app): State<Arc<App>>, Caller(_): Caller) -> Json<Value> {
    list(&app).await
}

/// Whether a request to a path that dialects share is of this one.
pub fn speaks(headers: &HeaderMap, query: &str) -> bool {
    headers.contains_key("x-goog-api-key") || parameter(query, "key").is_some()
}

/// All there are, on one page.
pub async fn list(app: &App) -> Json<Value> {
    let settings = app.settings.load_full();
    let models = app.relay.models(&settings.routes).await;
    let described =
        |(id, _): &(String, String)| Some(describe(id, &compat::route(app, id, Provider::Gemini).ok()?));
    let models: Vec<Value> = models.iter().filter_map(described).collect();
    Json(json!({"models": models}))
}

/// `GET …/models/{model}`: whether there may be such a model; its provider is not asked. OpenAI's clients use one of the
/// two paths too.
pub async fn model(
    State(app): State<Arc<App>>,
    Caller(_): Caller,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let route = compat::route(&app, &name, Provider::Gemini)?;
    let (uri, headers) = (request.uri(), request.headers());
    if uri.path().starts_with("/v1beta/") || speaks(headers, uri.query().unwrap_or_default()) {
        return Ok(Json(describe(&name, &route)));
    }
    let owner = route.targets.first().map_or("relaystream", |target| &target.endpoint.name);
    Ok(Json(json!({"id": name, "object": "model", "created": 0, "owned_by": owner})))
}

fn describe(id: &str, route: &Route) -> Value {
    let counts = route.targets.iter().any(|target| target.endpoint.dialect == Provider::Gemini);
    let mut methods = vec!["generateContent", "streamGenerateContent"];
    methods.extend(counts.then_some("countTokens"));
    json!({"name": format!("models/{id}"), "displayName": id, "supportedGenerationMethods": methods})
}
