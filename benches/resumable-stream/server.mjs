// A chat route with npm resumable-stream as its README has it, before an OpenAI-compatible upstream; benches/resume starts it.
// It forwards the upstream's events as they are, and knows no users, retries, timeouts or other dialects.
//
//     POST /v1/chat/completions       starts a stream; the answer's x-stream-id names it
//     GET  /streams/ID?resumeAt=N     goes on after N characters; 422 if it is over, 404 if there is none
//
// PORT, UPSTREAM (up to and including /v1) and REDIS_URL (which the library reads) are its environment.

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { Readable, pipeline } from "node:stream";
import { text } from "node:stream/consumers";
import { createResumableStreamContext } from "resumable-stream";

const { PORT, UPSTREAM } = process.env;
// Null is what its documentation asks of a server whose functions are not suspended.
const streams = createResumableStreamContext({ waitUntil: null });

function send(response, stream, id) {
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache", "x-stream-id": id });
  // A viewer who leaves cancels what it reads, as a framework does with a Response.
  pipeline(Readable.fromWeb(stream), response, () => {});
}

async function start(request, response) {
  const upstream = await fetch(`${UPSTREAM}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: await text(request),
  });
  if (!upstream.ok) return response.writeHead(502).end();
  const id = randomUUID();
  send(response, await streams.createNewResumableStream(id, () => upstream.body.pipeThrough(new TextDecoderStream())), id);
}

async function resume(id, resumeAt, response) {
  const stream = await streams.resumeExistingStream(id, resumeAt ? parseInt(resumeAt) : undefined);
  if (stream) return send(response, stream, id);
  response.writeHead(stream === null ? 422 : 404).end();
}

const server = createServer((request, response) => {
  const url = new URL(request.url, "http://localhost");
  const id = url.pathname.match(/^\/streams\/([\w-]+)$/)?.[1];
  const answer = id ? resume(id, url.searchParams.get("resumeAt"), response)
    : request.method === "POST" ? start(request, response)
    : response.end("ok");
  answer.catch?.((error) => {
    console.error(error);
    if (response.headersSent) response.destroy();
    else response.writeHead(500).end(String(error));
  });
});
server.listen(Number(PORT), "127.0.0.1");
process.on("SIGTERM", () => process.exit(0));
