// Debian's Chromium, driven by playwright-core, with a profile of its own.

import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";

const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

export async function launchChromium() {
  const home = mkdtempSync(path.join(tmpdir(), "relaystream-chromium-"));
  const browser = await chromium.launchPersistentContext(home, { executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
  process.on("SIGTERM", () => browser.close().finally(() => process.exit(1)));
  return browser;
}
