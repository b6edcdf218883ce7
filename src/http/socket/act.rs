//! What a member says on its socket, and the answers.

use axum::extract::ws::{Message, WebSocket};

use super::Viewer;
use super::close::{Goodbye, NOT_TEXT};
use crate::auth::Role;
use crate::http::error::ApiError;
use crate::log::EventId;
use crate::relay::now_ms;
use crate::room::Kind;
use crate::room::message::{self, Inbound};
use crate::room::talk::Text;

/// Why a message is not answered by what it asks for: a code and some words.
type Refusal = (String, String);

impl Viewer {
    pub(super) async fn receive(&self, socket: &mut WebSocket, message: Message) -> Result<(), Goodbye> {
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return Err(Goodbye::Close(NOT_TEXT, "text frames only")),
            Message::Close(_) => return Err(Goodbye::Left),
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
        };
        let answer = match message::parse(&text) {
            Err(error) => message::error(None, "bad_request", &error, now_ms()),
            Ok(message::Envelope { id, message }) => match message {
                Inbound::Ping => message::pong(id.as_deref(), now_ms()),
                Inbound::Hello { .. } => {
                    message::error(id.as_deref(), "bad_request", "you have said hello", now_ms())
                }
                Inbound::Text { content } => {
                    let said = self.text(id.as_deref(), content).await;
                    said.unwrap_or_else(|(code, text)| message::error(id.as_deref(), &code, &text, now_ms()))
                }
                Inbound::Cancel { stream } => self.cancel(id.as_deref(), &stream).await,
                Inbound::Unknown { name } => {
                    let text = format!("there is no message type \"{name}\"");
                    message::error(id.as_deref(), "bad_request", &text, now_ms())
                }
            },
        };
        self.send(socket, Message::text(answer)).await
    }

    /// Keeps what the member says; everybody hears it through the mirror, in the order of the room's log.
    async fn text(&self, id: Option<&str>, content: String) -> Result<String, Refusal> {
        self.may(Role::Member)?;
        if id.is_some_and(|id| id.len() > message::ID_BYTES) {
            return Err(("bad_request".into(), format!("an id has at most {} bytes", message::ID_BYTES)));
        }
        let text = Text { content, from: self.principal.user.clone(), id: id.map(str::to_owned), given: 0 };
        let said = self.app.hub.say(&self.session, Kind::Text, &text).await.map_err(refusal)?;
        let position = EventId { log: self.session.log, position: said.position() };
        Ok(message::said(id, position, now_ms()))
    }

    fn may(&self, role: Role) -> Result<(), Refusal> {
        if self.role >= role {
            return Ok(());
        }
        Err(("not_allowed".into(), "your role does not allow it".into()))
    }

    async fn cancel(&self, id: Option<&str>, stream: &str) -> String {
        let refused = |code: &str, text: &str| message::error(id, code, text, now_ms());
        let Ok(log) = stream.parse() else { return refused("not_found", "there is no such stream") };
        let Ok(facts) = self.app.readable(&self.principal, log).await else {
            return refused("not_found", "there is no such stream");
        };
        if facts.session.as_deref() != Some(&self.session.name) {
            return refused("not_found", "there is no such stream in this session");
        }
        if self.app.may_end(&self.principal, &facts).await != Ok(true) {
            return refused("not_allowed", "your role does not allow it to cancel this stream");
        }
        if let Err(error) = self.app.relay.stop(log, &self.principal.user).await {
            return refused("store_unavailable", &error.to_string());
        }
        message::ack(id, now_ms())
    }
}

/// A failure as the socket tells it: the code that a request would have got.
fn refusal(error: impl Into<ApiError>) -> Refusal {
    let error = error.into();
    (error.code, error.message)
}
