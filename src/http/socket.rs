//! `GET /v1/sessions/{sid}/ws`: the session mirrored over WebSocket.
//!
//! A viewer says `hello` with the positions it holds and is answered `welcome`; then it gets every stream's events,
//! tokens merged at ticks that all viewers share. It is an index into the mirror: no queue, and one that has fallen
//! out of the mirror's window is closed and comes back with its positions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, FromRequestParts, Path, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

use super::counted::Counted;
use super::entry::{Household, OwesPosition};
use super::envelope::jitter_ms;
use super::error::ApiError;
use super::expiry::{Term, Turn};
use super::extract::{Caller, stream_id};
use super::standing::Standing;
use super::{sessions, streams};
use crate::app::App;
use crate::auth::Role;
use crate::hub::Session;
use crate::hub::catchup::Arrival;
use crate::hub::mirror::{Find, Mirror};
use crate::log::{Bad, EventId};
use crate::relay::now_ms;
use crate::relay::watch::Watch;
use crate::room::message::{self, Inbound, Presence, SUBPROTOCOL};
use crate::store;

/// Close codes: 40xx stop, 41xx back off, 42xx come back at once with positions.
const CREDENTIAL: u16 = 4001;
const NOT_ALLOWED: u16 = 4003;
const NO_SESSION: u16 = 4004;
const EXPIRED: u16 = 4009;
const OVERLOADED: u16 = 4100;
const RATE: u16 = 4101;
const TOO_MANY: u16 = 4106;
const BEHIND: u16 = 4200;
const DRAIN: u16 = 4202;
/// And the standard's own: a broken protocol, not text, too large.
const PROTOCOL: u16 = 1002;
const NOT_TEXT: u16 = 1007;
const TOO_LARGE: u16 = 1009;

/// Bytes read at a time: tungstenite's own 128 KiB would be paid by every idle viewer.
const READ_BUFFER: usize = 512;
/// A client must say hello within this time.
const HELLO_WAIT: Duration = Duration::from_secs(10);

pub async fn upgrade(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Extension(from): Extension<Household>,
    owes: Option<Extension<OwesPosition>>,
    Path(name): Path<String>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, ApiError> {
    let (session, role) = sessions::enter(&app, &principal, &name).await?;
    let held = sessions::permits(&app, &principal, &session)?;
    let token = app.tracker.token();
    Ok(sized(&app, upgrade).on_upgrade(async move |socket| {
        let _counted = Counted::new(&app.metrics, "websocket");
        let fresh = || ulid::Ulid::generate().to_string().to_lowercase();
        let member = session.roster().join(&principal.user, role, fresh);
        app.metrics.members.inc();
        let standing = Standing::new(principal, role, from);
        let owes_position = owes.map(|Extension(owes)| owes);
        Box::pin(Viewer { app, standing, owes_position, session, member }.serve(socket)).await;
        drop((held, token));
    }))
}

fn sized(app: &App, upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(app.edge.message_bytes)
        .max_frame_size(app.edge.message_bytes)
        .protocols([SUBPROTOCOL])
}

/// A browser cannot read the status of a refused socket: a client that names our subprotocol is upgraded, whatever the
/// refusal was, and told by a close code.
pub async fn refusals(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let mut copy = parts.clone();
    let response = next.run(Request::from_parts(parts, body)).await;
    let Some(error) = response.extensions().get::<Arc<ApiError>>().cloned() else { return response };
    match WebSocketUpgrade::from_request_parts(&mut copy, &app).await {
        Ok(upgrade) => {
            let upgrade = sized(&app, upgrade);
            if upgrade.selected_protocol().is_none() {
                return response;
            }
            upgrade.on_upgrade(async move |mut socket| close(&mut socket, code(&error), &error.code).await)
        }
        Err(_) => response,
    }
}

fn code(error: &ApiError) -> u16 {
    match (error.status.as_u16(), error.code.as_str()) {
        (401, _) => CREDENTIAL,
        (403, _) => NOT_ALLOWED,
        (429, "rate_limited") => RATE,
        (429, _) => TOO_MANY,
        (503, _) => OVERLOADED,
        _ => NO_SESSION,
    }
}

async fn close(socket: &mut WebSocket, code: u16, reason: &str) {
    let frame = CloseFrame { code, reason: reason.into() };
    // The other side may be gone already, which closes just as well.
    drop(timeout(Duration::from_secs(1), socket.send(Message::Close(Some(frame)))).await);
}

struct Viewer {
    app: Arc<App>,
    standing: Standing,
    /// Its ticket was used before: it must hold a position of this session.
    owes_position: Option<OwesPosition>,
    session: Arc<Session>,
    /// Its id in the roster.
    member: String,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.session.roster().leave(&self.standing.principal().user);
        self.app.metrics.members.dec();
    }
}

/// Why a socket ends.
enum Goodbye {
    /// The client left or broke the protocol, which tungstenite has answered.
    Left,
    Close(u16, &'static str),
}

impl From<axum::Error> for Goodbye {
    fn from(error: axum::Error) -> Goodbye {
        match error.into_inner().downcast_ref() {
            Some(tungstenite::Error::Capacity(_)) => Goodbye::Close(TOO_LARGE, "message too large"),
            Some(tungstenite::Error::Utf8(_)) => Goodbye::Close(NOT_TEXT, "not UTF-8"),
            Some(tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => Goodbye::Left,
            Some(tungstenite::Error::Protocol(_)) => Goodbye::Close(PROTOCOL, "protocol error"),
            _ => Goodbye::Left,
        }
    }
}

/// A viewer's place in the mirror.
struct Place {
    mirror: Arc<Mirror>,
    watch: Watch,
    next: u64,
}

impl Viewer {
    async fn serve(self, mut socket: WebSocket) {
        if let Goodbye::Close(code, reason) = self.run(&mut socket).await.unwrap_or_else(|goodbye| goodbye) {
            Box::pin(close(&mut socket, code, reason)).await;
        }
    }

    async fn run(&self, socket: &mut WebSocket) -> Result<Goodbye, Goodbye> {
        // Boxed, here and below: a socket that waits does not keep room for all that it may ever do.
        let Ok(hello) = timeout(HELLO_WAIT, Box::pin(self.hello(socket))).await else {
            return Ok(Goodbye::Close(PROTOCOL, "no hello"));
        };
        let mut place = Box::pin(self.welcome(socket, hello?)).await?;
        let (ping, pong) = (self.app.edge.ping, self.app.edge.pong);
        let closing = self.app.closing();
        // One timer that looks back when it fires: nothing is rearmed with every message.
        let alarm = sleep_until(Instant::now() + ping);
        tokio::pin!(closing, alarm);
        let mut term = Term::new(self.standing.principal().expires_s, self.app.edge.expiry_grace);
        let (mut heard, mut asked) = (Instant::now(), None);
        loop {
            let news = std::future::poll_fn(|cx| {
                place.watch.register(cx);
                match place.mirror.find(place.next) {
                    Find::Nothing => std::task::Poll::Pending,
                    found => std::task::Poll::Ready(found),
                }
            });
            tokio::select! {
                found = news => {
                    Box::pin(self.send_news(socket, &mut place, found)).await?;
                }
                received = socket.recv() => {
                    heard = Instant::now();
                    let Some(message) = received else { return Ok(Goodbye::Left) };
                    Box::pin(self.receive(socket, message?)).await?;
                    term.renew(self.standing.principal().expires_s);
                }
                turn = term.turn() => {
                    if turn == Turn::Over {
                        return Ok(Goodbye::Close(EXPIRED, "the credential has expired"));
                    }
                    let grace_ms = self.app.edge.expiry_grace.as_millis() as u64;
                    Box::pin(self.send(socket, Message::text(message::expired(grace_ms, now_ms())))).await?;
                }
                () = alarm.as_mut(), if !ping.is_zero() => {
                    if heard + ping > Instant::now() {
                        alarm.as_mut().reset(heard + ping);
                    } else if !pong.is_zero() && asked.is_some_and(|asked| asked >= heard) {
                        return Ok(Goodbye::Close(BEHIND, "no pong"));
                    } else {
                        asked = Some(Instant::now());
                        Box::pin(self.send(socket, Message::Ping(Bytes::new()))).await?;
                        alarm.as_mut().reset(Instant::now() + if pong.is_zero() { ping } else { pong });
                    }
                }
                () = closing.as_mut() => {
                    Box::pin(self.going_away(socket, &mut place)).await?;
                    return Ok(Goodbye::Close(DRAIN, "draining"));
                }
            }
        }
    }

    /// The last news, and when to come back.
    async fn going_away(&self, socket: &mut WebSocket, place: &mut Place) -> Result<(), Goodbye> {
        while let found @ Find::Entries(_) = place.mirror.find(place.next) {
            self.send_news(socket, place, found).await?;
        }
        let retry = 1000 + jitter_ms(4000);
        self.send(socket, Message::text(message::going_away(retry, now_ms()))).await
    }

    /// One that takes no byte for as long as a pong may take is too far behind.
    async fn send(&self, socket: &mut WebSocket, message: Message) -> Result<(), Goodbye> {
        let patience =
            if self.app.edge.pong.is_zero() { Duration::from_secs(60) } else { self.app.edge.pong };
        match timeout(patience, socket.send(message)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(Goodbye::Close(BEHIND, "too far behind")),
        }
    }

    async fn send_news(&self, socket: &mut WebSocket, place: &mut Place, found: Find) -> Result<(), Goodbye> {
        match found {
            Find::Entries(entries) => {
                place.next += entries.len() as u64;
                for frame in entries.iter().flat_map(|entry| entry.frames.iter()) {
                    let text = Utf8Bytes::try_from(frame.clone()).map_err(|_| Goodbye::Left)?;
                    self.send(socket, Message::Text(text)).await?;
                }
                Ok(())
            }
            Find::Behind => Err(Goodbye::Close(BEHIND, "too far behind")),
            Find::Gone => Err(Goodbye::Close(NO_SESSION, "no such session")),
            Find::Nothing => Ok(()),
        }
    }

    /// The first message must be `hello`.
    async fn hello(&self, socket: &mut WebSocket) -> Result<BTreeMap<String, String>, Goodbye> {
        while let Some(message) = socket.recv().await {
            let Message::Text(text) = message? else { continue };
            match message::parse(&text) {
                Ok(message::Envelope { message: Inbound::Hello { after }, .. }) => return Ok(after),
                Ok(message::Envelope { message: Inbound::Ping, id }) => {
                    self.send(socket, Message::text(message::pong(id.as_deref(), now_ms()))).await?;
                }
                Ok(message::Envelope { id, .. }) => {
                    let error = message::error(id.as_deref(), "bad_request", "say hello first", now_ms());
                    self.send(socket, Message::text(error)).await?;
                }
                Err(error) => {
                    self.send(socket, Message::text(message::error(None, "bad_request", &error, now_ms())))
                        .await?;
                }
            }
        }
        Err(Goodbye::Left)
    }

    /// Everything so far, then what the viewer has missed of what it knew; from there on it is live.
    async fn welcome(
        &self,
        socket: &mut WebSocket,
        mut after: BTreeMap<String, String>,
    ) -> Result<Place, Goodbye> {
        let failed = |error: store::Error| Goodbye::Close(code(&error.into()), "the session cannot be read");
        let mirror = self.app.hub.mirror(&self.session).await.map_err(failed)?;
        let watch = mirror.watchers.join();
        let moment = mirror.snapshot();
        let (mut resets, returning, held) = (Vec::new(), !after.is_empty(), after.len());
        // The room's own position; the others are streams'.
        if let Some(id) = after.remove(&self.session.name)
            && let Err(bad) = self.check_room(&id).await
        {
            resets.push((self.session.name.clone(), bad));
        }
        let mut arrival =
            Arrival::new(&self.app.relay, self.session.log, &after, &moment).await.map_err(failed)?;
        resets.append(&mut arrival.resets);
        if let Some(OwesPosition(ticket)) = &self.owes_position
            && resets.len() >= held
        {
            self.app.strike(ticket, self.standing.address());
            return Err(Goodbye::Close(CREDENTIAL, "this ticket was used"));
        }
        if returning {
            self.app.metrics.resumed(resets.first().map_or("ok", |(_, bad)| bad.as_str()));
        }
        for (log, bad) in &resets {
            self.send(socket, Message::text(message::reset(log, bad.as_str(), now_ms()))).await?;
        }
        let room = EventId { log: self.session.log, position: moment.vector.room };
        let welcome = message::welcome(&self.presence(), room, &arrival.streams, now_ms());
        self.send(socket, Message::text(welcome)).await?;
        while let Some(frames) = arrival.missed.next_frames() {
            for frame in frames {
                self.send(socket, Message::text(frame)).await?;
            }
        }
        Ok(Place { mirror, watch, next: moment.next })
    }

    fn presence(&self) -> Presence {
        let roster = self.session.roster();
        let (version, members) = (roster.version(), roster.members());
        Presence {
            member: self.member.clone(),
            user: self.standing.principal().user.clone(),
            role: self.standing.role(),
            version,
            members,
        }
    }

    async fn check_room(&self, id: &str) -> Result<(), Bad> {
        let id: EventId = id.parse().map_err(|_| Bad::Unknown)?;
        if id.log != self.session.log {
            return Err(Bad::Foreign);
        }
        self.app.relay.store.check(id.log, id.position).await.unwrap_or(Err(Bad::Lost))
    }

    async fn receive(&self, socket: &mut WebSocket, message: Message) -> Result<(), Goodbye> {
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return Err(Goodbye::Close(NOT_TEXT, "text frames only")),
            Message::Close(_) => {
                // Its answer is queued, and goes out with the next read.
                drop(timeout(Duration::from_secs(1), socket.recv()).await);
                return Err(Goodbye::Left);
            }
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
        };
        let answer = match message::parse(&text) {
            Err(error) => message::error(None, "bad_request", &error, now_ms()),
            Ok(message::Envelope { id, message }) => match message {
                Inbound::Ping => message::pong(id.as_deref(), now_ms()),
                Inbound::Hello { .. } => {
                    message::error(id.as_deref(), "bad_request", "you have said hello", now_ms())
                }
                Inbound::Cancel { stream } => answer(id.as_deref(), self.cancel(&stream).await),
                Inbound::Auth(fresh) => {
                    answer(id.as_deref(), self.standing.renew(&self.app, &self.session, &fresh).await)
                }
                Inbound::Unknown { name } => {
                    let text = format!("there is no message type \"{name}\"");
                    message::error(id.as_deref(), "bad_request", &text, now_ms())
                }
            },
        };
        self.send(socket, Message::text(answer)).await
    }

    async fn cancel(&self, stream: &str) -> Result<(), ApiError> {
        self.standing.may(&self.app, Role::Member)?;
        let principal = self.standing.principal();
        let log = stream_id(stream)?;
        let facts = self.app.readable(&principal, log).await?;
        if facts.session.as_deref() != Some(&self.session.name) {
            return Err(ApiError::not_found("there is no such stream in this session"));
        }
        streams::allow(&self.app, &principal, &facts).await?;
        Ok(self.app.relay.stop(log, &principal.user).await?)
    }
}

/// To a client that asked for something to be done.
fn answer(id: Option<&str>, done: Result<(), ApiError>) -> String {
    match done {
        Ok(()) => message::ack(id, now_ms()),
        Err(error) => {
            let retryable = matches!(error.status.as_u16(), 429 | 503);
            message::refused(id, &error.code, &error.message, retryable, now_ms())
        }
    }
}
