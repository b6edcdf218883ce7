// A chat route with npm resumable-stream as its README has it, before an OpenAI-compatible upstream; benches/resume starts it.
// It forwards the upstream's events as they are, and knows no users, retries, timeouts or other dialects.
//
//     POST /v1/chat/completions       starts a stream; the answer's x-stream-id names it
//     GET  /streams/ID?resumeAt=N     goes on after N characters; 422 if it is over, 404 if there is none
//
// PORT, UPSTREAM (up to and including /v1) and REDIS_URL (which the library reads) are its environment. Both ends are
// node:http and plain loops: fetch, TextDecoderStream and Readable.fromWeb in their place took about 1.7 times the CPU.

import { randomUUID } from "node:crypto";
import { createServer, request as ask } from "node:http";
import { text } from "node:stream/consumers";
import { createResumableStreamContext } from "resumable-stream";

const { PORT, UPSTREAM } = process.env;
// Null is what its documentation asks of a server whose functions are not suspended.
const streams = createResumableStreamContext({ waitUntil: null });

async function send(response, stream, id) {
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache", "x-stream-id": id });
  const reader = stream.getReader();
  // A viewer who leaves cancels what it reads, as a framework does with a Response.
  response.on("close", () => reader.cancel().catch(() => {}));
  for (let part = await reader.read(); !part.done; part = await reader.read()) response.write(part.value);
  response.end();
}

function answerTo(body) {
  return new Promise((resolve, reject) => {
    const headers = { "content-type": "application/json" };
    ask(`${UPSTREAM}/chat/completions`, { method: "POST", headers }, resolve).on("error", reject).end(body);
  });
}

// What the library takes: a stream of strings.
function strings(incoming) {
  incoming.setEncoding("utf8");
  return new ReadableStream({
    start(controller) {
      incoming.on("data", (part) => controller.enqueue(part));
      incoming.on("end", () => controller.close());
      incoming.on("error", (error) => controller.error(error));
    },
  });
}

async function start(request, response) {
  const upstream = await answerTo(await text(request));
  if (upstream.statusCode !== 200) return response.writeHead(502).end();
  const id = randomUUID();
  return send(response, await streams.createNewResumableStream(id, () => strings(upstream)), id);
}

async function resume(id, resumeAt, response) {
  const stream = await streams.resumeExistingStream(id, resumeAt ? parseInt(resumeAt) : undefined);
  if (stream) return send(response, stream, id);
  return response.writeHead(stream === null ? 422 : 404).end();
}

async function route(request, response) {
  const url = new URL(request.url, "http://localhost");
  const id = url.pathname.match(/^\/streams\/([\w-]+)$/)?.[1];
  try {
    if (id) await resume(id, url.searchParams.get("resumeAt"), response);
    else if (request.method === "POST") await start(request, response);
    else response.end("ok");
  } catch (error) {
    console.error(error);
    if (response.headersSent) response.destroy();
    else response.writeHead(500).end(String(error));
  }
}

createServer(route).listen(Number(PORT), "127.0.0.1");
process.on("SIGTERM", () => process.exit(0));
