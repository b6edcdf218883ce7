// The scripted upstream's other dialect: OpenAI Responses, after the API reference. The grammar of model names is provider.mjs's.
// It has ids and sequence numbers of its own, so that a client can tell whose frames it got.

import { THOUGHT } from "./thought.mjs";
import { CALLS, cut, error, json, pieces, received, script, sleep, write } from "../provider.mjs";

const counts = (n) => ({ input_tokens: 7, input_tokens_details: { cached_tokens: 3 }, output_tokens: n, output_tokens_details: { reasoning_tokens: 0 }, total_tokens: 7 + n });
const message = (id, status, text) => ({
  id, type: "message", status, role: "assistant", content: text === null ? [] : [{ type: "output_text", annotations: [], logprobs: [], text }],
});
const call = (id, status, args, { id: call_id, name }) => ({ id, type: "function_call", status, arguments: args, call_id, name });
const thought = (id, done) => ({ id, type: "reasoning", summary: done ? [{ type: "summary_text", text: THOUGHT.join("") }] : [], ...(done ? { encrypted_content: "c2VjcmV0" } : {}) });

function object(n, body, status, output, usage = null) {
  return {
    id: `resp_up${n}`, object: "response", created_at: 1767225600, status, background: false, error: null, incomplete_details: null, instructions: body.instructions ?? null,
    model: body.model, output, parallel_tool_calls: true, previous_response_id: body.previous_response_id ?? null, store: body.store ?? true, temperature: 1,
    text: body.text ?? { format: { type: "text" } }, tool_choice: "auto", tools: body.tools ?? [], top_p: 1, truncation: "disabled", usage, metadata: body.metadata ?? {}, x_unknown: { kept: [1.5, "é"] },
  };
}

// The frames of a whole answer; `mark` is the number of tokens that have gone out before the frame.
function* frames(plan, body, n) {
  const output = [];
  const all = pieces(plan);
  yield { mark: 0, type: "response.created", response: object(n, body, "in_progress", []) };
  yield { mark: 0, type: "response.in_progress", response: object(n, body, "in_progress", []) };
  if (plan.think) {
    const at = { item_id: "rs_up", output_index: output.length, summary_index: 0 };
    yield { mark: 0, type: "response.output_item.added", output_index: at.output_index, item: thought("rs_up", false) };
    yield { mark: 0, type: "response.reasoning_summary_part.added", ...at, part: { type: "summary_text", text: "" } };
    for (const delta of THOUGHT) yield { mark: 0, type: "response.reasoning_summary_text.delta", ...at, delta };
    yield { mark: 0, type: "response.reasoning_summary_text.done", ...at, text: THOUGHT.join("") };
    yield { mark: 0, type: "response.reasoning_summary_part.done", ...at, part: { type: "summary_text", text: THOUGHT.join("") } };
    yield { mark: 0, type: "response.output_item.done", output_index: at.output_index, item: thought("rs_up", true) };
    output.push(thought("rs_up", true));
  }
  if (plan.tools) {
    for (const one of CALLS) {
      const [output_index, id] = [output.length, `fc_up${output.length}`];
      yield { mark: 0, type: "response.output_item.added", output_index, item: call(id, "in_progress", "", one) };
      for (let at = 0; at < one.arguments.length; at += 6)
        yield { mark: 0, type: "response.function_call_arguments.delta", item_id: id, output_index, delta: one.arguments.slice(at, at + 6) };
      yield { mark: 0, type: "response.function_call_arguments.done", item_id: id, output_index, name: one.name, arguments: one.arguments };
      output.push(call(id, "completed", one.arguments, one));
      yield { mark: 0, type: "response.output_item.done", output_index, item: output.at(-1) };
    }
  } else {
    const at = { item_id: "msg_up", output_index: output.length, content_index: 0 };
    yield { mark: 0, type: "response.output_item.added", output_index: at.output_index, item: message("msg_up", "in_progress", null) };
    yield { mark: 0, type: "response.content_part.added", ...at, part: { type: "output_text", annotations: [], logprobs: [], text: "" } };
    for (const [i, delta] of all.entries()) yield { mark: i, token: true, type: "response.output_text.delta", ...at, delta, logprobs: [], obfuscation: "x".repeat(i % 5) };
    const text = all.join("");
    output.push(message("msg_up", "completed", text));
    yield { mark: all.length, type: "response.output_text.done", ...at, text, logprobs: [] };
    yield { mark: all.length, type: "response.content_part.done", ...at, part: output.at(-1).content[0] };
    yield { mark: all.length, type: "response.output_item.done", output_index: at.output_index, item: output.at(-1) };
  }
  yield { mark: all.length, type: "response.completed", response: object(n, body, "completed", output, counts(all.length)) };
}

async function stream(res, plan, body, entry) {
  res.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "x-request-id": `up-${entry.n}` });
  res.flushHeaders();
  let sequence_number = 0;
  const send = (frame) => {
    const payload = JSON.stringify({ type: frame.type, sequence_number: sequence_number++, ...frame });
    entry.frames.push(payload);
    return write(res, plan, `event: ${frame.type}${plan.eol}data:${plan.space}${payload}${plan.eol}${plan.eol}`);
  };
  const count = pieces(plan).length;
  for (const { mark, token, ...frame } of frames(plan, body, entry.n)) {
    if (token && mark === 0 && plan.silent) await sleep(plan.silent);
    if (token && mark === count >> 1 && plan.gap) await sleep(plan.gap);
    if (token && mark > 0 && plan.delay) await sleep(plan.delay);
    if (plan.cut && mark === plan.cut.after && (token || mark === count)) {
      if (plan.cut.how !== "inband") return cut(res, plan, entry);
      entry.outcome = "scripted cut";
      await send({ type: "error", code: "model_down", message: "scripted: the model fell over", param: null });
      return res.end();
    }
    if (res.destroyed) return;
    entry.tokens += token ? 1 : 0;
    await send(frame);
  }
  entry.outcome = "whole";
  res.end();
}

async function whole(res, plan, body, entry) {
  await sleep(plan.silent + plan.gap + plan.delay * plan.tokens);
  if (plan.cut?.how === "inband") return json(res, 200, error("scripted: the model fell over", "model_down"));
  const answer = [...frames(plan, body, entry.n)].at(-1).response;
  if (!plan.cut) return (entry.outcome = "whole"), json(res, 200, answer);
  const text = Buffer.from(JSON.stringify(answer));
  res.writeHead(200, { "content-type": "application/json" });
  await write(res, plan, text.subarray(0, text.length >> 1));
  return cut(res, plan, entry);
}

function marked(input) {
  if (typeof input === "string") return input;
  const content = (input ?? []).filter((item) => item.role === "user").at(-1)?.content;
  return typeof content === "string" ? content : (content?.find((part) => part.type === "input_text")?.text ?? "");
}

export async function responses(req, res, body) {
  const entry = received(res, {
    dialect: "responses", model: body.model, marker: marked(body.input), stream: !!body.stream, body,
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
