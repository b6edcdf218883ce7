//! What a user is told, wherever it is: a log of its own, kept and mirrored as a session's is.
//!
//! It is a session that nobody can name. A user's sockets on this node share a bell, which rings when there is something
//! for it; each then follows the log from its own place.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;

use super::{Hub, Said, Session, lock};
use crate::auth::digest_of;
use crate::log::LogId;
use crate::relay::watch::{Watch, Watchers};
use crate::room::Kind;
use crate::room::talk::Text;
use crate::store;

/// No session that somebody names begins like this.
const MARK: char = '@';
const TOPIC: &str = "inboxes";

/// Whose inbox it is. What nodes tell one another when its bell rings.
#[derive(PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Whose {
    tenant: String,
    user: String,
}

impl Whose {
    fn new(tenant: &str, user: &str) -> Whose {
        Whose { tenant: tenant.to_owned(), user: user.to_owned() }
    }
}

/// Rings for one user on this node.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicU64,
    watchers: Arc<Watchers>,
}

impl Bell {
    /// How often it has rung.
    pub fn rung(&self) -> u64 {
        self.rung.load(Relaxed)
    }

    pub fn listen(&self) -> Watch {
        self.watchers.join()
    }

    fn ring(&self) {
        self.rung.fetch_add(1, Relaxed);
        self.watchers.wake_all();
    }
}

fn name(user: &str) -> String {
    format!("{MARK}{}", HEXLOWER.encode(&digest_of(user)[..16]))
}

impl Session {
    pub(super) fn is_inbox(&self) -> bool {
        self.name.starts_with(MARK)
    }
}

impl Hub {
    /// None: nobody has told the user anything.
    pub async fn inbox(&self, tenant: &str, user: &str) -> Result<Option<Arc<Session>>, store::Error> {
        self.get(tenant, &name(user)).await
    }

    /// The user's inbox, made if need be.
    pub async fn inbox_of(&self, tenant: &str, user: &str) -> Result<Arc<Session>, store::Error> {
        match self.inbox(tenant, user).await? {
            Some(inbox) => Ok(inbox),
            None => self.create(tenant, user, &name(user)).await,
        }
    }

    /// Tells the user something: kept, and told to all its connections.
    pub async fn notify(&self, tenant: &str, user: &str, text: &Text) -> Result<(LogId, Said), store::Error> {
        let inbox = self.inbox_of(tenant, user).await?;
        let said = self.say(&inbox, Kind::System, text).await?;
        let whose = Whose::new(tenant, user);
        self.ring(&whose);
        if self.relay.store.span() == store::Span::Nodes {
            let message = serde_json::to_vec(&whose).expect("a message has string keys");
            self.relay.store.publish(TOPIC, Bytes::from(message)).await?;
        }
        Ok((inbox.log, said))
    }

    /// The user's bell on this node.
    pub fn bell(&self, tenant: &str, user: &str) -> Arc<Bell> {
        let mut bells = lock(&self.bells);
        let slot = bells.entry(Whose::new(tenant, user)).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let bell = Arc::new(Bell::default());
            *slot = Arc::downgrade(&bell);
            bell
        })
    }

    fn ring(&self, whose: &Whose) {
        if let Some(bell) = lock(&self.bells).get(whose).and_then(Weak::upgrade) {
            bell.ring();
        }
    }

    pub(super) fn sweep_bells(&self) {
        lock(&self.bells).retain(|_, bell| bell.strong_count() > 0);
    }

    /// Rings for what other nodes were told, for as long as they can be heard.
    pub async fn hear_bells(&self) -> Result<(), store::Error> {
        let mut messages = self.relay.store.subscribe(TOPIC).await?;
        // Whatever was told while nobody listened.
        self.ring_all();
        loop {
            match messages.recv().await {
                Ok(message) => {
                    if let Ok(whose) = serde_json::from_slice(&message) {
                        self.ring(&whose);
                    }
                }
                Err(RecvError::Lagged(_)) => self.ring_all(),
                Err(RecvError::Closed) => return Err(store::Error::Unavailable("no messages".into())),
            }
        }
    }

    fn ring_all(&self) {
        for bell in lock(&self.bells).values().filter_map(Weak::upgrade) {
            bell.ring();
        }
    }
}
