//! `GET /v1/sessions/{sid}/ws`: the session mirrored over WebSocket.
//!
//! A viewer says `hello` with the positions it holds and is answered `welcome`; then it gets every stream's events,
//! tokens merged at ticks that all viewers share. It is an index into the mirror: no queue, and one that has fallen
//! out of the mirror's window is closed and comes back with its positions.

mod act;
mod close;
mod mail;
mod pulse;
mod upgrade;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::extract::{Extension, FromRequestParts, Path, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use self::act::Strikes;
use self::close::{
    BEHIND, CREDENTIAL, DRAIN, EXPIRED, Goodbye, KICKED, LIFETIME, NO_SESSION, PROTOCOL, ROOM_FULL, TOO_MANY,
    code,
};
use self::mail::Mail;
use self::pulse::{Beat, Pulse};
use self::upgrade::Upgrade;
use self::wire::Socket;
use super::counted::Counted;
use super::entry::{Household, OwesPosition};
use super::envelope::jitter_ms;
use super::error::ApiError;
use super::expiry::{Term, Turn};
use super::extract::Caller;
use super::sessions;
use super::standing::Standing;
use crate::app::App;
use crate::auth::Principal;
use crate::hub::Session;
use crate::hub::catchup::Arrival;
use crate::hub::cursor::Cursor;
use crate::hub::gathering::{self, Attendee, Full};
use crate::hub::mirror::Find;
use crate::limits::Permit;
use crate::log::{Bad, EventId, Position};
use crate::relay::now_ms;
use crate::room::message::{self, Inbound, Presence, Unreadable};
use crate::room::roster::Greeting;

/// The positions that a client holds, and what it says of itself.
type Hello = (BTreeMap<String, String>, Greeting);

/// A client must say hello within this time.
const HELLO_WAIT: Duration = Duration::from_secs(10);

pub async fn upgrade(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Extension(from): Extension<Household>,
    owes: Option<Extension<OwesPosition>>,
    Path(name): Path<String>,
    upgrade: Upgrade,
) -> Result<Response, ApiError> {
    let (session, role) = sessions::enter(&app, &principal, &name).await?;
    let held = (sessions::permits(&app, &principal, &session)?, permit(&app, &principal)?);
    app.hub.admits(&session, &principal.user).map_err(full)?;
    Ok(upgrade.begin(&app.clone(), async move |socket| {
        let _counted = Counted::new(&app.metrics, "websocket");
        app.metrics.members.inc();
        let standing = Standing::new(principal, role, from);
        let owes_position = owes.map(|Extension(owes)| owes);
        Box::pin(Viewer { app, standing, owes_position, session }.serve(socket)).await;
        drop(held);
    }))
}

/// One more socket of this user, whichever its session.
fn permit(app: &App, principal: &Principal) -> Result<Permit<String>, ApiError> {
    let held = app.user_connections.take(&principal.allowance);
    held.ok_or_else(|| ApiError::limited("too_many_viewers", "this user has as many sockets as it may", 5))
}

fn full(full: Full) -> ApiError {
    match full {
        Full::Members => ApiError::limited("room_full", "this session has as many members as it may", 5),
        Full::Connections => {
            ApiError::limited("too_many_viewers", "this session has as many connections as it may", 5)
        }
    }
}

/// A browser cannot read the status of a refused socket: a client that names our subprotocol is upgraded, whatever the
/// refusal was, and told by a close code.
pub async fn refusals(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let mut copy = parts.clone();
    let response = next.run(Request::from_parts(parts, body)).await;
    let Some(error) = response.extensions().get::<Arc<ApiError>>().cloned() else { return response };
    match Upgrade::from_request_parts(&mut copy, &app).await {
        Ok(upgrade) if upgrade.named => upgrade.begin(&app, async move |mut socket| {
            socket.close(code(&error), &error.code).await;
        }),
        _ => response,
    }
}

struct Viewer {
    app: Arc<App>,
    standing: Standing,
    /// Its ticket was used before: it must hold a position of this session.
    owes_position: Option<OwesPosition>,
    session: Arc<Session>,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.app.metrics.members.dec();
    }
}

/// A viewer's place in the mirror, and among the people.
struct Place {
    streams: Cursor,
    attendee: Attendee,
    mail: Mail,
}

/// What there is to be told.
enum News {
    Streams(Find),
    People(gathering::News),
    Mail(mail::News),
}

impl Place {
    async fn news(&mut self) -> News {
        std::future::poll_fn(|cx| {
            self.attendee.register(cx);
            match self.streams.poll(cx) {
                Find::Nothing => {}
                found => return Poll::Ready(News::Streams(found)),
            }
            match self.attendee.news() {
                gathering::News::Nothing => {}
                news => return Poll::Ready(News::People(news)),
            }
            self.mail.poll(cx).map_or(Poll::Pending, |news| Poll::Ready(News::Mail(news)))
        })
        .await
    }
}

impl Viewer {
    async fn serve(self, mut socket: Socket) {
        if let Goodbye::Close(code, reason) = self.run(&mut socket).await.unwrap_or_else(|goodbye| goodbye) {
            Box::pin(socket.close(code, reason)).await;
        }
    }

    async fn run(&self, socket: &mut Socket) -> Result<Goodbye, Goodbye> {
        // Boxed, here and below: a socket that waits does not keep room for all that it may ever do.
        let Ok(hello) = timeout(HELLO_WAIT, Box::pin(self.hello(socket))).await else {
            return Ok(Goodbye::Close(PROTOCOL, "no hello"));
        };
        let mut place = Box::pin(self.welcome(socket, hello?)).await?;
        let (closing, mut pulse, mut strikes) =
            (self.app.closing(), Pulse::new(&self.app.edge), Strikes::default());
        let mut term = Term::new(self.standing.principal().expires_s, self.app.edge.expiry_grace);
        tokio::pin!(closing);
        loop {
            tokio::select! {
                // What came in first: a pong that lies there unread is one, however late we are.
                biased;
                received = socket.recv() => {
                    pulse.heard();
                    let Some(message) = received else { return Ok(Goodbye::Left) };
                    Box::pin(self.receive(socket, &place, &mut strikes, message?)).await?;
                    term.renew(self.standing.principal().expires_s);
                }
                news = place.news() => Box::pin(self.send_news(socket, &mut place, news)).await?,
                turn = term.turn() => {
                    if turn == Turn::Over {
                        return Ok(Goodbye::Close(EXPIRED, "the credential has expired"));
                    }
                    let grace_ms = self.app.edge.expiry_grace.as_millis() as u64;
                    Box::pin(self.send(socket, Message::text(message::expired(grace_ms, now_ms())))).await?;
                }
                beat = pulse.beat() => match beat {
                    Beat::Ping => Box::pin(self.send(socket, Message::Ping(Bytes::new()))).await?,
                    Beat::Dead => return Ok(Goodbye::Close(BEHIND, "no pong")),
                    Beat::Over => return Ok(Goodbye::Close(LIFETIME, "come back")),
                },
                () = closing.as_mut() => {
                    Box::pin(self.going_away(socket, &mut place)).await?;
                    return Ok(Goodbye::Close(DRAIN, "draining"));
                }
            }
        }
    }

    /// The last news, and when to come back.
    async fn going_away(&self, socket: &mut Socket, place: &mut Place) -> Result<(), Goodbye> {
        while let found @ Find::Entries(_) = place.streams.take() {
            self.send_news(socket, place, News::Streams(found)).await?;
        }
        let retry = 1000 + jitter_ms(4000);
        self.send(socket, Message::text(message::going_away(retry, now_ms()))).await
    }

    /// One that takes no byte for as long as a pong may take is too far behind.
    async fn send(&self, socket: &mut Socket, message: Message) -> Result<(), Goodbye> {
        let patience =
            if self.app.edge.pong.is_zero() { Duration::from_secs(60) } else { self.app.edge.pong };
        match timeout(patience, socket.send(message)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(Goodbye::Close(BEHIND, "too far behind")),
        }
    }

    async fn send_news(&self, socket: &mut Socket, place: &mut Place, news: News) -> Result<(), Goodbye> {
        let frames: Vec<Bytes> = match news {
            News::Streams(Find::Entries(entries)) | News::Mail(mail::News::Found(Find::Entries(entries))) => {
                entries.iter().flat_map(|entry| entry.frames.iter().cloned()).collect()
            }
            News::People(gathering::News::Frames(frames)) => frames,
            News::Mail(mail::News::Found(Find::Gone)) => {
                place.mail.lose();
                return Ok(());
            }
            News::Mail(mail::News::Rung) => {
                let principal = self.standing.principal();
                let told = place.mail.look(&self.app.hub, &principal).await?;
                told.into_iter().map(Bytes::from).collect()
            }
            News::Streams(Find::Behind) | News::Mail(mail::News::Found(Find::Behind)) => {
                return Err(Goodbye::Close(BEHIND, "too far behind"));
            }
            News::Streams(Find::Gone) => return Err(Goodbye::Close(NO_SESSION, "no such session")),
            News::People(gathering::News::Kicked) => return Err(Goodbye::Close(KICKED, "sent away")),
            News::Streams(Find::Nothing)
            | News::People(gathering::News::Nothing)
            | News::Mail(mail::News::Found(Find::Nothing)) => return Ok(()),
        };
        for frame in frames {
            let text = Utf8Bytes::try_from(frame).map_err(|_| Goodbye::Left)?;
            self.send(socket, Message::Text(text)).await?;
        }
        Ok(())
    }

    /// The first message must be `hello`.
    async fn hello(&self, socket: &mut Socket) -> Result<Hello, Goodbye> {
        while let Some(message) = socket.recv().await {
            let Message::Text(text) = message? else { continue };
            match message::parse(&text) {
                Ok(message::Envelope { message: Inbound::Hello { after, greeting }, .. }) => {
                    return Ok((after, greeting));
                }
                Ok(message::Envelope { message: Inbound::Ping, id }) => {
                    self.send(socket, Message::text(message::pong(id.as_deref(), now_ms()))).await?;
                }
                Ok(message::Envelope { id, .. }) => {
                    let error = message::error(id.as_deref(), "bad_request", "say hello first", now_ms());
                    self.send(socket, Message::text(error)).await?;
                }
                Err(Unreadable { id, why }) => {
                    let error = message::error(id.as_deref(), "bad_request", &why, now_ms());
                    self.send(socket, Message::text(error)).await?;
                }
            }
        }
        Err(Goodbye::Left)
    }

    /// Everything so far, then what the viewer has missed of what it knew; from there on it is live.
    async fn welcome(&self, socket: &mut Socket, (mut after, greeting): Hello) -> Result<Place, Goodbye> {
        let (principal, role) = (self.standing.principal(), self.standing.role());
        // A name that its credential vouches for is not the client's to choose.
        let greeting = Greeting { name: principal.name.clone().or(greeting.name), ..greeting };
        let joined = self.app.hub.join(&self.session, &principal.user, role, &greeting);
        let mut attendee = joined.map_err(|no| match no {
            Full::Members => Goodbye::Close(ROOM_FULL, "room full"),
            Full::Connections => Goodbye::Close(TOO_MANY, "too many connections"),
        })?;
        let (streams, moment) = Cursor::join(self.app.hub.mirror(&self.session).await?);
        let (mut resets, returning, held) = (Vec::new(), !after.is_empty(), after.len());
        // The room's own position; the others are streams'. Who comes for the first time pages through its history.
        let mut heard = None;
        if let Some(id) = after.remove(&self.session.name) {
            heard = Some(self.check_room(&id).await.unwrap_or_else(|bad| {
                resets.push((self.session.name.clone(), bad));
                Position::START
            }));
        }
        let mut mail = Mail::new(&self.app.hub, &principal);
        let told = mail.arrive(&self.app.hub, &principal, &mut after, &mut resets).await?;
        let mut arrival = Arrival::new(&self.app.relay, self.session.log, &after, heard, &moment).await?;
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
        // What the client holds after this message, as with streams: what it has missed comes next.
        let position = heard.unwrap_or(moment.vector.room);
        let room = EventId { log: self.session.log, position };
        let presence = self.presence(&mut attendee).await;
        let welcome = message::welcome(&presence, room, &arrival.streams, now_ms());
        self.send(socket, Message::text(welcome)).await?;
        for typist in attendee.typists() {
            self.send(socket, Message::text(typist)).await?;
        }
        while let Some(frames) = arrival.missed.next_frames() {
            for frame in frames {
                self.send(socket, Message::text(frame)).await?;
            }
        }
        for notification in told {
            self.send(socket, Message::text(notification)).await?;
        }
        Ok(Place { streams, attendee, mail })
    }

    async fn presence(&self, attendee: &mut Attendee) -> Presence {
        let (version, members) = attendee.everybody().await;
        Presence {
            member: attendee.member.to_string(),
            user: self.standing.principal().user.clone(),
            role: self.standing.role(),
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
