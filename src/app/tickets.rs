//! Tickets: who may have one, and how often it opens.
//!
//! All nodes seal with one secret, which the store keeps: the first node makes it. Beside it the store keeps only which
//! tickets were used.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};

use super::App;
use super::entry::{Barred, now_s};
use crate::auth::ticket::{Issuer, SECRET_BYTES, Seal, Ticket};
use crate::auth::{Digest, Principal, Refused, Role, Scope, digest_of};
use crate::hub::{EnterError, Session};
use crate::log::EventId;
use crate::relay::since_start;
use crate::store::{self, Claim};

/// Where the secret is kept. It is renewed by everyone who looks at it.
const SECRET: &str = "ticket-secret";
const SECRET_KEPT: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a node does without another look: another one may have made a new secret after the store lost the old one.
const SECRET_FRESH: Duration = Duration::from_secs(60);
/// How long after its last use a ticket still admits reconnects.
const USED_KEPT: Duration = Duration::from_secs(24 * 3600);
/// The longest time that a ticket may wait for its first use, in seconds.
pub const LONGEST_TTL_S: u64 = 24 * 3600;

/// The seal, and when it was last looked at.
#[derive(Debug, Default)]
pub struct Seals(Mutex<Option<(Seal, Duration)>>);

/// What is asked for.
pub struct Ask {
    pub scope: Scope,
    pub role: Role,
    pub ttl_s: u64,
    pub single_use: bool,
    /// Whom it is for, if not whoever asks.
    pub user: Option<String>,
    pub name: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    #[error("there is no such session or stream")]
    NotFound,
    #[error("you cannot give more than you have: your role there is less")]
    TooMuch,
    #[error("only an owner of all sessions may issue tickets to other users")]
    OtherUser,
    #[error(transparent)]
    Session(#[from] EnterError),
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// What comes with a ticket.
pub enum Shown<'a> {
    Nothing,
    Position(&'a str),
    /// Positions come in a socket's first message.
    Later,
}

/// Whom a ticket let in.
pub struct Entrant {
    pub principal: Principal,
    /// Its first use is over and its position comes later. Without one, this is a wrong credential.
    pub owes_position: Option<Digest>,
}

impl App {
    /// The ticket, and until when it must be used for the first time, in seconds since the Unix epoch.
    pub async fn issue(&self, principal: &Principal, ask: Ask) -> Result<(String, u64), TicketError> {
        let (log, role) = match &ask.scope {
            // Naming a session in a ticket is naming it.
            Scope::Session(name) => {
                let entered = self.hub.enter(principal, name).await?;
                entered.map(|(session, role)| (session.log, role)).ok_or(TicketError::NotFound)?
            }
            Scope::Stream(id) => {
                let facts = match self.relay.facts(*id).await {
                    Err(store::Error::NotFound) => return Err(TicketError::NotFound),
                    facts => facts?,
                };
                (*id, self.role(principal, &facts).await?.ok_or(TicketError::NotFound)?)
            }
        };
        if ask.role > role {
            return Err(TicketError::TooMuch);
        }
        let user = ask.user.unwrap_or_else(|| principal.user.clone());
        if user != principal.user && !principal.speaks_for_all() {
            return Err(TicketError::OtherUser);
        }
        let ticket = Ticket {
            id: ulid::Ulid::generate().to_string().to_lowercase(),
            tenant: principal.tenant.clone(),
            name: ask.name.or_else(|| principal.name.clone().filter(|_| user == principal.user)),
            user,
            role: ask.role,
            scope: ask.scope,
            log,
            expires_s: now_s() + ask.ttl_s,
            single_use: ask.single_use,
            by: Issuer { via: principal.via, user: principal.user.clone(), expires_s: principal.expires_s },
        };
        Ok((ticket.sealed(&self.seal().await?), ticket.expires_s))
    }

    /// Whoever this ticket stands for.
    pub async fn admit_ticket(&self, sent: &str, address: &str, shown: Shown<'_>) -> Result<Entrant, Barred> {
        self.weigh(sent, address, self.open_ticket(sent, shown)).await
    }

    async fn open_ticket(&self, sent: &str, shown: Shown<'_>) -> Result<Entrant, Barred> {
        let ticket = Ticket::open(sent, &self.seal().await?).ok_or(Refused::Wrong)?;
        let now = now_s();
        if !self.settings.load().access.stands_by(&ticket.by, &ticket.tenant, now) {
            return Err(Refused::Expired.into());
        }
        let session = self.session_of(&ticket).await?;
        let (store, key) = (&self.relay.store, format!("ticket/{}", ticket.id));
        let used = if now < ticket.expires_s {
            // Each use has a name where only one may come; else all have the ticket's, and renew what is kept.
            let by = if ticket.single_use { ulid::Ulid::generate().to_string() } else { ticket.id.clone() };
            match store.claim(&key, &by, USED_KEPT).await? {
                Claim::Held(first) if ticket.single_use => Some(first),
                Claim::Won | Claim::Held(_) => None,
            }
        } else {
            Some(store.claimed(&key).await?.ok_or(Refused::Expired)?)
        };
        let Some(first) = used else {
            return Ok(Entrant { principal: ticket.principal(), owes_position: None });
        };
        let of_session = |log| session.as_ref().is_some_and(|session| session.holds(log));
        let fits = |id: EventId| id.log == ticket.log || of_session(id.log);
        // A session's own id goes on with its streams' positions.
        let log_of = |position: &str| position.split('~').next().unwrap_or_default().parse();
        let owes_position = match shown {
            Shown::Later => Some(digest_of(sent)),
            Shown::Position(position) if log_of(position).is_ok_and(fits) => None,
            Shown::Position(_) | Shown::Nothing => return Err(Refused::Expired.into()),
        };
        store.claim(&key, &first, USED_KEPT).await?;
        Ok(Entrant { principal: ticket.principal(), owes_position })
    }

    /// The session that a ticket is for, which must still be the one that it was issued for.
    async fn session_of(&self, ticket: &Ticket) -> Result<Option<Arc<Session>>, Barred> {
        let Scope::Session(name) = &ticket.scope else { return Ok(None) };
        match self.hub.get(&ticket.tenant, name).await? {
            Some(session) if session.log != ticket.log => Err(Refused::Expired.into()),
            session => Ok(session),
        }
    }

    async fn seal(&self) -> Result<Seal, store::Error> {
        let known = lock(&self.seals).clone();
        let secret = match &known {
            Some((seal, seen)) if since_start() - *seen < SECRET_FRESH => return Ok(seal.clone()),
            _ => fresh_secret()?,
        };
        let store = &self.relay.store;
        let fresh = HEXLOWER.encode(&secret);
        let held = match store.claim(SECRET, &fresh, SECRET_KEPT).await? {
            Claim::Won => fresh,
            Claim::Held(held) => {
                store.claim(SECRET, &held, SECRET_KEPT).await?;
                held
            }
        };
        let secret = HEXLOWER.decode(held.as_bytes()).ok().and_then(|secret| secret.try_into().ok());
        let secret = secret.ok_or_else(|| store::Error::Unavailable("a secret is damaged".into()))?;
        let seal = Seal::new(&secret);
        *lock(&self.seals) = Some((seal.clone(), since_start()));
        Ok(seal)
    }
}

fn lock(seals: &Seals) -> std::sync::MutexGuard<'_, Option<(Seal, Duration)>> {
    seals.0.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fresh_secret() -> Result<[u8; SECRET_BYTES], store::Error> {
    let mut secret = [0; SECRET_BYTES];
    let filled = SystemRandom::new().fill(&mut secret);
    filled.map_err(|_| store::Error::Unavailable("this machine has no randomness".into()))?;
    Ok(secret)
}
