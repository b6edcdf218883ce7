// Who comes into rooms, by which credentials, and what a page keeps over its sockets. run.mjs configures the server accordingly.

import { createHmac } from "node:crypto";
import { equal } from "../cases.mjs";
import { RELAY, json, marker, until } from "../world.mjs";

const SECRET = "0123456789abcdef0123456789abcdef";
// May speak for all users.
export const BACKEND = "backend";

export const LINGER_MS = 2_000;
export const GRACE_MS = 500;
export const CONNECTIONS = 4;
export const MESSAGE_BYTES = 65_536;
export const PATIENCE_MS = 4_500;

// Sockets are pinged after 500 ms of silence, so that a client that would not answer is noticed.
export const CONFIG = `
[auth.jwt]
secret = "${SECRET}"
leeway_s = 0
cookie = "id"
[[auth.keys]]
key = "${BACKEND}"
user = "${BACKEND}"
sessions = ["*"]
[limits]
requests_per_minute = 0
[rooms]
linger_ms = ${LINGER_MS}
typing_ms = 700
ping_ms = 500
pong_ms = ${PATIENCE_MS - 500}
expiry_grace_ms = ${GRACE_MS}
max_connections_per_user = ${CONNECTIONS}
message_bytes = ${MESSAGE_BYTES}
`;

export const now = () => Math.floor(Date.now() / 1_000);

// A token of this user with these roles by session.
export function token(user, sessions = {}, claims = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub: user, sessions, exp: now() + 600, ...claims })}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

export const bearer = (credential) => ["relaystream.v1", `bearer.${credential}`];

export async function api(credential, method, path, body) {
  const headers = { authorization: `Bearer ${credential}`, ...(body && { "content-type": "application/json" }) };
  return fetch(RELAY + path, { method, headers, body: body && JSON.stringify(body) });
}

export async function ticket(credential, wish) {
  const answer = await api(credential, "POST", "/v1/tickets", wish);
  equal(answer.status, 201, "status of POST /v1/tickets");
  return (await answer.json()).ticket;
}

export const address = (session, { base = RELAY, query = "" } = {}) => `${base.replace("http", "ws")}/v1/sessions/${session}/ws${query}`;
export const messagesOf = (credential, session, query = "") =>
  json(`${RELAY}/v1/sessions/${session}/messages${query}`, { headers: { authorization: `Bearer ${credential}` } });
export const logOf = (position) => position.split("-")[0];

// What a page keeps: the last position of each log, what was said in the room and to its user, text and end of each stream.
export class Memory {
  after = {};
  room = [];
  told = [];
  texts = {};
  done = {};
  resets = [];

  constructor(session) {
    this.session = session;
  }

  take({ type, position, stream, data }) {
    if (type === "ack") return;
    if (type === "reset") this.resets.push(data);
    if (type === "welcome") this.welcome(data);
    if (position) this.after[stream ?? this.nameOf(position)] = position;
    if (type === "text" || type === "system") (logOf(position) === this.log ? this.room : this.told).push({ position, ...data });
    if (type === "token") this.texts[stream] = (this.texts[stream] ?? "") + data.text;
    if (type === "done") this.done[stream] = data;
  }

  nameOf(position) {
    return logOf(position) === this.log ? this.session : logOf(position);
  }

  // Who comes back is told what it missed behind the welcome: until then its own place in the room is what it holds. Of a stream that it
  // hears of for the first time, the welcome tells everything, its end too.
  welcome({ room, position, streams }) {
    this.log = room;
    this.after[this.session] ??= position;
    for (const { stream, position, status, text } of streams) {
      if (text !== undefined) this.texts[stream] = text;
      if (text !== undefined && status !== "running") this.done[stream] = { status };
      this.after[stream] = position;
    }
  }
}

// A user of one session: opens sockets by its token, all with one memory unless told otherwise.
export class Person {
  constructor(client, session, user, credential) {
    Object.assign(this, { client, session, user, credential, memory: new Memory(session) });
  }

  open({ memory = this.memory, hello = {}, query, base, ...how } = {}) {
    const socket = this.client.open(address(this.session, { base, query }), { protocols: bearer(this.credential), ...how });
    socket.memory = memory;
    socket.hear = (message) => memory.take(message);
    socket.greet = () => socket.say({ type: "hello", data: { after: memory.after, ...hello } });
    socket.does = (type, data, id) => socket.say({ type, ...(id && { id }), data });
    // Says it under a new id, and returns the answer to that.
    socket.asks = async (type, data, id = marker()) => {
      socket.does(type, data, id);
      return until(`an answer to ${type}`, () => {
        const found = socket.messages.find((m) => ["ack", "error", "pong"].includes(m.type) && m.id === id && !socket.taken.has(m));
        if (found) socket.taken.add(found);
        return found;
      });
    };
    return socket;
  }

  // In, with what it was told; `memory` may be a new one, as of another device.
  async enter(cleanup, how) {
    const socket = this.open(how);
    cleanup(() => socket.close());
    equal(await socket.open(), true, "the handshake was done");
    socket.greet();
    const welcome = await socket.take("welcome");
    socket.welcome = welcome.data;
    return socket;
  }
}

// A session of its own for one case, owned by the first who names it: `owner`. Others are invited in a role.
export function room(client) {
  const [session, tail] = [marker(), marker().slice(5, 13)];
  const invite = (name, role = "member", claims = {}) => {
    const user = `${name}-${tail}`;
    return new Person(client, session, user, token(user, { [session]: role }, claims));
  };
  const owner = new Person(client, session, `ann-${tail}`, token(`ann-${tail}`));
  return { session, owner, invite };
}
