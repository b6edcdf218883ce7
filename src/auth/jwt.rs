//! Tokens that others issue (RFC 7519): signature, issuer, audience and times checked, claims into a principal.
//!
//! The algorithm is the key's, never the token's. Pure: `now_s` is an argument, and keys that have to be fetched are
//! handed in by whoever fetches them.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::key::{Alg, Key};
use super::{Principal, Refused, Role, Via};

/// What is asked of a token.
#[derive(Debug, Clone)]
pub struct Jwt {
    pub keys: Source,
    /// Who must have issued it, if that matters.
    pub issuer: Option<String>,
    /// Whom it must be for. A token that is for somebody is refused if nobody is named here.
    pub audience: Option<String>,
    /// Seconds by which clocks may differ.
    pub leeway_s: u64,
    /// The cookie that browsers may bring it in.
    pub cookie: Option<String>,
}

#[derive(Debug, Clone)]
pub enum Source {
    Fixed(Box<Key>),
    /// A key set that is fetched, and the only algorithm to take of it, if one is named.
    Fetched {
        url: String,
        alg: Option<Alg>,
    },
}

/// A key set as it was last fetched.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    pub url: String,
    pub keys: Vec<Key>,
}

/// Longer ones are not looked at.
const LONGEST: usize = 8 * 1024;
const LONGEST_NAME: usize = 256;

#[derive(Deserialize)]
struct Header {
    /// Not [`Alg`]: a name that is not known is just another algorithm.
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood (RFC 7515, 4.1.11). None is.
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<Audience>,
    #[serde(default = "default_tenant")]
    tenant: String,
    #[serde(default)]
    sessions: BTreeMap<String, Role>,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

fn default_tenant() -> String {
    "default".into()
}

/// Whether this can only be meant as such a token.
pub fn looks_like_one(credential: &str) -> bool {
    credential.starts_with("eyJ") && credential.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl Jwt {
    /// Who the token says that it is. `fetched`: the key set, if it comes from elsewhere.
    pub fn admit(&self, token: &str, fetched: &Fetched, now_s: u64) -> Result<Principal, Refused> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Refused::Wrong)?;
        let (header, claims) = signed.split_once('.').ok_or(Refused::Wrong)?;
        if token.len() > LONGEST {
            return Err(Refused::Wrong);
        }
        let header: Header = decode(header)?;
        if header.crit.is_some() {
            return Err(Refused::Wrong);
        }
        let key = self.key(&header, fetched)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refused::Wrong)?;
        if !named(key.alg, &header.alg) || !key.verify(signed.as_bytes(), &signature) {
            return Err(Refused::Wrong);
        }
        self.principal(decode(claims)?, now_s)
    }

    /// The key that the token must be signed with.
    fn key<'a>(&'a self, header: &Header, fetched: &'a Fetched) -> Result<&'a Key, Refused> {
        let url = match &self.keys {
            Source::Fixed(key) => return Ok(key),
            Source::Fetched { url, .. } => url,
        };
        if fetched.url != *url {
            return Err(Refused::UnknownKey);
        }
        let mut fits = fetched.keys.iter().filter(|key| match &header.kid {
            Some(id) => key.id.as_ref() == Some(id),
            None => named(key.alg, &header.alg),
        });
        match (fits.next(), fits.next()) {
            (Some(key), None) => Ok(key),
            (None, _) if header.kid.is_some() => Err(Refused::UnknownKey),
            // Trying one after the other would be work at the asker's word.
            _ => Err(Refused::Wrong),
        }
    }

    fn principal(&self, claims: Claims, now_s: u64) -> Result<Principal, Refused> {
        let (now, leeway) = (now_s as f64, self.leeway_s as f64);
        let issued = self.issuer.is_none() || self.issuer == claims.iss;
        let meant = match (&self.audience, &claims.aud) {
            (None, aud) => aud.is_none(),
            (Some(_), None) => false,
            (Some(us), Some(Audience::One(aud))) => us == aud,
            (Some(us), Some(Audience::Many(aud))) => aud.contains(us),
        };
        let sane =
            |name: &str| !name.is_empty() && name.len() <= LONGEST_NAME && !name.contains(char::is_control);
        let names =
            sane(&claims.sub) && valid_tenant(&claims.tenant) && claims.name.as_deref().is_none_or(sane);
        // Written so that what is not a number is refused.
        let begun = claims.nbf.is_none_or(|nbf| nbf <= now + leeway);
        let sensible = (0.0..=1e15).contains(&claims.exp);
        if !(issued && meant && names && begun && sensible) {
            return Err(Refused::Wrong);
        }
        let ends = claims.exp + leeway;
        if ends <= now {
            return Err(Refused::Expired);
        }
        Ok(Principal {
            allowance: format!("{}/{}", claims.tenant, claims.sub),
            tenant: claims.tenant,
            user: claims.sub,
            name: claims.name,
            role: claims.sessions.get("*").copied().unwrap_or(Role::Owner),
            sessions: claims.sessions,
            scope: None,
            expires_s: Some(ends.ceil() as u64),
            via: Via::Token,
        })
    }
}

/// `[A-Za-z0-9_.:@-]{1,128}`. Tenants have names without a slash: one stands between tenant and user wherever both are told together.
pub fn valid_tenant(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-@".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(plain)
}

fn named(alg: Alg, name: &str) -> bool {
    serde_json::to_value(alg).is_ok_and(|known| known == name)
}

fn decode<T: DeserializeOwned>(part: &str) -> Result<T, Refused> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Refused::Wrong)?;
    serde_json::from_slice(&bytes).map_err(|_| Refused::Wrong)
}
