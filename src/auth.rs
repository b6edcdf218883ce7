//! Who is asking: a credential in, a principal and what it may do out.
//!
//! Pure: credentials and the principal they stand for are values; nothing is read from files or the environment.
//! Keys are kept as SHA-256 digests and compared in constant time.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

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

/// Somebody, within a tenant. Streams without a session are readable by their principal alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub tenant: String,
    pub user: String,
    /// What it is in sessions that it names first, or was granted.
    pub role: Role,
    /// Sessions of others that it may enter; `*` for all of its tenant.
    pub sessions: Vec<String>,
    /// Whose limits it uses up: its own, or, where everyone is one user, those of its address.
    pub allowance: String,
    /// Open access: everyone is this user.
    pub open: bool,
}

impl Principal {
    /// Names the principal across tenants.
    pub fn key(&self) -> String {
        format!("{}/{}", self.tenant, self.user)
    }

    pub fn is(&self, tenant: &str, user: &str) -> bool {
        self.tenant == tenant && self.user == user
    }

    /// What it was granted in a session that somebody else owns.
    pub fn granted(&self, session: &str) -> Option<Role> {
        self.sessions.iter().any(|name| name == "*" || name == session).then_some(self.role)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a credential is needed: send an API key as `Authorization: Bearer …` or `x-api-key: …`")]
pub struct Unauthorized;

/// A key's SHA-256.
pub type Digest = [u8; 32];

pub fn digest_of(key: &str) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
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
}

impl Access {
    /// `credential`: the key as sent, if one was. A wrong key is refused even where access is open.
    pub fn admit(&self, credential: Option<&str>) -> Result<Principal, Unauthorized> {
        match credential {
            Some(key) if !self.keys.is_empty() => {
                let sent = digest_of(key);
                // Looked up by digest, not by key: what timing could tell is a prefix of a hash.
                let known = self.keys.iter().find(|(digest, _)| bool::from(digest.ct_eq(&sent)));
                known.map(|(_, principal)| principal.clone()).ok_or(Unauthorized)
            }
            _ if self.open => Ok(local()),
            _ => Err(Unauthorized),
        }
    }
}

/// Who everyone is under open access. SDKs insist on sending some key; it is not looked at.
fn local() -> Principal {
    Principal {
        allowance: "local/local".into(),
        tenant: "local".into(),
        user: "local".into(),
        role: Role::Owner,
        sessions: vec!["*".into()],
        open: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_admit_and_everything_else_does_not() {
        let alice = Principal { user: "alice".into(), open: false, sessions: vec![], ..local() };
        let access =
            Access { open: false, local: false, keys: BTreeMap::from([(digest_of("k1"), alice.clone())]) };
        assert_eq!(access.admit(Some("k1")), Ok(alice));
        for wrong in [None, Some(""), Some("k"), Some("k11"), Some("K1")] {
            assert_eq!(access.admit(wrong), Err(Unauthorized));
        }
        let open = Access { open: true, local: true, keys: BTreeMap::new() };
        assert!(open.admit(None).is_ok() && open.admit(Some("whatever an SDK sends")).is_ok());
    }
}
