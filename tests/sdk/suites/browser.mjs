// Native EventSource in Debian's Chromium, driven by playwright-core: cut, reconnected by the browser itself, stopped by
// 204; and the product's own page, reloaded mid-answer, watched by a second page, stopped.

import { cutProxy } from "../cutproxy.mjs";
import { check, equal, main, test } from "../lib/cases.mjs";
import { launchChromium } from "../lib/chromium.mjs";
import { PROVIDER, RELAY, calls, ended, marker, snapshot, textOf, until } from "../lib/world.mjs";

const browser = await launchChromium();

async function page(cleanup, url) {
  const one = await browser.newPage();
  cleanup(() => one.close());
  await one.goto(url);
  return one;
}

// Runs in the page: ends when the browser gives up by itself; closes only what reconnects without end.
function watch(url) {
  return new Promise((finish) => {
    const source = new EventSource(url);
    const seen = { text: "", ids: [], starts: [], errors: 0, done: null };
    for (const type of ["start", "token", "reset", "done"])
      source.addEventListener(type, ({ data, lastEventId }) => {
        const body = JSON.parse(data);
        if (lastEventId) seen.ids.push(lastEventId);
        if (type === "start") seen.starts.push(body.stream);
        if (type === "token") seen.text += body.text;
        if (type === "reset") seen.text = "";
        if (type === "done") seen.done = body;
      });
    source.onerror = () => {
      seen.errors += 1;
      if (seen.errors > 10) source.close();
      if (source.readyState === EventSource.CLOSED) finish(seen);
    };
  });
}

const chatPath = (model, mark) => `/v1/chat/stream?${new URLSearchParams({ prompt: mark, model })}`;

async function expectWhole(seen, model, mark) {
  equal(seen.text, await textOf(model), "text");
  check(seen.errors <= 10, "the browser reconnected without end");
  equal(seen.done?.status, "completed", "status");
  equal(new Set(seen.ids).size, seen.ids.length, "events, each once");
  equal(seen.starts.length, 1, "starts");
  equal((await calls(mark)).length, 1, "upstream calls");
}

for (const model of ["ok", "paced-60-25"])
  test(`EventSource: whole, then the browser stops by itself, ${model}`, async (cleanup) => {
    const mark = marker();
    const proxy = await cutProxy(RELAY, { match: "/v1/chat/stream", cuts: [] });
    cleanup(() => proxy.close());
    const one = await page(cleanup, `${proxy.url}/healthz`);
    await expectWhole(await one.evaluate(watch, chatPath(model, mark)), model, mark);
    equal(proxy.state.requests, 2, "requests, the second answered 204");
  });

for (const cuts of [[1_100], [1_501], [2_400], [3_333], [5_000], [1_000, 1_201, 1_700, 1_101]])
  test(`EventSource: the socket is cut after ${cuts} bytes`, async (cleanup) => {
    const [model, mark] = ["paced-60-60", marker()];
    const proxy = await cutProxy(RELAY, { match: "/v1/chat/stream", cuts });
    cleanup(() => proxy.close());
    const one = await page(cleanup, `${proxy.url}/healthz`);
    const seen = await one.evaluate(watch, chatPath(model, mark));
    equal(proxy.state.cut, cuts.length, "cuts");
    await expectWhole(seen, model, mark);
  }, { timeout: 45_000 });

test("EventSource: a cut before the first event starts no second stream when the page gave a key", async (cleanup) => {
  const [model, mark] = ["paced-60-25", marker()];
  const proxy = await cutProxy(RELAY, { match: "/v1/chat/stream", cuts: [720, 740, 760] });
  cleanup(() => proxy.close());
  const one = await page(cleanup, `${proxy.url}/healthz`);
  const seen = await one.evaluate(watch, `${chatPath(model, mark)}&key=${crypto.randomUUID()}`);
  equal(seen.text, await textOf(model), "text");
  equal(seen.done?.status, "completed", "status");
  equal((await calls(mark)).length, 1, "upstream calls");
}, { timeout: 45_000 });

test("EventSource: cut, from a page of another loopback origin", async (cleanup) => {
  const [model, mark] = ["paced-60-30", marker()];
  const proxy = await cutProxy(RELAY, { match: "/v1/chat/stream", cuts: [2_000] });
  cleanup(() => proxy.close());
  const one = await page(cleanup, `${PROVIDER}/_page`);
  await expectWhole(await one.evaluate(watch, proxy.url + chatPath(model, mark)), model, mark);
  equal(proxy.state.cut, 1, "cuts");
});

test("EventSource: a truncated answer is told as failed and not asked again", async (cleanup) => {
  const mark = marker();
  const one = await page(cleanup, `${RELAY}/healthz`);
  const seen = await one.evaluate(watch, chatPath("truncate-5", mark));
  equal(seen.done?.status, "failed", "status");
  check(seen.text && (await textOf("truncate-5")).startsWith(seen.text), `not the provider's text: ${seen.text}`);
  equal((await calls(mark)).length, 1, "upstream calls");
});

test("EventSource: a page that closes leaves the stream running", async (cleanup) => {
  const mark = marker();
  const one = await page(cleanup, `${RELAY}/healthz`);
  await one.evaluate((url) => void new EventSource(url), chatPath("paced-40-40", mark));
  await until("the upstream call", async () => (await calls(mark)).length);
  await one.close();
  equal((await ended(mark)).outcome, "whole", "the upstream call");
});

// The product's own page. Every stream it touches is told by the answers' X-Stream-Id.
async function ownPage(cleanup, url = `${RELAY}/`) {
  const one = await browser.newPage();
  const streams = new Set();
  one.on("response", (answer) => answer.headers()["x-stream-id"] && streams.add(answer.headers()["x-stream-id"]));
  cleanup(() => one.close());
  await one.goto(url);
  return { one, streams, output: () => one.locator("#output").textContent() };
}

async function send(cleanup) {
  const shown = await ownPage(cleanup);
  await shown.one.fill("#prompt", "Tell me about streams");
  await shown.one.click("#send");
  await until("text on the page", async () => (await shown.output()).length > 20);
  const [id] = shown.streams;
  equal((await snapshot(id)).status, "running", "status, mid-answer");
  return { ...shown, id };
}

async function whole(shown, id) {
  await until("the end", async () => (await snapshot(id)).status !== "running", 60_000);
  const { text, status } = await snapshot(id);
  await until("the whole text on the page", async () => (await shown.output()) === text, 8_000).catch(async () => equal(await shown.output(), text, "#output"));
  return status;
}

test("own page: reload mid-answer goes on", async (cleanup) => {
  const shown = await send(cleanup);
  const before = await shown.output();
  await shown.one.reload();
  await until("the text is back", async () => (await shown.output()).startsWith(before), 5_000);
  equal((await snapshot(shown.id)).status, "running", "status, after the reload");
  equal(await whole(shown, shown.id), "completed", "status");
  equal([...shown.streams].join(), shown.id, "streams touched");
}, { timeout: 90_000 });

test("own page: a second page sees the same text", async (cleanup) => {
  const first = await send(cleanup);
  const second = await ownPage(cleanup, first.one.url());
  equal(await whole(first, first.id), "completed", "status");
  await whole(second, first.id);
  equal([...second.streams].join(), first.id, "streams touched by the second page");
}, { timeout: 90_000 });

test("own page: stop", async (cleanup) => {
  const shown = await send(cleanup);
  await shown.one.click("#stop");
  await until("cancelled", async () => (await snapshot(shown.id)).status === "cancelled", 5_000);
  equal(await whole(shown, shown.id), "cancelled", "status");
  check((await shown.one.locator("#status").textContent()).trim(), "#status is empty");
}, { timeout: 60_000 });

await main(() => browser.close());
