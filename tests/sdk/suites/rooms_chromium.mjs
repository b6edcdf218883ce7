// Chromium's own WebSocket in rooms; its EventSource on notifications, with a token in a cookie.

import { main } from "../lib/cases.mjs";
import { launchChromium } from "../lib/chromium.mjs";
import { roomCases } from "../lib/rooms/cases.mjs";
import { chromiumEnd } from "../lib/rooms/end_chromium.mjs";
import { mailEventCases } from "../lib/rooms/mail_sse.mjs";
import { token } from "../lib/rooms/people.mjs";
import { clientOf } from "../lib/rooms/sockets.mjs";

const browser = await launchChromium();
const client = await clientOf((told) => chromiumEnd(browser, told));
roomCases(client);

// Every user is in a profile of its own, as cookies are.
mailEventCases(async (user, url, heard) => {
  const profile = await browser.browser().newContext();
  const { origin } = new URL(url);
  await profile.addCookies([{ name: "id", value: token(user), url: origin }]);
  const page = await profile.newPage();
  await page.exposeFunction("heard", heard);
  await page.goto(`${origin}/healthz`);
  await page.evaluate((to) => {
    const source = new EventSource(to);
    source.addEventListener("system", ({ data, lastEventId }) => window.heard({ data, id: lastEventId }));
  }, url);
  return () => profile.close();
});
await main(() => client.close().then(() => browser.close()));
