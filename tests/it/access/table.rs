//! Every role, action, credential and origin, against the rules (`rules.rs`), over real sockets.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::issuer;
use super::rules::{
    Action, BAD, CREDENTIALS, Credential, EVERYONE, ORIGINS, Origin, ROWS, Row, Who, document,
};
use crate::harness::socket::Socket;
use crate::harness::{Answer, FakeProvider, Script, Server};

const LISTED: &str = "https://app.example";

fn user(who: Who) -> &'static str {
    match who {
        Who::Owner => "olga",
        Who::Member => "mel",
        Who::Viewer => "vic",
        Who::Nobody => "ned",
        Who::Foreign => "fay",
    }
}

/// The role that one has in every session, if any.
fn role(who: Who) -> Option<&'static str> {
    match who {
        Who::Owner | Who::Foreign => Some("owner"),
        Who::Member => Some("member"),
        Who::Viewer => Some("viewer"),
        Who::Nobody => None,
    }
}

/// Ann names the sessions. Everybody has a key for what they are, and another one of an owner, `full-…`, to start
/// streams with that are then their own.
pub fn config() -> String {
    let key = |key: &str, user: &str, tenant: &str, role: &str, sessions: &str| {
        format!(
            "[[auth.keys]]\nkey = \"{key}\"\nuser = \"{user}\"\ntenant = \"{tenant}\"\nrole = \"{role}\"\nsessions = [{sessions}]\n"
        )
    };
    let mut text = format!(
        "[server]\nallowed_origins = [\"{LISTED}\"]\n[limits]\nrequests_per_minute = 0\nrunning_streams_per_user = 0\n"
    );
    text += &issuer::config();
    text += &key("ann", "ann", "default", "owner", "\"*\"");
    for who in EVERYONE {
        let tenant = if who == Who::Foreign { "other" } else { "default" };
        let sessions = if role(who).is_some() { "\"*\"" } else { "" };
        text += &key(user(who), user(who), tenant, role(who).unwrap_or("owner"), sessions);
        text += &key(&format!("full-{}", user(who)), user(who), "default", "owner", "\"*\"");
    }
    text
}

struct Case<'a> {
    server: &'a Server,
    who: Who,
    credential: Credential,
    origin: Origin,
    session: String,
    /// Ann's, in the session.
    stream: String,
}

impl Case<'_> {
    async fn with_key(&self, key: &str, path: &str, body: &Value) -> Answer {
        Answer::of(self.server.send(self.server.post(path, body).bearer_auth(key)).await).await
    }

    async fn started_by(&self, key: &str) -> String {
        let body = json!({"model": "fake-1", "input": "Hi", "session": self.session});
        let answer = self.with_key(key, "/v1/streams", &body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.header("x-stream-id").to_owned()
    }

    /// Headers and a query that carry the credential.
    async fn carried(&self) -> (Vec<(&'static str, String)>, String) {
        match self.credential {
            Credential::Key => (vec![("authorization", format!("Bearer {}", user(self.who)))], String::new()),
            Credential::Token => (vec![("authorization", format!("Bearer {}", self.token()))], String::new()),
            Credential::Cookie => (vec![("cookie", format!("a=b; id={}; c=d", self.token()))], String::new()),
            Credential::Ticket => (Vec::new(), format!("ticket={}", self.ticket().await)),
        }
    }

    fn token(&self) -> String {
        let sessions = role(self.who).map_or(json!({}), |role| json!({"*": role}));
        let mut claims = issuer::claims(user(self.who), &sessions, relaystream::app::entry::now_s() + 3600);
        if self.who == Who::Foreign {
            claims["tenant"] = "other".into();
        }
        issuer::signed(&claims)
    }

    /// Those without a role here have one for another session.
    async fn ticket(&self) -> String {
        let here = !matches!(self.who, Who::Nobody | Who::Foreign);
        let session = if here { self.session.as_str() } else { "elsewhere" };
        let role = role(self.who).unwrap_or("member");
        let key = if self.who == Who::Foreign { user(self.who) } else { "ann" };
        let body = json!({"session": session, "role": role, "user": user(self.who)});
        let answer = self.with_key(key, "/v1/tickets", &body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.json()["ticket"].as_str().unwrap().to_owned()
    }

    fn origin(&self) -> Option<String> {
        match self.origin {
            Origin::None => None,
            Origin::Own => Some(format!("http://{}", self.server.address)),
            Origin::Listed => Some(LISTED.into()),
            Origin::Foreign => Some("https://evil.example".into()),
            Origin::Null => Some("null".into()),
        }
    }

    async fn outcome(&self, row: &Row) -> u16 {
        let own = match row.action {
            Action::CancelOwn | Action::ForgetOwn => {
                self.started_by(&format!("full-{}", user(self.who))).await
            }
            _ => self.stream.clone(),
        };
        let (mut headers, query) = self.carried().await;
        headers.extend(self.origin().map(|origin| ("origin", origin)));
        let path = row.route.split(' ').nth(1).unwrap();
        let path = path.replace("{sid}", &self.session).replace("{id}", &own);
        let more = match row.action {
            // The first event of Ann's stream: with a position nobody begins a session.
            Action::Watch => format!("after={}-0000-0000000001", self.stream),
            Action::StartByGet => format!("prompt=Hi&model=fake-1&session={}", self.session),
            _ => String::new(),
        };
        let path = format!("{path}?{more}&{query}");
        if row.action == Action::Socket {
            return self.socket(&path, &headers).await;
        }
        let body = match row.action {
            Action::LetWatch => json!({"session": self.session}),
            Action::LetOwn => json!({"session": self.session, "role": "owner"}),
            _ => json!({"model": "fake-1", "input": "Hi", "session": self.session}),
        };
        let request = match row.route.split(' ').next().unwrap() {
            "POST" => self.server.post(&path, &body),
            "DELETE" => self.server.delete(&path),
            _ => self.server.get(&path),
        };
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        self.server.send(request).await.status().as_u16()
    }

    async fn socket(&self, path: &str, headers: &[(&'static str, String)]) -> u16 {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        match Socket::open_at(self.server, path, &headers).await {
            Ok(socket) => {
                socket.leave().await;
                101
            }
            Err(status) => status,
        }
    }
}

/// All that one credential may be used for; what did not come out as the rules say.
async fn surprises(server: &Server, credential: Credential) -> Vec<String> {
    let (mut surprises, mut number) = (Vec::new(), 0);
    for row in &ROWS {
        for who in EVERYONE {
            for origin in ORIGINS {
                number += 1;
                let session = format!("{credential:?}-{number}");
                let mut case = Case { server, who, credential, origin, session, stream: String::new() };
                case.stream = case.started_by("ann").await;
                let (found, expected) = (case.outcome(row).await, row.outcome(who, credential, origin));
                if found != expected {
                    let Row { action, .. } = row;
                    surprises.push(format!(
                        "{who:?} {action:?} {credential:?} {origin:?}: {found}, not {expected}"
                    ));
                }
                for key in ["ann", "fay"] {
                    let forget = server.delete(&format!("/v1/sessions/{}", case.session));
                    server.send(forget.bearer_auth(key)).await;
                }
            }
        }
    }
    surprises
}

#[tokio::test]
async fn every_role_action_credential_and_origin() {
    let provider = FakeProvider::new([Script::stream().token("Hel").stall()]).await;
    let server = Server::before(&provider, &config()).await;
    let surprises = join_all(CREDENTIALS.map(|credential| surprises(&server, credential))).await.concat();
    assert!(surprises.is_empty(), "{}\n{}", surprises.len(), surprises.join("\n"));
    server.finish().await;
}

/// What is sent, in the order of [`BAD`]: a header's value, and a query.
async fn bad(server: &Server) -> Vec<(String, String)> {
    let ticket = async |body: Value| {
        let answer =
            Answer::of(server.send(server.post("/v1/tickets", &body).bearer_auth("ann")).await).await;
        answer.json()["ticket"].as_str().unwrap().to_owned()
    };
    let now = relaystream::app::entry::now_s();
    let good = issuer::claims("olga", &json!({"*": "owner"}), now + 3600);
    let but = |claim: &str, value: Value| {
        let mut claims = good.clone();
        claims[claim] = value;
        claims
    };
    let token = issuer::signed(&good);
    let signature = token.rsplit_once('.').unwrap().1.to_owned();
    let bearer = |token: String| (format!("Bearer {token}"), String::new());
    let forged = |header: Value, claims: &Value, signature: &str| {
        bearer(format!("{}.{signature}", issuer::unsigned(&header, claims)))
    };
    let by_ticket = |ticket: &str| (String::new(), format!("ticket={ticket}"));
    let (single, late) = (
        ticket(json!({"session": "room", "single_use": true})).await,
        ticket(json!({"session": "room", "ttl_s": 1})).await,
    );
    let used = Answer::of(server.send(server.get(&format!("/v1/sessions/room?ticket={single}"))).await).await;
    assert_eq!(used.status, 200, "{}", used.text);
    let over = async {
        while relaystream::app::entry::now_s() <= now + 2 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    crate::harness::soon("a ticket to be late", over).await;
    vec![
        (String::new(), String::new()),
        bearer("nobodys".into()),
        (String::new(), "key=ann".into()),
        bearer(issuer::signed(&but("exp", json!(now - 1)))),
        bearer(issuer::signed(&but("nbf", json!(now + 600)))),
        forged(json!({"alg": "HS256", "typ": "JWT"}), &but("sub", json!("root")), &signature),
        forged(json!({"alg": "none"}), &good, ""),
        forged(json!({"alg": "RS256"}), &good, &signature),
        bearer(issuer::signed(&but("aud", json!("another")))),
        by_ticket(&format!("{}A", single.split_once('.').unwrap().0)),
        by_ticket(&late),
        by_ticket(&single),
        by_ticket(&ticket(json!({"session": "elsewhere"})).await),
        bearer("ned".into()),
    ]
}

#[tokio::test]
async fn bad_credentials_are_told_in_the_clients_own_terms() {
    let server = Server::new(&config()).await;
    let sent = bad(&server).await;
    assert_eq!(sent.len(), BAD.len());
    for ((authorization, query), (what, status, code)) in sent.iter().zip(BAD) {
        let path = format!("/v1/sessions/room?{query}");
        let request = server.get(&path);
        let request =
            if authorization.is_empty() { request } else { request.header("authorization", authorization) };
        let answer = Answer::of(server.send(request).await).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text);
        let path = format!("/v1/sessions/room/ws?{query}");
        let headers: Vec<_> =
            [("authorization", authorization.as_str()), ("sec-websocket-protocol", "relaystream.v1")]
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .collect();
        let plain: Vec<_> = headers.iter().copied().filter(|(name, _)| *name == "authorization").collect();
        let unopened = Socket::open_at(&server, &path, &plain).await.err();
        // A used ticket may still come with a position, which a socket shows in its first message.
        let used = what.contains("again");
        assert_eq!(unopened, Some(status).filter(|_| !used), "{what}");
        let mut told = Socket::open_at(&server, &path, &headers).await.unwrap();
        told.hello_unheard().await;
        assert_eq!(told.closed().await, code, "{what}");
    }
    server.finish().await;
}

#[test]
fn the_rules_are_published() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/access.md");
    let text = document();
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        std::fs::write(path, &text).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == text, "docs/access.md is stale: INSTA_UPDATE=always cargo test rules writes it anew");
}
