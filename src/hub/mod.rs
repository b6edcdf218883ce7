//! Live sessions: named rooms, scoped to a tenant, each with a log of its own.
//!
//! A session exists from its first stream or socket. Whoever first names it owns it; others need a grant. Its
//! viewers share one mirror, which interleaves all its running streams once.

pub mod catchup;
mod directory;
pub mod mirror;
mod sweep;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;

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
    alive: Mutex<sweep::Alive>,
    /// Appends to the room's log come one after the other.
    writing: tokio::sync::Mutex<()>,
}

pub struct Hub {
    pub relay: Arc<Relay>,
    options: Options,
    sessions: Mutex<HashMap<(String, String), Arc<Session>>>,
}

impl Session {
    fn new(tenant: &str, name: &str, owner: &str, log: LogId, created_ms: u64) -> Session {
        Session {
            tenant: tenant.to_owned(),
            name: name.to_owned(),
            owner: owner.to_owned(),
            log,
            created_ms,
            room: Mutex::default(),
            mirror: Mutex::default(),
            roster: Mutex::default(),
            alive: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// The room's state as far as this node has read it.
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
        let known = match self.get(&principal.tenant, name).await? {
            Some(session) => session,
            // A ticket opens what there is.
            None if principal.scope.is_some() => return Ok(None),
            None => self.create(principal, name).await?,
        };
        Ok(role(principal, &known).map(|role| (known, role)))
    }

    async fn create(&self, principal: &Principal, name: &str) -> Result<Arc<Session>, store::Error> {
        let log = LogId(ulid::Ulid::generate().0);
        let meta =
            Meta { owner: principal.key(), data: Bytes::new(), trim_bytes: Some(self.options.history_bytes) };
        self.relay.store.create(log, meta, Bytes::new()).await?;
        self.announce(Session::new(&principal.tenant, name, &principal.user, log, now_ms())).await
    }

    /// The session, for those who have a role in it.
    pub async fn find(
        &self,
        principal: &Principal,
        name: &str,
    ) -> Result<Option<(Arc<Session>, Role)>, store::Error> {
        let session = self.get(&principal.tenant, name).await?;
        Ok(session.and_then(|session| role(principal, &session).map(|role| (session, role))))
    }

    /// Those that the principal has a role in, oldest first.
    pub async fn list(&self, principal: &Principal) -> Result<Vec<Arc<Session>>, store::Error> {
        let mut own = Vec::new();
        for name in self.names(&principal.tenant).await? {
            own.extend(self.find(principal, &name).await?.map(|(session, _)| session));
        }
        own.sort_by_key(|session| session.log);
        Ok(own)
    }

    /// Tells the room that a stream opened, and, when it has ended, that it closed.
    pub async fn opened(
        self: &Arc<Self>,
        session: &Arc<Session>,
        running: Arc<Running>,
    ) -> Result<(), store::Error> {
        let stream = running.id;
        // First: the room may have been told even if nobody hears of that.
        self.close_at_the_end(session, running);
        self.open(session, stream).await
    }

    async fn open(&self, session: &Session, stream: LogId) -> Result<(), store::Error> {
        if session.streams().iter().any(|(_, entry)| entry.stream == stream) {
            return Ok(());
        }
        self.write(session, Kind::Opened, |room| Seat { n: room.next_number(), stream }).await
    }

    fn close_at_the_end(self: &Arc<Self>, session: &Arc<Session>, running: Arc<Running>) {
        let (hub, session) = (self.clone(), session.clone());
        self.relay.tracker.spawn(async move {
            running.finished.cancelled().await;
            if running.left() {
                return;
            }
            if let Err(error) = hub.relay.insist(|| hub.close(&session, running.id)).await
                && error != store::Error::NotFound
            {
                tracing::warn!(%error, session = session.name, "the room was not told that a stream ended");
            }
        });
    }

    /// Tells the room that a stream has ended, unless it knows that, or never knew of the stream.
    async fn close(&self, session: &Session, stream: LogId) -> Result<(), store::Error> {
        self.refresh(session).await?;
        let open = |(_, entry): &(u32, Entry)| entry.stream == stream && entry.closed.is_none();
        match session.streams().into_iter().find(open) {
            Some((n, _)) => self.write(session, Kind::Closed, |_| Seat { n, stream }).await,
            None => Ok(()),
        }
    }

    /// Appends to the room's log. `seat` is asked again whenever another process was faster.
    async fn write(
        &self,
        session: &Session,
        kind: Kind,
        seat: impl Fn(&Room) -> Seat + Send,
    ) -> Result<(), store::Error> {
        let _turn = session.writing.lock().await;
        loop {
            let (expected, payload) = {
                let room = session.room();
                (room.position, seat(&room).data().into())
            };
            let draft = Draft { kind: kind as u8, at_ms: now_ms(), payload, framing: Framing::Own };
            let batch = Batch { expected, epoch: expected.epoch, drafts: vec![draft.clone()], seal: false };
            match self.relay.store.append(session.log, batch).await {
                Ok(position) => {
                    let mut room = session.room();
                    if position > room.position {
                        room.apply(&Record { position, draft: draft.into() });
                    }
                    return Ok(());
                }
                Err(store::Error::Refused(Refused::Stale { .. })) => self.refresh(session).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// The session's mirror on this node, shared by all its viewers.
    pub async fn mirror(&self, session: &Arc<Session>) -> Result<Arc<Mirror>, store::Error> {
        let known = || lock(&session.mirror).upgrade().filter(|mirror| !mirror.is_over());
        if let Some(mirror) = known() {
            return Ok(mirror);
        }
        let opened = Mirror::open(self.relay.clone(), session.clone(), &self.options.tail).await?;
        let mut slot = lock(&session.mirror);
        if let Some(mirror) = slot.upgrade().filter(|mirror| !mirror.is_over()) {
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
        self.lose(session);
        self.unlist(session).await?;
        for (_, entry) in session.streams() {
            self.relay.forget(entry.stream, by.to_owned()).await?;
        }
        self.relay.store.remove(session.log).await
    }
}

fn role(principal: &Principal, session: &Session) -> Option<Role> {
    principal.role_in(&session.name, &session.owner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
