//! Which browsers' pages may use this server: the CORS and WebSocket allow-list.
//!
//! Scheme, host and port must match exactly; the server's own origin is allowed. With open access on loopback any
//! loopback origin is. A missing origin is not a browser.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::ORIGIN;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::connection::Peer;
use super::envelope::{REQUEST_ID, X_REQUEST_ID};
use super::error::ApiError;
use super::extract::host;
use crate::app::App;

fn allowed(app: &App, origin: Option<&HeaderValue>, host: Option<&str>, peer: Option<&Peer>) -> bool {
    let Some(origin) = origin else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    if app.edge.allowed_origins.iter().any(|known| known == origin) {
        return true;
    }
    // Without TLS of our own a proxy may have it: either scheme may be ours.
    let plain = peer.is_none_or(|peer| !peer.tls);
    let own = host == Some(authority) && (scheme == "https" || (plain && scheme == "http"));
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

/// Refuses what a foreign page makes a browser send, before any work is done for it.
///
/// Reading the answer is what CORS forbids; starting a stream that costs money needs no reading. And where access is
/// open because only this machine can connect, the server must be asked for under a name of this machine: a page whose
/// own name was pointed at us (DNS rebinding) would count as ours otherwise.
pub async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let host = host(request.headers(), request.uri());
    let peer = request.extensions().get::<Peer>();
    let refused = if !allowed(&app, request.headers().get(ORIGIN), host, peer) {
        Some("pages of this origin may not use this server: see server.allowed_origins")
    } else if app.settings.load().access.local && !host.is_none_or(|host| known_host(&app, host)) {
        Some(
            "open access is for this machine: ask for the server as localhost, or see server.allowed_origins",
        )
    } else {
        None
    };
    match refused {
        Some(message) => ApiError::new(StatusCode::FORBIDDEN, "origin_not_allowed", message).into_response(),
        None => next.run(request).await,
    }
}

fn known_host(app: &App, host: &str) -> bool {
    let named = |origin: &String| origin.split_once("://").is_some_and(|(_, authority)| authority == host);
    is_loopback(host) || app.edge.allowed_origins.iter().any(named)
}

pub fn cors(app: Arc<App>) -> CorsLayer {
    let exposed = [
        "x-stream-id",
        "x-session-id",
        "link",
        "location",
        "retry-after",
        "idempotent-replayed",
        "x-cache",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-after",
    ];
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, parts: &Parts| {
            let host = host(&parts.headers, &parts.uri);
            allowed(&app, Some(origin), host, parts.extensions.get::<Peer>())
        }))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        // SDKs in browsers bring a dozen headers of their own; an allowed origin may send what it likes.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(
            exposed
                .map(HeaderName::from_static)
                .into_iter()
                .chain([X_REQUEST_ID, REQUEST_ID])
                .collect::<Vec<_>>(),
        )
        .allow_credentials(true)
}
