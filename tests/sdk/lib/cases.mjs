// The tiny case runner of the Node suites: `test(name, body)` registers, `main()` runs and prints one line a case:
//   case<TAB>ok|FAIL<TAB>milliseconds<TAB>name<TAB>message (JSON)
// The message of a case that passed is what its body returned: the outcome in words, where there is more to say than ok.
// A case marked `aside` (the long silences) starts at once and runs beside the others. Every case is bounded.

const cases = [];

export function test(name, body, { timeout = 30_000, aside = false } = {}) {
  cases.push({ name, body, timeout, aside });
}

async function run({ name, body, timeout }) {
  const started = Date.now();
  const cleanups = [];
  let timer;
  let failure = null;
  let outcome;
  try {
    const late = new Promise((_, no) => (timer = setTimeout(() => no(new Error(`took longer than ${timeout} ms`)), timeout)));
    outcome = await Promise.race([body((cleanup) => cleanups.push(cleanup)), late]);
  } catch (why) {
    failure = why;
  }
  clearTimeout(timer);
  for (const cleanup of cleanups.reverse()) await cleanup();
  const place = failure?.stack?.match(/suites\/[\w.]+:\d+/)?.[0] ?? "";
  const message = failure ? `${failure.message ?? failure} ${place}`.trim() : (outcome ?? "");
  console.log(["case", failure ? "FAIL" : "ok", Date.now() - started, name, JSON.stringify(message)].join("\t"));
}

export async function main(cleanup = () => {}) {
  const wanted = cases.filter((c) => c.name.includes(process.env.SDK_CASE ?? ""));
  const asides = wanted.filter((c) => c.aside).map(run);
  for (const one of wanted.filter((c) => !c.aside)) await run(one);
  await Promise.all(asides);
  await cleanup();
  process.exit(0);
}

export function equal(seen, want, what = "value") {
  if (seen === want) return;
  if (typeof seen !== "string" || typeof want !== "string") throw new Error(`${what}: expected ${JSON.stringify(want)}, saw ${JSON.stringify(seen)}`);
  let at = 0;
  while (at < seen.length && seen[at] === want[at]) at += 1;
  const near = (s) => JSON.stringify(s.slice(Math.max(0, at - 15), at + 25));
  throw new Error(`${what} differs at ${at} (lengths: expected ${want.length}, saw ${seen.length}): expected …${near(want)}, saw …${near(seen)}`);
}

export function check(truth, message) {
  if (!truth) throw new Error(message);
}

export async function raises(promise, message) {
  try {
    await promise;
  } catch (why) {
    return why;
  }
  throw new Error(message);
}
