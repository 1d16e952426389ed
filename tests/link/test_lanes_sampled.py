# SPDX-License-Identifier: Apache-2.0
"""Users that sample, mixed with others that do not, get what each gets alone."""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from board_model import BoardModel
from hypothesis import given, settings
from hypothesis import strategies as st
from standin import standin_tokens

from nomul.host.cli.board import lane_logits
from nomul.host.driver import Board
from nomul.host.lanes import Lanes
from nomul.host.sampling import Sampler
from nomul.model.counters import COUNTER_BYTES, Counter, counter_words
from nomul.model.errors import NomulError
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.memory_map import BLOCK
from nomul.model.program import Image, Streaming, compile_model
from nomul.model.protocol import EXTERNAL, REGIONS, Command, LaneToken, Region, Status, unpack_rows
from nomul.model.random_checkpoint import random_checkpoint
from nomul.sim.golden import Golden
from nomul.sim.golden_board import GoldenBoard
from nomul.sim.harness import seed

VOCAB = 256
SMALL = Geometry(hidden=12, intermediate=15, layers=1, vocab=19)
samplers = st.none() | st.builds(
    Sampler, temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 3]), top_p=st.sampled_from([1.0, 0.8]),
)  # fmt: skip
shapes = st.tuples(st.sampled_from([1, 2, 3, 8]), st.integers(1, 5))


def standin_logits(best: int) -> np.ndarray:
    """Logits with their largest at the stand-in's result."""
    return -((np.arange(VOCAB, dtype=np.int32) - best) % VOCAB)


class LogitsModel(BoardModel):
    """Keeps logits of lanes that want them, and scales of 2**-5, where a core on chip has them."""

    def __init__(self, *, lanes: int, slots: int):
        super().__init__(lanes=lanes, slots=slots)
        sizes = [*self.identity.region_bytes]
        sizes[Region.LOGITS] = 4 * VOCAB
        self.identity = replace(self.identity, region_bytes=tuple(sizes))
        self.logits = np.zeros((lanes, VOCAB), dtype="<i4")

    def begin(self, job: int, steps: int, raw: bytes) -> Status:
        status = super().begin(job, steps, raw)
        self.logits[:] = 99  # means nothing
        if status is Status.OK and self._results:
            for lane, entry in enumerate(unpack_rows(raw, self.lanes)[-1]):
                if entry is not None and entry.logits:
                    self.logits[lane] = standin_logits(self._results[-1][lane])
        return status

    def act(self, command: Command, arguments: bytes) -> tuple[Status, bytes]:
        address = int.from_bytes(arguments[:4], "little")
        if command is not Command.READ or address & EXTERNAL:
            return super().act(command, arguments)
        region, at = Region(address >> 24), address & 0xFFFFFF
        scales = struct.pack("<Ii", 1, -5) * self.lanes
        counters = bytes(Counter.LOGIT_SCALE * COUNTER_BYTES) + scales
        assert len(counters) == COUNTER_BYTES * counter_words(self.lanes)
        data = {Region.LOGITS: self.logits.tobytes(), Region.COUNTERS: counters}[region]
        return Status.OK, data[at : at + int.from_bytes(arguments[4:6], "little")]


@cache
def image(vocab: int = VOCAB) -> Image:
    """Only its vocabulary counts here."""
    geometry = Geometry(hidden=SMALL.hidden, intermediate=SMALL.intermediate, layers=1, vocab=vocab)
    return compile_model(fold(random_checkpoint(geometry, 3)), bytes_per_beat=8, tile_outputs=16)


def standin_alone(prompt: list[int], count: int, sampler: Sampler | None, key: int) -> list[int]:
    text, rng = list(prompt), np.random.default_rng(key)
    for _ in range(count):
        best = standin_tokens(text, steps=len(text))[-1]
        logits = standin_logits(best) * 2.0**-5
        text.append(best if sampler is None else sampler.choose(logits, rng))
    return text[len(prompt) :]


def golden_alone(prompt: list[int], count: int, sampler: Sampler | None, key: int) -> list[int]:
    golden, rng, out = Golden(image(SMALL.vocab)), np.random.default_rng(key), list[int]()
    for token in prompt:
        best = int(golden.step(token)[0])
    while True:
        logits = golden.logits[0] * golden.logit_scale[0]
        out.append(best if sampler is None else sampler.choose(logits, rng))
        if len(out) == count:
            return out
        best = int(golden.step(out[-1])[0])


def mix(lanes: Lanes, alone, vocab: int, data: st.DataObject) -> None:
    """Users join, leave and lose their states between tokens; each gets what it gets alone."""
    wanted: dict[int, list[int]] = {}
    found: dict[int, list[int]] = defaultdict(list)
    removed: set[int] = set()

    def join() -> None:
        prompt = data.draw(st.lists(st.integers(0, vocab - 1), min_size=1, max_size=20))
        count, sampler = data.draw(st.integers(1, 12)), data.draw(samplers)
        key = data.draw(st.integers(0, 1 << 64))
        full = alone(prompt, count, sampler, key)
        stop = data.draw(st.none() | st.sampled_from(full))
        rng = np.random.default_rng(key)
        user = lanes.add(prompt, count, stop=stop, sampler=sampler, rng=rng)
        wanted[user] = full[: full.index(stop) + 1] if stop in full else full

    for _ in range(data.draw(st.integers(1, 5))):
        join()
    events = data.draw(st.lists(st.sampled_from(["join", "leave", "lose"]), max_size=5))
    while lanes.users:
        generator = lanes.job(data.draw(st.none() | st.integers(-1, 9)))
        for user, token in generator:
            assert user not in removed
            found[user].append(token)
            if events and data.draw(st.integers(0, 3)) == 0:
                event = events.pop()
                if event == "join":
                    join()
                elif event == "leave":
                    leaver = data.draw(st.sampled_from([*wanted]))
                    lanes.remove(leaver)
                    removed.add(leaver)
                else:
                    generator.close()
                    break
    for user, expected in wanted.items():
        assert found[user] == expected[: len(found[user])]
        assert user in removed or found[user] == expected


@given(shapes, st.data())
@settings(max_examples=60)
def test_any_mix_through_the_link(shape: tuple[int, int], data: st.DataObject):
    board = Board(LogitsModel(lanes=shape[0], slots=shape[1]), tries=1, wait_s=1.0)
    board.vocab = VOCAB
    mix(Lanes(board, logits=lane_logits(board)), standin_alone, VOCAB, data)


@given(shapes, st.data())
@settings(max_examples=25)
def test_any_mix_on_the_golden_board(shape: tuple[int, int], data: st.DataObject):
    board = GoldenBoard(image(SMALL.vocab), lanes=shape[0], slots=shape[1])
    mix(Lanes(board, logits=board.logits), golden_alone, SMALL.vocab, data)


def test_logits_in_external_memory():
    streaming = Streaming(lanes=2, slots=2)
    model = fold(random_checkpoint(SMALL, 3))
    kept = compile_model(model, bytes_per_beat=8, tile_outputs=16, streaming=streaming)
    assert kept.map is not None
    stand_in = LogitsModel(lanes=2, slots=2)
    stand_in.identity = replace(stand_in.identity, region_bytes=(0,) * REGIONS)
    stand_in.memory = bytearray(kept.map.end * BLOCK)
    logits = np.random.default_rng(seed()).integers(-1000, 1000, size=(2, SMALL.vocab), dtype="<i4")
    for lane in range(2):
        at = (kept.map.logits + lane * kept.map.logits_stride) * BLOCK
        stand_in.memory[at : at + 4 * SMALL.vocab] = logits[lane].tobytes()
    board = Board(stand_in, tries=1, wait_s=1.0)
    board.vocab = SMALL.vocab
    board.logits_base = EXTERNAL | kept.map.logits * BLOCK
    board.logits_stride = kept.map.logits_stride * BLOCK
    read = lane_logits(board)
    for lane in range(2):
        np.testing.assert_array_equal(read(lane), logits[lane] / 32)


def test_jobs_are_single_steps_only_while_someone_samples():
    model = LogitsModel(lanes=2, slots=2)
    board = Board(model, tries=1, wait_s=1.0)
    board.vocab = VOCAB
    lanes = Lanes(board, logits=lane_logits(board))
    greedy = lanes.add([5, 6, 7, 8], 20)
    sampled = lanes.add([9, 10, 11], 3, sampler=Sampler(temperature=1.0), rng=np.random.default_rng(1))
    found = list(lanes.run())
    assert [user for user, _ in found].count(sampled) == 3
    assert [t for user, t in found if user == greedy] == standin_tokens([5, 6, 7, 8], steps=23)[3:]
    # The prompt of three, a token each twice, then the other's row and what it feeds back.
    assert model.jobs[:3] == [(3, 3), (1, 1), (1, 1)]
    assert len(model.jobs) == 4
    assert sum(steps for _, steps in model.jobs) == lanes.steps_done
    assert lanes.tokens_done == 23 + 5
    assert lanes.occupants == [greedy, None]


def test_refuses_what_it_cannot_sample():
    warm, rng = Sampler(temperature=0.5), np.random.default_rng(1)
    with_logits = Lanes(GoldenBoard(image(), lanes=1), logits=lambda lane: np.zeros(VOCAB))
    with pytest.raises(NomulError, match=r"^lanes: temperature 0.5 needs a random generator$"):
        with_logits.add([1], 1, sampler=warm)
    with pytest.raises(NomulError, match=r"^lanes: temperature 0.5 needs a board with logits$"):
        Lanes(GoldenBoard(image(), lanes=1)).add([1], 1, sampler=warm, rng=rng)
    assert Lanes(GoldenBoard(image(), lanes=1)).add([1], 1, sampler=Sampler()) == 1
    assert list(Lanes(GoldenBoard(image(), lanes=1)).job()) == []


@pytest.mark.parametrize(
    ("rows", "steps", "message"),
    [
        ([], None, "0 rows and 0 steps; give each row a step"),
        ([[LaneToken(token=1)]], None, "slot 0 holds no state: begin it fresh"),
        ([[LaneToken(token=1, fresh=True), LaneToken(token=1, fresh=True)]], None, "slot 0 is fresh in mid-row"),
        ([[LaneToken(token=1, fresh=True)], [None, LaneToken(token=None, slot=1)]], None, "slot 1 holds no state"),
        ([[LaneToken(token=1, fresh=True)], [], [LaneToken(token=None)]], None, "nothing to feed back to slot 0"),
    ],
)  # fmt: skip
def test_the_golden_board_refuses_what_a_board_does(rows, steps, message: str):
    board = GoldenBoard(image(), lanes=2)
    with pytest.raises(NomulError, match=f"^golden board: {re.escape(message)}"):
        list(board.run(rows, steps))


def test_the_golden_board_loses_its_states_with_a_job():
    board = GoldenBoard(image(), lanes=1)
    go_on = [LaneToken(token=3)]
    left_early = board.run([[LaneToken(token=1, fresh=True)], go_on])
    next(left_early)
    left_early.close()
    with pytest.raises(NomulError, match=r"^golden board: slot 0 holds no state"):
        list(board.run([go_on]))
