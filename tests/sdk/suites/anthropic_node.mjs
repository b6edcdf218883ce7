// npm `@anthropic-ai/sdk`, unmodified, with only `baseURL` changed: every answer is the provider's text or an exception. Each case that
// concerns an answer goes over a provider of Anthropic's own dialect and over one of OpenAI's.

import Anthropic from "@anthropic-ai/sdk";
import { cutProxy } from "../cutproxy.mjs";
import { check, equal, main, raises, test } from "../lib/cases.mjs";
import { RELAY, ask, calls, ended, marker, post, snapshot, textOf, until } from "../lib/world.mjs";

const options = { apiKey: "test", baseURL: RELAY, maxRetries: 0, logLevel: "off" };
const client = new Anthropic(options);
const wish = (model, extra) => ({ model, max_tokens: 500, messages: ask(marker()), ...extra });
const UPSTREAMS = ["anthropic", "openai"];
const over = (body) => UPSTREAMS.forEach(body);

// Iterates to the end; what arrived before an exception rides on it.
async function read(stream) {
  const seen = { text: "", events: [] };
  try {
    for await (const event of stream) {
      seen.events.push(event);
      if (event.delta?.type === "text_delta") seen.text += event.delta.text;
    }
  } catch (why) {
    throw Object.assign(why, { seen });
  }
  return seen;
}

const create = async (model, extra) => read(await client.messages.create({ ...wish(model, extra), stream: true }));
const textIn = (message) => message.content.filter((block) => block.type === "text").map((block) => block.text).join("");

over((up) => {
  for (const model of ["ok", "paced-40-15", "ok+crlf", "ok+cr", "ok+nospace", "ok+bom", "ok+comments", "ok-6+byte"])
    test(`streaming, ${up}/${model}`, async () => {
      const { text, events } = await create(`${up}/${model}`);
      equal(text, await textOf(model), "text");
      equal(events.at(-1).type, "message_stop", "last event");
      check(events.every((event) => event.type !== "ping"), "a ping was yielded");
      if (up === "anthropic") equal(JSON.stringify(events[0].x_unknown), '{"kept":[1.5,"é"]}', "an unknown field");
      return "whole";
    });

  test(`the helper's final message, ${up}`, async () => {
    const stream = client.messages.stream(wish(`${up}/ok`));
    let text = "";
    let blocks = 0;
    stream.on("text", (piece) => (text += piece)).on("contentBlock", () => (blocks += 1));
    const message = await stream.finalMessage();
    equal(text, await textOf("ok"), "text events");
    equal(textIn(message), text, "the message's text");
    equal(blocks, 1, "contentBlock events");
    equal(message.stop_reason, "end_turn", "stop_reason");
    equal(message.role, "assistant", "role");
    check(/^msg_/.test(message.id), `id is ${message.id}`);
    equal(message.usage.output_tokens, 24, "output_tokens");
    equal(message.usage.input_tokens, 7, "input_tokens");
    check(stream.request_id, "no request_id");
    return "whole";
  });

  test(`not streaming, ${up}`, async () => {
    const message = await client.messages.create(wish(`${up}/ok`));
    equal(textIn(message), await textOf("ok"), "text");
    equal(message.stop_reason, "end_turn", "stop_reason");
    equal(message.usage.output_tokens, 24, "output_tokens");
    check(message._request_id, "no request id");
    return "whole";
  });

  const CALLS = 'call_a1 weather{"city":"Zürich 🏔","unit":"°C"} call_b2 clock{"zone":"Asia/東京"}';
  const spell = (message) => message.content.filter((b) => b.type === "tool_use").map((b) => `${b.id} ${b.name}${JSON.stringify(b.input)}`).join(" ");
  const tools = ["weather", "clock"].map((name) => ({ name, input_schema: { type: "object", properties: {} } }));
  test(`tool calls, ${up}`, async () => {
    const stream = client.messages.stream(wish(`${up}/tools`, { tools }));
    const blocks = [];
    stream.on("contentBlock", (block) => blocks.push(block.name));
    const streamed = await stream.finalMessage();
    equal(spell(streamed), CALLS, "streamed calls");
    equal(streamed.stop_reason, "tool_use", "stop_reason");
    equal(blocks.join(), "weather,clock", "contentBlock events");
    const whole = await client.messages.create(wish(`${up}/tools`, { tools }));
    equal(spell(whole), CALLS, "calls");
    equal(whole.stop_reason, "tool_use", "stop_reason");
    // And back: the answer and the tools' results as the next request.
    const results = whole.content.filter((b) => b.type === "tool_use").map((b) => ({ type: "tool_result", tool_use_id: b.id, content: "42" }));
    const messages = [{ role: "user", content: "both" }, { role: "assistant", content: whole.content }, { role: "user", content: [...results, { type: "text", text: "?" }] }];
    equal(textIn(await client.messages.create(wish(`${up}/ok`, { tools, messages }))), await textOf("ok"), "the next answer");
    return "whole";
  });

  test(`thinking, ${up}`, async () => {
    const thinking = up === "anthropic" ? { thinking: { type: "enabled", budget_tokens: 1024 }, max_tokens: 2000 } : {};
    const message = await client.messages.stream(wish(`${up}/think+ok-5`, thinking)).finalMessage();
    const [thought, redacted] = message.content;
    equal(thought.thinking, "Let me think… 🤔\n1 + 1", "thinking");
    equal(textIn(message), await textOf("think+ok-5"), "text");
    if (up === "anthropic") {
      check(thought.signature.startsWith("EqQB"), `signature is ${thought.signature}`);
      equal(redacted.type, "redacted_thinking", "second block");
    }
    return "whole";
  });

  for (const model of ["silent-32+ok-10", "gap-32+ok-10"])
    test(`32 s of silence, ${up}/${model}`, async () => {
      equal((await create(`${up}/${model}`)).text, await textOf(model), "text");
      return "whole";
    }, { aside: true, timeout: 60_000 });

  for (const model of ["truncate-0", "truncate-1", "truncate-5", "truncate-24", "fin-0", "fin-5", "rst-0", "rst-5", "inband-0", "inband-5", "truncate-5+byte"])
    test(`streaming raises, ${up}/${model}`, async () => {
      const why = await raises(create(`${up}/${model}`), "a broken answer ended without an exception");
      const text = why.seen?.text ?? "";
      check((await textOf(model)).startsWith(text), `what came before the error is not the provider's text: ${JSON.stringify(text)}`);
      check(why instanceof Anthropic.APIError, `not an APIError: ${why.constructor.name} ${why.message}`);
      if (model === "inband-5") check(why.message.includes("the model fell over"), `provider's message lost: ${why.message}`);
      return why.constructor.name;
    });

  for (const model of ["truncate-5", "fin-5", "rst-5", "inband-5"])
    test(`not streaming raises, ${up}/${model}`, async () => {
      const why = await raises(client.messages.create(wish(`${up}/${model}`)), "a broken answer was returned");
      check(why instanceof Anthropic.APIError, `not an APIError: ${why.constructor.name} ${why.message}`);
      return why.constructor.name;
    });

  test(`the helper raises on a truncated answer, ${up}`, async () => {
    const why = await raises(client.messages.stream(wish(`${up}/truncate-5`)).finalMessage(), "the helper resolved");
    return why.constructor.name;
  });

  for (const k of [1_200, 2_001])
    test(`a cut by ${k % 2 ? "RST" : "FIN"} between us and the client raises, ${up}`, async (cleanup) => {
      const proxy = await cutProxy(RELAY, { match: "/v1/messages", cuts: [k] });
      cleanup(() => proxy.close());
      const through = new Anthropic({ ...options, baseURL: proxy.url });
      const why = await raises(through.messages.stream(wish(`${up}/paced-40-15`)).finalMessage(), "a cut answer resolved");
      equal(proxy.state.cut, 1, "cuts");
      return why.constructor.name;
    });

  test(`cancelled, ${up}`, async () => {
    const { data, response } = await client.messages.create({ ...wish(`${up}/paced-100-20`), stream: true }).withResponse();
    const id = response.headers.get("x-stream-id");
    const reading = raises(read(data), "a cancelled answer ended without an exception");
    await until("some text", async () => (await snapshot(id)).text.length > 20);
    equal((await post(`/v1/streams/${id}/cancel`, {})).status, 200, "cancel");
    const why = await reading;
    check(why instanceof Anthropic.APIError && why.message.includes("cancelled"), `not told: ${why.message}`);
    check((await textOf("paced-100-20")).startsWith(why.seen.text) && why.seen.text, "not the provider's text");
    return why.constructor.name;
  });

  const NAMES = {
    400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError", 422: "UnprocessableEntityError",
    429: "RateLimitError", 500: "InternalServerError", 529: "OverloadedError",
  };
  for (const [status, name] of Object.entries(NAMES))
    test(`provider's ${status}, ${up}`, async () => {
      for (const stream of [true, false]) {
        const why = await raises(client.messages.create({ ...wish(`${up}/error-${status}`), stream }), "no exception");
        equal(why.status, Number(status), "status");
        check(why instanceof Anthropic[name], `not a ${name}: ${why.constructor.name}`);
        check(why.message.includes(`scripted: status ${status} für dich`), `provider's message lost: ${why.message}`);
        check(why.requestID, "no request id");
        if (status === "429") check(Number(why.headers.get("retry-after")) >= 0, "no retry-after");
      }
      return name;
    });

  test(`a disconnect is not a cancel, ${up}`, async () => {
    const mark = marker();
    const body = { ...wish(`${up}/paced-40-25`, { messages: ask(mark) }), stream: true };
    const { data, response } = await client.messages.create(body).withResponse();
    let count = 0;
    for await (const _ of data) if (++count === 6) break;
    equal((await ended(mark)).outcome, "whole", "the upstream call");
    equal((await snapshot(response.headers.get("x-stream-id"))).text, await textOf("paced-40-25"), "the stream's text");
  });
});

test("pings fill 32 s of silence", async () => {
  const answer = await post("/v1/messages", { ...wish("anthropic/silent-32+ok-3"), stream: true });
  const text = await answer.text();
  check(text.split("event: ping\ndata: {\"type\": \"ping\"}\n\n").length >= 2, "no ping");
  check(!/^:/m.test(text) && !text.includes("\n\n\n"), "a comment or an empty event");
}, { aside: true, timeout: 60_000 });

test("the demo provider, streamed and whole", async () => {
  const streamed = await client.messages.stream(wish("demo-fast")).finalMessage();
  const whole = await client.messages.create(wish("demo-fast"));
  check(textIn(streamed).length > 20 && textIn(whole).length > 20, "no text");
});

test("what is asked reaches a provider of the dialect unchanged", async () => {
  const mark = marker();
  const body = {
    model: "anthropic/ok-3", max_tokens: 9, system: [{ type: "text", text: "x", cache_control: { type: "ephemeral" } }],
    messages: [{ role: "user", content: [{ type: "text", text: mark, cache_control: { type: "ephemeral" } }] }], x_custom: { deep: [1.5, "ü"] },
  };
  await client.beta.messages.create({ ...body, betas: ["context-1m-2025-08-07"] });
  const [entry] = await calls(mark);
  equal(JSON.stringify(entry.body), JSON.stringify({ ...body, model: "ok-3", stream: false }), "the body");
  equal(entry.headers["anthropic-beta"], "context-1m-2025-08-07", "anthropic-beta");
  equal(entry.headers["x-api-key"], "test-ant", "the provider's own key");
});

test("what another provider is asked", async () => {
  const mark = marker();
  const tool_choice = { type: "tool", name: "f", disable_parallel_tool_use: true };
  const tools = [{ name: "f", description: "d", input_schema: { type: "object" } }];
  await client.messages.create(wish("openai/ok-3", { system: "Be brief.", messages: ask(mark), stop_sequences: ["END"], tools, tool_choice }));
  const { body } = (await calls(mark))[0];
  equal(JSON.stringify(body.messages), JSON.stringify([{ role: "system", content: "Be brief." }, ...ask(mark)]), "messages");
  equal(JSON.stringify([body.max_tokens, body.stop, body.parallel_tool_calls]), '[500,["END"],false]', "parameters");
  equal(JSON.stringify(body.tool_choice), '{"type":"function","function":{"name":"f"}}', "tool_choice");
});

test("our own refusals are typed", async () => {
  const wrong = await raises(client.messages.create({ ...wish("openai/ok"), max_tokens: "many" }), "no exception");
  check(wrong instanceof Anthropic.UnprocessableEntityError && wrong.message.includes("max_tokens"), `${wrong.constructor.name} ${wrong.message}`);
  equal(wrong.errorCode, "invalid", "errorCode");
  const unknown = await raises(client.messages.create(wish("anthropic/none")), "no exception");
  check(unknown instanceof Anthropic.NotFoundError, unknown.constructor.name);
});

test("countTokens", async () => {
  const { input_tokens } = await client.messages.countTokens({ model: "anthropic/ok", messages: ask("how many") });
  equal(input_tokens, JSON.stringify(ask("how many")).length, "input_tokens");
  const why = await raises(client.messages.countTokens({ model: "openai/ok", messages: ask("x") }), "no exception");
  check(why instanceof Anthropic.UnprocessableEntityError && why.message.includes("openai/ok"), `${why.constructor.name} ${why.message}`);
  const refused = await raises(client.messages.countTokens({ model: "anthropic/error-529", messages: ask("x") }), "no exception");
  equal(refused.status, 529, "the provider's refusal");
});

test("models.list", async () => {
  const ids = [];
  for await (const model of client.models.list()) {
    equal(model.type, "model", "type");
    check(model.display_name && !Number.isNaN(Date.parse(model.created_at)), JSON.stringify(model));
    ids.push(model.id);
  }
  check(ids.includes("ok") && ids.includes("demo"), `models: ${ids}`);
});

await main();
