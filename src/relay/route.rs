//! Which provider a model name means.
//!
//! `provider/model`, an alias from the configuration, or a bare name, which goes to the default provider, or to the
//! one its prefix is well known for. Pure: built from options, asked by name.

use std::collections::BTreeMap;
use std::time::Duration;

use super::health::Breaker;
use crate::provider::{Provider, demo};
use crate::tls::Certificate;

/// A provider as configured.
#[derive(Clone)]
pub struct Endpoint {
    pub name: String,
    pub dialect: Provider,
    /// Without a trailing slash; for the dialects of OpenAI it includes `/v1`, for others it is the host.
    pub base_url: String,
    pub keys: Vec<String>,
    pub headers: Vec<(String, String)>,
    /// Spoken to over HTTP/2: many streams share a connection.
    pub http2: bool,
    /// Whom to trust beside those whom this machine trusts.
    pub trusts: Vec<Certificate>,
    pub pool: Pool,
}

/// How many connections a provider may cost. Zero: as many as it takes, for as long as they last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pool {
    /// In use at once. Over HTTP/2 a hundred requests count as one.
    pub connections: usize,
    /// Kept open for the next requests, on each core.
    pub idle: usize,
    /// How long those are kept.
    pub idle_timeout: Duration,
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

/// Going on with an answer whose provider broke off after its first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continuing {
    /// So many times at most; zero: never.
    pub most: u32,
    /// Whether the text so far is given to the model as its own; None: where its dialect is known to take it.
    pub prefill: Option<bool>,
}

/// How patient a route is, and what it does when a provider fails.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    pub timeouts: Timeouts,
    pub retry: Retry,
    pub breaker: Breaker,
    pub continuing: Continuing,
    /// A stream slower than this, in tokens a second, has failed. Zero: never.
    pub min_tokens_per_s: f64,
    /// Identical requests of one user share one answer.
    pub cache: bool,
    /// How fast a kept answer is told to the next one who asks for it. Zero: at once.
    pub cache_tokens_per_s: f64,
}

#[derive(Debug, Clone)]
pub struct Target {
    pub endpoint: Endpoint,
    /// The provider's own name for the model.
    pub model: String,
    /// Its share of the load among the targets that have one. Those without are asked in order when the others failed.
    pub weight: Option<u32>,
}

/// What one request will do: the targets in order, and how patient to be with them.
#[derive(Debug, Clone)]
pub struct Route {
    pub targets: Vec<Target>,
    pub policy: Policy,
}

impl Route {
    /// Puts the targets that share the load into an order drawn by weight, before the others. `random`: from 0 to 1.
    pub fn draw(&mut self, mut random: impl FnMut() -> f64) {
        let (mut sharing, rest): (Vec<_>, Vec<_>) =
            self.targets.drain(..).partition(|target| target.weight.is_some());
        while !sharing.is_empty() {
            let weight = |target: &Target| f64::from(target.weight.unwrap_or_default());
            let total: f64 = sharing.iter().map(weight).sum();
            let mut mark = random() * total;
            let drawn = sharing.iter().position(|target| {
                mark -= weight(target);
                mark < 0.0
            });
            self.targets.push(sharing.remove(drawn.unwrap_or(0)));
        }
        self.targets.extend(rest);
    }
}

/// A target as configured, by names.
#[derive(Debug, Clone)]
pub struct Named {
    pub provider: String,
    pub model: String,
    pub weight: Option<u32>,
}

/// An alias, as configured.
#[derive(Debug, Clone)]
pub struct Alias {
    pub targets: Vec<Named>,
    pub policy: Policy,
}

#[derive(Debug, Clone)]
pub struct Routes {
    pub endpoints: BTreeMap<String, Endpoint>,
    pub aliases: BTreeMap<String, Alias>,
    /// Where bare names go that no prefix decides.
    pub default: String,
    pub policy: Policy,
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
                .filter_map(|Named { provider, model, weight }| {
                    let endpoint = self.endpoints.get(provider)?.clone();
                    Some(Target { endpoint, model: model.clone(), weight: *weight })
                })
                .collect();
            return Ok(Route { targets, policy: alias.policy });
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
                weight: None,
            });
        match target {
            Some(target) => Ok(Route { targets: vec![target], policy: self.policy }),
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
