//! What a member says on its socket, and the answers.

use axum::http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};
use tokio_tungstenite::tungstenite::Message;

use super::close::{Goodbye, NOT_TEXT, RATE};
use super::wire::Socket;
use super::{Place, Viewer};
use crate::auth::Role;
use crate::http::error::ApiError;
use crate::http::extract::stream_id;
use crate::http::{streams, wish};
use crate::log::EventId;
use crate::relay::now_ms;
use crate::room::Kind;
use crate::room::message::{self, Envelope, Inbound, Unreadable};
use crate::room::talk::Text;

/// How far a member may be ahead of its rate: each message too many counts up, each other one down.
#[derive(Debug, Default)]
pub struct Strikes(u32);

const MOST_STRIKES: u32 = 200;

/// What is said in return; nothing to what is only passed on.
type Answer = Result<Option<String>, ApiError>;

impl Viewer {
    pub(super) async fn receive(
        &self,
        socket: &mut Socket,
        place: &Place,
        strikes: &mut Strikes,
        message: Message,
    ) -> Result<(), Goodbye> {
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return Err(Goodbye::Close(NOT_TEXT, "text frames only")),
            Message::Close(_) => {
                socket.answer_close().await;
                return Err(Goodbye::Left);
            }
            // A bare frame is only ever written.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Ok(()),
        };
        let slower = || ApiError::limited("rate_limited", "more messages than you may send", 1);
        let (id, answer) = match (message::parse(&text), self.paced(strikes)?) {
            (Ok(Envelope { id, .. }) | Err(Unreadable { id, .. }), false) => (id, Err(slower())),
            (Err(Unreadable { id, why }), true) => (id, Err(ApiError::bad_request(why))),
            (Ok(Envelope { id, message }), true) => {
                let answer = self.act(place, id.as_deref(), message).await;
                (id, answer)
            }
        };
        let refused = |error: ApiError| {
            let retryable = matches!(error.status.as_u16(), 429 | 503);
            Some(message::refused(id.as_deref(), &error.code, &error.message, retryable, now_ms()))
        };
        match answer.unwrap_or_else(refused) {
            Some(answer) => self.send(socket, Message::text(answer)).await,
            None => Ok(()),
        }
    }

    /// Whether the member may say something now. Who goes on and on is sent away.
    fn paced(&self, strikes: &mut Strikes) -> Result<bool, Goodbye> {
        let paced = self.app.hub.pace.take(self.session.log, &self.standing.principal().allowance).is_ok();
        strikes.0 = if paced { strikes.0.saturating_sub(1) } else { strikes.0 + 1 };
        if strikes.0 > MOST_STRIKES { Err(Goodbye::Close(RATE, "too many messages")) } else { Ok(paced) }
    }

    async fn act(&self, place: &Place, id: Option<&str>, message: Inbound) -> Answer {
        if id.is_some_and(|id| id.len() > message::ID_BYTES) {
            return Err(ApiError::bad_request(format!("an id has at most {} bytes", message::ID_BYTES)));
        }
        let ack = || Ok(Some(message::ack(id, now_ms())));
        match message {
            Inbound::Ping => Ok(Some(message::pong(id, now_ms()))),
            Inbound::Hello { .. } => Err(ApiError::bad_request("you have said hello")),
            Inbound::Text { content } => self.text(id, content).await,
            Inbound::Typing(typing) => {
                self.may(Role::Member)?;
                place.attendee.types(typing);
                Ok(None)
            }
            Inbound::Presence(change) => {
                place.attendee.change(|about| change.apply(about));
                Ok(None)
            }
            Inbound::Signal { to, data } => {
                self.may(Role::Member)?;
                self.signal(place, &to, &data)
            }
            Inbound::Kick { member } => {
                self.may(Role::Owner)?;
                if place.attendee.kick(&member) {
                    ack()
                } else {
                    Err(ApiError::not_found("there is no such member"))
                }
            }
            Inbound::Start(fields) => self.start(id, fields).await,
            Inbound::Cancel { stream } => self.cancel(&stream).await.and_then(|()| ack()),
            Inbound::Auth(fresh) => {
                self.standing.renew(&self.app, &self.session, &fresh).await.and_then(|()| ack())
            }
            Inbound::Unknown { name } => {
                Err(ApiError::bad_request(format!("there is no message type \"{name}\"")))
            }
        }
    }

    fn may(&self, least: Role) -> Result<(), ApiError> {
        self.standing.may(&self.app, least)
    }

    /// Keeps what the member says; everybody hears it through the mirror, in the order of the room's log.
    async fn text(&self, id: Option<&str>, content: String) -> Answer {
        self.may(Role::Member)?;
        let text = Text {
            content,
            from: self.standing.principal().user.clone(),
            id: id.map(str::to_owned),
            given: 0,
        };
        let said = self.app.hub.say(&self.session, Kind::Text, &text).await?;
        let position = EventId { log: self.session.log, position: said.position() };
        Ok(Some(message::said(id, position, now_ms())))
    }

    fn signal(&self, place: &Place, to: &str, data: &Value) -> Answer {
        if data.to_string().len() > self.app.edge.signal_bytes {
            let message = format!("a signal has at most {} bytes", self.app.edge.signal_bytes);
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message));
        }
        if place.attendee.signal(to, data) {
            Ok(None)
        } else {
            Err(ApiError::not_found("there is no such member"))
        }
    }

    /// As `POST /v1/streams`, in this session. The message's id is its idempotency key.
    async fn start(&self, id: Option<&str>, mut fields: Map<String, Value>) -> Answer {
        self.may(Role::Member)?;
        fields.insert("session".into(), self.session.name.as_str().into());
        let mut wish = wish::read(&self.app, fields, &HeaderMap::new())?;
        wish.idempotency_key = id.map(|id| format!("socket/{}/{id}", self.session.log));
        let started = self.app.start(&self.standing.principal(), wish).await?;
        let tail = self.app.relay.tail(started.id).await?;
        let at = EventId { log: started.id, position: tail.head() };
        Ok(Some(message::started(id, at, now_ms())))
    }

    async fn cancel(&self, stream: &str) -> Result<(), ApiError> {
        self.may(Role::Member)?;
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
