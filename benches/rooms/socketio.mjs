// One room on npm socket.io 4: the smallest server that does what benches/room asks of both. It keeps nothing, has no
// limits, and knows one node only.
//
//   node socketio.mjs PORT UPSTREAM_PORT TICK_MS SECRET
//
// Presence and tokens wait for a tick that all members share, as relaystream's do; with TICK_MS 0 everything goes out
// by itself. Tokens come from the same paced upstream, credentials are the same tokens.

import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import { Server } from "socket.io";

const [port, upstream, tickMs, secret] = process.argv.slice(2);
const ROOM = "room";

const server = createServer((_, answer) => answer.end("ready"));
const io = new Server(server, { transports: ["websocket"], perMessageDeflate: false, serveClient: false });

/** user → {member, user, role, connections, status} */
const members = new Map();
const stream = { text: "", position: 0, status: "none" };
let version = 0;
let order = 0;
let changed = new Map();
let newcomers = [];
let tokens = "";
let timer = null;

io.use((socket, next) => {
  const user = verified(socket.handshake.auth.token);
  socket.data.user = user;
  next(user ? undefined : new Error("no valid credential"));
});

io.on("connection", (socket) => {
  const { user } = socket.data;
  const before = members.get(user);
  newcomers.push(socket);
  change(user, before ? { ...before, connections: before.connections + 1 } : newMember(user));
  socket.on("text", (content, ack) => {
    const position = ++order;
    io.to(ROOM).emit("text", { position, content, from: user, timestamp: Date.now() });
    ack({ position });
  });
  socket.on("typing", (typing) => socket.to(ROOM).emit("typing", { user, typing, timestamp: Date.now() }));
  socket.on("start", (model, ack) => {
    generate(model).catch((error) => end(String(error)));
    ack({ stream: "stream" });
  });
  socket.on("disconnect", () => {
    const now = members.get(user);
    change(user, now.connections > 1 ? { ...now, connections: now.connections - 1 } : null);
  });
});

function newMember(user) {
  const member = createHash("sha256").update(`${ROOM}/${user}`).digest("hex").slice(0, 16);
  return { member, user, role: "member", connections: 1, status: "online" };
}

/** Notes who changed; what the members were told last decides at the tick what there is to tell. */
function change(user, now) {
  if (!changed.has(user)) changed.set(user, members.get(user));
  if (now) members.set(user, now);
  else members.delete(user);
  soon();
}

function soon() {
  if (tickMs === "0") tick();
  else timer ??= setTimeout(tick, Number(tickMs));
}

function tick() {
  timer = null;
  tellPresence();
  if (tokens) {
    io.to(ROOM).emit("token", { stream: "stream", position: stream.position, text: tokens, timestamp: Date.now() });
    stream.text += tokens;
    tokens = "";
  }
}

function tellPresence() {
  const diff = { joins: [], leaves: [], updates: [] };
  for (const [user, before] of changed) {
    const now = members.get(user);
    if (now && before) diff.updates.push(now);
    else if (now) diff.joins.push(now);
    else if (before) diff.leaves.push(before);
  }
  changed = new Map();
  if (diff.joins.length + diff.leaves.length + diff.updates.length) {
    version += 1;
    io.to(ROOM).emit("presence", { version, ...diff, timestamp: Date.now() });
  }
  const arrived = newcomers.filter((socket) => socket.connected);
  newcomers = [];
  for (const socket of arrived) {
    const { text, position, status } = stream;
    const everybody = { version, members: [...members.values()], streams: [{ text, position, status }], position: order };
    socket.emit("welcome", { user: socket.data.user, ...everybody, timestamp: Date.now() });
    socket.join(ROOM);
  }
}

/** Reads an OpenAI-compatible answer. */
async function generate(model) {
  const body = JSON.stringify({ model, stream: true, messages: [{ role: "user", content: "load" }] });
  const headers = { "content-type": "application/json" };
  const answer = await fetch(`http://127.0.0.1:${upstream}/v1/chat/completions`, { method: "POST", headers, body });
  stream.status = "running";
  let rest = "";
  for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: {")) add(JSON.parse(line.slice(6)).choices[0]?.delta.content);
    }
  }
  end("completed");
}

function add(text) {
  if (!text) return;
  tokens += text;
  stream.position += 1;
  soon();
}

function end(status) {
  tick();
  stream.status = status;
  io.to(ROOM).emit("done", { stream: "stream", position: stream.position, status, timestamp: Date.now() });
}

/** The user of an HS256 token; undefined if it is not one of ours. */
function verified(token) {
  const [head, claims, signature] = String(token).split(".");
  const expected = createHmac("sha256", secret).update(`${head}.${claims}`).digest();
  const given = Buffer.from(signature ?? "", "base64url");
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) return undefined;
  const { sub, exp } = JSON.parse(Buffer.from(claims, "base64url").toString());
  return exp > Date.now() / 1000 ? sub : undefined;
}

server.listen(Number(port), "127.0.0.1");
