//! Who is there: joins and leaves told once, devices, reloads, statuses, typing, and all of it across nodes.

use serde_json::{Value, json};

use super::{PEOPLE, enter, name, open_room, say};
use crate::harness::Server;
use crate::harness::shared::Shared;
use crate::harness::socket::Socket;

/// A viewer's own list, kept by differences alone.
#[derive(Debug)]
struct List {
    version: u64,
    members: Vec<Value>,
}

impl List {
    fn of(welcome: &Value) -> List {
        let data = &welcome["data"];
        List {
            version: data["version"].as_u64().unwrap(),
            members: data["members"].as_array().unwrap().clone(),
        }
    }

    fn take(&mut self, presence: &Value) {
        let data = &presence["data"];
        assert_eq!(data["version"], self.version + 1, "{presence}");
        self.version += 1;
        for member in data["leaves"].as_array().unwrap() {
            self.members.retain(|known| known["user"] != member["user"]);
        }
        for member in data["updates"].as_array().unwrap() {
            let known = self.members.iter_mut().find(|known| known["user"] == member["user"]);
            *known.expect("an update of a member") = member.clone();
        }
        self.members.extend(data["joins"].as_array().unwrap().iter().cloned());
    }

    fn users(&self) -> Vec<&str> {
        let mut users: Vec<_> = self.members.iter().map(|member| member["user"].as_str().unwrap()).collect();
        users.sort_unstable();
        users
    }

    fn member(&self, user: &str) -> &Value {
        self.members
            .iter()
            .find(|member| member["user"] == user)
            .unwrap_or_else(|| panic!("no {user}: {self:?}"))
    }

    /// Reads until it is as it should be.
    async fn until(&mut self, socket: &mut Socket, ready: impl Fn(&List) -> bool) {
        while !ready(self) {
            let presence = socket.until("presence").await.pop().unwrap();
            self.take(&presence);
        }
    }
}

/// The next typing news, whatever else comes between: who, and whether.
async fn typing(socket: &mut Socket) -> (String, bool) {
    typing_of(&socket.until("typing").await.pop().unwrap())
}

fn typing_of(message: &Value) -> (String, bool) {
    let data = &message["data"];
    (data["user"].as_str().unwrap().to_owned(), data["typing"].as_bool().unwrap())
}

async fn type_on(socket: &mut Socket, typing: bool) {
    socket.say(&json!({"type": "typing", "data": {"typing": typing}})).await;
}

#[tokio::test]
async fn devices_of_one_user_are_one_member_and_a_reload_is_no_news() {
    let server = open_room("[rooms]\nlinger_ms = 1500\n").await;
    let (mut ann, welcome) = enter(&server, "ann", &[]).await;
    let mut list = List::of(&welcome);
    assert_eq!(list.users(), ["ann"]);
    assert_eq!(welcome["data"]["member"], list.member("ann")["member"]);
    let (phone, welcome) = enter(&server, "bob", &[]).await;
    // The newcomer is in its own welcome, and is not told of itself again.
    assert_eq!(List::of(&welcome).users(), ["ann", "bob"]);
    list.until(&mut ann, |list| list.users() == ["ann", "bob"]).await;
    assert_eq!(
        (&list.member("bob")["role"], &list.member("bob")["status"]),
        (&json!("member"), &json!("online"))
    );
    let (laptop, _) = enter(&server, "bob", &[]).await;
    list.until(&mut ann, |list| list.member("bob")["connections"] == 2).await;
    phone.leave().await;
    list.until(&mut ann, |list| list.member("bob")["connections"] == 1).await;
    let version = list.version;
    laptop.leave().await;
    let (reloaded, _) = enter(&server, "bob", &[]).await;
    reloaded.leave().await;
    list.until(&mut ann, |list| list.users() == ["ann"]).await;
    assert_eq!(list.version, version + 1, "nothing but one leave was told");
    ann.leave().await;
    server.finish().await;
}

#[tokio::test]
async fn what_members_say_of_themselves_is_told_and_kept_for_newcomers() {
    let server = open_room("").await;
    let (mut ann, welcome) = enter(&server, "ann", &[]).await;
    let mut list = List::of(&welcome);
    let mut bob = super::socket(&server, "bob").await;
    bob.say(&json!({"type": "hello", "data": {"name": "Bob B.", "meta": {"color": "red"}}})).await;
    bob.expect("welcome").await;
    list.until(&mut ann, |list| list.users() == ["ann", "bob"]).await;
    assert_eq!(list.member("bob")["name"], "Bob B.");
    for (change, field, value) in [
        (json!({"status": "away"}), "status", json!("away")),
        (json!({"cursor": {"x": 1, "y": 2}}), "cursor", json!({"x": 1, "y": 2})),
        (json!({"cursor": null, "meta": {"color": "blue"}}), "meta", json!({"color": "blue"})),
    ] {
        bob.say(&json!({"type": "presence", "data": change})).await;
        list.until(&mut ann, |list| list.member("bob")[field] == value).await;
    }
    let bob_now = list.member("bob").clone();
    assert_eq!(
        (&bob_now["status"], &bob_now["name"], bob_now.get("cursor")),
        (&json!("away"), &json!("Bob B."), None)
    );
    let (cyd, welcome) = enter(&server, "cyd", &[]).await;
    assert_eq!(List::of(&welcome).member("bob"), &bob_now);
    for data in [
        json!({}),
        json!({"status": 7}),
        json!({"status": "x".repeat(200)}),
        json!({"meta": "x".repeat(3000)}),
    ] {
        bob.say(&json!({"type": "presence", "id": "p", "data": data})).await;
        let error = bob.until("error").await.pop().unwrap();
        assert_eq!((&error["id"], &error["data"]["code"]), (&json!("p"), &json!("bad_request")), "{data}");
    }
    for socket in [ann, bob, cyd] {
        socket.leave().await;
    }
    server.finish().await;
}

#[tokio::test]
async fn typing_is_told_to_others_once_and_ends_by_itself() {
    let server = open_room("[rooms]\ntyping_ms = 300\n").await;
    let (mut ann, _) = enter(&server, "ann", &[]).await;
    let (mut bob, _) = enter(&server, "bob", &[]).await;
    type_on(&mut bob, true).await;
    type_on(&mut bob, true).await;
    assert_eq!(typing(&mut ann).await, ("bob".into(), true));
    // Who comes now is told, too.
    let (mut cyd, _) = enter(&server, "cyd", &[]).await;
    assert_eq!(typing(&mut cyd).await, ("bob".into(), true));
    assert_eq!(typing(&mut ann).await, ("bob".into(), false));
    assert_eq!(typing(&mut cyd).await, ("bob".into(), false));
    type_on(&mut ann, true).await;
    assert_eq!(typing(&mut bob).await, ("ann".into(), true), "bob was not told of its own");
    ann.leave().await;
    assert_eq!(typing(&mut bob).await, ("ann".into(), false), "who leaves types no more");
    let (mut vic, _) = enter(&server, "vic", &[]).await;
    type_on(&mut vic, true).await;
    assert_eq!(vic.until("error").await.pop().unwrap()["data"]["code"], "not_allowed");
    for socket in [bob, cyd, vic] {
        socket.leave().await;
    }
    server.finish().await;
}

#[tokio::test]
async fn who_has_missed_changes_is_told_everything_anew() {
    // No change fits into the window: everyone is always behind.
    let server = open_room("[rooms]\noutbox_bytes = 10\n").await;
    let (mut ann, _) = enter(&server, "ann", &[]).await;
    let (bob, _) = enter(&server, "bob", &[]).await;
    let anew = ann.expect("presence").await;
    assert_eq!(anew["data"].get("joins"), None);
    let users: Vec<&str> = anew["data"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| member["user"].as_str().unwrap())
        .collect();
    assert_eq!(users, ["ann", "bob"]);
    ann.leave().await;
    bob.leave().await;
    server.finish().await;
}

/// Two nodes over one store, with `room-1` open.
async fn pair() -> (std::sync::Arc<Shared>, Server, Server) {
    let store = Shared::new();
    let config = format!("[rooms]\nlinger_ms = 400\n{PEOPLE}");
    let (a, b) = (Server::node(store.node(0), &config).await, Server::node(store.node(1), &config).await);
    name(&a).await;
    (store, a, b)
}

#[tokio::test]
async fn members_on_several_nodes_see_one_another() {
    let (_store, a, b) = pair().await;
    let (mut ann, welcome) = enter(&a, "ann", &[]).await;
    let mut on_a = List::of(&welcome);
    let (mut bob, welcome) = enter(&b, "bob", &[]).await;
    let mut on_b = List::of(&welcome);
    on_a.until(&mut ann, |list| list.users() == ["ann", "bob"]).await;
    on_b.until(&mut bob, |list| list.users() == ["ann", "bob"]).await;
    assert_eq!(on_a.member("bob"), on_b.member("bob"));
    // One member on two nodes.
    let (device, _) = enter(&b, "ann", &[]).await;
    on_a.until(&mut ann, |list| list.member("ann")["connections"] == 2).await;
    on_b.until(&mut bob, |list| list.member("ann")["connections"] == 2).await;
    bob.say(&json!({"type": "presence", "data": {"status": "busy", "cursor": [1, 2]}})).await;
    on_a.until(&mut ann, |list| list.member("bob")["status"] == "busy").await;
    type_on(&mut ann, true).await;
    let mut news = bob.until("typing").await;
    assert_eq!(typing_of(&news.pop().unwrap()), ("ann".into(), true));
    news.iter().for_each(|presence| on_b.take(presence));
    device.leave().await;
    ann.leave().await;
    on_b.until(&mut bob, |list| list.users() == ["bob"]).await;
    bob.leave().await;
    a.finish().await;
    b.finish().await;
}

#[tokio::test]
async fn a_node_that_is_not_heard_of_takes_its_members_with_it() {
    let (store, a, b) = pair().await;
    let (mut bob, welcome) = enter(&b, "bob", &[]).await;
    let mut list = List::of(&welcome);
    let (mut ann, _) = enter(&a, "ann", &[]).await;
    list.until(&mut bob, |list| list.users() == ["ann", "bob"]).await;
    store.cut_off(0);
    list.until(&mut bob, |list| list.users() == ["bob"]).await;
    // Something was said that the node cannot read: its people are to come back.
    say(&mut bob, "1", "where is ann?").await;
    assert_eq!(ann.closed().await, 4200);
    store.let_back(0);
    let (ann, _) = enter(&a, "ann", &[]).await;
    list.until(&mut bob, |list| list.users() == ["ann", "bob"]).await;
    ann.leave().await;
    bob.leave().await;
    a.finish().await;
    b.finish().await;
}

#[tokio::test]
async fn a_node_that_drains_hands_its_members_over_without_a_leave() {
    let (_store, a, b) = pair().await;
    let (mut bob, welcome) = enter(&b, "bob", &[]).await;
    let mut list = List::of(&welcome);
    let (mut ann, _) = enter(&a, "ann", &[]).await;
    list.until(&mut bob, |list| list.users() == ["ann", "bob"]).await;
    a.app.drain(std::time::Duration::ZERO).await;
    assert_eq!(ann.closed().await, 4202);
    let version = list.version;
    let (ann, _) = enter(&b, "ann", &[]).await;
    ann.leave().await;
    list.until(&mut bob, |list| list.users() == ["bob"]).await;
    assert_eq!(list.version, version + 1, "ann left once");
    bob.leave().await;
    a.finish().await;
    b.finish().await;
}
