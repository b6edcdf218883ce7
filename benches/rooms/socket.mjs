// A WebSocket client that costs as little as it can: one thread reads a hundred thousand frames a second. It knows the
// text, ping and close frames of servers that do not compress, masks with zeros, and believes the handshake. All
// sockets read into one buffer; what they receive is counted together.

import net from "node:net";

const CONTINUATION = 0, TEXT = 1, CLOSE = 8, PING = 9, PONG = 10;
const buffer = Buffer.allocUnsafe(256 * 1024);

/** Bytes that were received, handshakes included. */
export const received = { bytes: 0 };

export class Socket {
  /** `on`: open(), text(latin1), closed(code, reason). */
  constructor(port, path, headers, on) {
    this.on = on;
    this.rest = null;
    this.begun = ""; // of a message in fragments
    this.code = 1006;
    this.reason = "";
    const callback = (n, chunk) => this.read(chunk.subarray(0, n));
    this.tcp = net.connect({ port, host: "127.0.0.1", noDelay: true, onread: { buffer, callback } });
    this.tcp.on("connect", () => this.tcp.write(
      `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
      `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n${headers}\r\n`, "latin1"));
    this.tcp.on("error", () => {});
    this.tcp.on("close", () => this.on.closed(this.code, this.reason));
    this.upgraded = false;
  }

  send(text) {
    this.frame(TEXT, Buffer.from(text));
  }

  /** Says goodbye; the server ends the connection. */
  close() {
    this.frame(CLOSE, Buffer.from([3, 232]));
  }

  destroy() {
    this.tcp.destroy();
  }

  frame(opcode, payload) {
    const long = payload.length > 125;
    const head = Buffer.alloc(long ? 8 : 6);
    head[0] = 0x80 | opcode;
    head[1] = 0x80 | (long ? 126 : payload.length);
    if (long) head.writeUInt16BE(payload.length, 2);
    this.tcp.write(Buffer.concat([head, payload]));
  }

  read(chunk) {
    received.bytes += chunk.length;
    const data = this.rest ? Buffer.concat([this.rest, chunk]) : chunk;
    let at = this.upgraded ? 0 : this.head(data);
    for (let next = at; next >= 0; ) {
      at = next;
      next = this.upgraded ? this.next(data, at) : -1;
    }
    // The buffer is everybody's: what is left is copied.
    this.rest = at < data.length ? (this.rest && at === 0 ? data : Buffer.from(data.subarray(at))) : null;
    return true;
  }

  /** Reads the answer to the handshake; returns where frames begin. */
  head(data) {
    const end = data.indexOf("\r\n\r\n");
    if (end < 0) return 0;
    const status = data.latin1Slice(9, 12);
    if (status !== "101") {
      this.code = Number(status);
      this.tcp.destroy();
      return data.length;
    }
    this.upgraded = true;
    this.on.open();
    return end + 4;
  }

  /** Reads the frame at `at`; returns where it ends, or -1 if it is not all there. */
  next(data, at) {
    const have = data.length - at;
    if (have < 2) return -1;
    let [size, head] = [data[at + 1], 2];
    if (size === 126) [size, head] = [have < 4 ? Infinity : data.readUInt16BE(at + 2), 4];
    else if (size === 127) [size, head] = [have < 10 ? Infinity : Number(data.readBigUInt64BE(at + 2)), 10];
    if (have < head + size) return -1;
    const [from, to] = [at + head, at + head + size];
    const opcode = data[at] & 15;
    if (opcode === TEXT || opcode === CONTINUATION) this.piece(data[at] & 128, data.latin1Slice(from, to));
    else if (opcode === PING) this.frame(PONG, data.subarray(from, to));
    else if (opcode === CLOSE) this.closed(data, from, size);
    return to;
  }

  piece(last, text) {
    const message = this.begun + text;
    this.begun = last ? "" : message;
    if (last) this.on.text(message);
  }

  closed(data, from, size) {
    this.code = size >= 2 ? data.readUInt16BE(from) : 1005;
    this.reason = data.latin1Slice(from + 2, from + size);
    this.tcp.destroySoon();
  }
}
