//! Tokens as such: every algorithm, signed by another implementation (`tests/fixtures/jwt/make.mjs`), and every way of
//! not being valid. What time it is, is said here.

use std::collections::BTreeMap;

use relaystream::auth::jwt::{Fetched, Jwt, Source};
use relaystream::auth::key::{Alg, Key, MOST_KEYS, key_set};
use relaystream::auth::{Principal, Refused, Role, Via};
use serde_json::json;

/// While the tokens are valid: from 1,900,000,000 to 2,000,000,000.
const NOW: u64 = 1_950_000_000;
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const URL: &str = "https://id.example/keys";

fn token(name: &str) -> String {
    let tokens: BTreeMap<String, String> =
        serde_json::from_str(include_str!("../../fixtures/jwt/tokens.json")).unwrap();
    tokens[name].clone()
}

fn named(alg: &str) -> Alg {
    serde_json::from_value(json!(alg)).unwrap()
}

fn asking(keys: Source) -> Jwt {
    let issuer = Some("https://id.example/".to_owned());
    Jwt { keys, issuer, audience: Some("relaystream".into()), leeway_s: 30, cookie: None }
}

fn fixed(key: Key) -> Jwt {
    asking(Source::Fixed(Box::new(key)))
}

fn rsa(alg: &str) -> Jwt {
    fixed(Key::pem(include_str!("../../fixtures/jwt/rsa.public.pem"), Some(named(alg))).unwrap())
}

fn fetching(alg: Option<Alg>) -> (Jwt, Fetched) {
    let keys = key_set(include_bytes!("../../fixtures/jwt/key_set.json"), alg).unwrap();
    (asking(Source::Fetched { url: URL.into(), alg }), Fetched { url: URL.into(), keys })
}

fn admit(jwt: &Jwt, name: &str) -> Result<Principal, Refused> {
    jwt.admit(&token(name), &Fetched::default(), NOW)
}

#[test]
fn every_algorithm_is_understood_and_only_with_its_own_key() {
    let pem = [
        include_str!("../../fixtures/jwt/rsa.public.pem"),
        include_str!("../../fixtures/jwt/p256.public.pem"),
        include_str!("../../fixtures/jwt/p384.public.pem"),
        include_str!("../../fixtures/jwt/ed25519.public.pem"),
    ];
    let all = [
        "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384",
        "EdDSA",
    ];
    let mut understood = 0;
    for alg in all.map(named) {
        let keys = pem.iter().filter_map(|pem| Key::pem(pem, Some(alg)).ok());
        for key in keys.chain(Key::secret(SECRET.as_bytes(), Some(alg))) {
            assert_eq!(key.alg, alg);
            let jwt = fixed(key);
            for name in all {
                let good = admit(&jwt, name).is_ok();
                assert_eq!(good, named(name) == alg, "a token of {name} with a key for {alg:?}");
                understood += usize::from(good);
            }
        }
    }
    assert_eq!(understood, all.len());
    // Without a word about it, a key is for what is usual.
    for (pem, usual) in pem.iter().zip(["RS256", "ES256", "ES384", "EdDSA"]) {
        assert_eq!(Key::pem(pem, None).unwrap().alg, named(usual));
    }
}

#[test]
fn claims_become_a_principal() {
    let ann = admit(&rsa("RS256"), "RS256").unwrap();
    let sessions = BTreeMap::from([("room-1".to_owned(), Role::Member), ("*".to_owned(), Role::Viewer)]);
    assert_eq!(
        (ann.tenant.as_str(), ann.user.as_str(), ann.name.as_deref()),
        ("acme", "auth0|ann", Some("Ann"))
    );
    assert_eq!((ann.role, &ann.sessions, ann.via), (Role::Viewer, &sessions, Via::Token));
    // Until it is refused, not until it says.
    assert_eq!((ann.expires_s, ann.allowance.as_str()), (Some(2_000_000_030), "acme/auth0|ann"));
}

#[test]
fn times_are_compared_with_the_time_that_it_is() {
    let (jwt, good) = (rsa("RS256"), token("RS256"));
    for (now_s, outcome) in [
        (1_899_999_969, Some(Refused::Wrong)),
        (1_899_999_970, None),
        (2_000_000_029, None),
        (2_000_000_030, Some(Refused::Expired)),
    ] {
        assert_eq!(jwt.admit(&good, &Fetched::default(), now_s).err(), outcome, "{now_s}");
    }
    let strict = Jwt { leeway_s: 0, ..jwt };
    assert_eq!(strict.admit(&good, &Fetched::default(), 2_000_000_000).err(), Some(Refused::Expired));
}

#[test]
fn forgeries_are_refused() {
    let jwt = rsa("RS256");
    let good = token("RS256");
    let parts: Vec<&str> = good.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("{good}") };
    let other = token("RS512");
    let others_claims = token("without_exp");
    let forged = [
        token("none"),
        token("confused"),
        token("confused_named_rs256"),
        token("critical"),
        format!("{header}.{claims}."),
        format!("{header}.{claims}"),
        format!("{header}.{}.{signature}", others_claims.split('.').nth(1).unwrap()),
        format!("{}.{claims}.{signature}", other.split('.').next().unwrap()),
        format!("{header}.{claims}.{signature}="),
        format!("{header}.{claims}.{signature}A"),
        format!("{header}.{claims}.{signature}.{signature}"),
        "..".into(),
        "a.b.c".into(),
        format!("{header}.{claims}.{}", "A".repeat(20_000)),
    ];
    for forged in forged {
        assert_eq!(jwt.admit(&forged, &Fetched::default(), NOW), Err(Refused::Wrong), "{forged:.80}");
    }
    // The key of a set says what it is for, too.
    let (jwt, fetched) = fetching(None);
    for name in ["none", "confused", "confused_named_rs256", "RS512", "PS256"] {
        assert_eq!(jwt.admit(&token(name), &fetched, NOW), Err(Refused::Wrong), "{name}");
    }
}

#[test]
fn what_is_well_signed_may_still_not_be_for_us() {
    let jwt = rsa("RS256");
    for name in ["without_exp", "text_exp", "without_sub", "slash_in_tenant", "unknown_role"] {
        assert_eq!(admit(&jwt, name), Err(Refused::Wrong), "{name}");
    }
    assert!(admit(&jwt, "without_kid").is_ok() && admit(&jwt, "other_kid").is_ok(), "there is only one key");
    let with = |issuer: Option<&str>, audience: Option<&str>| Jwt {
        issuer: issuer.map(str::to_owned),
        audience: audience.map(str::to_owned),
        ..jwt.clone()
    };
    for (issuer, audience, good) in [
        (None, Some("other"), true),
        (Some("https://id.example"), Some("relaystream"), false),
        (Some("https://evil.example/"), Some("relaystream"), false),
        (Some("https://id.example/"), Some("relay"), false),
        // It is for somebody, and nobody said that this is us.
        (Some("https://id.example/"), None, false),
    ] {
        assert_eq!(admit(&with(issuer, audience), "RS256").is_ok(), good, "{issuer:?} {audience:?}");
    }
}

#[test]
fn a_key_set_is_searched_by_name() {
    let (jwt, fetched) = fetching(None);
    let ids: Vec<_> = fetched.keys.iter().filter_map(|key| key.id.as_deref()).collect();
    assert_eq!(ids, ["rsa", "p256", "p384", "ed25519"], "others are not for signatures, or no secrets");
    for name in ["RS256", "ES256", "ES384", "EdDSA", "without_kid"] {
        assert!(jwt.admit(&token(name), &fetched, NOW).is_ok(), "{name}");
    }
    for name in ["other_kid", "HS256"] {
        assert_eq!(jwt.admit(&token(name), &fetched, NOW), Err(Refused::UnknownKey), "{name}");
    }
    // Keys of another address are as good as none.
    let moved = Fetched { url: "https://elsewhere.example/keys".into(), ..fetched.clone() };
    assert_eq!(jwt.admit(&token("RS256"), &moved, NOW), Err(Refused::UnknownKey));
    // Without a name there must be no choice.
    let twice = Fetched { keys: [fetched.keys.clone(), fetched.keys.clone()].concat(), ..fetched };
    assert_eq!(jwt.admit(&token("without_kid"), &twice, NOW), Err(Refused::Wrong));
    let (only, fetched) = fetching(Some(named("ES256")));
    assert_eq!(fetched.keys.len(), 1);
    assert!(
        only.admit(&token("ES256"), &fetched, NOW).is_ok()
            && only.admit(&token("RS256"), &fetched, NOW).is_err()
    );
}

#[test]
fn a_key_set_is_bounded_and_a_bad_one_is_none() {
    let key: serde_json::Value =
        serde_json::from_str(include_str!("../../fixtures/jwt/key_set.json")).unwrap();
    let many = json!({"keys": vec![key["keys"][3].clone(); MOST_KEYS + 50]}).to_string();
    assert_eq!(key_set(many.as_bytes(), None).unwrap().len(), MOST_KEYS);
    for bad in ["", "[]", "{}", "{\"keys\": 1}", "<html>"] {
        assert!(key_set(bad.as_bytes(), None).is_err(), "{bad}");
    }
    assert!(key_set(b"{\"keys\": []}", None).unwrap().is_empty());
}
