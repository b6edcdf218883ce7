//! File and environment, checked, into what the modules want to be told.
//!
//! The only place that reads the environment. Every key may be given as `RELAYSTREAM_SECTION__KEY` too; unknown keys
//! are errors, named by their path. Secrets may be `env:NAME` or `file:PATH` and never come out again.

mod credentials;
mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::auth::Access;
use crate::limits;
use crate::limits::ledger::Budgets;
use crate::provider::Provider;
use crate::relay::health::Breaker;
use crate::relay::route::{Alias, Continuing, Endpoint, Named, Policy, Pool, Retry, Routes, Timeouts};
use crate::tls;

pub use file::*;

/// The environment, as pairs, so that tests can pass their own.
pub type Environment = BTreeMap<String, String>;

/// The process's environment.
pub fn environment() -> Environment {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    std::env::vars().collect()
}

impl Config {
    /// Reads the file, if one is named, and lays the environment over it.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Config> {
        let mut table = match file {
            None => toml::Table::new(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                text.parse::<toml::Table>().with_context(|| format!("{} is not TOML", path.display()))?
            }
        };
        overlay(&mut table, environment)?;
        inherit(&mut table);
        let config: Config = serde_path_to_error::deserialize(table).map_err(|error| {
            let path = error.path().to_string();
            let inner = error.into_inner();
            let message = inner.message().to_owned();
            if path == "." { anyhow::anyhow!("{message}") } else { anyhow::anyhow!("{path}: {message}") }
        })?;
        Ok(config)
    }

    /// The files that are read with it when it is read again: certificates and their key, and those of secrets.
    pub fn files(&self) -> Vec<PathBuf> {
        let providers = || self.providers.values();
        let of_keys = self.auth.keys.iter().flat_map(|key| &key.key);
        let of_jwt = self.auth.jwt.iter().flat_map(|jwt| jwt.secret.iter().chain(&jwt.pem));
        let of_providers =
            providers().flat_map(|provider| provider.keys.iter().chain(provider.headers.values()));
        let secrets = of_keys.chain(of_jwt).chain(of_providers);
        let secrets = secrets.filter_map(|Secret(text)| text.strip_prefix("file:")).map(Path::new);
        let certificates = providers().map(|provider| &provider.ca).chain([&self.tls.cert, &self.tls.key]);
        let certificates = certificates.map(PathBuf::as_path).filter(|path| !path.as_os_str().is_empty());
        secrets.chain(certificates).map(Path::to_owned).collect()
    }

    /// Where Redis is.
    pub fn store_url(&self, environment: &Environment) -> Result<String> {
        secret(&self.store.url, environment).context("store.url")
    }

    /// Who may come in. `open`: asked for on the command line.
    pub fn access(&self, open: bool, environment: &Environment) -> Result<Access> {
        let mut keys = BTreeMap::new();
        for (at, key) in self.auth.keys.iter().enumerate() {
            let digest = credentials::digest(key, environment).with_context(|| format!("auth.keys[{at}]"))?;
            keys.insert(digest, credentials::principal(key).with_context(|| format!("auth.keys[{at}]"))?);
        }
        let jwt = self.auth.jwt.as_ref().map(|jwt| credentials::jwt(jwt, environment));
        let jwt = jwt.transpose().context("auth.jwt")?;
        let credentials = !keys.is_empty() || jwt.is_some();
        let asked_for = open || self.auth.open;
        let local = !credentials && !asked_for && self.server.listen.ip().is_loopback();
        let open = asked_for || local;
        if !open && !credentials {
            bail!(
                "server.listen: {} can be reached by others and no credentials are configured; add auth.keys or \
                 auth.jwt, or let everyone in with --open",
                self.server.listen
            );
        }
        Ok(Access { open: open && !credentials, local, keys, jwt })
    }

    /// With what TLS is served, if it is.
    pub fn identity(&self) -> Result<Option<tls::Identity>> {
        let TlsConfig { cert, key } = &self.tls;
        let read = |name: &str, path: &Path| {
            std::fs::read(path).with_context(|| format!("tls.{name}: cannot read {}", path.display()))
        };
        match (cert.as_os_str().is_empty(), key.as_os_str().is_empty()) {
            (true, true) => Ok(None),
            (false, false) => {
                Ok(Some(tls::identity(&read("cert", cert)?, &read("key", key)?).context("tls")?))
            }
            _ => bail!("tls: give both cert and key"),
        }
    }

    /// Providers and models: those of the file, and each provider whose key is in the environment.
    pub fn routes(&self, environment: &Environment) -> Result<Routes> {
        let mut endpoints = BTreeMap::new();
        for (name, provider) in &self.providers {
            let endpoint =
                endpoint(name, provider, environment).with_context(|| format!("providers.{name}"))?;
            endpoints.insert(name.clone(), endpoint);
        }
        let from_environment = |key: &str| environment.get(key).filter(|value| !value.is_empty());
        for known in WELL_KNOWN.iter().filter(|known| !self.providers.contains_key(known.name)) {
            let base = known.base.iter().find_map(|name| Some((*name, from_environment(name)?)));
            let key = known.keys.iter().find_map(|name| from_environment(name));
            // A provider without keys is there once its address is.
            let named = if known.keys.is_empty() { base.is_some() } else { key.is_some() };
            if !named {
                continue;
            }
            let base_url = match base {
                Some((name, text)) if known.dialect == Provider::Ollama => {
                    base_url(&with_scheme(text)).context(name)?
                }
                Some((name, text)) => base_url(text).context(name)?,
                None => default_base(known.dialect).to_owned(),
            };
            let endpoint = Endpoint {
                name: known.name.into(),
                dialect: known.dialect,
                base_url,
                keys: key.into_iter().cloned().collect(),
                headers: Vec::new(),
                http2: false,
                trusts: Vec::new(),
                pool: PoolConfig::default().into(),
            };
            endpoints.insert(known.name.into(), endpoint);
        }
        let keyed = endpoints.values().find(|endpoint| endpoint.dialect != Provider::Demo);
        let default = match (self.server.default_provider.as_str(), keyed) {
            ("", Some(endpoint)) => endpoint.name.clone(),
            ("", None) => "demo".into(),
            (name, _) => name.to_owned(),
        };
        endpoints.entry("demo".into()).or_insert_with(|| Endpoint {
            name: "demo".into(),
            dialect: Provider::Demo,
            base_url: String::new(),
            keys: Vec::new(),
            headers: Vec::new(),
            http2: false,
            trusts: Vec::new(),
            pool: PoolConfig::default().into(),
        });
        if !endpoints.contains_key(&default) {
            bail!("server.default_provider: there is no provider \"{default}\"");
        }
        let mut aliases = BTreeMap::new();
        for (name, model) in &self.models {
            aliases.insert(name.clone(), alias(model, &endpoints).with_context(|| format!("models.{name}"))?);
        }
        if !self.defaults.targets.is_empty() {
            bail!("defaults.targets: targets are a model's own");
        }
        if !self.defaults.prompt.is_empty() {
            bail!("defaults.prompt: a prompt is a model's own");
        }
        let policy = policy(&self.defaults).context("defaults")?;
        Ok(Routes { endpoints, aliases, default, policy })
    }

    /// Limits by heads; those by user are off under open access unless they are set.
    pub fn limits(&self, open: bool) -> limits::Options {
        let limits = &self.limits;
        let unless_open = |set: Option<u64>, default| set.unwrap_or(if open { 0 } else { default });
        limits::Options {
            requests_per_minute: limits.requests_per_minute.unwrap_or(if open { 0 } else { 120 }),
            running_streams_per_user: unless_open(limits.running_streams_per_user, 20),
            viewers_per_user: unless_open(limits.viewers_per_user, 1_000),
            connections_per_user: unless_open(self.rooms.max_connections_per_user, 100),
            sessions_per_user: unless_open(self.rooms.max_sessions_per_user, 1_000),
            viewers_per_stream: limits.viewers_per_stream,
            viewers_per_session: limits.viewers_per_session,
            budgets: Budgets { per_minute: limits.tokens_per_minute, per_day: limits.tokens_per_day },
        }
    }
}

impl From<TimeoutsConfig> for Timeouts {
    fn from(config: TimeoutsConfig) -> Timeouts {
        Timeouts {
            connect: Duration::from_millis(config.connect_ms),
            first_token: Duration::from_millis(config.first_token_ms),
            between_tokens: Duration::from_millis(config.between_tokens_ms),
            total: Duration::from_millis(config.total_ms),
        }
    }
}

impl From<PoolConfig> for Pool {
    fn from(config: PoolConfig) -> Pool {
        Pool {
            connections: config.max_connections,
            idle: config.max_idle,
            idle_timeout: Duration::from_millis(config.idle_timeout_ms),
        }
    }
}

impl From<BreakerConfig> for Breaker {
    fn from(config: BreakerConfig) -> Breaker {
        Breaker { failures: config.failures, open: Duration::from_millis(config.open_ms) }
    }
}

impl From<RetryConfig> for Retry {
    fn from(config: RetryConfig) -> Retry {
        Retry {
            attempts: config.attempts,
            base: Duration::from_millis(config.base_ms),
            max: Duration::from_millis(config.max_ms),
        }
    }
}

/// Lays `RELAYSTREAM_SECTION__KEY` (deeper with more `__`) and `RELAYSTREAM_LISTEN` over the file.
fn overlay(table: &mut toml::Table, environment: &Environment) -> Result<()> {
    for (name, text) in environment {
        let Some(path) = name.strip_prefix("RELAYSTREAM_") else { continue };
        let path = match path {
            "LISTEN" => "SERVER__LISTEN".to_owned(),
            path if path.contains("__") => path.to_owned(),
            _ => continue,
        };
        let keys: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
        let Some((last, sections)) = keys.split_last() else { continue };
        let mut at = &mut *table;
        for section in sections {
            let next = at.entry(section.clone()).or_insert_with(|| toml::Table::new().into());
            at = next.as_table_mut().with_context(|| format!("{name}: {section} is not a section"))?;
        }
        at.insert(last.clone(), literal(text));
    }
    Ok(())
}

/// Gives models what `[defaults]` says and they do not.
fn inherit(table: &mut toml::Table) {
    fn under(over: &mut toml::Table, defaults: &toml::Table) {
        for (key, value) in defaults {
            match (over.get_mut(key).map(toml::Value::as_table_mut), value) {
                (None, _) => drop(over.insert(key.clone(), value.clone())),
                (Some(Some(over)), toml::Value::Table(defaults)) => under(over, defaults),
                _ => {}
            }
        }
    }
    let Some(defaults) = table.get("defaults").and_then(toml::Value::as_table).cloned() else { return };
    let models = table.get_mut("models").and_then(toml::Value::as_table_mut);
    for (_, model) in models.into_iter().flatten() {
        if let Some(model) = model.as_table_mut() {
            under(model, &defaults);
        }
    }
}

/// A TOML value where the text is one, else the text.
fn literal(text: &str) -> toml::Value {
    let parsed = format!("value = {text}").parse::<toml::Table>().ok();
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| text.into())
}

fn endpoint(name: &str, config: &ProviderConfig, environment: &Environment) -> Result<Endpoint> {
    let Some(dialect) = Provider::parse(&config.dialect) else {
        let known: Vec<_> = Provider::ALL.iter().map(|provider| provider.name()).collect();
        bail!("dialect: \"{}\" is not one of {}", config.dialect, known.join(", "));
    };
    let base_url = match dialect {
        Provider::Demo => String::new(),
        dialect if config.base_url.is_empty() && dialect != Provider::OpenAiChat => {
            default_base(dialect).to_owned()
        }
        _ => base_url(&config.base_url).context("base_url")?,
    };
    let keys =
        config.keys.iter().map(|key| secret(key, environment)).collect::<Result<_>>().context("keys")?;
    let headers = config
        .headers
        .iter()
        .map(|(name, value)| Ok((name.clone(), secret(value, environment)?)))
        .collect::<Result<_>>()
        .context("headers")?;
    let trusts = match config.ca.as_os_str().is_empty() {
        true => Vec::new(),
        false => {
            let file = config.ca.display();
            let pem = std::fs::read(&config.ca).with_context(|| format!("ca: cannot read {file}"))?;
            tls::certificates(&pem).with_context(|| format!("ca: there are no certificates in {file}"))?
        }
    };
    let (name, http2, pool) = (name.to_owned(), config.http2, config.pool.into());
    Ok(Endpoint { name, dialect, base_url, keys, headers, http2, trusts, pool })
}

fn alias(config: &ModelConfig, endpoints: &BTreeMap<String, Endpoint>) -> Result<Alias> {
    if config.targets.is_empty() {
        bail!("targets: at least one is needed");
    }
    for (at, target) in config.targets.iter().enumerate() {
        if !endpoints.contains_key(&target.provider) {
            bail!("targets[{at}].provider: there is no provider \"{}\"", target.provider);
        }
    }
    let named = |target: &TargetConfig| Named {
        provider: target.provider.clone(),
        model: target.model.clone(),
        weight: target.weight,
    };
    let targets = config.targets.iter().map(named).collect();
    Ok(Alias { targets, policy: policy(config)? })
}

fn policy(config: &ModelConfig) -> Result<Policy> {
    if config.retry.attempts == 0 {
        bail!("retry.attempts: at least 1, the first request counts");
    }
    Ok(Policy {
        timeouts: config.timeouts.into(),
        retry: config.retry.into(),
        breaker: config.breaker.into(),
        continuing: Continuing {
            most: if config.r#continue { config.max_continuations } else { 0 },
            prefill: config.prefill,
        },
        min_tokens_per_s: config.min_tokens_per_s,
        cache: config.cache,
        cache_tokens_per_s: config.cache_tokens_per_s,
    })
}

/// A provider that the environment alone can name.
struct WellKnown {
    name: &'static str,
    dialect: Provider,
    /// Variables that may hold its key; none: it takes no key.
    keys: &'static [&'static str],
    /// Variables that may hold its address.
    base: &'static [&'static str],
}

/// The variables are those of the providers' own SDKs.
const WELL_KNOWN: [WellKnown; 5] = [
    WellKnown {
        name: "openai",
        dialect: Provider::OpenAiChat,
        keys: &["OPENAI_API_KEY"],
        base: &["OPENAI_BASE_URL"],
    },
    // The same provider in its other dialect, for clients of that one.
    WellKnown {
        name: "openai-responses",
        dialect: Provider::OpenAiResponses,
        keys: &["OPENAI_API_KEY"],
        base: &["OPENAI_BASE_URL"],
    },
    WellKnown {
        name: "anthropic",
        dialect: Provider::Anthropic,
        keys: &["ANTHROPIC_API_KEY"],
        base: &["ANTHROPIC_BASE_URL"],
    },
    WellKnown {
        name: "gemini",
        dialect: Provider::Gemini,
        keys: &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
        base: &["GEMINI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"],
    },
    WellKnown { name: "ollama", dialect: Provider::Ollama, keys: &[], base: &["OLLAMA_HOST"] },
];

/// Where a dialect's own provider is.
fn default_base(dialect: Provider) -> &'static str {
    match dialect {
        Provider::OpenAiChat | Provider::OpenAiResponses => "https://api.openai.com/v1",
        Provider::Anthropic => "https://api.anthropic.com",
        Provider::Gemini => "https://generativelanguage.googleapis.com",
        Provider::Ollama => "http://127.0.0.1:11434",
        Provider::Demo => "",
    }
}

/// Ollama's own variable may be just a host, or a host and a port.
fn with_scheme(text: &str) -> String {
    let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match (text.contains("://"), port) {
        (true, _) => text.to_owned(),
        (false, Some(_)) => format!("http://{text}"),
        (false, None) => format!("http://{text}:11434"),
    }
}

fn base_url(text: &str) -> Result<String> {
    Ok(http_url(text.trim_end_matches('/'))?.to_owned())
}

fn http_url(text: &str) -> Result<&str> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(text),
        _ => bail!("expected an http:// or https:// URL"),
    }
}

/// A secret as written, or from where `env:NAME` or `file:PATH` points; never an empty one, which would let in whoever
/// sends nothing.
fn secret(secret: &Secret, environment: &Environment) -> Result<String> {
    let Secret(text) = secret;
    let value = if let Some(name) = text.strip_prefix("env:") {
        environment.get(name).cloned().with_context(|| format!("the environment has no {name}"))?
    } else if let Some(path) = text.strip_prefix("file:") {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        text.trim_end_matches(['\r', '\n']).to_owned()
    } else {
        text.clone()
    };
    if value.is_empty() { bail!("is empty") } else { Ok(value) }
}
