// undici's EventSource (the one Node itself carries), unmodified, on the native routes.

import { EventSource } from "undici";
import { main } from "../lib/cases.mjs";
import { eventSourceCases } from "../lib/eventsource_cases.mjs";

eventSourceCases(EventSource);
await main();
