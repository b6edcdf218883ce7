// The check of examples/chat-websocket: four people with a real backend for their tickets, each in a browser of their own, one
// of them behind a line that is cut. Called by run.mjs, which lends the processes and the browser.

import { spawn } from 'node:child_process';
import { createHmac, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const FOLDER = fileURLToPath(new URL('chat-websocket', import.meta.url));
const SESSION = 'harbour';
const LINGER_MS = 4000;
const PASSWORDS = { ada: 'lovelace', bo: 'diddley', cleo: 'asp', vera: 'watches' };
const SECRET = randomUUID();
const EARLIER = 120; // more than two pages of history

/** `openAccess`: a server that knows nobody. Everything else is run.mjs's own. */
export async function chatExample(openAccess, lent) {
  const { startRelaystream, launchBrowser, breakableLine, listen, freePort, environment, children, stop, json, same, patience } = lent;
  const [port, key] = [await freePort(), randomUUID()];
  const pages = `http://127.0.0.1:${port}`;
  const settings = {
    RELAYSTREAM_AUTH__KEYS: `[{ key = "${key}", user = "backend", role = "owner", sessions = ["*"] }]`,
    RELAYSTREAM_AUTH__JWT__SECRET: SECRET,
    RELAYSTREAM_AUTH__JWT__LEEWAY_S: '0',
    RELAYSTREAM_ROOMS__EXPIRY_GRACE_MS: '2000',
    RELAYSTREAM_SERVER__ALLOWED_ORIGINS: `["${pages}"]`,
    RELAYSTREAM_ROOMS__LINGER_MS: `${LINGER_MS}`,
    RELAYSTREAM_ROOMS__TYPING_MS: '2000',
    RELAYSTREAM_ROOMS__HISTORY_BYTES: '65536',
    RELAYSTREAM_LIMITS__REQUESTS_PER_MINUTE: '0',
    RELAYSTREAM_SERVER__DRAIN_S: '1',
  };
  let server = await startRelaystream('chat', settings);
  const { url } = server;
  const restart = async () => {
    await stop(server.child);
    children.delete(server.child);
    server = await startRelaystream('chat', settings, new URL(url).port);
  };
  const backend = spawn(process.execPath, [path.join(FOLDER, 'tickets.mjs')], {
    env: environment({ RELAYSTREAM: url, RELAYSTREAM_KEY: key, PORT: `${port}` }), stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.add(backend);
  await new Promise((done, failed) => backend.stdout.once('data', done) && backend.once('exit', () => failed(new Error('tickets.mjs ended'))));
  const line = await breakableLine(new URL(url).port);
  const browser = await launchBrowser();
  const people = {};
  try {
    const owner = { authorization: `Bearer ${key}`, 'content-type': 'application/json' };
    const post = content => json(`${url}/v1/sessions/${SESSION}/messages`, {
      method: 'POST', headers: owner, body: JSON.stringify({ content, type: 'system' }),
    });
    const come = async (name, { through = url, width = 1280, clock = false } = {}) => {
      const context = await browser.newContext({
        viewport: { width, height: 800 }, httpCredentials: { username: name, password: PASSWORDS[name] },
      });
      people[name] = await context.newPage();
      people[name].setDefaultTimeout(patience);
      if (clock) await people[name].clock.install();
      const query = new URLSearchParams({ server: through, tickets: '/tickets', room: SESSION });
      await people[name].goto(`${pages}/?${query}`);
      await people[name].click('#join button');
      await people[name].waitForSelector('#state[data-state=open]');
      return people[name];
    };
    for (let n = 0; n < EARLIER; n += 1) await post(`earlier ${n}`);

    const [ada, bo, cleo] = [await come('ada'), await come('bo'), await come('cleo', { through: line.url })];
    const everyone = [ada, bo, cleo];
    const scene = { ada, bo, cleo, everyone, people, browser, listen, openAccess, line, url, owner, post, come, restart, json, same };
    for (const step of [presence, history, order, typing, stream, cursors, cancel, restarted, reload, offline, viewer, leaving, kicked, reset, silence, expiry, door]) {
      try {
        await step(scene);
      } catch (error) {
        throw new Error(`${step.name}: ${error.message}`);
      }
    }
  } finally {
    await browser.close();
    for (const child of [backend, server.child]) {
      await stop(child);
      children.delete(child);
    }
  }
}

// ---------------------------------------------------------------- what a page shows

const until = (page, test, argument) => page.waitForFunction(test, argument);
const gone = (page, selector) => page.waitForSelector(selector, { state: 'detached' });
const talk = page => page.locator('.message:not([data-state]) .content').allTextContents();
const member = user => `#members [data-user=${user}]`;

async function say(page, words, button = '#send') {
  await page.fill('#words', words);
  await page.click(button);
}

const has = (page, words) => until(page, words => [...document.querySelectorAll('.message:not([data-state]) .content')]
  .some(item => item.textContent === words), words);

/** Everybody has heard the last words, and nothing of anybody's waits. Returns what they all show. */
async function agreed({ everyone, same }, last) {
  for (const page of everyone) {
    for (const words of last) await has(page, words);
    await gone(page, '.message[data-state]');
  }
  const [first, ...others] = await Promise.all(everyone.map(talk));
  // Who came later has read less of the history, down to the page's own beginning.
  const common = Math.min(first.length, ...others.map(other => other.length));
  for (const other of others) same(other.slice(-common).join('\n'), first.slice(-common).join('\n'), 'what a page shows of the talk');
  for (const words of last) same(first.filter(shown => shown === words).length, 1, `how often "${words}" is there`);
  return first;
}

const shot = async (page, name) => {
  if (process.env.SCREENSHOTS) await page.screenshot({ path: path.join(process.env.SCREENSHOTS, `chat-${name}.png`) });
};

// ---------------------------------------------------------------- the steps

/** All see all, and who does not look at the page is away. */
async function presence({ everyone, ada, bo }) {
  for (const page of everyone) for (const user of ['ada', 'bo', 'cleo']) await page.waitForSelector(`${member(user)}[data-status=online]`);
  for (const [hidden, status] of [[true, 'away'], [false, 'online']]) {
    await bo.evaluate(hidden => {
      Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    }, hidden);
    await ada.waitForSelector(`${member('bo')}[data-status=${status}]`);
  }
}

/** Scrolled up to its beginning, by page. */
async function history({ ada, bo, same }) {
  await has(ada, `earlier ${EARLIER - 1}`);
  if ((await talk(ada)).length >= EARLIER) throw new Error('all of the history came at once');
  for (const page of [ada, bo]) {
    while (await page.locator('#beginning').isHidden()) {
      await page.locator('#log').evaluate(log => { log.scrollTop = 0; log.dispatchEvent(new Event('scroll')); });
      await sleep(50);
    }
    same((await talk(page)).join(), Array.from({ length: EARLIER }, (_, n) => `earlier ${n}`).join(), 'the history');
    await page.locator('#log').evaluate(log => { log.scrollTop = log.scrollHeight; });
  }
}

async function order(scene) {
  const { everyone } = scene;
  const words = everyone.map((_, who) => [0, 1, 2].map(n => `from ${who}, ${n}`));
  await Promise.all(everyone.map(async (page, who) => { for (const each of words[who]) await say(page, each); }));
  const markup = '<img src=x onerror="document.title=1"><b>bold</b>';
  await say(scene.bo, markup);
  await agreed(scene, [...words.flat(), markup]);
  for (const page of everyone) scene.same(await page.locator('#messages img, #messages .content b').count(), 0, 'elements made of words');
}

async function typing({ ada, bo, same }) {
  await bo.locator('#words').pressSequentially('hm');
  for (const [page, shown] of [[ada, 'Bo is typing…'], [bo, '']]) {
    await until(page, shown => document.getElementById('typing').textContent === shown, shown);
  }
  await until(ada, () => document.getElementById('typing').textContent === '');
  same(await bo.locator('#words').inputValue(), 'hm', 'what is not sent yet');
  await bo.fill('#words', '');
}

const newest = page => page.locator('.answer').last();
const written = (page, status) => page.waitForSelector(`.answer:last-of-type[data-status=${status}]`);
const longer = (page, n) => until(page, n => document.querySelector('.answer:last-of-type .said')?.textContent.length > n, n);

/** One asks, all read the same; one of them through a line that is cut twice, and talks meanwhile. */
async function stream(scene) {
  const { ada, bo, cleo, everyone, line, url, owner, json, same } = scene;
  await say(bo, 'Why is the sky blue?', '#ask');
  await longer(cleo, 40);
  for (const [page, may] of [[ada, true], [bo, true], [cleo, false]]) {
    await page.waitForSelector('.answer:last-of-type[data-by=bo]');
    same(await newest(page).locator('.stop').isVisible(), may, 'whether the answer can be stopped');
  }
  line.down();
  await cleo.waitForSelector('#state:not([data-state=open])');
  await say(cleo, 'said while the line was cut');
  await cleo.waitForSelector('.message[data-state=pending]');
  await shot(cleo, 'cut');
  await say(ada, 'said to those who are there');
  await has(bo, 'said to those who are there');
  line.up();
  await cleo.waitForSelector('#state[data-state=open]');
  line.cut();
  for (const page of everyone) await written(page, 'completed');
  const id = await newest(bo).getAttribute('data-stream');
  const { text } = await json(`${url}/v1/streams/${id}`, { headers: owner });
  for (const page of everyone) same(await newest(page).locator('.said').textContent(), text, 'the answer');
  await agreed(scene, ['said while the line was cut', 'said to those who are there', 'Why is the sky blue?']);
  if (line.torn < 2) throw new Error('the line was not cut');
  await shot(ada, 'answer');
}

/** Over an answer everyone sees the same letter pointed at, however wide their window; beside it, the same part of the pane. */
async function cursors({ ada, bo, same }) {
  await ada.setViewportSize({ width: 900, height: 800 });
  const letter = page => newest(page).locator('.said').evaluate(said => {
    const range = document.createRange();
    range.setStart(said.firstChild, 90);
    range.setEnd(said.firstChild, 91);
    const { left, top, width, height } = range.getBoundingClientRect();
    return { x: left + width / 4, y: top + height / 2 };
  });
  const near = async ({ x, y }) => until(ada, ([x, y]) => {
    const cursor = document.querySelector('.cursor[data-user=bo]')?.getBoundingClientRect();
    return cursor && Math.abs(cursor.left - x) < 12 && Math.abs(cursor.top - y) < 12;
  }, [x, y]);
  const [seen, pointed] = [await letter(ada), await letter(bo)];
  if (seen.x === pointed.x && seen.y === pointed.y) throw new Error('the windows do not differ');
  for (let n = 20; n >= 0; n -= 1) await bo.mouse.move(pointed.x + n, pointed.y);
  await near(seen);
  same(await bo.locator('.cursor').count(), 0, 'cursors of our own');
  await shot(ada, 'cursor');

  const beside = pane => ({ x: pane.x + pane.width / 2, y: pane.y + pane.height - 4 });
  const panes = await Promise.all([ada, bo].map(page => page.locator('#pane').boundingBox()));
  const [to, from] = panes.map(beside);
  await bo.mouse.move(from.x, from.y);
  await near(to);
  await bo.mouse.move(from.x + 600, from.y);
  await gone(ada, '.cursor[data-user=bo]');
  await ada.setViewportSize({ width: 1280, height: 800 });
}

async function cancel({ ada, bo, everyone, same }) {
  await say(bo, 'And at night?', '#ask');
  await until(ada, () => document.querySelectorAll('.answer').length === 2);
  await longer(ada, 20);
  await newest(ada).locator('.stop').click();
  for (const page of everyone) {
    await written(page, 'cancelled');
    same(await newest(page).locator('.status').textContent(), 'stopped by Ada', 'how it ended');
  }
  same(await newest(bo).locator('.said').textContent(), await newest(ada).locator('.said').textContent(), 'the stopped answer');
}

/** The server says that it goes away, and another one goes on with the answer: nobody has to do anything. */
async function restarted({ ada, bo, everyone, restart, url, owner, json, same }) {
  await say(ada, 'And what about the sea?', '#ask');
  await until(bo, () => document.querySelectorAll('.answer').length === 3);
  await longer(bo, 40);
  const closes = Promise.all(everyone.map(page => page.waitForSelector('#state[data-code="4202"]')));
  await restart();
  await closes;
  for (const page of everyone) await written(page, 'completed');
  const { text } = await json(`${url}/v1/streams/${await newest(bo).getAttribute('data-stream')}`, { headers: owner });
  for (const page of everyone) same(await newest(page).locator('.said').textContent(), text, 'the answer over a restart');
}

/** A reload is no news to the others, and shows what was there before. */
async function reload(scene) {
  const { ada, bo, same } = scene;
  await ada.evaluate(() => {
    const list = document.getElementById('members');
    window.flaps = [];
    window.watching = new MutationObserver(() => window.flaps.push([...list.children].map(({ dataset }) => `${dataset.user} ${dataset.status}`).sort().join()));
    window.watching.observe(list, { childList: true });
  });
  const before = [await newest(bo).locator('.said').textContent(), (await talk(bo)).at(-1)];
  await bo.reload();
  await bo.waitForSelector('#state[data-state=open]');
  await until(bo, () => document.querySelectorAll('.answer').length === 3);
  await has(bo, before[1]);
  same(await newest(bo).locator('.said').textContent(), before[0], 'the answer after a reload');
  await sleep(LINGER_MS + 500);
  const flaps = await ada.evaluate(() => { window.watching.disconnect(); return window.flaps; });
  for (const seen of flaps) same(seen, 'ada online,bo online,cleo online', 'the members during a reload');
  await say(bo, 'back again');
  await agreed(scene, ['back again']);
}

/** What is said without a line survives a reload, and comes once. */
async function offline(scene) {
  const { cleo, line, people } = scene;
  line.down();
  await cleo.waitForSelector('#state:not([data-state=open])');
  for (const words of ['first of two', 'second of two']) await say(cleo, words);
  await cleo.reload();
  line.up();
  await people.cleo.waitForSelector('#state[data-state=open]');
  const all = await agreed(scene, ['first of two', 'second of two']);
  scene.same(all.slice(-2).join(), 'first of two,second of two', 'the last words');
}

async function viewer(scene) {
  const { ada, come, same } = scene;
  const vera = await come('vera', { width: 390 });
  await has(vera, 'second of two');
  await ada.waitForSelector(`${member('vera')}[data-role=viewer]`);
  same(await vera.locator('#words').isDisabled(), true, 'whether a viewer may write');
  // Somebody who knows how enables the form: the server still says no.
  await vera.evaluate(() => { for (const control of document.getElementById('composer').elements) control.disabled = false; });
  await say(vera, 'a viewer speaks');
  await vera.waitForSelector('.message[data-state=refused]');
  await until(vera, () => document.getElementById('trouble').textContent.includes('role'));
  await say(ada, 'nobody heard the viewer');
  const all = await agreed(scene, ['nobody heard the viewer']);
  same(all.includes('a viewer speaks'), false, 'whether a viewer was heard');
  await shot(vera, 'phone');
  await vera.click('nav [data-part=answers]');
  await shot(vera, 'phone-model');
}

/** Whoever closes the page is gone, once it has not come back for a while. */
async function leaving({ bo, cleo, everyone, same }) {
  await cleo.close();
  everyone.splice(everyone.indexOf(cleo), 1);
  await sleep(LINGER_MS / 4);
  same(await bo.locator(member('cleo')).count(), 1, 'whether the others see at once that somebody left');
  for (const page of everyone) await gone(page, member('cleo'));
}

async function kicked({ ada, bo, people }) {
  await ada.click(`${member('vera')} .kick`);
  await people.vera.waitForSelector('#state[data-state=stopped][data-code="4005"]');
  for (const page of [ada, bo]) await gone(page, member('vera'));
  await people.vera.waitForSelector('#words:disabled', { state: 'attached' });
}

/** So much is said meanwhile that a page's place is no longer kept: it is told so, and shows what there is. */
async function reset(scene) {
  const { ada, line, post, come, everyone, same } = scene;
  const cleo = await come('cleo', { through: line.url, clock: true });
  await has(cleo, 'nobody heard the viewer');
  line.down();
  await cleo.waitForSelector('#state:not([data-state=open])');
  for (let n = 0; n < 40; n += 1) await post(`${n} `.padEnd(4000, '·'));
  await post('the last of many');
  line.up();
  await has(cleo, 'the last of many');
  const shown = await talk(cleo);
  same(shown.includes('nobody heard the viewer'), false, 'whether what was cut off is shown');
  same(shown.join('\n'), (await talk(ada)).slice(-shown.length).join('\n'), 'what is kept');
  everyone.push(cleo);
}

/** The line takes everything and passes nothing on: the page asks, hears nothing, and comes back by another connection. */
async function silence(scene) {
  const { ada, people: { cleo }, line } = scene;
  line.hush();
  await say(ada, 'into the silence');
  for (const seconds of [21, 9]) await cleo.clock.fastForward(seconds * 1000);
  await agreed(scene, ['into the silence']);
}

/** A token that ends while the socket is open is replaced on it, unseen by anybody. */
async function expiry({ ada, url, same }) {
  const part = value => Buffer.from(JSON.stringify(value)).toString('base64url');
  await ada.exposeFunction('token', seconds => {
    const claims = { sub: 'ada', exp: Math.floor(Date.now() / 1000) + seconds, sessions: { [SESSION]: 'viewer' } };
    const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
    return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
  });
  const seen = await ada.evaluate(async ([server, session]) => {
    const { Room } = await import('/room.js');
    const [seen, lives] = [[], [2, 600]];
    const room = new Room({ server, session, credential: async () => ({ token: await window.token(lives.shift()) }) });
    room.addEventListener('state', ({ detail }) => seen.push(detail.state));
    const expired = new Promise(done => room.addEventListener('error', ({ detail }) => { seen.push(detail.data.code); done(); }));
    const renewed = new Promise(done => room.addEventListener('ack', () => { seen.push('renewed'); done(); }));
    room.open();
    await Promise.all([expired, renewed]);
    await new Promise(done => setTimeout(done, 3000)); // beyond the grace
    room.close();
    return seen;
  }, [url, SESSION]);
  same(seen.join(), 'connecting,open,expired,renewed,closed', 'what became of the socket');
}

/** As the README says: any server for files, open access, and a name. */
async function door({ browser, listen, openAccess, same }) {
  const types = { html: 'text/html', js: 'text/javascript', css: 'text/css' };
  const port = await listen(http.createServer(async ({ url }, answer) => {
    const file = new URL(url, 'http://localhost').pathname.slice(1) || 'index.html';
    answer.setHeader('content-type', types[file.split('.').pop()] ?? 'text/plain').end(await readFile(path.join(FOLDER, file)).catch(() => ''));
  }));
  const enter = async (name, role) => {
    const page = await (await browser.newContext({ viewport: { width: 390, height: 800 } })).newPage();
    await page.goto(`http://127.0.0.1:${port}/?server=${openAccess}`);
    await page.fill('#name', name);
    await page.selectOption('#role', role);
    await shot(page, 'door');
    await page.click('#join button');
    await page.waitForSelector('#state[data-state=open]');
    return page;
  };
  const [dora, emil] = [await enter('Dora', 'owner'), await enter('Emil Ång', 'member')];
  await say(emil, 'good morning');
  await has(dora, 'good morning');
  same(await dora.locator('.message .head b').textContent(), 'Emil Ång', 'who said it');
  await dora.click('#members .kick');
  await emil.waitForSelector('#state[data-state=stopped]');
}
