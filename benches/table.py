"""Medians with their spread, and the tables of BENCHMARKS.md between its markers. Measures nothing itself."""

import os
import platform
import re
import statistics
from pathlib import Path


class Figure:
    """One figure over the rounds of a run."""

    def __init__(self, values):
        self.values = [value for value in values if value is not None]

    @property
    def median(self):
        return statistics.median(self.values) if self.values else None

    def text(self, unit="", digits=2):
        if not self.values:
            return "–"
        low, high = min(self.values), max(self.values)
        spread = "" if len(self.values) == 1 else f" ({low:.{digits}f}–{high:.{digits}f})"
        return f"{self.median:.{digits}f}{unit and ' ' + unit}{spread}"


def ratios(ours, theirs):
    """Round by round, since rounds ran side by side."""
    return Figure([a / b for a, b in zip(ours.values, theirs.values) if b])


def verdict(met):
    return "met" if met else "**not met**"


def machine():
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) // (1024 * 1024)
    return f"{os.cpu_count()} shared cores ({cpu[1] if cpu else platform.machine()}), {memory} GiB, Linux {platform.release().split('-')[0]}"


def figures(rows, *path):
    """The same figure of every round."""
    values = []
    for row in rows:
        for name in path:
            row = row.get(name) if row else None
        values.append(row)
    return Figure(values)


def relay(results):
    direct, nginx, ours = (results["relay"].get(name, []) for name in ("direct", "nginx", "relaystream"))
    cost = lambda rows: figures([row["load"] for row in rows], "window", "server_us_per_unit")
    first = lambda rows, q: Figure([row["probe"]["time_to_first"][q] / 1000 for row in rows])
    lag = lambda rows, q: Figure([row["load"]["lag"][q] / 1000 for row in rows])
    added = lambda rows: Figure([a - b for a, b in zip(first(rows, "p50_us").values, first(direct, "p50_us").values)])
    ratio, gap = ratios(cost(ours), cost(nginx)), added(ours).median - added(nginx).median
    lines = [
        "| through | CPU per token, µs | time to first token p50, ms | p99, ms | added p50, ms | upstream → viewer p50, ms | p99, ms | delivered |",
        "|---|---|---|---|---|---|---|---|",
    ]
    stores = ["relaystream, memory", "relaystream, redis"]
    spread = "nginx, a worker per core"
    for name in ("direct", "nginx", spread, "relaystream", *stores, "litellm"):
        rows = results["relay"].get(name)
        if not rows:
            continue
        delivered = Figure([row["load"]["ratio"] for row in rows])
        cells = [
            "–" if name == "direct" else cost(rows).text(),
            first(rows, "p50_us").text(),
            first(rows, "p99_us").text(),
            "–" if name == "direct" else added(rows).text(),
            lag(rows, "p50_us").text(),
            lag(rows, "p99_us").text(),
            delivered.text(digits=4),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"- CPU per token, relaystream ÷ nginx: {ratio.text()}; budget ≤ 1.5: {verdict(ratio.median <= 1.5)}",
        f"- added time to first token p50, relaystream − nginx: {gap:.2f} ms; budget ≤ 0.5 ms: {verdict(gap <= 0.5)}",
    ]
    if results["relay"].get(spread):
        even = ratios(cost(ours), cost(results["relay"][spread]))
        lines.append(f"- CPU per token, relaystream ÷ nginx with a worker per core, as relaystream has its threads: {even.text()}")
    memory, redis = (results["relay"].get(name) for name in stores)
    if memory:
        share = ratios(cost(ours), cost(memory))
        lines.append(f"- CPU per token, relaystream on the disk (as it comes) ÷ in memory: {share.text()}; budget ≤ 1.3: {verdict(share.median <= 1.3)}")
    if redis:
        spent = figures(redis, "redis_us").text("µs")
        lines.append(f"- with Redis as the store, redis-server itself takes {spent} of CPU a token beside what relaystream takes")
    if results["relay"].get("litellm"):
        slower = ratios(cost(results["relay"]["litellm"]), cost(ours))
        lines.append(f"- CPU per token, LiteLLM ÷ relaystream: {slower.text(digits=0)}; budget ≥ 100: {verdict(slower.median >= 100)}")
    else:
        lines.append("- LiteLLM was not measured in this run (`benches/run --litellm`)")
    return lines


def fanout(results):
    lines = [
        "| transport | server | CPU per delivered token, µs | tokens per write | upstream → viewer p50, ms | p99, ms | delivered |",
        "|---|---|---|---|---|---|---|",
    ]
    notes = []
    for transport in ("sse", "ws"):
        cost = {}
        for name in ("nchan", "relaystream"):
            rows = results["fanout"][f"{name} {transport}"]
            cost[name] = figures(rows, "window", "server_us_per_unit")
            cells = [
                cost[name].text(),
                Figure([row["delivered"] / row["frames"] for row in rows if row["frames"]]).text(digits=1),
                Figure([row["lag"]["p50_us"] / 1000 for row in rows]).text(digits=1),
                Figure([row["lag"]["p99_us"] / 1000 for row in rows]).text(digits=1),
                figures(rows, "ratio").text(digits=4),
            ]
            lines.append(f"| {transport} | {name} | {' | '.join(cells)} |")
        ratio = ratios(cost["relaystream"], cost["nchan"])
        notes.append(f"- {transport}: CPU per delivered token, relaystream ÷ nchan: {ratio.text()}; budget ≤ 1: {verdict(ratio.median <= 1)}")
    return [*lines, "", *notes]


def idle(results):
    budgets = {"sse": 18, "ws": 6}
    lines = [
        "| transport | server | resident per viewer, KiB | before, MiB | with them, MiB | after, MiB |",
        "|---|---|---|---|---|---|",
    ]
    notes = []
    for transport in ("sse", "ws"):
        for name in ("nchan", "relaystream"):
            rows = [row["idle"] for row in results["idle"][f"{name} {transport}"]]
            each = figures(rows, "kib_per_viewer")
            sizes = [Figure([row[key] / 1024 for row in rows]).text(digits=1) for key in ("before_kib", "with_kib", "after_kib")]
            lines.append(f"| {transport} | {name} | {each.text(digits=1)} | {' | '.join(sizes)} |")
            if name == "relaystream":
                budget = budgets[transport]
                notes.append(f"- {transport}: {each.text('KiB', 1)} for each of {rows[0]['viewers']:,}; budget ≤ {budget}: {verdict(each.median <= budget)}")
    return [*lines, "", *notes]


def resume(results):
    lines = ["| server | reconnect → first missing token p50, ms | p99, ms | resumes | delivered |", "|---|---|---|---|---|"]
    for name in ("nchan", "relaystream"):
        rows = results["resume"][name]
        cells = [
            Figure([row["resume"]["p50_us"] / 1000 for row in rows]).text(),
            Figure([row["resume"]["p99_us"] / 1000 for row in rows]).text(),
            str(sum(row["resume"]["samples"] for row in rows)),
            figures(rows, "ratio").text(digits=4),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    p99 = Figure([row["resume"]["p99_us"] / 1000 for row in results["resume"]["relaystream"]]).median
    frames = max(row["frames"] for row in results["replay"])
    time = Figure([row["seconds"] * 1000 for row in results["replay"]])
    return [
        *lines,
        "",
        f"- resume p99: {p99:.2f} ms; budget ≤ 5 ms: {verdict(p99 <= 5)}",
        f"- a finished 5,000-token stream replays in {frames} body frames and {time.text('ms', 1)}; budget ≤ 3 frames: {verdict(frames <= 3)}",
    ]


def process(results):
    row = results["process"]
    start, resident = Figure(row["start_ms"]), Figure([kib / 1024 for kib in row["idle_kib"]])
    lines = [
        f"- from exec to the first 200 of `/readyz`: {start.text('ms', 0)}; budget ≤ 100 ms: {verdict(start.median <= 100)}",
        f"- resident when idle: {resident.text('MiB', 1)}; budget ≤ 20 MiB: {verdict(resident.median <= 20)}",
        f"- binary: {row['binary_bytes'] / 1024 / 1024:.1f} MiB, stripped",
    ]
    if row.get("cold_build_s"):
        lines.append(f"- cold release build, {row['cold_jobs']} jobs: {row['cold_build_s']:.0f} s")
    return lines


def render(results):
    when = results["when"]
    rounds = results["rounds"]
    parts = [
        f"Measured {when} on {machine()}; {rounds} interleaved rounds, medians with (min–max). Commit `{results['commit']}`.",
        "",
    ]
    sections = [
        ("Relay: 100 streams, 50 tokens/s each, one viewer each", "relay", relay),
        ("Fan-out: 1 stream of 50 tokens/s, 1,000 viewers", "fanout", fanout),
        ("Idle viewers of a running, silent stream", "idle", idle),
        ("Resume and replay", "resume", resume),
        ("Process", "process", process),
    ]
    for title, key, section in sections:
        if key in results:
            parts += [f"### {title}", "", *section(results), ""]
    return "\n".join(parts).rstrip() + "\n"


def put(file, part, text):
    """Between the part's markers."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    before, rest = file.read_text().split(begin, 1)
    _, after = rest.split(end, 1)
    file.write_text(f"{before}{begin}\n{text}{end}{after}")
