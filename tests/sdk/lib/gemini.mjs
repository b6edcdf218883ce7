// The scripted upstream in Gemini's dialect, after Google's API reference: /v1beta/models and its methods. The grammar of model names
// is provider.mjs's. Lines end in CRLF, counts are repeated in every event, nothing marks the end.

import { THOUGHT } from "./thought.mjs";
import { CALLS, json, received, script, sleep, tokens, write } from "../provider.mjs";

export const SIGNATURE = "CrcBAdHtim9jM0r2ZfC5u8vJ3nqS0KQyD1xkNn0hT2bVYw==";
const STATUS = { 400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE" };
const error = (code, message) => ({ error: { code, message, status: STATUS[code] ?? "INTERNAL" } });
const FELL = error(503, "scripted: the model fell over");

function answer(plan, entry, parts, { said, finish } = {}) {
  const thoughtsTokenCount = plan.think ? { thoughtsTokenCount: 5 } : {};
  return {
    candidates: [{ content: { parts, role: "model" }, ...(finish ? { finishReason: finish } : {}), index: 0, x_unknown: { kept: [1.5, "é"] } }],
    usageMetadata: { promptTokenCount: 7, candidatesTokenCount: said, totalTokenCount: 7 + said + (plan.think ? 5 : 0), ...thoughtsTokenCount },
    modelVersion: entry.model, responseId: `up${entry.n}`,
  };
}

// Calls are whole; the first has no id and is signed, as Gemini 3 does it.
const calls = () => CALLS.map(({ id, name, arguments: args }, at) => ({
  functionCall: { name, args: JSON.parse(args), ...(at ? { id } : {}) }, ...(at ? {} : { thoughtSignature: SIGNATURE }),
}));

// Yields {mark, token?, data}: `mark` is how many tokens have gone out before the event.
function* events(plan, entry) {
  const of = (mark, parts, finish) => ({ mark, data: answer(plan, entry, parts, { said: mark, finish }) });
  if (plan.think) for (const text of THOUGHT) yield of(0, [{ text, thought: true }]);
  if (plan.tools) return yield of(plan.tokens, calls(), "STOP");
  for (const [at, text] of tokens(plan.tokens).entries()) yield { ...of(at, [{ text }]), token: true };
  yield of(plan.tokens, [{ text: "", ...(plan.think ? { thoughtSignature: SIGNATURE } : {}) }], "STOP");
}

async function cut(res, plan, entry, failure) {
  entry.outcome = "scripted cut";
  if (plan.cut.how === "inband") return await write(res, plan, failure), res.end();
  if (plan.cut.how === "truncate") return res.end();
  await sleep(30); // let what was written leave before the cut
  return plan.cut.how === "fin" ? res.socket?.end() : res.socket?.resetAndDestroy();
}

async function stream(res, plan, entry) {
  res.writeHead(200, { "content-type": "text/event-stream" });
  res.flushHeaders();
  for (const { mark, token, data } of events(plan, entry)) {
    if (token && mark === 0 && plan.silent) await sleep(plan.silent);
    if (token && mark === plan.tokens >> 1 && plan.gap) await sleep(plan.gap);
    if (token && mark > 0 && plan.delay) await sleep(plan.delay);
    if (plan.cut && mark === plan.cut.after && (token || mark === plan.tokens)) return cut(res, plan, entry, `data: ${JSON.stringify(FELL)}\r\n\r\n`);
    if (res.destroyed) return;
    const payload = JSON.stringify(data);
    entry.frames.push(payload);
    entry.tokens += token ? 1 : 0;
    await write(res, plan, `data: ${payload}\r\n\r\n`);
  }
  entry.outcome = "whole";
  res.end();
}

async function whole(res, plan, entry) {
  await sleep(plan.silent + plan.gap + plan.delay * plan.tokens);
  const thoughts = plan.think ? [{ text: THOUGHT.join(""), thought: true }] : [];
  const said = plan.tools ? calls() : [{ text: tokens(plan.tokens).join("") }];
  const body = answer(plan, entry, [...thoughts, ...said], { said: plan.tokens, finish: "STOP" });
  if (plan.cut?.how === "inband") return json(res, 200, FELL);
  if (!plan.cut) return (entry.outcome = "whole"), json(res, 200, body);
  const text = Buffer.from(JSON.stringify(body));
  res.writeHead(200, { "content-type": "application/json" });
  await write(res, plan, text.subarray(0, text.length >> 1));
  return cut(res, plan, entry, "");
}

// Answers any request below /v1beta/.
export async function gemini(req, res, url) {
  if (url.pathname === "/v1beta/models") return json(res, 200, { models: ["ok", "tools"].map((name) => ({ name: `models/${name}`, version: "1" })) });
  const [, model, method] = url.pathname.match(/^\/v1beta\/models\/(.+):(\w+)$/) ?? [];
  if (!method || req.method !== "POST") return json(res, 404, error(404, `scripted: no route ${url.pathname}`));
  const parts = [];
  for await (const part of req) parts.push(part);
  const body = JSON.parse(Buffer.concat(parts));
  const last = (body.contents ?? []).filter((content) => content.role === "user").at(-1);
  const entry = received(res, {
    model, marker: (last?.parts ?? []).map((part) => part.text ?? "").join(""), stream: method === "streamGenerateContent", body,
    key: req.headers["x-goog-api-key"], query: url.search,
  });
  const plan = script(model);
  if (!plan) return json(res, 404, error(404, `scripted: no model ${model}`));
  if (plan.status) {
    entry.outcome = "error";
    return json(res, plan.status, error(plan.status, `scripted: status ${plan.status} für dich`), plan.status === 429 ? { "retry-after": "1" } : {});
  }
  if (method === "countTokens") return json(res, 200, { totalTokens: 31, promptTokensDetails: [{ modality: "TEXT", tokenCount: 31 }] });
  return (entry.stream ? stream : whole)(res, plan, entry);
}
