"""What every Python suite needs: where things are, what the scripted provider saw, and the tiny case runner of lib/cases.mjs.

`@case(name)` registers a body, `main()` runs the registered and ends the process. A body may return the outcome in words.
"""

import json
import os
import sys
import threading
import time
import traceback
import urllib.parse
import urllib.request
import uuid

RELAY, PROVIDER = os.environ["SDK_RELAY"], os.environ["SDK_PROVIDER"]
_CASES = []


def case(name, aside=False, seconds=30):
    """`aside`: starts at once and runs beside the others (the long silences)."""

    def register(body):
        _CASES.append((name, body, aside, seconds))
        return body

    return register


def outcome(client, surface, upstream, wrong, what):
    """What went wrong, and what the client was left with: a cell of docs/clients.md."""
    sys.stdout.write("\t".join(["outcome", client, surface, upstream, wrong, what]) + "\n")
    sys.stdout.flush()


def get(url, method="GET"):
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:
        return json.load(answer)


def text_of(model):
    """The text of a whole answer of that model, by the provider's own account."""
    return get(f"{PROVIDER}/_text?model={urllib.parse.quote(model)}")["text"]


def calls(mark):
    """The upstream calls that carried this marker as their last user message."""
    return get(f"{PROVIDER}/_log?marker={urllib.parse.quote(mark)}")


def marker():
    return f"mark-{uuid.uuid4()}"


def equal(seen, want, what):
    assert seen == want, f"{what}: expected {want!r}, saw {seen!r}"


class Broken(Exception):
    """An SDK's exception, with what came before it: the text, or the events."""

    def __init__(self, why, text="", events=()):
        super().__init__(repr(why))
        self.why, self.text, self.events = why, text, events


def raises(body):
    """The exception that `body` must end with."""
    try:
        seen = body()
    except Broken as broken:
        return broken
    except Exception as why:
        return Broken(why)
    raise AssertionError(f"a broken answer ended without an exception: {str(seen)[:200]}")


def _run(name, body, _aside, seconds):
    started = time.monotonic()
    failures, told = [], []

    def guarded():
        try:
            told.append(body() or "")
        except BaseException as why:  # a case must never end the suite
            failures.append(f"{why} {traceback.extract_tb(why.__traceback__)[-1]}")

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        failures.append(f"took longer than {seconds} s")
    ms = round((time.monotonic() - started) * 1000)
    line = ["case", "FAIL" if failures else "ok", str(ms), name, json.dumps(" ".join(failures or told))]
    sys.stdout.write("\t".join(line) + "\n")
    sys.stdout.flush()


def main():
    wanted = [c for c in _CASES if os.environ.get("SDK_CASE", "") in c[0]]
    asides = [threading.Thread(target=_run, args=c) for c in wanted if c[2]]
    for thread in asides:
        thread.start()
    for one in wanted:
        if not one[2]:
            _run(*one)
    for thread in asides:
        thread.join()
    os._exit(0)  # a case that hung must not hold the process
