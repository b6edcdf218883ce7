// Notifications over SSE, by any EventSource: `follow(url, types, heard)` follows as user, reports each event, and returns how to stop.

import { cutProxy } from "../../cutproxy.mjs";
import { equal, test } from "../cases.mjs";
import { RELAY, marker, until } from "../world.mjs";
import { notify } from "./mail.mjs";

const PATH = "/v1/notifications";
const CUTS = 4;

export function mailEventCases(followAs) {
  async function follow(cleanup, user, base = RELAY, query = "") {
    const seen = [];
    const stop = await followAs(user, base + PATH + query, (event) => seen.push(event));
    cleanup(stop);
    const all = (n) => until(`${n} notifications, of ${seen.length}`, () => seen.length >= n, 40_000);
    return { seen, stop, all, contents: () => seen.map((e) => JSON.parse(e.data).content).join(), ids: () => seen.map((e) => e.id).join() };
  }

  test("SSE: what was told before and is told now, under the positions that the backend got", async (cleanup) => {
    const user = marker();
    const positions = [(await notify(user, { content: "one" })).position];
    const viewer = await follow(cleanup, user);
    await viewer.all(1);
    for (const content of ["zwei 🏔", "three"]) positions.push((await notify(user, { content })).position);
    await viewer.all(3);
    equal(viewer.contents(), "one,zwei 🏔,three", "contents");
    equal(viewer.ids(), positions.join(), "ids");
  });

  test("SSE: cut again and again, resumed by Last-Event-ID, each told once", async (cleanup) => {
    const user = marker();
    const proxy = await cutProxy(RELAY, { match: PATH, cuts: (n) => (n < CUTS ? 700 + ((n * 379) % 700) : undefined) });
    cleanup(() => proxy.close());
    const viewer = await follow(cleanup, user, proxy.url);
    const wanted = Array.from({ length: 30 }, (_, i) => `told ${i}`);
    for (const content of wanted) await notify(user, { content });
    for (let i = 30; proxy.state.requests <= CUTS; i++) {
      wanted.push(`told ${i}`);
      await notify(user, { content: wanted.at(-1) });
      await until("it", () => viewer.contents().includes(wanted.at(-1)), 40_000);
    }
    await viewer.all(wanted.length);
    equal(viewer.contents(), wanted.join(), "contents");
    equal(proxy.state.cut, CUTS, "cuts");
    const numbers = viewer.seen.map((e) => Number(e.id.split("-")[2]));
    equal(numbers.join(), numbers.map((_, i) => i + 1).join(), "ids");
    equal(/last-event-id: /i.test(proxy.state.heads.at(-1)), true, "the reconnect carried a position");
  }, { timeout: 90_000 });

  test("SSE: a new viewer with a position gets exactly the rest", async (cleanup) => {
    const user = marker();
    const positions = [];
    for (const content of ["one", "two", "three"]) positions.push((await notify(user, { content })).position);
    const viewer = await follow(cleanup, user, RELAY, `?after=${positions[0]}`);
    await viewer.all(2);
    await notify(user, { content: "four" });
    await viewer.all(3);
    equal(viewer.contents(), "two,three,four", "contents");
  });

  test("SSE: a user hears nothing of another's", async (cleanup) => {
    const [one, two] = [marker(), marker()];
    const [first, second] = [await follow(cleanup, one), await follow(cleanup, two)];
    await notify(one, { content: "for one" });
    await notify(two, { content: "for two" });
    await Promise.all([first.all(1), second.all(1)]);
    equal([first.contents(), second.contents()].join(), "for one,for two", "contents");
  });
}
