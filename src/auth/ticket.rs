//! Tickets: short-lived credentials for URLs, which cannot carry headers.
//!
//! A ticket is what it opens, as JSON, and an HMAC-SHA256 over that: any node that has the key can read it, nobody
//! without the key can make one, and nothing has to be kept but that it was used. Pure: what is kept is `app`'s affair.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac::{self, HMAC_SHA256};
use serde::{Deserialize, Serialize};

use super::{Principal, Role, Scope, Via};
use crate::log::LogId;

/// What signs tickets.
#[derive(Debug, Clone)]
pub struct Seal(hmac::Key);

/// Bytes of a seal's secret.
pub const SECRET_BYTES: usize = 32;

impl Seal {
    pub fn new(secret: &[u8; SECRET_BYTES]) -> Seal {
        Seal(hmac::Key::new(HMAC_SHA256, secret))
    }
}

/// Names are short: a ticket is a part of a URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    #[serde(rename = "i")]
    pub id: String,
    #[serde(rename = "t")]
    pub tenant: String,
    #[serde(rename = "u")]
    pub user: String,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(rename = "r")]
    pub role: Role,
    #[serde(rename = "s")]
    pub scope: Scope,
    /// The log that it is for: another session may come to have the same name.
    #[serde(rename = "l")]
    pub log: LogId,
    /// It must be used for the first time before this, in seconds since the Unix epoch.
    #[serde(rename = "e")]
    pub expires_s: u64,
    /// The first use is the last one, but for reconnects.
    #[serde(rename = "1")]
    pub single_use: bool,
    #[serde(rename = "b")]
    pub by: Issuer,
}

/// Whose word a ticket is: when its own credential ends, so does the ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuer {
    #[serde(rename = "v")]
    pub via: Via,
    #[serde(rename = "u")]
    pub user: String,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub expires_s: Option<u64>,
}

impl Ticket {
    pub fn sealed(&self, seal: &Seal) -> String {
        let claims = serde_json::to_vec(self).expect("a ticket has string keys");
        let claims = URL_SAFE_NO_PAD.encode(claims);
        let tag = hmac::sign(&seal.0, claims.as_bytes());
        format!("{claims}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// None if this seal did not seal it.
    pub fn open(text: &str, seal: &Seal) -> Option<Ticket> {
        let (claims, tag) = text.split_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        hmac::verify(&seal.0, claims.as_bytes(), &tag).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// Who comes in by it.
    pub fn principal(self) -> Principal {
        let sessions = match &self.scope {
            Scope::Session(name) => BTreeMap::from([(name.clone(), self.role)]),
            Scope::Stream(_) => BTreeMap::new(),
        };
        Principal {
            allowance: format!("{}/{}", self.tenant, self.user),
            tenant: self.tenant,
            user: self.user,
            name: self.name,
            role: self.role,
            sessions,
            scope: Some(self.scope),
            expires_s: self.by.expires_s,
            via: Via::Ticket,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_what_was_sealed_and_nothing_else() {
        let seal = Seal::new(&[7; SECRET_BYTES]);
        let by = Issuer { via: Via::Key, user: "backend".into(), expires_s: None };
        let ticket = Ticket {
            id: "01".into(),
            tenant: "default".into(),
            user: "ann".into(),
            name: Some("Ann".into()),
            role: Role::Member,
            scope: Scope::Session("room-1".into()),
            log: LogId(1),
            expires_s: 60,
            single_use: true,
            by,
        };
        let text = ticket.sealed(&seal);
        assert_eq!(Ticket::open(&text, &seal), Some(ticket.clone()));
        assert_eq!(Ticket::open(&text, &Seal::new(&[8; SECRET_BYTES])), None);
        let (claims, tag) = text.split_once('.').unwrap();
        let owner = Ticket { role: Role::Owner, ..ticket.clone() }.sealed(&Seal::new(&[8; SECRET_BYTES]));
        let forged = owner.split_once('.').unwrap().0;
        for wrong in ["", ".", claims, &format!("{claims}."), &format!("{forged}.{tag}"), &format!("{text}A")]
        {
            assert_eq!(Ticket::open(wrong, &seal), None, "{wrong}");
        }
        let principal = ticket.principal();
        assert_eq!(principal.role_in("room-1", "somebody"), Some(Role::Member));
        assert_eq!(principal.role_in("room-2", "ann"), None);
    }
}
