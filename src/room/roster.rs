//! Who is in a room: a member is a user with a number of connections, however many devices that is.
//!
//! Pure: joins and leaves in, a versioned snapshot out. Member ids are given by the caller.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::auth::Role;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    pub member: String,
    pub user: String,
    pub role: Role,
    pub status: &'static str,
    pub connections: u32,
}

#[derive(Debug, Default)]
pub struct Roster {
    members: BTreeMap<String, Member>,
    /// Grows by one with every member that joins or leaves.
    version: u64,
}

impl Roster {
    /// One more connection of this user; `fresh` names the member if it is its first. Returns the member's id.
    pub fn join(&mut self, user: &str, role: Role, fresh: impl FnOnce() -> String) -> String {
        let version = &mut self.version;
        let member = self.members.entry(user.to_owned()).or_insert_with(|| {
            *version += 1;
            Member { member: fresh(), user: user.to_owned(), role, status: "online", connections: 0 }
        });
        member.connections += 1;
        member.role = member.role.max(role);
        member.member.clone()
    }

    /// One connection less; with the last one the member has left.
    pub fn leave(&mut self, user: &str) {
        let Some(member) = self.members.get_mut(user) else { return };
        member.connections -= 1;
        if member.connections == 0 {
            self.members.remove(user);
            self.version += 1;
        }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn members(&self) -> Vec<Member> {
        self.members.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_one_user_are_one_member() {
        let mut roster = Roster::default();
        let first = roster.join("ana", Role::Viewer, || "m1".into());
        assert_eq!(roster.join("ana", Role::Member, || "m2".into()), first);
        assert_eq!(
            (roster.version(), roster.members()[0].connections, roster.members()[0].role),
            (1, 2, Role::Member)
        );
        roster.leave("ana");
        assert_eq!((roster.version(), roster.members().len()), (1, 1));
        roster.leave("ana");
        roster.leave("nobody");
        assert_eq!((roster.version(), roster.members().len()), (2, 0));
    }
}
