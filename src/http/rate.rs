//! Requests per minute, by user, or by address where everyone is one user.
//!
//! tower-governor's GCRA over keys that were verified before: an attacker cannot mint keys. They are never evicted by
//! the crate, so a sweep does it, and their number is a metric.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use governor::middleware::StateInformationMiddleware;
use tower_governor::governor::{GovernorConfig, GovernorConfigBuilder};
use tower_governor::key_extractor::KeyExtractor;
use tower_governor::{GovernorError, GovernorLayer};

use super::error::ApiError;
use super::extract::Caller;
use crate::app::entry::Barred;
use crate::auth::Refused;

#[derive(Debug, Clone)]
pub struct ByCaller;

impl KeyExtractor for ByCaller {
    type Key = String;

    fn extract<T>(&self, request: &Request<T>) -> Result<String, GovernorError> {
        let unauthorized = GovernorError::Other { code: StatusCode::UNAUTHORIZED, msg: None, headers: None };
        let Caller(principal) = request.extensions().get::<Caller>().ok_or(unauthorized)?;
        Ok(principal.allowance.clone())
    }
}

type Config = GovernorConfig<ByCaller, StateInformationMiddleware>;
pub type Layer = GovernorLayer<ByCaller, StateInformationMiddleware, Body>;

/// The limiter, shared by the layer and the sweep.
#[derive(Clone)]
pub struct Rate(Arc<Config>);

impl Rate {
    /// None where there is no limit.
    pub fn new(per_minute: u32) -> Option<Rate> {
        let burst = NonZeroU32::new(per_minute)?;
        let config = GovernorConfigBuilder::default()
            // `per_second(n)` of the crate means one request every n seconds; this says it plainly.
            .period(Duration::from_secs(60) / burst.get())
            .burst_size(burst.get())
            .key_extractor(ByCaller)
            .use_headers()
            .finish()?;
        Some(Rate(Arc::new(config)))
    }

    pub fn layer(&self) -> Layer {
        GovernorLayer::new(self.0.clone()).error_handler(refuse)
    }

    /// Forgets callers that have their full allowance again; returns how many are left.
    pub fn sweep(&self) -> usize {
        self.0.limiter().retain_recent();
        self.0.limiter().shrink_to_fit();
        self.0.limiter().len()
    }
}

fn refuse(error: GovernorError) -> Response<Body> {
    match error {
        GovernorError::TooManyRequests { wait_time, headers } => {
            // The crate rounds down: a client that waits exactly that long would be refused again.
            let mut response =
                ApiError::limited("rate_limited", "too many requests", wait_time + 1).into_response();
            for (name, value) in headers.into_iter().flatten() {
                if let Some(name) = name.filter(|name| name.as_str().starts_with("x-ratelimit")) {
                    response.headers_mut().insert(name, value);
                }
            }
            response
        }
        _ => ApiError::from(Barred::from(Refused::Missing)).into_response(),
    }
}
