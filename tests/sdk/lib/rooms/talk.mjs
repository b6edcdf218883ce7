// What is said and streamed in a room, as any WebSocket client sees it.

import { check, equal, test } from "../cases.mjs";
import { ask, calls, marker, textOf, until } from "../world.mjs";
import { BACKEND, Memory, api, messagesOf, room } from "./people.mjs";

const contents = (said) => said.map((m) => m.content).join(" ");

export function talkCases(client) {
  test("welcome of a new session", async (cleanup) => {
    const { session, owner } = room(client);
    const socket = await owner.enter(cleanup, { hello: { name: "Ann", meta: { color: "red" } } });
    equal(socket.opened.protocol, "relaystream.v1", "subprotocol");
    const { welcome: w, messages } = socket;
    equal(Object.keys(w).sort().join(), "member,members,position,role,room,streams,user,version", "fields");
    equal([w.user, w.role, JSON.stringify(w.streams)].join(), `${owner.user},owner,[]`, "who, in which role, streams");
    equal(w.position, `${w.room}-0000-0000000000`, "position");
    const me = { member: w.member, user: w.user, role: "owner", connections: 1, name: "Ann", status: "online", meta: { color: "red" } };
    equal(w.members.length, 1, "members");
    for (const [field, value] of Object.entries(me)) equal(JSON.stringify(w.members[0][field]), JSON.stringify(value), field);
    check(Number.isInteger(w.version) && messages[0].timestamp > 1.7e12, "version and timestamp are no numbers");
    equal(owner.memory.after[session], w.position, "position held");
  });

  test("a text is acknowledged, and told to all at one position", async (cleanup) => {
    const { owner, invite } = room(client);
    const [ann, bob] = [await owner.enter(cleanup), await invite("bob").enter(cleanup)];
    const ack = await ann.asks("text", { content: "Grüße 👩‍👩‍👧‍👦 \u2028 𝒳" }, "a-1");
    equal(ack.type, "ack", "answer");
    for (const socket of [ann, bob]) {
      const text = await socket.take("text");
      equal(JSON.stringify(text.data), JSON.stringify({ content: "Grüße 👩‍👩‍👧‍👦 \u2028 𝒳", from: owner.user, id: "a-1" }), "data");
      equal(text.position, ack.position, "position");
      equal(text.position, `${ann.welcome.room}-0000-0000000001`, "the first position");
    }
  });

  test("two who talk at once are heard in one order by all", async (cleanup) => {
    const { owner, invite } = room(client);
    const people = [owner, invite("bob"), invite("vic", "viewer")];
    const [ann, bob, vic] = [await people[0].enter(cleanup), await people[1].enter(cleanup), await people[2].enter(cleanup)];
    for (let i = 0; i < 20; i++) for (const one of [ann, bob]) one.does("text", { content: `${one.welcome.user} ${i}` }, marker());
    for (const one of [ann, bob, vic]) await until("forty texts", () => one.memory.room.length === 40);
    const order = JSON.stringify(ann.memory.room);
    for (const one of [bob, vic]) equal(JSON.stringify(one.memory.room), order, "what the others heard");
    for (const { user } of [owner, people[1]]) {
      const own = Array.from({ length: 20 }, (_, i) => `${user} ${i}`);
      equal(ann.memory.room.filter((m) => m.from === user).map((m) => m.content).join(), own.join(), "one's own order");
    }
    const positions = ann.memory.room.map((m) => Number(m.position.split("-")[2]));
    equal(positions.join(), Array.from({ length: 40 }, (_, i) => i + 1).join(), "positions");
  });

  test("the same id of one user is one message, on whichever socket", async (cleanup) => {
    const { owner, invite } = room(client);
    const ann = await owner.enter(cleanup);
    const bob = invite("bob");
    const [phone, laptop] = [await bob.enter(cleanup), await bob.enter(cleanup, { memory: new Memory(bob.session) })];
    const first = await phone.asks("text", { content: "once" }, "b-1");
    for (const socket of [phone, laptop, laptop]) equal((await socket.asks("text", { content: "once" }, "b-1")).position, first.position, "position of the same");
    const own = await ann.asks("text", { content: "mine" }, "b-1");
    check(own.position > first.position, "another user's id is another message");
    await until("both texts", () => ann.memory.room.length === 2 && laptop.memory.room.length === 2 && phone.memory.room.length === 2);
    equal(contents(laptop.memory.room), "once mine", "what was heard");
    equal((await messagesOf(bob.credential, bob.session)).messages.length, 2, "what is kept");
  });

  test("who comes back with its position is told what it missed, and nothing twice", async (cleanup) => {
    const { owner, invite } = room(client);
    const ann = await owner.enter(cleanup);
    const bob = invite("bob");
    const first = await bob.enter(cleanup);
    for (const content of ["one", "two"]) await ann.asks("text", { content });
    await until("two texts", () => bob.memory.room.length === 2);
    first.close(1000);
    await first.ended();
    for (const content of ["three", "four", "five"]) await ann.asks("text", { content });
    const back = await bob.enter(cleanup);
    await until("the rest", () => bob.memory.room.length === 5);
    await ann.asks("text", { content: "six" });
    await until("what is said now", () => bob.memory.room.length === 6);
    equal(contents(bob.memory.room), "one two three four five six", "all of it");
    equal(back.messages.filter((m) => m.type === "text").length, 4, "texts after the return");
    equal(JSON.stringify(bob.memory.room), JSON.stringify(ann.memory.room), "what ann heard");
  });

  test("who comes for the first time pages back from its welcome", async (cleanup) => {
    const { session, owner, invite } = room(client);
    const ann = await owner.enter(cleanup);
    for (const content of ["one", "two", "three"]) await ann.asks("text", { content });
    const bob = invite("bob");
    const { welcome } = await bob.enter(cleanup);
    equal((await ann.asks("text", { content: "four" })).type, "ack", "answer");
    await until("what is said now", () => bob.memory.room.length === 1);
    const { messages } = await messagesOf(bob.credential, session, `?before=${welcome.position}`);
    equal(contents(messages.map((m) => m.data)) + " " + contents(bob.memory.room), "one two three four", "pages and live");
  });

  test("a position that is not good resets, and all that is kept follows", async (cleanup) => {
    const { session, owner } = room(client);
    const ann = await owner.enter(cleanup);
    for (const content of ["one", "two"]) await ann.asks("text", { content });
    const log = ann.welcome.room;
    for (const [position, reason] of [[`${log}-0000-0000000099`, "ahead"], [`${"0".repeat(26)}-0000-0000000001`, "foreign"], ["nonsense", "unknown"]]) {
      const memory = Object.assign(new Memory(session), { after: { [session]: position } });
      const socket = await owner.enter(cleanup, { memory });
      equal(socket.messages[0].type, "reset", "first of all");
      equal(JSON.stringify(memory.resets), JSON.stringify([{ log: session, reason }]), "resets");
      await until("both texts", () => socket.messages.filter((m) => m.type === "text").length === 2);
      socket.close();
      await socket.ended();
    }
  });

  test("a stream is started, seen by all and cancelled from the socket", async (cleanup) => {
    const { session, owner, invite } = room(client);
    const [ann, bob] = [await owner.enter(cleanup), await invite("bob").enter(cleanup)];
    const mark = marker();
    const wish = { model: "paced-200-30", messages: ask(mark) };
    const begun = await bob.asks("start", wish, "s-1");
    check(begun.type === "ack" && begun.position.startsWith(begun.stream), `answer: ${JSON.stringify(begun)}`);
    equal((await bob.asks("start", wish, "s-1")).stream, begun.stream, "the same id again");
    for (const socket of [ann, bob]) {
      const start = await socket.take("start");
      equal([start.stream, start.data.session, start.data.model].join(), [begun.stream, session, wish.model].join(), "start");
      await until("some text", () => (socket.memory.texts[begun.stream] ?? "").length > 40);
    }
    equal((await bob.asks("cancel", { stream: begun.stream })).type, "ack", "answer to cancel");
    for (const socket of [ann, bob]) {
      const { data } = await socket.take("done");
      equal([data.status, data.by].join(), ["cancelled", bob.welcome.user].join(), "done");
      check((await textOf(wish.model)).startsWith(socket.memory.texts[begun.stream]), "not the provider's text");
    }
    equal((await calls(mark)).length, 1, "upstream calls");
  });

  test("a stream is whole for members, viewers and late joiners", async (cleanup) => {
    const { owner, invite } = room(client);
    const ann = await owner.enter(cleanup);
    const vic = await invite("vic", "viewer").enter(cleanup);
    const { stream } = await ann.asks("start", { model: "paced-60-25", messages: ask(marker()) });
    await until("some text", () => (vic.memory.texts[stream] ?? "").length > 60);
    const late = await invite("bob").enter(cleanup);
    check(late.welcome.streams[0].text.length > 40, "no text so far in the welcome");
    for (const socket of [ann, vic, late]) {
      await until("the end", () => socket.memory.done[stream], 20_000);
      equal(socket.memory.texts[stream], await textOf("paced-60-25"), "text");
      equal(socket.memory.done[stream].status, "completed", "status");
    }
  });

  test("what cannot be done is answered by an error of one shape", async (cleanup) => {
    const { owner, invite } = room(client);
    const ann = await owner.enter(cleanup);
    const vic = await invite("vic", "viewer").enter(cleanup);
    const is = (error, code, id, retryable = false) => {
      equal([error.type, error.data.code, error.data.retryable, error.id ?? null].join(), ["error", code, retryable, id ?? null].join(), JSON.stringify(error));
      equal(Object.keys(error.data).join(), "code,message,retryable", "fields");
      check(error.data.message && error.timestamp, "no message or timestamp");
    };
    for (const [type, data, code] of [
      ["nonsense", {}, "bad_request"], ["hello", {}, "bad_request"], ["cancel", { stream: "0".repeat(26) }, "not_found"],
      ["kick", { member: "nobody" }, "not_found"], ["signal", { to: "nobody", data: 1 }, "not_found"], ["start", { model: "ok" }, "invalid"],
      ["auth", { token: "wrong" }, "unauthorized"],
    ]) is(await ann.asks(type, data, `id-${type}`), code, `id-${type}`);
    for (const [type, data] of [
      ["text", { content: "hi" }], ["start", { model: "ok", input: "hi" }], ["kick", { member: "x" }], ["typing", { typing: true }], ["signal", { to: "x", data: 1 }],
    ]) is(await vic.asks(type, data), "not_allowed", vic.messages.at(-1).id);
    for (const wrong of ["", "{", "[]", '"text"', "{}", '{"type":7}', '{"type":"text"}', '{"type":"text","data":{"content":""}}', '{"type":"presence","data":{}}']) {
      ann.say(wrong);
      is(await ann.take("error", (m) => m.id === null), "bad_request");
    }
    ann.does("text", { content: "hi" }, "x".repeat(129));
    is(await ann.take("error", (m) => m.id?.length === 129), "bad_request", "x".repeat(129));
    equal((await ann.asks("text", { content: "still here" })).type, "ack", "the socket goes on");
  });

  test("who says too much at once is refused and may say it later", async (cleanup) => {
    const { owner } = room(client);
    const ann = await owner.enter(cleanup);
    for (let i = 0; i < 180; i++) ann.does("ping", undefined, `p-${i}`);
    const error = await ann.take("error");
    equal([error.data.code, error.data.retryable].join(), "rate_limited,true", "error");
    await until("an answer to each", () => ann.messages.filter((m) => ["pong", "error"].includes(m.type)).length === 180);
    await until("room again", async () => (await ann.asks("text", { content: "hi" })).type === "ack");
  });

  test("a backend speaks in the room, and what it forgets is closed with 4004", async (cleanup) => {
    const { session, owner, invite } = room(client);
    const [ann, vic] = [await owner.enter(cleanup), await invite("vic", "viewer").enter(cleanup)];
    equal((await api(BACKEND, "POST", `/v1/sessions/${session}/messages`, { type: "system", content: "soon over" })).status, 201, "status");
    for (const socket of [ann, vic]) equal((await socket.take("system")).data.content, "soon over", "content");
    equal((await api(owner.credential, "DELETE", `/v1/sessions/${session}`)).status, 204, "status");
    for (const socket of [ann, vic]) equal((await socket.ended()).code, 4004, "close code");
  });
}
