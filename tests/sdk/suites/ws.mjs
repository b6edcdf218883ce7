// npm `ws` on a session's socket: late joiners get the text so far in one piece, returning ones exactly what they missed.

import WebSocket from "ws";
import { cutProxy } from "../cutproxy.mjs";
import { check, equal, main, test } from "../lib/cases.mjs";
import { RELAY, calls, marker, sleep, snapshot, start, textOf, until } from "../lib/world.mjs";

const address = (base, session) => `${base.replace("http", "ws")}/v1/sessions/${session}/ws`;

// A member that keeps, like a page would, each log's text and position; `held` survives its sockets.
function join(url, session, held = { after: {}, texts: {}, done: {}, started: {} }) {
  const socket = new WebSocket(url, ["relaystream.v1"]);
  const member = { socket, held, messages: [], welcome: null, resets: [] };
  const take = {
    welcome({ data }) {
      member.welcome = data;
      held.after[session] = data.position;
      for (const { stream, position, text } of data.streams) {
        if (text !== undefined) held.texts[stream] = text;
        held.after[stream] = position;
      }
    },
    reset({ data }) {
      member.resets.push(data);
    },
    start({ stream, data }) {
      held.started[stream] = (held.started[stream] ?? 0) + 1;
      held.texts[stream] ??= "";
      member.model = data.model;
    },
    token({ stream, data }) {
      held.texts[stream] = (held.texts[stream] ?? "") + data.text;
    },
    done({ stream, data }) {
      held.done[stream] = data;
    },
  };
  socket.on("message", (bytes) => {
    const message = JSON.parse(bytes);
    member.messages.push(message);
    take[message.type]?.(message);
    if (message.position) held.after[message.stream ?? session] = message.position;
  });
  member.over = new Promise((finish) => socket.on("close", (code) => finish(code)).on("error", () => {}));
  member.ready = new Promise((ready, no) => {
    socket.on("open", () => {
      socket.send(JSON.stringify({ type: "hello", data: { after: held.after } }));
      ready();
    });
    socket.on("error", no).on("close", (code) => no(new Error(`closed with ${code}`)));
  });
  member.ready.catch(() => {});
  member.welcomed = () => until("welcome", () => member.welcome, 5_000);
  member.finished = (id) => until(`done of ${id}`, () => held.done[id], 20_000);
  return member;
}

async function enter(cleanup, session, held) {
  const member = join(address(RELAY, session), session, held);
  cleanup(() => member.socket.terminate());
  await member.ready;
  await member.welcomed();
  return member;
}

test("welcome of an empty session", async (cleanup) => {
  const session = marker();
  const { socket, welcome } = await enter(cleanup, session);
  equal(socket.protocol, "relaystream.v1", "subprotocol");
  for (const field of ["member", "user", "role", "room", "version", "members", "streams", "position"])
    check(welcome[field] !== undefined, `welcome has no ${field}: ${JSON.stringify(welcome)}`);
  equal(welcome.streams.length, 0, "streams");
  equal(welcome.members.length, 1, "members");
});

test("start, token and done, live", async (cleanup) => {
  const [session, mark] = [marker(), marker()];
  const member = await enter(cleanup, session);
  const { id } = await start("paced-30-15", mark, { session });
  equal((await member.finished(id)).status, "completed", "status");
  equal(member.held.texts[id], await textOf("paced-30-15"), "text");
  equal(member.held.started[id], 1, "starts");
  equal(member.model, "paced-30-15", "model");
  const mine = member.messages.filter((m) => m.stream === id);
  check(mine.every((m, i) => m.position && (i === 0 || m.position > mine[i - 1].position)), "positions do not grow");
  equal(mine[0].type + mine.at(-1).type, "startdone", "first and last");
  equal((await calls(mark)).length, 1, "upstream calls");
});

test("a late joiner gets the text so far in one piece, then lives", async (cleanup) => {
  const session = marker();
  const { id } = await start("paced-50-30", marker(), { session });
  await until("half of it", async () => (await snapshot(id)).text.length > 120);
  const late = await enter(cleanup, session);
  const [shown] = late.welcome.streams;
  equal(shown.stream, id, "stream");
  check(shown.text.length > 120, `welcome text has ${shown.text.length} characters`);
  await late.finished(id);
  equal(late.held.texts[id], await textOf("paced-50-30"), "text");
  check(late.messages.some((m) => m.type === "token"), "no token after the welcome");
});

test("one who joins after the end gets it whole", async (cleanup) => {
  const session = marker();
  const { id } = await start("ok", marker(), { session });
  await until("the end", async () => (await snapshot(id)).status === "completed");
  const { welcome } = await enter(cleanup, session);
  equal(welcome.streams[0].text, await textOf("ok"), "text");
  equal(welcome.streams[0].status, "completed", "status");
});

for (const [when, model] of [["while it runs", "paced-60-40"], ["after its end", "paced-30-20"]])
  test(`one who returns ${when} gets exactly what it missed`, async (cleanup) => {
    const session = marker();
    const { id } = await start(model, marker(), { session });
    const first = await enter(cleanup, session);
    await until("some tokens", () => (first.held.texts[id] ?? "").length > 60);
    first.socket.terminate();
    await first.over;
    if (when === "after its end") await until("the end", async () => (await snapshot(id)).status === "completed");
    else await sleep(200);
    const back = await enter(cleanup, session, first.held);
    check(back.welcome.streams.every((s) => s.text === undefined), "text was sent again to one who held a position");
    await back.finished(id);
    equal(back.held.texts[id], await textOf(model), "text");
    equal(back.resets.length, 0, "resets");
    check(!back.messages.some((m) => m.type === "start" && m.stream === id), "start was sent again");
  });

test("cut at many places, always returning with positions", async (cleanup) => {
  const [session, model, mark] = [marker(), "paced-80-25", marker()];
  const proxy = await cutProxy(RELAY, { match: "/ws HTTP", cuts: (n) => 350 + ((n * 433) % 1_300) });
  cleanup(() => proxy.close());
  const { id } = await start(model, mark, { session });
  let held;
  for (let sockets = 0; !held?.done[id]; sockets += 1) {
    check(sockets < 200, "200 sockets were not enough");
    const member = join(address(proxy.url, session), session, held);
    cleanup(() => member.socket.terminate());
    held = member.held;
    await Promise.race([member.over, member.finished(id)]);
    equal(member.resets.length, 0, "resets");
  }
  equal(held.texts[id], await textOf(model), "text");
  check(proxy.state.cut > 3, `only ${proxy.state.cut} cuts`);
  equal((await calls(mark)).length, 1, "upstream calls");
});

test("several members and two streams at once", async (cleanup) => {
  const session = marker();
  const members = await Promise.all(Array.from({ length: 5 }, () => enter(cleanup, session)));
  const models = ["paced-40-20", "paced-30-25"];
  const ids = [];
  for (const model of models) ids.push((await start(model, marker(), { session })).id);
  for (const member of members)
    for (const [i, id] of ids.entries()) {
      await member.finished(id);
      equal(member.held.texts[id], await textOf(models[i]), `text of ${models[i]}`);
    }
});

test("a foreign position is reset before the welcome, then the text comes", async (cleanup) => {
  const session = marker();
  const [{ id }, other] = [await start("ok-9", marker(), { session }), await start("ok-3")];
  await until("the end", async () => (await snapshot(id)).status === "completed");
  const after = { [id]: `${other.id}-0000-0000000002` };
  const member = await enter(cleanup, session, { after, texts: {}, done: {}, started: {} });
  equal(JSON.stringify(member.resets.map((r) => [r.log, r.reason])), JSON.stringify([[id, "foreign"]]), "resets");
  equal(member.messages[0].type, "reset", "first message");
  equal(member.welcome.streams[0].text, await textOf("ok-9"), "text");
});

for (const [model, partial] of [["truncate-5", true], ["rst-5", true], ["error-400", false]])
  test(`a failure is told, ${model}`, async (cleanup) => {
    const session = marker();
    const member = await enter(cleanup, session);
    const { id } = await start(model, marker(), { session });
    const done = await member.finished(id);
    equal(done.status, "failed", "status");
    check(done.error?.code, `error: ${JSON.stringify(done.error)}`);
    if (partial) check((await textOf(model)).startsWith(member.held.texts[id]), "not the provider's text");
  });

test("a cancel ends it for everyone", async (cleanup) => {
  const [session, mark] = [marker(), marker()];
  const member = await enter(cleanup, session);
  const { id } = await start("paced-200-30", mark, { session });
  await until("some text", () => (member.held.texts[id] ?? "").length > 40);
  await fetch(`${RELAY}/v1/streams/${id}/cancel`, { method: "POST" });
  const done = await member.finished(id);
  equal(done.status, "cancelled", "status");
  check(done.by, "nobody named");
  check((await textOf("paced-200-30")).startsWith(member.held.texts[id]), "not the provider's text");
});

test("a foreign origin is refused with 403 before the upgrade", async (cleanup) => {
  const socket = new WebSocket(address(RELAY, marker()), ["relaystream.v1"], { origin: "http://evil.example" });
  cleanup(() => socket.terminate());
  const status = await new Promise((seen) => {
    socket.on("unexpected-response", (_, answer) => seen(answer.statusCode)).on("open", () => seen("upgraded")).on("error", () => {});
  });
  equal(status, 403, "status");
});

await main();
