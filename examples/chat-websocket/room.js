// A session of relaystream as a browser sees it: one socket that comes back by itself. Copy this file; it needs no other.
//
// It keeps the last position of every log, so that a reconnect misses nothing and shows nothing twice; and what was said but
// not yet acknowledged, in sessionStorage, so that neither a cut nor a reload loses it. It shows nothing: every message of the
// server is an event of its own name (`detail` is the message), and `state` tells how the connection is.
//
//   const room = new Room({ server: 'https://relay.example.com', session: 'room-42', credential: async () => ({ ticket }) });
//   room.addEventListener('text', ({ detail }) => show(detail.data));
//   room.open();
//   room.say('text', { content: 'Hello' });
//
// `credential` is asked for before each connection, and when the server says that the one in use has expired. It returns
// { ticket, expires_at? } or { token }, {} with open access, or null if there is none to be had: then the room stops. If it
// throws, it is asked again later.

const SILENCE_MS = 20_000; // then we ask whether the server is still there: a page does not see the protocol's own pings
const ANSWER_MS = 8_000; //   and wait so long for an answer
const SETTLED_MS = 5_000; //  a connection that held for so long was a good one
const BASE_MS = 500; //       waits are random, up to this, doubled with each failure,
const MOST_MS = 30_000; //    and never longer than this
const BACK_OFF = 4; //        close codes 41xx wait as if so many attempts had failed

export class Room extends EventTarget {
  #socket = null;
  #positions = new Map(); // log -> the last position that we hold; the room's own log goes by the session's name
  #room; // that log, once we are welcome
  #kept; //                  what waits for its ack, in order
  #attempt = 0;
  #retryMs = null; //        what `going-away` asked for
  #timer = null;
  #told = false; //          the server asked for this wait: nothing cuts it short
  #pulse = null;
  #settled = null;
  #again = null;
  #heard = 0;
  #credential = null;
  #running = false;

  constructor({ server, session, credential = async () => ({}), name, meta, storage = sessionStorage }) {
    super();
    Object.assign(this, { server: server.replace(/\/$/, ''), session, credential, name, meta, storage });
    this.key = `room ${this.server} ${session} ${name ?? ''}`;
    this.#kept = JSON.parse(storage.getItem(this.key) ?? '[]');
    this.ready = false; // between `welcome` and the connection's end
  }

  open() {
    if (this.#running) return;
    this.#running = true;
    addEventListener('online', this.#hurry);
    addEventListener('offline', this.#hurry);
    document.addEventListener('visibilitychange', this.#hurry);
    this.#connect();
  }

  close() {
    this.#stop({ state: 'closed' });
  }

  /** What has not been acknowledged, oldest first: `{type, id, data}`. */
  get waiting() {
    return [...this.#kept];
  }

  /** `text`, `start`, `cancel`, `kick`: sent until it is answered by `ack` or `error`, over reconnects. Returns its id. */
  say(type, data) {
    const message = { type, id: crypto.randomUUID(), data };
    this.#keep([...this.#kept, message]);
    if (this.ready) this.#send(message);
    return message.id;
  }

  /** `presence`, `typing`, `signal`: worth nothing later, so it is sent now or not at all. */
  tell(type, data) {
    if (this.ready) this.#send({ type, data });
  }

  /** A plain request in this session's name: older messages, a stream's details. */
  async get(path, query = {}) {
    const { ticket, token } = await this.#fresh();
    const url = new URL(this.server + path);
    for (const [name, value] of Object.entries({ ...query, ticket })) if (value != null) url.searchParams.set(name, value);
    const answer = await fetch(url, token ? { headers: { authorization: `Bearer ${token}` } } : {});
    if (!answer.ok) throw new Error(`${answer.status} ${(await answer.json().catch(() => ({}))).error?.message ?? ''}`);
    return answer.json();
  }

  /** What was said before a position: `{messages, before}`, where `before` leads to the next page, null to none. */
  history(before, limit = 50) {
    return this.get(`/v1/sessions/${encodeURIComponent(this.session)}/messages`, { before, limit });
  }

  // ---------------------------------------------------------------- the connection

  async #connect() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#state({ state: 'connecting' });
    let credential;
    try {
      credential = this.#credential = await this.credential();
    } catch {
      return this.#running && this.#closed(1006, 'no answer');
    }
    if (!this.#running) return;
    if (!credential) return this.#stop({ state: 'stopped', code: 4001, reason: 'no credential' });
    const { ticket, token } = credential;
    const url = new URL(`${this.server.replace(/^http/, 'ws')}/v1/sessions/${encodeURIComponent(this.session)}/ws`);
    if (ticket) url.searchParams.set('ticket', ticket);
    const socket = this.#socket = new WebSocket(url, token ? ['relaystream.v1', `bearer.${token}`] : ['relaystream.v1']);
    const mine = act => event => this.#socket === socket && act(event);
    this.returning = this.#positions.has(this.session);
    socket.onopen = mine(() => {
      const { name, meta } = this;
      this.#send({ type: 'hello', data: { after: Object.fromEntries(this.#positions), name, meta } });
    });
    socket.onmessage = mine(event => this.#receive(JSON.parse(event.data)));
    socket.onclose = mine(event => this.#closed(event.code, event.reason));
    this.#listen(ANSWER_MS);
  }

  #closed(code, reason) {
    this.#drop();
    // 4009 is the one code of its range that asks us to come back: with the credential that `credential` brings.
    if ((code >= 4000 && code < 4100 && code !== 4009) || [1002, 1007, 1009].includes(code)) {
      return this.#stop({ state: 'stopped', code, reason });
    }
    const retryMs = this.#retryMs;
    this.#retryMs = null;
    if (code >= 4100 && code < 4200) this.#attempt = Math.max(this.#attempt, BACK_OFF);
    const atOnce = (code >= 4200 && code < 4300) || code === 4009;
    const wait = retryMs ?? (atOnce && this.#attempt === 0 ? 0 : this.#jitter());
    this.#attempt += 1;
    this.#told = retryMs !== null || (code >= 4100 && code < 4200);
    this.#wait(wait, code);
  }

  /** Lets go of the socket, also of one that would take minutes to notice that its network is gone. */
  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.ready = false;
    for (const timer of [this.#pulse, this.#settled, this.#again]) clearTimeout(timer);
    socket?.close();
  }

  #wait(ms, code) {
    this.#state({ state: 'waiting', retry_ms: Math.round(ms), code });
    this.#timer = setTimeout(() => this.#connect(), ms);
  }

  #stop(state) {
    this.#running = false;
    clearTimeout(this.#timer);
    this.#timer = null;
    removeEventListener('online', this.#hurry);
    removeEventListener('offline', this.#hurry);
    document.removeEventListener('visibilitychange', this.#hurry);
    this.#drop();
    this.#state(state);
  }

  #jitter() {
    return Math.random() * Math.min(MOST_MS, BASE_MS * 2 ** this.#attempt);
  }

  /** The network changed, or the page came to the front: try now, or ask now whether the server is still there. */
  #hurry = event => {
    if (event.type === 'visibilitychange' && document.hidden) return;
    if (this.#timer && !this.#told && event.type !== 'offline') return this.#connect();
    if (this.ready) this.#ask();
  };

  #listen(ms) {
    clearTimeout(this.#pulse);
    this.#pulse = setTimeout(() => {
      if (!this.ready) this.#closed(1006, 'no welcome');
      else if (performance.now() - this.#heard >= SILENCE_MS) this.#ask();
      else this.#listen(SILENCE_MS);
    }, ms);
  }

  #ask() {
    const asked = performance.now();
    this.#send({ type: 'ping' });
    clearTimeout(this.#pulse);
    this.#pulse = setTimeout(() => (this.#heard >= asked ? this.#listen(SILENCE_MS) : this.#closed(1006, 'silence')), ANSWER_MS);
  }

  // ---------------------------------------------------------------- messages

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #receive(message) {
    const { type, id, stream, position, data } = message;
    this.#heard = performance.now();
    if (type === 'reset') this.#positions.delete(data.log);
    else if (type === 'text' || type === 'system') this.#positions.set(this.#log(position), position);
    else if (stream && position && type !== 'ack') this.#positions.set(stream, position);
    if (type === 'welcome') this.#welcome(data);
    if (type === 'going-away') this.#retryMs = data.retry_ms;
    if (type === 'ack' || (type === 'error' && id && !data.retryable)) this.#keep(this.#kept.filter(kept => kept.id !== id));
    if (type === 'error') this.#trouble(data);
    this.dispatchEvent(new CustomEvent(type, { detail: message }));
    if (type === 'welcome') for (const kept of this.#kept) this.#send(kept);
  }

  // A notification is in a log of its user's own.
  #log(position) {
    const log = position.split('-')[0];
    return log === this.#room ? this.session : log;
  }

  #welcome({ room, streams, position }) {
    this.#room = room;
    for (const summary of streams) this.#positions.set(summary.stream, summary.position);
    this.#positions.set(this.session, position);
    this.ready = true;
    this.#listen(SILENCE_MS);
    this.#settled = setTimeout(() => { this.#attempt = 0; }, SETTLED_MS);
    this.#state({ state: 'open' });
  }

  #trouble({ code, retryable }) {
    if (code === 'expired') this.#renew();
    else if (retryable) {
      clearTimeout(this.#again);
      this.#again = setTimeout(() => this.#kept.forEach(kept => this.#send(kept)), 1000 + Math.random() * 1000);
    }
  }

  async #renew() {
    const socket = this.#socket;
    const credential = await this.credential().catch(() => null);
    if (!credential || this.#socket !== socket) return; // the server will close the socket, and we come back
    this.#credential = credential;
    const { ticket, token } = credential;
    this.#send({ type: 'auth', id: crypto.randomUUID(), data: ticket ? { ticket } : { token } });
  }

  async #fresh() {
    const { expires_at: end } = this.#credential ?? { expires_at: 0 };
    if (end !== undefined && end * 1000 < Date.now() + 5000) this.#credential = await this.credential();
    return this.#credential ?? {};
  }

  #keep(kept) {
    this.#kept = kept;
    this.storage.setItem(this.key, JSON.stringify(kept));
  }

  #state(detail) {
    this.dispatchEvent(new CustomEvent('state', { detail }));
  }
}
