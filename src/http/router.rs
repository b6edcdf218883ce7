//! Every route, on one screen. The README's table names the same ones; a test compares them.

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;

use super::error::ApiError;
use super::rate::Rate;
use super::{
    ai_sdk, anthropic, chat_stream, compat, entry, envelope, gemini, messages, models, notifications, ops,
    origin, poll, prompts, replay, responses, sessions, socket, streams, tickets, ui, usage,
};
use crate::app::App;

pub fn router(app: &Arc<App>, rate: Option<&Rate>) -> Router {
    let mut api = ours().merge(theirs());
    // A socket over HTTP/2 begins with CONNECT (RFC 8441).
    let mut sockets =
        Router::new().route("/v1/sessions/{sid}/ws", get(socket::upgrade).connect(socket::upgrade));
    // Outermost last: a request passes authentication, then its rate, then the handler.
    if let Some(rate) = rate {
        (api, sockets) = (api.route_layer(rate.layer()), sockets.route_layer(rate.layer()));
    }
    let caller = from_fn_with_state(app.clone(), entry::authenticate);
    let refusals = from_fn_with_state(app.clone(), socket::refusals);
    let api = api.route_layer(caller.clone()).merge(sockets.route_layer(caller).route_layer(refusals));
    Router::new()
        .merge(api)
        // operations
        .route("/healthz", get(ops::healthz))
        .route("/readyz", get(ops::readyz))
        .route("/metrics", get(ops::metrics))
        .route("/openapi.json", get(ops::openapi))
        .route("/", get(ui::index))
        .fallback(async || ApiError::not_found("there is no such route"))
        .method_not_allowed_fallback(async || {
            ApiError::new(
                axum::http::StatusCode::METHOD_NOT_ALLOWED,
                "bad_request",
                "this route has other methods",
            )
        })
        .layer(from_fn_with_state(app.clone(), replay::replay))
        .layer(from_fn_with_state(app.clone(), origin::guard))
        .layer(origin::cors(app.clone()))
        .layer(from_fn_with_state(app.clone(), envelope::envelope))
        .layer(CatchPanicLayer::new())
        .layer(map_response(nosniff))
        .with_state(app.clone())
}

/// The product's own.
fn ours() -> Router<Arc<App>> {
    Router::new()
        // streams
        .route("/v1/streams", post(streams::start))
        .route("/v1/streams/{id}", get(streams::snapshot).delete(streams::forget))
        .route("/v1/streams/{id}/events", get(streams::events))
        .route("/v1/streams/{id}/poll", get(poll::poll))
        .route("/v1/streams/{id}/cancel", post(streams::cancel))
        .route("/v1/chat/stream", get(chat_stream::stream))
        // sessions
        .route("/v1/sessions", get(sessions::list))
        .route("/v1/sessions/{sid}", get(sessions::snapshot).delete(sessions::forget))
        .route("/v1/sessions/{sid}/events", get(sessions::events))
        .route("/v1/sessions/{sid}/messages", get(messages::page).post(messages::say))
        // what a user is told, wherever it is
        .route("/v1/notifications", get(notifications::events).delete(notifications::forget))
        .route("/v1/users/{user}/notifications", post(notifications::notify))
        // credentials for URLs
        .route("/v1/tickets", post(tickets::issue))
        // prompts
        .route("/v1/prompts", get(prompts::list))
        .route("/v1/prompts/{name}", get(prompts::show))
        // what it cost
        .route("/v1/usage", get(usage::usage))
}

/// Other products', for their unmodified clients.
fn theirs() -> Router<Arc<App>> {
    Router::new()
        // OpenAI
        .route("/v1/chat/completions", post(compat::chat_completions))
        .route("/v1/responses", post(responses::create))
        .route("/v1/responses/{id}", get(responses::retrieve).delete(responses::forget))
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route("/v1/responses/{id}/input_items", get(responses::input_items))
        .route("/v1/models", get(models::models))
        // Anthropic
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        // Gemini
        .route("/v1/models/{*model}", get(gemini::model).post(gemini::call))
        .route("/v1beta/models", get(gemini::models))
        .route("/v1beta/models/{*model}", get(gemini::model).post(gemini::call))
        // AI SDK
        .route("/api/chat", post(ai_sdk::chat))
        .route("/api/chat/{id}/stream", get(ai_sdk::resume))
        .route("/api/chat/{id}/stop", post(ai_sdk::stop))
}

async fn nosniff(mut response: Response) -> Response {
    let value = axum::http::HeaderValue::from_static("nosniff");
    response.headers_mut().insert(axum::http::header::X_CONTENT_TYPE_OPTIONS, value);
    response
}
