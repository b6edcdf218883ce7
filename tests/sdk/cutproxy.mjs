// A TCP proxy that cuts: relays bytes both ways and breaks a connection after k bytes of an answer.
//
// cutProxy(target, { match, cuts }) listens on loopback. Each request whose bytes hold `match` takes the next entry of
// `cuts` (a number, or "none"): after that many response bytes the client's side ends by FIN (even k) or RST (odd k) and
// the server's side is dropped. `{ up: k }` breaks it after k bytes that the client sends behind that request instead: the
// server gets those. A request past the end of the list is left whole; `cuts` may also be a function of the request's
// number. Other requests, such as a page's own, pass untouched.

import net from "node:net";

export async function cutProxy(target, { match, cuts }) {
  const to = new URL(target);
  const sockets = new Set();
  const state = { requests: 0, cut: 0, bytes: 0, heads: [] };
  const server = net.createServer({ noDelay: true }, (client) => {
    const upstream = net.connect({ host: to.hostname, port: Number(to.port), noDelay: true });
    let [left, up] = [Infinity, Infinity];
    let cut = false;
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on("error", () => {}).on("close", () => sockets.delete(socket));
    }
    client.on("data", (bytes) => {
      if (bytes.includes(match)) {
        const k = typeof cuts === "function" ? cuts(state.requests) : cuts[state.requests];
        left = typeof k === "number" ? k : Infinity;
        up = k?.up ?? Infinity;
        client.by = (k?.up ?? k) % 2 ? "rst" : "fin";
        state.requests += 1;
        state.heads.push(bytes.toString("latin1"));
      } else if (!cut && bytes.length >= up) {
        cut = true;
        state.cut += 1;
        upstream.end(bytes.subarray(0, up));
        return client.by === "rst" ? client.resetAndDestroy() : client.end();
      } else up -= bytes.length;
      if (!cut) upstream.write(bytes);
    });
    upstream.on("data", (bytes) => {
      state.bytes += bytes.length;
      if (cut) return;
      if (bytes.length < left) {
        left -= bytes.length;
        client.write(bytes);
        return;
      }
      cut = true;
      state.cut += 1;
      upstream.destroy();
      client.write(bytes.subarray(0, left), () => (client.by === "rst" ? client.resetAndDestroy() : client.end()));
    });
    client.on("close", () => cut || upstream.destroy());
    upstream.on("close", () => cut || client.destroySoon());
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    state,
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((done) => server.close(done));
    },
  };
}
