// npm `ws` in rooms; npm `eventsource` on notifications.

import { EventSource } from "eventsource";
import { main } from "../lib/cases.mjs";
import { wsEnd } from "../lib/rooms/end_ws.mjs";
import { roomCases } from "../lib/rooms/cases.mjs";
import { mailEventCases } from "../lib/rooms/mail_sse.mjs";
import { token } from "../lib/rooms/people.mjs";
import { clientOf } from "../lib/rooms/sockets.mjs";

const client = await clientOf(wsEnd, { headers: true, frames: true, chosen: true });
roomCases(client);
mailEventCases((user, url, heard) => {
  const withToken = (to, init) => fetch(to, { ...init, headers: { ...init.headers, authorization: `Bearer ${token(user)}` } });
  const source = new EventSource(url, { fetch: withToken });
  source.addEventListener("system", ({ data, lastEventId }) => heard({ data, id: lastEventId }));
  return () => source.close();
});
await main(() => client.close());
