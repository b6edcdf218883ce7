// Notifications: what a user is told on all its sockets, whichever their sessions.

import { check, equal, test } from "../cases.mjs";
import { marker, until } from "../world.mjs";
import { BACKEND, Memory, Person, api, logOf, room, token } from "./people.mjs";

export async function notify(user, body) {
  const answer = await api(BACKEND, "POST", `/v1/users/${user}/notifications`, body);
  check([200, 201].includes(answer.status), `status ${answer.status}`);
  return { status: answer.status, ...(await answer.json()) };
}

export function mailCases(client) {
  test("a notification reaches all sockets of its user in every session, and nobody else", async (cleanup) => {
    const { owner, invite } = room(client);
    const ann = await owner.enter(cleanup);
    const bob = invite("bob");
    const here = await bob.enter(cleanup);
    const elsewhere = await new Person(client, marker(), bob.user, token(bob.user)).enter(cleanup);
    for (const content of ["one", "zwei 🏔"]) {
      const { position } = await notify(bob.user, { content });
      for (const socket of [here, elsewhere]) {
        const told = await socket.take("system");
        equal([told.data.content, told.data.from, told.position].join(), [content, BACKEND, position].join(), "notification");
      }
    }
    equal((await ann.asks("ping")).type, "pong", "answer");
    check(!ann.messages.some((m) => m.type === "system"), "somebody else was told");
    equal(bob.memory.room.length, 0, "what was said in the room");
  });

  test("who comes back to a socket is told what it missed, once", async (cleanup) => {
    const bob = room(client).owner;
    const first = await bob.enter(cleanup);
    await notify(bob.user, { content: "one" });
    await first.take("system");
    first.close(1000);
    await first.ended();
    for (const content of ["two", "three"]) await notify(bob.user, { content });
    const back = await bob.enter(cleanup);
    await notify(bob.user, { content: "four" });
    await until("all four", () => bob.memory.told.length === 4);
    equal(bob.memory.told.map((m) => m.content).join(), "one,two,three,four", "notifications");
    const stranger = await bob.enter(cleanup, { memory: new Memory(bob.session) });
    const last = await notify(bob.user, { content: "five" });
    for (const socket of [back, stranger]) equal((await socket.take("system", (m) => m.position === last.position)).data.content, "five", "told now");
    equal(stranger.messages.filter((m) => m.type === "system").length, 1, "who holds no position is told of new ones alone");
    equal(logOf(last.position), logOf(bob.memory.told[0].position), "log");
  });

  test("the same id is one notification", async (cleanup) => {
    const bob = room(client).owner;
    const socket = await bob.enter(cleanup);
    const [first, again] = [await notify(bob.user, { content: "paid", id: "invoice-7" }), await notify(bob.user, { content: "paid", id: "invoice-7" })];
    equal([first.status, again.status, again.position].join(), [201, 200, first.position].join(), "answers");
    await notify(bob.user, { content: "last" });
    await socket.take("system", (m) => m.data.content === "last");
    equal(bob.memory.told.length, 2, "notifications");
  });
}
