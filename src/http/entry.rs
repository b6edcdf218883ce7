//! Who is asking: where a request carries its credential, and what is asked of one that browsers send by themselves.
//!
//! A header comes first, since no page can make a browser send one unasked; then what a socket's subprotocol says, a
//! ticket in the URL, a cookie. Query strings are never logged.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, HeaderMap, ORIGIN, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::expiry;
use super::extract::{Caller, address, after, household, items, parameter};
use crate::app::App;
use crate::app::entry::Barred;
use crate::app::tickets::{Entrant, Shown};
use crate::auth::Digest;

/// Where a request comes from, as credentials and limits are counted.
#[derive(Debug, Clone)]
pub struct Household(pub Arc<str>);

/// Came by this ticket, which was used before: it must show a position to go on from.
#[derive(Debug, Clone, Copy)]
pub struct OwesPosition(pub Digest);

/// What a request carries.
enum Sent {
    Nothing,
    /// A key or a token that somebody put there.
    Credential(String),
    Ticket {
        ticket: String,
        position: Option<String>,
    },
    /// A token that the browser put there.
    Cookie(String),
}

/// Admits the caller, or answers 401 before anything else is looked at.
pub async fn authenticate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let from = household(address(request.extensions(), request.headers(), &app.edge.trusted_proxies));
    let socket = is_socket(&request);
    let cookie = app.settings.load().access.jwt.as_ref().and_then(|jwt| jwt.cookie.clone());
    let sent = sent(&request, socket, cookie.as_deref());
    if matches!(sent, Sent::Cookie(_)) && !unforged(&request, socket) {
        let message = "with a cookie as credential the browser must say which page is asking (Origin)";
        return ApiError::new(StatusCode::FORBIDDEN, "origin_not_allowed", message).into_response();
    }
    let Entrant { mut principal, owes_position } = match enter(&app, sent, &from, socket).await {
        Ok(entrant) => entrant,
        Err(barred) => return ApiError::from(barred).into_response(),
    };
    if app.settings.load().access.open {
        // Everyone is one user here: what they use up is counted by where they come from.
        principal.allowance.clone_from(&from);
    }
    let limit = principal.expires_s.and_then(|end| expiry::Limit::of(&request, end));
    let extensions = request.extensions_mut();
    extensions.insert(Caller(Arc::new(principal)));
    extensions.insert(Household(from.into()));
    if let Some(ticket) = owes_position {
        extensions.insert(OwesPosition(ticket));
    }
    let response = next.run(request).await;
    match limit {
        Some(limit) => limit.put_on(response, app.edge.expiry_grace),
        None => response,
    }
}

async fn enter(app: &App, sent: Sent, from: &str, socket: bool) -> Result<Entrant, Barred> {
    let credential = match sent {
        Sent::Ticket { ticket, position } => {
            let shown = match position.as_deref() {
                Some(position) => Shown::Position(position),
                None if socket => Shown::Later,
                None => Shown::Nothing,
            };
            return app.admit_ticket(&ticket, from, shown).await;
        }
        Sent::Cookie(credential) | Sent::Credential(credential) => Some(credential),
        Sent::Nothing => None,
    };
    let principal = app.admit(credential.as_deref(), from).await?;
    Ok(Entrant { principal, owes_position: None })
}

fn is_socket(request: &Request) -> bool {
    let named = |value: &axum::http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    request.method() == Method::CONNECT || request.headers().get(UPGRADE).is_some_and(named)
}

fn sent(request: &Request, socket: bool, cookie_name: Option<&str>) -> Sent {
    let (headers, query) = (request.headers(), request.uri().query().unwrap_or_default());
    let reads = socket || matches!(*request.method(), Method::GET | Method::HEAD);
    if let Some(credential) = header(headers) {
        return Sent::Credential(credential.to_owned());
    }
    if let Some(token) = subprotocol(headers).filter(|_| socket) {
        return Sent::Credential(token.to_owned());
    }
    if let Some(ticket) = parameter(query, "ticket").filter(|_| reads) {
        // A page of what was said names a place, too.
        let position = after(headers, query).or_else(|| parameter(query, "before"));
        return Sent::Ticket { ticket, position };
    }
    if let Some(token) = cookie_name.and_then(|name| cookie(headers, name)) {
        return Sent::Cookie(token.to_owned());
    }
    in_url(request.uri()).map_or(Sent::Nothing, Sent::Credential)
}

/// SDKs send their key under one of these names; current Anthropic SDKs use the first like everyone else.
fn header(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    let named = || {
        ["x-api-key", "x-goog-api-key", "api-key"].iter().find_map(|name| headers.get(*name)?.to_str().ok())
    };
    bearer.or_else(named)
}

/// `Sec-WebSocket-Protocol: relaystream.v1, bearer.<token>`: the one header that a page can set on a socket.
fn subprotocol(headers: &HeaderMap) -> Option<&str> {
    items(headers, SEC_WEBSOCKET_PROTOCOL).find_map(|name| name.strip_prefix("bearer."))
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = pairs.flat_map(|pairs| pairs.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Google's older clients put the key into the URL; nobody else may, since URLs are written down in many places.
fn in_url(uri: &Uri) -> Option<String> {
    let path = uri.path();
    let google = path.starts_with("/v1beta/") || path == "/v1/models" || path.starts_with("/v1/models/");
    google.then(|| parameter(uri.query()?, "key")).flatten()
}

/// A browser adds cookies to what any page makes it send. So where something is done, or a socket opened, it must say
/// which page that was; `origin` has refused the foreign ones. It says less about an EventSource of our own pages.
fn unforged(request: &Request, socket: bool) -> bool {
    let headers = request.headers();
    let acts = socket || !matches!(*request.method(), Method::GET | Method::HEAD);
    let starts = request.uri().path() == "/v1/chat/stream";
    let own_page = headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin");
    headers.contains_key(ORIGIN) || !acts && (!starts || own_page)
}
