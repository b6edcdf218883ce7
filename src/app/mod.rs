//! The one place where parts meet.
//!
//! Knows every module of the core and the shell, and none of the edge: no status codes, no sockets.

mod condition;
pub mod entry;
pub mod key_sets;
pub mod machines;
pub mod nodes;
pub mod start;
pub mod store;
pub mod tickets;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::auth::{Access, Principal, Role, Scope};
use crate::config::{Config, Engine, Environment, ModelConfig, OnRestart, Parts};
use crate::hub::{self, Hub, gathering};
use crate::limits::ledger::Ledger;
use crate::limits::strikes::Strikes;
use crate::limits::{self, Permits};
use crate::log::LogId;
use crate::metrics::Metrics;
use crate::prompts::Library;
use crate::relay::route::Routes;
use crate::relay::{self, Facts, Relay, now_ms, since_start, tail};
use crate::store::{Error, Orphan, Span, Store};
use crate::surface::ai_sdk;
use crate::tls;
use condition::{Condition, Report};
use key_sets::KeySets;
use machines::Machines;
use tickets::Seals;

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// No new streams; running ones may end.
    Draining,
    /// Every viewer is being sent home.
    Closing,
}

/// How long a drain waits at most for the last streams' endings to reach the sessions' viewers.
const LAST_ENDINGS: Duration = Duration::from_millis(250);

/// What the edge wants to know, as configured.
#[derive(Debug, Clone)]
pub struct Edge {
    pub head_wait: Duration,
    pub keep_alive: Duration,
    pub allowed_origins: Vec<String>,
    pub trusted_proxies: Vec<std::net::IpAddr>,
    pub request_bytes: usize,
    pub replay_window: Duration,
    pub message_bytes: usize,
    pub ping: Duration,
    pub pong: Duration,
    pub expiry_grace: Duration,
    /// How long a socket stays open at most; zero: for ever.
    pub lifetime: Duration,
    pub signal_bytes: usize,
}

/// What can change without a restart.
pub struct Settings {
    pub access: Access,
    /// With what TLS is served; None: it is not.
    pub identity: Option<Arc<tls::Identity>>,
    pub routes: Routes,
    pub prompts: Library,
    /// What stands in front of every request to a model, by its alias.
    pub openings: BTreeMap<String, Opening>,
    pub ai_sdk: AiSdk,
    /// On Fly without a shared store.
    pub machines: Option<Machines>,
}

/// A prompt without variables, as the beginning of a chat.
#[derive(Debug, Clone, PartialEq)]
pub struct Opening {
    pub instructions: String,
    pub options: Map<String, Value>,
}

/// What the AI SDK's routes do where their clients say nothing.
#[derive(Debug, Clone, Default)]
pub struct AiSdk {
    pub model: Option<String>,
    /// One of [`Settings::prompts`].
    pub prompt: Option<String>,
    pub parts: ai_sdk::Parts,
}

pub struct App {
    pub relay: Arc<Relay>,
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
    pub settings: ArcSwap<Settings>,
    pub edge: Edge,
    pub limits: limits::Options,
    pub ledger: Arc<Ledger>,
    pub strikes: Strikes,
    pub key_sets: KeySets,
    seals: Seals,
    pub running_permits: Permits<String>,
    pub stream_viewers: Permits<LogId>,
    pub session_viewers: Permits<(String, String)>,
    pub user_viewers: Permits<String>,
    pub user_connections: Permits<String>,
    pub tracker: TaskTracker,
    on_restart: OnRestart,
    /// Streams that are this process's to go on with, once the store can be read.
    orphans: Mutex<Vec<Orphan>>,
    condition: Condition,
    phase: watch::Sender<Phase>,
}

impl App {
    /// Puts everything together. `settings` has been checked.
    pub fn new(config: &Config, settings: Settings, store: Arc<dyn Store>) -> Arc<App> {
        let (metrics, tracker) = (Arc::new(Metrics::default()), TaskTracker::new());
        let (limits, on_restart) = (config.limits(settings.access.open), config.store.on_restart);
        let ms = Duration::from_millis;
        let replay_window = Duration::from_secs(config.server.replay_window_s);
        let options = relay::Options {
            tail: tail::Options {
                tick: ms(config.fanout.tick_ms),
                keep_alive: ms(config.server.keepalive_ms),
            },
            hands_over: store.span() > Span::Process && on_restart == OnRestart::Continue,
            stream_bytes: config.limits.stream_bytes,
            event_bytes: or_any(config.limits.event_bytes),
        };
        let relay = Relay::new(store, options.clone(), metrics.clone(), tracker.clone());
        let hub = Hub::new(
            relay.clone(),
            hub::Options {
                tail: options.tail,
                gathering: gathering::Options {
                    linger: ms(config.rooms.linger_ms),
                    typing: ms(config.rooms.typing_ms),
                    max_members: or_any(config.rooms.max_members),
                    max_connections: or_any(config.rooms.max_connections),
                    outbox_bytes: or_any(config.rooms.outbox_bytes),
                },
                messages_per_s: config.rooms.messages_per_s,
                max_sessions: limits.sessions_per_user,
                history_bytes: or_any(config.rooms.history_bytes),
                empty_ttl: Duration::from_secs(config.rooms.empty_ttl_s),
                inbox_ttl: Duration::from_secs(config.rooms.inbox_ttl_s),
            },
        );
        let app = Arc::new(App {
            relay,
            hub,
            metrics,
            settings: ArcSwap::from_pointee(settings),
            edge: Edge {
                head_wait: ms(config.server.head_wait_ms),
                keep_alive: ms(config.server.keepalive_ms),
                allowed_origins: config.server.allowed_origins.clone(),
                trusted_proxies: config.server.trusted_proxies.clone(),
                request_bytes: or_any(config.limits.request_bytes),
                replay_window,
                message_bytes: or_any(config.rooms.message_bytes),
                ping: ms(config.rooms.ping_ms),
                pong: ms(config.rooms.pong_ms),
                expiry_grace: ms(config.rooms.expiry_grace_ms),
                lifetime: Duration::from_secs(config.rooms.lifetime_s),
                signal_bytes: or_any(config.rooms.signal_bytes),
            },
            running_permits: Permits::new(limits.running_streams_per_user),
            stream_viewers: Permits::new(limits.viewers_per_stream),
            session_viewers: Permits::new(limits.viewers_per_session),
            user_viewers: Permits::new(limits.viewers_per_user),
            user_connections: Permits::new(limits.connections_per_user),
            limits,
            ledger: Ledger::new(limits.budgets),
            strikes: Strikes::default(),
            key_sets: KeySets::default(),
            seals: Seals::default(),
            tracker,
            on_restart,
            orphans: Mutex::default(),
            condition: Condition::new(now_ms()),
            phase: watch::Sender::new(Phase::Serving),
        });
        let relay = app.relay.clone();
        app.tracker.spawn_blocking(move || relay.warm());
        app
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Resolves once every viewer is to be sent home.
    pub async fn closing(&self) {
        let mut phase = self.phase.subscribe();
        // The sender lives as long as we do: this wait cannot fail.
        drop(phase.wait_for(|phase| *phase == Phase::Closing).await);
    }

    /// Refuses new streams, lets running ones end within `patience`, then ends the rest and sends viewers home.
    pub async fn drain(&self, patience: Duration) {
        self.phase.send_replace(Phase::Draining);
        let quiet = async {
            while self.relay.running_count() > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(patience, quiet).await.is_err() {
            tracing::warn!(streams = self.relay.running_count(), "the drain deadline ends what still runs");
            self.relay.give_up_all();
        }
        let told = async {
            while self.relay.running_count() > 0 || !self.hub.all_told() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _viewers_come_back_anyway = tokio::time::timeout(LAST_ENDINGS, told).await;
        self.phase.send_replace(Phase::Closing);
        self.hub.close();
        self.relay.send_home();
    }

    /// The facts of a stream that this principal may read. Foreign streams are not found, like unknown ones.
    pub async fn readable(&self, principal: &Principal, id: LogId) -> Result<Facts, Error> {
        let facts = self.relay.facts(id).await?;
        let may = match &principal.scope {
            Some(Scope::Stream(only)) => *only == id && facts.tenant == principal.tenant,
            _ => self.role(principal, &facts).await?.is_some(),
        };
        if may { Ok(facts) } else { Err(Error::NotFound) }
    }

    /// Whether this principal may stop or forget a stream that it may read.
    pub async fn may_end(&self, principal: &Principal, facts: &Facts) -> Result<bool, Error> {
        let own = principal.owns(&facts.user, facts.session.as_deref());
        let least = if own { Role::Member } else { Role::Owner };
        Ok(self.role(principal, facts).await?.is_some_and(|role| role >= least))
    }

    /// What it is to a stream: what it is in its session, or without one, or when that is gone, only its principal is
    /// anything.
    async fn role(&self, principal: &Principal, facts: &Facts) -> Result<Option<Role>, Error> {
        if facts.tenant != principal.tenant {
            return Ok(None);
        }
        let session = match facts.session.as_deref() {
            Some(name) => self.hub.get(&facts.tenant, name).await?,
            None => None,
        };
        Ok(match session {
            Some(session) => principal.role_in(&session.name, &session.owner),
            None => principal.owns(&facts.user, facts.session.as_deref()).then_some(principal.role),
        })
    }

    /// How the store does.
    pub fn store_report(&self) -> Report {
        let report = self.condition.note(self.relay.store.health(), now_ms());
        self.metrics.store_healthy.set(i64::from(report.code.is_none()));
        report
    }

    /// Housekeeping, about once a second.
    pub async fn sweep(&self) {
        self.relay.sweep();
        self.store_report();
        self.ledger.sweep(since_start());
        self.strikes.sweep(since_start());
        self.hub.sweep().await;
    }
}

/// Zero switches a limit off.
fn or_any(limit: usize) -> usize {
    if limit == 0 { usize::MAX } else { limit }
}

/// Reads what can be reloaded: credentials, providers and models, prompts, the AI SDK's defaults.
pub fn settings(config: &Config, open: bool, environment: &Environment) -> anyhow::Result<Settings> {
    let (prompts, ai_sdk) = (prompts(&config.prompts.path)?, &config.ai_sdk);
    let named = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    if let Some(name) = named(&ai_sdk.prompt).filter(|name| prompts.get(name).is_none()) {
        bail!("ai_sdk.prompt: there is no prompt \"{name}\"");
    }
    let parts = match ai_sdk.parts {
        Parts::V5 => ai_sdk::Parts::V5,
        Parts::V6 => ai_sdk::Parts::V6,
    };
    let own = environment.get("FLY_MACHINE_ID").map(String::as_str);
    let machines = Machines::new(&config.server.fly_machines, own).context("server.fly_machines")?;
    if machines.is_some() && config.store.engine == Engine::Redis {
        bail!("server.fly_machines: over Redis every machine has every stream");
    }
    Ok(Settings {
        machines,
        access: config.access(open, environment)?,
        identity: config.identity()?.map(Arc::new),
        routes: config.routes(environment)?,
        openings: openings(config, &prompts)?,
        ai_sdk: AiSdk { model: named(&ai_sdk.model), prompt: named(&ai_sdk.prompt), parts },
        prompts,
    })
}

/// The prompts of models, which nobody gives variables to.
fn openings(config: &Config, prompts: &Library) -> anyhow::Result<BTreeMap<String, Opening>> {
    let prompted = config.models.iter().filter(|(_, model)| !model.prompt.is_empty());
    let opening = |(alias, model): (&String, &ModelConfig)| {
        let rendered = prompts.render(&model.prompt, &Map::new(), &[]);
        let rendered = rendered.with_context(|| format!("models.{alias}.prompt"))?;
        let instructions = rendered.instructions().join("\n\n");
        Ok((alias.clone(), Opening { instructions, options: rendered.config }))
    };
    prompted.map(opening).collect()
}

/// The shipped prompts, with those of a directory laid over them.
fn prompts(path: &std::path::Path) -> anyhow::Result<Library> {
    let mut files = Vec::new();
    if !path.as_os_str().is_empty() {
        let entries = std::fs::read_dir(path)
            .with_context(|| format!("prompts.path: cannot read {}", path.display()))?;
        for entry in entries {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "prompt") {
                let text = std::fs::read_to_string(&file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                files.push((file.display().to_string(), text));
            }
        }
    }
    files.sort();
    let own = files.iter().map(|(file, text)| crate::prompts::Source { file, text });
    Library::new(Library::shipped().into_iter().chain(own)).map_err(|errors| {
        let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", lines.join("\n"))
    })
}
