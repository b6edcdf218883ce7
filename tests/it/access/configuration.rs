//! `[auth]` and `[tls]`: what becomes of them, and which mistakes are named.

use relaystream::auth::jwt::Fetched;
use relaystream::auth::{Role, digest_of};
use relaystream::config::Environment;

use crate::config::{environment, load, refusal};

#[test]
fn keys_become_principals() {
    let digest: String = digest_of("hashed").iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!(
        "[[auth.keys]]\nkey = \"env:ALICE\"\nuser = \"alice\"\n\
         [[auth.keys]]\nsha256 = \"{digest}\"\nuser = \"bob\"\ntenant = \"t\"\nrole = \"viewer\"\nsessions = [\"*\"]\n"
    );
    let variables = environment(&[("ALICE", "a-key")]);
    let access = load(&text, &[]).expect("parses").access(false, &variables).expect("keys");
    assert!(!access.open);
    let admit = |credential: Option<&str>| access.admit(credential, &Fetched::default(), 0);
    let alice = admit(Some("a-key")).expect("her key");
    assert_eq!((alice.tenant.as_str(), alice.user.as_str(), alice.role), ("default", "alice", Role::Owner));
    let bob = admit(Some("hashed")).expect("his key");
    assert_eq!((bob.tenant.as_str(), bob.role, bob.sessions.len()), ("t", Role::Viewer, 1));
    assert!(admit(None).is_err() && admit(Some(&digest)).is_err(), "a digest is no key");
    for (keys, expected) in [
        ("user = \"u\"\n", "key or sha256"),
        ("user = \"u\"\nkey = \"k\"\nsha256 = \"00\"\n", "key or sha256"),
        ("user = \"u\"\nsha256 = \"00\"\n", "sha256"),
        ("user = \"u\"\nsha256 = \"zz\"\n", "sha256"),
        ("user = \"u\"\nkey = \"env:NOBODY\"\n", "NOBODY"),
        ("user = \"u\"\nkey = \"k\"\ntenant = \"a/b\"\n", "tenant"),
    ] {
        let config = load(&format!("[[auth.keys]]\n{keys}"), &[]).expect("parses");
        let message = refusal(config.access(false, &variables));
        assert!(message.contains("auth.keys[0]") && message.contains(expected), "{keys}: {message}");
    }
    let odd = format!("[[auth.keys]]\nuser = \"u\"\nsha256 = \"{digest}0\"\n");
    assert!(load(&odd, &[]).expect("parses").access(false, &variables).is_err(), "65 digits are no digest");
}

#[test]
fn what_is_asked_of_tokens_is_checked() {
    let secret = "0123456789abcdef0123456789abcdef";
    let p256 = include_str!("../../fixtures/jwt/p256.public.pem").replace('\n', "\\n");
    let access = |jwt: &str| {
        let away = "[server]\nlisten = \"0.0.0.0:80\"\n";
        load(&format!("{away}[auth.jwt]\n{jwt}"), &[]).expect("parses").access(false, &Environment::new())
    };
    let good = access(&format!("secret = \"{secret}\"\ncookie = \"id\"\nissuer = \"\"\n")).expect("a secret");
    let jwt = good.jwt.expect("tokens are accepted");
    assert!(!good.open && jwt.leeway_s == 30 && jwt.issuer.is_none() && jwt.cookie.as_deref() == Some("id"));
    access(&format!("pem = \"{p256}\"\nalg = \"ES256\"\n")).expect("a public key");
    access("jwks_url = \"https://id.example/keys\"\n").expect("a key set");
    for (jwt, expected) in [
        (String::new(), "secret, pem and jwks_url"),
        (format!("secret = \"{secret}\"\npem = \"{p256}\"\n"), "secret, pem and jwks_url"),
        ("secret = \"too short\"\n".into(), "32 bytes"),
        (format!("secret = \"{secret}\"\nalg = \"RS256\"\n"), "RS256"),
        // The oldest trick: the public key as if it were a secret.
        (format!("pem = \"{p256}\"\nalg = \"HS256\"\n"), "HS256"),
        (format!("pem = \"{p256}\"\nalg = \"EdDSA\"\n"), "EdDsa"),
        ("pem = \"no key\"\n".into(), "public key"),
        ("jwks_url = \"file:///keys\"\n".into(), "jwks_url"),
    ] {
        let message = refusal(access(&jwt));
        assert!(message.contains("auth.jwt") && message.contains(expected), "{jwt}: {message}");
    }
    for unknown in ["alg = \"none\"\n", "alg = \"ES512\"\n", "algorithm = \"HS256\"\n"] {
        let message = refusal(load(&format!("[auth.jwt]\n{unknown}"), &[]));
        assert!(message.contains("auth.jwt"), "{message}");
    }
}

#[test]
fn a_certificate_and_its_key_go_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let [one, other] =
        ["a.example", "b.example"].map(|name| rcgen::generate_simple_self_signed([name.to_owned()]));
    let (one, other) = (one.expect("made"), other.expect("made"));
    let (cert, key) = (write("cert", one.cert.pem()), write("key", one.signing_key.serialize_pem()));
    let wrong = write("wrong", other.signing_key.serialize_pem());
    let identity = |cert: &str, key: &str| {
        load(&format!("[tls]\ncert = \"{cert}\"\nkey = \"{key}\"\n"), &[]).expect("parses").identity()
    };
    assert!(identity("", "").expect("nothing").is_none());
    assert!(identity(&cert, &key).expect("both").is_some());
    for (cert, key, expected) in [
        (cert.as_str(), "", "both"),
        ("", key.as_str(), "both"),
        ("/no/such.pem", key.as_str(), "tls.cert: cannot read"),
        (cert.as_str(), wrong.as_str(), "go together"),
        (key.as_str(), key.as_str(), "no certificates"),
        (cert.as_str(), cert.as_str(), "no private key"),
    ] {
        let message = refusal(identity(cert, key));
        assert!(message.contains("tls") && message.contains(expected), "{message}");
    }
}

#[test]
fn open_access_stays_at_home() {
    let access = |listen: &str, extra: &str, open: bool| {
        let text = format!("[server]\nlisten = \"{listen}\"\n{extra}");
        load(&text, &[]).expect("parses").access(open, &Environment::new())
    };
    for home in ["127.0.0.1:0", "127.3.2.1:80", "[::1]:8080"] {
        assert!(access(home, "", false).expect("loopback").open, "{home}");
    }
    for away in ["0.0.0.0:80", "[::]:80", "192.168.1.5:80", "[::ffff:10.0.0.1]:80"] {
        let message = refusal(access(away, "", false));
        assert!(message.contains("server.listen") && message.contains("--open"), "{message}");
        assert!(access(away, "", true).expect("--open").open);
        assert!(access(away, "[auth]\nopen = true\n", false).expect("auth.open").open);
        let keyed = access(away, "[[auth.keys]]\nkey = \"k\"\nuser = \"u\"\n", true).expect("keys");
        assert!(!keyed.open, "with keys, access is not open, whatever was said");
    }
}
