//! Forgets what is over: streams that are no longer kept, and sessions that have been empty for long enough.

use std::time::Duration;

use tokio::time::Instant;

use super::{Hub, Session, lock};
use crate::log::LogId;
use crate::store::{self, Span};

/// Other nodes are told this often that a session is not empty.
const TELL: Duration = Duration::from_secs(20);
/// And believe it for so long.
const BELIEVED: Duration = Duration::from_secs(60);

/// When somebody last had something in a session.
#[derive(Debug)]
pub struct Alive {
    at: Instant,
    told: Option<Instant>,
    /// Counts looks at its streams.
    turn: usize,
}

impl Default for Alive {
    fn default() -> Alive {
        Alive { at: Instant::now(), told: None, turn: 0 }
    }
}

impl Alive {
    pub(super) fn renew(&mut self) {
        self.at = Instant::now();
    }
}

impl Hub {
    /// About once a second.
    pub async fn sweep(&self) {
        self.pace.sweep();
        self.sweep_bells();
        let sessions: Vec<_> = lock(&self.sessions).values().cloned().collect();
        for session in sessions {
            if let Err(error) = self.sweep_one(&session).await {
                tracing::warn!(%error, session = session.name, "a session could not be swept");
            }
        }
    }

    async fn sweep_one(&self, session: &Session) -> Result<(), store::Error> {
        let kept = self.forget_ended(session).await?;
        let runs = || session.streams().iter().any(|(_, entry)| entry.closed.is_none());
        if session.viewers() > 0 || kept || runs() {
            return self.tell_alive(session).await;
        }
        let ttl = if session.is_inbox() { self.options.inbox_ttl } else { self.options.empty_ttl };
        let idle = lock(&session.alive).at.elapsed();
        if ttl.is_zero() || idle <= ttl {
            return Ok(());
        }
        if self.relay.store.claimed(&alive(session)).await?.is_some() {
            lock(&session.alive).at = Instant::now();
            return Ok(());
        }
        self.forget(session, "policy").await
    }

    /// Forgets ended streams that are not kept any more, the oldest ones and one of the others in turn, since each look may
    /// go to Redis; true if some are kept.
    async fn forget_ended(&self, session: &Session) -> Result<bool, store::Error> {
        let streams = session.streams();
        let mut ended: Vec<_> = streams.into_iter().filter(|(_, entry)| entry.closed.is_some()).collect();
        ended.sort_by_key(|(_, entry)| entry.closed);
        let turn = {
            let mut alive = lock(&session.alive);
            alive.turn = alive.turn.wrapping_add(1);
            alive.turn % ended.len().max(1)
        };
        for (at, (n, entry)) in ended.iter().enumerate() {
            if !self.is_kept(entry.stream).await? {
                session.room().forget(*n);
                continue;
            }
            if let Some((n, entry)) = ended.get(turn).filter(|_| turn > at)
                && !self.is_kept(entry.stream).await?
            {
                session.room().forget(*n);
            }
            return Ok(true);
        }
        Ok(false)
    }

    async fn is_kept(&self, stream: LogId) -> Result<bool, store::Error> {
        match self.relay.store.meta(stream).await {
            Ok(_) => Ok(true),
            Err(store::Error::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Other nodes must not forget what is alive here.
    async fn tell_alive(&self, session: &Session) -> Result<(), store::Error> {
        let due = {
            let mut alive = lock(&session.alive);
            alive.at = Instant::now();
            alive.told.is_none_or(|told| told.elapsed() > TELL)
        };
        if due && self.relay.store.span() == Span::Nodes {
            self.relay.store.claim(&alive(session), "", BELIEVED).await?;
            lock(&session.alive).told = Some(Instant::now());
        }
        Ok(())
    }
}

fn alive(session: &Session) -> String {
    format!("alive/{}", session.log)
}
