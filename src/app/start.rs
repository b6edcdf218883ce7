//! Starting a stream: the one path that every dialect and transport takes.
//!
//! Model, permit, log, room, idempotency key, and only then the provider.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;

use super::machines::Machines;
use super::{App, Phase};
use crate::auth::{Principal, Role, digest_of};
use crate::chat::{Invalid, Request};
use crate::hub::{EnterError, Session};
use crate::log::LogId;
use crate::relay::retelling::Retelling;
use crate::relay::route::{Route, Target, UnknownModel};
use crate::relay::running::{OnDisconnect, Running};
use crate::relay::tail::End;
use crate::relay::{Created, Errand, Facts, Hold, Plan, Spec, random, since_start};
use crate::store::{self, Claim};
use crate::surface::opening;

/// What a client asked for, checked for its form.
pub struct Wish {
    pub request: Request,
    /// It names a prompt of its own: that of its model does not apply.
    pub prompted: bool,
    pub session: Option<String>,
    pub on_disconnect: OnDisconnect,
    pub metadata: serde_json::Map<String, serde_json::Value>,
    pub idempotency_key: Option<String>,
    /// Whether an answer that an identical request got will do; None: as the model's route says.
    pub cache: Option<bool>,
    /// The answer's id, if its client's dialect lets the client choose it.
    pub message: Option<String>,
    /// What the answer repeats of its request, see `event::Start`.
    pub response: Option<serde_json::Map<String, serde_json::Value>>,
    /// The messages that are answered, to be kept with the stream.
    pub conversation: Option<String>,
    /// See `relay::Spec`.
    pub known_as: Option<String>,
    /// The client's message that the answer goes on with.
    pub goes_on: Option<serde_json::Value>,
}

impl Wish {
    /// Whether this asks for what an identical request may have got already.
    fn shares(&self, by_route: bool) -> bool {
        // A message that its client named, or goes on with, is its own.
        let own = self.message.is_some() || self.goes_on.is_some();
        self.idempotency_key.is_none() && !own && self.cache.unwrap_or(by_route)
    }

    /// What is kept about the stream. Moves out of the wish what is not asked of a provider.
    fn facts(&mut self, principal: &Principal) -> Facts {
        Facts {
            tenant: principal.tenant.clone(),
            user: principal.user.clone(),
            session: self.session.take(),
            model: self.request.model.clone(),
            metadata: std::mem::take(&mut self.metadata),
            conversation: self.conversation.take(),
            goes_on: self.goes_on.take(),
        }
    }

    /// Two wishes with the same print ask for the same.
    fn print(&self) -> String {
        let rest = serde_json::json!([self.session, format!("{:?}", self.on_disconnect), self.metadata]);
        HEXLOWER.encode(&digest_of(&format!("{}{rest}", self.request.fingerprint())))
    }
}

/// A stream to read.
pub struct Started {
    pub id: LogId,
    /// It was started by an earlier request, with the same idempotency key or just like this one.
    pub replayed: bool,
    /// An identical request's answer would have done.
    pub cache: bool,
    /// Its provider is at work on this node, or was a moment ago.
    pub running: Option<Arc<Running>>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    UnknownModel(#[from] UnknownModel),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("the server is going away; try again in a moment")]
    Draining,
    #[error("you have {limit} streams running already")]
    TooManyStreams { limit: u64 },
    #[error("your budget of tokens is spent")]
    BudgetExceeded { wait: Duration },
    #[error("there is no session \"{0}\"")]
    NoSession(String),
    #[error(transparent)]
    Session(#[from] EnterError),
    #[error("your role does not allow it to start streams")]
    NotAllowed,
    #[error("this idempotency key was used for another request")]
    KeyReused,
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A running stream holds its idempotency key this long; once it has ended, for as long as it is kept.
const KEY_TTL: Duration = Duration::from_secs(24 * 3600);

impl App {
    /// Starts what is wished for. It is seen through even if the caller goes away meanwhile: a stream that can be found
    /// is one that runs.
    pub async fn start(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        wish: Wish,
    ) -> Result<Started, StartError> {
        let (app, principal) = (self.clone(), principal.clone());
        let started = self.tracker.spawn(async move { app.begin(&principal, wish).await });
        started
            .await
            .unwrap_or_else(|_| Err(StartError::Store(store::Error::Unavailable("a start failed".into()))))
    }

    async fn begin(self: &Arc<Self>, principal: &Principal, mut wish: Wish) -> Result<Started, StartError> {
        let mut hold = wish.idempotency_key.as_deref().map(|key| Hold {
            key: format!("idempotency/{}/{key}", principal.key()),
            print: wish.print(),
            cache: false,
        });
        if let Some(hold) = &hold
            && let Some(started) = self.earlier(&hold.key, &hold.print).await?
        {
            return Ok(started);
        }
        self.admits(principal)?;
        let settings = self.settings.load_full();
        let dialect = wish.request.original.as_ref().map(|original| original.dialect);
        let mut route = settings.routes.resolve(&wish.request.model, dialect)?;
        route.draw(random);
        if let Some(opening) = settings.openings.get(&wish.request.model).filter(|_| !wish.prompted) {
            opening::prepend(&mut wish.request, &opening.instructions, &opening.options);
        }
        let cache = wish.shares(route.policy.cache);
        let mut retelling = None;
        if cache {
            // Of what is asked of providers: another prompt asks for something else.
            let print = wish.print();
            let key = format!("cache/{}/{print}", principal.key());
            match self.earlier(&key, &print).await? {
                None => hold = Some(Hold { key, print, cache }),
                Some(hit) => {
                    let pace = route.policy.cache_tokens_per_s;
                    retelling = self.retelling(hit.id, pace).await?.filter(|_| wish.request.stream);
                    if retelling.is_none() {
                        return Ok(Started { cache, ..hit });
                    }
                }
            }
        }
        let (hit, session) = (retelling.is_some(), wish.session.clone());
        let spec = self.spec(principal, wish, route, hold.clone(), retelling).await?;
        let session = self.session(principal, session.as_deref()).await?;
        let allowance = &principal.allowance;
        let permit = self.running_permits.take(allowance).ok_or_else(|| self.too_many_streams())?;
        let created = self.relay.create(spec).await?;
        let (id, running) = (created.id, created.running.clone());
        match self.register(allowance, hold.as_ref(), session.as_ref(), &running).await {
            Ok(None) => {
                self.relay.launch(created, permit);
                Ok(Started { id, replayed: hit, cache, running: Some(running) })
            }
            Err(StartError::Store(error @ store::Error::Unavailable(_))) => {
                match hold {
                    Some(hold) => self.decide_later(created, permit, hold),
                    None => self.relay.discard(created).await,
                }
                Err(error.into())
            }
            other => {
                self.relay.discard(created).await;
                let started = other?.unwrap_or(Started { id, replayed: true, cache, running: None });
                Ok(Started { cache, ..started })
            }
        }
    }

    /// What the relay needs to know. What the first target cannot be asked is refused here, and so is who cannot pay.
    async fn spec(
        &self,
        principal: &Principal,
        mut wish: Wish,
        route: Route,
        hold: Option<Hold>,
        retelling: Option<Retelling>,
    ) -> Result<Spec, StartError> {
        let (mut ask, mut account) = (None, None);
        if retelling.is_none() {
            let asked = |target: &Target| target.endpoint.dialect.ask(&wish.request, &target.model);
            ask = route.targets.first().map(asked).transpose()?;
            let pays = self.ledger.account(&principal.allowance);
            self.share_budget(&principal.allowance, &pays).await?;
            let wait = pays.wait(since_start());
            if !wait.is_zero() {
                return Err(StartError::BudgetExceeded { wait });
            }
            account = Some(pays);
        }
        let facts = wish.facts(principal);
        let plan = Plan {
            request: wish.request,
            on_disconnect: wish.on_disconnect,
            allowance: principal.allowance.clone(),
            hold,
        };
        let errand = Errand { plan, ask, route, account, retelling, known_as: wish.known_as };
        let tag = self.settings.load().machines.as_ref().map(Machines::tag);
        Ok(Spec { errand, facts, message: wish.message, response: wish.response, tag })
    }

    /// A kept answer that is to be told at a pace; None: it can be read as it is, at once or while it runs.
    async fn retelling(&self, kept: LogId, tokens_per_s: f64) -> Result<Option<Retelling>, StartError> {
        if tokens_per_s <= 0.0 || self.relay.running(kept).is_some() {
            return Ok(None);
        }
        let tail = self.relay.tail(kept).await?;
        let ended = matches!(tail.end(), Some(End::Ended(_)));
        Ok(ended.then(|| Retelling { records: tail.with_records(<[_]>::to_vec), tokens_per_s }))
    }

    fn too_many_streams(&self) -> StartError {
        StartError::TooManyStreams { limit: self.limits.running_streams_per_user }
    }

    /// Whether anything may be started now, by this principal.
    fn admits(&self, principal: &Principal) -> Result<(), StartError> {
        match self.phase() {
            Phase::Draining | Phase::Closing => Err(StartError::Draining),
            Phase::Serving if principal.role < Role::Member => Err(StartError::NotAllowed),
            Phase::Serving => Ok(()),
        }
    }

    async fn session(
        &self,
        principal: &Principal,
        name: Option<&str>,
    ) -> Result<Option<Arc<Session>>, StartError> {
        let Some(name) = name else {
            // A ticket is for its session.
            return if principal.scope.is_some() { Err(StartError::NotAllowed) } else { Ok(None) };
        };
        let entered = self.hub.enter(principal, name).await?;
        let (session, role) = entered.ok_or_else(|| StartError::NoSession(name.to_owned()))?;
        if role < Role::Member { Err(StartError::NotAllowed) } else { Ok(Some(session)) }
    }

    /// Makes a created stream known under its key and in its room; or returns the one that has the key already.
    async fn register(
        self: &Arc<Self>,
        allowance: &str,
        hold: Option<&Hold>,
        session: Option<&Arc<Session>>,
        running: &Arc<Running>,
    ) -> Result<Option<Started>, StartError> {
        self.settle(allowance.to_owned(), hold.cloned(), running.clone());
        if !self.count(allowance, running.id).await? {
            return Err(self.too_many_streams());
        }
        if let Some(session) = session {
            self.hub.opened(session, running.clone()).await?;
        }
        match hold {
            Some(hold) => self.claim(hold, running.id).await,
            None => Ok(None),
        }
    }

    /// The last step: whoever finds the key finds a stream that runs. Returns the one that has the key already.
    async fn claim(&self, hold: &Hold, id: LogId) -> Result<Option<Started>, StartError> {
        match self.relay.store.claim(&hold.key, &value(hold, id), KEY_TTL).await? {
            Claim::Won => Ok(None),
            Claim::Held(other) => replayed(&other, &hold.print).map(Some),
        }
    }

    /// A start that broke off may have its key, and then others are sent to its stream: whether it does is asked until
    /// the store answers.
    fn decide_later(self: &Arc<Self>, created: Created, permit: impl Any + Send, hold: Hold) {
        let app = self.clone();
        self.tracker.spawn(async move {
            match app.relay.insist(|| app.relay.store.claimed(&hold.key)).await {
                Ok(Some(held)) if held == value(&hold, created.id) => app.relay.launch(created, permit),
                _ => app.relay.discard(created).await,
            }
        });
    }

    /// The stream that holds this key, if it is still kept.
    async fn earlier(&self, key: &str, print: &str) -> Result<Option<Started>, StartError> {
        let Some(value) = self.relay.store.claimed(key).await? else { return Ok(None) };
        let started = replayed(&value, print)?;
        match self.relay.store.meta(started.id).await {
            Ok(_) => Ok(Some(started)),
            Err(store::Error::NotFound) => {
                self.relay.store.release(key, &value).await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Once a stream has ended it counts no more, and its key is held for as long as it can be replayed; one that failed
    /// before its provider said anything gives its key back at once; and only a whole answer is one for others (`cache`).
    pub(super) fn settle(self: &Arc<Self>, allowance: String, hold: Option<Hold>, running: Arc<Running>) {
        let app = self.clone();
        self.tracker.spawn(async move {
            running.finished.cancelled().await;
            if running.left() {
                return;
            }
            if let Err(error) = app.relay.insist(|| app.settled(&allowance, hold.as_ref(), &running)).await {
                tracing::warn!(%error, "what a stream held could not be given back");
            }
        });
    }

    async fn settled(
        &self,
        allowance: &str,
        hold: Option<&Hold>,
        running: &Running,
    ) -> Result<(), store::Error> {
        self.uncount(allowance, running.id).await?;
        let (Some(hold), store) = (hold, &self.relay.store) else { return Ok(()) };
        let value = value(hold, running.id);
        if running.mute() || (hold.cache && !running.completed()) {
            return store.release(&hold.key, &value).await;
        }
        let window = self.edge.replay_window;
        let ttl = if window.is_zero() { KEY_TTL } else { window };
        store.claim(&hold.key, &value, ttl).await.map(drop)
    }
}

/// What a claim says: which stream, and for which request.
fn value(hold: &Hold, id: LogId) -> String {
    format!("{id} {}", hold.print)
}

fn replayed(value: &str, print: &str) -> Result<Started, StartError> {
    let (id, held) = value.split_once(' ').unwrap_or((value, ""));
    if held != print {
        return Err(StartError::KeyReused);
    }
    let id = id.parse().map_err(|_| StartError::Store(store::Error::NotFound))?;
    Ok(Started { id, replayed: true, cache: false, running: None })
}
