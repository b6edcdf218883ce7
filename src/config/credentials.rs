//! `[auth]` into what `auth` wants to be told: digests, principals, and what is asked of tokens.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use data_encoding::HEXLOWER_PERMISSIVE;

use super::{Environment, JwtConfig, KeyConfig, http_url, secret};
use crate::auth::jwt::{Jwt, Source, valid_tenant};
use crate::auth::key::Key;
use crate::auth::{Digest, Principal, Via, digest_of};

pub(super) fn digest(key: &KeyConfig, environment: &Environment) -> Result<Digest> {
    match (&key.key, &key.sha256) {
        (Some(key), None) => Ok(digest_of(&secret(key, environment)?)),
        (None, Some(hex)) => {
            let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok();
            bytes.and_then(|bytes| bytes.try_into().ok()).context("sha256 is not 64 hexadecimal digits")
        }
        _ => bail!("give either key or sha256"),
    }
}

pub(super) fn principal(key: &KeyConfig) -> Result<Principal> {
    if !valid_tenant(&key.tenant) {
        bail!("tenant: \"{}\" is not of the form [A-Za-z0-9_.:@-]{{1,128}}", key.tenant);
    }
    let sessions: BTreeMap<_, _> = key.sessions.iter().map(|name| (name.clone(), key.role)).collect();
    Ok(Principal {
        tenant: key.tenant.clone(),
        user: key.user.clone(),
        name: None,
        role: key.role,
        sessions,
        scope: None,
        expires_s: None,
        allowance: format!("{}/{}", key.tenant, key.user),
        via: Via::Key,
    })
}

pub(super) fn jwt(config: &JwtConfig, environment: &Environment) -> Result<Jwt> {
    let fixed = |key: Result<Key, _>| key.map(|key| Source::Fixed(Box::new(key)));
    let keys = match (&config.secret, &config.pem, &config.jwks_url) {
        (Some(shared), None, None) => {
            fixed(Key::secret(secret(shared, environment)?.as_bytes(), config.alg)).context("secret")?
        }
        (None, Some(pem), None) => fixed(Key::pem(&secret(pem, environment)?, config.alg)).context("pem")?,
        (None, None, Some(url)) => {
            Source::Fetched { url: http_url(url).context("jwks_url")?.to_owned(), alg: config.alg }
        }
        _ => bail!("give one of secret, pem and jwks_url"),
    };
    let named = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    Ok(Jwt {
        keys,
        issuer: named(&config.issuer),
        audience: named(&config.audience),
        leeway_s: config.leeway_s,
        cookie: named(&config.cookie),
    })
}
