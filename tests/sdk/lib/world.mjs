// What a Node suite knows about the processes run.mjs started for it: where they are, what the provider saw.

import { randomUUID } from "node:crypto";

export const RELAY = process.env.SDK_RELAY;
export const PROVIDER = process.env.SDK_PROVIDER;

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
export const marker = () => `mark-${randomUUID()}`;

export async function json(url, options) {
  const answer = await fetch(url, options);
  if (!answer.ok) throw new Error(`${options?.method ?? "GET"} ${url} → ${answer.status} ${await answer.text()}`);
  return answer.json();
}

export const post = (path, body, headers = {}) =>
  fetch(RELAY + path, { method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) });

// The text of a whole answer of that model, by the provider's own account.
export const textOf = async (model) => (await json(`${PROVIDER}/_text?model=${encodeURIComponent(model)}`)).text;

// The upstream calls that carried this marker as their last user message.
export const calls = (mark) => json(`${PROVIDER}/_log?marker=${encodeURIComponent(mark)}`);

export async function until(what, probe, ms = 10_000) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await sleep(30);
  }
}

// The upstream call's entry once the provider is done with it.
export const ended = (mark, ms) => until("the upstream call ends", async () => (await calls(mark)).find((e) => e.closed), ms);

export const ask = (mark) => [{ role: "user", content: mark }];

export async function start(model, mark = marker(), extra = {}) {
  const answer = await post("/v1/streams", { model, messages: ask(mark), ...extra });
  if (answer.status !== 201) throw new Error(`POST /v1/streams → ${answer.status} ${await answer.text()}`);
  return answer.json();
}

export const snapshot = (id) => json(`${RELAY}/v1/streams/${id}`);

// Events of a native SSE body, as [{id, type, data}], by a deliberately naive parser: LF, one data line.
export function parseSse(text) {
  return text.split("\n\n").slice(0, -1).map((block) => {
    const event = {};
    for (const line of block.split("\n")) {
      const colon = line.indexOf(":");
      const [field, value] = [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
      if (field === "id") event.id = value;
      if (field === "event") event.type = value;
      if (field === "data") event.data = event.data === undefined ? value : `${event.data}\n${value}`;
    }
    return event;
  }).filter((e) => e.data !== undefined);
}

export const textIn = (events) => events.filter((e) => e.type === "token").map((e) => JSON.parse(e.data).text).join("");
