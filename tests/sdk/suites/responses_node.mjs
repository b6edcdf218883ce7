// npm `openai`, unmodified, Responses API: over an upstream of the same dialect (its bytes), over Chat Completions, over the demo.
// Beside its cases it prints `outcome<TAB>client<TAB>surface<TAB>upstream<TAB>what was cut<TAB>outcome`.

import OpenAI from "openai";
import { cutProxy } from "../cutproxy.mjs";
import { check, equal, main, raises, test } from "../lib/cases.mjs";
import { RELAY, calls, ended, marker, snapshot, textOf, until } from "../lib/world.mjs";

const client = new OpenAI({ apiKey: "test", baseURL: `${RELAY}/v1`, maxRetries: 0, logLevel: "off" });
const create = (body, options) => client.responses.create({ input: marker(), ...body }, options);
const UPSTREAMS = { "openai-responses": "openai/", "openai-chat": "chat/", demo: "demo/" };
const SCRIPTED = Object.entries(UPSTREAMS).filter(([name]) => name !== "demo");

function outcome(upstream, cut, what) {
  console.log(["outcome", "openai-node", "openai-responses", upstream, cut, what].join("\t"));
}

// Iterates to the end; what arrived before an exception rides on it.
async function read(stream, seen = { text: "", events: [] }) {
  try {
    for await (const event of stream) {
      seen.events.push(event);
      if (event.type === "response.output_text.delta") seen.text += event.delta;
    }
  } catch (why) {
    throw Object.assign(why, { seen });
  }
  return seen;
}

const numbers = (events) => events.map((event) => event.sequence_number).join();
const gapless = (events, from = 0) => equal(numbers(events), events.map((_, i) => from + i).join(), "sequence numbers");
const idOf = (events) => events[0].response.id;
const wanted = async (prefix, model, id) => (prefix === "demo/" ? (await snapshot(id.replace("resp_", ""))).text : textOf(model));

for (const [name, prefix] of Object.entries(UPSTREAMS)) {
  const model = prefix === "demo/" ? "demo-fast" : "ok";
  test(`${name}: streaming`, async () => {
    const { text, events } = await read(await create({ model: prefix + model, stream: true }));
    equal(text, await wanted(prefix, model, idOf(events)), "text");
    gapless(events);
    equal(events[0].type, "response.created", "first");
    const last = events.at(-1);
    equal(last.type, "response.completed", "last");
    equal(last.response.output.at(-1).content[0].text, text, "the final object's text");
    check(last.response.usage.total_tokens > 0, "no usage");
    if (name === "openai-responses") check(idOf(events).startsWith("resp_up"), "the provider's own id is lost");
    outcome(name, "nothing", "whole");
  });

  test(`${name}: the streaming helper's accumulator is satisfied`, async () => {
    const run = client.responses.stream({ model: prefix + model, input: marker() });
    let deltas = "";
    run.on("response.output_text.delta", (event) => {
      deltas += event.delta;
      equal(event.snapshot, deltas, "snapshot");
    });
    const final = await run.finalResponse();
    equal(final.output_text, deltas, "output_text");
    equal(final.status, "completed", "status");
    outcome(name, "nothing (helper)", "whole");
  });

  test(`${name}: not streaming`, async () => {
    const answer = await create({ model: prefix + model });
    equal(answer.output_text, prefix === "demo/" ? answer.output_text : await textOf(model), "text");
    check(answer.output_text.length > 10 && answer.status === "completed" && answer.usage.output_tokens > 0, JSON.stringify(answer));
  });

  test(`${name}: retrieved, replayed from anywhere, deleted`, async () => {
    const { text, events } = await read(await create({ model: prefix + model, stream: true }));
    const id = idOf(events);
    const again = await client.responses.retrieve(id);
    equal(again.output_text, text, "text");
    equal(JSON.stringify(again.output), JSON.stringify(events.at(-1).response.output), "output");
    const all = await read(await client.responses.retrieve(id, { stream: true }));
    equal(JSON.stringify(all.events), JSON.stringify(events), "the replay");
    for (let n = 0; n < events.length; n += 1) {
      const rest = await read(await client.responses.retrieve(id, { stream: true, starting_after: n }));
      equal(numbers(rest.events), numbers(events.slice(n + 1)), `after ${n}`);
    }
    equal((await read(await client.responses.retrieve(id, { stream: true, starting_after: 10_000 }))).events.length, 0, "past the end");
    const heard = [];
    const run = client.responses.stream({ response_id: id, starting_after: 5 });
    run.on("event", (event) => heard.push(event));
    equal((await run.finalResponse()).output_text, text, "the helper's text");
    equal(numbers(heard), numbers(events.slice(6)), "the helper's events");
    await client.responses.delete(id);
    equal((await raises(client.responses.retrieve(id), "still there")).status, 404, "status after delete");
    outcome(name, "retrieved after the end", "whole");
  });
}

for (const [name, prefix] of SCRIPTED) {
  const m = (model) => prefix + model;
  for (const form of ["paced-30-10", "ok+crlf", "ok+cr", "ok+nospace", "ok+bom", "ok+comments", "ok-6+byte"])
    test(`${name}: streaming, ${form}`, async () => {
      if (form === "ok+comments" && name === "openai-responses") return;
      const { text, events } = await read(await create({ model: m(form), stream: true }));
      equal(text, await textOf(form), "text");
      gapless(events);
    });

  for (const model of ["silent-32+ok-10", "gap-32+ok-10"])
    test(`${name}: 32 s of silence, ${model}`, async () => {
      equal((await read(await create({ model: m(model), stream: true }))).text, await textOf(model), "text");
      outcome(name, `32 s silence (${model})`, "whole");
    }, { aside: true, timeout: 60_000 });

  for (const model of ["truncate-0", "truncate-1", "truncate-5", "truncate-24", "fin-5", "rst-5", "inband-5"])
    test(`${name}: a broken answer is never a whole one, ${model}`, async () => {
      const why = await raises(create({ model: m(model), stream: true }).then(read), "a broken answer ended without an exception");
      const seen = why.seen ?? { text: "", events: [] };
      check((await textOf(model)).startsWith(seen.text), `not the provider's text: ${JSON.stringify(seen.text)}`);
      check(!seen.events.some((e) => e.type === "response.completed"), "completed");
      // An error in band is raised by the SDK itself.
      if (seen.events.length && model !== "inband-5") check(["response.failed", "error"].includes(seen.events.at(-1).type), `last event: ${seen.events.at(-1).type}`);
      const run = client.responses.stream({ model: m(model), input: marker() });
      await raises(run.finalResponse(), "the helper resolved");
      await raises(create({ model: m(model) }), "not streaming: no exception");
      outcome(name, model, seen.events.length ? "response.failed, then an exception" : "an exception with a status");
    });

  test(`${name}: background, cut after every few events, nothing lost or doubled`, async () => {
    const first = await create({ model: m("paced-40-30"), background: true, stream: true });
    const events = [];
    for await (const event of first) if (events.push(event) === 4) break;
    const id = idOf(events);
    for (let round = 0; events.at(-1).type !== "response.completed"; round += 1) {
      check(round < 60, "no end");
      const next = await client.responses.retrieve(id, { stream: true, starting_after: events.at(-1).sequence_number });
      let count = 0;
      for await (const event of next) {
        events.push(event);
        if (++count === 3) break;
      }
    }
    gapless(events);
    const text = events.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta).join("");
    equal(text, await textOf("paced-40-30"), "text");
    const run = client.responses.stream({ response_id: id, starting_after: events.length - 3 });
    equal((await run.finalResponse()).output_text, text, "the helper's text");
    outcome(name, "viewer cut, starting_after", "whole");
  });

  test(`${name}: the connection breaks anywhere in the bytes, then starting_after`, async (cleanup) => {
    const whole = await textOf("paced-20-10");
    const proxy = await cutProxy(RELAY, { match: "/v1/responses", cuts: [1400, 701, 950, 433, 1207, 2200, 377] });
    cleanup(() => proxy.close());
    const far = new OpenAI({ apiKey: "test", baseURL: `${proxy.url}/v1`, maxRetries: 0, logLevel: "off" });
    const events = [];
    let stream = far.responses.create({ model: m("paced-20-10"), input: marker(), background: true, stream: true });
    let id;
    for (let round = 0; round < 20 && events.at(-1)?.type !== "response.completed"; round += 1) {
      try {
        for await (const event of await stream) {
          events.push(event);
          id ??= event.response?.id;
        }
      } catch {}
      check(id, "cut before the first event");
      stream = far.responses.retrieve(id, { stream: true, starting_after: events.at(-1).sequence_number });
    }
    stream.catch(() => {});
    gapless(events);
    equal(events.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta).join(""), whole, "text");
    check(proxy.state.cut >= 3, `only ${proxy.state.cut} cuts`);
  });

  test(`${name}: background without a stream, polled`, async () => {
    const mark = marker();
    const first = await create({ model: m("paced-20-20"), input: mark, background: true });
    check(["queued", "in_progress"].includes(first.status), `status ${first.status}`);
    equal(first.output_text, "", "text so far");
    const done = await until("the response completes", async () => {
      const now = await client.responses.retrieve(first.id);
      return now.status === "completed" && now;
    });
    equal(done.output_text, await textOf("paced-20-20"), "text");
    equal((await calls(mark)).length, 1, "upstream calls");
  });

  for (const background of [true, false])
    test(`${name}: cancelled, ${background ? "" : "not "}in the background`, async () => {
      const mark = marker();
      const stream = await create({ model: m("paced-200-30"), input: mark, background, stream: true });
      const events = [];
      let cancelled;
      for await (const event of stream) {
        events.push(event);
        if (events.length === 12) cancelled = client.responses.cancel(idOf(events));
      }
      const object = await cancelled;
      equal(object.status, "cancelled", "status");
      equal((await client.responses.cancel(object.id)).status, "cancelled", "status, again");
      equal(events.at(-1).type, "response.incomplete", "last event");
      gapless(events);
      equal((await ended(mark)).outcome, "closed by the client", "the upstream call");
      equal((await client.responses.retrieve(object.id)).status, "cancelled", "status, later");
      const run = client.responses.stream({ response_id: object.id });
      check((await run.finalResponse()).status !== "completed", "a helper took it for completed");
      outcome(name, "cancelled", "response.incomplete, status cancelled");
    });

  test(`${name}: tools`, async () => {
    const tools = ["weather", "clock"].map((name) => ({ type: "function", name, strict: false, parameters: { type: "object", properties: {} } }));
    const spell = (output) => output.filter((i) => i.type === "function_call").map((c) => `${c.call_id}:${c.name}${c.arguments}`).join(" ");
    const CALLS = 'call_a1:weather{"city":"Zürich 🏔","unit":"°C"} call_b2:clock{"zone":"Asia/東京"}';
    const mark = marker();
    const run = client.responses.stream({ model: m("tools"), input: mark, tools });
    equal(spell((await run.finalResponse()).output), CALLS, "streaming");
    equal(spell((await create({ model: m("tools"), tools })).output), CALLS, "not streaming");
    const sent = (await calls(mark))[0].body.tools;
    equal(sent.map((tool) => tool.name ?? tool.function.name).join(), "weather,clock", "tools as the provider saw them");
  });

  test(`${name}: reasoning`, async () => {
    const run = client.responses.stream({ model: m("ok-5+think"), input: marker(), reasoning: { effort: "low" } });
    let thought = "";
    run.on("response.reasoning_summary_text.delta", (event) => (thought += event.delta));
    const final = await run.finalResponse();
    equal(thought, "Let me think… 🤔\n1 + 1", "deltas");
    equal(final.output[0].type, "reasoning", "first item");
    equal(final.output[0].summary[0].text, "Let me think… 🤔\n1 + 1", "summary");
    equal(final.output_text, await textOf("ok-5"), "text");
  });

  test(`${name}: structured output, parsed`, async () => {
    const schema = { type: "object", properties: { answer: { type: "number" }, words: { type: "array", items: { type: "string" } } }, required: ["answer", "words"], additionalProperties: false };
    const text = { format: { type: "json_schema", name: "answer", schema, strict: true } };
    const mark = marker();
    const parsed = await client.responses.parse({ model: m("json"), input: mark, text });
    equal(JSON.stringify(parsed.output_parsed), '{"answer":42,"words":["Zürich","日本"]}', "parsed");
    const streamed = await client.responses.stream({ model: m("json"), input: marker(), text }).finalResponse();
    equal(streamed.output_parsed.answer, 42, "parsed, streamed");
    const { body } = (await calls(mark))[0];
    equal(JSON.stringify((body.text?.format ?? body.response_format.json_schema).schema), JSON.stringify(schema), "the schema as the provider saw it");
  });

  test(`${name}: a conversation by previous_response_id`, async () => {
    const first = await create({ model: m("ok-3"), instructions: "Be terse.", input: marker() });
    const mark = marker();
    const second = await create({ model: m("ok-4"), input: mark, previous_response_id: first.id });
    equal(second.previous_response_id ?? first.id, first.id, "previous_response_id");
    const { body } = (await calls(mark))[0];
    if (name === "openai-responses") return equal(body.previous_response_id, first.id, "left to the provider");
    equal(body.messages.map((m) => m.role).join(), "user,assistant,user", "roles");
    equal(body.messages[1].content, await textOf("ok-3"), "the earlier answer");
    const items = [];
    for await (const item of client.responses.inputItems.list(second.id, { order: "asc" })) items.push(item.type);
    equal(items.join(), "message,message,message", "input items");
    const why = await raises(create({ model: m("ok"), input: "x", previous_response_id: "resp_nobody" }), "no exception");
    equal(`${why.status} ${why.param}`, "422 previous_response_id", "an unknown one");
  });

  test(`${name}: input chaining`, async () => {
    const input = [{ role: "user", content: "weather?" }];
    const first = await create({ model: m("tools+think"), input });
    input.push(...first.output);
    for (const item of first.output) if (item.type === "function_call") input.push({ type: "function_call_output", call_id: item.call_id, output: "fine" });
    const mark = marker();
    const second = await create({ model: m("ok-4"), input: [...input, { role: "user", content: [{ type: "input_text", text: mark }] }] });
    equal(second.output_text, await textOf("ok-4"), "text");
    const { body } = (await calls(mark))[0];
    if (name === "openai-chat") equal(body.messages.map((m) => m.role).join(), "user,assistant,tool,tool,user", "roles");
    else equal(body.input.length, 7, "items");
  });

  for (const stream of [true, false])
    for (const status of [400, 401, 404, 429, 500])
      test(`${name}: provider's ${status}, ${stream ? "" : "not "}streaming`, async () => {
        const why = await raises(create({ model: m(`error-${status}`), stream }), "no exception");
        equal(why.status, status, "status");
        check(why.message.includes(`scripted: status ${status} für dich`), `provider's message lost: ${why.message}`);
      });
}

test("errors in OpenAI's shape", async () => {
  equal((await raises(client.responses.retrieve("resp_nobody"), "no exception")).status, 404, "unknown");
  equal((await raises(client.responses.cancel("resp_01jxk3v9c2m4n5p6q7r8s9t0va"), "no exception")).status, 404, "unknown, our form");
  const { id } = await create({ model: "chat/ok-2" });
  const why = await raises(client.responses.retrieve(id, { stream: true, starting_after: "soon" }), "no exception");
  equal(`${why.status} ${why.param}`, "400 starting_after", "not a number");
  for (const [field, body] of [["conversation", { conversation: "conv_1" }], ["tools[0]", { tools: [{ type: "web_search" }] }], ["input[0].type", { input: [{ type: "item_reference", id: "x" }] }]]) {
    const refused = await raises(create({ model: "chat/ok", ...body }), `${field} was taken`);
    equal(`${refused.status} ${refused.param}`, `422 ${field}`, "refusal");
  }
  const mark = marker();
  await create({ model: "openai/ok-2", input: mark, tools: [{ type: "web_search" }], x_custom: { deep: [1, "ü"] } });
  const { body } = (await calls(mark))[0];
  equal(JSON.stringify([body.tools, body.x_custom]), '[[{"type":"web_search"}],{"deep":[1,"ü"]}]', "unknown fields, verbatim");
});

await main();
