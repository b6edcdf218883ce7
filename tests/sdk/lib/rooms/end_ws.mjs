// npm `ws` as an end of lib/rooms/sockets.mjs. It also takes {n, frames: {pieces: [Buffer], ping?}}: a ping behind each piece.

import WebSocket from "ws";

export function wsEnd(told) {
  const sockets = [];
  const verbs = {
    open(n, { url, protocols, headers, options = {} }) {
      const { heartbeat, ...more } = options;
      const socket = (sockets[n] = new WebSocket(url, protocols, { headers, ...more }));
      const beat = heartbeat && setInterval(() => socket.readyState === WebSocket.OPEN && socket.ping("beat"), heartbeat);
      let upgraded = false;
      socket.on("open", () => (upgraded = true) && told({ n, told: "open", protocol: socket.protocol, extensions: socket.extensions }));
      socket.on("unexpected-response", (request, answer) => {
        told({ n, told: "refused", status: answer.statusCode });
        upgraded = true;
        request.destroy();
      });
      socket.on("message", (bytes) => told({ n, told: "message", text: String(bytes) }));
      socket.on("pong", (bytes) => told({ n, told: "pong", text: String(bytes) }));
      socket.on("ping", () => told({ n, told: "ping", text: "" }));
      socket.on("error", () => {});
      socket.on("close", (code, reason) => {
        clearInterval(beat);
        if (!upgraded) told({ n, told: "refused" });
        told({ n, told: "closed", code, reason: String(reason) });
      });
    },
    send(n, message) {
      const pieces = [message].flat();
      for (const [i, piece] of pieces.entries()) sockets[n].send(Buffer.from(piece), { binary: false, fin: i === pieces.length - 1 }, () => {});
    },
    frames(n, { pieces, ping }) {
      for (const [i, piece] of pieces.entries()) {
        sockets[n].send(piece, { binary: false, fin: i === pieces.length - 1 }, () => {});
        if (ping) sockets[n].ping(ping);
      }
    },
    bytes: (n, text) => sockets[n].send(Buffer.from(text), () => {}),
    ping: (n, text) => sockets[n].ping(text),
    close: (n, [code, reason]) => sockets[n].close(code, reason),
  };
  return {
    tell({ n, ...command }) {
      const [[verb, what]] = Object.entries(command);
      if (verb === "open" || sockets[n].readyState === WebSocket.OPEN) verbs[verb](n, what);
    },
    close: () => sockets.forEach((socket) => socket.terminate()),
  };
}
