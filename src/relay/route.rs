//! Which provider a model name means.
//!
//! `provider/model`, an alias from the configuration, or a bare name, which goes to the default provider, or to the
//! one its prefix is well known for. Pure: built from options, asked by name.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::provider::{Provider, demo};

/// A provider as configured.
#[derive(Clone)]
pub struct Endpoint {
    pub name: String,
    pub dialect: Provider,
    /// Without a trailing slash; for the dialects of OpenAI it includes `/v1`, for others it is the host.
    pub base_url: String,
    pub keys: Vec<String>,
    pub headers: Vec<(String, String)>,
}

/// Keys are left out.
impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("name", &self.name)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}

/// Each one is an error code of its own; zero switches it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    pub first_token: Duration,
    pub between_tokens: Duration,
    pub total: Duration,
}

/// Retries before the first token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Requests per target, the first included.
    pub attempts: u32,
    /// The wait before the second attempt is random up to this, then doubles.
    pub base: Duration,
    pub max: Duration,
}

#[derive(Debug, Clone)]
pub struct Target {
    pub endpoint: Endpoint,
    /// The provider's own name for the model.
    pub model: String,
}

/// What one request will do: the targets in order, and how patient to be with them.
#[derive(Debug, Clone)]
pub struct Route {
    pub targets: Vec<Target>,
    pub timeouts: Timeouts,
    pub retry: Retry,
}

/// An alias, as configured: targets are names of endpoints and models.
#[derive(Debug, Clone)]
pub struct Alias {
    pub targets: Vec<(String, String)>,
    pub timeouts: Timeouts,
    pub retry: Retry,
}

#[derive(Debug, Clone)]
pub struct Routes {
    pub endpoints: BTreeMap<String, Endpoint>,
    pub aliases: BTreeMap<String, Alias>,
    /// Where bare names go that no prefix decides.
    pub default: String,
    pub timeouts: Timeouts,
    pub retry: Retry,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no model \"{model}\"; there are: {}", .known.join(", "))]
pub struct UnknownModel {
    pub model: String,
    pub known: Vec<String>,
}

/// Name prefixes that tell a provider, by the environment's names for them.
const WELL_KNOWN: [(&str, &str); 6] = [
    ("gpt-", "openai"),
    ("o1", "openai"),
    ("o3", "openai"),
    ("o4", "openai"),
    ("claude-", "anthropic"),
    ("gemini-", "gemini"),
];

impl Routes {
    /// `dialect`: the client's own, as a number of the provider module; a provider that speaks several is spoken to in
    /// that one.
    pub fn resolve(&self, model: &str, dialect: Option<u8>) -> Result<Route, UnknownModel> {
        if let Some(alias) = self.aliases.get(model) {
            let targets = alias
                .targets
                .iter()
                .filter_map(|(endpoint, model)| {
                    Some(Target { endpoint: self.endpoints.get(endpoint)?.clone(), model: model.clone() })
                })
                .collect();
            return Ok(Route { targets, timeouts: alias.timeouts, retry: alias.retry });
        }
        let named = model.split_once('/').and_then(|(name, rest)| Some((self.endpoints.get(name)?, rest)));
        let (endpoint, model) = match named {
            Some((endpoint, rest)) => (Some(endpoint), rest),
            None => (self.endpoints.get(self.bare(model)), model),
        };
        let target = endpoint
            .filter(|endpoint| !model.is_empty() && knows(endpoint, model, named.is_some()))
            .map(|endpoint| Target {
                endpoint: self.spoken(endpoint, dialect).clone(),
                model: model.to_owned(),
            });
        match target {
            Some(target) => Ok(Route { targets: vec![target], timeouts: self.timeouts, retry: self.retry }),
            None => Err(UnknownModel { model: model.to_owned(), known: self.names() }),
        }
    }

    /// The same provider, by address and keys, in the client's own dialect if it has that.
    fn spoken<'a>(&'a self, endpoint: &'a Endpoint, dialect: Option<u8>) -> &'a Endpoint {
        let same = |other: &&Endpoint| {
            Some(other.dialect as u8) == dialect
                && other.base_url == endpoint.base_url
                && other.keys == endpoint.keys
        };
        self.endpoints.values().find(same).unwrap_or(endpoint)
    }

    /// What is meant when no model is named; only the demo provider has an answer to that.
    pub fn default_model(&self) -> Option<&'static str> {
        let demo =
            self.endpoints.get(&self.default).is_some_and(|endpoint| endpoint.dialect == Provider::Demo);
        demo.then(|| demo::models().next()).flatten()
    }

    fn bare(&self, model: &str) -> &str {
        let known = WELL_KNOWN
            .iter()
            .find(|(prefix, name)| model.starts_with(prefix) && self.endpoints.contains_key(*name));
        if demo::models().any(|name| name == model) {
            return "demo";
        }
        known.map_or(&self.default, |(_, name)| name)
    }

    /// Every name that certainly works: aliases, the demo's models, and what each provider's names look like.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.aliases.keys().cloned().collect();
        for endpoint in self.endpoints.values() {
            match endpoint.dialect {
                Provider::Demo => {
                    names.extend(demo::models().map(|model| format!("{}/{model}", endpoint.name)))
                }
                _ => names.push(format!("{}/<model>", endpoint.name)),
            }
        }
        names
    }
}

/// Names of other providers are theirs to refuse. The demo's own are known, and where it is the default it takes any
/// bare name, so that an SDK's program runs unchanged; a name that looks like `provider/model` is taken for one.
fn knows(endpoint: &Endpoint, model: &str, named: bool) -> bool {
    endpoint.dialect != Provider::Demo
        || demo::models().any(|name| name == model)
        || (!named && !model.contains('/'))
}
