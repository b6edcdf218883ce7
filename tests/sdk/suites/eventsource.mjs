// npm `eventsource`, unmodified, on the native routes.

import { EventSource } from "eventsource";
import { main } from "../lib/cases.mjs";
import { eventSourceCases } from "../lib/eventsource_cases.mjs";

eventSourceCases(EventSource);
await main();
