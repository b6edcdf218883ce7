// Who is there, who types, and what is passed on without being kept.

import { check, equal, test } from "../cases.mjs";
import { until } from "../world.mjs";
import { Memory, room } from "./people.mjs";

// The list of members that a page keeps by differences alone; each must be the next.
class List {
  constructor(socket) {
    Object.assign(this, { socket, version: socket.welcome.version, members: new Map(socket.welcome.members.map((m) => [m.user, m])) });
  }

  async until(what, holds) {
    while (!holds(this.members)) {
      const { data } = await this.socket.take("presence");
      equal(data.version, (this.version += 1), `version, before ${what}`);
      for (const { user } of data.leaves) this.members.delete(user);
      for (const member of [...data.joins, ...data.updates]) this.members.set(member.user, member);
    }
  }
}

const others = (name, others) => new Memory(others.session ?? name);

export function presenceCases(client) {
  test("devices of one user are one member, a reload is no news, a leave is told once", async (cleanup) => {
    const { owner, invite } = room(client);
    const ann = await owner.enter(cleanup);
    const list = new List(ann);
    const bob = invite("bob");
    const phone = await bob.enter(cleanup);
    equal(phone.welcome.members.map((m) => m.user).sort().join(), [owner.user, bob.user].sort().join(), "members in the newcomer's welcome");
    await list.until("a join", (m) => m.has(bob.user));
    const member = list.members.get(bob.user);
    equal([member.member, member.role, member.status, member.connections].join(), [phone.welcome.member, "member", "online", 1].join(), "member");
    const laptop = await bob.enter(cleanup, { memory: new Memory(bob.session) });
    await list.until("two devices", (m) => m.get(bob.user).connections === 2);
    phone.close(1000);
    await list.until("one device", (m) => m.get(bob.user).connections === 1);
    const { version } = list;
    laptop.close(1000);
    await laptop.ended();
    const reloaded = await bob.enter(cleanup);
    equal(reloaded.welcome.member, member.member, "the id of a member that comes back");
    reloaded.close(1000);
    await list.until("the leave", (m) => !m.has(bob.user));
    equal(list.version, version + 1, "nothing but one leave was told");
  });

  test("what members say of themselves is told, and kept for newcomers", async (cleanup) => {
    const { owner, invite } = room(client);
    const ann = await owner.enter(cleanup);
    const list = new List(ann);
    const bob = await invite("bob").enter(cleanup, { hello: { name: "Bob 🏔", meta: { color: "red" } } });
    const { user } = bob.welcome;
    await list.until("a join", (m) => m.has(user));
    equal(list.members.get(user).name, "Bob 🏔", "name");
    for (const [change, field, value] of [
      [{ status: "away" }, "status", "away"], [{ cursor: { x: 1, y: 2 } }, "cursor", { x: 1, y: 2 }], [{ cursor: null, meta: { color: "blue" } }, "meta", { color: "blue" }],
    ]) {
      bob.does("presence", change);
      await list.until(field, (m) => JSON.stringify(m.get(user)[field]) === JSON.stringify(value));
    }
    const known = list.members.get(user);
    check(known.cursor === undefined && known.status === "away", `what was not named: ${JSON.stringify(known)}`);
    const { welcome } = await invite("cyd").enter(cleanup);
    equal(JSON.stringify(welcome.members.find((m) => m.user === user)), JSON.stringify(known), "as a newcomer sees it");
  });

  test("typing is told to others, and ends by itself", async (cleanup) => {
    const { owner, invite } = room(client);
    const [ann, bob] = [await owner.enter(cleanup), await invite("bob").enter(cleanup)];
    const typing = async (socket) => Object.values((await socket.take("typing")).data).join();
    bob.does("typing", { typing: true });
    equal(await typing(ann), `${bob.welcome.user},true`, "begun");
    equal(await typing(ann), `${bob.welcome.user},false`, "over by itself");
    ann.does("typing", { typing: true });
    equal(await typing(bob), `${owner.user},true`, "bob was not told of its own");
    ann.does("typing", { typing: false });
    equal(await typing(bob), `${owner.user},false`, "ceased");
    equal(ann.messages.filter((m) => m.type === "typing").length, 2, "ann was not told of its own");
  });

  test("signals reach all connections of one member, both ways, and nobody else", async (cleanup) => {
    const { owner, invite } = room(client);
    const [ann, bob] = [await owner.enter(cleanup), await invite("bob").enter(cleanup)];
    const device = await owner.enter(cleanup, { memory: new Memory(owner.session) });
    const cyd = await invite("cyd").enter(cleanup);
    const offer = { sdp: "v=0\r\n" + "x".repeat(9_000), candidates: [1, null, "ü"] };
    bob.does("signal", { to: ann.welcome.member, data: offer });
    for (const socket of [ann, device]) {
      const { data } = await socket.take("signal");
      equal(JSON.stringify(data.data), JSON.stringify(offer), "data");
      equal([data.from, data.user].join(), [bob.welcome.member, bob.welcome.user].join(), "from");
    }
    ann.does("signal", { to: bob.welcome.member, data: "answer" });
    equal((await bob.take("signal")).data.data, "answer", "the way back");
    const error = await bob.asks("signal", { to: ann.welcome.member, data: "x".repeat(17_000) });
    equal(error.data.code, "too_large", "a signal that is too large");
    equal((await cyd.asks("ping")).type, "pong", "answer");
    check(!cyd.messages.some((m) => m.type === "signal"), "somebody else heard it");
  });

  test("an owner sends a member away from all its sockets", async (cleanup) => {
    const { owner, invite } = room(client);
    const ann = await owner.enter(cleanup);
    const list = new List(ann);
    const bob = invite("bob");
    const sockets = [await bob.enter(cleanup), await bob.enter(cleanup, { memory: new Memory(bob.session) })];
    await list.until("a join", (m) => m.get(bob.user)?.connections === 2);
    equal((await ann.asks("kick", { member: sockets[0].welcome.member })).type, "ack", "answer");
    for (const socket of sockets) equal((await socket.ended()).code, 4005, "close code");
    await list.until("the leave", (m) => !m.has(bob.user));
    await until("the socket goes on", async () => (await ann.asks("ping")).type === "pong");
  });
}
