// The page: who comes in, and which part of it shows what. Where things come from: room.js.
//
//   ?server=   relaystream (default: http://127.0.0.1:8080)
//   ?tickets=  a backend that knows its users and gives them tickets, see tickets.mjs; without it, open access
//   ?room=     the room to begin with; ?model= what to ask

import { Answers } from './answers.js';
import { People } from './people.js';
import { Room } from './room.js';
import { Talk } from './talk.js';

const params = new URLSearchParams(location.search);
const server = params.get('server') ?? 'http://127.0.0.1:8080';
const tickets = params.get('tickets');
const $ = id => document.getElementById(id);
const TYPING_MS = 3_000;

/** A fresh ticket, null if we may not come in. Open access gives one for any name; elsewhere a backend says who we are. */
function credential({ session, name, role }) {
  const body = { session, role, user: name.toLowerCase(), name };
  return async () => {
    const answer = await fetch(tickets ?? `${server}/v1/tickets`, {
      method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(tickets ? { session } : body),
      signal: AbortSignal.timeout(10_000),
    });
    if ([400, 401, 403, 404].includes(answer.status)) return null;
    if (!answer.ok) throw new Error(`${answer.status}`);
    return answer.json();
  };
}

// ---------------------------------------------------------------- the door

const known = JSON.parse(sessionStorage.getItem('who') ?? 'null');
if (tickets) for (const part of document.querySelectorAll('.open-access')) part.remove();
$('session').value = known?.session ?? params.get('room') ?? 'harbour';
if (known && $('name')) $('name').value = known.name;
$('join').addEventListener('submit', event => {
  event.preventDefault();
  enter({ name: '', role: 'member', ...Object.fromEntries(new FormData(event.target)) });
});
if (known) enter(known);

function enter(who) {
  sessionStorage.setItem('who', JSON.stringify(who));
  const room = new Room({ server, session: who.session, name: who.name || undefined, credential: credential(who) });
  $('title').textContent = document.title = who.session;
  params.set('room', who.session);
  history.replaceState(null, '', `?${params}`); // the address is an invitation
  $('door').hidden = true;
  $('room').hidden = false;

  const people = new People(room, { list: $('members'), typing: $('typing'), pane: $('pane'), cursors: $('cursors') });
  const answers = new Answers(room, people, {
    pane: $('pane'), scroller: $('answers'), nothing: $('nothing-asked'), model: params.get('model'), onNews: () => news('answers'),
  });
  const talk = new Talk(room, people, { log: $('log'), messages: $('messages'), beginning: $('beginning'), onNews: () => news('talk') });
  state(room);
  compose(room, talk, answers);
  $('leave').onclick = () => {
    room.close();
    sessionStorage.clear(); // what was not sent goes, too
    location.reload();
  };
  room.open();
}

// ---------------------------------------------------------------- the connection

function state(room) {
  const words = {
    connecting: () => 'Connecting…',
    open: () => 'Connected',
    waiting: () => (navigator.onLine ? 'Reconnecting…' : 'Offline'),
    closed: () => 'Left',
    stopped: ({ code, reason }) => ({ 4001: 'Not let in', 4003: 'Not let in', 4004: 'This room is gone', 4005: 'You were sent away' }[code] ?? `Ended: ${reason || code}`),
  };
  room.addEventListener('state', ({ detail }) => {
    $('state').dataset.state = detail.state;
    $('state').dataset.code = detail.code ?? '';
    $('state').textContent = words[detail.state](detail);
    if (detail.state !== 'stopped') return;
    for (const control of $('composer').elements) control.disabled = true;
    sessionStorage.removeItem('who');
  });
  room.addEventListener('error', ({ detail: { data } }) => {
    if (data.code === 'expired') return;
    $('trouble').textContent = data.retryable ? `${data.message}: it will be tried again` : data.message;
    setTimeout(() => { $('trouble').textContent = ''; }, 6000);
  });
}

// ---------------------------------------------------------------- what we say

function compose(room, talk, answers) {
  const controls = [...$('composer').elements];
  const enable = can => controls.forEach(control => { control.disabled = !can; });
  enable(false);
  room.addEventListener('welcome', ({ detail: { data } }) => {
    enable(data.role !== 'viewer');
    $('words').placeholder = data.role === 'viewer' ? 'You are here to watch' : 'Write to everyone, or ask the model';
  });

  const fine = matchMedia('(pointer: fine)').matches;
  room.addEventListener('welcome', () => fine && $('words').focus(), { once: true });

  let typed = 0;
  const type = typing => {
    if (typing ? Date.now() - typed < TYPING_MS : !typed) return;
    typed = typing ? Date.now() : 0;
    room.tell('typing', { typing });
  };
  const send = ask => {
    const words = $('words').value.trim();
    if (!words) return $('words').focus();
    talk.say(words);
    if (ask) {
      answers.ask(words);
      show('answers');
    }
    $('words').value = '';
    type(false);
    $('words').focus({ preventScroll: true });
  };
  $('words').addEventListener('input', () => type($('words').value !== ''));
  $('words').addEventListener('blur', () => type(false));
  $('words').addEventListener('keydown', event => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send(event.ctrlKey || event.metaKey);
  });
  $('composer').addEventListener('submit', event => { event.preventDefault(); send(false); });
  $('ask').onclick = () => send(true);
}

// ---------------------------------------------------------------- on a narrow screen one part shows at a time

let unread = 0;
function show(part) {
  $('room').dataset.part = part;
  for (const tab of document.querySelectorAll('nav button')) tab.setAttribute('aria-pressed', tab.dataset.part === part);
  for (const scroller of [$('answers'), $('log')]) scroller.scrollTop = scroller.scrollHeight; // one that was not shown has lost its place
  if (part === 'talk') unread = 0;
  mark();
}

function news(part) {
  if (part === 'talk' && $('room').dataset.part !== 'talk') unread += 1;
  mark();
}

function mark() {
  $('unread').hidden = unread === 0;
  $('unread').textContent = unread;
}

for (const tab of document.querySelectorAll('nav button')) tab.onclick = () => show(tab.dataset.part);
show('talk');
