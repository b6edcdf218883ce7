// What is said and heard in a room, in relaystream's words and in socket.io's (Engine.IO 4 over WebSocket, by hand). What
// the server says becomes a fact: {kind, …} with the same fields for both.

/** Message ids carry a number; this one starts the stream. */
export const START = 1_000_000;

const users = (members) => members.map((member) => member.user);
/** "m17 and more" is message 17. */
const number = (text) => Number(/^m(\d+)/.exec(text)[1]);
const presence = (data) =>
  data.members
    ? { kind: "presence", version: data.version, members: users(data.members) }
    : { kind: "presence", version: data.version, joins: users(data.joins), leaves: users(data.leaves), updates: data.updates.length };
const welcome = ({ members, version, streams }) => {
  const text = streams.map((stream) => stream.text).join("");
  return { kind: "welcome", members: users(members), version, text };
};

export const relaystream = {
  path: "/v1/sessions/bench/ws",
  headers: (token) => `Authorization: Bearer ${token}\r\n`,
  open: () => '{"type":"hello","data":{}}',
  text: (n, content) => JSON.stringify({ type: "text", id: `m${n}`, data: { content } }),
  typing: (typing) => JSON.stringify({ type: "typing", data: { typing } }),
  start: (model) => JSON.stringify({ type: "start", id: `m${START}`, data: { model, input: "load" } }),

  fact(raw) {
    const { type, id, data } = JSON.parse(raw);
    switch (type) {
      case "ack": return { kind: "ack", n: number(id) };
      case "error": return { kind: "error", code: data.code };
      default: return told(type, data);
    }
  },
};

// What both servers tell alike.
function told(type, data) {
  switch (type) {
    case "welcome": return welcome(data);
    case "presence": return presence(data);
    case "text": return { kind: "text", n: number(data.content) };
    case "token": return { kind: "token", text: data.text };
    case "done": return { kind: "done", status: data.status };
    default: return { kind: type };
  }
}

export const socketio = {
  path: "/socket.io/?EIO=4&transport=websocket",
  headers: () => "",
  // the server speaks first
  open: () => null,
  text: (n, content) => `42${n}${JSON.stringify(["text", content])}`,
  typing: (typing) => `42${JSON.stringify(["typing", typing])}`,
  start: (model) => `42${START}${JSON.stringify(["start", model])}`,

  fact(raw, token) {
    if (raw === "2") return { kind: "ping", reply: "3" };
    if (raw[0] === "0") return { kind: "open", reply: `40${JSON.stringify({ token })}` };
    const ack = /^43(\d+)/.exec(raw);
    if (ack) return { kind: "ack", n: Number(ack[1]) };
    if (raw.startsWith("44")) return { kind: "error", code: raw.slice(2) };
    if (!raw.startsWith("42")) return { kind: "connected" };
    return told(...JSON.parse(raw.slice(2)));
  },
};
