"""PyPI `anthropic`, unmodified, sync and async, with only `base_url` changed: every answer is the provider's text or an exception.

Each case that concerns an answer goes over a provider of Anthropic's own dialect and over one of OpenAI's. Prints its cases in the form
that lib/cases.mjs defines.
"""

import asyncio
import json
import select
import socket
import struct
import threading
import time
import urllib.parse
import urllib.request
import uuid

import anthropic

from cases import RELAY, Broken, calls, case, equal, get, main, raises, text_of

OPTIONS = {"api_key": "test", "base_url": RELAY, "max_retries": 0}
client = anthropic.Anthropic(**OPTIONS)


def wish(model, **extra):
    messages = [{"role": "user", "content": f"mark-{uuid.uuid4()}"}]
    return {"model": model, "max_tokens": 500, "messages": messages, **extra}


def piece(event):
    return event.delta.text if event.type == "content_block_delta" and event.delta.type == "text_delta" else ""


def read(model, through=client, **extra):
    text, events = "", []
    try:
        for event in through.messages.create(**wish(model, **extra), stream=True):
            events.append(event)
            text += piece(event)
    except Exception as why:
        raise Broken(why, text) from why
    return text, events


async def read_async(model):
    text = ""
    async with anthropic.AsyncAnthropic(**OPTIONS) as other:
        try:
            async for event in await other.messages.create(**wish(model), stream=True):
                text += piece(event)
        except Exception as why:
            raise Broken(why, text) from why
    return text


def final(model, through=client, **extra):
    with through.messages.stream(**wish(model, **extra)) as stream:
        return stream.get_final_message()


def text_in(message):
    return "".join(block.text for block in message.content if block.type == "text")


def plain(up, model):
    text, events = read(f"{up}/{model}")
    equal(text, text_of(model), "text")
    equal(events[-1].type, "message_stop", "last event")
    if up == "anthropic":
        equal(events[0].x_unknown, {"kept": [1.5, "é"]}, "an unknown field")
    return "whole"


def helper(up):
    with client.messages.stream(**wish(f"{up}/ok")) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
        assert stream.request_id, "no request id"
    equal(text, text_of("ok"), "text_stream")
    equal(text_in(message), text, "the message's text")
    equal(message.stop_reason, "end_turn", "stop_reason")
    equal((message.usage.input_tokens, message.usage.output_tokens), (7, 24), "usage")
    if up == "anthropic":
        equal(message.usage.cache_read_input_tokens, 5, "cached")
    return "whole"


def whole(up):
    message = client.messages.create(**wish(f"{up}/ok"))
    equal(text_in(message), text_of("ok"), "text")
    equal((message.stop_reason, message.role), ("end_turn", "assistant"), "stop_reason")
    equal(message.usage.output_tokens, 24, "output_tokens")
    assert message._request_id, "no request id"
    return "whole"


TOOLS = [{"name": n, "input_schema": {"type": "object", "properties": {}}} for n in ("weather", "clock")]
CALLS = [("call_a1", "weather", {"city": "Zürich 🏔", "unit": "°C"}), ("call_b2", "clock", {"zone": "Asia/東京"})]


def tools(up):
    for message in [final(f"{up}/tools", tools=TOOLS), client.messages.create(**wish(f"{up}/tools", tools=TOOLS))]:
        equal(message.stop_reason, "tool_use", "stop_reason")
        equal([(b.id, b.name, b.input) for b in message.content if b.type == "tool_use"], CALLS, "calls")
    # And back: the answer and the tools' results as the next request.
    results = [{"type": "tool_result", "tool_use_id": b.id, "content": "42"} for b in message.content]
    messages = [{"role": "user", "content": "both"}, {"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
    equal(text_in(final(f"{up}/ok", tools=TOOLS, messages=messages)), text_of("ok"), "the next answer")
    return "whole"


def thinking(up):
    extra = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000} if up == "anthropic" else {}
    for message in [final(f"{up}/think+ok-5", **extra)]:
        equal(message.content[0].thinking, "Let me think… 🤔\n1 + 1", "thinking")
        equal(text_in(message), text_of("think+ok-5"), "text")
        if up == "anthropic":
            assert message.content[0].signature.startswith("EqQB"), message.content[0].signature
            equal(message.content[1].type, "redacted_thinking", "second block")
    return "whole"


def silent(up, model, asynchronous):
    text = asyncio.run(read_async(f"{up}/{model}")) if asynchronous else read(f"{up}/{model}")[0]
    equal(text, text_of(model), "text")
    return "whole"


def broken(model, body):
    seen = raises(body)
    assert isinstance(seen.why, anthropic.AnthropicError), f"not an AnthropicError: {seen.why!r}"
    assert text_of(model).startswith(seen.text), f"what came before the error is not the provider's text: {seen.text!r}"
    if model == "inband-5":
        assert "the model fell over" in str(seen.why), f"provider's message lost: {seen.why!r}"
    return type(seen.why).__name__


NAMES = {
    400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError", 422: "UnprocessableEntityError",
    429: "RateLimitError", 500: "InternalServerError", 529: "OverloadedError",
}


def provider_error(up, status):
    for stream in [True, False]:
        why = raises(lambda: client.messages.create(**wish(f"{up}/error-{status}"), stream=stream)).why
        assert isinstance(why, anthropic.APIStatusError), repr(why)
        equal((why.status_code, type(why).__name__), (status, NAMES[status]), "exception")
        assert f"scripted: status {status} für dich" in str(why), f"provider's message lost: {why}"
        assert why.request_id, "no request id"
        if status == 429:
            assert float(why.response.headers["retry-after"]) >= 0
    return NAMES[status]


class CutProxy:
    """Relays to the server and breaks its first connection after so many bytes of the answer, by FIN or RST."""

    def __init__(self, after, reset):
        self.after, self.reset = after, reset
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        near, _ = self.server.accept()
        target = urllib.parse.urlparse(RELAY)
        far = socket.create_connection((target.hostname, target.port))
        left = self.after
        while left:
            ready, _, _ = select.select([near, far], [], [])
            for source in ready:
                data = source.recv(4096 if source is near else min(left, 4096))
                if not data:
                    left = 0
                elif source is near:
                    far.sendall(data)
                else:
                    near.sendall(data)
                    left -= len(data)
        if self.reset:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        near.close()
        far.close()


def cut(up, after, reset):
    through = anthropic.Anthropic(**{**OPTIONS, "base_url": CutProxy(after, reset).url})
    seen = raises(lambda: read(f"{up}/paced-40-15", through))
    assert text_of("paced-40-15").startswith(seen.text) and seen.text, f"not the provider's text: {seen.text!r}"
    through = anthropic.Anthropic(**{**OPTIONS, "base_url": CutProxy(after, reset).url})
    raises(lambda: final(f"{up}/paced-40-15", through))
    return type(seen.why).__name__


def cancelled(up):
    text, stop = "", None
    answer = client.messages.create(**wish(f"{up}/paced-100-20"), stream=True)
    stream_id = answer.response.headers["x-stream-id"]
    try:
        for event in answer:
            text += piece(event)
            if len(text) > 20 and not stop:
                stop = urllib.request.Request(f"{RELAY}/v1/streams/{stream_id}/cancel", method="POST")
                urllib.request.urlopen(stop, timeout=10).close()
    except anthropic.APIError as why:
        assert "cancelled" in str(why), repr(why)
        assert text_of("paced-100-20").startswith(text), "not the provider's text"
        return type(why).__name__
    raise AssertionError("a cancelled answer ended without an exception")


def disconnect(up):
    asked = wish(f"{up}/paced-40-25")
    answer = client.messages.create(**asked, stream=True)
    for count, _ in enumerate(answer):
        if count == 6:
            break
    answer.close()
    for _ in range(100):
        entry = calls(asked["messages"][0]["content"])[0]
        if entry["outcome"] != "running":
            break
        time.sleep(0.05)
    equal(entry["outcome"], "whole", "the upstream call")


_PLAIN = ["ok", "paced-40-15", "ok+crlf", "ok+cr", "ok+nospace", "ok+bom", "ok+comments", "ok-6+byte"]
_BROKEN = ["truncate-0", "truncate-1", "truncate-5", "truncate-24", "fin-0", "fin-5", "rst-0", "rst-5", "inband-0", "inband-5", "truncate-5+byte"]


def over(up):
    for model in _PLAIN:
        case(f"streaming, {up}/{model}")(lambda model=model: plain(up, model))
    case(f"the helper's final message, {up}")(lambda: helper(up))
    case(f"not streaming, {up}")(lambda: whole(up))
    case(f"tool calls, {up}")(lambda: tools(up))
    case(f"thinking, {up}")(lambda: thinking(up))
    for model in ["silent-32+ok-10", "gap-32+ok-10"]:
        for asynchronous in [False, True]:
            name = f"{'async, ' if asynchronous else ''}32 s of silence, {up}/{model}"
            case(name, aside=True, seconds=60)(lambda model=model, how=asynchronous: silent(up, model, how))
    for model in _BROKEN:
        case(f"streaming raises, {up}/{model}")(lambda model=model: broken(model, lambda: read(f"{up}/{model}")))
    for model in ["truncate-5", "fin-5", "rst-5", "inband-5"]:
        name = f"{up}/{model}"
        case(f"async, streaming raises, {name}")(lambda model=model, name=name: broken(model, lambda: asyncio.run(read_async(name))))
        case(f"not streaming raises, {name}")(lambda model=model, name=name: broken(model, lambda: client.messages.create(**wish(name))))
        case(f"the helper raises, {name}")(lambda model=model, name=name: broken(model, lambda: final(name)))
    for status in NAMES:
        case(f"provider's {status}, {up}")(lambda status=status: provider_error(up, status))
    for after, reset in [(3_000, False), (3_501, True)]:
        case(f"a cut by {'RST' if reset else 'FIN'} between us and the client raises, {up}")(lambda a=after, r=reset: cut(up, a, r))
    case(f"cancelled, {up}")(lambda: cancelled(up))
    case(f"a disconnect is not a cancel, {up}")(lambda: disconnect(up))


for _up in ["anthropic", "openai"]:
    over(_up)


@case("async, eight at once")
def _():
    async def all_of_them():
        return await asyncio.gather(*(read_async(f"{up}/paced-30-10") for up in ["anthropic", "openai"] * 4))

    for text in asyncio.run(all_of_them()):
        equal(text, text_of("paced-30-10"), "text")


@case("the demo provider, streamed and whole")
def _():
    assert len(text_in(final("demo-fast"))) > 20
    assert len(text_in(client.messages.create(**wish("demo-fast")))) > 20


@case("both ways to send a key")
def _():
    for options in [{"api_key": "test"}, {"auth_token": "test"}]:
        other = anthropic.Anthropic(base_url=RELAY, max_retries=0, **options)
        equal(text_in(other.messages.create(**wish("anthropic/ok"))), text_of("ok"), "text")


@case("our own refusals are typed")
def _():
    why = raises(lambda: client.messages.create(**wish("openai/ok", stop_sequences="END"))).why
    assert isinstance(why, anthropic.UnprocessableEntityError) and "stop_sequences" in str(why), repr(why)
    equal(why.error_code, "invalid", "error_code")
    why = raises(lambda: client.messages.create(**wish("anthropic/none"))).why
    assert isinstance(why, anthropic.NotFoundError), repr(why)


@case("with_raw_response")
def _():
    raw = client.messages.with_raw_response.create(**wish("anthropic/ok"))
    equal(raw.headers["request-id"], raw.headers["x-request-id"], "request-id")
    equal(get(f"{RELAY}/v1/streams/{raw.headers['x-stream-id']}")["text"], text_in(raw.parse()), "the stream's text")


@case("count_tokens")
def _():
    asked = [{"role": "user", "content": "how many"}]
    counted = client.messages.count_tokens(model="anthropic/ok", messages=asked)
    equal(counted.input_tokens, len(json.dumps(asked, separators=(",", ":"))), "input_tokens")
    why = raises(lambda: client.messages.count_tokens(model="openai/ok", messages=asked)).why
    assert isinstance(why, anthropic.UnprocessableEntityError) and "openai/ok" in str(why), repr(why)
    equal(raises(lambda: client.messages.count_tokens(model="anthropic/error-529", messages=asked)).why.status_code, 529, "status")


@case("models.list")
def _():
    models = list(client.models.list())
    assert {"ok", "demo"} <= {model.id for model in models}, models
    assert all(model.type == "model" and model.display_name and model.created_at.year == 1970 for model in models), models


main()
