//! Starting a stream: the one path that every dialect and transport takes.
//!
//! Model, permit, log, room, idempotency key, and only then the provider.

use std::sync::Arc;
use std::time::Duration;

use super::{App, Phase};
use crate::auth::{Principal, Role, digest_of};
use crate::chat::Request;
use crate::log::LogId;
use crate::relay::route::UnknownModel;
use crate::relay::running::{OnDisconnect, Running};
use crate::relay::{Facts, Spec};
use crate::store::{self, Claim};

/// What a client asked for, checked for its form.
pub struct Wish {
    pub request: Request,
    pub session: Option<String>,
    pub on_disconnect: OnDisconnect,
    pub metadata: serde_json::Map<String, serde_json::Value>,
    pub idempotency_key: Option<String>,
}

impl Wish {
    /// What two requests with one idempotency key must have in common.
    fn fingerprint(&self) -> String {
        let Wish { request, session, on_disconnect, metadata, .. } = self;
        let beside = serde_json::json!([session, format!("{on_disconnect:?}"), metadata]);
        format!("{}{beside}", request.fingerprint())
    }
}

/// A stream to read.
pub struct Started {
    pub id: LogId,
    /// It was started by an earlier request with the same idempotency key.
    pub replayed: bool,
    /// Its provider is at work on this node, or was a moment ago.
    pub running: Option<Arc<Running>>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    UnknownModel(#[from] UnknownModel),
    #[error("the server is going away; try again in a moment")]
    Draining,
    #[error("you have {limit} streams running already")]
    TooManyStreams { limit: u64 },
    #[error("there is no session \"{0}\"")]
    NoSession(String),
    #[error("your role in this session does not allow it to start streams")]
    NotAllowed,
    #[error("this idempotency key was used for another request")]
    KeyReused,
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A running stream holds its idempotency key this long; once it has ended, for as long as it is kept.
const KEY_TTL: Duration = Duration::from_secs(24 * 3600);

impl App {
    pub async fn start(&self, principal: &Principal, wish: Wish) -> Result<Started, StartError> {
        if self.phase() != Phase::Serving {
            return Err(StartError::Draining);
        }
        let route = self.settings.load().routes.resolve(&wish.request.model)?;
        let session = match &wish.session {
            None => None,
            Some(name) => {
                let (session, role) = self
                    .hub
                    .enter(principal, name)
                    .await?
                    .ok_or_else(|| StartError::NoSession(name.clone()))?;
                if role < Role::Member {
                    return Err(StartError::NotAllowed);
                }
                Some(session)
            }
        };
        let key = wish.idempotency_key.as_deref().map(|key| format!("idempotency/{}/{key}", principal.key()));
        let print = digest_of(&wish.fingerprint()).map(|byte| format!("{byte:02x}")).concat();
        if let Some(key) = &key
            && let Some(started) = self.earlier(key, &print).await?
        {
            return Ok(started);
        }
        let permit = self.running_permits.take(&principal.key());
        let permit =
            permit.ok_or(StartError::TooManyStreams { limit: self.limits.running_streams_per_user })?;
        let facts = Facts {
            tenant: principal.tenant.clone(),
            user: principal.user.clone(),
            session: wish.session,
            model: wish.request.model.clone(),
            metadata: wish.metadata,
        };
        let spec = Spec { request: wish.request, route, on_disconnect: wish.on_disconnect, facts };
        let created = self.relay.create(spec).await?;
        let id = created.id;
        // The claim comes after the log: whoever finds the key finds the stream.
        if let Some(key) = &key {
            let value = format!("{id} {print}");
            if let Claim::Held(other) = self.relay.store.claim(key, &value, KEY_TTL).await? {
                self.relay.discard(created).await?;
                return replayed(&other, &print);
            }
            self.settle(key.clone(), value, created.running.clone());
        }
        if let Some(session) = session {
            self.hub.opened(&session, created.running.clone()).await?;
        }
        let running = created.running.clone();
        self.relay.launch(created, permit);
        Ok(Started { id, replayed: false, running: Some(running) })
    }

    /// The stream that holds this key, if it is still kept.
    async fn earlier(&self, key: &str, print: &str) -> Result<Option<Started>, StartError> {
        let Some(value) = self.relay.store.claimed(key).await? else { return Ok(None) };
        let started = replayed(&value, print)?;
        match self.relay.store.meta(started.id).await {
            Ok(_) => Ok(Some(started)),
            Err(store::Error::NotFound) => {
                self.relay.store.release(key).await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Once a stream has ended its key is held for as long as it can be replayed; one that failed before its provider
    /// said anything gives its key back at once.
    fn settle(&self, key: String, value: String, running: Arc<Running>) {
        let (store, window) = (self.relay.store.clone(), self.edge.replay_window);
        let ttl = if window.is_zero() { KEY_TTL } else { window };
        self.tracker.spawn(async move {
            running.finished.cancelled().await;
            let settled = async {
                if running.mute() {
                    store.release(&key).await
                } else {
                    store.claim(&key, &value, ttl).await.map(drop)
                }
            };
            if let Err(error) = settled.await {
                tracing::warn!(%error, "an idempotency key could not be settled");
            }
        });
    }
}

fn replayed(value: &str, print: &str) -> Result<Started, StartError> {
    let (id, held) = value.split_once(' ').unwrap_or((value, ""));
    if held != print {
        return Err(StartError::KeyReused);
    }
    let id = id.parse().map_err(|_| StartError::Store(store::Error::NotFound))?;
    Ok(Started { id, replayed: true, running: None })
}
