//! Every metric, one struct, a line each. Served as OpenMetrics text by `/metrics`.
//!
//! Labels are closed sets: never a user, a session or a stream, since labels do not expire.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Transport {
    /// `sse`, `poll`, `websocket` or `json`.
    pub transport: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Ended {
    pub status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `ok`, `done`, `missing` or a reason of `reset`.
    pub result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Code {
    pub code: String,
}

/// Whose it is: a provider's name as configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Of {
    pub provider: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TokenType {
    /// `input` or `output`.
    pub gen_ai_token_type: &'static str,
}

type Seconds = Histogram;

/// Cheap to count with; cloned nowhere, shared by reference.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Streams whose provider is still at work.
    pub streams_running: Gauge,
    /// Streams that ended, by how.
    pub streams: Family<Ended, Counter>,
    /// Viewers attached now.
    pub viewers: Family<Transport, Gauge>,
    /// Connections of members of rooms.
    pub members: Gauge,
    /// How long viewers stayed.
    pub connection_duration: Family<Transport, Seconds, fn() -> Seconds>,
    /// From the start of a stream to its first token.
    pub time_to_first_token: Seconds,
    /// Between one token and the next.
    pub time_between_tokens: Seconds,
    /// How long what came before the first word was held back.
    pub first_frame_held: Seconds,
    /// Seams in streams: retries, fallbacks, continuations.
    pub seams: Family<Code, Counter>,
    /// Models of each provider that are not asked because they failed too often.
    pub circuits_open: Family<Of, Gauge>,
    /// Keys of each provider that are not used because they were refused.
    pub keys_resting: Family<Of, Gauge>,
    /// Token events that nobody had read when their stream ended.
    pub upstream_tokens_unread: Counter,
    /// Token events appended to logs.
    pub tokens: Counter,
    /// Tokens as providers counted them.
    pub token_usage: Family<TokenType, Counter>,
    /// Reads that came with a position, by what they met.
    pub resumes: Family<Outcome, Counter>,
    /// From an event's arrival in the log to its hand-over to a viewer's socket (sampled).
    pub delivery_lag: Seconds,
    /// Requests to providers in flight.
    pub upstream_connections_open: Gauge,
    /// Failures of providers, every attempt counted, by error code.
    pub upstream_errors: Family<Code, Counter>,
    /// Requests refused, by error code.
    pub refused: Family<Code, Counter>,
    /// Distinct rate-limit keys kept.
    pub rate_limit_keys: Gauge,
    /// Bytes of logs kept, bookkeeping included.
    pub bytes_held: Gauge<i64>,
    /// 1 while the store takes appends.
    pub store_healthy: Gauge,
    /// The OpenTelemetry GenAI name of a whole operation's duration.
    pub operation_duration: Seconds,
    /// The OpenTelemetry GenAI name of the time to the first chunk.
    pub time_to_first_chunk: Seconds,
}

fn seconds() -> Seconds {
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::default(),
            streams_running: Gauge::default(),
            streams: Family::default(),
            viewers: Family::default(),
            members: Gauge::default(),
            connection_duration: Family::new_with_constructor(seconds),
            time_to_first_token: seconds(),
            time_between_tokens: seconds(),
            first_frame_held: seconds(),
            seams: Family::default(),
            circuits_open: Family::default(),
            keys_resting: Family::default(),
            upstream_tokens_unread: Counter::default(),
            tokens: Counter::default(),
            token_usage: Family::default(),
            resumes: Family::default(),
            delivery_lag: Histogram::new(exponential_buckets(0.000_05, 2.0, 18)),
            upstream_connections_open: Gauge::default(),
            upstream_errors: Family::default(),
            refused: Family::default(),
            rate_limit_keys: Gauge::default(),
            bytes_held: Gauge::default(),
            store_healthy: Gauge::default(),
            operation_duration: Histogram::new(exponential_buckets(0.01, 2.0, 14)),
            time_to_first_chunk: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let own = self.registry.sub_registry_with_prefix("relaystream");
        own.register(
            "streams_running",
            "Streams whose provider is still at work",
            self.streams_running.clone(),
        );
        own.register("streams", "Streams that ended, by how", self.streams.clone());
        own.register("viewers", "Viewers attached now", self.viewers.clone());
        own.register("members", "Connections of members of rooms", self.members.clone());
        let (name, help) = ("connection_duration", "How long viewers stayed");
        own.register_with_unit(name, help, Unit::Seconds, self.connection_duration.clone());
        let (name, help) = ("time_to_first_token", "From the start of a stream to its first token");
        own.register_with_unit(name, help, Unit::Seconds, self.time_to_first_token.clone());
        let (name, help) = ("time_between_tokens", "Between one token and the next");
        own.register_with_unit(name, help, Unit::Seconds, self.time_between_tokens.clone());
        let (name, help) = ("first_frame_held", "How long what came before the first word was held back");
        own.register_with_unit(name, help, Unit::Seconds, self.first_frame_held.clone());
        own.register("seams", "Retries, fallbacks and continuations", self.seams.clone());
        let (name, help) =
            ("circuits_open", "Models of a provider that failed too often and are given a rest");
        own.register(name, help, self.circuits_open.clone());
        own.register("keys_resting", "Keys of a provider that were refused", self.keys_resting.clone());
        let (name, help) =
            ("upstream_tokens_unread", "Token events that nobody had read when their stream ended");
        own.register(name, help, self.upstream_tokens_unread.clone());
        own.register("tokens", "Token events appended to logs", self.tokens.clone());
        own.register("resumes", "Reads that came with a position, by what they met", self.resumes.clone());
        let (name, help) =
            ("delivery_lag", "From an event's arrival in the log to its hand-over to a viewer, sampled");
        own.register_with_unit(name, help, Unit::Seconds, self.delivery_lag.clone());
        let (name, help) = ("upstream_connections_open", "Requests to providers in flight");
        own.register(name, help, self.upstream_connections_open.clone());
        own.register("upstream_errors", "Failures of providers, by error code", self.upstream_errors.clone());
        own.register("refused", "Requests refused, by error code", self.refused.clone());
        own.register("rate_limit_keys", "Distinct rate-limit keys kept", self.rate_limit_keys.clone());
        own.register("bytes_held", "Bytes of logs kept, bookkeeping included", self.bytes_held.clone());
        own.register("store_healthy", "1 while the store takes appends", self.store_healthy.clone());
        let otel = self.registry.sub_registry_with_prefix("gen_ai_client");
        otel.register("token_usage", "Tokens as providers counted them", self.token_usage.clone());
        let (name, help) = ("operation_duration", "Duration of a whole generation");
        otel.register_with_unit(name, help, Unit::Seconds, self.operation_duration.clone());
        let (name, help) = ("operation_time_to_first_chunk", "Time to the first chunk of a generation");
        otel.register_with_unit(name, help, Unit::Seconds, self.time_to_first_chunk.clone());
    }

    /// The exposition, as `application/openmetrics-text`.
    pub fn exposition(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }

    /// Counts a read that came with a position, by what it met.
    pub fn resumed(&self, result: &'static str) {
        self.resumes.get_or_create_owned(&Outcome { result }).inc();
    }

    pub fn upstream_error(&self, code: &str) {
        self.upstream_errors.get_or_create_owned(&Code { code: code.to_owned() }).inc();
    }

    pub fn refuse(&self, code: &str) {
        self.refused.get_or_create_owned(&Code { code: code.to_owned() }).inc();
    }
}

/// Numbers sampled into `delivery_lag`: one in this many deliveries.
pub const LAG_SAMPLE: u64 = 16;

/// Picks one in [`LAG_SAMPLE`] deliveries.
#[derive(Debug, Default)]
pub struct Sampler(AtomicU64);

impl Sampler {
    pub fn pick(&self) -> bool {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed).is_multiple_of(LAG_SAMPLE)
    }
}
