// npm `ai`, unmodified, from 5.0.0 to 7: its Chat (what useChat is made of) with its default transport, whose fetch loses the
// connection after k events. A page that is reloaded is a new Chat with the messages that a page would have kept.
//
// Three things are the client's own doing and the same before every server; they are expected here, so that a new version
// that changes them is noticed. REPLAYS: what a version makes of a replay for
//   kept      a Chat that lost its connection and resumes, its half answer still in memory
//   restored  a new Chat whose messages, the answer among them, come from the page's storage
// "once" is right; "twice" shows what was there already and then the whole answer, in one message.

import { check, equal, main, test } from "../lib/cases.mjs";
import { cut } from "../lib/cut.mjs";
import { spread } from "../lib/reader.mjs";
import { RELAY, calls, ended, marker, post, textOf, until } from "../lib/world.mjs";

const VERSIONS = [
  { name: "ai 5.0.0", module: "ai-v5-0-0", kept: "twice", restored: "twice", nothing: "submitted" },
  { name: "ai 5", module: "ai-v5", kept: "twice", restored: "once", nothing: "ready" },
  { name: "ai 6.0.0", module: "ai-v6-0-0", kept: "twice", restored: "twice", nothing: "ready" },
  { name: "ai 6", module: "ai-v6", kept: "once", restored: "once", nothing: "ready" },
  { name: "ai 7", module: "ai-v7", kept: "once", restored: "once", nothing: "ready" },
];

// A page: a Chat on a plain state object that copies what it is given, as React's does. `cutAfter` is for the first request.
function page(sdk, { id, messages = [], body = {}, cutAfter, ...options }) {
  const requests = [];
  const fetching = async (url, init) => {
    requests.push({ url: String(url), init });
    const answer = await fetch(url, init);
    const first = requests.length === 1 && cutAfter !== undefined && answer.body;
    return first ? cut(answer, cutAfter) : answer;
  };
  const state = {
    status: "ready", error: undefined, messages: structuredClone(messages),
    pushMessage(message) { this.messages = [...this.messages, message]; },
    popMessage() { this.messages = this.messages.slice(0, -1); },
    replaceMessage(at, message) { this.messages = this.messages.with(at, structuredClone(message)); },
    snapshot: structuredClone,
  };
  class Chat extends sdk.AbstractChat {}
  const transport = new sdk.DefaultChatTransport({ api: `${RELAY}/api/chat`, fetch: fetching, body });
  return Object.assign(new Chat({ id, state, transport, ...options }), { requests, kept: state });
}

const textIn = (message) => message.parts.filter((part) => part.type === "text").map((part) => part.text).join("");
const answerOf = (chat) => textIn(chat.messages.at(-1));
const user = (text) => ({ id: `user-${text}`, role: "user", parts: [{ type: "text", text }] });
const ofUsers = (chat) => chat.messages.filter((message) => message.role === "user");

async function whole(chat, model, text) {
  equal(chat.error?.message, undefined, "error");
  equal(chat.status, "ready", "status");
  equal(chat.messages.filter((message) => message.role === "assistant").length, 1, "answers");
  equal(answerOf(chat), text ?? (await textOf(model)), "text");
}

// What a replay made of a page that had `had` of the answer already.
function replayed(chat, had, text, expected) {
  equal(chat.messages.filter((message) => message.role === "assistant").length, 1, "answers");
  equal(chat.status, "ready", "status");
  equal(answerOf(chat), expected === "once" ? text : had + text, `text, ${expected}`);
}

for (const version of VERSIONS) {
  const sdk = await import(version.module);
  const open = (options) => page(sdk, options);
  const named = (name, body, options) => test(`${version.name}: ${name}`, body, options);
  const eventsOf = async (model, mark) => {
    const chat = open({ id: mark, body: { model } });
    await chat.sendMessage({ text: mark });
    return (await (await fetch(`${RELAY}/api/chat/${mark}/stream`)).text()).split("\n\n").length - 1;
  };

  for (const model of ["ok", "paced-20-15", "ok-6+byte+crlf"])
    named(`whole, ${model}`, async () => {
      const mark = marker();
      const chat = open({ id: mark, body: { model } });
      await chat.sendMessage({ text: mark });
      await whole(chat, model);
      const { id, metadata } = chat.messages.at(-1);
      equal(id, `msg_${metadata.streamId}`, "id");
      equal(metadata.finishReason, "stop", "finishReason");
      equal(metadata.model, model, "model");
      equal(metadata.usage.inputTokens, 7, "inputTokens");
      check(chat.messages.at(-1).parts.every((part) => part.type !== "text" || part.state === "done"), "a part is not done");
      equal((await calls(mark)).length, 1, "upstream calls");
    });

  named("cut after every event, page reloaded, the answer completes once", async () => {
    const model = "ok-5";
    const every = Array.from({ length: (await eventsOf(model, marker())) + 1 }, (_, k) => k);
    await spread(every, 8, async (k) => {
      const mark = marker();
      const chat = open({ id: mark, body: { model }, cutAfter: k });
      await chat.sendMessage({ text: mark });
      const reloaded = open({ id: mark, messages: ofUsers(chat) });
      await reloaded.resumeStream();
      await whole(reloaded, model);
      equal((await calls(mark)).length, 1, "upstream calls");
    });
    return `${every.length} places`;
  });

  named("cut while it runs, page reloaded", async () => {
    const [model, mark] = ["paced-30-30", marker()];
    const chat = open({ id: mark, body: { model }, cutAfter: 9 });
    await chat.sendMessage({ text: mark });
    equal(chat.status, "error", "status");
    const reloaded = open({ id: mark, messages: ofUsers(chat) });
    await reloaded.resumeStream();
    await whole(reloaded, model);
    equal((await calls(mark)).length, 1, "upstream calls");
  });

  named("cut after every event, the same page resumes", async () => {
    const model = "ok-5";
    const text = await textOf(model);
    const every = Array.from({ length: (await eventsOf(model, marker())) - 1 }, (_, k) => k + 1);
    await spread(every, 8, async (k) => {
      const mark = marker();
      const chat = open({ id: mark, body: { model }, cutAfter: k });
      await chat.sendMessage({ text: mark });
      const had = answerOf(chat);
      await chat.resumeStream();
      replayed(chat, had, text, version.kept);
    });
    return version.kept;
  });

  named("cut after every event, page reloaded with the half answer from its storage", async () => {
    const model = "ok-5";
    const text = await textOf(model);
    const every = Array.from({ length: (await eventsOf(model, marker())) - 1 }, (_, k) => k + 1);
    await spread(every, 8, async (k) => {
      const mark = marker();
      const chat = open({ id: mark, body: { model }, cutAfter: k });
      await chat.sendMessage({ text: mark });
      const reloaded = open({ id: mark, messages: chat.messages });
      await reloaded.resumeStream();
      replayed(reloaded, answerOf(chat), text, version.restored);
    });
    return version.restored;
  });

  named("a finished answer that the page has is replayed", async () => {
    const [model, mark] = ["ok-5", marker()];
    const chat = open({ id: mark, body: { model } });
    await chat.sendMessage({ text: mark });
    const reloaded = open({ id: mark, messages: chat.messages });
    await reloaded.resumeStream();
    replayed(reloaded, await textOf(model), await textOf(model), version.restored);
    return version.restored;
  });

  named("a finished answer that the page has not is replayed", async () => {
    const [model, mark] = ["ok-5", marker()];
    await (await post("/api/chat", { id: mark, messages: [user(mark)], model })).text();
    const chat = open({ id: mark, messages: [user(mark)] });
    await chat.resumeStream();
    await whole(chat, model);
  });

  named("nothing to resume", async () => {
    const chat = open({ id: marker() });
    await chat.resumeStream();
    equal(chat.messages.length, 0, "messages");
    equal(chat.status, version.nothing, "status");
    return version.nothing === "ready" ? "" : "204 leaves this version's status at submitted";
  });

  for (const model of ["truncate-1", "truncate-5", "fin-5", "rst-5", "inband-5"])
    named(`a broken answer is an error, ${model}`, async () => {
      const mark = marker();
      const chat = open({ id: mark, body: { model } });
      await chat.sendMessage({ text: mark });
      equal(chat.status, "error", "status");
      if (model === "inband-5") check(chat.error.message.includes("the model fell over"), `provider's message lost: ${chat.error.message}`);
      check((await textOf(model)).startsWith(answerOf(chat)), `not the provider's text: ${answerOf(chat)}`);
      const reloaded = open({ id: mark, messages: ofUsers(chat) });
      await reloaded.resumeStream();
      equal(reloaded.status, "error", "status after a reload");
      equal(answerOf(reloaded), answerOf(chat), "text after a reload");
    });

  for (const status of [400, 401, 429, 500])
    named(`provider's ${status}`, async () => {
      const mark = marker();
      const chat = open({ id: mark, body: { model: `error-${status}` } });
      await chat.sendMessage({ text: mark });
      equal(chat.status, "error", "status");
      check(chat.error.message.includes(`scripted: status ${status} für dich`), `provider's message lost: ${chat.error.message}`);
      equal(chat.messages.length, 1, "messages");
    });

  for (const model of ["silent-32+ok-10", "gap-32+ok-10"])
    named(`32 s of silence, ${model}`, async () => {
      const mark = marker();
      const chat = open({ id: mark, body: { model } });
      await chat.sendMessage({ text: mark });
      await whole(chat, model);
    }, { aside: true, timeout: 60_000 });

  named("stopped, also after a reload, and every page is told", async () => {
    const [model, mark] = ["paced-200-30", marker()];
    const chat = open({ id: mark, body: { model } });
    const sending = chat.sendMessage({ text: mark });
    await until("some text", () => chat.messages.length > 1 && answerOf(chat).length > 20);
    const reloaded = open({ id: mark, messages: ofUsers(chat) });
    const resuming = reloaded.resumeStream();
    await until("the text so far", () => reloaded.messages.length > 1 && answerOf(reloaded).length > 20);
    const { success } = await (await post(`/api/chat/${mark}/stop`, { activeStreamId: reloaded.messages.at(-1).metadata.streamId })).json();
    equal(success, true, "success");
    await Promise.all([sending, resuming]);
    for (const one of [chat, reloaded]) {
      equal(one.status, "ready", "status");
      check((await textOf(model)).startsWith(answerOf(one)) && answerOf(one).length < (await textOf(model)).length, `text: ${answerOf(one)}`);
      equal(one.messages.at(-1).metadata.stoppedBy, "local", "stoppedBy");
    }
    equal(answerOf(chat), answerOf(reloaded), "text");
    equal((await ended(mark)).outcome, "closed by the client", "the upstream call");
    const later = open({ id: mark, messages: ofUsers(chat) });
    await later.resumeStream();
    equal(answerOf(later), answerOf(chat), "text of a later page");
  });

  named("the SDK's own stop leaves the answer running", async () => {
    const [model, mark] = ["paced-30-30", marker()];
    const chat = open({ id: mark, body: { model } });
    const sending = chat.sendMessage({ text: mark });
    await until("some text", () => chat.messages.length > 1 && answerOf(chat).length > 5);
    await chat.stop();
    await sending;
    equal((await ended(mark)).outcome, "whole", "the upstream call");
  });

  named("regenerate stops what runs and resumes the new answer", async () => {
    const mark = marker();
    let model = "paced-200-30";
    const body = () => ({ model });
    const chat = open({ id: mark, body });
    const sending = chat.sendMessage({ text: mark });
    await until("some text", () => chat.messages.length > 1 && answerOf(chat).length > 20);
    const other = open({ id: mark, body, messages: chat.messages });
    model = "ok-7";
    await other.regenerate();
    await whole(other, model);
    await sending;
    check(chat.messages.at(-1).id !== other.messages.at(-1).id, "two answers under one id");
    const reloaded = open({ id: mark, messages: ofUsers(chat) });
    await reloaded.resumeStream();
    await whole(reloaded, model);
    equal((await calls(mark)).map((call) => call.outcome).join(), "closed by the client,whole", "upstream calls");
  });

  named("reasoning", async () => {
    const mark = marker();
    const chat = open({ id: mark, body: { model: "reasoning+ok-5" } });
    await chat.sendMessage({ text: mark });
    await whole(chat, "ok-5");
    const [thought, ...more] = chat.messages.at(-1).parts.filter((part) => part.type === "reasoning");
    equal(more.length, 0, "further thoughts");
    equal(thought.text, "First, größer als 🏔.", "reasoning");
    equal(thought.state, "done", "state");
  });

  named("tool calls, the client's results, and a reload that shows all of it", async () => {
    const mark = marker();
    let model = "tools";
    const acted = [];
    const options = {
      body: () => ({ model }),
      sendAutomaticallyWhen: sdk.lastAssistantMessageIsCompleteWithToolCalls,
      onToolCall: ({ toolCall }) => void acted.push(toolCall),
    };
    const chat = open({ id: mark, ...options });
    await chat.sendMessage({ text: mark });
    equal(JSON.stringify(acted.map((call) => [call.toolCallId, call.toolName, call.input])),
      '[["call_a1","weather",{"city":"Zürich 🏔","unit":"°C"}],["call_b2","clock",{"zone":"Asia/東京"}]]', "tool calls");
    equal(chat.messages.at(-1).metadata.finishReason, "tool-calls", "finishReason");
    model = "ok-5";
    const add = (call, output) => (chat.addToolOutput ?? chat.addToolResult)({ tool: call.toolName, toolCallId: call.toolCallId, output });
    await add(acted[0], { c: 12 });
    await add(acted[1], "noon");
    await until("the second answer", () => chat.status === "ready" && chat.messages.at(-1).parts.some((part) => part.type === "text"));
    await whole(chat, model);
    const [, second] = await calls(mark);
    const told = second.body.messages.slice(1).map((message) => [message.role, message.tool_call_id ?? "", message.content ?? ""].join(" "));
    equal(told.join("|"), 'assistant  |tool call_a1 {"c":12}|tool call_b2 noon', "what the provider was told");
    equal(second.body.messages[1].tool_calls.length, 2, "calls that the provider was told");
    const states = (one) => one.messages.at(-1).parts.filter((part) => part.toolCallId).map((part) => `${part.type} ${part.state} ${JSON.stringify(part.input)} ${JSON.stringify(part.output)}`).join("|");
    for (const messages of [ofUsers(chat), ...(version.restored === "once" ? [chat.messages] : [])]) {
      const before = acted.length;
      const reloaded = open({ id: mark, messages, ...options });
      await reloaded.resumeStream();
      await whole(reloaded, model);
      equal(states(reloaded), states(chat), "tool parts");
      equal(reloaded.messages.at(-1).id, chat.messages.at(-1).id, "id");
      equal(acted.length, before, "calls acted upon again");
    }
    equal((await calls(mark)).length, 2, "upstream calls");
  });

  named("an image and a file reach the provider", async () => {
    const mark = marker();
    const chat = open({ id: mark, body: { model: "ok-3", temperature: 0.25, theme: "dark" } });
    const url = "data:image/png;base64,iVBORw0KGgo=";
    await chat.sendMessage({ text: mark, files: [{ type: "file", mediaType: "image/png", url }] });
    await whole(chat, "ok-3");
    const [call] = await calls(JSON.stringify([{ type: "image_url", image_url: { url } }, { type: "text", text: mark }]));
    equal(call.body.temperature, 0.25, "temperature");
    check(!("theme" in call.body), "the page's own field went to the provider");
  });
}

await main();
