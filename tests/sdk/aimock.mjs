// npm `@copilotkit/aimock` as upstream: somebody else's idea of what every provider sends. Prints its port.

import { LLMock } from "@copilotkit/aimock";
import { REASONING, TEXT } from "./lib/aimock_texts.mjs";

const mock = new LLMock({ port: 0, host: "127.0.0.1", chunkSize: 5, latency: 2 });
const call = (name, args) => ({ name, arguments: JSON.stringify(args) });
mock.onMessage(/^text/, { content: TEXT });
mock.onMessage(/^reason/, { content: TEXT, reasoning: REASONING });
mock.onMessage(/^tool/, { toolCalls: [call("weather", { city: "Zürich", days: 2 })] });
mock.onMessage(/^two/, { toolCalls: [call("weather", { city: "Oslo" }), call("time", {})] });
mock.onMessage(/^refused/, { error: { message: "no such thing", type: "invalid_request_error" }, status: 400 });
await mock.start();
const gone = () => mock.stop().finally(() => process.exit(0));
process.on("SIGTERM", gone);
console.log(new URL(mock.url).port);
