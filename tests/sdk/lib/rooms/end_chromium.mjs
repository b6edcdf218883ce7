// Chromium's own WebSocket as an end of lib/rooms/sockets.mjs. A socket is opened by a page of its server's origin, as the origins' rule wants.

// Runs in the page.
function obey() {
  const sockets = {};
  window.obey = ({ n, open, send, bytes, close }) => {
    if (open) {
      const socket = (sockets[n] = new WebSocket(open.url, open.protocols));
      let opened = false;
      const tell = (told, what) => window.told({ n, told, ...what });
      socket.onopen = () => (opened = true) && tell("open", { protocol: socket.protocol, extensions: socket.extensions });
      socket.onmessage = ({ data }) => tell("message", { text: data });
      socket.onclose = ({ code, reason }) => {
        if (!opened) tell("refused", {});
        tell("closed", { code, reason });
      };
    }
    if (send !== undefined) sockets[n].send(send);
    if (bytes !== undefined) sockets[n].send(new TextEncoder().encode(bytes));
    if (close) sockets[n].close(...close);
  };
}

export function chromiumEnd(browser, told) {
  const pages = new Map();
  const pageOf = [];

  async function page(url) {
    const origin = url.replace(/^ws/, "http").split("/").slice(0, 3).join("/");
    if (!pages.has(origin)) {
      const one = await browser.newPage();
      await one.exposeFunction("told", told);
      await one.goto(`${origin}/healthz`);
      await one.evaluate(obey);
      pages.set(origin, one);
    }
    return pages.get(origin);
  }

  // Commands in their order; those that came while others were carried out go to the page together.
  const waiting = [];
  let last = Promise.resolve();
  async function carry() {
    const commands = waiting.splice(0);
    for (const { n, open } of commands) if (open) pageOf[n] = await page(open.url);
    while (commands.length) {
      const to = pageOf[commands[0].n];
      const other = commands.findIndex(({ n }) => pageOf[n] !== to);
      await to.evaluate((some) => some.forEach(window.obey), commands.splice(0, other < 0 ? commands.length : other));
    }
  }
  return {
    tell(command) {
      waiting.push(command);
      last = last.then(carry);
    },
    close: () => last,
  };
}
