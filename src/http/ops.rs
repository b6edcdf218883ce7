//! For operators: health, readiness, metrics, the API's description.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::app::{App, Phase};

/// `GET /healthz`: the process is alive.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: it wants traffic.
pub async fn readyz(State(app): State<Arc<App>>) -> Response {
    let store = app.store_report();
    let (status, word) = match (app.phase(), store.code) {
        (Phase::Draining | Phase::Closing, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (Phase::Serving, Some(code)) => (StatusCode::SERVICE_UNAVAILABLE, code),
        (Phase::Serving, None) => (StatusCode::OK, "ready"),
    };
    let report = app.relay.health.report();
    // A provider that is down is no reason to stay away: others may answer, and what runs can be read.
    let ok = report.iter().all(|target| target.circuit != "open");
    let targets: Vec<_> = report
        .iter()
        .map(|target| json!({"provider": target.provider, "model": target.model, "circuit": target.circuit}))
        .collect();
    let store = json!({"ok": store.code.is_none(), "code": store.code, "since": store.since_ms / 1000});
    let body =
        json!({"status": word, "checks": {"store": store, "providers": {"ok": ok, "targets": targets}}});
    (status, Json(body)).into_response()
}

/// `GET /metrics`: OpenMetrics text.
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], app.metrics.exposition()).into_response()
}

/// `GET /openapi.json`
pub async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], include_str!("openapi.json")).into_response()
}
