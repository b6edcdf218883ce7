#![no_main]
//! Tokens, tickets, keys and key sets of strangers: no panic, and nobody comes in who does not know the secret.

use libfuzzer_sys::fuzz_target;
use relaystream::auth::jwt::{Fetched, Jwt, Source};
use relaystream::auth::key::{Key, key_set};
use relaystream::auth::ticket::{SECRET_BYTES, Seal, Ticket};

fuzz_target!(|text: &str| {
    let fixed = |key: Key| Source::Fixed(Box::new(key));
    let asking = |keys: Source| Jwt { keys, issuer: None, audience: None, leeway_s: 0, cookie: None };
    let known = Key::secret(&[7; SECRET_BYTES], None).expect("32 bytes");
    assert!(asking(fixed(known)).admit(text, &Fetched::default(), 0).is_err());
    assert!(Ticket::open(text, &Seal::new(&[7; SECRET_BYTES])).is_none());
    // What a stranger's key vouches for is the stranger's affair.
    let mut keys = key_set(text.as_bytes(), None).unwrap_or_default();
    keys.extend(Key::pem(text, None));
    let url = String::from("https://id.example/keys");
    let fetched = Fetched { url: url.clone(), keys: keys.clone() };
    for token in [text, "eyJhbGciOiJSUzI1NiJ9.e30.AAAA", "eyJhbGciOiJFZERTQSJ9.e30.AAAA"] {
        assert!(asking(Source::Fetched { url: url.clone(), alg: None }).admit(token, &fetched, 0).is_err());
        for key in &keys {
            assert!(asking(fixed(key.clone())).admit(token, &Fetched::default(), 0).is_err());
        }
    }
});
