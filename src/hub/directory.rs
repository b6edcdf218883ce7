//! How sessions are found by every process: under their names in the store, with their rooms' logs.
//!
//! A process keeps what it knows of a session and reads on in its room's log whenever it is asked for.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Hub, Session, lock};
use crate::log::{Page, Position};
use crate::relay::running::Running;
use crate::store::{self, Claim};

/// A session is listed until it is forgotten.
const LISTED: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Bytes of a room's log that are read at a time.
const SLICE: usize = 256 * 1024;
const PREFIX: &str = "session/";

/// What the store keeps under a session's name.
#[derive(Serialize, Deserialize)]
struct Listing {
    log: String,
    owner: String,
    created_ms: u64,
}

impl Listing {
    fn of(session: &Session) -> String {
        let Session { log, owner, created_ms, .. } = session;
        let listing = Listing { log: log.to_string(), owner: owner.clone(), created_ms: *created_ms };
        serde_json::to_string(&listing).expect("a listing has string keys")
    }

    /// None: another version's.
    fn session(text: &str, tenant: &str, name: &str) -> Option<Session> {
        let listing: Listing = serde_json::from_str(text).ok()?;
        Some(Session::new(tenant, name, &listing.owner, listing.log.parse().ok()?, listing.created_ms))
    }
}

/// Neither name holds a slash.
fn key(tenant: &str, name: &str) -> String {
    format!("{PREFIX}{tenant}/{name}")
}

impl Hub {
    /// The session of this name as far as anybody has told, if there is one.
    pub async fn get(&self, tenant: &str, name: &str) -> Result<Option<Arc<Session>>, store::Error> {
        if let Some(session) = self.known(tenant, name) {
            match self.refresh(&session).await {
                Err(store::Error::NotFound) => self.lose(&session),
                known => return known.map(|()| Some(session)),
            }
        }
        let listed = self.relay.store.claimed(&key(tenant, name)).await?;
        match listed.and_then(|text| Listing::session(&text, tenant, name)) {
            None => Ok(None),
            Some(session) => self.load(session).await,
        }
    }

    /// Lists a new session; or returns the one that somebody else was faster with.
    pub(super) async fn announce(&self, session: Session) -> Result<Arc<Session>, store::Error> {
        let (tenant, name) = (session.tenant.clone(), session.name.clone());
        let listing = Listing::of(&session);
        loop {
            match self.relay.store.claim(&key(&tenant, &name), &listing, LISTED).await? {
                Claim::Won => return Ok(self.insert(session)),
                Claim::Held(other) => {
                    let found = match Listing::session(&other, &tenant, &name) {
                        Some(found) => self.load(found).await?,
                        None => None,
                    };
                    if let Some(found) = found {
                        self.relay.store.remove(session.log).await?;
                        return Ok(found);
                    }
                    // Its room is gone: what the name leads to is nobody's.
                    self.relay.store.release(&key(&tenant, &name), &other).await?;
                }
            }
        }
    }

    /// Takes the session's name from the list.
    pub(super) async fn unlist(&self, session: &Session) -> Result<(), store::Error> {
        self.relay.store.release(&key(&session.tenant, &session.name), &Listing::of(session)).await
    }

    /// Names of the tenant's sessions.
    pub(super) async fn names(&self, tenant: &str) -> Result<Vec<String>, store::Error> {
        let prefix = key(tenant, "");
        let listed = self.relay.store.list(&prefix).await?;
        Ok(listed.into_iter().map(|(key, _)| key[prefix.len()..].to_owned()).collect())
    }

    /// Loads every session that is listed: after a start, so that empty ones are forgotten in time.
    pub async fn restore(&self) -> Result<(), store::Error> {
        for (key, _) in self.relay.store.list(PREFIX).await? {
            if let Some((tenant, name)) = key[PREFIX.len()..].rsplit_once('/') {
                self.get(tenant, name).await?;
            }
        }
        Ok(())
    }

    /// Reads what the room's log says that is not known here.
    pub(super) async fn refresh(&self, session: &Session) -> Result<(), store::Error> {
        loop {
            let after = session.room().position;
            let Page { records, head, .. } = self.relay.store.read(session.log, after, SLICE).await?;
            session.apply(&records);
            if session.room().position >= head || records.is_empty() {
                return Ok(());
            }
        }
    }

    /// Tells the room of streams that have ended without a word to it, as those do whose process is gone.
    pub async fn close_what_ended(&self, session: &Session) -> Result<(), store::Error> {
        for (_, entry) in session.streams().into_iter().filter(|(_, entry)| entry.closed.is_none()) {
            let ended = match self.relay.store.read(entry.stream, Position::START, 0).await {
                Ok(page) => page.closed,
                Err(store::Error::NotFound) => true,
                Err(error) => return Err(error),
            };
            if ended {
                self.closed(session, entry.stream).await?;
            }
        }
        Ok(())
    }

    /// Tells the room of a stream that this process goes on with.
    pub async fn reopened(
        self: &Arc<Self>,
        session: &Arc<Session>,
        running: Arc<Running>,
    ) -> Result<(), store::Error> {
        let stream = running.id;
        self.close_at_the_end(session, running);
        self.relay.insist(|| self.open(session, stream)).await
    }

    async fn load(&self, session: Session) -> Result<Option<Arc<Session>>, store::Error> {
        match self.refresh(&session).await {
            Ok(()) => {}
            Err(store::Error::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        }
        self.close_what_ended(&session).await?;
        Ok(Some(self.insert(session)))
    }

    fn known(&self, tenant: &str, name: &str) -> Option<Arc<Session>> {
        lock(&self.sessions).get(&(tenant.to_owned(), name.to_owned())).cloned()
    }

    /// Keeps the session, unless one of this name is kept already.
    fn insert(&self, session: Session) -> Arc<Session> {
        let key = (session.tenant.clone(), session.name.clone());
        lock(&self.sessions).entry(key).or_insert_with(|| Arc::new(session)).clone()
    }

    /// Stops keeping it.
    pub(super) fn lose(&self, session: &Session) {
        let key = (session.tenant.clone(), session.name.clone());
        let mut sessions = lock(&self.sessions);
        if sessions.get(&key).is_some_and(|known| known.log == session.log) {
            sessions.remove(&key);
        }
    }
}
