//! The configuration file, as written: every key and its default, and nothing of what it means.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::auth::Role;
use crate::auth::key::Alg;
use crate::store::disk::Sync;

/// The file, as written. Every field's default is what config.example.toml shows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub providers: BTreeMap<String, ProviderConfig>,
    /// What holds for models without a section, and for what a section leaves out.
    pub defaults: ModelConfig,
    pub models: BTreeMap<String, ModelConfig>,
    pub store: StoreConfig,
    pub limits: LimitsConfig,
    pub auth: AuthConfig,
    pub rooms: RoomsConfig,
    pub fanout: FanoutConfig,
    pub prompts: PromptsConfig,
    pub ai_sdk: AiSdkConfig,
    pub tls: TlsConfig,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    pub listen: SocketAddr,
    pub drain_s: u64,
    pub head_wait_ms: u64,
    pub keepalive_ms: u64,
    pub allowed_origins: Vec<String>,
    pub trusted_proxies: Vec<std::net::IpAddr>,
    pub replay_window_s: u64,
    /// Where bare model names go; empty: the first provider by name whose key is set, else `demo`.
    pub default_provider: String,
    /// Where streams are whose ids are another machine's; empty: all are here, or in a store that is shared.
    pub fly_machines: Vec<String>,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            drain_s: 30,
            head_wait_ms: 10_000,
            keepalive_ms: 15_000,
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            replay_window_s: 3600,
            default_provider: String::new(),
            fly_machines: Vec::new(),
        }
    }
}

/// A secret or where to find it: never printed.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub(super) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    pub dialect: String,
    #[serde(default)]
    pub base_url: String,
    #[serde(default)]
    pub keys: Vec<Secret>,
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// Speak HTTP/2 to it.
    #[serde(default)]
    pub http2: bool,
    /// A file of certificates to trust beside those of the machine; empty: none.
    #[serde(default)]
    pub ca: PathBuf,
    #[serde(default)]
    pub pool: PoolConfig,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolConfig {
    pub max_connections: usize,
    pub max_idle: usize,
    pub idle_timeout_ms: u64,
}

impl Default for PoolConfig {
    fn default() -> PoolConfig {
        PoolConfig { max_connections: 0, max_idle: 32, idle_timeout_ms: 90_000 }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Not among the defaults.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<TargetConfig>,
    pub timeouts: TimeoutsConfig,
    pub retry: RetryConfig,
    pub breaker: BreakerConfig,
    /// Go on with an answer in plain text when its provider breaks off.
    pub r#continue: bool,
    pub max_continuations: u32,
    /// A stream slower than this has failed; 0: never.
    pub min_tokens_per_s: f64,
    /// Identical requests of one user share one answer.
    pub cache: bool,
    /// How fast a kept answer is told again; 0: at once.
    pub cache_tokens_per_s: f64,
    /// A server-side prompt that begins every request; empty: none. Not among the defaults.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    /// Whether the model takes the beginning of its own answer; not set: where its dialect is known to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefill: Option<bool>,
}

impl Default for ModelConfig {
    fn default() -> ModelConfig {
        ModelConfig {
            targets: Vec::new(),
            timeouts: TimeoutsConfig::default(),
            retry: RetryConfig::default(),
            breaker: BreakerConfig::default(),
            r#continue: true,
            max_continuations: 3,
            min_tokens_per_s: 0.0,
            cache: false,
            cache_tokens_per_s: 0.0,
            prompt: String::new(),
            prefill: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    pub provider: String,
    pub model: String,
    /// Its share of the load among the targets that have a weight; those without are asked after them, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    pub failures: u32,
    pub open_ms: u64,
}

impl Default for BreakerConfig {
    fn default() -> BreakerConfig {
        BreakerConfig { failures: 5, open_ms: 30_000 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutsConfig {
    pub connect_ms: u64,
    pub first_token_ms: u64,
    pub between_tokens_ms: u64,
    pub total_ms: u64,
}

impl Default for TimeoutsConfig {
    fn default() -> TimeoutsConfig {
        TimeoutsConfig { connect_ms: 5_000, first_token_ms: 120_000, between_tokens_ms: 60_000, total_ms: 0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    pub attempts: u32,
    pub base_ms: u64,
    pub max_ms: u64,
}

impl Default for RetryConfig {
    fn default() -> RetryConfig {
        RetryConfig { attempts: 3, base_ms: 250, max_ms: 8_000 }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    pub engine: Engine,
    pub path: PathBuf,
    pub sync: SyncConfig,
    pub on_restart: OnRestart,
    /// Absent: `server.replay_window_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_s: Option<u64>,
    pub retain_bytes: u64,
    /// Where Redis is; it may hold a password.
    pub url: Secret,
    pub redis: RedisConfig,
}

/// What only the Redis engine wants to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    pub prefix: String,
    pub lease_ms: u64,
    pub wait_ms: u64,
    pub gather_ms: u64,
    /// A file of certificates to trust instead of those of the machine; empty: none.
    pub ca: PathBuf,
}

impl Default for RedisConfig {
    fn default() -> RedisConfig {
        let (prefix, ca) = ("relaystream:".into(), PathBuf::new());
        RedisConfig { prefix, lease_ms: 5_000, wait_ms: 30_000, gather_ms: 5, ca }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    Disk,
    Memory,
    Redis,
}

/// What becomes of streams that ran when the process went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRestart {
    Continue,
    Interrupt,
}

/// `os`, `interval:<ms>` or `always`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SyncConfig(pub Sync);

impl TryFrom<String> for SyncConfig {
    type Error = &'static str;

    fn try_from(text: String) -> Result<SyncConfig, &'static str> {
        let interval = |ms: &str| ms.parse().ok().filter(|ms| *ms > 0).map(Duration::from_millis);
        match (text.as_str(), text.strip_prefix("interval:").and_then(interval)) {
            ("os", _) => Ok(SyncConfig(Sync::Os)),
            ("always", _) => Ok(SyncConfig(Sync::Always)),
            (_, Some(interval)) => Ok(SyncConfig(Sync::Interval(interval))),
            _ => Err("expected \"os\", \"interval:<ms>\" or \"always\""),
        }
    }
}

impl From<SyncConfig> for String {
    fn from(SyncConfig(sync): SyncConfig) -> String {
        match sync {
            Sync::Os => "os".into(),
            Sync::Interval(every) => format!("interval:{}", every.as_millis()),
            Sync::Always => "always".into(),
        }
    }
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            engine: Engine::Disk,
            path: "./data".into(),
            sync: SyncConfig(Sync::Os),
            on_restart: OnRestart::Continue,
            retain_s: None,
            retain_bytes: 0,
            url: Secret("redis://127.0.0.1:6379".into()),
            redis: RedisConfig::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Absent: 120 with credentials, off with open access. So are the next two, with 20 and 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_streams_per_user: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub viewers_per_user: Option<u64>,
    pub viewers_per_stream: u64,
    pub viewers_per_session: u64,
    pub request_bytes: usize,
    pub event_bytes: usize,
    pub stream_bytes: u64,
    pub user_bytes: u64,
    pub total_bytes: u64,
    pub tokens_per_minute: u64,
    pub tokens_per_day: u64,
}

impl Default for LimitsConfig {
    fn default() -> LimitsConfig {
        LimitsConfig {
            requests_per_minute: None,
            running_streams_per_user: None,
            viewers_per_user: None,
            viewers_per_stream: 10_000,
            viewers_per_session: 10_000,
            request_bytes: 16 * 1024 * 1024,
            event_bytes: 4 * 1024 * 1024,
            stream_bytes: 32 * 1024 * 1024,
            user_bytes: 128 * 1024 * 1024,
            total_bytes: 512 * 1024 * 1024,
            tokens_per_minute: 0,
            tokens_per_day: 0,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Let everyone in even where others than this machine can connect.
    pub open: bool,
    pub keys: Vec<KeyConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtConfig>,
}

/// Tokens that others issue. One of `secret`, `pem` and `jwks_url`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JwtConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alg: Option<Alg>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pem: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// Empty: anybody.
    pub issuer: String,
    /// Empty: nobody, and a token that is for somebody is refused.
    pub audience: String,
    #[serde(default = "default_leeway_s")]
    pub leeway_s: u64,
    /// Empty: none.
    pub cookie: String,
}

fn default_leeway_s() -> u64 {
    30
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    pub user: String,
    #[serde(default = "default_tenant")]
    pub tenant: String,
    #[serde(default = "default_role")]
    pub role: Role,
    #[serde(default)]
    pub sessions: Vec<String>,
}

fn default_tenant() -> String {
    "default".into()
}

fn default_role() -> Role {
    Role::Owner
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoomsConfig {
    pub linger_ms: u64,
    pub typing_ms: u64,
    pub max_members: usize,
    pub max_connections: usize,
    /// Absent: 100 with credentials, off with open access.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections_per_user: Option<u64>,
    /// Absent: 1,000 with credentials, off with open access.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions_per_user: Option<u64>,
    pub message_bytes: usize,
    pub messages_per_s: u32,
    pub signal_bytes: usize,
    pub outbox_bytes: usize,
    pub ping_ms: u64,
    pub pong_ms: u64,
    pub expiry_grace_ms: u64,
    pub lifetime_s: u64,
    pub history_bytes: usize,
    pub empty_ttl_s: u64,
    pub inbox_ttl_s: u64,
}

impl Default for RoomsConfig {
    fn default() -> RoomsConfig {
        RoomsConfig {
            linger_ms: 12_000,
            typing_ms: 5_000,
            max_members: 5_000,
            max_connections: 10_000,
            max_connections_per_user: None,
            max_sessions_per_user: None,
            message_bytes: 64 * 1024,
            messages_per_s: 50,
            signal_bytes: 16 * 1024,
            outbox_bytes: 64 * 1024,
            ping_ms: 25_000,
            pong_ms: 8_000,
            expiry_grace_ms: 25_000,
            lifetime_s: 14_400,
            history_bytes: 1024 * 1024,
            empty_ttl_s: 3600,
            inbox_ttl_s: 7 * 24 * 3600,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FanoutConfig {
    pub tick_ms: u64,
}

impl Default for FanoutConfig {
    fn default() -> FanoutConfig {
        FanoutConfig { tick_ms: 40 }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptsConfig {
    /// A directory of `*.prompt` files that add to the shipped ones or override them; empty: none.
    pub path: PathBuf,
}

/// What the AI SDK's routes do where their clients say nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AiSdkConfig {
    /// Who answers a chat that names no model; empty: the default provider's.
    pub model: String,
    /// The prompt that begins every chat; empty: none.
    pub prompt: String,
    pub parts: Parts,
}

/// The oldest AI SDK among the clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Parts {
    #[default]
    V5,
    V6,
}

/// TLS, in this process. Both or neither.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// A PEM file of the certificate and those that vouch for it; empty: no TLS.
    pub cert: PathBuf,
    /// A PEM file of its private key.
    pub key: PathBuf,
}
