// The load of benches/room: members who come, stay or come and go, talk and type, while one stream runs. Speaks to
// either server, and prints what they took, and what the members saw of each other, as JSON.
//
//   node load.mjs '{"dialect": "relaystream", "port": 8080, "pid": 1, "secret": "…", "members": 1000, …}'

import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import * as dialects from "./dialects.mjs";
import { Member } from "./member.mjs";
import { received } from "./socket.mjs";

const args = JSON.parse(process.argv[2]);
const { members: count, churn, seconds, messages: talk, typing, tokenMs } = args;
const TICK_MS = 10, AWAY_MS = 1000, TYPES_MS = 500, SETTLE_MS = 30_000, AT_ONCE = 20, TALKERS = 20;

const tally = { kinds: {}, wrong: {}, welcomes: [], said: new Map(), presence: { frames: 0, changes: 0 }, short: 0 };
const run = { port: args.port, dialect: dialects[args.dialect], heard, closed, wrong };
let measuring = false;

function wrong(what) {
  tally.wrong[what] = (tally.wrong[what] ?? 0) + 1;
}

function closed(member, code, reason) {
  wrong(`closed with ${code} ${reason}`.trim());
}

function heard(member, fact, bytes) {
  if (fact.kind === "text" && member.stays) tally.said.get(fact.n)?.arrivals.push(performance.now());
  else if (fact.kind === "ack") tally.said.get(fact.n)?.acks.push(performance.now());
  if (!measuring) return;
  const kind = (tally.kinds[fact.kind] ??= { frames: 0, bytes: 0 });
  kind.frames += 1;
  kind.bytes += bytes;
  if (fact.kind === "welcome") tally.welcomes.push(performance.now() - member.since);
  if (fact.kind === "presence") {
    if (fact.members) wrong("presence told anew");
    else if (member === people[0]) {
      tally.presence.frames += 1;
      tally.presence.changes += fact.joins.length + fact.leaves.length + fact.updates;
    }
  }
}

/** HS256, as both servers check it. */
function token(user) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub: user, exp: Math.floor(Date.now() / 1000) + 3600, sessions: { "*": "member" } };
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", args.secret).update(signed).digest("base64url")}`;
}

// Of those who come and go, each is there for two seconds and away for two, if the server keeps up.
const all = Array.from({ length: count + 2 * churn }, (_, n) => `user-${String(n).padStart(5, "0")}`);
const people = all.map((user) => new Member(run, user, token(user)));
const staying = people.slice(0, count - 2 * churn);
staying.forEach((member) => (member.stays = true));
const present = people.slice(count - 2 * churn, count);
const away = people.slice(count).map((member) => ({ member, until: 0 }));

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
async function until(what, ready, limitMs = SETTLE_MS) {
  for (const end = performance.now() + limitMs; !ready(); await pause(20)) {
    if (performance.now() > end) return wrong(`waited in vain: ${what}`);
  }
}

async function fill() {
  // The first one names the room.
  for (let n = 0; n < count; ) {
    const coming = people.slice(0, n).filter((member) => member.state === "coming").length;
    for (let more = n ? AT_ONCE - coming : 1; more > 0 && n < count; more--) people[n++].come();
    await (n === 1 ? until("the first member", () => people[0].state === "in") : pause(2));
  }
  await until("all members are in", () => people.slice(0, count).every((member) => member.state === "in"), 120_000);
  await until("all see all", () => staying.every((member) => member.view.size === count));
}

function comeAndGo(leaving, coming) {
  for (; leaving > 0; leaving--) {
    const at = present.findIndex((member) => member.state === "in");
    if (at < 0) { tally.short += 1; continue; }
    const [member] = present.splice(at, 1);
    member.leave();
    away.push({ member, until: performance.now() + AWAY_MS });
  }
  for (; coming > 0; coming--) {
    const at = away.findIndex(({ member, until }) => member.state === "out" && until <= performance.now());
    if (at < 0) { tally.short += 1; continue; }
    const [{ member }] = away.splice(at, 1);
    present.push(member);
    member.come();
  }
}

function say(n) {
  const content = `m${n} and this is what somebody says to all the others, in a line of usual length.`;
  tally.said.set(n, { at: performance.now(), arrivals: [], acks: [] });
  staying[n % TALKERS].say(run.dialect.text(n, content));
}

function type(n) {
  const member = staying[TALKERS + (n % TALKERS)];
  member.say(run.dialect.typing(true));
  setTimeout(() => member.say(run.dialect.typing(false)), TYPES_MS);
}

/** Everything at its rate, counted from the start, so that a late tick is made up for. */
async function act() {
  const began = performance.now();
  const done = { moves: 0, said: 0, typed: 0 };
  for (let passed = 0; passed < seconds; await pause(TICK_MS)) {
    passed = Math.min(seconds, (performance.now() - began) / 1000);
    for (const due = Math.floor(passed * talk); done.said < due; ) say(done.said++);
    for (const due = Math.floor(passed * typing); done.typed < due; ) type(done.typed++);
    const moves = Math.floor(passed * churn) - done.moves;
    done.moves += moves;
    comeAndGo(moves, moves);
  }
  return done;
}

const inside = () => people.filter((member) => member.state === "in");
/** Those who stayed; whoever was closed is told of by that. */
const throughout = () => staying.filter((member) => member.state === "in");

function converged() {
  if (people.some((member) => member.state === "coming" || member.state === "leaving")) return false;
  const [here, stayed] = [inside(), throughout()];
  const length = stayed[0]?.text.length;
  return here.every((member) => member.view.size === here.length && member.text.length === length)
    && stayed.every((member) => member.done && member.seen.length === tally.said.size);
}

/** How many members hold something else than they should. */
function judge() {
  const [here, stayed] = [inside(), throughout()];
  const { seen, text, done } = stayed[0] ?? staying[0];
  const users = here.map((member) => member.user);
  const complete = [...tally.said.keys()].every((n) => seen.includes(n)) && seen.length === tally.said.size;
  const within = (member) => {
    const from = member.seen.length ? seen.indexOf(member.seen[0]) : 0;
    return from >= 0 && member.seen.every((n, at) => n === seen[from + at]);
  };
  const count = (list, bad) => list.filter(bad).length;
  return {
    "members that see others than are there": count(here, ({ view }) => view.size !== here.length || !users.every((user) => view.has(user))),
    "members at another version": count(here, ({ version }) => version !== here[0].version),
    "messages lost or doubled": complete ? 0 : Math.abs(tally.said.size - seen.length) || 1,
    "members with another order": count(stayed, (member) => member.seen.join() !== seen.join()),
    "visitors with a hole": count(here.filter((member) => !member.stays), (member) => !within(member)),
    "tokens lost or doubled": Math.abs(text.split("@").length - 1 - tokens),
    "members with another text": count(here, (member) => member.text !== text),
    "messages without one ack": count([...tally.said.values()], ({ acks }) => acks.length !== 1),
    "streams not completed": done === "completed" ? 0 : 1,
    ...tally.wrong,
  };
}

function server() {
  const fields = readFileSync(`/proc/${args.pid}/stat`, "latin1").split(") ")[1].split(" ");
  const size = (name) => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(readFileSync(`/proc/${args.pid}/status`, "latin1"))[1]);
  return { cpu: (Number(fields[11]) + Number(fields[12])) / 100, rssKib: size("VmRSS"), peakKib: size("VmHWM") };
}

function quantiles(values) {
  const sorted = values.filter((value) => value !== undefined).sort((a, b) => a - b);
  const at = (q) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? null;
  return { p50: at(0.5), p99: at(0.99), max: at(1), samples: sorted.length };
}

/** From saying to hearing, of each message: `share` of the receivers have it. */
function latency(share) {
  return quantiles([...tally.said.values()].map(({ at, arrivals }) => {
    const sorted = arrivals.sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] - at;
  }));
}

const tokens = (seconds * 1000) / tokenMs;
const empty = server();
await fill();
await pause(1000);
const before = server();
const [bytes, own, began] = [received.bytes, process.cpuUsage(), performance.now()];
measuring = true;
staying[0].say(run.dialect.start(`${tokens}x${tokenMs}`));
const done = await act();
const acted = performance.now();
await until("all have seen all", converged);
measuring = false;
const ended = performance.now();
const after = server();
const used = process.cpuUsage(own);
console.log(JSON.stringify({
  seconds: (ended - began) / 1000,
  settle_ms: ended - acted,
  cpu_s: after.cpu - before.cpu,
  generator_cpu_s: (used.user + used.system) / 1e6,
  empty_kib: empty.rssKib, full_kib: before.rssKib, peak_kib: after.peakKib,
  bytes: received.bytes - bytes,
  kinds: tally.kinds,
  presence: tally.presence,
  short: tally.short,
  ...done,
  median_receiver: latency(0.5),
  last_receiver: latency(1),
  welcome: quantiles(tally.welcomes),
  violations: judge(),
}));
people.forEach((member) => (member.state === "out" ? null : ((member.state = "leaving"), member.socket.destroy())));
