// The SSE readers of two SDKs whose own protocols relaystream does not speak: npm `@langchain/langgraph-sdk` and
// `@tanstack/ai-client`. What they can read of our routes is each event's JSON, its id, and where to go on after a cut.
//
// The native surface is theirs: both reconnect with Last-Event-ID by themselves (LangGraph's only once an answer had
// `Location`, which is added here as its server would). On the dialects' surfaces LangGraph's stumbles over `[DONE]`, which is no
// JSON; TanStack's takes it for its own RUN_FINISHED. Without one, as on the native surface, it asks once more and gives up on
// the 204 that says there is no more.

import { Client } from "@langchain/langgraph-sdk";
import { fetchServerSentEvents } from "@tanstack/ai-client";
import { check, equal, main, test } from "../lib/cases.mjs";
import { cut } from "../lib/cut.mjs";
import { spread } from "../lib/reader.mjs";
import { RELAY, start, textOf } from "../lib/world.mjs";

// Fetches the stream's events whatever the SDK's own path was; the first answer is cut after `k` events.
function line(id, format, k) {
  const location = format === "native" ? { location: `/v1/streams/${id}/events` } : {};
  const state = { asked: [] };
  const path = `/v1/streams/${id}/events?format=${format}`;
  state.fetch = async (_, init) => {
    state.asked.push(new Headers(init.headers).get("last-event-id"));
    const answer = await fetch(RELAY + path, { headers: init.headers, signal: init.signal });
    return answer.body ? cut(answer, state.asked.length === 1 ? k : Infinity, location) : answer;
  };
  return state;
}

const langgraph = (line) => {
  const client = new Client({ apiUrl: "http://langgraph.test", apiKey: null, callerOptions: { maxRetries: 0, fetch: line.fetch } });
  return client.runs.joinStream("thread", "run");
};
const tanstack = (line) => fetchServerSentEvents("http://tanstack.test/chat", { fetchClient: line.fetch, reconnect: { baseDelayMs: 1 } }).joinRun("run");

// What came, and why it ended if not by itself.
async function read(source) {
  const seen = { items: [] };
  try {
    for await (const item of source) seen.items.push(item);
  } catch (why) {
    seen.why = why;
  }
  return seen;
}

const nativeText = (items) => items.filter((data) => typeof data?.text === "string").map((data) => data.text).join("");
const partsText = (items) => items.filter((data) => data?.type === "text-delta").map((data) => data.delta).join("");

for (const model of ["ok", "paced-20-15", "ok-6+byte+crlf"])
  test(`langgraph: native, whole, ${model}`, async () => {
    const { items, why } = await read(langgraph(line((await start(model)).id, "native")));
    equal(why?.message, undefined, "error");
    equal(nativeText(items.map((item) => item.data)), await textOf(model), "text");
    equal(items.at(-1).event, "done", "the last event");
    check(items.every((item) => item.event && item.id && item.data), "an event without a name, an id or data");
  });

test("langgraph: native, cut after every event, each comes once", async () => {
  const { id } = await start("ok-6");
  const whole = (await read(langgraph(line(id, "native")))).items;
  await spread(whole.map((_, k) => k + 1), 8, async (k) => {
    const held = line(id, "native", k);
    const { items, why } = await read(langgraph(held));
    equal(why?.message, undefined, "error");
    equal(JSON.stringify(items), JSON.stringify(whole), "events");
    // What it had taken in but not yet handed on when the connection broke, it asks for again.
    check(k < 3 || whole.slice(0, k).some((item) => item.id === held.asked[1]), `the position asked for: ${held.asked[1]}`);
  });
}, { timeout: 90_000 });

test("langgraph: native, a broken answer is told", async () => {
  const { items } = await read(langgraph(line((await start("truncate-5")).id, "native")));
  equal(items.at(-1).data.status, "failed", "status");
  check((await textOf("truncate-5")).startsWith(nativeText(items.map((item) => item.data))), "not the provider's text");
});

test("langgraph: native, 32 s of silence make no events", async () => {
  const model = "gap-32+ok-10";
  const { items, why } = await read(langgraph(line((await start(model)).id, "native")));
  equal(why?.message, undefined, "error");
  equal(nativeText(items.map((item) => item.data)), await textOf(model), "text");
  equal(new Set(items.map((item) => item.id)).size, items.length, "events, each once");
}, { aside: true, timeout: 60_000 });

for (const format of ["ai-sdk", "openai-chat"])
  test(`langgraph: ${format}, everything but [DONE]`, async () => {
    const { items, why } = await read(langgraph(line((await start("ok")).id, format)));
    check(why instanceof SyntaxError && why.message.includes("[DONE]"), `ended by ${why?.message}`);
    if (format === "ai-sdk") equal(partsText(items.map((item) => item.data)), await textOf("ok"), "text");
    return "its reader takes [DONE] for JSON and throws";
  });

for (const format of ["ai-sdk", "openai-chat"])
  test(`tanstack: ${format}, whole`, async () => {
    const { items, why } = await read(tanstack(line((await start("ok")).id, format)));
    equal(why?.message, undefined, "error");
    const text = format === "ai-sdk" ? partsText(items) : items.map((item) => item.choices?.[0]?.delta?.content ?? "").join("");
    equal(text, await textOf("ok"), "text");
    equal(items.at(-1).type, "RUN_FINISHED", "the last item");
  });

test("tanstack: native, whole", async () => {
  const { items, why } = await read(tanstack(line((await start("ok")).id, "native")));
  equal(nativeText(items), await textOf("ok"), "text");
  equal(items.at(-1).status, "completed", "status");
  equal(why?.name, "UnsupportedResponseStreamError", "how it ended");
  return "all of it, then an error over the 204 that says there is no more";
});

test("tanstack: native, cut after every event, each comes once", async () => {
  const { id } = await start("ok-6");
  const whole = (await read(tanstack(line(id, "native")))).items;
  await spread(whole.map((_, k) => k + 1), 8, async (k) => {
    const held = line(id, "native", k);
    const { items } = await read(tanstack(held));
    equal(JSON.stringify(items), JSON.stringify(whole), "events");
    check(held.asked[1]?.endsWith(String(k).padStart(10, "0")), `the position asked for: ${held.asked[1]}`);
  });
}, { timeout: 90_000 });

test("tanstack: ai-sdk, cut after every event, the text comes once", async () => {
  const { id } = await start("ok-6");
  const whole = (await read(tanstack(line(id, "ai-sdk")))).items;
  // The first id comes with the second part: before it there is nothing to go on from.
  await spread(whole.map((_, k) => k + 2), 8, async (k) => {
    const { items } = await read(tanstack(line(id, "ai-sdk", k)));
    equal(partsText(items), await textOf("ok-6"), "text");
  });
}, { timeout: 90_000 });

await main();
