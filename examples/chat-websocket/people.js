// Who is here: the members and their colours, who types, and where everybody points. All of it is told and never kept.

const CURSOR_MS = 100; // a cursor is sent at most so often
const AWAY_MS = 2_000; // hidden for so long is away: a reload hides a page too, and is no news

export const element = (tag, className, text = '') => Object.assign(document.createElement(tag), { className, textContent: text });

/** The same colour for one user on every page. */
export function hue(user) {
  let hash = 0;
  for (const byte of new TextEncoder().encode(user)) hash = (hash * 31 + byte) >>> 0;
  return (hash * 137) % 360;
}

export function avatar(user, name) {
  const face = element('span', 'avatar', [...name][0]?.toUpperCase() ?? '?');
  face.style.setProperty('--hue', hue(user));
  face.setAttribute('aria-hidden', 'true');
  return face;
}

/** Which letter of a text is under the pointer; Safari has its own way to ask. */
function letterAt(x, y) {
  const at = document.caretPositionFromPoint?.(x, y) ?? document.caretRangeFromPoint?.(x, y);
  const node = at?.offsetNode ?? at?.startContainer;
  return node?.nodeType === Node.TEXT_NODE ? at.offset ?? at.startOffset : null;
}

export class People {
  #members = new Map();
  #names = new Map(); // also of those who have left: their words stay
  #typists = new Set();
  #cursors = new Map();
  #me = null;

  constructor(room, { list, typing, pane, cursors }) {
    Object.assign(this, { room, list, typing, pane, layer: cursors });
    room.addEventListener('welcome', ({ detail: { data } }) => this.#welcome(data));
    room.addEventListener('presence', ({ detail: { data } }) => this.#presence(data));
    room.addEventListener('typing', ({ detail: { data } }) => this.#types(data.user, data.typing));
    document.addEventListener('visibilitychange', () => this.#visible());
    pane.addEventListener('pointermove', event => this.#pointed(event));
    pane.addEventListener('pointerleave', () => this.#point(null));
    new ResizeObserver(() => this.#drawCursors()).observe(pane);
  }

  name(user) {
    return this.#names.get(user) ?? user;
  }

  #welcome(data) {
    this.#me = data;
    this.#typists.clear();
    this.#presence(data);
    // What a connection before this one said of us may still stand.
    this.room.tell('presence', { status: document.hidden ? 'away' : 'online', cursor: null });
  }

  #presence({ members, joins = [], updates = [], leaves = [] }) {
    if (members) this.#members.clear();
    for (const member of members ?? [...joins, ...updates]) {
      this.#members.set(member.member, member);
      this.#names.set(member.user, member.name ?? member.user);
    }
    for (const { member } of leaves) this.#members.delete(member);
    this.#draw();
    this.#drawTyping();
    this.#drawCursors();
  }

  #draw() {
    const focused = document.activeElement?.dataset?.member;
    this.list.replaceChildren(...[...this.#members.values()].map(member => this.#item(member)));
    if (focused) this.list.querySelector(`button[data-member="${CSS.escape(focused)}"]`)?.focus();
  }

  #item({ member, user, role, status, connections }) {
    const item = element('li', 'member');
    const mine = user === this.#me.user;
    const devices = connections > 1 ? `, on ${connections} devices` : '';
    Object.assign(item.dataset, { user, status, role });
    item.title = `${this.name(user)}${mine ? ' (you)' : ''}: ${role}, ${status}${devices}`;
    item.append(avatar(user, this.name(user)), element('span', 'name', mine ? `${this.name(user)} (you)` : this.name(user)));
    item.append(element('span', 'hidden', `${role}, ${status}${devices}`));
    if (this.#me.role === 'owner' && !mine) {
      const kick = Object.assign(element('button', 'kick', '×'), { type: 'button', title: `Send ${this.name(user)} away` });
      kick.setAttribute('aria-label', kick.title);
      kick.dataset.member = member;
      kick.onclick = () => this.room.say('kick', { member });
      item.append(kick);
    }
    return item;
  }

  // ---------------------------------------------------------------- typing and presence

  #types(user, typing) {
    if (typing) this.#typists.add(user);
    else this.#typists.delete(user);
    this.#drawTyping();
  }

  #drawTyping() {
    const names = [...this.#typists].map(user => this.name(user));
    const who = names.length > 2 ? `${names.length} people are` : names.length ? `${names.join(' and ')} ${names.length > 1 ? 'are' : 'is'}` : '';
    this.typing.textContent = who && `${who} typing…`;
  }

  #visible() {
    clearTimeout(this.away);
    if (document.hidden) this.away = setTimeout(() => this.room.tell('presence', { status: 'away', cursor: null }), AWAY_MS);
    else this.room.tell('presence', { status: 'online' });
  }

  // ---------------------------------------------------------------- cursors

  /** Panes differ in width: over an answer a cursor is at a letter of it, elsewhere at a part of the pane. */
  #pointed({ clientX, clientY, pointerType, target }) {
    if (pointerType === 'touch') return;
    const stream = target.closest('.said') && target.closest('[data-stream]').dataset.stream;
    const letter = stream && letterAt(clientX, clientY);
    const box = this.pane.getBoundingClientRect();
    const part = (at, from, size) => Math.round(1000 * (at - from) / size) / 1000;
    this.#point(letter == null
      ? { x: part(clientX, box.left, box.width), y: part(clientY, box.top, box.height) }
      : { stream, letter });
  }

  /** Many moves are one message: the newest, once the last one is long enough ago. */
  #point(cursor) {
    this.next = cursor;
    this.pointing ??= setTimeout(() => {
      this.pointing = null;
      this.room.tell('presence', { cursor: this.next });
    }, CURSOR_MS);
  }

  #drawCursors() {
    const seen = new Set();
    for (const { member, user, cursor } of this.#members.values()) {
      const at = cursor && user !== this.#me.user && this.#place(cursor);
      if (!at) continue;
      seen.add(member);
      const pointer = this.#cursors.get(member) ?? this.#pointer(member, user);
      pointer.lastChild.textContent = this.name(user);
      pointer.style.translate = `${at.x}px ${at.y}px`;
    }
    for (const [member, pointer] of this.#cursors) {
      if (seen.has(member)) continue;
      pointer.remove();
      this.#cursors.delete(member);
    }
  }

  /** Others choose what a cursor says: nothing is drawn but a place that there is. */
  #place({ stream, letter, x, y }) {
    const pane = this.pane.getBoundingClientRect();
    if (x >= 0 && x <= 1 && y >= 0 && y <= 1) return { x: x * pane.width, y: y * pane.height };
    const text = this.pane.querySelector(`[data-stream="${CSS.escape(stream)}"] .said`)?.firstChild;
    if (!text || !Number.isInteger(letter) || letter < 0 || letter >= text.length) return null;
    const range = document.createRange();
    range.setStart(text, letter);
    range.setEnd(text, letter + 1);
    const box = range.getBoundingClientRect();
    return { x: box.left - pane.left, y: box.top - pane.top + box.height / 2 };
  }

  #pointer(member, user) {
    const pointer = element('div', 'cursor');
    pointer.style.setProperty('--hue', hue(user));
    pointer.dataset.user = user;
    pointer.append(element('i'), element('span'));
    this.layer.append(pointer);
    this.#cursors.set(member, pointer);
    return pointer;
  }
}
