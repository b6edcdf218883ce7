//! Live sessions: named rooms, scoped to a tenant, each with a log of its own.
//!
//! A session exists from its first stream or socket. Whoever first names it owns it; others need a grant. Its
//! viewers share one mirror, which interleaves all its running streams once.

pub mod catchup;
pub mod mirror;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::auth::{Principal, Role};
use crate::log::{Batch, Draft, Framing, LogId, Record, Refused};
use crate::relay::running::Running;
use crate::relay::{Relay, now_ms, tail};
use crate::room::roster::Roster;
use crate::room::{Entry, Kind, Room, Seat};
use crate::store::{self, Meta};
use mirror::Mirror;

#[derive(Debug, Clone)]
pub struct Options {
    pub tail: tail::Options,
    /// A room's log is trimmed to this many bytes.
    pub history_bytes: usize,
    /// A session with no kept stream and no viewer is forgotten after this long. Zero: never.
    pub empty_ttl: Duration,
}

pub struct Session {
    pub tenant: String,
    pub name: String,
    pub owner: String,
    /// The room's log.
    pub log: LogId,
    pub created_ms: u64,
    room: Mutex<Room>,
    mirror: Mutex<Weak<Mirror>>,
    roster: Mutex<Roster>,
    /// When somebody last had something here.
    alive_at: Mutex<Instant>,
    /// Appends to the room's log come one after the other.
    writing: tokio::sync::Mutex<()>,
}

pub struct Hub {
    pub relay: Arc<Relay>,
    options: Options,
    sessions: Mutex<HashMap<(String, String), Arc<Session>>>,
}

impl Session {
    /// The room's state as far as this node has written it.
    pub fn room(&self) -> MutexGuard<'_, Room> {
        lock(&self.room)
    }

    /// Who is connected to it on this node.
    pub fn roster(&self) -> MutexGuard<'_, Roster> {
        lock(&self.roster)
    }

    pub fn streams(&self) -> Vec<(u32, Entry)> {
        self.room().streams.iter().map(|(n, entry)| (*n, *entry)).collect()
    }

    /// How many look at the session on this node.
    pub fn viewers(&self) -> usize {
        lock(&self.mirror).upgrade().map_or(0, |mirror| mirror.watchers.count())
    }
}

impl Hub {
    pub fn new(relay: Arc<Relay>, options: Options) -> Arc<Hub> {
        Arc::new(Hub { relay, options, sessions: Mutex::default() })
    }

    /// The session and the principal's role in it, created if nobody has named it yet. None if it belongs to somebody
    /// who granted nothing.
    pub async fn enter(
        &self,
        principal: &Principal,
        name: &str,
    ) -> Result<Option<(Arc<Session>, Role)>, store::Error> {
        if let Some(session) = self.get(&principal.tenant, name) {
            return Ok(role(principal, &session).map(|role| (session, role)));
        }
        let log = LogId(ulid::Ulid::generate().0);
        let meta =
            Meta { owner: principal.key(), data: Bytes::new(), trim_bytes: Some(self.options.history_bytes) };
        self.relay.store.create(log, meta, Bytes::new()).await?;
        let session = Arc::new(Session {
            tenant: principal.tenant.clone(),
            name: name.to_owned(),
            owner: principal.user.clone(),
            log,
            created_ms: now_ms(),
            room: Mutex::default(),
            mirror: Mutex::default(),
            roster: Mutex::default(),
            alive_at: Mutex::new(Instant::now()),
            writing: tokio::sync::Mutex::default(),
        });
        let known = {
            let mut sessions = lock(&self.sessions);
            let key = (principal.tenant.clone(), name.to_owned());
            sessions.entry(key).or_insert_with(|| session.clone()).clone()
        };
        if !Arc::ptr_eq(&known, &session) {
            // Somebody was faster.
            self.relay.store.remove(log).await?;
        }
        Ok(role(principal, &known).map(|role| (known, role)))
    }

    pub fn get(&self, tenant: &str, name: &str) -> Option<Arc<Session>> {
        lock(&self.sessions).get(&(tenant.to_owned(), name.to_owned())).cloned()
    }

    /// The session, for those who have a role in it.
    pub fn find(&self, principal: &Principal, name: &str) -> Option<(Arc<Session>, Role)> {
        let session = self.get(&principal.tenant, name)?;
        role(principal, &session).map(|role| (session, role))
    }

    pub fn role(&self, principal: &Principal, name: &str) -> Option<Role> {
        self.find(principal, name).map(|(_, role)| role)
    }

    /// Those that the principal has a role in, oldest first.
    pub fn list(&self, principal: &Principal) -> Vec<Arc<Session>> {
        let sessions = lock(&self.sessions);
        let mut own: Vec<_> = sessions
            .values()
            .filter(|session| session.tenant == principal.tenant && role(principal, session).is_some())
            .cloned()
            .collect();
        own.sort_by_key(|session| session.log);
        own
    }

    /// Tells the room that a stream opened, and, when it has ended, that it closed.
    pub async fn opened(
        self: &Arc<Self>,
        session: &Arc<Session>,
        running: Arc<Running>,
    ) -> Result<(), store::Error> {
        let n = {
            let _turn = session.writing.lock().await;
            let n = session.room().next_number();
            self.write(session, Kind::Opened, Seat { n, stream: running.id }).await?;
            n
        };
        let (hub, session) = (self.clone(), session.clone());
        self.relay.tracker.spawn(async move {
            running.finished.cancelled().await;
            let _turn = session.writing.lock().await;
            if let Err(error) = hub.write(&session, Kind::Closed, Seat { n, stream: running.id }).await
                && error != store::Error::NotFound
            {
                tracing::warn!(%error, session = session.name, "the room was not told that a stream ended");
            }
        });
        Ok(())
    }

    /// Appends to the room's log; the caller holds `writing`.
    async fn write(&self, session: &Session, kind: Kind, seat: Seat) -> Result<(), store::Error> {
        let draft =
            Draft { kind: kind as u8, at_ms: now_ms(), payload: seat.data().into(), framing: Framing::Own };
        let mut expected = session.room().position;
        // Other nodes write too: compare and retry.
        let head = loop {
            let batch = Batch { expected, epoch: expected.epoch, drafts: vec![draft.clone()], seal: false };
            match self.relay.store.append(session.log, batch).await {
                Ok(head) => break head,
                Err(store::Error::Refused(Refused::Stale { head })) => expected = head,
                Err(error) => return Err(error),
            }
        };
        let record = Record { position: head, draft: draft.into() };
        session.room().apply(&record);
        Ok(())
    }

    /// The session's mirror on this node, shared by all its viewers.
    pub async fn mirror(&self, session: &Arc<Session>) -> Result<Arc<Mirror>, store::Error> {
        let known = || lock(&session.mirror).upgrade();
        if let Some(mirror) = known() {
            return Ok(mirror);
        }
        let opened = Mirror::open(self.relay.clone(), session.clone(), &self.options.tail).await?;
        let mut slot = lock(&session.mirror);
        if let Some(mirror) = slot.upgrade() {
            return Ok(mirror);
        }
        *slot = Arc::downgrade(&opened);
        Ok(opened)
    }

    /// Whether the viewers of every session have been told of all its streams that have ended, and none runs.
    pub fn all_told(&self) -> bool {
        let sessions: Vec<_> = lock(&self.sessions).values().cloned().collect();
        let mut mirrors = sessions.iter().filter_map(|session| lock(&session.mirror).upgrade());
        mirrors.all(|mirror| mirror.is_quiet())
    }

    /// Forgets the session, its room and its streams.
    pub async fn forget(&self, session: &Session, by: &str) -> Result<(), store::Error> {
        lock(&self.sessions).remove(&(session.tenant.clone(), session.name.clone()));
        for (_, entry) in session.streams() {
            self.relay.forget(entry.stream, by.to_owned()).await?;
        }
        self.relay.store.remove(session.log).await
    }

    /// Forgets finished streams that are no longer kept, about once a second.
    pub async fn sweep(&self) {
        let sessions: Vec<_> = lock(&self.sessions).values().cloned().collect();
        for session in sessions {
            let mut empty = session.viewers() == 0;
            for (n, entry) in session.streams() {
                if entry.closed.is_some()
                    && self.relay.store.meta(entry.stream).await == Err(store::Error::NotFound)
                {
                    session.room().forget(n);
                } else {
                    empty = false;
                }
            }
            self.forget_if_empty(&session, empty).await;
        }
    }

    async fn forget_if_empty(&self, session: &Session, empty: bool) {
        let idle = {
            let mut alive_at = lock(&session.alive_at);
            if !empty {
                *alive_at = Instant::now();
            }
            alive_at.elapsed()
        };
        let due = !self.options.empty_ttl.is_zero() && idle > self.options.empty_ttl;
        if due && let Err(error) = self.forget(session, "policy").await {
            tracing::warn!(%error, session = session.name, "an empty session could not be forgotten");
        }
    }
}

fn role(principal: &Principal, session: &Session) -> Option<Role> {
    // Nobody is more in a room of its own than its credential says.
    if session.owner == principal.user { Some(principal.role) } else { principal.granted(&session.name) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
