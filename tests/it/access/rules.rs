//! What the table of access says: roles, actions, credentials and origins, and what comes of each. The table's test
//! holds the server to it, and docs/access.md is printed from it.

use std::fmt::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Owner,
    Member,
    Viewer,
    /// Of the tenant, without a role in the session.
    Nobody,
    /// Owner of everything in another tenant.
    Foreign,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    Key,
    Token,
    Cookie,
    Ticket,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    None,
    Own,
    Listed,
    Foreign,
    Null,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    See,
    Watch,
    Socket,
    SeeStream,
    WatchStream,
    Start,
    StartByGet,
    CancelOwn,
    CancelAny,
    ForgetOwn,
    ForgetAny,
    ForgetSession,
    LetWatch,
    LetOwn,
}

pub const EVERYONE: [Who; 5] = [Who::Owner, Who::Member, Who::Viewer, Who::Nobody, Who::Foreign];
pub const CREDENTIALS: [Credential; 4] =
    [Credential::Key, Credential::Token, Credential::Cookie, Credential::Ticket];
pub const ORIGINS: [Origin; 5] = [Origin::None, Origin::Own, Origin::Listed, Origin::Foreign, Origin::Null];

/// What somebody of each kind gets, once credential and origin are good.
pub struct Row {
    pub action: Action,
    pub route: &'static str,
    pub does: &'static str,
    outcomes: [u16; 5],
}

const fn row(action: Action, route: &'static str, does: &'static str, outcomes: [u16; 5]) -> Row {
    Row { action, route, does, outcomes }
}

#[rustfmt::skip]
pub const ROWS: [Row; 14] = [
    row(Action::See,           "GET /v1/sessions/{sid}",           "look at the session",           [200, 200, 200, 404, 404]),
    row(Action::Watch,         "GET /v1/sessions/{sid}/events",    "watch it",                      [200, 200, 200, 404, 404]),
    row(Action::Socket,        "GET /v1/sessions/{sid}/ws",        "the same over WebSocket",       [101, 101, 101, 404, 101]),
    row(Action::SeeStream,     "GET /v1/streams/{id}",             "look at one of its streams",    [200, 200, 200, 404, 404]),
    row(Action::WatchStream,   "GET /v1/streams/{id}/events",      "watch it",                      [200, 200, 200, 404, 404]),
    row(Action::Start,         "POST /v1/streams",                 "start a stream in the session", [201, 201, 403, 404, 201]),
    row(Action::StartByGet,    "GET /v1/chat/stream",              "the same in one URL",           [200, 200, 403, 404, 200]),
    row(Action::CancelOwn,     "POST /v1/streams/{id}/cancel",     "cancel one's own",              [200, 200, 403, 404, 404]),
    row(Action::CancelAny,     "POST /v1/streams/{id}/cancel",     "cancel another's",              [200, 403, 403, 404, 404]),
    row(Action::ForgetOwn,     "DELETE /v1/streams/{id}",          "forget one's own",              [204, 204, 403, 404, 404]),
    row(Action::ForgetAny,     "DELETE /v1/streams/{id}",          "forget another's",              [204, 403, 403, 404, 404]),
    row(Action::ForgetSession, "DELETE /v1/sessions/{sid}",        "forget the session",            [204, 403, 403, 404, 404]),
    row(Action::LetWatch,      "POST /v1/tickets",                 "a ticket for a viewer",         [201, 201, 201, 404, 201]),
    row(Action::LetOwn,        "POST /v1/tickets",                 "a ticket for an owner",         [201, 403, 403, 404, 201]),
];

impl Row {
    pub fn reads(&self) -> bool {
        self.route.starts_with("GET")
    }

    /// Opens a socket, or does something.
    fn acts(&self) -> bool {
        !self.reads() || matches!(self.action, Action::Socket | Action::StartByGet)
    }

    /// The status that comes of it all.
    pub fn outcome(&self, who: Who, credential: Credential, origin: Origin) -> u16 {
        let carried = carried(credential, self.reads());
        let good = allowed(origin) && !(carried && unnamed(credential, origin, self.acts()));
        match (good, carried, credential) {
            (false, ..) => 403,
            (true, false, _) => 401,
            // A ticket opens what there is, and only in its own tenant.
            (true, true, Credential::Ticket) if who == Who::Foreign => 404,
            _ => self.outcomes[EVERYONE.iter().position(|other| *other == who).unwrap()],
        }
    }
}

/// Tickets are looked at where a URL is all that there is.
fn carried(credential: Credential, reads: bool) -> bool {
    credential != Credential::Ticket || reads
}

fn allowed(origin: Origin) -> bool {
    !matches!(origin, Origin::Foreign | Origin::Null)
}

/// Browsers send cookies unasked, so they must say which page it was.
fn unnamed(credential: Credential, origin: Origin, acts: bool) -> bool {
    credential == Credential::Cookie && origin == Origin::None && acts
}

/// What is wrong with a credential, and what it gets: a status, or, for a socket that offers the subprotocol, a close code.
pub const BAD: [(&str, u16, u16); 14] = [
    ("none at all", 401, 4001),
    ("a key that nobody has", 401, 4001),
    ("a key in the URL (`?key=`, but for Google's routes)", 401, 4001),
    ("a token that has expired", 401, 4001),
    ("a token that is not valid yet", 401, 4001),
    ("a token whose claims were changed", 401, 4001),
    ("a token of `alg: none`, or with its signature left out", 401, 4001),
    ("a token with the algorithm exchanged (the public key as a shared secret)", 401, 4001),
    ("a token of another issuer, or for another audience", 401, 4001),
    ("a ticket that was made up, or changed", 401, 4001),
    ("a ticket whose time is over without a use", 401, 4001),
    ("a ticket for single use, again, without a position to go on from", 401, 4001),
    ("a ticket for another session", 404, 4004),
    ("an id that was guessed, of a stream or a session", 404, 4004),
];

/// What else is tried, and what comes of it.
const TRIED: [(&str, &str); 9] = [
    (
        "the same wrong credential, again and again, or a used ticket without a position",
        "429 with `retry-after` from the 11th on, before it is looked at; one more try every 6 s",
    ),
    (
        "many wrong credentials from one address",
        "429 likewise from the 61st on, one more a second; a credential that was good of late is let in",
    ),
    ("tokens of keys that nobody has", "the key set is fetched once more in 30 s at most; 401"),
    ("a head that comes byte by byte, or never", "the connection is closed after 10 s, a TLS handshake too"),
    ("a body that comes byte by byte", "408 after 60 s"),
    ("a head that is too large", "431"),
    ("a body larger than `limits.request_bytes`", "413 `too_large`"),
    ("a message larger than `rooms.message_bytes` on a socket", "close code 1009"),
    (
        "requests beyond `limits.requests_per_minute`",
        "429 `rate_limited`; a reconnect gets 200, a `notice` and a close",
    ),
];

/// docs/access.md.
pub fn document() -> String {
    let mut text = String::from(
        "# Who may do what\n\nPrinted from `tests/it/access/rules.rs`. `tests/it/access/table.rs` holds the server to it, in every \
         combination of role,\naction, credential and origin.\n\n## Roles\n\n\
         A role comes from the claims of a token (`sessions`), from a ticket, or from a key's `role` and `sessions`. Whoever first\n\
         names a session owns it. What a credential says about a session by name comes before that, and before what it says about all (`*`).\n\n\
         | | | owner | member | viewer | no role | other tenant |\n|---|---|--:|--:|--:|--:|--:|\n",
    );
    for Row { route, does, outcomes, .. } in &ROWS {
        let cells: Vec<_> = outcomes.iter().zip(EVERYONE).map(|(status, who)| cell(*status, who)).collect();
        writeln!(text, "| {does} | `{route}` | {} |", cells.join(" | ")).unwrap();
    }
    text += "\n¹ In its own tenant: an equal name is another session there.\n\nA stream without a session is its user's alone, and open to tickets for it. \
             404 says neither that something is there nor that\nit is not.\n\n## Credentials and origins\n\n\
             What a page's origin and the kind of credential make of a request that the role allows. Browsers name the origin; other\nprograms name none.\n\n\
             | credential | | no origin | own | listed | foreign | `null` |\n|---|---|--:|--:|--:|--:|--:|\n";
    for (credential, name) in CREDENTIALS.iter().zip([
        "key in a header",
        "token in a header, or a socket's subprotocol",
        "token in a cookie",
        "ticket in the URL",
    ]) {
        for (does, example) in [("reads", &ROWS[0]), ("opens a socket", &ROWS[2]), ("acts", &ROWS[5])] {
            let cells = ORIGINS.map(|origin| match example.outcome(Who::Owner, *credential, origin) {
                status @ (401 | 403) => status.to_string(),
                _ => "yes".into(),
            });
            writeln!(text, "| {name} | {does} | {} |", cells.join(" | ")).unwrap();
        }
    }
    text += "\n`GET /v1/chat/stream` acts: with a cookie and without an origin it needs `Sec-Fetch-Site: same-origin`, which an `EventSource`\n\
             of your own pages sends. Foreign origins are refused before anything is asked (403 `origin_not_allowed`).\n\n\
             ## Bad credentials\n\n| what is sent | status | close code |\n|---|--:|--:|\n";
    for (what, status, code) in BAD {
        writeln!(text, "| {what} | {status} | {code} |").unwrap();
    }
    text += "\nA socket that offers the subprotocol `relaystream.v1` is opened and closed with the code, since a browser cannot read a status.\n\n\
             ## What else is tried\n\n| what | what comes of it |\n|---|---|\n";
    for (what, then) in TRIED {
        writeln!(text, "| {what} | {then} |").unwrap();
    }
    text
}

fn cell(status: u16, who: Who) -> String {
    let own = who == Who::Foreign && status < 400;
    format!("{status}{}", if own { "¹" } else { "" })
}
