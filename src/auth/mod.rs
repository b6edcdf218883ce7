//! Who is asking: a credential in, a principal and what it may do out.
//!
//! Pure: credentials and the principals they stand for are values; nothing is read from files or the environment, and
//! `now_s` is an argument. API keys are kept as SHA-256 digests and compared in constant time; tokens that others
//! issue are `jwt`'s, tickets `ticket`'s.

pub mod jwt;
pub mod key;
pub mod ticket;

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::log::LogId;
use jwt::{Fetched, Jwt};

/// What one may do in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Watch.
    Viewer,
    /// Talk, start, cancel one's own.
    Member,
    /// Cancel any, kick, delete.
    Owner,
}

/// What a principal came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// Nothing was asked for.
    Open,
    Key,
    Token,
    Ticket,
}

/// All that a ticket opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    Session(String),
    Stream(LogId),
}

/// Somebody, within a tenant. Streams without a session are readable by their principal alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub tenant: String,
    pub user: String,
    /// What others are shown, if it says.
    pub name: Option<String>,
    /// What it is outside of sessions, and in those that it named first.
    pub role: Role,
    /// What it was granted in sessions; `*` stands for all of its tenant.
    pub sessions: BTreeMap<String, Role>,
    /// None: everything that is its own or was granted.
    pub scope: Option<Scope>,
    /// When its credential ends, in seconds since the Unix epoch.
    pub expires_s: Option<u64>,
    /// Whose limits it uses up: its own, or, where everyone is one user, those of its address.
    pub allowance: String,
    pub via: Via,
}

impl Principal {
    /// Names the principal across tenants.
    pub fn key(&self) -> String {
        format!("{}/{}", self.tenant, self.user)
    }

    /// Whether a stream of this user of its tenant is its own, as far as its credential reaches.
    pub fn owns(&self, user: &str, session: Option<&str>) -> bool {
        self.reaches(session) && self.user == user
    }

    /// Whether its credential is for what is in this session, or in none.
    fn reaches(&self, session: Option<&str>) -> bool {
        match &self.scope {
            None => true,
            Some(Scope::Session(name)) => session == Some(name),
            // A ticket for a stream is for watching it.
            Some(Scope::Stream(_)) => false,
        }
    }

    /// What it is in a session of its tenant that `owner` named first. What was said about this session by name holds
    /// for its owner too: a credential may stand for less than its user is.
    pub fn role_in(&self, session: &str, owner: &str) -> Option<Role> {
        let own = || (owner == self.user).then_some(self.role);
        let granted = self.sessions.get(session).copied();
        granted
            .or_else(own)
            .or_else(|| self.sessions.get("*").copied())
            .filter(|_| self.reaches(Some(session)))
    }

    /// May do anything in its tenant, and so speak for all of its users.
    pub fn speaks_for_all(&self) -> bool {
        self.scope.is_none() && self.sessions.get("*") == Some(&Role::Owner)
    }

    pub fn expired(&self, now_s: u64) -> bool {
        self.expires_s.is_some_and(|end| end <= now_s)
    }
}

/// Why a credential does not let anybody in. What was sent is never repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(
        "a credential is needed: send an API key or a token as `Authorization: Bearer …`, or a ticket as `?ticket=…`"
    )]
    Missing,
    #[error("this credential is not valid here")]
    Wrong,
    #[error("this credential has expired")]
    Expired,
    /// Signed with a key that the key set did not hold when it was last fetched.
    #[error("this credential is not valid here")]
    UnknownKey,
}

/// A credential's SHA-256.
pub type Digest = [u8; 32];

pub fn digest_of(credential: &str) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, credential.as_bytes()).as_ref());
    bytes
}

/// Everyone who may come in.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Without a credential one is the local owner.
    pub open: bool,
    /// Open only because nobody but this machine can connect: pages of other names may not use a browser to.
    pub local: bool,
    pub keys: BTreeMap<Digest, Principal>,
    pub jwt: Option<Jwt>,
}

impl Access {
    /// `credential`: the key or token as sent, if one was. A wrong one is refused even where access is open, unless
    /// nobody could have a right one: SDKs insist on sending some key.
    pub fn admit(
        &self,
        credential: Option<&str>,
        fetched: &Fetched,
        now_s: u64,
    ) -> Result<Principal, Refused> {
        match (credential, &self.jwt) {
            (Some(token), Some(jwt)) if jwt::looks_like_one(token) => jwt.admit(token, fetched, now_s),
            (Some(key), jwt) if !self.keys.is_empty() || jwt.is_some() => {
                let sent = digest_of(key);
                // Looked up by digest, not by key: what timing could tell is a prefix of a hash.
                let known = self.keys.iter().find(|(digest, _)| bool::from(digest.ct_eq(&sent)));
                known.map(|(_, principal)| principal.clone()).ok_or(Refused::Wrong)
            }
            _ if self.open => Ok(local()),
            _ => Err(Refused::Missing),
        }
    }

    /// Whether its key, if it came in by one, still opens the same.
    pub fn knows(&self, principal: &Principal) -> bool {
        principal.via != Via::Key || self.keys.values().any(|known| known == principal)
    }

    /// Whether who issued a ticket could still come in by what it came in by then.
    pub fn stands_by(&self, issuer: &ticket::Issuer, tenant: &str, now_s: u64) -> bool {
        match issuer.via {
            Via::Open => self.open,
            Via::Key => self.keys.values().any(|known| known.tenant == tenant && known.user == issuer.user),
            Via::Token => self.jwt.is_some() && issuer.expires_s.is_some_and(|end| end > now_s),
            Via::Ticket => false,
        }
    }
}

/// Who everyone is under open access.
fn local() -> Principal {
    Principal {
        allowance: "local/local".into(),
        tenant: "local".into(),
        user: "local".into(),
        name: None,
        role: Role::Owner,
        sessions: BTreeMap::from([("*".into(), Role::Owner)]),
        scope: None,
        expires_s: None,
        via: Via::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(access: &Access, credential: Option<&str>) -> Result<Principal, Refused> {
        access.admit(credential, &Fetched::default(), 0)
    }

    #[test]
    fn keys_admit_and_everything_else_does_not() {
        let alice = Principal { user: "alice".into(), via: Via::Key, sessions: BTreeMap::new(), ..local() };
        let keys = BTreeMap::from([(digest_of("k1"), alice.clone())]);
        let access = Access { keys, ..Access::default() };
        assert_eq!(admit(&access, Some("k1")), Ok(alice));
        assert_eq!(admit(&access, None), Err(Refused::Missing));
        for wrong in ["", "k", "k11", "K1", "eyJhbGciOiJub25lIn0.e30."] {
            assert_eq!(admit(&access, Some(wrong)), Err(Refused::Wrong));
        }
        let open = Access { open: true, local: true, ..Access::default() };
        assert!(admit(&open, None).is_ok() && admit(&open, Some("whatever an SDK sends")).is_ok());
    }

    #[test]
    fn what_is_said_by_name_comes_before_what_one_owns_and_that_before_what_holds_for_all() {
        let grants = [("named".to_owned(), Role::Viewer), ("*".to_owned(), Role::Member)];
        let ann = Principal { user: "ann".into(), sessions: BTreeMap::from(grants), ..local() };
        assert_eq!(ann.role_in("named", "ann"), Some(Role::Viewer));
        assert_eq!(ann.role_in("own", "ann"), Some(Role::Owner));
        assert_eq!(ann.role_in("other", "bob"), Some(Role::Member));
        let stranger = Principal { sessions: BTreeMap::new(), ..ann.clone() };
        assert_eq!(stranger.role_in("other", "bob"), None);
        let scoped = Principal { scope: Some(Scope::Session("own".into())), ..ann.clone() };
        assert_eq!(scoped.role_in("own", "ann"), Some(Role::Owner));
        assert_eq!(scoped.role_in("other", "ann"), None);
        assert!(scoped.owns("ann", Some("own")) && !scoped.owns("ann", None));
        let of_stream = Principal { scope: Some(Scope::Stream(LogId(7))), ..ann };
        assert_eq!(of_stream.role_in("own", "ann"), None);
        assert!(!of_stream.owns("ann", Some("own")));
    }
}
