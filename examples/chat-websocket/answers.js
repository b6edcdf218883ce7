// The model's answers, the same for everyone: each stream of the session is an article that grows as its tokens come.

import { avatar, element } from './people.js';

export class Answers {
  #answers = new Map(); // stream -> article
  #me = null;

  constructor(room, people, { pane, scroller, nothing, model, onNews }) {
    Object.assign(this, { room, people, pane, scroller, nothing, model, onNews });
    const on = (type, act) => room.addEventListener(type, ({ detail }) => act(detail));
    on('welcome', ({ data }) => this.#welcome(data));
    on('start', ({ stream }) => { this.#answer(stream); onNews(); });
    on('token', ({ stream, data }) => this.#write(stream, data.text));
    on('reasoning', ({ stream }) => this.#status(stream, 'running', 'thinking…'));
    on('notice', ({ stream, data }) => stream && this.#status(stream, 'running', data.message ?? data.code));
    on('done', ({ stream, data }) => this.#done(stream, data));
  }

  /** The question, with what was asked and answered before, and who asks, for the pages that see the answer. */
  ask(question) {
    const earlier = [...this.#answers.values()].filter(({ dataset }) => dataset.status === 'completed' && dataset.question).slice(-6);
    const messages = earlier.flatMap(article => [
      { role: 'user', content: article.dataset.question },
      { role: 'assistant', content: article.querySelector('.said').textContent },
    ]);
    messages.push({ role: 'user', content: question });
    this.room.say('start', { ...(this.model && { model: this.model }), messages, metadata: { question: question.slice(0, 400), by: this.#me.user } });
    this.#follow();
  }

  #welcome(data) {
    this.#me = data;
    const following = this.#following;
    // By id: ids of streams begin with the time, and `welcome` has them in the order of their ends.
    for (const { stream, status, text } of [...data.streams].sort((a, b) => (a.stream < b.stream ? -1 : 1))) {
      const article = this.#answer(stream);
      if (text !== undefined) article.querySelector('.said').firstChild.data = text;
      this.#status(stream, status);
    }
    // A stream that the server no longer has will never go on.
    const known = new Set(data.streams.map(({ stream }) => stream));
    for (const [stream, { dataset }] of this.#answers) if (!known.has(stream) && dataset.status === 'running') this.#status(stream, 'lost');
    if (following) this.#follow();
  }

  #answer(stream) {
    return this.#answers.get(stream) ?? this.#begin(stream);
  }

  #begin(stream) {
    const following = this.#following;
    const article = element('article', 'answer card');
    article.dataset.stream = stream;
    const head = element('header', '');
    head.append(element('p', 'question', 'A question'));
    const said = element('div', 'said');
    said.append(new Text());
    const foot = element('footer', '');
    const stop = Object.assign(element('button', 'stop', 'Stop'), { type: 'button', hidden: true });
    stop.onclick = () => { stop.disabled = true; this.room.say('cancel', { stream }); };
    const status = element('span', 'status');
    status.setAttribute('role', 'status');
    foot.append(status, stop);
    article.append(head, said, foot);
    this.#answers.set(stream, article);
    this.pane.append(article);
    this.nothing.hidden = true;
    this.#status(stream, 'running');
    this.#describe(stream, article);
    if (following) this.#follow();
    return article;
  }

  /** Who asked what: `start` does not say so, the stream's own page does. What is in `metadata` is its starter's word. */
  async #describe(stream, article, tries = 3) {
    try {
      const { metadata, model } = await this.room.get(`/v1/streams/${encodeURIComponent(stream)}`);
      const [question, by] = [metadata?.question, metadata?.by].map(value => (typeof value === 'string' ? value : ''));
      Object.assign(article.dataset, { question, by, model });
      const head = element('header', '');
      if (by) head.append(avatar(by, this.people.name(by)));
      head.append(element('p', 'by', by ? `${this.people.name(by)} asked ${model}` : model), element('p', 'question', question || 'Asked elsewhere'));
      article.querySelector('header').replaceWith(head);
      this.#status(stream, article.dataset.status);
    } catch {
      if (tries > 1) setTimeout(() => this.#describe(stream, article, tries - 1), 2000);
    }
  }

  #write(stream, text) {
    const following = this.#following;
    this.#answer(stream).querySelector('.said').firstChild.appendData(text);
    if (following) this.#follow();
  }

  #done(stream, { status, by, error, usage }) {
    const tokens = usage?.output_tokens ? `completed, ${usage.output_tokens} tokens` : undefined;
    this.#status(stream, status, error?.message ?? (by && status === 'cancelled' ? `stopped by ${this.people.name(by)}` : tokens));
  }

  #status(stream, status, words = status === 'running' ? 'writing…' : status) {
    const article = this.#answers.get(stream);
    Object.assign(article.dataset, { status });
    article.setAttribute('aria-busy', status === 'running');
    article.querySelector('.status').textContent = words;
    // Only a hint: the server decides who may stop what.
    const { role, user } = this.#me;
    article.querySelector('.stop').hidden = status !== 'running' || !(role === 'owner' || (role === 'member' && article.dataset.by === user));
  }

  get #following() {
    return this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight < 80;
  }

  #follow() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }
}
