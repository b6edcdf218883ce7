// Chromium's own WebSocket as an end of lib/rooms/sockets.mjs. A socket is opened by a page of its server's origin, as the origins' rule wants.

import { launchChromium } from "../chromium.mjs";

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

export async function chromiumEnd(told) {
  const browser = await launchChromium();
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

  // One command after another, in their order.
  let last = Promise.resolve();
  const carry = async (command) => {
    if (command.open) pageOf[command.n] = await page(command.open.url);
    await pageOf[command.n].evaluate((what) => window.obey(what), command);
  };
  return {
    tell: (command) => (last = last.then(() => carry(command))),
    close: () => browser.close(),
  };
}
