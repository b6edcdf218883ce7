// PyPI `llmock` as upstream and judge: it breaks answers in four ways and grades relaystream as its client.
// A fault after text must reach our own client as an exception, who then asks again; the verdict must have no finding.

import OpenAI from "openai";
import { check, equal, main, test } from "../lib/cases.mjs";
import { PROVIDER as LLMOCK, RELAY, ask, json, marker } from "../lib/world.mjs";

const client = new OpenAI({ apiKey: "test", baseURL: `${RELAY}/v1`, maxRetries: 0, logLevel: "off" });
const TEXT = "Grüße aus 東京 👋 one two three four five six seven eight nine ten";

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

for (const kind of ["truncate", "stall", "disconnect", "malformed"])
  for (const after of [0, 1, 2, 6])
    test(`${kind} after ${after} frames`, async () => {
      await admin("reset");
      await admin("scenario", {
        behaviors: [{ type: "reply", text: TEXT, times: null }, { type: "stream_fault", kind, after_chunks: after, stall_seconds: 8 }],
      });
      const body = { model: "judged", messages: ask(marker()) };
      const first = await read(body);
      check(TEXT.startsWith(first.text), `not the provider's text: ${first.text}`);
      if (after >= 2) check(first.why && first.text, `no error, or no text before it: ${JSON.stringify(first.text)}`);
      const { requests } = await json(`${LLMOCK}/_llmock/requests`);
      equal(requests[0].fault?.split("@")[0], `stream:${kind}`, "the fault injected");
      if (first.why) equal((await read(body)).text, TEXT, "text of the second try");
      else equal(first.text, TEXT, "text");
      const verdict = await json(`${LLMOCK}/_llmock/verdict`);
      check(verdict.passed && verdict.findings.length === 0, `verdict: ${JSON.stringify(verdict)}`);
    });

await main();
