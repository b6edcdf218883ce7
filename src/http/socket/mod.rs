//! `GET /v1/sessions/{sid}/ws`: the session mirrored over WebSocket.
//!
//! A viewer says `hello` with the positions it holds and is answered `welcome`; then it gets every stream's events,
//! tokens merged at ticks that all viewers share. It is an index into the mirror: no queue, and one that has fallen
//! out of the mirror's window is closed and comes back with its positions.

mod act;
mod close;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout};

use self::close::{BEHIND, DRAIN, Goodbye, NO_SESSION, PROTOCOL, close, code};
use super::counted::Counted;
use super::envelope::jitter_ms;
use super::error::ApiError;
use super::extract::Caller;
use super::sessions;
use crate::app::App;
use crate::auth::{Principal, Role};
use crate::hub::Session;
use crate::hub::catchup::Arrival;
use crate::hub::mirror::{Find, Mirror};
use crate::log::{Bad, EventId, Position};
use crate::relay::now_ms;
use crate::relay::watch::Watch;
use crate::room::message::{self, Inbound, Presence, SUBPROTOCOL};

/// Bytes read at a time: tungstenite's own 128 KiB would be paid by every idle viewer.
const READ_BUFFER: usize = 512;
/// A client must say hello within this time.
const HELLO_WAIT: Duration = Duration::from_secs(10);

pub async fn upgrade(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
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
        Box::pin(Viewer { app, principal, session, role, member }.serve(socket)).await;
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

struct Viewer {
    app: Arc<App>,
    principal: Arc<Principal>,
    session: Arc<Session>,
    role: Role,
    /// Its id in the roster.
    member: String,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.session.roster().leave(&self.principal.user);
        self.app.metrics.members.dec();
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
            close(&mut socket, code, reason).await;
        }
    }

    async fn run(&self, socket: &mut WebSocket) -> Result<Goodbye, Goodbye> {
        let Ok(hello) = timeout(HELLO_WAIT, self.hello(socket)).await else {
            return Ok(Goodbye::Close(PROTOCOL, "no hello"));
        };
        let mut place = self.welcome(socket, hello?).await?;
        let (ping, pong) = (self.app.edge.ping, self.app.edge.pong);
        let closing = self.app.closing();
        // One timer that looks back when it fires: nothing is rearmed with every message.
        let alarm = sleep_until(Instant::now() + ping);
        tokio::pin!(closing, alarm);
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
                    self.send_news(socket, &mut place, found).await?;
                }
                received = socket.recv() => {
                    heard = Instant::now();
                    let Some(message) = received else { return Ok(Goodbye::Left) };
                    self.receive(socket, message?).await?;
                }
                () = alarm.as_mut(), if !ping.is_zero() => {
                    if heard + ping > Instant::now() {
                        alarm.as_mut().reset(heard + ping);
                    } else if !pong.is_zero() && asked.is_some_and(|asked| asked >= heard) {
                        return Ok(Goodbye::Close(BEHIND, "no pong"));
                    } else {
                        asked = Some(Instant::now());
                        self.send(socket, Message::Ping(Bytes::new())).await?;
                        alarm.as_mut().reset(Instant::now() + if pong.is_zero() { ping } else { pong });
                    }
                }
                () = closing.as_mut() => {
                    while let found @ Find::Entries(_) = place.mirror.find(place.next) {
                        self.send_news(socket, &mut place, found).await?;
                    }
                    let retry = 1000 + jitter_ms(4000);
                    self.send(socket, Message::text(message::going_away(retry, now_ms()))).await?;
                    return Ok(Goodbye::Close(DRAIN, "draining"));
                }
            }
        }
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
        let failed = |_| Goodbye::Close(NO_SESSION, "no such session");
        let mirror = self.app.hub.mirror(&self.session).await.map_err(failed)?;
        let watch = mirror.watchers.join();
        let moment = mirror.snapshot();
        let (mut resets, returning) = (Vec::new(), !after.is_empty());
        // The room's own position; the others are streams'. Who comes for the first time pages through its history.
        let mut heard = None;
        if let Some(id) = after.remove(&self.session.name) {
            heard = Some(self.check_room(&id).await.unwrap_or_else(|bad| {
                resets.push((self.session.name.clone(), bad));
                Position::START
            }));
        }
        let mut arrival =
            Arrival::new(&self.app.relay, self.session.log, &after, heard, &moment).await.map_err(failed)?;
        resets.append(&mut arrival.resets);
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
            user: self.principal.user.clone(),
            role: self.role,
            version,
            members,
        }
    }

    async fn check_room(&self, id: &str) -> Result<Position, Bad> {
        let id: EventId = id.parse().map_err(|_| Bad::Unknown)?;
        if id.log != self.session.log {
            return Err(Bad::Foreign);
        }
        let checked = self.app.relay.store.check(id.log, id.position).await.unwrap_or(Err(Bad::Lost));
        checked.map(|()| id.position)
    }
}
