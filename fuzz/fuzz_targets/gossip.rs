#![no_main]
//! What other nodes say of a room's people, a line each: no panic, and a viewer that keeps its list by differences has
//! the same as one that comes now.

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use relaystream::auth::Role;
use relaystream::room::roster::{Gossip, Greeting, Member, Options, Roster};

fuzz_target!(|text: &str| {
    let options = Options { linger_ms: 20, typing_ms: 10, silence_ms: 40 };
    let mut roster = Roster::new("own".into(), options);
    let (mut list, mut version) = (BTreeMap::<String, Member>::new(), 0);
    roster.join("m-ann", "ann", Role::Member, &Greeting::default());
    for (n, line) in text.lines().enumerate() {
        let now_ms = n as u64;
        if let Ok(gossip) = serde_json::from_str::<Gossip>(line) {
            roster.heard(["one", "two"][n % 2], gossip, now_ms);
        }
        roster.tick(now_ms);
        if let Some(diff) = roster.news() {
            version += 1;
            assert_eq!(diff.version, version);
            for member in diff.leaves {
                assert!(list.remove(&member.user).is_some());
            }
            for member in diff.joins {
                assert!(list.insert(member.user.clone(), member).is_none());
            }
            for member in diff.updates {
                assert!(list.insert(member.user.clone(), member).is_some());
            }
        }
        assert!(list.values().eq(roster.members()));
    }
});
