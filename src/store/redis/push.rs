//! The connection on which Redis speaks unasked: which channels this node follows, and who hears what arrives.
//!
//! Each channel is followed once, however many readers there are here. What is pushed may be lost with the connection, or
//! when a cluster moves a channel to another server: everything that follows a log is told that it may have missed something.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use redis::{PushInfo, PushKind, Value, cmd};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::copy::Copy;
use super::link::{self, Failure, Link};
use super::logs::{MOMENT, REST};
use crate::store::lock;

/// Who hears a channel.
#[derive(Clone)]
pub enum Listener {
    Log(Arc<Copy>),
    Topic(broadcast::Sender<Bytes>),
    /// Names of logs that were forgotten.
    Forgotten,
    Canary(usize),
}

/// What came in on the push connection.
pub enum Pushed {
    Message(Listener, Bytes),
    /// A channel is followed again after a break.
    Again(Listener),
    /// A cluster has moved this channel to another server, which does not know that it is followed. A log's is no longer.
    Moved(String, Listener),
    /// The connection broke, in a cluster one of them: whatever is said from now on is lost.
    Cut,
}

/// A subscriber of a topic that is this many messages behind misses the oldest.
const BACKLOG: usize = 256;

/// A confirmation that was answered is also pushed, at once.
const CONFIRMATION: Duration = Duration::from_secs(2);

struct Followed {
    listener: Listener,
    /// Redis has said so once. Whenever it says so again there was a break.
    confirmed: bool,
    /// Of a topic: who waits for a receiver.
    waiter: Option<oneshot::Sender<broadcast::Receiver<Bytes>>>,
}

impl Followed {
    fn new(listener: Listener) -> Followed {
        Followed { listener, confirmed: false, waiter: None }
    }
}

/// Following and no longer following one channel must not overtake each other; channels are dealt out to this many locks.
/// As many as channels that may wait for one server of a cluster, or they would hold up those of the others.
const TURNS: usize = 4096;

pub struct Push {
    pub link: Arc<Link>,
    followed: Mutex<HashMap<String, Followed>>,
    turns: Vec<tokio::sync::Mutex<()>>,
}

impl Push {
    pub fn new(link: Arc<Link>) -> Push {
        let turns = std::iter::repeat_with(tokio::sync::Mutex::default).take(TURNS).collect();
        Push { link, followed: Mutex::default(), turns }
    }

    /// Hears `channel` from when this returns. On failure it is not followed.
    pub async fn follow(&self, channel: &str, listener: Listener) -> Result<(), Failure> {
        let _turn = self.turn(channel).lock().await;
        self.start(channel, listener).await
    }

    async fn start(&self, channel: &str, listener: Listener) -> Result<(), Failure> {
        self.lock().insert(channel.to_owned(), Followed::new(listener));
        let followed = self.subscribe(channel).await;
        if followed.is_err() {
            self.lock().remove(channel);
        }
        followed
    }

    /// Gives Redis a moment to come back.
    async fn subscribe(&self, channel: &str) -> Result<(), Failure> {
        let until = Instant::now() + MOMENT;
        loop {
            match self.try_subscribe(channel).await {
                Err(Failure::Away(_)) if Instant::now() < until => sleep(REST).await,
                tried => return tried,
            }
        }
    }

    /// Only this channel's confirmation counts: a server that gives other channels away says so unasked, and the library
    /// takes that for the answer to what is under way.
    async fn try_subscribe(&self, channel: &str) -> Result<(), Failure> {
        match self.link.call(cmd("SSUBSCRIBE").arg(channel)).await? {
            Value::Push { kind: PushKind::SSubscribe, data } if names(&data, channel) => Ok(()),
            _ => Err(Failure::Away("a subscription was not confirmed".into())),
        }
    }

    /// Whether `channel` is followed for this copy.
    pub fn follows(&self, channel: &str, copy: &Arc<Copy>) -> bool {
        let followed = self.lock();
        let listener = followed.get(channel).map(|followed| &followed.listener);
        matches!(listener, Some(Listener::Log(found)) if Arc::ptr_eq(found, copy))
    }

    /// Stops hearing `channel`, unless it is followed for a later copy.
    pub async fn unfollow(&self, channel: &str, copy: &Arc<Copy>) {
        let _turn = self.turn(channel).lock().await;
        if self.follows(channel, copy) {
            self.stop(channel).await;
        }
    }

    /// Hears a topic, which may be followed already. The receiver is made where pushes are heard, at the place of the
    /// confirmation among them: what was published before this call is not heard.
    pub async fn follow_topic(&self, channel: &str) -> Result<broadcast::Receiver<Bytes>, Failure> {
        let _turn = self.turn(channel).lock().await;
        let (waiter, made) = oneshot::channel();
        {
            let mut followed = self.lock();
            let new = || Followed::new(Listener::Topic(broadcast::channel(BACKLOG).0));
            followed.entry(channel.to_owned()).or_insert_with(new).waiter = Some(waiter);
        }
        self.subscribe(channel).await?;
        let made = timeout(CONFIRMATION, made).await.map_err(|_| ()).and_then(|made| made.map_err(|_| ()));
        made.map_err(|()| Failure::Away("a subscription was not confirmed".into()))
    }

    /// Stops hearing a topic that nobody here listens to.
    pub async fn unfollow_topic(&self, channel: &str) {
        let _turn = self.turn(channel).lock().await;
        let idle =
            matches!(self.listener(channel), Some(Listener::Topic(sender)) if sender.receiver_count() == 0);
        if idle {
            self.stop(channel).await;
        }
    }

    async fn stop(&self, channel: &str) {
        self.lock().remove(channel);
        // If it fails the connection is gone, and with it what was followed on it.
        let _gone = self.link.call(cmd("SUNSUBSCRIBE").arg(channel)).await;
    }

    pub fn listener(&self, channel: &str) -> Option<Listener> {
        self.lock().get(channel).map(|followed| followed.listener.clone())
    }

    pub fn listeners(&self) -> Vec<(String, Listener)> {
        let pair = |(channel, followed): (&String, &Followed)| (channel.clone(), followed.listener.clone());
        self.lock().iter().map(pair).collect()
    }

    /// Follows everything again on a new connection.
    pub async fn follow_all_again(&self) {
        let again = |(channel, _): (String, Listener)| async move { self.follow_again(&channel).await };
        futures_util::future::join_all(self.listeners().into_iter().map(again)).await;
    }

    /// Follows a channel again, for as long as this connection lasts: of a cluster's servers only one may be away. On the
    /// next connection everything is.
    pub async fn follow_again(&self, channel: &str) {
        let generation = self.link.generation();
        while generation.is_some() && generation == self.link.generation() {
            {
                let _turn = self.turn(channel).lock().await;
                let followed = self.lock().contains_key(channel);
                if !followed || !matches!(self.try_subscribe(channel).await, Err(Failure::Away(_))) {
                    return;
                }
            }
            sleep(REST).await;
        }
    }

    /// The next thing that concerns anybody here; None once the store is dropped.
    pub async fn next(&self, pushes: &mut mpsc::UnboundedReceiver<link::Push>) -> Option<Pushed> {
        loop {
            let (generation, PushInfo { kind, data }) = pushes.recv().await?;
            match kind {
                PushKind::Disconnection => {
                    if !self.link.is_cluster() {
                        self.link.renew(generation);
                    }
                    return Some(Pushed::Cut);
                }
                PushKind::SMessage | PushKind::SSubscribe | PushKind::SUnsubscribe => {
                    if let Some(pushed) = self.dispatch(&kind, data) {
                        return Some(pushed);
                    }
                }
                _ => {}
            }
        }
    }

    fn dispatch(&self, kind: &PushKind, data: Vec<Value>) -> Option<Pushed> {
        let mut data = data.into_iter();
        let Some(Value::BulkString(channel)) = data.next() else { return None };
        let mut followed = self.lock();
        let channel = String::from_utf8(channel).ok()?;
        let found = followed.get_mut(&channel)?;
        if let PushKind::SUnsubscribe = kind {
            // Not asked for: what is, is no longer among these. Unconfirmed it is the end of an earlier one.
            let moved = found.confirmed.then(|| found.listener.clone())?;
            if let Listener::Log(_) = moved {
                followed.remove(&channel);
            }
            return Some(Pushed::Moved(channel, moved));
        }
        if let PushKind::SSubscribe = kind {
            let again = std::mem::replace(&mut found.confirmed, true);
            if let (Some(waiter), Listener::Topic(sender)) = (found.waiter.take(), &found.listener) {
                let _gave_up = waiter.send(sender.subscribe());
            }
            return again.then(|| Pushed::Again(found.listener.clone()));
        }
        let Some(Value::BulkString(message)) = data.next() else { return None };
        Some(Pushed::Message(found.listener.clone(), message.into()))
    }

    fn turn(&self, channel: &str) -> &tokio::sync::Mutex<()> {
        let sum = channel.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        &self.turns[sum % TURNS]
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Followed>> {
        lock(&self.followed)
    }
}

/// Whether a push is about this channel.
fn names(data: &[Value], channel: &str) -> bool {
    matches!(data.first(), Some(Value::BulkString(name)) if name == channel.as_bytes())
}
