//! Live sessions: named rooms, scoped to a tenant, each with a log of its own.
//!
//! A session exists from its first stream or socket. Whoever first names it owns it; others need a grant. Its
//! viewers share one mirror, which interleaves all its running streams once.

pub mod catchup;
pub mod cursor;
mod directory;
pub mod gathering;
mod gossip;
pub mod inbox;
pub mod mirror;
pub mod outbox;
mod pace;
mod sweep;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::auth::{Principal, Role};
use crate::log::{Batch, Draft, Framing, LogId, Position, Record, Refused};
use crate::relay::running::Running;
use crate::relay::{Relay, now_ms, tail};
use crate::room::talk::{Recent, Text};
use crate::room::{Entry, Kind, Room, Seat};
use crate::store::{self, Meta};
use gathering::Gathering;
use mirror::Mirror;

#[derive(Debug, Clone)]
pub struct Options {
    pub tail: tail::Options,
    pub gathering: gathering::Options,
    pub messages_per_s: u32,
    /// How many sessions a user may own. Zero: any number.
    pub max_sessions: u64,
    /// A room's log is trimmed to this many bytes.
    pub history_bytes: usize,
    /// A session with no kept stream and no viewer is forgotten after this long. Zero: never.
    pub empty_ttl: Duration,
    /// A user's inbox is forgotten this long after it was last told something. Zero: never.
    pub inbox_ttl: Duration,
}

/// Why nobody enters.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    #[error("you own as many sessions as you may")]
    TooMany,
    #[error(transparent)]
    Store(#[from] store::Error),
}

pub struct Session {
    pub tenant: String,
    pub name: String,
    pub owner: String,
    /// The room's log.
    pub log: LogId,
    pub created_ms: u64,
    room: Mutex<Room>,
    /// What was said lately; changes with `room`, under its lock.
    recent: Mutex<Recent>,
    mirror: Mutex<Weak<Mirror>>,
    gathering: Mutex<Weak<Gathering>>,
    alive: Mutex<sweep::Alive>,
    /// Appends to the room's log come one after the other.
    writing: tokio::sync::Mutex<()>,
}

/// Where something stands in the room's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    Now(Position),
    /// It was said before, under the same id.
    Before(Position),
}

impl Said {
    pub fn position(self) -> Position {
        match self {
            Said::Now(position) | Said::Before(position) => position,
        }
    }
}

pub struct Hub {
    pub relay: Arc<Relay>,
    options: Options,
    /// What members may say.
    pub pace: pace::Pace,
    sessions: Mutex<HashMap<(String, String), Arc<Session>>>,
    bells: Mutex<HashMap<inbox::Whose, Weak<inbox::Bell>>>,
    /// Its people are sent home.
    closing: CancellationToken,
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
            recent: Mutex::default(),
            mirror: Mutex::default(),
            gathering: Mutex::default(),
            alive: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// The room's state as far as this node has read it.
    pub fn room(&self) -> MutexGuard<'_, Room> {
        lock(&self.room)
    }

    /// Takes records of the room's log, but for those that were taken before.
    fn apply(&self, records: &[Record]) {
        let mut room = self.room();
        for record in records {
            if record.position > room.position {
                room.apply(record);
                lock(&self.recent).apply(record);
            }
        }
    }

    pub fn streams(&self) -> Vec<(u32, Entry)> {
        self.room().streams.iter().map(|(n, entry)| (*n, *entry)).collect()
    }

    /// Whether this is one of its streams.
    pub fn holds(&self, stream: LogId) -> bool {
        self.room().holds(stream)
    }

    /// How many look at the session on this node.
    pub fn viewers(&self) -> usize {
        lock(&self.mirror).upgrade().map_or(0, |mirror| mirror.watchers.count())
    }
}

impl Hub {
    pub fn new(relay: Arc<Relay>, options: Options) -> Arc<Hub> {
        let pace = pace::Pace::new(options.messages_per_s);
        let (sessions, bells, closing) = (Mutex::default(), Mutex::default(), CancellationToken::new());
        Arc::new(Hub { relay, options, pace, sessions, bells, closing })
    }

    /// Tells other nodes that the people here go, and will be back there.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// The session and the principal's role in it, created if nobody has named it yet. None if it belongs to somebody
    /// who granted nothing.
    pub async fn enter(
        &self,
        principal: &Principal,
        name: &str,
    ) -> Result<Option<(Arc<Session>, Role)>, EnterError> {
        let known = match self.get(&principal.tenant, name).await? {
            Some(session) => session,
            // A ticket opens what there is.
            None if principal.scope.is_some() => return Ok(None),
            None if !self.may_own_more(principal) => return Err(EnterError::TooMany),
            None => self.create(&principal.tenant, &principal.user, name).await?,
        };
        Ok(role(principal, &known).map(|role| (known, role)))
    }

    /// As far as this node knows. Who may do anything in the tenant names sessions for others.
    fn may_own_more(&self, principal: &Principal) -> bool {
        let most = self.options.max_sessions;
        let own = |session: &&Arc<Session>| {
            !session.is_inbox() && session.tenant == principal.tenant && session.owner == principal.user
        };
        let owned = || lock(&self.sessions).values().filter(own).count() as u64;
        most == 0 || principal.speaks_for_all() || owned() < most
    }

    async fn create(&self, tenant: &str, user: &str, name: &str) -> Result<Arc<Session>, store::Error> {
        let log = LogId(ulid::Ulid::generate().0);
        let (owner, trim_bytes) = (format!("{tenant}/{user}"), Some(self.options.history_bytes));
        let meta = Meta { owner, data: Bytes::new(), trim_bytes };
        self.relay.store.create(log, meta, Bytes::new()).await?;
        self.announce(Session::new(tenant, name, user, log, now_ms())).await
    }

    /// The session, for those who have a role in it.
    pub async fn find(
        &self,
        principal: &Principal,
        name: &str,
    ) -> Result<Option<(Arc<Session>, Role)>, store::Error> {
        let session = self.get(&principal.tenant, name).await?.filter(|session| !session.is_inbox());
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
        if session.holds(stream) {
            return Ok(());
        }
        let seat = |room: &Room| Ok(Seat { n: room.next_number(), stream }.data());
        self.write(session, Kind::Opened, seat).await.map(drop)
    }

    /// Says something in the room, for everybody. What its user said before under the same id is not said again.
    pub async fn say(&self, session: &Session, kind: Kind, text: &Text) -> Result<Said, store::Error> {
        lock(&session.alive).renew();
        self.write(session, kind, |room| {
            let id = text.id.as_deref();
            let before = id.and_then(|id| lock(&session.recent).find(&text.from, id, now_ms()));
            before.map_or_else(|| Ok(text.data(room.next_number())), Err)
        })
        .await
    }

    fn close_at_the_end(self: &Arc<Self>, session: &Arc<Session>, running: Arc<Running>) {
        let (hub, session) = (self.clone(), session.clone());
        self.relay.tracker.spawn(async move {
            running.finished.cancelled().await;
            if running.left() {
                return;
            }
            if let Err(error) = hub.relay.insist(|| hub.closed(&session, running.id)).await
                && error != store::Error::NotFound
            {
                tracing::warn!(%error, session = session.name, "the room was not told that a stream ended");
            }
        });
    }

    /// Tells the room that a stream has ended, unless it knows that, or never knew of the stream.
    async fn closed(&self, session: &Session, stream: LogId) -> Result<(), store::Error> {
        self.refresh(session).await?;
        let open = |(_, entry): &(u32, Entry)| entry.stream == stream && entry.closed.is_none();
        match session.streams().into_iter().find(open) {
            Some((n, _)) => {
                self.write(session, Kind::Closed, |_| Ok(Seat { n, stream }.data())).await.map(drop)
            }
            None => Ok(()),
        }
    }

    /// Appends to the room's log. `data` is asked again whenever another process was faster; its error is the place of
    /// what makes the record superfluous.
    async fn write(
        &self,
        session: &Session,
        kind: Kind,
        data: impl Fn(&Room) -> Result<Vec<u8>, Position> + Send,
    ) -> Result<Said, store::Error> {
        let _turn = session.writing.lock().await;
        loop {
            let (expected, data) = {
                let room = session.room();
                (room.position, data(&room))
            };
            let payload = match data {
                Ok(data) => data.into(),
                Err(before) => return Ok(Said::Before(before)),
            };
            let draft = Draft { kind: kind as u8, at_ms: now_ms(), payload, framing: Framing::Own };
            let batch = Batch { expected, epoch: expected.epoch, drafts: vec![draft.clone()], seal: false };
            match self.relay.store.append(session.log, batch).await {
                Ok(position) => {
                    session.apply(&[Record { position, draft: draft.into() }]);
                    return Ok(Said::Now(position));
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
