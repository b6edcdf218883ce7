// Starts the processes a run needs, waits until they answer, and ends exactly those, by their ids.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";

const started = new Set();

// Everything written at run time lies here.
export const scratch = mkdtempSync(path.join(tmpdir(), "relaystream-sdk-"));
process.on("exit", () => rmSync(scratch, { recursive: true, force: true, maxRetries: 3 }));

export async function freePort() {
  const server = net.createServer();
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

export function launch(command, args, options = {}) {
  const child = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"], ...options });
  child.output = "";
  for (const pipe of [child.stdout, child.stderr]) pipe.on("data", (bytes) => (child.output = (child.output + bytes).slice(-200_000)));
  child.stdin.on("error", () => {});
  child.over = new Promise((done) => child.on("close", (code, signal) => done(code ?? signal)).on("error", (why) => done(why.message)));
  child.over.then((how) => {
    child.how = how;
    started.delete(child);
  });
  started.add(child);
  return child;
}

// Asks politely, then kills. Resolves with how the process ended.
export async function stop(child) {
  if (child.how !== undefined) return child.how;
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), 3_000);
  const how = await child.over;
  clearTimeout(timer);
  return how;
}

export const stopAll = () => Promise.all([...started].map(stop));

async function answers(child, url, ms) {
  const end = Date.now() + ms;
  while (Date.now() < end && child.how === undefined) {
    const answer = await fetch(url).catch(() => null);
    if (answer?.ok) return;
    await new Promise((done) => setTimeout(done, 50));
  }
  throw new Error(`${path.basename(child.spawnfile)} did not answer ${url} (${child.how ?? "running"}):\n${child.output.slice(-2_000)}`);
}

export async function startProvider(node, file) {
  const child = launch(node, [file]);
  const end = Date.now() + 10_000;
  while (!/^\d+\n/.test(child.output) && child.how === undefined && Date.now() < end) await new Promise((done) => setTimeout(done, 20));
  const url = `http://127.0.0.1:${parseInt(child.output)}`;
  return { child, url };
}

export async function startLlmock(bin) {
  const port = await freePort();
  const env = { PATH: process.env.PATH, HOME: scratch, NO_PROXY: "127.0.0.1" };
  const child = launch(bin, ["serve", "-h", "127.0.0.1", "-p", String(port), "--stream-chunk-delay-ms", "25", "--log-level", "warning"], { env });
  await answers(child, `http://127.0.0.1:${port}/_llmock/verdict`, 30_000);
  return { child, url: `http://127.0.0.1:${port}` };
}

// A relaystream of its own: environment as a newcomer has it, configuration file, empty working directory.
export async function startRelay(bin, upstream, config = "", more = {}) {
  const home = mkdtempSync(path.join(scratch, "relay-"));
  writeFileSync(path.join(home, "config.toml"), config);
  const listen = `127.0.0.1:${await freePort()}`;
  const env = {
    PATH: process.env.PATH, HOME: home, NO_PROXY: "127.0.0.1", OPENAI_API_KEY: "test", OPENAI_BASE_URL: `${upstream}/v1`, RELAYSTREAM_LISTEN: listen,
    ...more,
  };
  const child = launch(bin, ["serve", ...(config ? ["--config", "config.toml"] : [])], { cwd: home, env });
  await answers(child, `http://${listen}/readyz`, 15_000);
  return { child, url: `http://${listen}` };
}
