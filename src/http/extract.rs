//! What handlers are handed: the caller, the position it holds, the body as JSON.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::{AsHeaderName, HeaderMap};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{StatusCode, Uri, header};
use serde_json::{Map, Value};

use super::connection::Peer;
use super::error::ApiError;
use crate::app::App;
use crate::app::entry::Barred;
use crate::auth::{Principal, Refused};
use crate::log::LogId;
use crate::room;

/// Who is asking. Put there by `entry::authenticate`.
#[derive(Debug, Clone)]
pub struct Caller(pub Arc<Principal>);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, ApiError> {
        parts.extensions.get::<Caller>().cloned().ok_or_else(|| Barred::from(Refused::Missing).into())
    }
}

/// The position that a request carries: the `Last-Event-ID` header, which wins, `?after=` or `?lastEventId=`, since a
/// fresh EventSource cannot send the header. Empty counts as none.
pub fn after(headers: &HeaderMap, query: &str) -> Option<String> {
    let header =
        headers.get("last-event-id").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let named = || parameter(query, "after").or_else(|| parameter(query, "lastEventId"));
    header.filter(|id| !id.is_empty()).or_else(named).filter(|id| !id.is_empty())
}

/// The items of a header's list, which may stand in several lines.
pub fn items(headers: &HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

/// The first value of a query parameter, decoded.
pub fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// `?ids=off` leaves event ids out.
pub fn ids(query: &str) -> bool {
    !matches!(parameter(query, "ids").as_deref(), Some("0" | "false" | "off"))
}

/// An id of a stream; anything else is not found.
pub fn stream_id(text: &str) -> Result<LogId, ApiError> {
    text.parse().map_err(|_| ApiError::not_found("there is no such stream"))
}

/// What `field` says must be able to name a session.
pub fn session_name(field: &str, name: &str) -> Result<(), ApiError> {
    if room::valid_name(name) {
        return Ok(());
    }
    Err(ApiError::invalid(field, format!("\"{name}\" is not of the form [A-Za-z0-9_.:-]{{1,128}}")))
}

/// A JSON object as body.
pub struct JsonBody(pub Map<String, Value>);

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<JsonBody, ApiError> {
        let bytes = read_body(request.into_body(), app.edge.request_bytes).await?;
        // Where serde says a line and a column, so do we.
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => Ok(JsonBody(fields)),
            Ok(other) => Err(ApiError::bad_request(format!(
                "the body must be a JSON object, not {}",
                crate::chat::kind(&other)
            ))),
            Err(error) if bytes.is_empty() => {
                Err(ApiError::bad_request(format!("the body is empty, a JSON object is needed ({error})")))
            }
            Err(error) => Err(ApiError::bad_request(format!("the body is not JSON: {error}"))),
        }
    }
}

/// A request's head and the JSON object in its body, for handlers that need both.
pub async fn head_and_body(
    app: &Arc<App>,
    request: Request,
) -> Result<(Parts, Map<String, Value>), ApiError> {
    let (parts, body) = request.into_parts();
    let JsonBody(fields) = JsonBody::from_request(Request::new(body), app).await?;
    Ok((parts, fields))
}

/// A client that sends its body in drips is sent away.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

async fn read_body(body: Body, limit: usize) -> Result<axum::body::Bytes, ApiError> {
    let read = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, limit)).await;
    let read = read
        .map_err(|_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "bad_request", "the body took too long"))?;
    read.map_err(|error| {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            if error.is::<http_body_util::LengthLimitError>() {
                let message = format!("the body is larger than {limit} bytes");
                return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message);
            }
            cause = error.source();
        }
        ApiError::bad_request("the body could not be read")
    })
}

/// Where a request comes from: the peer, or what a trusted proxy says about it.
pub fn address(extensions: &axum::http::Extensions, headers: &HeaderMap, trusted: &[IpAddr]) -> IpAddr {
    let peer = extensions
        .get::<Peer>()
        .map_or(IpAddr::from([0, 0, 0, 0]), |peer| SocketAddr::ip(&peer.address).to_canonical());
    if !trusted.contains(&peer) {
        return peer;
    }
    // The rightmost address that no proxy of ours added: what stands left of it is the client's own claim.
    let hops: Vec<IpAddr> = items(headers, "x-forwarded-for").filter_map(|hop| hop.parse().ok()).collect();
    hops.into_iter().rev().find(|hop| !trusted.contains(hop)).unwrap_or(peer)
}

/// An address as one caller: a household has a whole IPv6 /64, whose addresses are free to mint.
pub fn household(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0]).to_string()
        }
    }
}

/// The name under which the server was asked for, which browsers' own origin is compared with.
pub fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    named.or_else(|| uri.authority().map(Authority::as_str))
}
