// PyPI `websockets` in rooms: the cases run here, its sockets in lib/rooms/end_websockets.py.

import path from "node:path";
import { main } from "../lib/cases.mjs";
import { roomCases } from "../lib/rooms/cases.mjs";
import { processEnd } from "../lib/rooms/end_process.mjs";
import { clientOf } from "../lib/rooms/sockets.mjs";

const end = processEnd(process.env.SDK_PYTHON, [path.join(import.meta.dirname, "../lib/rooms/end_websockets.py")]);
const client = await clientOf(end, { headers: true, frames: true });
roomCases(client);
await main(() => client.close());
