//! Tokens with any claims, signed with the secret that the test's server knows; and what its configuration says.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use relaystream::app::entry::now_s;
use ring::hmac;
use serde_json::{Value, json};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// `[auth.jwt]` that accepts these tokens, as header, subprotocol or cookie.
pub fn config() -> String {
    format!(
        "[auth.jwt]\nsecret = \"{SECRET}\"\nissuer = \"test\"\naudience = \"relaystream\"\nleeway_s = 0\ncookie = \"id\"\n"
    )
}

/// A token of this user that is valid for an hour.
pub fn token(user: &str, sessions: &Value) -> String {
    lasting(user, sessions, 3600)
}

/// A token of this user that ends in so many seconds.
pub fn lasting(user: &str, sessions: &Value, seconds: u64) -> String {
    signed(&claims(user, sessions, now_s() + seconds))
}

/// The claims of a token that is good until then.
pub fn claims(user: &str, sessions: &Value, exp: u64) -> Value {
    json!({"iss": "test", "aud": "relaystream", "sub": user, "sessions": sessions, "exp": exp})
}

pub fn signed(claims: &Value) -> String {
    let signed = unsigned(&json!({"alg": "HS256", "typ": "JWT"}), claims);
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// What is signed of a token.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}
