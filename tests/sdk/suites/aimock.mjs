// npm `@copilotkit/aimock` behind every provider dialect: whatever dialect it speaks, the stream is the same, and so is what
// every surface makes of it.

import { check, equal, main, test } from "../lib/cases.mjs";
import { REASONING, TEXT } from "../lib/aimock_texts.mjs";
import { RELAY, json, marker, post, until } from "../lib/world.mjs";

const DIALECTS = ["openai", "responses", "anthropic", "gemini", "ollama"];
const SURFACES = ["native", "plain", "openai-chat", "openai-responses", "anthropic", "gemini", "ai-sdk"];
const tool = (name) => ({ type: "function", function: { name, parameters: { type: "object", properties: { city: { type: "string" } } } } });
const TOOLS = ["weather", "time"].map(tool);

async function run(dialect, prompt, extra = {}) {
  const answer = await post("/v1/streams", { model: `${dialect}/some-model`, messages: [{ role: "user", content: `${prompt} ${marker()}` }], ...extra });
  check(answer.status === 201, `POST /v1/streams → ${answer.status} ${await answer.clone().text()}`);
  const { id } = await answer.json();
  return until("the stream ends", async () => {
    const snapshot = await json(`${RELAY}/v1/streams/${id}`);
    return snapshot.status !== "running" && snapshot;
  });
}

for (const dialect of DIALECTS) {
  test(`${dialect}: text`, async () => {
    const snapshot = await run(dialect, "text");
    equal(snapshot.status, "completed", `status (${JSON.stringify(snapshot.error)})`);
    equal(snapshot.text, TEXT, "text");
    equal(snapshot.finish_reason, "stop", "finish reason");
    check(snapshot.usage, "usage");
    for (const surface of SURFACES) {
      const body = await (await fetch(`${RELAY}/v1/streams/${snapshot.id}/events?format=${surface}`)).text();
      check(body.includes("東京") && body.endsWith("\n\n"), `${surface}: ${body.slice(-300)}`);
    }
  });
  // It does not think aloud in Ollama's dialect.
  if (dialect !== "ollama") test(`${dialect}: reasoning`, async () => {
    const snapshot = await run(dialect, "reason", { reasoning_effort: "low" });
    equal(snapshot.text, TEXT, "text");
    equal(snapshot.reasoning, REASONING, "reasoning");
  });
  test(`${dialect}: a tool call`, async () => {
    const snapshot = await run(dialect, "tool", { tools: TOOLS });
    equal(snapshot.finish_reason, "tool_calls", "finish reason");
    const [call] = snapshot.tool_calls;
    equal(call.name, "weather", "name");
    equal(JSON.stringify(JSON.parse(call.arguments)), JSON.stringify({ city: "Zürich", days: 2 }), "arguments");
  });
  test(`${dialect}: two tool calls`, async () => {
    const snapshot = await run(dialect, "two", { tools: TOOLS });
    equal(snapshot.tool_calls.map((call) => `${call.name} ${call.arguments}`).join("; "), 'weather {"city":"Oslo"}; time {}', "calls");
    check(new Set(snapshot.tool_calls.map((call) => call.id)).size === 2, "two ids");
  });
  test(`${dialect}: whole`, async () => {
    const body = { model: `${dialect}/some-model`, messages: [{ role: "user", content: `text ${marker()}` }] };
    const answer = await (await post("/v1/chat/completions", body)).json();
    equal(answer.choices?.[0].message.content, TEXT, `text of ${JSON.stringify(answer)}`);
  });
  test(`${dialect}: a refusal keeps its status and words`, async () => {
    const body = { model: `${dialect}/some-model`, stream: true, messages: [{ role: "user", content: `refused ${marker()}` }] };
    const answer = await post("/v1/chat/completions", body);
    equal(answer.status, 400, "status");
    check((await answer.text()).includes("no such thing"), "the provider's message");
  });
}

await main();
