// One member of the room: a connection at a time, and what it has seen since it came in.

import { Socket } from "./socket.mjs";

/** All members are sent the same frames, so each is read once. Larger ones are for one member alone. */
const SHARED_BYTES = 16 * 1024;
const facts = [new Map(), new Map()];

function read(dialect, raw, token) {
  if (raw.length > SHARED_BYTES) return dialect.fact(raw, token);
  let fact = facts[0].get(raw) ?? facts[1].get(raw);
  if (!fact) {
    fact = dialect.fact(raw, token);
    // what depends on who is asked stays out
    if (!fact.reply) facts[0].set(raw, fact);
    if (facts[0].size > 2000) facts.splice(0, 2, new Map(), facts[0]);
  }
  return fact;
}

export class Member {
  /** `run`: what all members share: {port, dialect, heard(member, fact, bytes), closed(member, code, reason), wrong(what)}. */
  constructor(run, user, token) {
    Object.assign(this, { run, user, token, state: "out" });
  }

  come() {
    Object.assign(this, { state: "coming", since: performance.now(), view: null, version: 0, seen: [], text: "", done: null });
    const { port, dialect } = this.run;
    const socket = new Socket(port, dialect.path, dialect.headers(this.token), {
      open: () => this.say(dialect.open()),
      text: (raw) => this.hear(read(dialect, raw, this.token), raw.length),
      closed: (code, reason) => {
        const expected = this.state === "leaving";
        this.state = "out";
        if (!expected) this.run.closed(this, code, reason);
      },
    });
    this.socket = socket;
  }

  leave() {
    this.state = "leaving";
    this.socket.close();
  }

  say(text) {
    if (text) this.socket.send(text);
  }

  hear(fact, bytes) {
    if (this.state === "leaving") return;
    switch (fact.kind) {
      case "welcome":
        this.state = "in";
        this.view = new Set(fact.members);
        this.version = fact.version;
        this.text = fact.text;
        break;
      case "presence": this.changes(fact); break;
      case "token": this.text += fact.text; break;
      case "done": this.done = fact.status; break;
      case "text": this.seen.push(fact.n); break;
      case "error": this.run.wrong(`error ${fact.code}`); break;
    }
    if (fact.reply) this.say(fact.reply);
    this.run.heard(this, fact, bytes);
  }

  changes(fact) {
    if (!this.view) return this.run.wrong("presence before welcome");
    if (fact.members) {
      this.view = new Set(fact.members);
    } else {
      if (fact.version !== this.version + 1) this.run.wrong("presence with a hole");
      for (const user of fact.leaves) if (!this.view.delete(user)) this.run.wrong("unknown member left");
      for (const user of fact.joins) {
        if (this.view.has(user)) this.run.wrong("member joined twice");
        this.view.add(user);
      }
    }
    this.version = fact.version;
  }
}
