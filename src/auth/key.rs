//! Keys that signatures are checked with: a shared secret, a public key as PEM, or a provider's key set (JWKS).
//!
//! A key knows the one algorithm that it is for: what a token says about its algorithm is compared with that and never
//! chooses. Pure: bytes in, keys out. The signatures themselves are ring's.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{hmac, signature};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

/// How a token may be signed, under the names of RFC 7518 and RFC 8037.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Alg {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// What a public key is, which decides the algorithms that it is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Secret,
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Alg {
    fn family(self) -> Family {
        match self {
            Alg::HS256 | Alg::HS384 | Alg::HS512 => Family::Secret,
            Alg::RS256 | Alg::RS384 | Alg::RS512 | Alg::PS256 | Alg::PS384 | Alg::PS512 => Family::Rsa,
            Alg::ES256 => Family::P256,
            Alg::ES384 => Family::P384,
            Alg::EdDsa => Family::Ed25519,
        }
    }
}

impl Family {
    /// What it is used with where nobody says.
    fn usual(self) -> Alg {
        match self {
            Family::Secret => Alg::HS256,
            Family::Rsa => Alg::RS256,
            Family::P256 => Alg::ES256,
            Family::P384 => Alg::ES384,
            Family::Ed25519 => Alg::EdDsa,
        }
    }
}

/// A key, for one algorithm.
#[derive(Debug, Clone)]
pub struct Key {
    pub alg: Alg,
    /// Its name in its key set.
    pub id: Option<String>,
    material: Material,
}

#[derive(Debug, Clone)]
enum Material {
    Secret(hmac::Key),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// A point of a curve, as ring wants it.
    Point(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    #[error("a shared secret needs at least 32 bytes")]
    Short,
    #[error("it is not a public key in PEM (\"BEGIN PUBLIC KEY\") of RSA, P-256, P-384 or Ed25519")]
    NotPublic,
    #[error("{0:?} is not an algorithm for this kind of key")]
    OtherAlg(Alg),
    #[error("it is not a key set: {0}")]
    NotKeySet(String),
}

/// Keys of a set beyond these are not looked at.
pub const MOST_KEYS: usize = 100;

impl Key {
    /// A secret that both sides know. Without an algorithm it is HS256's.
    pub fn secret(secret: &[u8], alg: Option<Alg>) -> Result<Key, BadKey> {
        let alg = alg.unwrap_or(Alg::HS256);
        let algorithm = match alg {
            Alg::HS256 => hmac::HMAC_SHA256,
            Alg::HS384 => hmac::HMAC_SHA384,
            Alg::HS512 => hmac::HMAC_SHA512,
            other => return Err(BadKey::OtherAlg(other)),
        };
        if secret.len() < 32 {
            return Err(BadKey::Short);
        }
        Ok(Key { alg, id: None, material: Material::Secret(hmac::Key::new(algorithm, secret)) })
    }

    /// A public key in PEM. Without an algorithm it is the usual one of its kind.
    pub fn pem(pem: &str, alg: Option<Alg>) -> Result<Key, BadKey> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| BadKey::NotPublic)?;
        let (family, material) = public(&der).ok_or(BadKey::NotPublic)?;
        let alg = alg.unwrap_or(family.usual());
        if alg.family() == family { Ok(Key { alg, id: None, material }) } else { Err(BadKey::OtherAlg(alg)) }
    }

    pub fn verify(&self, message: &[u8], signed: &[u8]) -> bool {
        let point = |algorithm: &'static dyn signature::VerificationAlgorithm, point: &[u8]| {
            signature::UnparsedPublicKey::new(algorithm, point).verify(message, signed).is_ok()
        };
        match (&self.material, self.alg) {
            (Material::Secret(key), _) => hmac::verify(key, message, signed).is_ok(),
            (Material::Point(key), Alg::ES256) => point(&signature::ECDSA_P256_SHA256_FIXED, key),
            (Material::Point(key), Alg::ES384) => point(&signature::ECDSA_P384_SHA384_FIXED, key),
            (Material::Point(key), Alg::EdDsa) => point(&signature::ED25519, key),
            (Material::Rsa { n, e }, alg) => {
                let parameters = match alg {
                    Alg::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Alg::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Alg::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Alg::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Alg::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Alg::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                signature::RsaPublicKeyComponents { n, e }.verify(parameters, message, signed).is_ok()
            }
            _ => false,
        }
    }
}

/// A member of a key set (RFC 7517).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    r#use: Option<String>,
    alg: Option<serde_json::Value>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The keys of a set that are for signatures of public kinds; others are passed over. `alg`: for RSA keys that name
/// none; keys of other kinds are left out then.
pub fn key_set(text: &[u8], alg: Option<Alg>) -> Result<Vec<Key>, BadKey> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(text).map_err(|error| BadKey::NotKeySet(error.to_string()))?;
    let read = |value| serde_json::from_value::<Jwk>(value).ok().and_then(|jwk| of_set(jwk, alg));
    Ok(set.keys.into_iter().take(MOST_KEYS).filter_map(read).collect())
}

fn of_set(jwk: Jwk, wanted: Option<Alg>) -> Option<Key> {
    if jwk.r#use.as_deref().is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let bytes = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?).ok();
    let (family, material) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => (Family::Rsa, Material::Rsa { n: bytes(jwk.n)?, e: bytes(jwk.e)? }),
        ("EC", Some("P-256")) => (Family::P256, point(&bytes(jwk.x)?, &bytes(jwk.y)?, 32)?),
        ("EC", Some("P-384")) => (Family::P384, point(&bytes(jwk.x)?, &bytes(jwk.y)?, 48)?),
        ("OKP", Some("Ed25519")) => (Family::Ed25519, Material::Point(bytes(jwk.x)?)),
        // A symmetric key in a public document is no secret.
        _ => return None,
    };
    let alg = match jwk.alg {
        Some(named) => serde_json::from_value(named).ok()?,
        None => wanted.filter(|alg| alg.family() == family).unwrap_or(family.usual()),
    };
    let fits = alg.family() == family && wanted.is_none_or(|wanted| wanted == alg);
    fits.then_some(Key { alg, id: jwk.kid, material })
}

/// A point's coordinates, uncompressed.
fn point(x: &[u8], y: &[u8], size: usize) -> Option<Material> {
    (x.len() == size && y.len() == size).then(|| Material::Point([&[4], x, y].concat()))
}

/// A public key out of its `SubjectPublicKeyInfo` (RFC 5280).
fn public(info: &[u8]) -> Option<(Family, Material)> {
    const RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
    const EC: &[u8] = b"\x2a\x86\x48\xce\x3d\x02\x01";
    const P256: &[u8] = b"\x2a\x86\x48\xce\x3d\x03\x01\x07";
    const P384: &[u8] = b"\x2b\x81\x04\x00\x22";
    const ED25519: &[u8] = b"\x2b\x65\x70";
    let (info, _) = element(info, SEQUENCE)?;
    let (algorithm, rest) = element(info, SEQUENCE)?;
    let (bits, _) = element(rest, BIT_STRING)?;
    // Before the key stands how many bits of its last byte are unused: none.
    let key = bits.strip_prefix(&[0])?;
    let (kind, parameters) = element(algorithm, OBJECT_ID)?;
    match kind {
        RSA => {
            let (numbers, _) = element(key, SEQUENCE)?;
            let (n, rest) = element(numbers, INTEGER)?;
            let (e, _) = element(rest, INTEGER)?;
            // A leading zero says that the number is not negative.
            let number = |bytes: &[u8]| bytes.strip_prefix(&[0]).unwrap_or(bytes).to_vec();
            Some((Family::Rsa, Material::Rsa { n: number(n), e: number(e) }))
        }
        EC => match element(parameters, OBJECT_ID)?.0 {
            P256 => Some((Family::P256, Material::Point(key.to_vec()))),
            P384 => Some((Family::P384, Material::Point(key.to_vec()))),
            _ => None,
        },
        ED25519 => Some((Family::Ed25519, Material::Point(key.to_vec()))),
        _ => None,
    }
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_ID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// The content of the DER element that `der` begins with, and what follows; None if it has another tag.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = der.split_first_chunk()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => rest.split_first_chunk().map(|(&[length], rest)| (usize::from(length), rest))?,
        0x82 => {
            rest.split_first_chunk().map(|(&length, rest)| (usize::from(u16::from_be_bytes(length)), rest))?
        }
        _ => return None,
    };
    (found == tag).then(|| rest.split_at_checked(length)).flatten()
}
