"""PyPI `openai`, unmodified, Responses API, sync and async: over an upstream of the same dialect, over Chat Completions, over the demo.

Prints its cases in the form that lib/cases.mjs defines, and
`outcome<TAB>client<TAB>surface<TAB>upstream<TAB>what was cut<TAB>outcome`.
"""

import asyncio
import time

import openai
import pydantic

from cases import RELAY, Broken, calls, case, equal, main, marker, outcome, raises, text_of

OPTIONS = {"api_key": "test", "base_url": f"{RELAY}/v1", "max_retries": 0}
UPSTREAMS = {"openai-responses": "openai/", "openai-chat": "chat/", "demo": "demo/"}
client = openai.OpenAI(**OPTIONS)


def create(model, **extra):
    return client.responses.create(model=model, **{"input": marker(), **extra})


def read(stream):
    events = []
    try:
        for event in stream:
            events.append(event)
    except Exception as why:
        raise Broken(why, events=events) from why
    return events


def text(events):
    return "".join(e.delta for e in events if e.type == "response.output_text.delta")


def gapless(events, start=0):
    equal([e.sequence_number for e in events], list(range(start, start + len(events))), "sequence numbers")


def final(**ask):
    with client.responses.stream(**ask) as run:
        events = list(run)
        return run.get_final_response(), events


def streaming(name, model):
    events = read(create(model, stream=True))
    gapless(events)
    equal((events[0].type, events[-1].type), ("response.created", "response.completed"), "ends")
    done = events[-1].response
    equal(done.output_text, text(events), "the final object's text")
    assert done.usage.total_tokens > 0
    if name != "demo":
        equal(text(events), text_of(model.split("/")[1]), "text")
    outcome("openai-python", "openai-responses", name, "nothing", "whole")


def helper(name, model):
    done, events = final(model=model, input=marker())
    equal(done.output_text, "".join(e.delta for e in events if e.type == "response.output_text.delta"), "text")
    snapshots = [e.snapshot for e in events if e.type == "response.output_text.delta"]
    equal(snapshots[-1], done.output_text, "the last snapshot")
    gapless(events)
    outcome("openai-python", "openai-responses", name, "nothing (helper)", "whole")


def whole(name, model):
    answer = create(model)
    equal(answer.status, "completed", "status")
    if name != "demo":
        equal(answer.output_text, text_of(model.split("/")[1]), "text")


def replayed(name, model):
    events = read(create(model, stream=True))
    name_of_it = events[0].response.id
    equal(client.responses.retrieve(name_of_it).output_text, text(events), "text")
    equal([e.to_json() for e in read(client.responses.retrieve(name_of_it, stream=True))], [e.to_json() for e in events], "replay")
    for n in range(0, len(events), 3):
        rest = read(client.responses.retrieve(name_of_it, stream=True, starting_after=n))
        equal([e.sequence_number for e in rest], list(range(n + 1, len(events))), f"after {n}")
    done, heard = final(response_id=name_of_it, starting_after=5)
    equal(done.output_text, text(events), "the helper's text")
    gapless(heard, 6)
    client.responses.delete(name_of_it)
    equal(raises(lambda: client.responses.retrieve(name_of_it)).why.status_code, 404, "after delete")
    outcome("openai-python", "openai-responses", name, "retrieved after the end", "whole")


async def read_async(model):
    async with openai.AsyncOpenAI(**OPTIONS) as other:
        async with other.responses.stream(model=model, input=marker()) as run:
            async for _ in run:
                pass
            return (await run.get_final_response()).output_text


def asynchronous(model):
    async def all_of_them():
        return await asyncio.gather(*(read_async(model) for _ in range(6)))

    for one in asyncio.run(all_of_them()):
        equal(one, text_of(model.split("/")[1]), "text")


def silent(name, prefix, model):
    equal(text(read(create(prefix + model, stream=True))), text_of(model), "text")
    outcome("openai-python", "openai-responses", name, f"32 s silence ({model})", "whole")


def broken(name, prefix, model):
    seen = raises(lambda: read(create(prefix + model, stream=True)))
    assert text_of(model).startswith(text(seen.events)), "not the provider's text"
    assert all(e.type != "response.completed" for e in seen.events)
    if seen.events:
        assert seen.events[-1].type in ("response.failed", "error") or model.startswith("inband"), seen.events[-1].type
    raises(lambda: final(model=prefix + model, input=marker()))
    raises(lambda: create(prefix + model))
    outcome("openai-python", "openai-responses", name, model, "response.failed, then an exception" if seen.events else "an exception with a status")


def resumed(name, prefix):
    model = "paced-40-30"
    events = []
    for event in create(prefix + model, background=True, stream=True):
        events.append(event)
        if len(events) == 4:
            break
    name_of_it = events[0].response.id
    for _ in range(60):
        if events[-1].type == "response.completed":
            break
        stream = client.responses.retrieve(name_of_it, stream=True, starting_after=events[-1].sequence_number)
        for count, event in enumerate(stream):
            events.append(event)
            if count == 3:
                break
        stream.close()
    gapless(events)
    equal(text(events), text_of(model), "text")
    outcome("openai-python", "openai-responses", name, "viewer cut, starting_after", "whole")


def background(prefix):
    model = "paced-20-20"
    first = create(prefix + model, background=True)
    assert first.status in ("queued", "in_progress"), first.status
    for _ in range(200):
        now = client.responses.retrieve(first.id)
        if now.status == "completed":
            break
        time.sleep(0.05)
    equal(now.output_text, text_of(model), "text")


def cancelled(name, prefix):
    events, objects = [], []
    for event in create(prefix + "paced-200-30", background=True, stream=True):
        events.append(event)
        if len(events) == 12:
            objects.append(client.responses.cancel(events[0].response.id))
    objects.append(client.responses.cancel(events[0].response.id))
    equal([o.status for o in objects], ["cancelled", "cancelled"], "status")
    equal(events[-1].type, "response.incomplete", "last event")
    gapless(events)
    raises(lambda: final(response_id=events[0].response.id))
    outcome("openai-python", "openai-responses", name, "cancelled", "response.incomplete, status cancelled")


TOOLS = [{"type": "function", "name": n, "strict": False, "parameters": {"type": "object"}} for n in ("weather", "clock")]
CALLS = [("call_a1", "weather", '{"city":"Zürich 🏔","unit":"°C"}'), ("call_b2", "clock", '{"zone":"Asia/東京"}')]


def tools(prefix):
    def spell(answer):
        return [(c.call_id, c.name, c.arguments) for c in answer.output if c.type == "function_call"]

    equal(spell(final(model=f"{prefix}tools", input=marker(), tools=TOOLS)[0]), CALLS, "streaming")
    first = create(f"{prefix}tools+think", tools=TOOLS)
    equal(spell(first), CALLS, "not streaming")
    said = [{"role": "user", "content": "weather?"}, *first.output]
    said += [{"type": "function_call_output", "call_id": c[0], "output": "fine"} for c in CALLS]
    equal(create(f"{prefix}ok-4", input=said).output_text, text_of("ok-4"), "input chaining")


def reasoning(prefix):
    done, events = final(model=f"{prefix}ok-5+think", input=marker(), reasoning={"effort": "low"})
    thought = "".join(e.delta for e in events if e.type == "response.reasoning_summary_text.delta")
    equal((thought, done.output[0].summary[0].text), ("Let me think… 🤔\n1 + 1", "Let me think… 🤔\n1 + 1"), "reasoning")
    equal(done.output_text, text_of("ok-5"), "text")


class Answer(pydantic.BaseModel):
    answer: int
    words: list[str]


def structured(prefix):
    equal(client.responses.parse(model=f"{prefix}json", input=marker(), text_format=Answer).output_parsed.words, ["Zürich", "日本"], "parsed")
    equal(final(model=f"{prefix}json", input=marker(), text_format=Answer)[0].output_parsed.answer, 42, "parsed, streamed")


def chained(prefix):
    first = create(f"{prefix}ok-3", instructions="Be terse.")
    mark = marker()
    create(f"{prefix}ok-4", input=mark, previous_response_id=first.id)
    body = calls(mark)[0]["body"]
    if prefix == "openai/":
        equal(body["previous_response_id"], first.id, "left to the provider")
        return
    equal([m["role"] for m in body["messages"]], ["user", "assistant", "user"], "roles")
    equal(body["messages"][1]["content"], text_of("ok-3"), "the earlier answer")
    equal(len(list(client.responses.input_items.list(first.id))), 1, "input items")


def provider_error(prefix, status, stream):
    why = raises(lambda: create(f"{prefix}error-{status}", stream=stream)).why
    assert isinstance(why, openai.APIStatusError), repr(why)
    equal(why.status_code, status, "status")
    assert f"scripted: status {status} für dich" in str(why), f"provider's message lost: {why}"


for _name, _prefix in UPSTREAMS.items():
    _model = _prefix + ("demo-fast" if _name == "demo" else "ok")
    for _what in [streaming, helper, whole, replayed]:
        case(f"{_name}: {_what.__name__}")(lambda f=_what, n=_name, m=_model: f(n, m))
    if _name == "demo":
        continue
    for _form in ["paced-30-10", "ok+crlf", "ok+cr", "ok+nospace", "ok+bom", "ok-6+byte"]:
        case(f"{_name}: streaming, {_form}")(lambda n=_name, m=_prefix + _form: streaming(n, m))
    for _form in ["silent-32+ok-10", "gap-32+ok-10"]:
        case(f"{_name}: 32 s of silence, {_form}", aside=True, seconds=60)(lambda n=_name, p=_prefix, m=_form: silent(n, p, m))
    for _form in ["truncate-0", "truncate-1", "truncate-5", "truncate-24", "fin-5", "rst-5", "inband-5"]:
        case(f"{_name}: a broken answer is never a whole one, {_form}")(lambda n=_name, p=_prefix, m=_form: broken(n, p, m))
    for _what in [resumed, cancelled]:
        case(f"{_name}: {_what.__name__}")(lambda f=_what, n=_name, p=_prefix: f(n, p))
    for _what in [background, tools, reasoning, structured, chained]:
        case(f"{_name}: {_what.__name__}")(lambda f=_what, p=_prefix: f(p))
    case(f"{_name}: async, six at once")(lambda p=_prefix: asynchronous(p + "paced-30-10"))
    for _stream in [True, False]:
        for _status in [400, 401, 404, 429, 500]:
            case(f"{_name}: provider's {_status}, {'' if _stream else 'not '}streaming")(
                lambda p=_prefix, s=_status, t=_stream: provider_error(p, s, t)
            )


@case("errors in OpenAI's shape")
def _():
    assert isinstance(raises(lambda: client.responses.retrieve("resp_nobody")).why, openai.NotFoundError)
    why = raises(lambda: create("chat/ok", conversation="conv_1")).why
    equal((why.status_code, why.param), (422, "conversation"), "refusal")
    done = create("chat/ok-2")
    why = raises(lambda: client.responses.retrieve(done.id, stream=True, starting_after="soon")).why
    assert isinstance(why, openai.BadRequestError), repr(why)


main()
