// The cases every EventSource implementation outside a browser goes through: whole, cut anywhere, resumed, stopped.

import { cutProxy } from "../cutproxy.mjs";
import { check, equal, test } from "./cases.mjs";
import { collect, spread } from "./reader.mjs";
import { RELAY, calls, marker, parseSse, snapshot, start, textOf, until } from "./world.mjs";

const chatUrl = (base, model, mark, key = "") => `${base}/v1/chat/stream?${new URLSearchParams({ prompt: mark, model, ...(key && { key }) })}`;

async function once(mark) {
  equal((await calls(mark)).length, 1, "upstream calls");
}

async function proxied(cleanup, cuts, match) {
  const proxy = await cutProxy(RELAY, { match, cuts });
  cleanup(() => proxy.close());
  return proxy;
}

export function eventSourceCases(EventSource) {
  for (const model of ["ok", "paced-30-10", "ok-5+byte"])
    test(`whole, then 204 ends it, ${model}`, async (cleanup) => {
      const [mark, proxy] = [marker(), await proxied(cleanup, [], "/v1/chat/stream")];
      const seen = await collect(EventSource, chatUrl(proxy.url, model, mark), { linger: true });
      equal(seen.text, await textOf(model), "text");
      equal(seen.done.status, "completed", "status");
      equal(seen.source.readyState, 2, "readyState");
      equal(proxy.state.requests, 2, "requests, the second answered 204");
      check(/last-event-id: [0-9a-z-]+-[0-9]{10}\r/i.test(proxy.state.heads[1]), "the reconnect carried no position");
      await once(mark);
    });

  test("cut at every byte of a short answer", async (cleanup) => {
    const model = "ok-5";
    const whole = await proxied(cleanup, [], "/v1/chat/stream");
    await collect(EventSource, chatUrl(whole.url, model, marker(), marker()));
    const text = await textOf(model);
    const every = Array.from({ length: whole.state.bytes + 1 }, (_, k) => k);
    await spread(every, 80, async (k) => {
      const [mark, proxy] = [marker(), await cutProxy(RELAY, { match: "/v1/chat/stream", cuts: [k] })];
      const seen = await collect(EventSource, chatUrl(proxy.url, model, mark, mark)).finally(() => proxy.close());
      equal(seen.text, text, "text");
      equal(seen.resets.length, 0, "resets");
      equal(new Set(seen.starts).size, 1, "streams");
      equal(new Set(seen.ids).size, seen.ids.length - (seen.starts.length - 1), "events, each once");
      await once(mark);
    });
  }, { timeout: 150_000 });

  test("cut again and again while it runs, without a key", async (cleanup) => {
    const [model, mark] = ["paced-60-100", marker()];
    const proxy = await proxied(cleanup, (n) => (n < 5 ? 1_100 + ((n * 379) % 700) : undefined), "/v1/chat/stream");
    const seen = await collect(EventSource, chatUrl(proxy.url, model, mark), { ms: 45_000 });
    equal(seen.text, await textOf(model), "text");
    equal(proxy.state.cut, 5, "cuts");
    equal(new Set(seen.starts).size, 1, "streams");
    await once(mark);
  }, { timeout: 60_000 });

  test("a cut, then the rest after the answer has ended", async (cleanup) => {
    const [model, mark] = ["ok-40", marker()];
    const proxy = await proxied(cleanup, [2_000], "/v1/chat/stream");
    const seen = await collect(EventSource, chatUrl(proxy.url, model, mark));
    equal(seen.text, await textOf(model), "text");
    equal(proxy.state.cut, 1, "cuts");
    await once(mark);
  });

  test("a fresh EventSource with ?lastEventId= or ?after= gets exactly the rest", async () => {
    const { id } = await start("ok-8");
    const events = `${RELAY}/v1/streams/${id}/events`;
    const all = await collect(EventSource, events);
    const text = await textOf("ok-8");
    equal(all.text, text, "text");
    const whole = parseSse(await (await fetch(events)).text());
    for (const name of ["lastEventId", "after"])
      for (const [at, { id: position }] of whole.entries()) {
        const rest = whole.slice(at + 1);
        const seen = await collect(EventSource, `${events}?${name}=${position}`, { linger: rest.length === 0 });
        equal(seen.ids.join(" "), rest.map((e) => e.id).join(" "), `events after ${position} by ${name}`);
        equal(seen.resets.length, 0, "resets");
      }
  });

  test("two viewers of one running stream, one of them late", async () => {
    const { id } = await start("paced-30-30");
    const first = collect(EventSource, `${RELAY}/v1/streams/${id}/events`);
    await until("some text", async () => (await snapshot(id)).text.length > 40);
    const second = collect(EventSource, `${RELAY}/v1/streams/${id}/events`);
    for (const seen of await Promise.all([first, second])) equal(seen.text, await textOf("paced-30-30"), "text");
  });

  for (const [model, code] of [["truncate-5", "upstream_truncated"], ["fin-5"], ["rst-5"], ["inband-5", "upstream_error"], ["error-400", "upstream_status"]])
    test(`a failure is told and not repeated, ${model}`, async () => {
      const mark = marker();
      const seen = await collect(EventSource, chatUrl(RELAY, model, mark), { linger: true });
      equal(seen.done?.status, "failed", "status");
      check(seen.done.error?.code && seen.done.error.message, `error: ${JSON.stringify(seen.done.error)}`);
      if (code) equal(seen.done.error.code, code, "error code");
      if (model.endsWith("-5")) check(seen.text && (await textOf(model)).startsWith(seen.text), `not the provider's text: ${seen.text}`);
      await once(mark);
    });

  test("another stream's position resets, then replays", async () => {
    const [one, two] = [await start("ok-6"), await start("ok-9")];
    await collect(EventSource, `${RELAY}/v1/streams/${one.id}/events`);
    const seen = await collect(EventSource, `${RELAY}/v1/streams/${two.id}/events?lastEventId=${one.id}-0000-0000000003`);
    equal(seen.resets.join(), "foreign", "reset reasons");
    equal(seen.text, await textOf("ok-9"), "text after the reset");
  });

  test("a session's mirror, cut while two streams run", async (cleanup) => {
    const session = marker();
    const ids = [];
    for (const model of ["paced-30-40", "paced-25-50"]) ids.push((await start(model, marker(), { session })).id);
    const proxy = await proxied(cleanup, [900, 2_500, 1_700], "/v1/sessions/");
    const seen = await collect(EventSource, `${proxy.url}/v1/sessions/${session}/events`, { dones: 2 });
    equal(seen.streams[ids[0]], await textOf("paced-30-40"), "first stream");
    equal(seen.streams[ids[1]], await textOf("paced-25-50"), "second stream");
    check(proxy.state.cut >= 1, "nothing was cut");
  });
}
