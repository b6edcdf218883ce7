//! Routes for Anthropic's SDKs: only their `base_url` points here.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::Map;

use super::compat;
use super::error::ApiError;
use super::extract::{Caller, head_and_body};
use crate::app::App;
use crate::auth::Role;
use crate::provider::{self, Provider};
use crate::surface::{Format, Surface, anthropic, opening};

/// `POST /v1/messages`, streaming and not.
pub async fn messages(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, fields) = head_and_body(&app, request).await?;
    let wish = compat::wish(anthropic::read(fields, own(&parts.headers))?, &parts.headers)?;
    let format = Format { ids: compat::ids(&parts), ..Format::new(Surface::Anthropic) };
    compat::answer(&app, &principal, &parts, wish, format).await
}

/// `POST /v1/messages/count_tokens`: only the provider knows, so it is asked.
pub async fn count_tokens(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    request: Request,
) -> Result<Response, ApiError> {
    if principal.role < Role::Member {
        return Err(ApiError::not_allowed("your role does not allow it to ask providers"));
    }
    let (parts, fields) = head_and_body(&app, request).await?;
    let (model, mut question) = anthropic::counted(fields, own(&parts.headers))?;
    if let Some(prompt) = app.settings.load().openings.get(&model) {
        opening::in_anthropic(&mut question.body, &prompt.instructions, &Map::new());
    }
    let route = compat::route(&app, &model, Provider::Anthropic)?;
    let target = route.targets.iter().find(|target| target.endpoint.dialect == Provider::Anthropic);
    let Some(target) = target else {
        let message = format!(
            "the provider of \"{model}\" does not count tokens: only those of the anthropic dialect do"
        );
        return Err(ApiError::invalid("model", message));
    };
    let ask = provider::anthropic::count(&question, &target.model);
    let counted = app.relay.call(target, ask, &route.policy.timeouts).await?;
    Ok(([(CONTENT_TYPE, "application/json")], counted).into_response())
}

/// The dialect's own headers, which a provider of the same dialect gets to see.
fn own(headers: &HeaderMap) -> Vec<(String, String)> {
    let own = ["anthropic-version", "anthropic-beta"];
    let each = own.iter().flat_map(|name| headers.get_all(*name).iter().map(move |value| (*name, value)));
    let mut found: Vec<(String, String)> = Vec::new();
    for (name, value) in each {
        let Ok(value) = value.to_str() else { continue };
        match found.iter_mut().find(|(known, _)| known == name) {
            Some((_, list)) => *list = format!("{list},{value}"),
            None => found.push((name.to_owned(), value.to_owned())),
        }
    }
    found
}
