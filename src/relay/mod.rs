//! What asks a provider and appends what comes back, and how its logs are read.
//!
//! A stream is registered in the store before its provider is called, so that an early reconnect finds it. From
//! then on it belongs to nobody's connection: it ends by its provider, by cancel, by failure or by policy.

mod attempts;
mod bell;
mod body;
mod clients;
pub mod follow;
mod guard;
mod halt;
pub mod health;
mod plan;
mod progress;
mod pump;
pub mod rendition;
pub mod retelling;
pub mod route;
pub mod running;
pub mod seam;
pub mod signals;
pub mod silence;
pub mod tail;
mod takeover;
pub mod upstream;
pub mod viewer;
pub mod watch;
mod withdrawal;

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_util::task::TaskTracker;

use crate::event::{Event, Start};
use crate::limits::ledger::Account;
use crate::log::{Bad, Batch, Draft, EventId, LogId, Position};
use crate::metrics::{Metrics, Of, Sampler};
use crate::provider::{Ask, Provider};
use crate::store::{self, Meta, Span, Store};
use crate::surface::Format;
pub use plan::{Hold, Plan};
use retelling::Retelling;
use route::{Route, Routes, Target, Timeouts};
use running::{Running, Stop};
use tail::Tail;
use upstream::Fault;
use viewer::Viewer;

/// Between two tries of what the store must be told.
const STORE_REST: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub struct Options {
    pub tail: tail::Options,
    /// Running streams are left to another process when this one goes away.
    pub hands_over: bool,
    /// A stream that grows beyond this many bytes ends `failed too_large`. Zero: no limit.
    pub stream_bytes: u64,
    /// The largest frame accepted from a provider, in bytes.
    pub event_bytes: usize,
}

/// What is kept about a stream beside its events.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    pub tenant: String,
    pub user: String,
    pub session: Option<String>,
    pub model: String,
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// The messages that it answers, as JSON, where its client's dialect lets a later request go on from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// A client's message that this answer goes on with, in the client's own form: who has lost it needs all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes_on: Option<Value>,
}

/// A stream to be.
pub struct Spec {
    pub errand: Errand,
    pub facts: Facts,
    /// The answer's id in its client's own terms, see `event::Start`.
    pub message: Option<String>,
    /// What the answer repeats of its request, see `event::Start`.
    pub response: Option<Map<String, Value>>,
    /// What its id says of where it is.
    pub tag: Option<u32>,
}

/// How a stream gets its answer.
pub struct Errand {
    /// What is asked, and what somebody else needs to go on with it.
    pub plan: Plan,
    /// The request in the first target's dialect: whether that can say it is known before there is a stream.
    pub ask: Option<Ask>,
    pub route: Route,
    /// Who pays; nobody for what is told again.
    pub account: Option<Account>,
    /// A kept answer to be told in place of a provider's.
    pub retelling: Option<Retelling>,
    /// The beginning of the key under which the provider's own id of a response is noted.
    pub known_as: Option<String>,
}

/// A stream that exists and can be read, and whose provider has not been called yet.
pub struct Created {
    pub id: LogId,
    pub running: Arc<Running>,
    job: pump::Job,
}

pub struct Relay {
    pub store: Arc<dyn Store>,
    pub metrics: Arc<Metrics>,
    pub tracker: TaskTracker,
    options: Options,
    upstreams: upstream::Upstreams,
    pub health: Arc<health::Health>,
    running: Mutex<HashMap<LogId, Arc<Running>>>,
    tails: Mutex<HashMap<LogId, Weak<Tail>>>,
    sampler: Arc<Sampler>,
    /// Viewers are sent home.
    leaving: Arc<AtomicBool>,
}

impl Relay {
    pub fn new(
        store: Arc<dyn Store>,
        options: Options,
        metrics: Arc<Metrics>,
        tracker: TaskTracker,
    ) -> Arc<Relay> {
        Arc::new(Relay {
            store,
            metrics,
            tracker,
            options,
            upstreams: upstream::Upstreams::default(),
            health: Arc::default(),
            running: Mutex::default(),
            tails: Mutex::default(),
            sampler: Arc::default(),
            leaving: Arc::default(),
        })
    }

    /// Registers a stream: from here on it can be found and read.
    pub async fn create(self: &Arc<Self>, spec: Spec) -> Result<Created, store::Error> {
        let random = LogId(ulid::Ulid::generate().0);
        let id = spec.tag.map_or(random, |tag| random.tagged(tag));
        let created = self.open(id, spec).await;
        if created.is_err() {
            self.give_back(id).await;
        }
        created
    }

    async fn open(&self, id: LogId, mut spec: Spec) -> Result<Created, store::Error> {
        let facts = Bytes::from(serde_json::to_vec(&spec.facts).expect("facts have string keys"));
        let owner = format!("{}/{}", spec.facts.tenant, spec.facts.user);
        // What is told again ends with its process: no provider can go on with it.
        let goes_on = self.store.span() > Span::Process && spec.errand.retelling.is_none();
        let plan = if goes_on { spec.errand.plan.to_bytes() } else { Bytes::new() };
        self.store.create(id, Meta { owner, data: facts, trim_bytes: None }, plan).await?;
        let at_ms = now_ms();
        let start = Event::Start(Start {
            stream: id.to_string(),
            by: spec.facts.session.is_some().then(|| spec.facts.user.clone()),
            session: spec.facts.session.take(),
            model: std::mem::take(&mut spec.facts.model),
            provider: spec
                .errand
                .route
                .targets
                .first()
                .map(|target| target.endpoint.name.clone())
                .unwrap_or_default(),
            created_at: at_ms / 1000,
            message: spec.message.take(),
            response: spec.response.take(),
        });
        let drafts = vec![Draft::own(&start, at_ms)];
        let batch = Batch { expected: Position::START, epoch: 0, drafts, seal: false };
        let head = self.store.append(id, batch).await?;
        let running = self.register(id, &spec.errand.plan);
        let job = pump::Job::new(running.clone(), spec.errand, head);
        Ok(Created { id, running, job })
    }

    fn register(&self, id: LogId, plan: &Plan) -> Arc<Running> {
        let running = Running::new(id, plan.on_disconnect);
        lock(&self.running).insert(id, running.clone());
        self.metrics.streams_running.inc();
        running
    }

    /// Calls the provider. `permit` is held until the stream has ended.
    pub fn launch(self: &Arc<Self>, created: Created, permit: impl Any + Send) {
        let relay = self.clone();
        self.tracker.spawn(async move {
            let running = created.running;
            let left = created.job.run(&relay).await;
            lock(&relay.running).remove(&running.id);
            if left && let Err(error) = relay.insist(|| relay.store.disown(running.id)).await {
                tracing::warn!(stream.id = %running.id, %error, "the stream could not be handed over");
            }
            relay.metrics.streams_running.dec();
            running.finished.cancel();
            drop(permit);
        });
    }

    /// Does what must be done, as often as it takes while the store is away; once, when this process goes away.
    pub async fn insist<T, Trying>(&self, what: impl Fn() -> Trying) -> Result<T, store::Error>
    where
        Trying: Future<Output = Result<T, store::Error>>,
    {
        loop {
            match what().await {
                Err(store::Error::Unavailable(_)) if !self.leaving.load(Relaxed) => {
                    tokio::time::sleep(STORE_REST).await;
                }
                answer => return answer,
            }
        }
    }

    pub fn running(&self, id: LogId) -> Option<Arc<Running>> {
        lock(&self.running).get(&id).cloned()
    }

    pub fn running_count(&self) -> usize {
        lock(&self.running).len()
    }

    /// Ends every running stream, since this node goes away, or leaves it to whoever goes on with it.
    pub fn give_up_all(&self) {
        let why = if self.options.hands_over { Stop::Left } else { Stop::Interrupted };
        for running in lock(&self.running).values() {
            running.stop(why.clone());
        }
    }

    /// Sends every viewer of a stream that still runs home.
    pub fn send_home(&self) {
        self.leaving.store(true, Relaxed);
        for tail in lock(&self.tails).values().filter_map(Weak::upgrade) {
            tail.watchers.wake_all();
        }
    }

    pub async fn facts(&self, id: LogId) -> Result<Facts, store::Error> {
        let meta = self.store.meta(id).await?;
        serde_json::from_slice(&meta.data).map_err(|_| store::Error::NotFound)
    }

    /// This node's view of the log, shared by all its viewers.
    pub async fn tail(&self, id: LogId) -> Result<Arc<Tail>, store::Error> {
        // One that was cut off from the store is nobody's view any more.
        let known = || lock(&self.tails).get(&id).and_then(Weak::upgrade).filter(|tail| !tail.is_cut_off());
        if let Some(tail) = known() {
            return Ok(tail);
        }
        let opened = Tail::open(&self.store, id, &self.options.tail, &self.tracker, &self.leaving).await?;
        let mut tails = lock(&self.tails);
        if let Some(tail) = tails.get(&id).and_then(Weak::upgrade).filter(|tail| !tail.is_cut_off()) {
            return Ok(tail);
        }
        tails.insert(id, Arc::downgrade(&opened));
        Ok(opened)
    }

    /// Whether one can read on from a position, by what the store knows: a viewer that comes from another node may have
    /// seen more than this one has been told yet, and then it is waited for.
    pub async fn check(&self, tail: &Tail, id: EventId) -> Result<Result<(), Bad>, store::Error> {
        let checked = tail.check(id);
        if checked != Err(Bad::Ahead) || self.store.check(id.log, id.position).await?.is_err() {
            return Ok(checked);
        }
        tail.reaches(id.position.seq).await;
        if tail.is_cut_off() {
            return Err(store::Error::Unavailable("the log could not be read on".into()));
        }
        Ok(tail.check(id))
    }

    /// Names of models that can be asked for, with their providers'.
    pub async fn models(&self, routes: &Routes) -> Vec<(String, String)> {
        let mut models: Vec<_> =
            routes.aliases.keys().map(|alias| (alias.clone(), "relaystream".to_owned())).collect();
        for endpoint in routes.endpoints.values() {
            for model in self.upstreams.models(endpoint).await {
                let bare = endpoint.name == routes.default || endpoint.dialect == Provider::Demo;
                let id = if bare { model } else { format!("{}/{model}", endpoint.name) };
                models.push((id, endpoint.name.clone()));
            }
        }
        models
    }

    /// One question to a provider that is answered by one JSON body, beside any stream. Not retried.
    pub async fn call(&self, target: &Target, ask: Ask, timeouts: &Timeouts) -> Result<Bytes, Fault> {
        let key = self.health.key(&target.endpoint, tokio::time::Instant::now());
        let answer = self.upstreams.call(target, key, ask, timeouts).await;
        answer.inspect_err(|fault| self.metrics.upstream_error(fault.code))
    }

    /// Prepares for asking providers. Blocks for some milliseconds.
    pub fn warm(&self) {
        self.upstreams.warm();
    }

    /// A viewer right after `position`, which must have been checked.
    pub fn view(&self, tail: Arc<Tail>, format: Format, position: Position) -> Viewer {
        let place = tail.place(format, position);
        self.viewer(tail, format, place)
    }

    /// A viewer that reads on from an offset into the rendition, which [`Tail::seek`] found there.
    pub fn view_at(&self, tail: Arc<Tail>, format: Format, offset: u64) -> Viewer {
        self.viewer(tail, format, (offset, None))
    }

    fn viewer(&self, tail: Arc<Tail>, format: Format, place: (u64, Option<Bytes>)) -> Viewer {
        let attendance = self.running(tail.log).map(|running| running.attend());
        Viewer::new(tail, format, place, attendance, self.metrics.clone(), self.sampler.clone())
    }

    /// How many look at the log on this node.
    pub fn viewers(&self, id: LogId) -> usize {
        lock(&self.tails).get(&id).and_then(Weak::upgrade).map_or(0, |tail| tail.watchers.count())
    }

    /// How many logs are followed on this node.
    pub fn tails_open(&self) -> usize {
        lock(&self.tails).values().filter(|tail| tail.strong_count() > 0).count()
    }

    /// Forgets the stream. If it runs, its writer finds it gone.
    pub async fn forget(&self, id: LogId, by: String) -> Result<(), store::Error> {
        if let Some(running) = self.running(id) {
            running.stop(Stop::Cancelled(by));
        }
        self.store.remove(id).await
    }

    /// Housekeeping, about once a second.
    pub fn sweep(&self) {
        self.store.sweep();
        self.metrics.bytes_held.set(i64::try_from(self.store.held()).unwrap_or(i64::MAX));
        lock(&self.tails).retain(|_, tail| tail.strong_count() > 0);
        let now = tokio::time::Instant::now();
        self.health.sweep(now);
        let (open, resting) = (&self.metrics.circuits_open, &self.metrics.keys_resting);
        open.clear();
        for target in self.health.report().into_iter().filter(|target| target.circuit != "closed") {
            open.get_or_create_owned(&Of { provider: target.provider }).inc();
        }
        resting.clear();
        for (provider, keys) in self.health.resting(now) {
            resting.get_or_create_owned(&Of { provider }).set(keys as i64);
        }
    }
}

/// A clock that never goes back: the time since this process first asked.
pub fn since_start() -> Duration {
    static START: std::sync::LazyLock<tokio::time::Instant> =
        std::sync::LazyLock::new(tokio::time::Instant::now);
    START.elapsed()
}

/// From 0 to 1. An id's random bits are as good as any for spreading clients and load.
pub fn random() -> f64 {
    f64::from(ulid::Ulid::generate().0 as u32) / f64::from(u32::MAX)
}

/// Now, in milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the shell's one look at the wall clock")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
