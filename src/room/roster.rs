//! Who is in a room, on all nodes together: a member is a user with a number of connections, however many devices that
//! is.
//!
//! Pure, with time as an argument: joins, leaves and what other nodes say in; versioned differences for viewers, and what
//! to say to other nodes, out. Each node keeps all members and numbers what it tells its own viewers. A member whose last
//! connection is gone lingers, so that a reload is no news. A node that has been silent for too long takes its members
//! with it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::auth::Role;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub member: String,
    pub user: String,
    pub role: Role,
    pub connections: u32,
    #[serde(flatten)]
    pub about: About,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Value>,
}

impl Default for About {
    fn default() -> About {
        About { name: None, status: "online".into(), cursor: None, meta: None }
    }
}

/// What a connection says of its user when it comes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Greeting {
    pub name: Option<String>,
    pub meta: Option<Value>,
}

/// A member as one node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    #[serde(flatten)]
    member: Member,
    /// Of several nodes' words about one user, that of the highest revision says what it is like.
    revision: u64,
}

/// What nodes tell one another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Gossip {
    /// Asks every node for its state.
    Ask,
    /// All members of a node; `n` is the number of its last changes.
    State {
        n: u64,
        members: Vec<Word>,
    },
    Changes {
        n: u64,
        members: Vec<Word>,
        left: Vec<String>,
    },
    /// It lives.
    Beat {
        n: u64,
    },
    /// It goes, and its members will be back on another node.
    Gone,
    Typing {
        user: String,
        typing: bool,
    },
}

/// What viewers are told when members change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diff {
    pub version: u64,
    pub joins: Vec<Member>,
    pub leaves: Vec<Member>,
    pub updates: Vec<Member>,
}

/// Somebody began or ceased to type. Not told to the connection that said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typing {
    pub user: String,
    pub typing: bool,
    pub by: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long a member without connections stays.
    pub linger_ms: u64,
    /// How long one types who does not say so again.
    pub typing_ms: u64,
    /// A node that was not heard of for so long is gone.
    pub silence_ms: u64,
}

#[derive(Debug)]
struct Own {
    word: Word,
    leaves_at_ms: Option<u64>,
}

/// Another node.
#[derive(Debug, Default)]
struct Other {
    n: u64,
    words: BTreeMap<String, Word>,
    ends_at_ms: u64,
}

#[derive(Debug)]
struct Typist {
    until_ms: u64,
    by: Option<u64>,
}

#[derive(Debug)]
pub struct Roster {
    node: String,
    options: Options,
    own: BTreeMap<String, Own>,
    others: BTreeMap<String, Other>,
    typists: BTreeMap<String, Typist>,
    /// What the viewers were told, and how often.
    told: BTreeMap<String, Member>,
    version: u64,
    /// Users that viewers, and other nodes, may have to be told about.
    changed: BTreeSet<String>,
    unsaid: BTreeSet<String>,
    typing: Vec<Typing>,
    /// The number of the last changes that were told to other nodes.
    n: u64,
}

impl Roster {
    /// `node`: a name that no other node has.
    pub fn new(node: String, options: Options) -> Roster {
        Roster {
            node,
            options,
            own: BTreeMap::new(),
            others: BTreeMap::new(),
            typists: BTreeMap::new(),
            told: BTreeMap::new(),
            version: 0,
            changed: BTreeSet::new(),
            unsaid: BTreeSet::new(),
            typing: Vec::new(),
            n: 0,
        }
    }

    /// One more connection here. What it does not say of its user stays as it was.
    pub fn join(&mut self, member: &str, user: &str, role: Role, greeting: &Greeting) {
        let revision = self.newest(user).map_or(0, |word| word.revision);
        let known = self.newest(user).map(|word| word.member.about.clone());
        let fresh = *greeting != Greeting::default() || known.is_none();
        let own = self.own.entry(user.to_owned()).or_insert_with(|| {
            let (member, user) = (member.to_owned(), user.to_owned());
            let about = known.unwrap_or_default();
            Own {
                word: Word { member: Member { member, user, role, connections: 0, about }, revision },
                leaves_at_ms: None,
            }
        });
        own.leaves_at_ms = None;
        own.word.member.connections += 1;
        own.word.member.role = own.word.member.role.max(role);
        if fresh {
            own.word.revision = revision.saturating_add(1);
        }
        let about = &mut own.word.member.about;
        about.name = greeting.name.clone().or(about.name.take());
        about.meta = greeting.meta.clone().or(about.meta.take());
        self.touch(user);
    }

    /// One connection less. With the last one the member begins to leave.
    pub fn leave(&mut self, user: &str, connection: u64, now_ms: u64) {
        if self.typists.get(user).is_some_and(|typist| typist.by == Some(connection)) {
            self.types(user, false, Some(connection), now_ms);
        }
        let Some(own) = self.own.get_mut(user) else { return };
        own.word.member.connections = own.word.member.connections.saturating_sub(1);
        if own.word.member.connections == 0 {
            own.leaves_at_ms = Some(now_ms + self.options.linger_ms);
        }
        self.touch(user);
    }

    /// The member, which has a connection here, says something new of itself.
    pub fn change(&mut self, user: &str, change: impl FnOnce(&mut About)) {
        let Some(newest) = self.newest(user).cloned() else { return };
        let Some(own) = self.own.get_mut(user) else { return };
        let mut about = newest.member.about;
        change(&mut about);
        own.word.member.about = about;
        own.word.revision = newest.revision.saturating_add(1);
        self.touch(user);
    }

    /// Returns whether other nodes are to be told.
    pub fn types(&mut self, user: &str, typing: bool, by: Option<u64>, now_ms: u64) -> bool {
        let until_ms = now_ms + self.options.typing_ms;
        match (typing, self.typists.get_mut(user)) {
            (true, Some(typist)) => {
                // Said again and again: told again only when it is worth it.
                let worth = typist.until_ms + self.options.typing_ms / 3 <= until_ms;
                if worth {
                    typist.until_ms = until_ms;
                }
                worth
            }
            (false, None) => false,
            (true, None) => {
                self.typists.insert(user.to_owned(), Typist { until_ms, by });
                self.typing.push(Typing { user: user.to_owned(), typing, by });
                true
            }
            (false, Some(typist)) => {
                // Over by itself: it is still not told to who typed.
                let by = by.or(typist.by);
                self.typists.remove(user);
                self.typing.push(Typing { user: user.to_owned(), typing, by });
                true
            }
        }
    }

    /// Takes what another node says; returns what to answer.
    pub fn heard(&mut self, node: &str, gossip: Gossip, now_ms: u64) -> Option<Gossip> {
        match gossip {
            Gossip::Ask => return Some(self.state()),
            Gossip::Typing { user, typing } => {
                self.types(&user, typing, None, now_ms);
                return None;
            }
            Gossip::Gone => {
                let linger_ms = self.options.linger_ms;
                let other = self.others.get_mut(node)?;
                other.ends_at_ms = now_ms + linger_ms;
                for word in other.words.values_mut() {
                    word.member.connections = 0;
                }
                self.changed.extend(other.words.keys().cloned());
                return None;
            }
            Gossip::State { .. } | Gossip::Changes { .. } | Gossip::Beat { .. } => {}
        }
        let known = self.others.contains_key(node);
        let other = self.others.entry(node.to_owned()).or_default();
        other.ends_at_ms = now_ms + self.options.silence_ms;
        let keyed = |members: Vec<Word>| members.into_iter().map(|word| (word.member.user.clone(), word));
        match gossip {
            Gossip::State { n, members } => {
                self.changed.extend(other.words.keys().cloned());
                other.n = n;
                other.words = keyed(members).collect();
                let users: Vec<String> = other.words.keys().cloned().collect();
                users.iter().for_each(|user| self.adopt(user));
                self.changed.extend(users);
            }
            Gossip::Changes { n, members, left } if known && other.n.checked_add(1) == Some(n) => {
                other.n = n;
                for user in left {
                    other.words.remove(&user);
                    self.changed.insert(user);
                }
                let users: Vec<String> = members.iter().map(|word| word.member.user.clone()).collect();
                other.words.extend(keyed(members));
                users.iter().for_each(|user| self.adopt(user));
                self.changed.extend(users);
            }
            Gossip::Beat { n } if known && n == other.n => {}
            // Something was missed.
            _ => return Some(Gossip::Ask),
        }
        None
    }

    /// Lets go of who has been away for too long.
    pub fn tick(&mut self, now_ms: u64) {
        let left: Vec<String> = self
            .own
            .iter()
            .filter(|(_, own)| own.leaves_at_ms.is_some_and(|at| at <= now_ms))
            .map(|(user, _)| user.clone())
            .collect();
        for user in left {
            self.own.remove(&user);
            self.touch(&user);
        }
        let changed = &mut self.changed;
        self.others.retain(|_, other| {
            let stays = other.ends_at_ms > now_ms;
            if !stays {
                changed.extend(other.words.keys().cloned());
            }
            stays
        });
        let over = self.typists.iter().filter(|(_, typist)| typist.until_ms <= now_ms);
        for user in over.map(|(user, _)| user.clone()).collect::<Vec<_>>() {
            self.types(&user, false, None, now_ms);
        }
    }

    /// When the next tick is due.
    pub fn due_ms(&self) -> Option<u64> {
        let leaves = self.own.values().filter_map(|own| own.leaves_at_ms);
        let ends = self.others.values().map(|other| other.ends_at_ms);
        let typists = self.typists.values().map(|typist| typist.until_ms);
        leaves.chain(ends).chain(typists).min()
    }

    /// What has changed since viewers were told last.
    pub fn news(&mut self) -> Option<Diff> {
        let mut diff = Diff { version: self.version + 1, joins: vec![], leaves: vec![], updates: vec![] };
        for user in std::mem::take(&mut self.changed) {
            match (self.merged(&user), self.told.get(&user)) {
                (None, Some(_)) => diff.leaves.extend(self.told.remove(&user)),
                (Some(now), before) if now.connections > 0 && before != Some(&now) => {
                    let list = if before.is_none() { &mut diff.joins } else { &mut diff.updates };
                    list.push(now.clone());
                    self.told.insert(user, now);
                }
                // The same as before, lingering, or gone before anybody was told of it.
                _ => {}
            }
        }
        let any = !(diff.joins.is_empty() && diff.leaves.is_empty() && diff.updates.is_empty());
        self.version += u64::from(any);
        any.then_some(diff)
    }

    pub fn typing_news(&mut self) -> Vec<Typing> {
        std::mem::take(&mut self.typing)
    }

    /// What other nodes must be told since the last time.
    pub fn gossip(&mut self) -> Option<Gossip> {
        let (mut members, mut left) = (Vec::new(), Vec::new());
        for user in std::mem::take(&mut self.unsaid) {
            match self.own.get(&user) {
                Some(own) => members.push(own.word.clone()),
                None => left.push(user),
            }
        }
        if members.is_empty() && left.is_empty() {
            return None;
        }
        self.n += 1;
        Some(Gossip::Changes { n: self.n, members, left })
    }

    pub fn state(&self) -> Gossip {
        Gossip::State { n: self.n, members: self.own.values().map(|own| own.word.clone()).collect() }
    }

    pub fn beat(&self) -> Gossip {
        Gossip::Beat { n: self.n }
    }

    /// As viewers were told.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.told.values()
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// Those who type now.
    pub fn typists(&self) -> impl Iterator<Item = &str> {
        self.typists.keys().map(String::as_str)
    }

    /// Whether viewers know all that is known here of this user.
    pub fn is_told(&self, user: &str) -> bool {
        !self.changed.contains(user)
    }

    /// How many members there are, with those who linger.
    pub fn count(&self) -> usize {
        let mut elsewhere: BTreeSet<&str> = BTreeSet::new();
        for other in self.others.values() {
            elsewhere.extend(other.words.keys().map(String::as_str));
        }
        elsewhere.retain(|user| !self.own.contains_key(*user));
        self.own.len() + elsewhere.len()
    }

    pub fn connections(&self) -> u32 {
        let elsewhere = self.others.values().flat_map(|other| other.words.values());
        total(elsewhere.chain(self.own.values().map(|own| &own.word)).map(|word| word.member.connections))
    }

    pub fn knows(&self, user: &str) -> bool {
        self.newest(user).is_some()
    }

    /// Whether nobody is here, nor was a moment ago, on this node.
    pub fn is_deserted(&self) -> bool {
        self.own.is_empty()
    }

    fn touch(&mut self, user: &str) {
        self.changed.insert(user.to_owned());
        self.unsaid.insert(user.to_owned());
    }

    /// What a member said of itself on another node stays true when it leaves that node.
    fn adopt(&mut self, user: &str) {
        let newest = self.newest(user).cloned();
        let (Some(own), Some(newest)) = (self.own.get_mut(user), newest) else { return };
        if own.word.revision != newest.revision || own.word.member.about != newest.member.about {
            own.word.revision = newest.revision;
            own.word.member.about = newest.member.about;
            self.touch(user);
        }
    }

    fn words<'a>(&'a self, user: &str) -> impl Iterator<Item = (&'a str, &'a Word)> {
        let others =
            self.others.iter().filter_map(move |(node, other)| Some((node.as_str(), other.words.get(user)?)));
        self.own.get(user).map(|own| (self.node.as_str(), &own.word)).into_iter().chain(others)
    }

    fn newest(&self, user: &str) -> Option<&Word> {
        self.words(user).max_by_key(|(node, word)| (word.revision, *node)).map(|(_, word)| word)
    }

    fn merged(&self, user: &str) -> Option<Member> {
        let mut member = self.newest(user)?.member.clone();
        member.connections = total(self.words(user).map(|(_, word)| word.member.connections));
        member.role = self.words(user).map(|(_, word)| word.member.role).max()?;
        Some(member)
    }
}

/// Other nodes may say any number.
fn total(connections: impl Iterator<Item = u32>) -> u32 {
    connections.fold(0, u32::saturating_add)
}
