# SPDX-License-Identifier: Apache-2.0
"""The official client, unchanged, gets what the golden model says."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from served import NAME, Served, alone, power, said, until

from nomul.host.serve.api import Message, rendered
from nomul.model.tokenizer import BEGIN
from nomul.sim.harness import seed

PROMPT = "def f(x):"
TEXT = said(alone(PROMPT, 40))


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0, timeout=60) as found:
        yield found


def test_a_completion(client: openai.OpenAI):
    found = client.completions.create(model=NAME, prompt=PROMPT, max_tokens=40, temperature=0)
    (choice,) = found.choices
    assert (choice.text, choice.finish_reason, choice.index) == (TEXT, "length", 0)
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (len(PROMPT) + 1, 40)
    assert found.usage.total_tokens == len(PROMPT) + 41
    assert (found.model, found.object) == (NAME, "text_completion")
    assert bytes.fromhex(found.system_fingerprint or "") == b"golden  "


def test_sixteen_tokens_by_default(client: openai.OpenAI):
    found = client.completions.create(model=NAME, prompt=PROMPT, temperature=0)
    assert found.choices[0].text == said(alone(PROMPT, 16))


def test_a_stream(client: openai.OpenAI):
    stream = client.completions.create(
        model=NAME, prompt=PROMPT, max_tokens=40, temperature=0, stream=True, echo=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    *chunks, last = stream
    assert "".join(chunk.choices[0].text for chunk in chunks) == PROMPT + TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert {chunk.choices[0].finish_reason for chunk in chunks[:-1]} == {None}
    assert len({chunk.id for chunk in [*chunks, last]}) == 1
    assert len(chunks) > 2
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 40


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_and_texts(client: openai.OpenAI, stream: bool):
    prompts = ["import os", [BEGIN, 100, 101], "ü"]
    found = client.completions.create(
        model=NAME, prompt=prompts, n=2, max_tokens=30, temperature=1.0, seed=-5, echo=True, stream=stream
    )  # type: ignore[call-overload]
    texts: dict[int, str] = defaultdict(str)
    for part in found if stream else [found]:
        for choice in part.choices:
            texts[choice.index] += choice.text
    key = -5 % (1 << 64)
    wanted = [
        (prompt if isinstance(prompt, str) else "\x00de")
        + said(alone(prompt, 30, temperature=1.0, seed=key if copy == 0 else [key, copy]))
        for prompt in prompts
        for copy in range(2)
    ]
    assert [texts[k] for k in range(6)] == wanted
    assert wanted[0] != wanted[1]


def test_settings_of_sampling(client: openai.OpenAI):
    for temperature, top_p in ((2.0, 1.0), (0.7, 0.5), (1.0, 0.0)):
        found = client.completions.create(
            model=NAME, prompt="x", max_tokens=25, temperature=temperature, top_p=top_p, seed=11
        )
        wanted = alone("x", 25, temperature=temperature, top_p=max(top_p, 1e-9), seed=11)
        assert found.choices[0].text == said(wanted)
    # Without a seed two are hardly the same, and the temperature is 1.
    texts = {client.completions.create(model=NAME, prompt="x", max_tokens=25).choices[0].text for _ in range(3)}
    assert len(texts) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(client: openai.OpenAI, stream: bool):
    stops = [TEXT[9:12], "\0never"]
    found = client.completions.create(
        model=NAME, prompt=PROMPT, max_tokens=40, temperature=0, stop=stops, stream=stream
    )  # type: ignore[call-overload]
    choices = [part.choices[0] for part in (found if stream else [found])]
    assert "".join(choice.text for choice in choices) == until(TEXT, *stops)
    assert choices[-1].finish_reason == "stop"
    if not stream:
        assert found.usage.completion_tokens < 40


def test_the_end_token_ends(client: openai.OpenAI):
    key = next(k for k in range(2000) if BEGIN in alone("a", 12, temperature=2.0, seed=k))
    tokens = alone("a", 12, temperature=2.0, seed=key)
    found = client.completions.create(model=NAME, prompt="a", max_tokens=12, temperature=2, seed=key)
    assert found.choices[0].text == said(tokens)
    assert found.choices[0].finish_reason == "stop"
    assert found.usage is not None
    assert found.usage.completion_tokens == len(tokens)


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]},
    {"role": "assistant", "content": "So.", "refusal": None, "tool_calls": None},
    {"role": "user", "content": "Oh", "name": "x"},
]
RENDERED = "Be brief.\n\nUser: Why?\nAssistant: So.\nUser: Oh\nAssistant:"


def test_how_a_chat_is_rendered():
    assert rendered([Message.model_validate(message) for message in MESSAGES]) == (RENDERED, "\nUser:")


def test_a_chat(client: openai.OpenAI):
    wanted = until(said(alone(RENDERED, 30)), "\nUser:")
    found = client.chat.completions.create(
        model=NAME, messages=MESSAGES, max_completion_tokens=30, temperature=0, tools=[], logprobs=False
    )  # type: ignore[call-overload]
    (choice,) = found.choices
    assert (choice.message.role, choice.message.content) == ("assistant", wanted)
    assert choice.finish_reason == "length"
    assert found.usage.prompt_tokens == len(RENDERED) + 1
    again = client.chat.completions.create(
        model=NAME, messages=[*MESSAGES, choice.message, MESSAGES[-1]], max_tokens=1, temperature=0
    )  # type: ignore[call-overload]
    assert again.usage.completion_tokens == 1


def test_a_chat_as_a_stream(client: openai.OpenAI):
    stream = client.chat.completions.create(
        model=NAME, messages=MESSAGES, max_tokens=30, temperature=0.9, seed=3, n=2, stream=True
    )  # type: ignore[call-overload]
    texts, roles, reasons = defaultdict(str), defaultdict(list), {}
    for chunk in stream:
        assert chunk.object == "chat.completion.chunk"
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles[choice.index].append(choice.delta.role)
            reasons[choice.index] = choice.finish_reason
    for copy in range(2):
        wanted = alone(RENDERED, 30, temperature=0.9, seed=[3, 1] if copy else 3)
        assert texts[copy] == until(said(wanted), "\nUser:")
        assert roles[copy][0] == "assistant"
        assert {*roles[copy][1:]} == {None}
        assert reasons[copy] in ("stop", "length")


def test_the_helper_for_streams(client: openai.OpenAI):
    text = said(alone("User: hi\nAssistant:", 20))
    with client.chat.completions.stream(  # it takes no answer that the limit has cut short
        model=NAME, messages=[{"role": "user", "content": "hi"}], max_tokens=20, temperature=0, stop=text[15:]
    ) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content == until(text, text[15:], "\nUser:")


def test_models(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "nomul"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other/one")
    assert caught.value.code == "model_not_found"


def test_many_at_once_get_what_each_gets_alone(served: Served):
    rng = random.Random(seed())

    async def one(client: openai.AsyncOpenAI) -> tuple[str, str]:
        prompt = "".join(rng.choices("abc (:=\n", k=rng.randrange(1, 60)))
        count, key = rng.randrange(1, 60), rng.randrange(1 << 40)
        temperature = rng.choice([0.0, 0.0, 0.8])
        await asyncio.sleep(rng.random())
        if rng.random() < 0.5:
            found = await client.completions.create(
                model=NAME, prompt=prompt, max_tokens=count, temperature=temperature, seed=key
            )
            text = found.choices[0].text
        else:
            text = ""
            async for chunk in await client.completions.create(
                model=NAME, prompt=prompt, max_tokens=count, temperature=temperature, seed=key, stream=True
            ):
                text += chunk.choices[0].text
        return text, said(alone(prompt, count, temperature=temperature, seed=key))

    async def every() -> list[tuple[str, str]]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as client:
            return await asyncio.gather(*(one(client) for _ in range(40)))

    for text, wanted in asyncio.run(every()):
        assert text == wanted
    served.idle()


def test_metrics_and_health(served: Served, client: openai.OpenAI):
    client.completions.create(model=NAME, prompt=PROMPT, max_tokens=7, temperature=0)
    served.idle()
    before = figures(served)
    client.completions.create(model=NAME, prompt=PROMPT, max_tokens=7, temperature=0)
    served.idle()
    after = figures(served)

    def grew(name: str) -> float:
        return after[name] - before[name]

    assert grew("nomul_generated_tokens_total") == 7
    assert grew("nomul_prompt_tokens_total") == len(PROMPT) + 1
    assert grew("nomul_lane_tokens_total") == len(PROMPT) + 7
    assert grew('nomul_requests_total{endpoint="completions",outcome="done"}') == 1
    assert grew('nomul_first_token_seconds_count{endpoint="completions"}') == 1
    assert (after["nomul_lanes"], after["nomul_lanes_busy"], after["nomul_board_up"]) == (8, 0, 1)
    assert "nomul_watts" not in after
    assert after["process_resident_memory_bytes"] > 0
    assert served.http.get("/health").json() == {"status": "ok", "model": NAME, "lanes": 8}


def figures(served: Served) -> dict[str, float]:
    text = served.http.get("/metrics").text
    rows = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in rows}


def events(served: Served) -> dict[str, Any]:
    """The first of what the page is told."""
    with served.http.stream("GET", "/live") as live:
        return dict(json.loads(next(live.iter_lines()).removeprefix("data: ")))


def test_power_is_told_where_there_is_a_meter():
    shown = [4.25]
    with Served(power=power(lambda: shown[0])) as served:
        assert figures(served)['nomul_watts{label="measured",meter="told"}'] == 4.25
        assert not any("nomul_watts_" in name for name in figures(served))
        told = events(served)
        assert {name: told[name] for name in ("metered", "watts", "low", "high", "power")} == {
            "metered": True, "watts": 4.25, "low": None, "high": None, "power": "measured, told: all of it",
        }  # fmt: skip
        shown[0] = None  # it is away
        assert not any("nomul_watts" in name for name in figures(served))
        told = events(served)
        assert (told["metered"], told["watts"]) == (True, None)


@pytest.mark.parametrize("label", ["constant", "modelled"])
def test_power_that_was_not_measured_says_so(label: str):
    bounds = (1.5, 4.25) if label == "modelled" else None
    with Served(power=power(2.5, label=label, bounds=bounds)) as served:
        found = {name: value for name, value in figures(served).items() if "watts" in name}
        ends = ["", "_low", "_high"] if bounds else [""]
        assert [*found] == [f'nomul_watts{end}{{label="{label}",meter="told"}}' for end in ends]
        assert [*found.values()] == ([2.5, 1.5, 4.25] if bounds else [2.5])
        told = events(served)
        assert told["power"].startswith(f"{label}, ")
        assert (told["low"], told["high"]) == (bounds or (None, None))

