// The important one: two members whose connections are cut again and again, anywhere, hear exactly what one hears who was never cut.

import { cutProxy } from "../../cutproxy.mjs";
import { check, equal, test } from "../cases.mjs";
import { RELAY, ask, calls, marker, parseSse, sleep, textOf, until } from "../world.mjs";
import { api, messagesOf, room } from "./people.mjs";

const CUTS = 30;
const MODEL = "paced-60-15";
const WINDOW = 3;
const STREAMS = 6;
const LATE_MS = 60_000;

// Numbers from 0 to 1, the same ones for the same seed.
function seeded(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

// Most cuts are in what the server says, from its handshake on; every fourth in what the client says: no more than its hello for who says
// nothing else.
const place = (random, talks) => (random() < 0.25 ? { up: Math.floor(random() * (talks ? 900 : 50)) } : Math.floor(random() * 3_500));

// What a page has sent and not been answered: sent again under its id by the next socket, in its order.
class Outbox {
  waiting = new Map();
  positions = new Map();
  said = [];
  started = new Map();
  wrong = [];

  put(type, data) {
    const id = marker();
    this.waiting.set(id, { type, id, data });
    if (type === "text") this.said.push(data.content);
    return this.waiting.get(id);
  }

  take({ type, id, position, stream, data }) {
    if (type === "error") this.wrong.push(data);
    if (type !== "ack") return;
    const known = this.positions.get(id) ?? stream ?? position;
    if (known !== (stream ?? position)) this.wrong.push(`${id} is ${known} and ${stream ?? position}`);
    if (stream) this.started.set(stream, this.waiting.get(id)?.data.messages[0].content ?? this.started.get(stream));
    this.positions.set(id, known);
    this.waiting.delete(id);
  }
}

// Says something new as long as little is unanswered, and starts one stream after another, until `enough`.
function talk(socket, outbox, memory, enough) {
  if (enough()) return;
  const running = [...outbox.started.keys()].some((id) => !memory.done[id]);
  const starting = [...outbox.waiting.values()].some((m) => m.type === "start");
  const next = running || starting || outbox.started.size === STREAMS ? [] : [outbox.put("start", { model: MODEL, messages: ask(marker()) })];
  if (outbox.waiting.size < WINDOW) next.push(outbox.put("text", { content: `text ${outbox.said.length} grüße 🏔` }));
  for (const message of next) socket.say(message);
}

// A page that comes back until `over`: each socket says hello with what is held, sends again, goes on.
async function persist(person, base, outbox, { enough, over }) {
  while (!over()) {
    const socket = person.open({ base });
    let welcomed = false;
    const { hear } = socket;
    socket.hear = (message) => {
      hear(message);
      outbox.take(message);
      if (message.type === "welcome") welcomed = true;
    };
    if (await socket.open()) {
      socket.greet();
      await until("a welcome or a cut", () => welcomed || socket.closed, 15_000);
      for (const message of outbox.waiting.values()) socket.say(message);
      for (; !socket.closed && !over(); await sleep(15)) if (welcomed) talk(socket, outbox, person.memory, enough);
      socket.close(1000);
    }
    await socket.ended();
  }
}

// Joins and leaves come in their order, none left out; or all anew.
function checkPresence({ welcome, messages }) {
  let { version } = welcome;
  for (const { data } of messages.filter((m) => m.type === "presence")) {
    if (!data.members) equal(data.version, version + 1, "version of presence");
    version = data.version;
  }
}

async function compare(memory, control, outbox, whose) {
  const line = (m) => `${m.position} ${m.from}: ${m.content}`;
  equal(memory.room.map(line).join("\n"), control.room.map(line).join("\n"), `what ${whose} heard`);
  for (const stream of outbox.started.keys()) {
    equal(memory.texts[stream], await textOf(MODEL), `text of a stream, as ${whose} has it`);
    equal(memory.done[stream]?.status, "completed", "status");
  }
}

async function cut30(client, seed, cleanup) {
  const { session, owner, invite } = room(client);
  const control = await owner.enter(cleanup);
  const [bob, vic] = [invite("bob"), invite("vic", "viewer")];
  // A first visit begins where the room is; so that nothing may be missed, everyone was there before.
  for (const one of [bob, vic]) {
    const socket = await one.enter(cleanup);
    socket.close(1000);
    await socket.ended();
  }
  const proxies = [];
  for (const talks of [true, false]) {
    const random = seeded(2 * seed + talks);
    proxies.push(await cutProxy(RELAY, { match: "/ws", cuts: (n) => (n < CUTS ? place(random, talks) : undefined) }));
  }
  for (const proxy of proxies) cleanup(() => proxy.close());
  const outbox = new Outbox();
  const said = () => outbox.waiting.size === 0 && [...outbox.started.keys()].every((id) => owner.memory.done[id]);
  const enough = () => proxies.every(({ state }) => state.requests > CUTS);
  const has = (one) => one.memory.room.length >= outbox.said.length && [...outbox.started.keys()].every((id) => one.memory.done[id]);
  // Late, it is told below what is missing.
  const end = Date.now() + LATE_MS;
  const over = () => outbox.wrong.length > 0 || Date.now() > end || (enough() && said() && [owner, bob, vic].every(has));
  const talking = persist(bob, proxies[0].url, outbox, { enough, over });
  await Promise.all([talking, persist(vic, proxies[1].url, new Outbox(), { enough: () => true, over })]);

  equal(JSON.stringify([...outbox.wrong, ...bob.memory.resets, ...vic.memory.resets]), "[]", "refusals, other positions, resets");
  checkPresence(control);
  for (const { state } of proxies) check(state.cut >= CUTS - 5, `only ${state.cut} cuts`);
  equal(owner.memory.room.map((m) => m.content).join("\n"), outbox.said.join("\n"), "what was said, in its order");
  for (const [who, whose] of [[owner, "who was never cut"], [bob, "who talked"], [vic, "who watched"]]) await compare(who.memory, owner.memory, outbox, whose);
  await kept(owner, session, outbox);
  const chars = (await textOf(MODEL)).length * outbox.started.size;
  return `${proxies[0].state.cut} + ${proxies[1].state.cut} cuts, ${outbox.said.length} texts, ${chars} characters of ${outbox.started.size} streams`;
}

// The server's own account: the room's pages, each stream's events without a gap, and one upstream call each.
async function kept(owner, session, outbox) {
  const pages = [];
  for (let before = ""; before !== null; ) {
    const page = await messagesOf(owner.credential, session, `?limit=100${before && `&before=${before}`}`);
    pages.unshift(...page.messages);
    before = page.before ?? null;
  }
  equal(pages.map((m) => m.data.content).join("\n"), outbox.said.join("\n"), "what is kept");
  for (const [stream, mark] of outbox.started) {
    const events = parseSse(await (await api(owner.credential, "GET", `/v1/streams/${stream}/events`)).text());
    equal(events.map((e) => Number(e.id.split("-")[2])).join(), events.map((_, i) => i + 1).join(), "ids of a stream");
    equal((await calls(mark)).length, 1, "upstream calls");
  }
  const places = pages.map((m) => Number(m.position.split("-")[2]));
  // Between the texts stand the beginnings and ends of streams, and nothing else.
  const last = Math.max(...places);
  check(last - places.length <= 2 * outbox.started.size, `${last} places for ${places.length} texts and ${outbox.started.size} streams`);
}

export function cutCases(client) {
  for (const seed of [1, 2, 3])
    test(`cut ${CUTS} times while it talks and streams, seed ${seed}`, (cleanup) => cut30(client, seed, cleanup), { timeout: 90_000 });
}
