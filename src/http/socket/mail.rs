//! What a socket's user is told beside its session: its notifications, followed from the socket's own place once there
//! are any.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Context;

use crate::auth::Principal;
use crate::hub::catchup::talk;
use crate::hub::cursor::Cursor;
use crate::hub::inbox::Bell;
use crate::hub::mirror::Find;
use crate::hub::{Hub, Session};
use crate::log::{Bad, EventId, Position, Record};
use crate::relay::watch::Watch;
use crate::room::message;
use crate::store::Error;

pub struct Mail {
    bell: Arc<Bell>,
    ring: Watch,
    /// How often the bell had rung when the inbox was last looked for.
    heard: u64,
    inbox: Option<Box<Cursor>>,
}

/// What is new.
pub enum News {
    Found(Find),
    /// There may be an inbox now.
    Rung,
}

impl Mail {
    pub fn new(hub: &Hub, principal: &Principal) -> Mail {
        let bell = hub.bell(&principal.tenant, &principal.user);
        let (ring, heard) = (bell.listen(), bell.rung());
        Mail { bell, ring, heard, inbox: None }
    }

    /// Registers for news, and takes them if there are any.
    pub fn poll(&mut self, cx: &Context<'_>) -> Option<News> {
        match &mut self.inbox {
            Some(inbox) => {
                let found = inbox.poll(cx);
                (!matches!(found, Find::Nothing)).then_some(News::Found(found))
            }
            None => {
                self.ring.register(cx);
                (self.bell.rung() != self.heard).then_some(News::Rung)
            }
        }
    }

    /// The inbox is gone; there may be another one some time.
    pub fn lose(&mut self) {
        self.inbox = None;
    }

    /// The socket begins: with what its user was told after the position that it holds, if it holds one.
    pub async fn arrive(
        &mut self,
        hub: &Hub,
        principal: &Principal,
        after: &mut BTreeMap<String, String>,
        resets: &mut Vec<(String, Bad)>,
    ) -> Result<Vec<String>, Error> {
        let Some(inbox) = hub.inbox(&principal.tenant, &principal.user).await? else { return Ok(Vec::new()) };
        let own = |id: &str| id.parse().ok().filter(|id: &EventId| id.log == inbox.log);
        let held = after.iter().find_map(|(log, id)| Some((log.clone(), own(id)?)));
        let mut from = None;
        if let Some((log, id)) = held {
            after.remove(&log);
            from = Some(match hub.relay.store.check(id.log, id.position).await? {
                Ok(()) => id.position,
                Err(bad) => {
                    resets.push((log, bad));
                    Position::START
                }
            });
        }
        self.follow(hub, &inbox, from).await
    }

    /// The bell rang: whatever is in the inbox is new.
    pub async fn look(&mut self, hub: &Hub, principal: &Principal) -> Result<Vec<String>, Error> {
        self.heard = self.bell.rung();
        match hub.inbox(&principal.tenant, &principal.user).await? {
            Some(inbox) => self.follow(hub, &inbox, Some(Position::START)).await,
            None => Ok(Vec::new()),
        }
    }

    /// Follows the inbox from now on; returns what it says after `from`, nothing without.
    async fn follow(
        &mut self,
        hub: &Hub,
        inbox: &Arc<Session>,
        from: Option<Position>,
    ) -> Result<Vec<String>, Error> {
        let (cursor, moment) = Cursor::join(hub.mirror(inbox).await?);
        let upto = moment.vector.room;
        self.inbox = Some(Box::new(cursor));
        let missed = talk(&hub.relay, inbox.log, from.unwrap_or(upto), upto).await?;
        let told = |record: &Record| message::talk(inbox.log, record).map(|message| message.to_string());
        Ok(missed.iter().filter_map(told).collect())
    }
}
