// Chromium's own WebSocket in rooms.

import { main } from "../lib/cases.mjs";
import { roomCases } from "../lib/rooms/cases.mjs";
import { chromiumEnd } from "../lib/rooms/end_chromium.mjs";
import { clientOf } from "../lib/rooms/sockets.mjs";

const client = await clientOf(chromiumEnd);
roomCases(client);
await main(() => client.close());
