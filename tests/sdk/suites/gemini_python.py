"""PyPI `google-genai`, unmodified, sync and async, with only its base URL changed, before an upstream of its own dialect, one of
OpenAI's, and the demo: every answer is the provider's text or an exception.

Prints its cases in the form that lib/cases.mjs defines, and beside them
`outcome<TAB>client<TAB>surface<TAB>upstream<TAB>what was cut<TAB>outcome`.
"""

import asyncio
import json
import time

from google import genai
from google.genai import errors, types

from cases import PROVIDER, RELAY, Broken, calls, case, equal, get, main, marker, outcome, raises, text_of


def client_of(**options):
    return genai.Client(api_key="test", http_options=types.HttpOptions(base_url=RELAY, **options))


client = client_of()


class Seen:
    def __init__(self):
        self.text, self.thoughts, self.chunks = "", "", []

    def take(self, chunk):
        self.chunks.append(chunk)
        content = chunk.candidates[0].content if chunk.candidates else None
        for part in (content and content.parts) or []:
            if part.thought:
                self.thoughts += part.text or ""
            else:
                self.text += part.text or ""


def read(model, contents=None, config=None, on=client, first=None):
    seen = Seen()
    try:
        for chunk in on.models.generate_content_stream(model=model, contents=contents or marker(), config=config):
            seen.take(chunk)
            if first and len(seen.chunks) == 1:
                first(chunk)
    except Exception as why:
        raise Broken(why, seen.text) from why
    return seen


async def read_async(model):
    seen = Seen()
    try:
        async for chunk in await client_of().aio.models.generate_content_stream(model=model, contents=marker()):
            seen.take(chunk)
    except Exception as why:
        raise Broken(why, seen.text) from why
    return seen


def plain(upstream, model):
    seen = read(f"{upstream}/{model}")
    equal(seen.text, text_of(model), "text")
    equal(seen.chunks[-1].candidates[0].finish_reason, types.FinishReason.STOP, "finish_reason")
    assert seen.chunks[-1].usage_metadata.candidates_token_count, "no token counts"
    outcome("google-genai-python", "gemini", upstream, f"nothing ({model})", "whole")


def silent(upstream, model, body):
    equal(body().text, text_of(model), "text")
    outcome("google-genai-python", "gemini", upstream, f"32 s of silence ({model})", "whole")


def broken(upstream, model, body, how):
    seen = raises(body)
    assert isinstance(seen.why, errors.APIError), f"not an APIError: {seen.why!r}"
    assert seen.why.code >= 500, f"code {seen.why.code}"
    assert text_of(model).startswith(seen.text), f"what came before the error is not the provider's text: {seen.text!r}"
    if model.startswith("inband"):
        assert "the model fell over" in str(seen.why), f"provider's message lost: {seen.why!r}"
    outcome("google-genai-python", "gemini", upstream, f"{model}{how}", "text, then an exception" if seen.text else "an exception")


def provider_error(upstream, status, stream):
    method = client.models.generate_content_stream if stream else client.models.generate_content
    why = raises(lambda: list(method(model=f"{upstream}/error-{status}", contents=marker()))).why
    assert isinstance(why, errors.APIError), repr(why)
    equal(why.code, status, "code")
    assert f"scripted: status {status} für dich" in str(why), f"provider's message lost: {why}"


def whole(upstream):
    answer = client.models.generate_content(model=f"{upstream}/ok", contents=marker())
    equal(answer.text, text_of("ok"), "text")
    equal(answer.candidates[0].finish_reason, types.FinishReason.STOP, "finish_reason")
    equal(answer.usage_metadata.total_token_count, 31, "total_token_count")
    outcome("google-genai-python", "gemini", upstream, "nothing (not streaming)", "whole")


def many(upstream):
    async def all_of_them():
        return await asyncio.gather(*(read_async(f"{upstream}/paced-30-10") for _ in range(8)))

    for seen in asyncio.run(all_of_them()):
        equal(seen.text, text_of("paced-30-10"), "text")


def cancelled(upstream):
    def stop(chunk):
        headers = {name.lower(): value for name, value in chunk.sdk_http_response.headers.items()}
        get(f"{RELAY}/v1/streams/{headers['x-stream-id']}/cancel", "POST")

    seen = raises(lambda: read(f"{upstream}/paced-60-50", first=stop))
    assert isinstance(seen.why, errors.APIError), repr(seen.why)
    equal(seen.why.code, 499, "code")
    assert seen.text and text_of("paced-60-50").startswith(seen.text)
    outcome("google-genai-python", "gemini", upstream, "cancelled by another", "text, then an exception")


def thoughts(upstream):
    config = {"thinking_config": {"include_thoughts": True, "thinking_budget": 2048}}
    seen = read(f"{upstream}/think+ok-5", config=config)
    equal(seen.thoughts, "Let me think… 🤔\n1 + 1", "thoughts")
    equal(seen.text, text_of("ok-5"), "text")


def weather(city: str, unit: str) -> dict:
    """The weather in a city."""
    return {"weather": f"{city} in {unit}"}


def clock(zone: str) -> str:
    """The time in a zone."""
    return f"noon in {zone}"


def functions(upstream):
    """The SDK calls the functions itself; the upstream would ask for them for ever, so after one round it is stopped."""
    config = types.GenerateContentConfig(
        tools=[weather, clock], automatic_function_calling=types.AutomaticFunctionCallingConfig(maximum_remote_calls=2)
    )
    mark = marker()
    chat = client.chats.create(model=f"{upstream}/tools", config=config)
    list(chat.send_message_stream(mark))
    logged = get(f"{PROVIDER}/_log")
    bodies = [entry["body"] for entry in logged if mark in json.dumps(entry["body"])]
    assert len(bodies) >= 2, f"{len(bodies)} upstream calls"
    said = json.dumps(bodies[1], ensure_ascii=False)
    assert "Zürich 🏔 in °C" in said and "noon in Asia/東京" in said, said
    if upstream == "gemini":
        equal(bodies[1]["contents"][1]["role"], "model", "role")
        assert bodies[1]["contents"][1]["parts"][0].get("thoughtSignature") or "thought_signature" in said, "the signature is lost"
    else:
        equal([m["role"] for m in bodies[1]["messages"]][:4], ["user", "assistant", "tool", "tool"], "roles")
        equal(bodies[1]["tools"][0]["function"]["parameters"]["properties"]["city"]["type"], "string", "a type")


def remembers(upstream):
    chat = client.chats.create(model=f"{upstream}/ok-4")
    for _ in chat.send_message_stream(marker()):
        pass
    mark = marker()
    chat.send_message(mark)
    body = calls(mark)[0]["body"]
    if upstream == "gemini":
        said = "".join(part.get("text", "") for content in body["contents"] if content["role"] == "model" for part in content["parts"])
    else:
        said = "".join(m["content"] for m in body["messages"] if m["role"] == "assistant")
    equal(said, text_of("ok-4"), "the model's turn")


def disconnect(upstream):
    mark = marker()
    answer = client.models.generate_content_stream(model=f"{upstream}/paced-40-25", contents=mark)
    for count, _ in enumerate(answer):
        if count == 5:
            break
    answer.close()
    for _ in range(100):
        entry = calls(mark)[0]
        if entry["outcome"] != "running":
            break
        time.sleep(0.05)
    equal(entry["outcome"], "whole", "the upstream call")
    outcome("google-genai-python", "gemini", upstream, "the client left", "the answer is kept")


def structured(upstream):
    mark = marker()
    config = {"response_mime_type": "application/json", "response_schema": {"type": "OBJECT", "properties": {"a": {"type": "INTEGER", "nullable": True}}}}
    client.models.generate_content(model=f"{upstream}/ok-3", contents=mark, config=config)
    body = calls(mark)[0]["body"]
    if upstream == "gemini":
        equal(body["generationConfig"]["responseSchema"]["properties"]["a"]["type"], "INTEGER", "type")
    else:
        schema = body["response_format"]["json_schema"]["schema"]
        equal(schema["properties"]["a"]["type"], ["integer", "null"], "type")


_BROKEN = ["truncate-0", "truncate-1", "truncate-5", "truncate-24", "fin-0", "fin-5", "rst-0", "rst-5", "inband-0", "inband-5", "truncate-5+byte"]


def register(upstream):
    def of(name, body, **more):
        case(f"{upstream}: {name}", **more)(body)

    for model in ["ok", "paced-40-15", "ok-6+byte"]:
        of(f"streaming, {model}", lambda model=model: plain(upstream, model))
    for model in ["silent-32+ok-10", "gap-32+ok-10"]:
        of(f"32 s of silence, {model}", lambda model=model: silent(upstream, model, lambda: read(f"{upstream}/{model}")), aside=True, seconds=60)
        of(
            f"async, 32 s of silence, {model}",
            lambda model=model: silent(upstream, model, lambda: asyncio.run(read_async(f"{upstream}/{model}"))),
            aside=True,
            seconds=60,
        )
    for model in _BROKEN:
        of(f"streaming raises, {model}", lambda model=model: broken(upstream, model, lambda: read(f"{upstream}/{model}"), ""))
    for model in ["truncate-5", "fin-5", "rst-5", "inband-5"]:
        of(
            f"async, streaming raises, {model}",
            lambda model=model: broken(upstream, model, lambda: asyncio.run(read_async(f"{upstream}/{model}")), " (async)"),
        )
        of(
            f"not streaming raises, {model}",
            lambda model=model: broken(
                upstream, model, lambda: client.models.generate_content(model=f"{upstream}/{model}", contents=marker()), " (not streaming)"
            ),
        )
    for stream in [True, False]:
        for status in [400, 401, 403, 404, 429, 500, 503]:
            of(
                f"provider's {status}, {'' if stream else 'not '}streaming",
                lambda status=status, stream=stream: provider_error(upstream, status, stream),
            )
    for name, body in {
        "not streaming": whole,
        "async, eight at once": many,
        "a cancel is an exception": cancelled,
        "thoughts": thoughts,
        "functions that the SDK calls by itself": functions,
        "a chat remembers what was streamed": remembers,
        "a disconnect is not a cancel": disconnect,
        "structured output": structured,
    }.items():
        of(name, lambda body=body: body(upstream))


for _upstream in ["gemini", "openai"]:
    register(_upstream)


@case("demo")
def _():
    seen = read("demo-fast")
    answer = client.models.generate_content(model="demo-fast", contents="Hi")
    assert len(seen.text) > 100 and len(answer.text) > 100, seen.text
    equal(seen.chunks[-1].candidates[0].finish_reason, types.FinishReason.STOP, "finish_reason")
    outcome("google-genai-python", "gemini", "demo", "nothing", "whole")


@case("under /v1beta as well")
def _():
    equal(read("gemini/ok", on=client_of(api_version="v1beta")).text, text_of("ok"), "text")


@case("unknown request fields reach a Gemini upstream")
def _():
    mark = marker()
    config = {
        "safety_settings": [{"category": "HARM_CATEGORY_HATE_SPEECH", "threshold": "BLOCK_NONE"}],
        "http_options": {"extra_body": {"xCustom": {"deep": [1, "ü"]}}},
    }
    client.models.generate_content(model="gemini/ok-3", contents=mark, config=config)
    entry = calls(mark)[0]
    equal(entry["body"]["safetySettings"][0]["threshold"], "BLOCK_NONE", "a field")
    equal(entry["body"]["xCustom"], {"deep": [1, "ü"]}, "an unknown field")
    equal(entry["key"], "g-key", "the provider's own key")


@case("what another provider cannot do is refused by name")
def _():
    config = {"safety_settings": [{"category": "HARM_CATEGORY_HATE_SPEECH", "threshold": "BLOCK_NONE"}]}
    why = raises(lambda: client.models.generate_content(model="openai/ok", contents="Hi", config=config)).why
    equal(why.code, 422, "code")
    assert "safetySettings" in str(why), why


@case("count_tokens")
def _():
    equal(client.models.count_tokens(model="gemini/ok", contents="Hi").total_tokens, 31, "tokens")
    why = raises(lambda: client.models.count_tokens(model="openai/ok", contents="Hi")).why
    assert why.code == 422 and "cannot count tokens" in str(why), why


@case("models.list and models.get")
def _():
    names = [model.name for model in client.models.list()]
    for name in ["models/ok", "models/demo-fast", "models/openai/ok"]:
        assert name in names, names
    model = client.models.get(model="gemini/ok")
    equal(model.name, "models/gemini/ok", "name")
    assert "countTokens" in model.supported_actions, model


main()
