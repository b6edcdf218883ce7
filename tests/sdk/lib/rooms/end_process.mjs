// An end of lib/rooms/sockets.mjs in a process of its own, a line of JSON for each command and event.

import { createInterface } from "node:readline";
import { launch, stop } from "../processes.mjs";

export function processEnd(command, args) {
  return (told) => {
    const child = launch(command, args);
    child.stderr.on("data", (bytes) => process.stderr.write(bytes));
    createInterface({ input: child.stdout }).on("line", (line) => told(JSON.parse(line)));
    return {
      tell: (command) => child.stdin.write(`${JSON.stringify(command)}\n`),
      close() {
        child.stdin.end();
        return stop(child);
      },
    };
  };
}
