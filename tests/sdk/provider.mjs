// A scripted upstream on a real socket, independent of relaystream's own code. Chat Completions here; the other dialects are in lib/.
//
// The request's model name is the script: parts joined by `+`, e.g. `paced-40-20+crlf`.
//   ok, ok-<n>        n tokens at once (24)           paced-<n>-<ms>   n tokens, ms apart
//   silent-<s>        s seconds before the first one  gap-<s>          s seconds of silence in the middle
//   truncate-<n>      clean HTTP end after n tokens   fin-<n>, rst-<n> FIN or RST inside the body after n tokens
//   inband-<n>        error frame after n tokens      error-<status>   an HTTP error instead of an answer
//   tools             two parallel tool calls         usage            a usage frame even if not asked for
//   think             reasoning before the answer     json             the answer is a JSON object
//   reasoning         three thoughts before the text, one frame each
//   crlf, cr, nospace, bom, comments                  other legal SSE spellings
//   byte              one byte per write
// GET /_log?marker= lists the requests seen (the marker is the last user message), with the frames sent and how
// each ended; GET /_text?model= is the text a whole answer has: the oracle of every suite.
// Run as `node provider.mjs`: prints its port, ends with its parent's stdin.

import http from "node:http";
import { countTokens, messages } from "./lib/anthropic.mjs";
import { gemini } from "./lib/gemini.mjs";
import { responses } from "./lib/responses.mjs";
import { THOUGHT } from "./lib/thought.mjs";

const PIECES = [
  "Hello", " wörld", " 日本語", " 👩‍👩‍👧‍👦", " e\u0301a\u0308", "\n\n", "## ", "नमस्ते", ' "quoted"', " \\back\\slash", " שלום",
  "\u2028", "😀", "  two spaces", "\t", " data: x", "[DONE]", "한국어", "\n- `code`", " 𝒳𝓎𝓏", " ok:", "<b>&amp;</b>", "🏳️‍🌈", " ไทย",
];
export const tokens = (n) => Array.from({ length: n }, (_, i) => PIECES[i % PIECES.length] + i);

// The pieces of a whole answer.
export const pieces = (plan) => (plan.json ? ['{"answer":', "42,", '"words":["Zürich",', '"日本"]}'] : tokens(plan.tokens));

export const CALLS = [
  { id: "call_a1", name: "weather", arguments: '{"city":"Zürich 🏔","unit":"°C"}' },
  { id: "call_b2", name: "clock", arguments: '{"zone":"Asia/東京"}' },
];

const THOUGHTS = ["First, ", "größer ", "als 🏔."];

export function script(model) {
  const plan = { tokens: 24, delay: 0, silent: 0, gap: 0, eol: "\n", space: " " };
  for (const part of model.split("+")) {
    const [verb, a, b] = part.split("-");
    const n = Number(a ?? 0);
    if (verb === "ok") plan.tokens = a ? n : 24;
    else if (verb === "paced") Object.assign(plan, { tokens: n, delay: Number(b) });
    else if (verb === "silent" || verb === "gap") plan[verb] = n * 1000;
    else if (["truncate", "fin", "rst", "inband"].includes(verb)) plan.cut = { how: verb, after: n };
    else if (verb === "error") plan.status = n;
    else if (verb === "crlf") plan.eol = "\r\n";
    else if (verb === "cr") plan.eol = "\r";
    else if (verb === "nospace") plan.space = "";
    else if (["tools", "reasoning", "usage", "bom", "comments", "byte", "think", "json"].includes(verb)) plan[verb] = true;
    else return null;
  }
  return plan;
}

export const log = [];
export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
export const error = (message, code) => ({ error: { message, type: "provider_error", param: null, code } });
const usageOf = (plan) => ({ prompt_tokens: 7, completion_tokens: plan.tokens, total_tokens: 7 + plan.tokens });

// Logs a request, and how its answer ends.
export function received(res, request) {
  const entry = { n: log.length + 1, ...request, started: Date.now(), tokens: 0, frames: [], outcome: "running" };
  log.push(entry);
  res.on("close", () => {
    entry.closed = Date.now();
    if (!res.writableFinished && entry.outcome === "running") entry.outcome = "closed by the client";
  });
  return entry;
}

export function json(res, status, body, headers = {}) {
  res.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(body));
}

// The chunks of a whole answer; `mark` is the number of tokens that have gone out before the chunk.
function* chunks(plan, body, id) {
  const chunk = (delta, finish_reason = null) => ({
    id, object: "chat.completion.chunk", created: 1767225600, model: body.model, system_fingerprint: "fp_scripted", x_unknown: { kept: [1.50, "é"] },
    choices: [{ index: 0, delta, logprobs: null, finish_reason }],
    ...(body.stream_options?.include_usage ? { usage: null } : {}),
  });
  yield { mark: 0, data: chunk({ role: "assistant", content: "" }) };
  if (plan.think) for (const reasoning_content of THOUGHT) yield { mark: 0, data: chunk({ reasoning_content }) };
  for (const thought of plan.reasoning ? THOUGHTS : []) yield { mark: 0, data: chunk({ reasoning_content: thought }) };
  if (plan.tools) {
    for (const [index, call] of CALLS.entries()) {
      yield { mark: 0, data: chunk({ tool_calls: [{ index, id: call.id, type: "function", function: { name: call.name, arguments: "" } }] }) };
      for (let at = 0; at < call.arguments.length; at += 6)
        yield { mark: 0, data: chunk({ tool_calls: [{ index, function: { arguments: call.arguments.slice(at, at + 6) } }] }) };
    }
  } else for (const [i, content] of pieces(plan).entries()) yield { mark: i, token: true, data: chunk({ content }) };
  yield { mark: plan.tokens, data: chunk({}, plan.tools ? "tool_calls" : "stop") };
  if (body.stream_options?.include_usage || plan.usage) yield { mark: plan.tokens, data: { ...chunk({}), choices: [], usage: usageOf(plan) } };
}

export async function write(res, plan, text) {
  const bytes = Buffer.from(text);
  if (!plan.byte) return new Promise((done) => res.write(bytes, done));
  for (let i = 0; i < bytes.length; i++) {
    res.write(bytes.subarray(i, i + 1));
    await new Promise(setImmediate);
  }
}

export async function cut(res, plan, entry) {
  entry.outcome = "scripted cut";
  if (plan.cut.how === "inband") {
    await write(res, plan, `data: ${JSON.stringify(error("scripted: the model fell over", "model_down"))}\n\n`);
    return res.end();
  }
  if (plan.cut.how === "truncate") return res.end();
  await sleep(30); // let what was written leave before the cut
  return plan.cut.how === "fin" ? res.socket?.end() : res.socket?.resetAndDestroy();
}

async function stream(res, plan, body, entry) {
  res.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "x-request-id": `up-${entry.n}` });
  res.flushHeaders();
  if (plan.bom) await write(res, plan, "\ufeff");
  const end = plan.eol + plan.eol;
  for (const { mark, token, data } of chunks(plan, body, `chatcmpl-${entry.n}`)) {
    if (token && mark === 0 && plan.silent) await sleep(plan.silent);
    if (token && mark === plan.tokens >> 1 && plan.gap) await sleep(plan.gap);
    if (token && mark > 0 && plan.delay) await sleep(plan.delay);
    if (plan.comments && token) await write(res, plan, `: SCRIPTED PROCESSING${end}`);
    if (plan.cut && mark === plan.cut.after && (token || mark === plan.tokens)) return cut(res, plan, entry);
    if (res.destroyed) return;
    const payload = JSON.stringify(data);
    entry.frames.push(payload);
    entry.tokens += token ? 1 : 0;
    await write(res, plan, `data:${plan.space}${payload}${end}`);
  }
  await write(res, plan, `data:${plan.space}[DONE]${end}`);
  entry.outcome = "whole";
  res.end();
}

async function whole(res, plan, body, entry) {
  await sleep(plan.silent + plan.gap + plan.delay * plan.tokens);
  const message = plan.tools
    ? { role: "assistant", content: null, tool_calls: CALLS.map(({ id, ...f }) => ({ id, type: "function", function: f })) }
    : { role: "assistant", content: pieces(plan).join("") };
  const answer = {
    id: `chatcmpl-${entry.n}`, object: "chat.completion", created: 1767225600, model: body.model, x_unknown: { kept: true },
    choices: [{ index: 0, message, logprobs: null, finish_reason: plan.tools ? "tool_calls" : "stop" }],
    usage: usageOf(plan),
  };
  if (plan.cut?.how === "inband") return json(res, 200, error("scripted: the model fell over", "model_down"));
  if (!plan.cut) return (entry.outcome = "whole"), json(res, 200, answer);
  const text = Buffer.from(JSON.stringify(answer));
  res.writeHead(200, { "content-type": "application/json" });
  await write(res, plan, text.subarray(0, text.length >> 1));
  return cut(res, plan, entry);
}

async function chat(req, res, body) {
  const users = (body.messages ?? []).filter((m) => m.role === "user");
  const last = users.at(-1)?.content;
  const entry = received(res, {
    model: body.model, marker: typeof last === "string" ? last : JSON.stringify(last), stream: !!body.stream, body,
    authorization: req.headers.authorization,
  });
  const plan = script(body.model ?? "");
  if (!plan) return json(res, 404, error(`scripted: no model ${body.model}`, "model_not_found"));
  if (plan.status) {
    entry.outcome = "error";
    return json(res, plan.status, error(`scripted: status ${plan.status} für dich`, `scripted_${plan.status}`), plan.status === 429 ? { "retry-after": "1" } : {});
  }
  return (body.stream ? stream : whole)(res, plan, body, entry);
}

async function answer(req, res) {
  const url = new URL(req.url, "http://provider");
  const query = Object.fromEntries(url.searchParams);
  if (url.pathname === "/_log") return json(res, 200, log.filter((e) => query.marker === undefined || e.marker === query.marker));
  if (url.pathname === "/_text") return json(res, 200, { text: pieces(script(query.model)).join("") });
  if (url.pathname === "/_page") return res.writeHead(200, { "content-type": "text/html" }).end("<!doctype html><title>another origin</title>");
  if (url.pathname === "/v1/models") {
    const data = ["ok", "tools"].map((id) => ({ id, object: "model", created: 1767225600, owned_by: "script" }));
    return json(res, 200, { object: "list", data });
  }
  if (url.pathname.startsWith("/v1beta/")) return gemini(req, res, url);
  const known = { "/v1/chat/completions": chat, "/v1/responses": responses, "/v1/messages": messages, "/v1/messages/count_tokens": countTokens }[url.pathname];
  if (!known || req.method !== "POST") return json(res, 404, error(`scripted: no route ${url.pathname}`, "no_route"));
  const parts = [];
  for await (const part of req) parts.push(part);
  return known(req, res, JSON.parse(Buffer.concat(parts)));
}

if (import.meta.filename === process.argv[1]) {
  const server = http.createServer({ keepAliveTimeout: 60_000 }, (req, res) => {
    res.socket.setNoDelay(true);
    answer(req, res).catch((why) => res.destroy(why));
  });
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
  process.stdin.resume().on("end", () => process.exit(0));
}
