// What RFC 6455 leaves to clients: how they cut messages into frames, what they offer, ping and close with.

import { cutProxy } from "../../cutproxy.mjs";
import { check, equal, test } from "../cases.mjs";
import { RELAY, marker, sleep, until } from "../world.mjs";
import { MESSAGE_BYTES, Memory, PATIENCE_MS, bearer, room } from "./people.mjs";

// What a text says whose message, under its length as id, has so many bytes.
function contentOf(bytes) {
  const around = JSON.stringify({ type: "text", id: "", data: { content: "" } }).length;
  const n = Array.from({ length: 6 }, (_, digits) => bytes - around - digits).find((n) => around + n + String(n).length === bytes);
  return "x".repeat(n);
}

export function wireCases(client) {
  test("large texts, as the client cuts and masks them, come back the same", async (cleanup) => {
    const { owner, invite } = room(client);
    const ann = await owner.enter(cleanup);
    const vic = await invite("vic", "viewer").enter(cleanup);
    const contents = [1, 100, 1_000, 4_900].map((n) => "a🏔é\u0000".repeat(n));
    for (const bytes of [125, 126, 127, 65_535, MESSAGE_BYTES]) contents.push(contentOf(bytes));
    for (const content of contents) {
      ann.does("text", { content }, String(content.length));
      await ann.take("ack", (m) => m.id === String(content.length));
      equal((await vic.take("text")).data.content, content, "text");
    }
  });

  test("permessage-deflate is offered and declined, and all works without", async (cleanup) => {
    const proxy = await cutProxy(RELAY, { match: "/ws", cuts: [] });
    cleanup(() => proxy.close());
    const ann = await room(client).owner.enter(cleanup, { base: proxy.url });
    check(/sec-websocket-extensions: permessage-deflate/i.test(proxy.state.heads[0]), "the client offered nothing");
    equal(ann.opened.extensions, "", "extensions");
    equal((await ann.asks("text", { content: "compressible ".repeat(500) })).type, "ack", "answer");
    equal((await ann.take("text")).data.content, "compressible ".repeat(500), "text");
  });

  test("a ping message is answered under its id", async (cleanup) => {
    const ann = await room(client).owner.enter(cleanup);
    const pong = await ann.asks("ping", undefined, "p-1");
    equal([pong.type, pong.id].join(), "pong,p-1", "answer");
  });

  test("a silent socket is pinged and stays open", async (cleanup) => {
    const ann = await room(client).owner.enter(cleanup);
    await sleep(PATIENCE_MS + 1_500);
    equal(ann.closed, undefined, "closed");
    equal((await ann.asks("text", { content: "hi" })).type, "ack", "answer");
  }, { aside: true });

  for (const [code, reason] of [[1000, "bye"], [3001, ""], [4321, "grüße 🏔"]])
    test(`a close with ${code} is answered by the same`, async (cleanup) => {
      const ann = await room(client).owner.enter(cleanup);
      ann.close(code, reason);
      const closed = await ann.ended();
      equal(closed.code, code, "code");
      equal(closed.reason, reason, "reason");
    });

  test("a close in the middle of an answer is answered too", async (cleanup) => {
    const { owner } = room(client);
    const ann = await owner.enter(cleanup);
    const { stream } = await ann.asks("start", { model: "paced-200-5", input: marker() });
    await until("some text", () => owner.memory.texts[stream]?.length > 20);
    ann.close(3000, "enough");
    equal((await ann.ended()).code, 3000, "code");
    const back = await owner.enter(cleanup);
    equal((await back.asks("cancel", { stream })).type, "ack", "answer to cancel");
  });

  if (client.can.frames) frameCases(client);
  if (client.can.chosen) chosenCases(client);
}

// Of clients whose interface has frames.
function frameCases(client) {
  const pieces = (text, n) => Array.from({ length: Math.ceil(text.length / n) }, (_, i) => text.slice(i * n, (i + 1) * n));

  test("a message in many frames is one message", async (cleanup) => {
    const { owner } = room(client);
    const ann = await owner.enter(cleanup);
    for (const [content, n] of [["fragmented", 1], ["日本語 é ".repeat(200), 7], ["x".repeat(60_000), 1_000], ["empty frames", 5]]) {
      const id = marker();
      const cut = pieces(JSON.stringify({ type: "text", id, data: { content } }), n);
      ann.say(content === "empty frames" ? ["", ...cut.flatMap((piece) => [piece, ""])] : cut);
      await ann.take("ack", (m) => m.id === id);
      equal((await ann.take("text")).data.content, content, "text");
    }
  });

  test("1009 for frames that together are too large", async (cleanup) => {
    const ann = await room(client).owner.enter(cleanup);
    ann.say(pieces("x".repeat(70_000), 10_000));
    equal((await ann.ended()).code, 1009, "close code");
  });

  test("pings get pongs with the same payload, before hello too", async (cleanup) => {
    const ann = room(client).owner.open();
    cleanup(() => ann.close());
    equal(await ann.open(), true, "the handshake was done");
    const payloads = ["p", "é🏔", "x".repeat(125), "\u0000\u0001"];
    ann.ping("early");
    await until("a pong", () => ann.pongs.length === 1);
    ann.greet();
    await ann.take("welcome");
    for (const payload of payloads) ann.ping(payload);
    await until("all pongs", () => ann.pongs.length === payloads.length + 1);
    equal(JSON.stringify(ann.pongs), JSON.stringify(["early", ...payloads]), "payloads");
  });

  test("the client's own keepalive gets its answers", async (cleanup) => {
    const { owner } = room(client);
    const options = client.can.chosen ? { heartbeat: 100 } : { ping_interval: 0.1, ping_timeout: 5 };
    const ann = await owner.enter(cleanup, { options });
    await sleep(1_500);
    equal((await ann.asks("ping")).type, "pong", "answer");
    ann.close(1000);
    equal((await ann.ended()).code, 1000, "code");
    check(ann.pongs.includes("beat"), "no pong came");
  });
}

// Of npm `ws`, which lets its user choose everything.
function chosenCases(client) {
  test("a ping between the frames of a message, and a frame that ends within a character", async (cleanup) => {
    const { owner } = room(client);
    const ann = await owner.enter(cleanup);
    const bytes = Buffer.from(JSON.stringify({ type: "text", id: "f", data: { content: "日本🏔" } }));
    ann.frames([...bytes].map((byte) => Buffer.of(byte)), { ping: "between" });
    await ann.take("ack");
    equal((await ann.take("text")).data.content, "日本🏔", "text");
    await until("the pongs", () => ann.pongs.length === bytes.length);
  });

  test("4200 for who answers no pings", async (cleanup) => {
    const { owner } = room(client);
    const memory = new Memory(owner.session);
    const dead = await owner.enter(cleanup, { memory, options: { autoPong: false } });
    equal((await dead.ended()).code, 4200, "close code");
    check(dead.pings >= 1, "it was not pinged");
  }, { aside: true });

  test("1007 for text that is not UTF-8", async (cleanup) => {
    const ann = await room(client).owner.enter(cleanup);
    ann.frames([Buffer.from([0x22, 0xc3, 0x28, 0x22])]);
    equal((await ann.ended()).code, 1007, "close code");
  });

  test("a credential among subprotocols is never answered, whatever its order", async (cleanup) => {
    const { owner } = room(client);
    const ann = await owner.enter(cleanup, { protocols: [...bearer(owner.credential)].reverse() });
    equal(ann.opened.protocol, "relaystream.v1", "subprotocol");
  });
}
