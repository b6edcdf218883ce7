//! Which browsers' pages may use this server: the CORS and WebSocket allow-list.
//!
//! Scheme, host and port must match exactly; the server's own origin is allowed. With open access on loopback any
//! loopback origin is. A missing origin is not a browser.

use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::envelope::X_REQUEST_ID;
use super::extract::host;
use crate::app::App;

pub fn allowed(app: &App, origin: Option<&HeaderValue>, host: Option<&str>) -> bool {
    let Some(origin) = origin else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    if app.edge.allowed_origins.iter().any(|known| known == origin) {
        return true;
    }
    let own = host == Some(authority) && matches!(scheme, "http" | "https");
    own || (app.settings.load().access.open && is_loopback(authority))
}

fn is_loopback(authority: &str) -> bool {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    name == "localhost"
        || name
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

pub fn cors(app: Arc<App>) -> CorsLayer {
    let headers = [
        "authorization",
        "content-type",
        "last-event-id",
        "idempotency-key",
        "x-api-key",
        "x-session-id",
        "x-on-disconnect",
    ];
    let exposed = ["x-stream-id", "x-session-id", "link", "location", "retry-after", "idempotent-replayed"];
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, parts: &Parts| {
            allowed(&app, Some(origin), host(&parts.headers))
        }))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(headers.map(HeaderName::from_static))
        .expose_headers(
            exposed.map(HeaderName::from_static).into_iter().chain([X_REQUEST_ID]).collect::<Vec<_>>(),
        )
        .allow_credentials(true)
}
