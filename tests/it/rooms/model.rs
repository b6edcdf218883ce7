//! The roster against a naive model: several nodes, messages that come late or not at all, nodes that die, clients that
//! keep their list by differences alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use relaystream::auth::Role;
use relaystream::room::roster::{Gossip, Greeting, Member, Options, Roster};

const NODES: usize = 3;
const USERS: [&str; 4] = ["ana", "bob", "cyd", "dan"];
const OPTIONS: Options = Options { linger_ms: 1000, typing_ms: 500, silence_ms: 1000 };

#[derive(Debug, Clone)]
enum Step {
    Join {
        node: usize,
        user: usize,
    },
    Leave {
        node: usize,
        user: usize,
    },
    Status {
        node: usize,
        user: usize,
        status: u8,
    },
    Type {
        node: usize,
        user: usize,
        typing: bool,
    },
    /// Nodes tell their viewers and one another.
    Flush {
        node: usize,
    },
    /// One message arrives somewhere, or is lost.
    Deliver {
        node: usize,
        lost: bool,
    },
    Pass {
        ms: u64,
    },
    /// A node is gone with all its connections, and begins anew.
    Die {
        node: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (node, user) = (0..NODES, 0..USERS.len());
    prop_oneof![
        4 => (node.clone(), user.clone()).prop_map(|(node, user)| Step::Join { node, user }),
        4 => (node.clone(), user.clone()).prop_map(|(node, user)| Step::Leave { node, user }),
        2 => (node.clone(), user.clone(), 0..3_u8)
            .prop_map(|(node, user, status)| Step::Status { node, user, status }),
        1 => (node.clone(), user, any::<bool>()).prop_map(|(node, user, typing)| Step::Type { node, user, typing }),
        6 => node.clone().prop_map(|node| Step::Flush { node }),
        8 => (node.clone(), prop::bool::weighted(0.1)).prop_map(|(node, lost)| Step::Deliver { node, lost }),
        3 => (1..1500_u64).prop_map(|ms| Step::Pass { ms }),
        1 => node.prop_map(|node| Step::Die { node }),
    ]
}

struct Node {
    name: String,
    roster: Roster,
    /// A viewer's own list, made from differences.
    list: BTreeMap<String, Member>,
    version: u64,
    typing: BTreeSet<String>,
    /// What other nodes said that has not arrived.
    inbox: VecDeque<(String, Gossip)>,
    /// The connections that are open, by user.
    open: BTreeMap<&'static str, Vec<u64>>,
}

impl Node {
    fn new(name: String) -> Node {
        Node {
            roster: Roster::new(name.clone(), OPTIONS),
            name,
            list: BTreeMap::new(),
            version: 0,
            typing: BTreeSet::new(),
            inbox: VecDeque::new(),
            open: BTreeMap::new(),
        }
    }
}

struct World {
    nodes: Vec<Node>,
    now_ms: u64,
    /// Numbers connections and nodes.
    next: u64,
}

impl World {
    fn new() -> World {
        let nodes = (0..NODES).map(|n| Node::new(format!("n{n}"))).collect();
        World { nodes, now_ms: 0, next: 1 }
    }

    fn tell(&mut self, from: usize, gossip: &Gossip) {
        let name = self.nodes[from].name.clone();
        for (at, node) in self.nodes.iter_mut().enumerate() {
            if at != from {
                node.inbox.push_back((name.clone(), gossip.clone()));
            }
        }
    }

    fn flush(&mut self, at: usize) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[at];
        node.roster.tick(now_ms);
        if let Some(diff) = node.roster.news() {
            assert_eq!(diff.version, node.version + 1);
            node.version = diff.version;
            for member in diff.joins {
                assert!(node.list.insert(member.user.clone(), member).is_none(), "joined twice");
            }
            for member in diff.updates {
                let before = node.list.insert(member.user.clone(), member.clone());
                assert!(before.is_some_and(|before| before != member), "an update of nothing");
            }
            for member in diff.leaves {
                assert!(node.list.remove(&member.user).is_some(), "left twice");
            }
        }
        for news in node.roster.typing_news() {
            let told =
                if news.typing { node.typing.insert(news.user) } else { node.typing.remove(&news.user) };
            assert!(told, "typing told twice");
        }
        let members: Vec<&Member> = node.roster.members().collect();
        assert_eq!(node.list.values().collect::<Vec<_>>(), members);
        assert_eq!(node.roster.version(), node.version);
        if let Some(gossip) = node.roster.gossip() {
            self.tell(at, &gossip);
        }
    }

    fn deliver(&mut self, at: usize, lost: bool) -> bool {
        let Some((from, gossip)) = self.nodes[at].inbox.pop_front() else { return false };
        if !lost && let Some(answer) = self.nodes[at].roster.heard(&from, gossip, self.now_ms) {
            self.tell(at, &answer);
        }
        true
    }

    fn take(&mut self, step: &Step) {
        let now_ms = self.now_ms;
        match *step {
            Step::Join { node, user } => {
                let user = USERS[user];
                let name = self.next.is_multiple_of(2).then(|| self.next.to_string());
                let greeting = Greeting { name, meta: None };
                self.nodes[node].roster.join(&format!("m-{user}"), user, Role::Member, &greeting);
                self.nodes[node].open.entry(user).or_default().push(self.next);
                self.next += 1;
            }
            Step::Leave { node, user } => {
                let node = &mut self.nodes[node];
                if let Some(connection) = node.open.get_mut(USERS[user]).and_then(Vec::pop) {
                    node.roster.leave(USERS[user], connection, now_ms);
                }
            }
            Step::Status { node, user, status } => {
                self.nodes[node].roster.change(USERS[user], |about| about.status = status.to_string());
            }
            Step::Type { node, user, typing } => {
                let by = self.nodes[node].open.get(USERS[user]).and_then(|open| open.last().copied());
                if by.is_some() && self.nodes[node].roster.types(USERS[user], typing, by, now_ms) {
                    self.tell(node, &Gossip::Typing { user: USERS[user].into(), typing });
                }
            }
            Step::Flush { node } => self.flush(node),
            Step::Deliver { node, lost } => drop(self.deliver(node, lost)),
            Step::Pass { ms } => self.now_ms += ms,
            Step::Die { node } => {
                self.next += 1;
                self.nodes[node] = Node::new(format!("n{node}-{}", self.next));
            }
        }
    }

    /// Everything arrives, and who was away for long enough has left.
    fn settle(&mut self) {
        for _ in 0..12 {
            for at in 0..NODES {
                let beat = self.nodes[at].roster.beat();
                self.tell(at, &beat);
                self.flush(at);
            }
            while (0..NODES).fold(false, |any, at| self.deliver(at, false) | any) {}
            self.now_ms += OPTIONS.linger_ms / 4;
        }
        (0..NODES).for_each(|at| self.flush(at));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn everyones_view_converges(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.settle();
        let mut open = BTreeMap::<&str, u32>::new();
        for (user, connections) in world.nodes.iter().flat_map(|node| &node.open) {
            *open.entry(user).or_default() += connections.len() as u32;
        }
        open.retain(|_, connections| *connections > 0);
        for node in &world.nodes {
            let seen: BTreeMap<&str, u32> =
                node.list.values().map(|member| (member.user.as_str(), member.connections)).collect();
            prop_assert_eq!(&seen, &open);
            prop_assert_eq!(&node.list, &world.nodes[0].list);
            prop_assert!(node.typing.is_empty(), "typing for ever: {:?}", node.typing);
            prop_assert_eq!(node.roster.count(), open.len());
            prop_assert_eq!(node.roster.connections(), open.values().sum::<u32>());
        }
    }
}

#[test]
fn a_reload_is_no_news_and_a_second_device_no_second_member() {
    let mut roster = Roster::new("n".into(), OPTIONS);
    roster.join("m", "ana", Role::Viewer, &Greeting::default());
    assert_eq!(roster.news().expect("a join").joins.len(), 1);
    roster.join("m", "ana", Role::Member, &Greeting::default());
    let update = roster.news().expect("one more device");
    assert_eq!(
        (update.joins.len(), update.updates[0].connections, update.updates[0].role),
        (0, 2, Role::Member)
    );
    roster.leave("ana", 1, 0);
    assert_eq!(roster.news().expect("one device less").updates[0].connections, 1);
    roster.leave("ana", 2, 0);
    assert_eq!(roster.news(), None);
    roster.tick(OPTIONS.linger_ms - 1);
    roster.join("m", "ana", Role::Member, &Greeting::default());
    roster.tick(10 * OPTIONS.linger_ms);
    assert_eq!(roster.news(), None);
    roster.leave("ana", 3, 0);
    roster.tick(OPTIONS.linger_ms);
    assert_eq!(roster.news().map(|diff| (diff.version, diff.leaves.len())), Some((4, 1)));
    assert!(roster.is_deserted() && roster.due_ms().is_none());
}
