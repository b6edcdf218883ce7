// Entry: `node tests/sdk/run.mjs [--table] [suite] [case]`: how a suite's name begins, what a case's name holds. Installs what is missing, gives every suite its own
// provider and relaystream on free loopback ports, runs them, prints a row a case, then the failures, and ends with `N passed, N failed`.
// The binary is RELAYSTREAM_BIN, else debug/relaystream under CARGO_TARGET_DIR, else under ./target.

import { existsSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { install } from "./lib/install.mjs";
import { CONFIG as ROOMS } from "./lib/rooms/people.mjs";
import { launch, scratch, startLlmock, startProvider, startRelay, stop, stopAll } from "./lib/processes.mjs";
import { table } from "./lib/table.mjs";

const here = import.meta.dirname;
const repository = path.resolve(here, "../..");
const asTable = process.argv.includes("--table");
const [suiteFilter = "", caseFilter = ""] = process.argv.slice(2).filter((word) => word !== "--table");
const RUN_MS = 900_000;
const AT_ONCE = 3;

// Models with timeouts short enough to catch llmock's stall. Two fail for good, and so have circuits of their own.
const JUDGED = `
[providers.openai]
dialect = "openai-chat"
base_url = "UPSTREAM/v1"
keys = ["env:OPENAI_API_KEY"]
` + Object.entries({ judged: "", cut: "", doomed: "", broken: "continue = false" }).map(([name, settings]) => `
[models.${name}]
targets = [{ provider = "openai", model = "${name}" }]
timeouts = { first_token_ms = 1500, between_tokens_ms = 1500 }
${settings}
`).join("");

// The same upstream in every dialect.
const EVERY = ["openai-chat", "openai-responses", "anthropic", "gemini", "ollama"].map((dialect) => `
[providers.${{ "openai-chat": "openai", "openai-responses": "responses" }[dialect] ?? dialect}]
dialect = "${dialect}"
base_url = "UPSTREAM${dialect.startsWith("openai") ? "/v1" : ""}"
keys = ["test"]
`).join("");
// The same upstream in Anthropic's dialect too; a model's name says which one is meant.
const ANTHROPIC = `
[providers.anthropic]
dialect = "anthropic"
base_url = "UPSTREAM"
keys = ["test-ant"]
`;

// The same upstream in Gemini's dialect.
const GEMINI = `
[providers.gemini]
dialect = "gemini"
base_url = "UPSTREAM"
keys = ["g-key"]
`;

// The same upstream in its older dialect alone: by other keys, so that it is not taken for the same provider.
const BOTH = `
[providers.chat]
dialect = "openai-chat"
base_url = "UPSTREAM/v1"
keys = ["other"]
`;

const SUITES = [
  { name: "openai-python", file: "openai_python.py" },
  { name: "openai-node", file: "openai_node.mjs" },
  { name: "responses-python", file: "responses_python.py", config: BOTH },
  { name: "responses-node", file: "responses_node.mjs", config: BOTH },
  { name: "anthropic-python", file: "anthropic_python.py", config: ANTHROPIC },
  { name: "anthropic-node", file: "anthropic_node.mjs", config: ANTHROPIC },
  { name: "gemini-python", file: "gemini_python.py", config: GEMINI },
  { name: "gemini-node", file: "gemini_node.mjs", config: GEMINI },
  { name: "ai-sdk", file: "ai_sdk.mjs" },
  { name: "readers", file: "readers.mjs" },
  { name: "eventsource", file: "eventsource.mjs" },
  { name: "undici", file: "undici.mjs" },
  { name: "browser", file: "browser.mjs" },
  { name: "ws", file: "ws.mjs" },
  { name: "rooms-ws", file: "rooms_ws.mjs", config: ROOMS },
  { name: "rooms-python", file: "rooms_python.mjs", config: ROOMS },
  { name: "rooms-chromium", file: "rooms_chromium.mjs", config: ROOMS },
  { name: "plain", file: "plain.mjs" },
  { name: "llmock", file: "llmock.mjs", llmock: true, config: JUDGED },
  { name: "aimock", file: "aimock.mjs", provider: "aimock.mjs", config: EVERY },
];

function binary() {
  const target = process.env.CARGO_TARGET_DIR ? path.resolve(process.env.CARGO_TARGET_DIR) : path.join(repository, "target");
  const bin = process.env.RELAYSTREAM_BIN ? path.resolve(process.env.RELAYSTREAM_BIN) : path.join(target, "debug/relaystream");
  if (!existsSync(bin)) throw new Error(`no binary at ${bin}: cargo build first, or set RELAYSTREAM_BIN`);
  return bin;
}

function row({ suite, ok, ms, name, message }) {
  console.log(`${ok ? "ok  " : "FAIL"} ${suite.padEnd(14)} ${String(ms).padStart(6)} ms  ${name}${ok && message ? ` → ${message}` : ""}`);
}

// What suites say of single cases beside their verdict: [suite, client, surface, upstream, what went wrong, outcome].
const outcomes = [];

// Turns a suite's lines into cases as they come.
function watch(child, suite) {
  const cases = [];
  createInterface({ input: child.stdout }).on("line", (line) => {
    if (line.startsWith("outcome\t")) outcomes.push([suite, ...line.split("\t").slice(1)]);
    if (!line.startsWith("case\t")) return;
    const [, verdict, ms, name, message] = line.split("\t");
    cases.push({ suite, ok: verdict === "ok", ms, name, message: JSON.parse(message) });
    row(cases.at(-1));
  });
  return cases;
}

async function runSuite(suite, parts, bin) {
  const began = Date.now();
  const mine = [];
  const broken = (name, message) => {
    const one = { suite: suite.name, ok: false, ms: Date.now() - began, name, message };
    row(one);
    return one;
  };
  try {
    const upstream = await (suite.llmock ? startLlmock(parts.llmock) : startProvider(parts.node, path.join(here, suite.provider ?? "provider.mjs")));
    mine.push(upstream.child);
    // What a client makes of an answer that breaks off is not seen in one that is gone on with.
    const apart = suite.llmock ? {} : { RELAYSTREAM_DEFAULTS__CONTINUE: "false" };
    const relay = await startRelay(bin, upstream.url, suite.config?.replaceAll("UPSTREAM", upstream.url), apart);
    mine.push(relay.child);
    const env = {
      PATH: process.env.PATH, HOME: scratch, TMPDIR: scratch, LANG: "C.UTF-8", NO_PROXY: "127.0.0.1", PYTHONDONTWRITEBYTECODE: "1", PYTHONPATH: path.join(here, "lib"),
      SDK_RELAY: relay.url, SDK_PROVIDER: upstream.url, SDK_CASE: caseFilter, SDK_PYTHON: parts.python,
    };
    const runtime = suite.file.endsWith(".py") ? parts.python : parts.node;
    const child = launch(runtime, [path.join(here, "suites", suite.file)], { env, cwd: here });
    mine.push(child);
    const cases = watch(child, suite.name);
    const how = await child.over;
    const whole = how === 0 && relay.child.how === undefined && (cases.length > 0 || caseFilter);
    if (!whole) {
      const message = `suite ended with ${how}, relaystream ${relay.child.how ?? "running"}\n${child.output.slice(-3_000)}\n${relay.child.output.slice(-3_000)}`;
      cases.push(broken("(the suite itself)", message));
    }
    return cases;
  } catch (why) {
    return [broken("(starting)", why.message)];
  } finally {
    for (const child of mine.reverse()) await stop(child);
  }
}

function report(results) {
  for (const { suite, name, message } of results.filter((r) => !r.ok)) console.log(`\n--- ${suite}: ${name}\n${message}`);
  const failed = results.filter((r) => !r.ok).length;
  if (results.length === 0) console.log("no case matched");
  console.log(`\n${results.length - failed} passed, ${failed} failed`);
  return failed === 0 && results.length > 0;
}

async function giveUp(why) {
  await stopAll();
  console.log(`\n${why}\n\n0 passed, 1 failed`);
  process.exit(1);
}

const guard = setTimeout(giveUp, RUN_MS, `the run took longer than ${RUN_MS} ms`);
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, giveUp);

let good = false;
try {
  const bin = binary();
  const parts = install(here);
  const queue = SUITES.filter((suite) => suite.name.startsWith(suiteFilter));
  if (queue.length === 0) throw new Error(`no suite begins with ${suiteFilter}`);
  const results = [];
  const worker = async () => {
    for (let suite = queue.shift(); suite; suite = queue.shift()) results.push(...(await runSuite(suite, parts, bin)));
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  good = report(results);
  if (good && asTable) table(results, outcomes, path.join(repository, "docs/clients.md"));
} catch (why) {
  console.log(`${why.message}\n\n0 passed, 1 failed`);
}
await stopAll();
clearTimeout(guard);
process.exit(good ? 0 : 1);
