"""PyPI `openai`, unmodified, sync and async, with only `base_url` changed: every answer is the provider's text or an exception.

Prints its cases in the form that lib/cases.mjs defines.
"""

import asyncio
import time
import uuid

import openai

from cases import RELAY, Broken, calls, case, equal, get, main, raises, text_of

OPTIONS = {"api_key": "test", "base_url": f"{RELAY}/v1", "max_retries": 0}
client = openai.OpenAI(**OPTIONS)


def ask():
    return [{"role": "user", "content": f"mark-{uuid.uuid4()}"}]


def delta(chunk):
    return (chunk.choices[0].delta.content or "") if chunk.choices else ""


def read(model, **extra):
    text, chunks = "", []
    try:
        for chunk in client.chat.completions.create(model=model, messages=ask(), stream=True, **extra):
            chunks.append(chunk)
            text += delta(chunk)
    except Exception as why:
        raise Broken(why, text) from why
    return text, chunks


async def read_async(model):
    text = ""
    async with openai.AsyncOpenAI(**OPTIONS) as other:
        try:
            async for chunk in await other.chat.completions.create(model=model, messages=ask(), stream=True):
                text += delta(chunk)
        except Exception as why:
            raise Broken(why, text) from why
    return text


def plain(model):
    text, chunks = read(model)
    equal(text, text_of(model), "text")
    equal(chunks[-1].choices[0].finish_reason, "stop", "finish_reason")
    assert all(len(c.choices) == 1 and not c.usage for c in chunks), "a chunk without a choice, or usage nobody asked for"
    equal(chunks[0].x_unknown, {"kept": [1.5, "é"]}, "an unknown field")


for _model in ["ok", "paced-40-15", "ok+crlf", "ok+cr", "ok+nospace", "ok+bom", "ok+comments", "ok-6+byte"]:
    case(f"streaming, {_model}")(lambda model=_model: plain(model))


@case("not streaming")
def _():
    answer = client.chat.completions.create(model="ok", messages=ask())
    equal(answer.choices[0].message.content, text_of("ok"), "text")
    equal(answer.choices[0].finish_reason, "stop", "finish_reason")
    equal(answer.usage.completion_tokens, 24, "completion_tokens")


@case("async, eight at once")
def _():
    async def all_of_them():
        return await asyncio.gather(*(read_async("paced-30-10") for _ in range(8)))

    for text in asyncio.run(all_of_them()):
        equal(text, text_of("paced-30-10"), "text")


@case("async, not streaming")
def _():
    async def one():
        async with openai.AsyncOpenAI(**OPTIONS) as other:
            return await other.chat.completions.create(model="ok", messages=ask())

    equal(asyncio.run(one()).choices[0].message.content, text_of("ok"), "text")


for _model in ["silent-32+ok-10", "gap-32+ok-10"]:
    case(f"32 s of silence, {_model}", aside=True, seconds=60)(
        lambda model=_model: equal(read(model)[0], text_of(model), "text")
    )
    case(f"async, 32 s of silence, {_model}", aside=True, seconds=60)(
        lambda model=_model: equal(asyncio.run(read_async(model)), text_of(model), "text")
    )


def broken(model, body):
    seen = raises(body)
    assert isinstance(seen.why, openai.OpenAIError), f"not an OpenAIError: {seen.why!r}"
    assert text_of(model).startswith(seen.text), f"what came before the error is not the provider's text: {seen.text!r}"
    if model == "inband-5":
        assert "the model fell over" in str(seen.why), f"provider's message lost: {seen.why!r}"


_BROKEN = ["truncate-0", "truncate-1", "truncate-5", "truncate-24", "fin-0", "fin-5", "rst-0", "rst-5", "inband-0", "inband-5"]
for _model in [*_BROKEN, "truncate-5+byte"]:
    case(f"streaming raises, {_model}")(lambda model=_model: broken(model, lambda: read(model)))
for _model in ["truncate-5", "fin-5", "rst-5", "inband-5"]:
    case(f"async, streaming raises, {_model}")(
        lambda model=_model: broken(model, lambda: asyncio.run(read_async(model)))
    )
    case(f"not streaming raises, {_model}")(
        lambda model=_model: broken(model, lambda: client.chat.completions.create(model=model, messages=ask()))
    )


@case("the streaming helper raises on a truncated answer")
def _():
    def helper():
        with client.chat.completions.stream(model="truncate-5", messages=ask()) as events:
            for _ in events:
                pass
            return events.get_final_completion()

    raises(helper)


def provider_error(status, stream):
    why = raises(lambda: client.chat.completions.create(model=f"error-{status}", messages=ask(), stream=stream)).why
    assert isinstance(why, openai.APIStatusError), repr(why)
    equal(why.status_code, status, "status")
    assert f"scripted: status {status} für dich" in str(why), f"provider's message lost: {why}"
    assert why.request_id, "no request id"
    if status == 429:
        assert float(why.response.headers["retry-after"]) >= 0


for _stream in [True, False]:
    for _status in [400, 404, 409, 422, 429, 500, 503, 403, 401]:
        case(f"provider's {_status}, {'' if _stream else 'not '}streaming")(
            lambda status=_status, stream=_stream: provider_error(status, stream)
        )

TOOLS = [{"type": "function", "function": {"name": n, "parameters": {"type": "object"}}} for n in ("weather", "clock")]
CALLS = [("call_a1", "weather", '{"city":"Zürich 🏔","unit":"°C"}'), ("call_b2", "clock", '{"zone":"Asia/東京"}')]


def spell(choice):
    equal(choice.finish_reason, "tool_calls", "finish_reason")
    equal([(c.id, c.function.name, c.function.arguments) for c in choice.message.tool_calls], CALLS, "tool calls")


@case("tool calls, streaming")
def _():
    with client.chat.completions.stream(model="tools", messages=ask(), tools=TOOLS) as events:
        for _ in events:
            pass
        spell(events.get_final_completion().choices[0])


@case("tool calls, not streaming")
def _():
    spell(client.chat.completions.create(model="tools", messages=ask(), tools=TOOLS).choices[0])


@case("usage only when asked for")
def _():
    _, chunks = read("ok-9", stream_options={"include_usage": True})
    equal(len(chunks[-1].choices), 0, "choices of the usage chunk")
    equal([c.usage.total_tokens for c in chunks if c.usage], [16], "usage chunks")
    for model in ["ok-9", "ok-9+usage"]:
        _, chunks = read(model)
        assert all(c.choices and not c.usage for c in chunks), f"usage nobody asked for, {model}"


@case("with_raw_response")
def _():
    for stream in [True, False]:
        raw = client.chat.completions.with_raw_response.create(model="ok", messages=ask(), stream=stream)
        stream_id = raw.headers["x-stream-id"]
        assert len(stream_id) == 26, stream_id
        assert raw.headers["x-request-id"]
        answer = raw.parse()
        text = "".join(delta(c) for c in answer) if stream else answer.choices[0].message.content
        equal(text, text_of("ok"), "text")
        equal(get(f"{RELAY}/v1/streams/{stream_id}")["text"], text, "the stream's text")


@case("a disconnect is not a cancel")
def _():
    messages = ask()
    answer = client.chat.completions.create(model="paced-40-25", messages=messages, stream=True)
    for count, _ in enumerate(answer):
        if count == 5:
            break
    answer.close()
    for _ in range(100):
        entry = calls(messages[0]["content"])[0]
        if entry["outcome"] != "running":
            break
        time.sleep(0.05)
    equal(entry["outcome"], "whole", "the upstream call")


@case("models.list")
def _():
    ids = [model.id for model in client.models.list()]
    assert ids and all(isinstance(i, str) for i in ids), ids


main()
