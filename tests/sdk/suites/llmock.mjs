// PyPI `llmock` as upstream and judge: it breaks answers in four ways, refuses, and grades relaystream as its client.
// Model `judged` has the product's defaults: an answer that breaks off is gone on with, and whoever keeps failing gets a rest.
// Model `broken` is not gone on with: a fault after text must reach our own client as an exception, who then asks again.

import OpenAI from "openai";
import { check, equal, main, raises, test } from "../lib/cases.mjs";
import { PROVIDER as LLMOCK, RELAY, ask, json, marker } from "../lib/world.mjs";

const client = new OpenAI({ apiKey: "test", baseURL: `${RELAY}/v1`, maxRetries: 0, logLevel: "off" });
const TEXT = "Grüße aus 東京 👋 one two three four five six seven eight nine ten";
const KINDS = ["truncate", "stall", "disconnect", "malformed"];
const FRAMES = [0, 1, 2, 6];

async function read(body) {
  let text = "";
  try {
    for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) text += chunk.choices[0]?.delta?.content ?? "";
  } catch (why) {
    return { text, why };
  }
  return { text };
}

const admin = (path, body) => json(`${LLMOCK}/_llmock/${path}`, { method: "POST", body: JSON.stringify(body ?? {}) });
const requests = async () => (await json(`${LLMOCK}/_llmock/requests`)).requests;
const verdict = () => json(`${LLMOCK}/_llmock/verdict`);

async function scenario(...behaviors) {
  await admin("reset");
  await admin("scenario", { behaviors: [{ type: "reply", text: TEXT, times: null }, ...behaviors] });
}

const fault = (kind, after, times = 1) => ({ type: "stream_fault", kind, after_chunks: after, stall_seconds: 8, times });

async function clean(known = () => false) {
  const { findings } = await verdict();
  const wrong = findings.filter((finding) => !known(finding));
  check(wrong.length === 0, `verdict: ${JSON.stringify(wrong)}`);
}

// The judge knows a retry by its body, and a request for the rest of an answer has another one. What it says of the broken
// request is answered if the next one had the same question, carried what had been said, and got through.
const goneOnWith = (seen) => (finding) => {
  const at = seen.findIndex((request) => request.seq === finding.requests.at(-1));
  const [broken, next] = [seen[at], seen[at + 1]];
  const asked = broken.body.messages;
  const [begun] = next?.body.messages.slice(asked.length) ?? [];
  const same = JSON.stringify(next?.body.messages.slice(0, asked.length)) === JSON.stringify(asked);
  return same && begun?.role === "assistant" && begun.content && TEXT.startsWith(begun.content) && next.completed;
};

for (const kind of KINDS)
  for (const after of FRAMES) {
    test(`${kind} after ${after} frames, gone on with`, async () => {
      await scenario(fault(kind, after));
      const { text, why } = await read({ model: "judged", messages: ask(marker()) });
      check(!why, `an error: ${why}`);
      equal(text, TEXT, "text");
      const seen = await requests();
      equal(seen[0].fault?.split("@")[0], `stream:${kind}`, "the fault injected");
      equal(seen.length, 2, "requests");
      await clean(goneOnWith(seen));
    });

    test(`${kind} after ${after} frames`, async () => {
      await scenario(fault(kind, after));
      const body = { model: "broken", messages: ask(marker()) };
      const first = await read(body);
      check(TEXT.startsWith(first.text), `not the provider's text: ${first.text}`);
      if (after >= 2) check(first.why && first.text, `no error, or no text before it: ${JSON.stringify(first.text)}`);
      equal((await requests())[0].fault?.split("@")[0], `stream:${kind}`, "the fault injected");
      if (first.why) equal((await read(body)).text, TEXT, "text of the second try");
      else equal(first.text, TEXT, "text");
      await clean();
    });
  }

for (const [status, more] of [[429, { retry_after: 1 }], [503, { retry_after: 1 }], [500, {}]])
  test(`${status}${more.retry_after ? " with retry-after" : ""}, then an answer`, async () => {
    await scenario({ type: "fail", status, ...more });
    const { text, why } = await read({ model: "judged", messages: ask(marker()) });
    check(!why, `an error: ${why}`);
    equal(text, TEXT, "text");
    await clean();
  });

test("an answer that breaks off again and again is an error in the end", async () => {
  await scenario(fault("truncate", 6, null));
  const { text, why } = await read({ model: "cut", messages: ask(marker()) });
  check(why && text && text !== TEXT && TEXT.startsWith(text), `taken for an answer: ${JSON.stringify(text)}`);
  equal((await requests()).length, 4, "requests: the first, and max_continuations");
});

test("clients that come again do not make a storm", async () => {
  await scenario({ type: "fail", status: 500, times: null });
  const body = { model: "doomed", messages: ask(marker()) };
  for (let n = 0; n < 6; n += 1) await raises(client.chat.completions.create({ ...body, stream: true }), "no error");
  equal((await requests()).length, 5 + 4, "requests: as many as open the circuit, then one for each client");
  check((await verdict()).passed, "verdict");
});

await main();
