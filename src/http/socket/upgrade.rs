//! The handshake: from a request to a socket, over HTTP/1.1 (RFC 6455, section 4.2) and HTTP/2 (RFC 8441).

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::header::{
    CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::wire::Socket;
use crate::app::App;
use crate::http::error::ApiError;
use crate::http::extract::items;
use crate::room::message::SUBPROTOCOL;

/// The only version that there ever was.
const VERSION: &str = "13";

pub struct Upgrade {
    opening: OnUpgrade,
    /// What proves that the request was understood; there is none over HTTP/2.
    accept: Option<HeaderValue>,
    /// The client names our subprotocol.
    pub named: bool,
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Upgrade, Response> {
        let bad = |message| ApiError::bad_request(message).into_response();
        let accept = if parts.version <= Version::HTTP_11 {
            Some(accept(parts).map_err(bad)?)
        } else {
            let protocol = parts.extensions.get::<Protocol>().map(Protocol::as_str);
            if parts.method != Method::CONNECT || protocol != Some("websocket") {
                return Err(bad("expected a CONNECT with :protocol websocket"));
            }
            None
        };
        if parts.headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != VERSION) {
            let message = "sec-websocket-version: expected 13";
            let error = ApiError::new(StatusCode::UPGRADE_REQUIRED, "bad_request", message);
            return Err(([(SEC_WEBSOCKET_VERSION, VERSION)], error).into_response());
        }
        let opening = parts.extensions.remove::<OnUpgrade>();
        let opening = opening.ok_or_else(|| bad("this connection cannot be upgraded"))?;
        Ok(Upgrade { opening, accept, named: lists(&parts.headers, SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) })
    }
}

fn accept(parts: &Parts) -> Result<HeaderValue, &'static str> {
    let Parts { method, headers, .. } = parts;
    let upgrades = lists(headers, CONNECTION, "upgrade") && lists(headers, UPGRADE, "websocket");
    if method != Method::GET || !upgrades || !headers.contains_key(HOST) {
        return Err("expected a WebSocket handshake");
    }
    let key = headers.get(SEC_WEBSOCKET_KEY);
    let key = key.ok_or("sec-websocket-key: is missing")?;
    Ok(HeaderValue::try_from(derive_accept_key(key.as_bytes())).expect("Base64 is a header's value"))
}

fn lists(headers: &HeaderMap, header: HeaderName, name: &str) -> bool {
    items(headers, header).any(|item| item.eq_ignore_ascii_case(name))
}

impl Upgrade {
    /// The answer; what serves the socket begins once that is out.
    pub fn begin<Serving>(self, app: &App, serve: impl FnOnce(Socket) -> Serving + Send + 'static) -> Response
    where
        Serving: Future<Output = ()> + Send + 'static,
    {
        let most = app.edge.message_bytes;
        app.tracker.spawn(async move {
            // Otherwise the client has gone before.
            if let Ok(upgraded) = self.opening.await {
                serve(Socket::new(upgraded, most).await).await;
            }
        });
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        if self.named {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        }
        if let Some(accept) = self.accept {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        response
    }
}
