"""The tables of benches/resume, between their markers in BENCHMARKS.md. Measures nothing itself."""

from table import Figure, machine, put, ratios

NAMES = ("resumable-stream", "relaystream")


def figure(results, part, name, key):
    return Figure([row[key] for row in results[part][name]])


def whole(rows):
    return f"{sum(row['whole'] for row in rows)} of {sum(row['viewers'] for row in rows)}"


def costs(results, part, columns):
    lines = []
    for name in NAMES:
        cells = [figure(results, part, name, key).text(digits=digits) for key, digits in columns]
        lines.append(f"| {name} | {' | '.join([*cells, whole(results[part][name])])} |")
    return lines


def compared(results, part):
    ours, theirs = "relaystream", "resumable-stream"
    shares = []
    for text, key in (("CPU of the server", "server_us"), ("of redis-server", "redis_us")):
        shares.append(f"{text} {ratios(figure(results, part, ours, key), figure(results, part, theirs, key)).text()}")
    both = {
        name: Figure([row["server_us"] + row["redis_us"] for row in results[part][name]]) for name in (ours, theirs)
    }
    shares.append(f"of both together {ratios(both[ours], both[theirs]).text()}")
    return f"- per token, relaystream ÷ resumable-stream: {', '.join(shares)}"


def killed(results):
    lines = [
        "| server | viewers of the killed node | viewers of the other node | stood still, s: p50 | max | both have the same text and its end | tokens twice |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in NAMES:
        row = results["killed"][name]
        told = [", ".join(f"{n} {what}" for what, n in row[f"at the {which} node"].items()) for which in ("killed", "other")]
        stood = [f"{row[key]:.1f}" if row[key] is not None else "for good" for key in ("stood_p50_s", "stood_max_s")]
        same = f"{row['same']} of {row['viewers'] // 2}"
        lines.append(f"| {name} | {' | '.join([*told, *stood, same, str(row['twice'])])} |")
    return lines


def render(results):
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    before, after = results["load"]
    steady = [("server_us", 2), ("redis_us", 2), ("commands", 3), ("connections", 0), ("lag_p50_ms", 2), ("lag_p99_ms", 2)]
    resume = [("server_us", 2), ("redis_us", 2), ("commands", 3), ("connections", 0), ("first_p50_ms", 2), ("first_p99_ms", 2)]
    resume += [("caught_up_p50_ms", 2), ("caught_up_p99_ms", 2), ("refused", 0), ("resent", 0)]
    late = ", ".join(f"{name} {whole(results['late'][name])}" for name in NAMES)
    count = sum(row["resumes"] for row in results["resume"]["relaystream"])
    parts = [
        f"Measured {results['when']} on {machine()}; {results['rounds']} interleaved rounds, medians with (min–max). Load of the machine {before:.1f} before",
        f"and {after:.1f} after. {results['streams']} streams, 50 tokens/s each, 10 s long. relaystream at commit `{results['commit']}`; {versions}.",
        "",
        "Nobody cuts:",
        "",
        "| server | its CPU per token, µs | redis-server's CPU per token, µs | Redis commands per token | Redis connections | upstream → viewer p50, ms | p99, ms | whole texts |",
        "|---|---|---|---|---|---|---|---|",
        *costs(results, "steady", steady),
        "",
        compared(results, "steady"),
        "",
        f"Every viewer cuts and comes back {results['cuts']} times ({count} resumes each):",
        "",
        "| server | its CPU per token, µs | redis-server's, µs | Redis commands per token | Redis connections | resume → first byte p50, ms | p99, ms | → all that was missed p50, ms | p99, ms | refused | bytes resent per resume | whole texts |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        *costs(results, "resume", resume),
        "",
        compared(results, "resume"),
        f"- viewers who come back a second or more after the end, and then have the whole text: {late}",
        "",
        f"The node that reads the upstream is killed; everybody goes to the other node, and tries for {results['patience_s']} s:",
        "",
        *killed(results),
    ]
    return "\n".join(parts) + "\n"


def write(file, results):
    put(file, "resume", render(results))
