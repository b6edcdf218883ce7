// Sockets of any client, as the cases see them. Each client lives in an end of its own (in this process, in Python, in a page), which is
// told commands and tells what came of them; both are plain data that name a socket by number:
//   {n, open: {url, protocols, headers?, options?}}  {n, send: text | [pieces]}  {n, bytes: text}  {n, ping: text}  {n, close: [code?, reason?]}
//   {n, told: "open", protocol, extensions}  {n, told: "refused", status?}  {n, told: "message", text}  {n, told: "pong" | "ping", text}
//   {n, told: "closed", code, reason}
// Pieces are sent as one message in as many frames.

import { until } from "../world.mjs";

class Socket {
  constructor(order) {
    this.order = order;
    this.messages = [];
    this.taken = new Set();
    this.pongs = [];
    this.pings = 0;
    this.hear = () => {};
  }

  takes({ told, ...what }) {
    if (told === "open") this.opened = what;
    if (told === "refused") this.refused = what;
    if (told === "closed") this.closed = what;
    if (told === "pong") this.pongs.push(what.text);
    if (told === "ping") this.pings += 1;
    if (told !== "message") return;
    const message = JSON.parse(what.text);
    this.messages.push(message);
    this.hear(message);
  }

  // Whether the handshake was done; also true of one that was closed at once.
  open = () => until("the handshake", () => this.opened ?? this.refused, 15_000).then(() => this.opened !== undefined);
  ended = () => until("the close", () => this.closed, 15_000);
  say = (message) => this.order({ send: typeof message === "string" || Array.isArray(message) ? message : JSON.stringify(message) });
  bytes = (text) => this.order({ bytes: text });
  frames = (pieces, more) => this.order({ frames: { pieces, ...more } });
  ping = (text) => this.order({ ping: text });
  close = (...how) => this.order({ close: how });

  // The first message of this type, not taken yet, for which `holds`.
  async take(type, holds = () => true) {
    const found = await until(`${type} on socket ${this.n}, after ${JSON.stringify(this.messages.slice(-4))}, closed: ${JSON.stringify(this.closed)}`,
      () => this.messages.find((m) => m.type === type && !this.taken.has(m) && holds(m)));
    this.taken.add(found);
    return found;
  }
}

// `start(told)` makes an end: {tell(command), close()}. `can` says what a client's interface offers: headers, frames
// (pieces and pings), chosen (bytes of frames).
export async function clientOf(start, can = {}) {
  const sockets = [];
  const end = await start((event) => sockets[event.n].takes(event));
  return {
    can,
    close: () => end.close(),
    open(url, { protocols = ["relaystream.v1"], headers, options } = {}) {
      const n = sockets.length;
      const socket = new Socket((command) => end.tell({ n, ...command }));
      socket.n = n;
      sockets.push(socket);
      end.tell({ n, open: { url, protocols, headers, options } });
      return socket;
    },
  };
}
