// npm `@google/genai`, unmodified, with only its base URL changed, before an upstream of its own dialect, one of OpenAI's, and the
// demo: every answer is the provider's text or an exception.
//
// Beside its cases it prints `outcome<TAB>client<TAB>surface<TAB>upstream<TAB>what was cut<TAB>outcome`.

import { ApiError, GoogleGenAI } from "@google/genai";
import { cutProxy } from "../cutproxy.mjs";
import { check, equal, main, raises, test } from "../lib/cases.mjs";
import { SIGNATURE } from "../lib/gemini.mjs";
import { RELAY, calls, ended, marker, textOf } from "../lib/world.mjs";

const of = (baseUrl, apiVersion) => new GoogleGenAI({ apiKey: "test", httpOptions: { baseUrl, ...(apiVersion ? { apiVersion } : {}) } });
const client = of(RELAY);
const UPSTREAMS = ["gemini", "openai"];

function outcome(upstream, cut, what) {
  console.log(["outcome", "google-genai-node", "gemini", upstream, cut, what].join("\t"));
}

// Iterates to the end; what arrived before an exception rides on it.
async function read(model, { contents = marker(), config, on = client, onFirst } = {}) {
  const seen = { text: "", thoughts: "", chunks: [] };
  try {
    for await (const chunk of await on.models.generateContentStream({ model, contents, config })) {
      // Not waited for: what a reader has not taken when the body breaks is lost to it.
      if (seen.chunks.push(chunk) === 1) onFirst?.(chunk);
      for (const part of chunk.candidates?.[0]?.content?.parts ?? []) seen[part.thought ? "thoughts" : "text"] += part.text ?? "";
    }
  } catch (why) {
    throw Object.assign(why, { seen });
  }
  return seen;
}

for (const upstream of UPSTREAMS) {
  const at = (model) => `${upstream}/${model}`;

  for (const model of ["ok", "paced-40-15", "ok-6+byte"])
    test(`${upstream}: streaming, ${model}`, async () => {
      const { text, chunks } = await read(at(model));
      equal(text, await textOf(model), "text");
      equal(chunks.at(-1).candidates[0].finishReason, "STOP", "finishReason");
      check(chunks.every((chunk) => chunk.candidates.length === 1), "a chunk without a candidate");
      equal(chunks.at(-1).usageMetadata.candidatesTokenCount, model === "ok" ? 24 : Number(model.match(/\d+/)[0]), "tokens");
      outcome(upstream, `nothing (${model})`, "whole");
    });

  test(`${upstream}: not streaming`, async () => {
    const answer = await client.models.generateContent({ model: at("ok"), contents: marker() });
    equal(answer.text, await textOf("ok"), "text");
    equal(answer.candidates[0].finishReason, "STOP", "finishReason");
    equal(answer.usageMetadata.totalTokenCount, 31, "totalTokenCount");
    outcome(upstream, "nothing (not streaming)", "whole");
  });

  for (const model of ["silent-32+ok-10", "gap-32+ok-10"])
    test(`${upstream}: 32 s of silence, ${model}`, async () => {
      equal((await read(at(model))).text, await textOf(model), "text");
      outcome(upstream, `32 s of silence (${model})`, "whole");
    }, { aside: true, timeout: 60_000 });

  for (const model of ["truncate-0", "truncate-1", "truncate-5", "truncate-24", "fin-0", "fin-5", "rst-0", "rst-5", "inband-0", "inband-5", "truncate-5+byte"])
    test(`${upstream}: streaming raises, ${model}`, async () => {
      const why = await raises(read(at(model)), "a broken answer ended without an exception");
      const text = why.seen?.text ?? "";
      check((await textOf(model)).startsWith(text), `what came before the error is not the provider's text: ${JSON.stringify(text)}`);
      check(why instanceof ApiError, `not an ApiError: ${why.constructor.name} ${why.message}`);
      check(why.status >= 500, `status ${why.status}`);
      if (model.startsWith("inband")) check(why.message.includes("the model fell over"), `provider's message lost: ${why.message}`);
      outcome(upstream, model, text ? "text, then an exception" : "an exception");
    });

  for (const model of ["truncate-5", "fin-5", "rst-5", "inband-5"])
    test(`${upstream}: not streaming raises, ${model}`, async () => {
      const why = await raises(client.models.generateContent({ model: at(model), contents: marker() }), "a broken answer was returned");
      check(why instanceof ApiError, `not an ApiError: ${why.constructor.name} ${why.message}`);
      outcome(upstream, `${model} (not streaming)`, "an exception");
    });

  for (const stream of [true, false])
    for (const status of [400, 401, 403, 404, 429, 500, 503])
      test(`${upstream}: provider's ${status}, ${stream ? "" : "not "}streaming`, async () => {
        const method = stream ? "generateContentStream" : "generateContent";
        const why = await raises(client.models[method]({ model: at(`error-${status}`), contents: marker() }), "no exception");
        equal(why.status, status, "status");
        check(why.message.includes(`scripted: status ${status} für dich`), `provider's message lost: ${why.message}`);
      });

  test(`${upstream}: a cancel is an exception`, async () => {
    const stop = (chunk) => fetch(`${RELAY}/v1/streams/${chunk.sdkHttpResponse.headers["x-stream-id"]}/cancel`, { method: "POST" });
    const why = await raises(read(at("paced-60-50"), { onFirst: stop }), "a cancelled answer ended without an exception");
    equal(why.status, 499, `status of ${why.message}`);
    check(why.seen.text && (await textOf("paced-60-50")).startsWith(why.seen.text), "text before it");
    outcome(upstream, "cancelled by another", "text, then an exception");
  });

  for (const bytes of [0, 900, 901, 3_000])
    test(`${upstream}: the connection breaks after ${bytes} bytes`, async (cleanup) => {
      const proxy = await cutProxy(RELAY, { match: "POST /v1/models", cuts: [bytes] });
      cleanup(() => proxy.close());
      const mark = marker();
      const why = await raises(read(at("paced-30-15"), { contents: mark, on: of(proxy.url) }), "a broken connection ended without an exception");
      check((await textOf("paced-30-15")).startsWith(why.seen.text), "what came before is not the provider's text");
      equal((await ended(mark)).outcome, "whole", "the upstream call");
      outcome(upstream, `connection cut after ${bytes} bytes`, why.seen.text ? "text, then an exception" : "an exception");
    });

  test(`${upstream}: thoughts`, async () => {
    const config = { thinkingConfig: { includeThoughts: true, thinkingBudget: 2048 } };
    const { text, thoughts } = await read(at("think+ok-5"), { config });
    equal(thoughts, "Let me think… 🤔\n1 + 1", "thoughts");
    equal(text, await textOf("ok-5"), "text");
  });

  test(`${upstream}: function calling in a chat`, async () => {
    const declarations = ["weather", "clock"].map((name) => ({ name, parameters: { type: "OBJECT", properties: { city: { type: "STRING" } } } }));
    const mark = marker();
    const chat = client.chats.create({ model: at("tools"), config: { tools: [{ functionDeclarations: declarations }] } });
    const found = [];
    for await (const chunk of await chat.sendMessageStream({ message: mark })) found.push(...(chunk.functionCalls ?? []));
    equal(JSON.stringify(found.map(({ name, args }) => [name, args])), '[["weather",{"city":"Zürich 🏔","unit":"°C"}],["clock",{"zone":"Asia/東京"}]]', "calls");
    const results = found.map(({ id, name }) => ({ functionResponse: { id, name, response: { output: `${name} done` } } }));
    await chat.sendMessage({ message: [...results, { text: `${mark}-2` }] });
    const { body } = (await calls(`${mark}-2`))[0];
    if (upstream === "gemini") {
      equal(body.contents[1].role, "model", "role");
      equal(body.contents[1].parts[0].thoughtSignature, SIGNATURE, "the signature sent back");
      equal(body.contents[2].parts[1].functionResponse.id, "call_b2", "id of a result");
    } else {
      equal(body.tools[0].function.parameters.properties.city.type, "string", "a type in JSON Schema");
      equal(body.messages.map((m) => m.role).join(), "user,assistant,tool,tool,user", "roles");
      equal(body.messages[1].tool_calls.map((c) => c.id).join(), "call_a1,call_b2", "ids");
      equal(body.messages[2].tool_call_id + body.messages[2].content, "call_a1weather done", "a result");
    }
  });

  test(`${upstream}: a chat remembers what was streamed`, async () => {
    const chat = client.chats.create({ model: at("ok-4") });
    for await (const _ of await chat.sendMessageStream({ message: marker() }));
    const mark = marker();
    await chat.sendMessage({ message: mark });
    const { body } = (await calls(mark))[0];
    const turns = upstream === "gemini" ? body.contents.filter((content) => content.role === "model").flatMap((content) => content.parts) : [];
    const said = upstream === "gemini" ? turns.map((part) => part.text).join("") : body.messages[1].content;
    equal(said, await textOf("ok-4"), "the model's turn");
  });

  test(`${upstream}: a disconnect is not a cancel`, async () => {
    const mark = marker();
    let count = 0;
    for await (const _ of await client.models.generateContentStream({ model: at("paced-40-25"), contents: mark })) if (++count === 5) break;
    equal((await ended(mark)).outcome, "whole", "the upstream call");
    outcome(upstream, "the client left", "the answer is kept");
  });
}

test("demo", async () => {
  const { text, chunks } = await read("demo-fast");
  const whole = await client.models.generateContent({ model: "demo-fast", contents: "Hi" });
  check(text.length > 100 && whole.text.length > 100, `text: ${text}`);
  equal(chunks.at(-1).candidates[0].finishReason, "STOP", "finishReason");
  outcome("demo", "nothing", "whole");
});

test("under /v1beta as well", async () => {
  equal((await read("gemini/ok", { on: of(RELAY, "v1beta") })).text, await textOf("ok"), "text");
});

test("unknown request fields and parts reach a Gemini upstream", async () => {
  const mark = marker();
  const config = { safetySettings: [{ category: "HARM_CATEGORY_HATE_SPEECH", threshold: "BLOCK_NONE" }], httpOptions: { extraBody: { xCustom: { deep: [1, "ü"] } } } };
  await client.models.generateContent({ model: "gemini/ok-3", contents: mark, config });
  const { body, key } = (await calls(mark))[0];
  equal(JSON.stringify([body.safetySettings[0].threshold, body.xCustom]), '["BLOCK_NONE",{"deep":[1,"ü"]}]', "fields");
  equal(key, "g-key", "the provider's own key");
});

test("what another provider cannot do is refused by name", async () => {
  const config = { tools: [{ googleSearch: {} }] };
  const why = await raises(client.models.generateContent({ model: "openai/ok", contents: "Hi", config }), "no exception");
  equal(why.status, 422, "status");
  check(why.message.includes("googleSearch"), why.message);
});

test("countTokens", async () => {
  equal((await client.models.countTokens({ model: "gemini/ok", contents: "Hi" })).totalTokens, 31, "tokens");
  const why = await raises(client.models.countTokens({ model: "openai/ok", contents: "Hi" }), "no exception");
  check(why.status === 422 && why.message.includes("cannot count tokens"), why.message);
});

test("models.list and models.get", async () => {
  const names = [];
  for await (const model of await client.models.list()) names.push(model.name);
  for (const name of ["models/ok", "models/demo-fast", "models/openai/ok"]) check(names.includes(name), `${name} in ${names}`);
  const model = await client.models.get({ model: "gemini/ok" });
  equal(model.name, "models/gemini/ok", "name");
  check(model.supportedActions.includes("countTokens"), JSON.stringify(model));
});

await main();
