// What people say, in the order that the server gave it: what we said ourselves is shown at once, and moved to its place
// when the server tells it to everybody. Older messages come by page.

import { avatar, element } from './people.js';

export class Talk {
  #pending = new Map(); // our own id -> its item, until the server has told it
  #shown = new Map(); //   position -> item
  #before = null; //       where the next page of older messages ends
  #me = null;

  constructor(room, people, { log, messages, beginning, onNews }) {
    Object.assign(this, { room, people, log, messages, beginning, onNews });
    room.addEventListener('reset', ({ detail: { data } }) => data.log === room.session && this.#clear());
    room.addEventListener('welcome', ({ detail: { data } }) => this.#welcome(data));
    for (const type of ['text', 'system']) room.addEventListener(type, ({ detail }) => this.#told(detail));
    room.addEventListener('ack', ({ detail }) => this.#acknowledged(detail));
    room.addEventListener('error', ({ detail }) => this.#refused(detail));
    log.addEventListener('scroll', () => log.scrollTop < 120 && this.#older());
    new ResizeObserver(() => this.following && this.#follow()).observe(log);
  }

  say(content) {
    this.#expect(this.room.say('text', { content }), content);
    this.#follow();
  }

  #welcome({ user, position }) {
    this.#me = user;
    // What waited since before a reload; it is sent again, and comes back under its own id.
    for (const { type, id, data } of this.room.waiting) if (type === 'text' && !this.#pending.has(id)) this.#expect(id, data.content);
    if (!this.room.returning) {
      this.#clear();
      this.#before = position;
    }
    if (this.#shown.size === 0) this.#older();
  }

  #clear() {
    for (const item of this.#shown.values()) item.remove();
    this.#shown.clear();
    this.#before = null;
    this.beginning.hidden = true;
  }

  #expect(id, content) {
    const item = this.#item({ content, from: this.#me, timestamp: Date.now() });
    item.dataset.state = 'pending';
    this.#pending.set(id, item);
    this.messages.append(item);
  }

  #told({ type, position, timestamp, data }) {
    const following = this.following;
    const item = this.#item({ ...data, timestamp, type });
    if (data.from === this.#me) this.#settle(position, data.content);
    this.#shown.set(position, item);
    this.messages.insertBefore(item, [...this.#pending.values()].find(pending => pending.isConnected) ?? null);
    if (following) this.#follow();
    if (data.from !== this.#me) this.onNews();
  }

  /** Our own words are told to us without the id that we gave them: they are those of the same place, or of the same content. */
  #settle(position, content) {
    const waiting = [...this.#pending];
    const [id, item] = waiting.find(([, item]) => item.dataset.position === position)
      ?? waiting.find(([, item]) => item.isConnected && !item.dataset.position && item.querySelector('.content').textContent === content) ?? [];
    item?.remove();
    if (item?.dataset.position) this.#pending.delete(id);
  }

  #acknowledged({ id, position }) {
    const item = this.#pending.get(id);
    if (!item) return;
    item.dataset.state = 'sent';
    item.dataset.position = position;
    if (!item.isConnected || this.#shown.has(position)) {
      item.remove();
      this.#pending.delete(id);
    }
  }

  #refused({ id, data }) {
    if (data.retryable) return;
    this.#pending.get(id)?.setAttribute('data-state', 'refused');
    this.#pending.delete(id);
  }

  async #older() {
    if (!this.#before || this.reading || !this.room.ready) return;
    this.reading = true;
    const from = this.#before;
    try {
      const { messages, before } = await this.room.history(from);
      if (from === this.#before) this.#prepend(messages, before);
    } catch {
      await new Promise(done => setTimeout(done, 3000));
    } finally {
      this.reading = false;
    }
    // Again if it was in vain, or if there is still nothing to scroll.
    if (from === this.#before || (this.log.clientHeight > 0 && this.log.scrollHeight <= this.log.clientHeight)) this.#older();
  }

  #prepend(messages, before) {
    const bottom = this.log.scrollHeight - this.log.scrollTop;
    const following = this.following;
    const items = [];
    for (const { type, position, timestamp, data } of messages) {
      const item = this.#item({ ...data, timestamp, type });
      this.#shown.set(position, item);
      items.push(item);
      const [id, ours] = [...this.#pending].find(([, pending]) => pending.dataset.position === position) ?? [];
      ours?.remove();
      this.#pending.delete(id);
    }
    this.messages.prepend(...items);
    this.log.scrollTop = following ? this.log.scrollHeight : this.log.scrollHeight - bottom;
    this.#before = before;
    this.beginning.hidden = before !== null;
  }

  get following() {
    return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 60;
  }

  #follow() {
    this.log.scrollTop = this.log.scrollHeight;
  }

  #item({ content, from, timestamp, type = 'text' }) {
    const item = element('li', type === 'system' ? 'message system' : 'message');
    const at = new Date(timestamp);
    const time = element('time', '', at.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' }));
    time.dateTime = at.toISOString();
    item.dataset.from = from;
    item.classList.toggle('mine', from === this.#me);
    const head = element('p', 'head');
    head.append(element('b', '', this.people.name(from)), time);
    item.append(avatar(from, this.people.name(from)), head, element('p', 'content', content));
    return item;
  }
}
