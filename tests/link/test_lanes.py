# SPDX-License-Identifier: Apache-2.0
"""Users packed into lanes get what each gets alone; rows of any length are cut into jobs."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from dataclasses import replace

import pytest
from board_model import BoardModel
from hypothesis import given, settings
from hypothesis import strategies as st
from standin import FAILS, MEMORY_BYTES, StandInModel, standin_tokens

from nomul.host.driver import Board
from nomul.host.lanes import Lanes
from nomul.model.errors import NomulError
from nomul.model.protocol import (
    EXTERNAL,
    FEED_BACK,
    MAX_LANES,
    Fault,
    LaneToken,
    max_rows,
    max_steps,
    pack_rows,
    unpack_rows,
)
from nomul.sim.harness import seed

tokens = st.integers(0, FAILS - 1)
prompts = st.lists(tokens, min_size=1, max_size=60)
shapes = st.tuples(st.sampled_from([1, 2, 3, 5, 8, 16, MAX_LANES]), st.integers(1, 6))


def board_of(lanes: int, slots: int) -> tuple[Board, BoardModel]:
    model = BoardModel(lanes=lanes, slots=slots)
    return Board(model, tries=1, wait_s=1.0), model


def alone(prompt: list[int], count: int) -> list[int]:
    return standin_tokens(prompt, steps=len(prompt) + count - 1)[len(prompt) - 1 :]


def until(wanted: list[int], stop: int | None) -> list[int]:
    return wanted[: wanted.index(stop) + 1] if stop in wanted else wanted


@settings(deadline=None)
@given(shapes, st.data())
def test_any_mix_gives_each_user_what_it_gets_alone(shape: tuple[int, int], data: st.DataObject):
    board, model = board_of(*shape)
    lanes = Lanes(board, steps=data.draw(st.none() | st.integers(1, 40)))
    wanted: dict[int, list[int]] = {}
    found: dict[int, list[int]] = defaultdict(list)
    removed: set[int] = set()

    def join() -> None:
        prompt, count = data.draw(prompts), data.draw(st.integers(1, 50))
        full = alone(prompt, count)
        stop = data.draw(st.none() | st.sampled_from(full) | st.just(256))
        wanted[lanes.add(prompt, count, stop=stop)] = until(full, stop)

    for _ in range(data.draw(st.integers(1, 6))):
        join()
    events = data.draw(st.lists(st.sampled_from(["join", "leave", "stop"]), max_size=6))
    while lanes.users:
        generator = lanes.run()
        for user, token in generator:
            assert user not in removed
            found[user].append(token)
            if events and data.draw(st.integers(0, 5)) == 0:
                event = events.pop()
                if event == "join":
                    join()
                elif event == "leave":
                    leaver = data.draw(st.sampled_from([*wanted]))
                    lanes.remove(leaver)
                    removed.add(leaver)
                else:  # the states are lost, the texts are not
                    generator.close()
                    model._resumable.clear()
                    break
    for user, expected in wanted.items():
        got = found[user]
        assert got == expected[: len(got)]
        assert user in removed or got == expected


def test_lanes_are_filled():
    """Prompts use all lanes, decoding users one each, and a job of many steps is one job."""
    board, model = board_of(8, 8)
    lanes = Lanes(board)
    rng = random.Random(seed())
    prompt = [rng.randrange(FAILS) for _ in range(80)]
    user = lanes.add(prompt, 1)
    assert list(lanes.run()) == [(user, alone(prompt, 1)[0])]
    assert model.jobs == [(10, 10)]
    users = {lanes.add(prompt[k:][:1], 20): alone(prompt[k:][:1], 20) for k in range(8)}
    found: dict[int, list[int]] = defaultdict(list)
    for user, token in lanes.run():
        found[user].append(token)
    assert found == users
    assert model.jobs[1:] == [(2, 20)]


@settings(deadline=None)
@given(shapes, st.data())
def test_rows_of_any_length_are_cut_into_jobs(shape: tuple[int, int], data: st.DataObject):
    lanes, slots = shape
    board, model = board_of(lanes, slots)
    rng = random.Random(data.draw(st.integers(0, 1 << 30)))
    count = data.draw(st.integers(1, 3 * max_rows(lanes) + 2))
    steps = count + data.draw(st.sampled_from([0, 1, 5, 2 * max_steps(lanes) + 1]))
    reference, used = StandInModel(slots), set[int]()
    rows: list[list[LaneToken | None]] = []
    before: set[int] = set()
    for _ in range(count):
        row: list[LaneToken | None] = []
        for _ in range(rng.randrange(lanes + 1)):
            slot = rng.randrange(slots)
            fresh = slot not in used or rng.random() < 0.05
            token = None if slot in before and not fresh and rng.random() < 0.7 else rng.randrange(99)
            row.append(LaneToken(token=token, slot=slot, fresh=fresh) if rng.random() < 0.8 else None)
            if row[-1] is not None:
                used.add(slot)
        rows.append(row)
        before = {entry.slot for entry in row if entry}
    last: dict[int, int] = {}
    found = list(board.run(rows, steps))
    assert len(found) == steps
    for k, got in enumerate(found):
        row = rows[min(k, count - 1)]
        expected: list[int | None] = [None] * lanes
        now: dict[int, int] = {}
        for lane, entry in enumerate(row):
            if entry is not None:
                token = last[entry.slot] if entry.token is None else entry.token
                now[entry.slot] = expected[lane] = reference.step(
                    token, slot=entry.slot, fresh=entry.fresh
                )
        last = now
        assert got == expected
    assert sum(steps for _, steps in model.jobs) == steps


@settings(deadline=None)
@given(shapes, prompts, st.integers(0, 700))
def test_one_user_on_any_board(shape: tuple[int, int], prompt: list[int], count: int):
    board, _ = board_of(*shape)
    for _ in range(2):
        assert list(board.generate(prompt, count)) == alone(prompt, max(count, 1))[:count]
    assert list(board.force(prompt)) == standin_tokens(prompt, steps=len(prompt))
    assert board.step(5) == standin_tokens([5], steps=1, history=prompt)[0]


@given(shapes, st.data())
def test_rows_on_the_wire(shape: tuple[int, int], data: st.DataObject):
    lane = st.builds(
        LaneToken, token=st.none() | st.integers(0, FEED_BACK - 1), slot=st.integers(0, 255),
        fresh=st.booleans(), logits=st.booleans(),
    )  # fmt: skip
    row = st.lists(st.none() | lane, min_size=shape[0], max_size=shape[0])
    rows = data.draw(st.lists(row, max_size=3))
    assert unpack_rows(pack_rows(rows, shape[0]), shape[0]) == rows


A = LaneToken(token=1, fresh=True)


@pytest.mark.parametrize(
    ("rows", "steps", "message"),
    [
        ([], None, "0 rows and 0 steps; there must be at least one row"),
        ([[A], [A]], 1, "2 rows and 1 steps"),
        ([[None, None, A]], None, "row 0 has 3 lanes, the board 2"),
        ([[A], [replace(A, slot=3)]], None, "row 1 has slot 3; it must be 0 to 2"),
        ([[replace(A, token=None, fresh=False)]], None, "row 0 feeds back to slot 0, which is not"),
        ([[A], [replace(A, token=None)]], None, "row 1 feeds back to slot 0, which is fresh"),
        (
            [[A], [None, replace(A, token=100)]],
            None,
            "row 1 has token 100 in lane 1; it must be 0 to 99, the vocabulary of the model",
        ),
    ],
)
def test_refuses_rows(rows: list[list[LaneToken | None]], steps: int | None, message: str):
    board, model = board_of(2, 3)
    board.vocab = 100
    with pytest.raises(NomulError, match=f"^board: {re.escape(message)}"):
        board.run(rows, steps)  # at once
    assert model.jobs == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("token", FEED_BACK, "row: token 65535; it must be 0 to 65534"),
        ("token", -1, "row: token -1; it must be 0 to 65534"),
        ("slot", 256, "row: slot 256; it must be 0 to 255"),
    ],
)
def test_refuses_lanes(field: str, value: int, message: str):
    with pytest.raises(NomulError, match=f"^{re.escape(message)}$"):
        replace(A, **{field: value})


def test_refuses_users():
    board, _ = board_of(2, 3)
    lanes = Lanes(board)
    for prompt, count, message in (
        ([], 1, "the prompt is empty"),
        ([1, FEED_BACK], 1, "token 1 of the prompt is 65535; it must be 0 to 65534"),
        ([1], 0, "0 tokens to generate; it must be at least 1"),
    ):
        with pytest.raises(NomulError, match=f"^lanes: {message}"):
            lanes.add(prompt, count)
    board.vocab = 100
    message = "token 0 of the prompt is 100; it must be 0 to 99, the vocabulary of the model"
    with pytest.raises(NomulError, match=f"^lanes: {message}$"):
        lanes.add([100, 1], 1)
    assert lanes.users == []
    with pytest.raises(NomulError, match=r"^lanes: 0 steps in a job; it must be at least 1$"):
        Lanes(board_of(2, 3)[0], steps=0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault.PROGRAM, "its program holds something that is no instruction: load the model again"),
        (Fault.MEMORY, "its external memory gave wrong data"),
        (Fault.SILENCE, "its external memory does not answer: reset the board"),
    ],
)
def test_a_fault_is_told_and_users_go_on_after_it(fault: Fault, message: str):
    board, model = board_of(4, 4)
    with pytest.raises(NomulError, match=f"^board: step 2 of 5 failed: {message}"):
        list(board.run([[A], [LaneToken(token=FAILS + fault)], [LaneToken(token=2)]], 5))
    with pytest.raises(NomulError, match=r"^board: refused JOB: its state is gone"):
        list(board.generate([1], 2, reset=False))
    lanes = Lanes(board)
    good = lanes.add([5, 6], 30)
    bad = lanes.add([7] * 9 + [FAILS + fault], 3)
    found = []
    with pytest.raises(NomulError, match=message):
        found += list(lanes.run())
    lanes.remove(bad)
    found += [token for user, token in lanes.run() if user == good]
    assert len(model.jobs) > 2
    assert found[-1] == alone([5, 6], 30)[-1]


def test_external_memory_is_loaded_where_it_differs():
    board, model = board_of(1, 1)
    data = random.Random(seed()).randbytes(MEMORY_BYTES)
    image = {EXTERNAL: data}
    assert board.load(image) == MEMORY_BYTES
    assert model.memory == data
    model.writes.clear()
    assert board.load(image) == 0
    assert model.writes == []
    model.memory[77] ^= 4  # a bit flips
    with pytest.raises(
        NomulError, match=r"^board: external memory does not keep .* 4096 bytes at 0x80000000 some"
    ):
        board.verify(image)
    assert board.load(image) == MEMORY_BYTES
    board.verify(image)


def test_an_image_larger_than_memory_is_refused():
    board, model = board_of(1, 1)
    with pytest.raises(
        NomulError,
        match=r"^board: the model needs 4099 bytes of external memory, the board has 4096: 3 too few",
    ):
        board.load({EXTERNAL: b"x", EXTERNAL + 4000: bytes(99)})
    assert model.writes == []


def test_memory_that_is_smaller_than_it_says_is_found(monkeypatch: pytest.MonkeyPatch):
    """Its addresses wrap: what was written first is gone when the last is written."""
    board, model = board_of(1, 1)
    inner = model.act

    def act(command, arguments):
        if len(arguments) >= 4:
            address = int.from_bytes(arguments[:4], "little")
            if address & EXTERNAL:
                address &= ~2048
                arguments = address.to_bytes(4, "little") + arguments[4:]
        return inner(command, arguments)

    monkeypatch.setattr(model, "act", act)
    rng = random.Random(seed())
    image = {EXTERNAL: rng.randbytes(2048), EXTERNAL + 2048: rng.randbytes(2048)}
    with pytest.raises(NomulError, match=r"^board: external memory .* 2048 bytes at 0x80000000"):
        board.load(image)
