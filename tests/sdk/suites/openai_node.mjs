// npm `openai`, unmodified, with only `baseURL` changed: every answer is the provider's text or an exception.

import OpenAI from "openai";
import { check, equal, main, raises, test } from "../lib/cases.mjs";
import { RELAY, ask, calls, ended, marker, snapshot, textOf } from "../lib/world.mjs";

const client = new OpenAI({ apiKey: "test", baseURL: `${RELAY}/v1`, maxRetries: 0, logLevel: "off" });
const create = (body, options) => client.chat.completions.create({ messages: ask(marker()), ...body }, options);

// Iterates to the end; what arrived before an exception rides on it.
async function read(stream) {
  const seen = { text: "", chunks: [] };
  try {
    for await (const chunk of stream) {
      seen.chunks.push(chunk);
      seen.text += chunk.choices[0]?.delta?.content ?? "";
    }
  } catch (why) {
    throw Object.assign(why, { seen });
  }
  return seen;
}

for (const model of ["ok", "paced-40-15", "ok+crlf", "ok+cr", "ok+nospace", "ok+bom", "ok+comments", "ok-6+byte"])
  test(`streaming, ${model}`, async () => {
    const { text, chunks } = await read(await create({ model, stream: true }));
    equal(text, await textOf(model), "text");
    equal(chunks.at(-1).choices[0].finish_reason, "stop", "finish_reason");
    check(chunks.every((c) => c.choices.length === 1 && !c.usage), "a chunk without a choice, or usage nobody asked for");
    equal(JSON.stringify(chunks[0].x_unknown), '{"kept":[1.5,"é"]}', "an unknown field");
  });

test("not streaming", async () => {
  const answer = await create({ model: "ok" });
  equal(answer.choices[0].message.content, await textOf("ok"), "text");
  equal(answer.choices[0].finish_reason, "stop", "finish_reason");
  equal(answer.usage.completion_tokens, 24, "completion_tokens");
});

for (const model of ["silent-32+ok-10", "gap-32+ok-10"])
  test(`32 s of silence, ${model}`, async () => {
    equal((await read(await create({ model, stream: true }))).text, await textOf(model), "text");
  }, { aside: true, timeout: 60_000 });

for (const model of ["truncate-0", "truncate-1", "truncate-5", "truncate-24", "fin-0", "fin-5", "rst-0", "rst-5", "inband-0", "inband-5", "truncate-5+byte"])
  test(`streaming raises, ${model}`, async () => {
    const why = await raises(create({ model, stream: true }).then(read), "a broken answer ended without an exception");
    const text = why.seen?.text ?? "";
    check((await textOf(model)).startsWith(text), `what came before the error is not the provider's text: ${JSON.stringify(text)}`);
    check(why instanceof OpenAI.APIError, `not an APIError: ${why.constructor.name} ${why.message}`);
    if (model === "inband-5") check(why.message.includes("the model fell over"), `provider's message lost: ${why.message}`);
  });

for (const model of ["truncate-5", "fin-5", "rst-5", "inband-5"])
  test(`not streaming raises, ${model}`, async () => {
    const why = await raises(create({ model }), "a broken answer was returned");
    check(why instanceof OpenAI.APIError, `not an APIError: ${why.constructor.name} ${why.message}`);
  });

test("the streaming helper raises on a truncated answer", async () => {
  const run = client.chat.completions.stream({ model: "truncate-5", messages: ask(marker()) });
  await raises(run.finalChatCompletion(), "the helper resolved");
});

for (const stream of [true, false])
  for (const status of [400, 404, 409, 422, 429, 500, 503, 403, 401])
    test(`provider's ${status}, ${stream ? "" : "not "}streaming`, async () => {
      const why = await raises(create({ model: `error-${status}`, stream }), "no exception");
      equal(why.status, status, "status");
      check(why.message.includes(`scripted: status ${status} für dich`), `provider's message lost: ${why.message}`);
      check(why.requestID, "no request id");
      if (status === 429) check(Number(why.headers.get("retry-after")) >= 0, "no retry-after");
    });

test("retries are not multiplied by the SDK's own", async () => {
  const mark = marker();
  let requests = 0;
  const counting = (...args) => ((requests += 1), fetch(...args));
  const retrying = new OpenAI({ apiKey: "test", baseURL: `${RELAY}/v1`, fetch: counting, logLevel: "off" });
  await raises(retrying.chat.completions.create({ model: "error-500", messages: ask(mark) }), "no exception");
  const upstream = (await calls(mark)).length;
  check(upstream >= 1 && upstream <= 5, `${upstream} upstream calls`);
  check(upstream === 1 || requests === 1, `the SDK asked ${requests} times although relaystream had retried (${upstream} upstream calls)`);
});

const TOOLS = ["weather", "clock"].map((name) => ({ type: "function", function: { name, parameters: { type: "object", properties: {} } } }));
const CALLS = 'weather{"city":"Zürich 🏔","unit":"°C"} clock{"zone":"Asia/東京"}';
const spell = (calls) => calls.map((c) => c.function.name + c.function.arguments).join(" ");

test("tool calls, streaming", async () => {
  const run = client.chat.completions.stream({ model: "tools", messages: ask(marker()), tools: TOOLS });
  const { choices: [{ message, finish_reason }] } = await run.finalChatCompletion();
  equal(spell(message.tool_calls), CALLS, "tool calls");
  equal(message.tool_calls.map((c) => c.id).join(), "call_a1,call_b2", "ids");
  equal(finish_reason, "tool_calls", "finish_reason");
});

test("tool calls, not streaming", async () => {
  const mark = marker();
  const { choices: [{ message, finish_reason }] } = await client.chat.completions.create({ model: "tools", messages: ask(mark), tools: TOOLS });
  equal(spell(message.tool_calls), CALLS, "tool calls");
  equal(finish_reason, "tool_calls", "finish_reason");
  equal(JSON.stringify((await calls(mark))[0].body.tools), JSON.stringify(TOOLS), "tools as the provider saw them");
});

test("usage only when asked for", async () => {
  const asked = await read(await create({ model: "ok-9", stream: true, stream_options: { include_usage: true } }));
  equal(asked.chunks.at(-1).choices.length, 0, "choices of the usage chunk");
  equal(asked.chunks.at(-1).usage.total_tokens, 16, "total_tokens");
  equal(asked.chunks.filter((c) => c.usage).length, 1, "usage chunks");
  for (const model of ["ok-9", "ok-9+usage"]) {
    const { chunks } = await read(await create({ model, stream: true }));
    check(chunks.every((c) => c.choices.length && !c.usage), `usage nobody asked for, ${model}`);
  }
});

test("headers", async () => {
  for (const stream of [true, false]) {
    const { data, response, request_id } = await create({ model: "ok", stream }).withResponse();
    if (stream) await read(data);
    const id = response.headers.get("x-stream-id");
    check(/^[0-9a-hjkmnp-tv-z]{26}$/.test(id), `X-Stream-Id is ${id}`);
    check(request_id, "no x-request-id");
    check(response.headers.get("link")?.includes(`/v1/streams/${id}/events`), `Link is ${response.headers.get("link")}`);
    equal((await snapshot(id)).text, await textOf("ok"), "the stream's text");
  }
});

test("unknown request fields reach the provider", async () => {
  const mark = marker();
  await client.chat.completions.create({ model: "ok-3", messages: ask(mark), temperature: 0.25, seed: 7, x_custom: { deep: [1, "ü"] } });
  const { body, authorization } = (await calls(mark))[0];
  equal(JSON.stringify([body.temperature, body.seed, body.x_custom]), '[0.25,7,{"deep":[1,"ü"]}]', "fields");
  equal(authorization, "Bearer test", "the provider's own key");
});

test("Idempotency-Key repeats the same stream", async () => {
  const mark = marker();
  const again = () => client.chat.completions.create({ model: "paced-20-20", messages: ask(mark), stream: true }, { headers: { "Idempotency-Key": mark } }).withResponse();
  const both = await Promise.all([again(), again()]);
  const texts = await Promise.all(both.map(({ data }) => read(data)));
  for (const { text } of texts) equal(text, await textOf("paced-20-20"), "text");
  equal(both[0].response.headers.get("x-stream-id"), both[1].response.headers.get("x-stream-id"), "stream");
  equal((await calls(mark)).length, 1, "upstream calls");
});

test("a disconnect is not a cancel", async () => {
  const mark = marker();
  const { data, response } = await client.chat.completions.create({ model: "paced-40-25", messages: ask(mark), stream: true }).withResponse();
  let count = 0;
  for await (const _ of data) if (++count === 5) break;
  equal((await ended(mark)).outcome, "whole", "the upstream call");
  equal((await snapshot(response.headers.get("x-stream-id"))).text, await textOf("paced-40-25"), "the stream's text");
});

test("models.list", async () => {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  check(ids.length && ids.every((id) => typeof id === "string"), `models: ${JSON.stringify(ids)}`);
});

await main();
