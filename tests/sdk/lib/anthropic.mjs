// The scripted upstream in Anthropic's dialect: POST /v1/messages and …/count_tokens, by the same scripts as in ../provider.mjs.

import { THOUGHT } from "./thought.mjs";
import { CALLS, json, received, script, sleep, tokens, write } from "../provider.mjs";

const SIGNATURE = "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds+/aLd1RbT0Zx==";
const REDACTED = "EmwKAhgBEgy3va3pzix/LafPsn4aDFIT2Xlxh0L5L8rLVyIw";
const FELL = "scripted: the model fell over";

const CLASSES = {
  400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
  429: "rate_limit_error", 529: "overloaded_error",
};
const error = (status, message) => ({ type: "error", error: { type: CLASSES[status] ?? "api_error", message }, request_id: `req_up_${status}` });

const usage = (output_tokens) => ({ input_tokens: 7, cache_creation_input_tokens: 2, cache_read_input_tokens: 5, output_tokens });
const reason = (plan) => (plan.tools ? "tool_use" : "end_turn");

// Logs the request; returns its script, or answers at once where that is an error.
function begin(req, res, body) {
  const last = (body.messages ?? []).filter((m) => m.role === "user").at(-1)?.content;
  const marker = typeof last === "string" ? last : (last?.find?.((block) => block.type === "text")?.text ?? JSON.stringify(last));
  const headers = Object.fromEntries(Object.entries(req.headers).filter(([name]) => name.startsWith("anthropic-") || name === "x-api-key"));
  const entry = received(res, { model: body.model, marker, stream: !!body.stream, body, headers, path: req.url });
  const plan = script(body.model ?? "");
  const status = plan ? plan.status : 404;
  if (!status) return { plan, entry };
  entry.outcome = "error";
  const said = plan ? `scripted: status ${status} für dich` : `scripted: no model ${body.model}`;
  json(res, status, error(status, said), status === 429 ? { "retry-after": "1" } : {});
  return {};
}

// The events of a whole answer; `mark` is the number of tokens that have gone out before the event.
function* events(plan, body, id) {
  const message = { id, type: "message", role: "assistant", model: body.model, content: [], stop_reason: null, stop_sequence: null, usage: usage(1) };
  yield { mark: 0, data: { type: "message_start", message, x_unknown: { kept: [1.5, "é"] } } };
  let index = 0;
  const start = (content_block) => ({ mark: 0, data: { type: "content_block_start", index, content_block } });
  const delta = (fields) => ({ type: "content_block_delta", index, delta: fields });
  const stop = (mark) => ({ mark, data: { type: "content_block_stop", index: index++ } });
  if (plan.think) {
    yield start({ type: "thinking", thinking: "", signature: "" });
    for (const thinking of THOUGHT) yield { mark: 0, data: delta({ type: "thinking_delta", thinking }) };
    yield { mark: 0, data: delta({ type: "signature_delta", signature: SIGNATURE }) };
    yield stop(0);
    yield start({ type: "redacted_thinking", data: REDACTED });
    yield stop(0);
  }
  if (plan.tools) {
    for (const { id: call, name, arguments: text } of CALLS) {
      yield start({ type: "tool_use", id: call, name, input: {} });
      yield { mark: 0, data: delta({ type: "input_json_delta", partial_json: "" }) };
      for (let at = 0; at < text.length; at += 6) yield { mark: 0, data: delta({ type: "input_json_delta", partial_json: text.slice(at, at + 6) }) };
      yield stop(0);
    }
  } else {
    yield start({ type: "text", text: "" });
    yield { mark: 0, data: { type: "ping" } };
    for (const [i, text] of tokens(plan.tokens).entries()) yield { mark: i, token: true, data: delta({ type: "text_delta", text }) };
    yield stop(plan.tokens);
  }
  yield { mark: plan.tokens, data: { type: "message_delta", delta: { stop_reason: reason(plan), stop_sequence: null }, usage: usage(plan.tokens) } };
  yield { mark: plan.tokens, data: { type: "message_stop" } };
}

async function cut(res, plan, entry, frame) {
  entry.outcome = "scripted cut";
  if (plan.cut.how === "inband") await write(res, plan, frame(error(529, FELL)));
  if (["inband", "truncate"].includes(plan.cut.how)) return res.end();
  await sleep(30); // let what was written leave before the cut
  return plan.cut.how === "fin" ? res.socket?.end() : res.socket?.resetAndDestroy();
}

async function stream(res, plan, body, entry) {
  res.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "request-id": `req_up_${entry.n}` });
  res.flushHeaders();
  if (plan.bom) await write(res, plan, "\ufeff");
  const frame = (data) => `event:${plan.space}${data.type}${plan.eol}data:${plan.space}${JSON.stringify(data)}${plan.eol}${plan.eol}`;
  for (const { mark, token, data } of events(plan, body, `msg_up_${entry.n}`)) {
    if (token && mark === 0 && plan.silent) await sleep(plan.silent);
    if (token && mark === plan.tokens >> 1 && plan.gap) await sleep(plan.gap);
    if (token && mark > 0 && plan.delay) await sleep(plan.delay);
    if (plan.comments && token) await write(res, plan, `: SCRIPTED PROCESSING${plan.eol}${plan.eol}`);
    if (plan.cut && mark === plan.cut.after && (token || mark === plan.tokens)) return cut(res, plan, entry, frame);
    if (res.destroyed) return;
    entry.frames.push(JSON.stringify(data));
    entry.tokens += token ? 1 : 0;
    await write(res, plan, frame(data));
  }
  entry.outcome = "whole";
  res.end();
}

function content(plan) {
  const blocks = plan.think ? [{ type: "thinking", thinking: THOUGHT.join(""), signature: SIGNATURE }, { type: "redacted_thinking", data: REDACTED }] : [];
  if (!plan.tools) return [...blocks, { type: "text", text: tokens(plan.tokens).join("") }];
  return [...blocks, ...CALLS.map(({ id, name, arguments: text }) => ({ type: "tool_use", id, name, input: JSON.parse(text) }))];
}

async function whole(res, plan, body, entry) {
  await sleep(plan.silent + plan.gap + plan.delay * plan.tokens);
  const answer = {
    id: `msg_up_${entry.n}`, type: "message", role: "assistant", model: body.model, content: content(plan), stop_reason: reason(plan),
    stop_sequence: null, usage: usage(plan.tokens), x_unknown: { kept: true },
  };
  if (plan.cut?.how === "inband") return json(res, 200, error(529, FELL));
  if (!plan.cut) return (entry.outcome = "whole"), json(res, 200, answer);
  const text = Buffer.from(JSON.stringify(answer));
  res.writeHead(200, { "content-type": "application/json" });
  await write(res, plan, text.subarray(0, text.length >> 1));
  return cut(res, plan, entry, String);
}

export async function messages(req, res, body) {
  const { plan, entry } = begin(req, res, body);
  if (plan) await (body.stream ? stream : whole)(res, plan, body, entry);
}

// As many tokens as the messages have characters.
export async function countTokens(req, res, body) {
  const { plan } = begin(req, res, body);
  if (plan) json(res, 200, { input_tokens: JSON.stringify(body.messages).length, x_unknown: true });
}
