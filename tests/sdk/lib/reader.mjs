// What a page does with an EventSource, for the browser-like clients run in Node: collects one stream's text.

import { sleep } from "./world.mjs";

const TYPES = ["start", "token", "reasoning", "tool", "usage", "notice", "reset", "done"];

// Collects until that many `done` (then closes), or, with `linger`, until the client itself gives up.
export function collect(EventSource, url, { linger = false, dones = 1, ms = 25_000 } = {}) {
  const source = new EventSource(url);
  const seen = { text: "", ids: [], starts: [], resets: [], streams: {}, dones: 0, done: null, source };
  const take = {
    start: (data) => seen.starts.push(data.stream),
    reset: (data) => {
      seen.resets.push(data.reason);
      seen.text = "";
      seen.streams = {};
    },
    token: (data) => {
      seen.text += data.text;
      seen.streams[data.stream] = (seen.streams[data.stream] ?? "") + data.text;
    },
    done: (data) => {
      seen.done = data;
      seen.dones += 1;
    },
  };
  const over = new Promise((finish) => {
    for (const type of TYPES)
      source.addEventListener(type, (event) => {
        take[type]?.(JSON.parse(event.data));
        seen.ids.push(event.lastEventId);
        if (seen.dones === dones && !linger) finish(seen);
      });
    source.addEventListener("error", () => source.readyState === 2 && finish(seen));
  });
  const late = sleep(ms).then(() => {
    throw new Error(`still open after ${ms} ms with ${seen.text.length} characters, done: ${JSON.stringify(seen.done)}`);
  });
  return Promise.race([over, late]).finally(() => source.close());
}

// Runs `body(item)` over all items, `width` at a time; fails with the first failures named.
export async function spread(items, width, body) {
  const queue = [...items];
  const failures = [];
  const worker = async () => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift())
      await body(item).catch((why) => failures.push(`${item}: ${why.message}`));
  };
  await Promise.all(Array.from({ length: width }, worker));
  if (failures.length) throw new Error(`${failures.length} of ${items.length} failed, first: ${failures.slice(0, 3).join(" | ")}`);
}
