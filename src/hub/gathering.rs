//! The people in a room now, as this node's connections see them: who is there, who types, signals from one to another.
//!
//! Nothing here is kept. What all are told lies once in a short window that every connection reads from its own place,
//! as with the mirror; one that has fallen out of it is told everything anew. What one alone is told lies in its
//! outbox. A task lives for as long as anybody is here and talks to the other nodes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::lock;
use super::outbox::Outbox;
use crate::auth::{Role, digest_of};
use crate::log::LogId;
use crate::relay::tail::Options as Pace;
use crate::relay::{now_ms, since_start};
use crate::room::message;
use crate::room::roster::{self, About, Gossip, Greeting, Member, Roster};

#[derive(Debug, Clone)]
pub struct Options {
    pub linger: Duration,
    pub typing: Duration,
    pub max_members: usize,
    pub max_connections: usize,
    pub outbox_bytes: usize,
}

/// Why nobody more comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    Members,
    Connections,
}

/// What nodes tell one another about a room.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    Gossip(Gossip),
    Signal { to: String, frame: String },
    Kick { user: String },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    pub node: String,
    pub message: Message,
}

/// What is to be done after everybody here was told.
pub(super) struct Turn {
    /// To be told to other nodes.
    pub out: Vec<Message>,
    pub rest: Duration,
    /// Nobody is left.
    pub over: bool,
}

/// A frame for all, but for one connection.
struct Frame {
    except: Option<u64>,
    text: Bytes,
}

struct Line {
    user: Arc<str>,
    member: Arc<str>,
    outbox: Arc<Outbox>,
}

struct State {
    roster: Roster,
    /// At most `limit` bytes.
    window: VecDeque<Frame>,
    limit: usize,
    /// The index of the window's first frame.
    first: u64,
    bytes: usize,
    lines: HashMap<u64, Line>,
    /// All members as viewers were told, and at which version.
    everybody: Option<(u64, Arc<RawValue>)>,
    /// Those who wait to be told of.
    newcomers: Vec<Arc<Outbox>>,
    next_connection: u64,
    flushed: Option<Instant>,
    /// For other nodes.
    out: Vec<Message>,
    /// Its task has ended: nobody may join any more.
    over: bool,
}

pub struct Gathering {
    pub(super) room: LogId,
    options: Options,
    pace: Pace,
    state: Mutex<State>,
    pub(super) bell: Notify,
}

/// One connection, which leaves when this is dropped.
pub struct Attendee {
    gathering: Arc<Gathering>,
    outbox: Arc<Outbox>,
    pub member: Arc<str>,
    user: Arc<str>,
    connection: u64,
    next: u64,
}

/// What a connection finds.
#[derive(Debug)]
pub enum News {
    Frames(Vec<Bytes>),
    Nothing,
    /// An owner has sent it away.
    Kicked,
}

fn clock_ms() -> u64 {
    since_start().as_millis() as u64
}

/// The same for a user on every node and whenever it comes.
fn member_of(room: LogId, user: &str) -> String {
    HEXLOWER.encode(&digest_of(&format!("{room}/{user}"))[..8])
}

impl Gathering {
    pub(super) fn new(room: LogId, node: &str, options: &Options, pace: &Pace) -> Gathering {
        let linger_ms = options.linger.as_millis() as u64;
        let roster = roster::Options {
            linger_ms,
            typing_ms: options.typing.as_millis() as u64,
            silence_ms: silence(options.linger).as_millis() as u64,
        };
        let state = State {
            roster: Roster::new(node.to_owned(), roster),
            window: VecDeque::new(),
            limit: options.outbox_bytes,
            first: 0,
            bytes: 0,
            lines: HashMap::new(),
            everybody: None,
            newcomers: Vec::new(),
            next_connection: 0,
            flushed: None,
            out: Vec::new(),
            over: false,
        };
        let (options, pace) = (options.clone(), pace.clone());
        Gathering { room, options, pace, state: Mutex::new(state), bell: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether one more connection of this user may come in.
    pub fn admits(&self, user: &str) -> Result<(), Full> {
        self.admits_to(&self.state(), user)
    }

    fn admits_to(&self, state: &State, user: &str) -> Result<(), Full> {
        if state.roster.connections() as usize >= self.options.max_connections {
            return Err(Full::Connections);
        }
        if state.roster.count() >= self.options.max_members && !state.roster.knows(user) {
            return Err(Full::Members);
        }
        Ok(())
    }

    /// None: the gathering has ended, and another one is to be begun.
    pub(super) fn join(
        self: &Arc<Self>,
        user: &str,
        role: Role,
        greeting: &Greeting,
    ) -> Option<Result<Attendee, Full>> {
        let mut state = self.state();
        if state.over {
            return None;
        }
        if let Err(full) = self.admits_to(&state, user) {
            return Some(Err(full));
        }
        let (member, user): (Arc<str>, Arc<str>) = (member_of(self.room, user).into(), user.into());
        let outbox = Arc::new(Outbox::new(self.options.outbox_bytes));
        let connection = state.next_connection;
        state.next_connection += 1;
        let line = Line { user: user.clone(), member: member.clone(), outbox: outbox.clone() };
        state.lines.insert(connection, line);
        state.newcomers.push(outbox.clone());
        state.roster.join(&member, &user, role, greeting);
        let rested = self.pace.pause(state.lines.len());
        if state.flushed.is_none_or(|at| at.elapsed() >= rested) {
            state.flush();
        }
        let next = state.end();
        drop(state);
        self.bell.notify_one();
        Some(Ok(Attendee { gathering: self.clone(), outbox, member, user, connection, next }))
    }

    /// Tells everybody what is new.
    pub(super) fn turn(&self) -> Turn {
        let mut state = self.state();
        state.roster.tick(clock_ms());
        state.flush();
        if let Some(gossip) = state.roster.gossip() {
            state.out.push(Message::Gossip(gossip));
        }
        state.over = state.roster.is_deserted();
        let out = std::mem::take(&mut state.out);
        Turn { out, rest: self.pace.pause(state.lines.len()), over: state.over }
    }

    pub(super) fn is_over(&self) -> bool {
        self.state().over
    }

    /// Who is here, for nodes that do not know this one.
    pub(super) fn introduction(&self) -> Gossip {
        self.state().roster.state()
    }

    /// Takes what another node says; returns what to answer.
    pub(super) fn heard(&self, node: &str, message: Message) -> Option<Message> {
        let mut state = self.state();
        match message {
            Message::Gossip(gossip) => state.roster.heard(node, gossip, clock_ms()).map(Message::Gossip),
            Message::Signal { to, frame } => {
                state.signal(&to, &Bytes::from(frame));
                None
            }
            Message::Kick { user } => {
                state.kick(&user);
                None
            }
        }
    }

    pub(super) fn beat(&self) -> Message {
        Message::Gossip(self.state().roster.beat())
    }

    /// When something ends by itself.
    pub(super) fn due(&self) -> Option<Duration> {
        let due_ms = self.state().roster.due_ms()?;
        Some(Duration::from_millis(due_ms.saturating_sub(clock_ms())))
    }

    /// How often it is said that this node lives.
    pub(super) fn beats_every(&self) -> Duration {
        silence(self.options.linger) / 4
    }
}

/// A node that was not heard of for so long is gone: its members would have left by then had they gone by themselves.
fn silence(linger: Duration) -> Duration {
    linger.max(Duration::from_secs(1))
}

impl State {
    fn end(&self) -> u64 {
        self.first + self.window.len() as u64
    }

    fn flush(&mut self) {
        let (at, before) = (now_ms(), self.end());
        if let Some(diff) = self.roster.news() {
            self.push(None, message::presence(&diff, at));
        }
        for news in self.roster.typing_news() {
            self.push(news.by, message::typing(&news.user, news.typing, at));
        }
        self.flushed = Some(Instant::now());
        let newcomers = std::mem::take(&mut self.newcomers);
        match self.end() > before {
            true => self.lines.values().for_each(|line| line.outbox.wake()),
            false => newcomers.iter().for_each(|outbox| outbox.wake()),
        }
    }

    fn push(&mut self, except: Option<u64>, text: String) {
        self.bytes += text.len();
        self.window.push_back(Frame { except, text: text.into() });
        while self.bytes > self.limit
            && let Some(oldest) = self.window.pop_front()
        {
            self.bytes -= oldest.text.len();
            self.first += 1;
        }
    }

    fn signal(&self, to: &str, frame: &Bytes) {
        for line in self.lines.values().filter(|line| *line.member == *to) {
            line.outbox.push(frame.clone());
        }
    }

    fn kick(&self, user: &str) {
        for line in self.lines.values().filter(|line| *line.user == *user) {
            line.outbox.kick();
        }
    }

    /// Everything, for one that has missed something.
    fn anew(&mut self) -> Vec<Bytes> {
        let at = now_ms();
        let (version, members) = self.everybody();
        let all = message::everybody(version, &members, at);
        let typing = self.roster.typists().map(|user| message::typing(user, true, at));
        std::iter::once(all).chain(typing).map(Bytes::from).collect()
    }

    /// Written once for each version.
    fn everybody(&mut self) -> (u64, Arc<RawValue>) {
        let version = self.roster.version();
        if let Some((_, members)) = self.everybody.as_ref().filter(|(at, _)| *at == version) {
            return (version, members.clone());
        }
        let members: Vec<&Member> = self.roster.members().collect();
        let members: Arc<RawValue> = to_raw_value(&members).expect("members have string keys").into();
        self.everybody = Some((version, members.clone()));
        (version, members)
    }
}

impl Attendee {
    /// Call this before looking for news.
    pub fn register(&self, cx: &Context<'_>) {
        self.outbox.register(cx);
    }

    /// Who is there, once everybody has been told of this one: it hears of whatever changes from then on.
    pub async fn everybody(&mut self) -> (u64, Arc<RawValue>) {
        std::future::poll_fn(|cx| {
            self.register(cx);
            let mut state = self.gathering.state();
            if !state.roster.is_told(&self.user) {
                return std::task::Poll::Pending;
            }
            self.next = state.end();
            std::task::Poll::Ready(state.everybody())
        })
        .await
    }

    /// Those who type, as messages.
    pub fn typists(&self) -> Vec<String> {
        let state = self.gathering.state();
        state.roster.typists().map(|user| message::typing(user, true, now_ms())).collect()
    }

    pub fn news(&mut self) -> News {
        if self.outbox.is_kicked() {
            return News::Kicked;
        }
        let mut frames = Vec::from(self.outbox.take());
        let mut state = self.gathering.state();
        match self.next.checked_sub(state.first) {
            None => frames.extend(state.anew()),
            Some(skip) => {
                let missed = state.window.iter().skip(skip as usize);
                let missed = missed.filter(|frame| frame.except != Some(self.connection));
                frames.extend(missed.map(|frame| frame.text.clone()));
            }
        }
        self.next = state.end();
        if frames.is_empty() { News::Nothing } else { News::Frames(frames) }
    }

    /// Says something new of the member itself.
    pub fn change(&self, change: impl FnOnce(&mut About)) {
        self.gathering.state().roster.change(&self.user, change);
        self.gathering.bell.notify_one();
    }

    pub fn types(&self, typing: bool) {
        let mut state = self.gathering.state();
        if state.roster.types(&self.user, typing, Some(self.connection), clock_ms()) {
            state.out.push(Message::Gossip(Gossip::Typing { user: self.user.to_string(), typing }));
            self.gathering.bell.notify_one();
        }
    }

    /// To all connections of one member; false if there is none of that name.
    pub fn signal(&self, to: &str, data: &Value) -> bool {
        let mut state = self.gathering.state();
        let Some(member) = state.roster.members().find(|member| member.member == to) else { return false };
        let here = state.lines.values().filter(|line| *line.member == *to).count();
        let elsewhere = member.connections as usize > here;
        let frame = message::signal(&self.member, &self.user, data, now_ms());
        state.signal(to, &Bytes::from(frame.clone()));
        if elsewhere {
            state.out.push(Message::Signal { to: to.to_owned(), frame });
            self.gathering.bell.notify_one();
        }
        true
    }

    /// Sends a member away, from every node; false if there is none of that name.
    pub fn kick(&self, member: &str) -> bool {
        let mut state = self.gathering.state();
        let found = state.roster.members().find(|known| known.member == member);
        let Some(user) = found.map(|known| known.user.clone()) else { return false };
        state.kick(&user);
        state.out.push(Message::Kick { user });
        self.gathering.bell.notify_one();
        true
    }
}

impl Drop for Attendee {
    fn drop(&mut self) {
        let mut state = self.gathering.state();
        state.lines.remove(&self.connection);
        state.roster.leave(&self.user, self.connection, clock_ms());
        drop(state);
        self.gathering.bell.notify_one();
    }
}
