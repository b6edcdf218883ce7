// How one comes in, and why one is sent away.

import { check, equal, test } from "../cases.mjs";
import { marker, sleep, until } from "../world.mjs";
import { BACKEND, CONNECTIONS, GRACE_MS, MESSAGE_BYTES, Memory, Person, address, bearer, now, room, ticket, token } from "./people.mjs";

// Opens, says hello and waits for the close code; a handshake that is refused has none.
async function sentAway(cleanup, client, url, protocols, after = {}) {
  const socket = client.open(url, { protocols });
  cleanup(() => socket.close());
  equal(await socket.open(), true, "the handshake was done");
  socket.say({ type: "hello", data: { after } });
  return (await socket.ended()).code;
}

export function doorCases(client) {
  const ways = [
    ["a token as a subprotocol", (credential) => ({ protocols: bearer(credential) })],
    ["a ticket in the URL", async (credential, session) => ({ protocols: ["relaystream.v1"], query: `?ticket=${await ticket(credential, { session, role: "member" })}` })],
    ...(client.can.headers ? [["a token in a header", (credential) => ({ protocols: [], headers: { authorization: `Bearer ${credential}` } })]] : []),
  ];
  for (const [name, way] of ways)
    test(`in by ${name}`, async (cleanup) => {
      const { session, owner, invite } = room(client);
      await owner.enter(cleanup);
      const bob = invite("bob");
      const socket = await bob.enter(cleanup, await way(bob.credential, session));
      equal([socket.welcome.user, socket.welcome.role].join(), [bob.user, "member"].join(), "user and role");
      check(["relaystream.v1", ""].includes(socket.opened.protocol), "a credential was answered as the subprotocol");
      equal((await socket.asks("text", { content: "hi" })).type, "ack", "answer");
    });

  test("a ticket of a backend says who, in which role, by which name", async (cleanup) => {
    const { session, owner } = room(client);
    await owner.enter(cleanup);
    const query = `?ticket=${await ticket(BACKEND, { session, role: "viewer", user: "zoe", name: "Zoë" })}`;
    const { welcome } = await new Person(client, session, "zoe").enter(cleanup, { protocols: ["relaystream.v1"], query, hello: { name: "not Zoë" } });
    const zoe = welcome.members.find((m) => m.user === "zoe");
    equal([welcome.user, welcome.role, zoe.name].join(), "zoe,viewer,Zoë", "who");
  });

  test("a ticket for single use: once, then only with a position", async (cleanup) => {
    const { session, owner, invite } = room(client);
    const ann = await owner.enter(cleanup);
    const bob = invite("bob");
    const how = { protocols: ["relaystream.v1"], query: `?ticket=${await ticket(bob.credential, { session, role: "member", single_use: true })}` };
    const first = await bob.enter(cleanup, how);
    await ann.asks("text", { content: "one" });
    await first.take("text");
    first.close(1000);
    await first.ended();
    await ann.asks("text", { content: "two" });
    equal(await sentAway(cleanup, client, address(session, how), how.protocols), 4001, "close code without a position");
    const back = await bob.enter(cleanup, how);
    equal((await back.take("text")).data.content, "two", "what it missed");
    equal(await sentAway(cleanup, client, address(session, how), how.protocols, { [session]: "nonsense" }), 4001, "close code with a bad one");
  });

  test("4001 without a good credential, 4004 without a role there", async (cleanup) => {
    const { session, owner } = room(client);
    await owner.enter(cleanup);
    const other = await ticket(BACKEND, { session: marker() });
    for (const [what, query, protocols, code] of [
      ["none", "", ["relaystream.v1"], 4001], ["nonsense", "", bearer("nonsense"), 4001], ["expired", "", bearer(token("ann", {}, { exp: now() - 5 })), 4001],
      ["a made-up ticket", "?ticket=nonsense", ["relaystream.v1"], 4001], ["a key in the URL", `?key=${BACKEND}`, ["relaystream.v1"], 4001],
      ["no role", "", bearer(token("eve")), 4004], ["a ticket for another session", `?ticket=${other}`, ["relaystream.v1"], 4004],
    ]) equal(await sentAway(cleanup, client, address(session, { query }), protocols), code, `close code, ${what}`);
  });

  test("who does not name the subprotocol is refused before the upgrade", async (cleanup) => {
    const { session } = room(client);
    const socket = client.open(address(session), { protocols: [] });
    cleanup(() => socket.close());
    equal(await socket.open(), false, "the handshake was done");
    if (client.can.headers) equal(socket.refused.status, 401, "status");
  });

  test("4009 when a token has expired and the grace is over; a fresh one in time goes on", async (cleanup) => {
    const { owner, invite } = room(client);
    await owner.enter(cleanup);
    const [short, renewed] = ["bob", "cyd"].map((name) => invite(name, "member", { exp: now() + 3 }));
    const [bob, cyd] = [await short.enter(cleanup), await renewed.enter(cleanup)];
    const { data } = await bob.take("error");
    equal([data.code, data.retryable, data.grace_ms].join(), `expired,true,${GRACE_MS}`, "error");
    const sessions = { [owner.session]: "member" };
    equal((await cyd.asks("auth", { token: token("eve", sessions) })).data.code, "not_allowed", "another user's token");
    equal((await cyd.asks("auth", { token: token(renewed.user, sessions) })).type, "ack", "answer to auth");
    equal((await bob.ended()).code, 4009, "close code");
    await sleep(2 * GRACE_MS);
    equal((await cyd.asks("text", { content: "hi" })).type, "ack", "the other goes on");
    const back = new Person(client, owner.session, short.user, token(short.user, sessions));
    equal((await back.enter(cleanup)).welcome.user, short.user, "back with a fresh one");
  });

  test("4106 as many sockets of one user as may be", async (cleanup) => {
    const { owner } = room(client);
    const sockets = [];
    for (let i = 0; i < CONNECTIONS; i++) sockets.push(await owner.enter(cleanup, { memory: new Memory(owner.session) }));
    equal(await sentAway(cleanup, client, address(owner.session), bearer(owner.credential)), 4106, "close code");
    sockets[0].close(1000);
    await sockets[0].ended();
    equal((await sockets[1].asks("ping")).type, "pong", "the others go on");
    await until("its place", async () => {
      const next = owner.open({ memory: new Memory(owner.session) });
      cleanup(() => next.close());
      await next.open();
      next.greet();
      return until("an answer", () => next.messages[0] ?? next.closed).then((answer) => answer.type === "welcome");
    });
  });

  test("1007 for bytes, 1009 for what is too large; up to that it is said", async (cleanup) => {
    const { owner } = room(client);
    const first = await owner.enter(cleanup);
    first.bytes("\u0000binary");
    equal((await first.ended()).code, 1007, "close code for bytes");
    const frame = (bytes) => {
      const empty = JSON.stringify({ type: "text", id: "large", data: { content: "" } });
      return JSON.stringify({ type: "text", id: "large", data: { content: "x".repeat(bytes - empty.length) } });
    };
    const second = await owner.enter(cleanup);
    second.say(frame(MESSAGE_BYTES));
    await second.take("ack");
    equal((await second.take("text")).data.content.length, JSON.parse(frame(MESSAGE_BYTES)).data.content.length, "what was said");
    second.say(frame(MESSAGE_BYTES + 1));
    equal((await second.ended()).code, 1009, "close code for one byte too many");
  });

  test("1002 for who says no hello", async (cleanup) => {
    const { owner } = room(client);
    const socket = owner.open();
    cleanup(() => socket.close());
    equal(await socket.open(), true, "the handshake was done");
    socket.does("text", { content: "hi" }, "early");
    equal((await socket.take("error")).data.code, "bad_request", "what comes before it");
    equal((await socket.ended()).code, 1002, "close code");
  }, { aside: true });
}
