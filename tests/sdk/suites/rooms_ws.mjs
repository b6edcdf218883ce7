// npm `ws` in rooms.

import { main } from "../lib/cases.mjs";
import { wsEnd } from "../lib/rooms/end_ws.mjs";
import { roomCases } from "../lib/rooms/cases.mjs";
import { clientOf } from "../lib/rooms/sockets.mjs";

const client = await clientOf(wsEnd, { headers: true, frames: true, chosen: true });
roomCases(client);
await main(() => client.close());
