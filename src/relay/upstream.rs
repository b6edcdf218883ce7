//! One HTTP call to a provider: connect, read, and say precisely what went wrong.
//!
//! Nothing here is retried; `pump` decides that. What comes after the head of an answer is its `body`.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use super::body::Body;
use super::clients::Clients;
use super::route::{Endpoint, Target, Timeouts};
use super::running::Refusal;
use crate::provider::demo::{self, Script};
use crate::provider::{Ask, Provider, error_message};

/// Something that went wrong with a provider.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// One of the documented error codes.
    pub code: &'static str,
    pub message: String,
    /// The provider's own answer, if it gave one.
    pub refusal: Option<Box<Refusal>>,
    /// Trying again may help.
    pub retryable: bool,
    /// Another target may help.
    pub elsewhere: bool,
    /// It is a sign that the target is not well. Who is merely busy is well.
    pub ill: bool,
    /// The provider's wish, when to try again.
    pub retry_after: Option<Duration>,
}

impl Fault {
    pub fn new(code: &'static str, message: impl Into<String>, retryable: bool) -> Fault {
        let message = message.into();
        Fault { code, message, refusal: None, retryable, elsewhere: true, ill: retryable, retry_after: None }
    }
}

/// An answer that has begun.
#[derive(Debug)]
pub enum Answer {
    /// Bytes of the dialect's stream.
    Stream(Body),
    /// One JSON body.
    Whole(Body),
}

/// Error bodies are read up to here.
const ERROR_BYTES: usize = 64 * 1024;

const MODELS_PATIENCE: Duration = Duration::from_secs(2);
/// Answers to single questions are small.
const CALL_BYTES: usize = 1024 * 1024;
const MODELS_BYTES: usize = 4 * 1024 * 1024;

#[derive(Default)]
pub struct Upstreams {
    clients: Clients,
}

impl Upstreams {
    /// Sends the request and waits for the head of the answer. `created` is in seconds since the Unix epoch.
    pub async fn ask(
        &self,
        target: &Target,
        key: Option<&str>,
        ask: Ask,
        connect: Duration,
        created: u64,
    ) -> Result<Answer, Fault> {
        let endpoint = &target.endpoint;
        if endpoint.dialect == Provider::Demo {
            return Ok(Answer::Stream(Body::demo(Script::new(&ask.body, created))));
        }
        let lease = self.clients.lease(endpoint, connect).await?;
        let url = format!("{}{}", endpoint.base_url, ask.path);
        let request = lease.client.post(url).headers(headers(endpoint, key, &ask.headers)?).body(ask.body);
        let response = request.send().await.map_err(|error| fault(&endpoint.name, error))?;
        if !response.status().is_success() {
            return Err(refused(endpoint, response).await);
        }
        let json = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let body = Body::http(response, endpoint.name.clone(), lease);
        Ok(if json { Answer::Whole(body) } else { Answer::Stream(body) })
    }

    /// Sends the request and reads the answer, which must be one JSON body, within the patience for a first token.
    pub async fn call(
        &self,
        target: &Target,
        key: Option<&str>,
        ask: Ask,
        timeouts: &Timeouts,
    ) -> Result<Bytes, Fault> {
        let answer = async {
            match self.ask(target, key, ask, timeouts.connect, 0).await? {
                Answer::Whole(mut body) => body.whole(CALL_BYTES).await.map(Bytes::from),
                Answer::Stream(_) => {
                    let message = format!("provider {} did not answer with JSON", target.endpoint.name);
                    Err(Fault::new("upstream_malformed", message, false))
                }
            }
        };
        if timeouts.first_token.is_zero() {
            return answer.await;
        }
        let late = |_| Fault::new("first_token_timeout", "the provider did not answer in time", true);
        tokio::time::timeout(timeouts.first_token, answer).await.map_err(late)?
    }

    /// The models that a provider lists; none if it does not answer soon.
    pub async fn models(&self, endpoint: &Endpoint) -> Vec<String> {
        if endpoint.dialect == Provider::Demo {
            return demo::models().map(str::to_owned).collect();
        }
        let list = async {
            let lease = self.clients.lease(endpoint, MODELS_PATIENCE).await?;
            let request = lease
                .client
                .get(format!("{}{}", endpoint.base_url, endpoint.dialect.models_path()))
                .headers(headers(endpoint, endpoint.keys.first().map(String::as_str), &[])?);
            let response = request.send().await.map_err(|error| fault(&endpoint.name, error))?;
            Body::http(response, endpoint.name.clone(), lease).whole(MODELS_BYTES).await
        };
        let body = match tokio::time::timeout(MODELS_PATIENCE, list).await {
            Ok(Ok(body)) => body,
            Ok(Err(fault)) => {
                tracing::warn!(provider = endpoint.name, error = %fault, "a provider did not list its models");
                return Vec::new();
            }
            Err(_) => return Vec::new(),
        };
        endpoint.dialect.models(&body)
    }

    /// Reads the certificates that this machine trusts, which a first request should not wait for.
    pub fn warm(&self) {
        if let Err(fault) = self.clients.warm() {
            tracing::warn!(error = %fault, "providers cannot be asked");
        }
    }
}

/// Later ones win: the dialect's own, those of this request, the credential, what is configured.
fn headers(endpoint: &Endpoint, key: Option<&str>, own: &[(String, String)]) -> Result<HeaderMap, Fault> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let fixed = endpoint.dialect.headers().iter().map(|(name, value)| (*name, (*value).to_owned()));
    let owned = |(name, value): &'_ (String, String)| (name.clone(), value.clone());
    let credential = key.map(|key| endpoint.dialect.credential(key));
    let mut all: Vec<(String, String)> = fixed.map(|(name, value)| (name.to_owned(), value)).collect();
    all.extend(own.iter().map(owned));
    all.extend(credential.map(|(name, value)| (name.to_owned(), value)));
    all.extend(endpoint.headers.iter().map(owned));
    for (name, value) in all {
        let parsed = (HeaderName::try_from(name), HeaderValue::try_from(value));
        let (Ok(name), Ok(mut value)) = parsed else {
            let message = format!("provider {}: a header or key is not valid", endpoint.name);
            return Err(Fault::new("connect_failed", message, false));
        };
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Names the target by its configured name, never by its URL, which may hold credentials.
fn fault(name: &str, error: reqwest::Error) -> Fault {
    let error = error.without_url();
    let (code, what) = match (error.is_connect(), error.is_timeout()) {
        (_, true) => ("connect_timeout", "did not accept a connection in time"),
        (true, false) => ("connect_failed", "cannot be reached"),
        (false, false) => ("upstream_truncated", "broke the connection before it answered"),
    };
    Fault::new(code, format!("provider {name} {what}: {}", innermost(&error)), true)
}

/// The cause that says most: reqwest wraps it several times.
pub fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

async fn refused(endpoint: &Endpoint, mut response: reqwest::Response) -> Fault {
    let name = &endpoint.name;
    let status = response.status().as_u16();
    let header = |header| {
        response.headers().get(header).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned)
    };
    let (content_type, retry_after) = (header(CONTENT_TYPE), header(RETRY_AFTER));
    if status < 400 {
        let message = format!("provider {name} answered with status {status}, which is not followed");
        return Fault::new("upstream_status", message, false);
    }
    let mut wait = header(HeaderName::from_static("retry-after-ms"))
        .and_then(|ms| ms.parse().ok())
        .map(Duration::from_millis);
    wait = wait.or_else(|| retry_after.as_deref()?.parse().ok().map(Duration::from_secs));
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > ERROR_BYTES {
            break;
        }
    }
    let said = error_message(&body).unwrap_or_else(|| format!("status {status}"));
    let retryable = matches!(status, 408 | 409 | 429) || status >= 500;
    Fault {
        code: "upstream_status",
        message: format!("provider {name} refused: {said}"),
        retryable,
        // Who is asked too often: that is for its keys to wait out.
        ill: retryable && status != 429,
        // A request that nobody can read is the client's own.
        elsewhere: !matches!(status, 400 | 413 | 422),
        refusal: Some(Box::new(Refusal {
            dialect: endpoint.dialect as u8,
            status,
            body: body.into(),
            content_type,
            retry_after,
            retried: false,
        })),
        retry_after: wait,
    }
}
