// The cases that every WebSocket client goes through in rooms.

import { cutCases } from "./cuts.mjs";
import { doorCases } from "./doors.mjs";
import { mailCases } from "./mail.mjs";
import { presenceCases } from "./presence.mjs";
import { talkCases } from "./talk.mjs";
import { wireCases } from "./wire.mjs";

export function roomCases(client) {
  for (const cases of [talkCases, presenceCases, doorCases, mailCases, wireCases, cutCases]) cases(client);
}
