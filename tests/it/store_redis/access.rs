//! Who may connect, and how: TLS with an authority of one's own, a user that may touch nothing but our keys; options that
//! make no sense.

use std::process::Command;
use std::time::Duration;

use relaystream::store::redis::{Options, Redis};
use relaystream::store::{Error, Store};

use super::{whole, write};
use crate::harness::redis::{Engine, RedisServer, healthy, node, on_each_engine, options};
use crate::store_contract::{START, created};

on_each_engine! {
    tls_trusts_the_authority_that_is_named,
    a_user_needs_no_more_than_the_example_says,
}

/// An authority and a server's certificate, made by openssl.
fn certificates(folder: &tempfile::TempDir) {
    let subject = "-subj /CN=localhost";
    for line in [
        format!("req -x509 -newkey rsa:2048 -nodes -days 2 {subject}-authority -keyout ca.key -out ca.pem"),
        format!("req -newkey rsa:2048 -nodes {subject} -keyout server.key -out server.csr"),
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem".into(),
    ] {
        std::fs::write(folder.path().join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
        let made = Command::new("openssl").args(line.split(' ')).current_dir(folder.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}

async fn tls_trusts_the_authority_that_is_named(engine: Engine) {
    let folder = tempfile::tempdir().unwrap();
    certificates(&folder);
    let file = |name: &str| folder.path().join(name).display().to_string();
    let tls = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let _server = RedisServer::with(
        engine,
        &[
            "--tls-port",
            &tls,
            "--tls-cert-file",
            &file("server.pem"),
            "--tls-key-file",
            &file("server.key"),
            "--tls-ca-cert-file",
            &file("ca.pem"),
            "--tls-auth-clients",
            "no",
        ],
    )
    .await;
    let stranger = options(&format!("{}s://localhost:{tls}", engine.scheme()));
    let authority = Some(std::fs::read(file("ca.pem")).unwrap());
    let one = node(&Options { authority, ..stranger.clone() }).await;
    let log = created(&*one, 7).await;
    let (written, _) = write(&*one, log, START, 3).await;
    assert_eq!(whole(&*one, log).await, Ok(written));
    let two = Redis::open(stranger).expect("a fine address");
    assert!(matches!(two.claimed("k").await, Err(Error::Unavailable(_))), "nobody vouches for it");
}

async fn a_user_needs_no_more_than_the_example_says(engine: Engine) {
    let server = RedisServer::start(engine).await;
    let options = Options { prefix: "relaystream:".into(), ..options(&server.url()) };
    let rules = "~relaystream:* &relaystream:* +@all -@admin";
    assert!(include_str!("../../../config.example.toml").contains(rules));
    server.run::<()>(&format!("ACL SETUSER node on >s3cret {rules}")).await.expect("a user");
    let url = server.url().replace("://", "://node:s3cret@");
    let (one, two) = (node(&Options { url, ..options.clone() }).await, node(&options).await);
    let log = created(&*one, 7).await;
    let (written, _) = write(&*one, log, START, 3).await;
    assert_eq!(whole(&*two, log).await, Ok(written));
    one.claim("k", "v", Duration::from_secs(9)).await.expect("reachable");
    one.subscribe("t").await.expect("reachable");
    one.orphans().await.expect("reachable");
    one.disown(log).await.expect("reachable");
    assert_eq!(two.orphans().await.expect("reachable").len(), 1);
    one.remove(log).await.expect("reachable");
    healthy(&one, true).await;
}

#[test]
fn times_that_make_no_sense_are_refused() {
    let sound = options("redis://127.0.0.1");
    assert_eq!(sound.check(), Ok(()));
    let short = Options { lease: Duration::from_millis(200), ..sound.clone() };
    assert!(short.check().unwrap_err().contains("lease"));
    let long = Options { gather: Duration::from_secs(5), ..sound };
    assert!(long.check().unwrap_err().contains("gathered"));
}
