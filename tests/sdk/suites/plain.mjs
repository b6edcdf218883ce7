// Bare `fetch` and long poll: the bytes on the wire, positions, 204 at the end, cancel and the disconnect policies.

import { cutProxy } from "../cutproxy.mjs";
import { check, equal, main, raises, test } from "../lib/cases.mjs";
import { RELAY, ask, calls, ended, json, marker, parseSse, post, sleep, snapshot, start, textIn, textOf, until } from "../lib/world.mjs";

const events = (id) => `${RELAY}/v1/streams/${id}/events`;
const chat = (model, mark = marker(), extra = {}) => post("/v1/chat/completions", { model, messages: ask(mark), stream: true, ...extra });

async function finished(model, mark, extra) {
  const { id } = await start(model, mark, extra);
  return { id, all: parseSse(await (await fetch(events(id))).text()) };
}

// Reads a body to its end or its break; `pause` is the longest time without a byte.
async function bytes(answer) {
  const seen = { text: "", broke: null, pause: 0 };
  const decoder = new TextDecoder();
  let last = Date.now();
  try {
    for await (const part of answer.body) {
      seen.text += decoder.decode(part, { stream: true });
      seen.pause = Math.max(seen.pause, Date.now() - last);
      last = Date.now();
    }
  } catch (why) {
    seen.broke = why;
  }
  return seen;
}

const dataLines = (text) => text.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).replace(/^ /, ""));

test("POST /v1/streams", async () => {
  const answer = await post("/v1/streams", { model: "ok", messages: ask(marker()) });
  equal(answer.status, 201, "status");
  const stream = await answer.json();
  for (const field of ["id", "status", "model", "position", "links"]) check(stream[field] !== undefined, `no ${field}: ${JSON.stringify(stream)}`);
  for (const link of ["self", "events", "poll", "cancel", "socket"]) check(link in stream.links, `no link ${link}`);
  check(answer.headers.get("location")?.endsWith(`/v1/streams/${stream.id}`), `Location: ${answer.headers.get("location")}`);
});

test("native events: ids, order, headers", async () => {
  const { id } = await start("ok");
  const answer = await fetch(events(id));
  equal(answer.headers.get("content-type")?.split(";")[0], "text/event-stream", "content-type");
  equal(answer.headers.get("cache-control"), "no-cache, no-transform", "cache-control");
  equal(answer.headers.get("x-accel-buffering"), "no", "x-accel-buffering");
  const all = parseSse(await answer.text());
  equal(textIn(all), await textOf("ok"), "text");
  equal(all[0].type + all.at(-1).type, "startdone", "first and last");
  for (const [i, event] of all.entries()) equal(event.id, `${id}-0000-${String(i + 1).padStart(10, "0")}`, "event id");
});

test("every position of a finished stream, by header and by query", async () => {
  const { id, all } = await finished("ok-12");
  for (const [at, { id: position }] of all.entries()) {
    const rest = JSON.stringify(all.slice(at + 1));
    const asks = [fetch(events(id), { headers: { "last-event-id": position } }), fetch(`${events(id)}?after=${position}`), fetch(`${events(id)}?lastEventId=${position}`)];
    for (const answer of await Promise.all(asks)) {
      equal(answer.status, at === all.length - 1 ? 204 : 200, `status after ${position}`);
      if (answer.status === 200) equal(JSON.stringify(parseSse(await answer.text())), rest, `events after ${position}`);
    }
  }
});

test("Last-Event-ID wins over ?after=", async () => {
  const { id, all } = await finished("ok-5");
  const answer = await fetch(`${events(id)}?after=${all[1].id}`, { headers: { "last-event-id": all[4].id } });
  equal(JSON.stringify(parseSse(await answer.text())), JSON.stringify(all.slice(5)), "events");
});

test("bad positions are named, then all is replayed", async () => {
  const { id, all } = await finished("ok-5");
  const other = await finished("ok-3");
  const bad = { foreign: other.all[1].id, ahead: `${id}-0000-0000009999`, unknown: "not-a-position" };
  for (const [reason, position] of Object.entries(bad)) {
    const [first, ...rest] = parseSse(await (await fetch(`${events(id)}?after=${position}`)).text());
    equal(first.type, "reset", `first event after ${position}`);
    equal(JSON.parse(first.data).reason, reason, "reason");
    equal(first.id, undefined, "id of the reset");
    equal(JSON.stringify(rest), JSON.stringify(all), "replay");
  }
  equal((await fetch(events("01jxk3v9c2m4n5p6q7r8s9t0va"))).status, 404, "an unknown stream");
});

test("/v1/chat/stream after its end is 204, of a lost stream a reset and a done", async () => {
  const mark = marker();
  const url = `${RELAY}/v1/chat/stream?${new URLSearchParams({ prompt: mark, model: "ok-4" })}`;
  const all = parseSse(await (await fetch(url)).text());
  equal(textIn(all), await textOf("ok-4"), "text");
  equal((await fetch(url, { headers: { "last-event-id": all.at(-1).id } })).status, 204, "status at the end");
  const lost = parseSse(await (await fetch(url, { headers: { "last-event-id": "01jxk3v9c2m4n5p6q7r8s9t0va-0000-0000000003" } })).text());
  equal(lost.map((e) => e.type).join(), "reset,done", "events of a lost stream");
  equal(JSON.parse(lost[0].data).reason, "lost", "reason");
  equal(JSON.parse(lost[1].data).status, "interrupted", "status");
  check(lost[1].id.endsWith("-9999999999"), `id ${lost[1].id}`);
  equal((await fetch(url, { headers: { "last-event-id": lost[1].id } })).status, 204, "its reconnect");
  equal((await calls(mark)).length, 1, "upstream calls");
});

test("?format=plain", async () => {
  for (const model of ["ok", "paced-20-10"]) {
    const { id } = await start(model);
    const data = parseSse(await (await fetch(`${events(id)}?format=plain`)).text()).map((e) => e.data);
    equal(data.pop(), "[DONE]", "last data");
    equal(data.join(""), await textOf(model), "text");
  }
});

test("?format=plain never calls a failure done", async () => {
  const { id } = await start("truncate-5");
  const { text } = await bytes(await fetch(`${events(id)}?format=plain`));
  check(!dataLines(text).includes("[DONE]"), "[DONE] after a truncated answer");
});

for (const model of ["ok", "paced-20-15", "ok+crlf"])
  test(`openai-chat is verbatim, ${model}`, async () => {
    const mark = marker();
    const { text: sent, broke } = await bytes(await chat(model, mark, { stream_options: { include_usage: true } }));
    equal(broke, null, "break");
    const text = sent.replaceAll("\r\n", "\n"); // the provider's line ends may ride along
    const [{ frames }] = await calls(mark);
    equal(dataLines(text).join("\n"), [...frames, "[DONE]"].join("\n"), "data lines");
    equal(text.includes("\n\n\n") || /^:.*\n\n/m.test(text), false, "a blank line after a comment");
    check(text.split("\n\n").slice(0, -1).every((block) => block.includes("data:")), "a block without data");
  });

test("openai-chat, cut and gone on with by ?format=openai-chat", async (cleanup) => {
  const mark = marker();
  const proxy = await cutProxy(RELAY, { match: "/v1/chat/completions", cuts: [3_001] });
  cleanup(() => proxy.close());
  const body = JSON.stringify({ model: "paced-30-10", messages: ask(mark), stream: true });
  const answer = await fetch(`${proxy.url}/v1/chat/completions`, { method: "POST", headers: { "content-type": "application/json" }, body });
  const { text } = await bytes(answer);
  const whole = text.slice(0, text.lastIndexOf("\n\n") + 2);
  const last = [...whole.matchAll(/^id: ?(.*)$/gm)].at(-1)[1];
  const rest = await bytes(await fetch(`${events(answer.headers.get("x-stream-id"))}?format=openai-chat`, { headers: { "last-event-id": last } }));
  const frames = [...dataLines(whole), ...dataLines(rest.text)];
  equal(frames.pop(), "[DONE]", "last data");
  equal(frames.map((f) => JSON.parse(f).choices[0]?.delta?.content ?? "").join(""), await textOf("paced-30-10"), "text");
  equal((await calls(mark)).length, 1, "upstream calls");
});

for (const model of ["truncate-5", "fin-5", "rst-5", "inband-5"])
  test(`openai-chat: an error frame, then a broken body, ${model}`, async () => {
    const { text, broke } = await bytes(await chat(model));
    const last = JSON.parse(dataLines(text).at(-1));
    check(last.error?.message, `last data line: ${JSON.stringify(last)}`);
    check(!text.includes("[DONE]\n"), "[DONE] after a failure");
    check(broke, "the body ended cleanly");
  });

for (const model of ["silent-32+ok-6", "gap-32+ok-6"])
  test(`keep-alives in 32 s of silence, ${model}`, async () => {
    const asked = Date.now();
    const head = chat(model).then((answer) => (check(Date.now() - asked < 11_000, "no response head within head_wait_ms"), answer));
    const [sdk, native] = await Promise.all([head.then(bytes), start(model).then(({ id }) => fetch(events(id))).then(bytes)]);
    for (const { text, pause } of [sdk, native]) {
      check(/^:\n/m.test(text), "no keep-alive in 32 s");
      check(pause < 16_000, `${pause} ms without a byte`);
      check(!/^:.*\n\n/m.test(text), "a keep-alive followed by a blank line");
    }
    const seen = dataLines(sdk.text).slice(0, -1).map((d) => JSON.parse(d).choices[0].delta.content ?? "").join("");
    equal(seen, await textOf(model), "text");
    equal(textIn(parseSse(native.text)), await textOf(model), "native text");
  }, { aside: true, timeout: 60_000 });

test("poll until the end, then at once and empty", async () => {
  const { id } = await start("paced-30-25");
  const all = [];
  let at = "";
  for (let turn = 0; all.at(-1)?.type !== "done"; turn += 1) {
    check(turn < 200, "200 polls were not enough");
    const answer = await json(`${RELAY}/v1/streams/${id}/poll?wait=5${at && `&after=${at}`}`);
    check(answer.events.length > 0 || answer.status === "running", "an empty answer before the end");
    all.push(...answer.events);
    at = answer.position;
  }
  equal(all.filter((e) => e.type === "token").map((e) => e.data.text).join(""), await textOf("paced-30-25"), "text");
  const began = Date.now();
  const last = await json(`${RELAY}/v1/streams/${id}/poll?wait=5&after=${at}`);
  equal(last.events.length, 0, "events at the end");
  equal(last.status, "completed", "status");
  check(Date.now() - began < 1_000, "the end was waited for");
});

test("poll with a bad position", async () => {
  const { id, all } = await finished("ok-3");
  const { events: [first, ...rest] } = await json(`${RELAY}/v1/streams/${id}/poll?after=${id}-0000-0000000999`);
  equal(JSON.stringify([first.id, first.type, first.data.reason]), '[null,"reset","ahead"]', "first event");
  equal(rest.map((e) => e.id).join(), all.map((e) => e.id).join(), "replay");
});

test("cancel reaches the provider at once", async () => {
  const mark = marker();
  const { id } = await start("paced-400-30", mark);
  await until("some text", async () => (await snapshot(id)).text.length > 40);
  const asked = Date.now();
  for (let i = 0; i < 2; i++) check((await fetch(`${RELAY}/v1/streams/${id}/cancel`, { method: "POST" })).ok, "cancel is not idempotent");
  const entry = await ended(mark);
  equal(entry.outcome, "closed by the client", "the upstream call");
  check(entry.closed - asked < 1_000, `the provider noticed after ${entry.closed - asked} ms`);
  const done = parseSse(await (await fetch(events(id))).text()).at(-1);
  equal(JSON.parse(done.data).status, "cancelled", "status");
});

for (const [policy, within, outcome] of [["detach", 8_000, "whole"], ["grace:1", 4_000, "closed by the client"], ["cancel", 1_500, "closed by the client"]])
  test(`on_disconnect ${policy}`, async () => {
    const mark = marker();
    const { id } = await start("paced-150-30", mark, { on_disconnect: policy });
    const leave = new AbortController();
    const viewer = await fetch(events(id), { signal: leave.signal });
    const reader = viewer.body.getReader();
    await reader.read();
    await sleep(300);
    const left = Date.now();
    leave.abort();
    await raises(reader.read(), "the aborted read went on");
    const entry = await ended(mark, within);
    equal(entry.outcome, outcome, "the upstream call");
    if (policy === "grace:1") check(entry.closed - left > 700, `no grace: closed after ${entry.closed - left} ms`);
  });

test("Idempotency-Key", async () => {
  const [mark, key] = [marker(), marker()];
  const body = { model: "ok-5", messages: ask(mark) };
  const [first, again] = [await post("/v1/streams", body, { "idempotency-key": key }), await post("/v1/streams", body, { "idempotency-key": key })];
  equal(`${first.status} ${again.status}`, "201 200", "statuses");
  equal(again.headers.get("idempotent-replayed"), "true", "Idempotent-Replayed");
  equal((await first.json()).id, (await again.json()).id, "stream");
  equal((await post("/v1/streams", { ...body, temperature: 1 }, { "idempotency-key": key })).status, 409, "another body");
  await ended(mark);
  equal((await calls(mark)).length, 1, "upstream calls");
});

test("a deleted stream is gone", async () => {
  const { id } = await finished("ok-3");
  check((await fetch(`${RELAY}/v1/streams/${id}`, { method: "DELETE" })).ok, "DELETE");
  equal((await fetch(`${RELAY}/v1/streams/${id}`)).status, 404, "snapshot");
  equal((await fetch(events(id))).status, 404, "events");
});

await main();
