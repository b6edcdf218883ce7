//! What gatherings of the same room on several nodes tell one another, through the store's messages.
//!
//! Messages may get lost: changes are numbered, and a node that has missed one asks for everything. Where there is one
//! node nothing is said.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::gathering::{Attendee, Envelope, Full, Gathering, Message};
use super::{Hub, Session, lock};
use crate::auth::Role;
use crate::room::roster::{Gossip, Greeting};
use crate::store::Span;

/// A gathering's voice.
struct Voice {
    hub: Arc<Hub>,
    gathering: Arc<Gathering>,
    /// Its name among the other gatherings of the room.
    node: String,
    topic: String,
    /// Whether anybody could hear it.
    shared: bool,
    messages: Option<Receiver<Bytes>>,
}

impl Hub {
    /// One more connection in the room.
    pub fn join(
        self: &Arc<Self>,
        session: &Session,
        user: &str,
        role: Role,
        greeting: &Greeting,
    ) -> Result<Attendee, Full> {
        loop {
            if let Some(joined) = self.gathering(session).join(user, role, greeting) {
                return joined;
            }
        }
    }

    /// Whether one more connection of this user may come in, as things stand.
    pub fn admits(&self, session: &Session, user: &str) -> Result<(), Full> {
        lock(&session.gathering).upgrade().map_or(Ok(()), |gathering| gathering.admits(user))
    }

    fn gathering(self: &Arc<Self>, session: &Session) -> Arc<Gathering> {
        let mut slot = lock(&session.gathering);
        if let Some(gathering) = slot.upgrade().filter(|gathering| !gathering.is_over()) {
            return gathering;
        }
        let node = ulid::Ulid::generate().to_string();
        let gathering =
            Arc::new(Gathering::new(session.log, &node, &self.options.gathering, &self.options.tail));
        *slot = Arc::downgrade(&gathering);
        let voice = Voice {
            hub: self.clone(),
            gathering: gathering.clone(),
            node,
            topic: format!("room/{}", session.log),
            shared: self.relay.store.span() == Span::Nodes,
            messages: None,
        };
        self.relay.tracker.spawn(voice.speak());
        gathering
    }
}

impl Voice {
    async fn speak(mut self) {
        let closing = self.hub.closing.clone();
        if closing.run_until_cancelled(self.speak_on()).await.is_none() {
            self.tell(Message::Gossip(Gossip::Gone)).await;
        }
    }

    /// Ends when nobody is left.
    async fn speak_on(&mut self) {
        let every = self.gathering.beats_every();
        let mut beat_at = Instant::now() + every;
        loop {
            if self.shared && self.messages.is_none() {
                self.begin_to_hear().await;
            }
            let due = self.gathering.due().map(|due| Instant::now() + due);
            let beat = self.shared.then_some(beat_at);
            let wake_at = due.into_iter().chain(beat).min();
            let gathering = self.gathering.clone();
            let message = tokio::select! {
                message = hear(&mut self.messages) => message,
                () = gathering.bell.notified() => None,
                () = sleep_until(wake_at) => None,
            };
            if let Some(message) = message {
                self.heard(message).await;
            }
            let turn = self.gathering.turn();
            for message in turn.out {
                self.tell(message).await;
            }
            if turn.over {
                return;
            }
            if self.shared && Instant::now() >= beat_at {
                self.tell(self.gathering.beat()).await;
                beat_at = Instant::now() + every;
            }
            if !turn.rest.is_zero() {
                tokio::time::sleep(turn.rest).await;
            }
        }
    }

    async fn begin_to_hear(&mut self) {
        // A failing store is told of by its health; the next beat tries again.
        self.messages = self.hub.relay.store.subscribe(&self.topic).await.ok();
        if self.messages.is_some() {
            self.tell(Message::Gossip(Gossip::Ask)).await;
            self.tell(Message::Gossip(self.gathering.introduction())).await;
        }
    }

    async fn heard(&mut self, mut message: Result<Bytes, RecvError>) {
        loop {
            match message {
                Ok(bytes) => self.understood(&bytes).await,
                Err(RecvError::Lagged(_)) => self.tell(Message::Gossip(Gossip::Ask)).await,
                Err(RecvError::Closed) => self.messages = None,
            }
            match self.messages.as_mut().map(Receiver::try_recv) {
                Some(Ok(bytes)) => message = Ok(bytes),
                // Lagged is told again by the next wait.
                _ => return,
            }
        }
    }

    async fn understood(&self, bytes: &[u8]) {
        // Another version's words are not ours to understand.
        let Ok(Envelope { node, message }) = serde_json::from_slice(bytes) else { return };
        if node == self.node {
            return;
        }
        if let Some(answer) = self.gathering.heard(&node, message) {
            self.tell(answer).await;
        }
    }

    async fn tell(&self, message: Message) {
        if !self.shared {
            return;
        }
        let envelope = Envelope { node: self.node.clone(), message };
        let bytes = serde_json::to_vec(&envelope).expect("a message has string keys");
        // What is lost is noticed by its number.
        let _lost = self.hub.relay.store.publish(&self.topic, bytes.into()).await;
    }
}

async fn hear(messages: &mut Option<Receiver<Bytes>>) -> Option<Result<Bytes, RecvError>> {
    match messages {
        Some(messages) => Some(messages.recv().await),
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
