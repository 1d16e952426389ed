# SPDX-License-Identifier: Apache-2.0
"""The driver against a simulated board with a stand-in core, over good lines and bad ones."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from standin import (
    FAILS,
    HANGS,
    IDENTITY,
    MEMORY_BYTES,
    REGION_BYTES,
    StandInCore,
    standin_identity,
    standin_tokens,
)

from nomul.host.driver import Board, BoardError
from nomul.host.lanes import Lanes
from nomul.host.transport import SerialTransport
from nomul.hw.build.verilog import convert
from nomul.hw.link import Link
from nomul.hw.top import Top
from nomul.model.errors import NomulError
from nomul.model.protocol import (
    EXTERNAL,
    VERSION,
    Fault,
    LaneToken,
    Region,
    Status,
    max_rows,
    max_steps,
)
from nomul.sim.board import BoardProcess, build_board
from nomul.sim.harness import seed
from nomul.sim.toggles import count_toggles, kinds_of

MAX_STEPS = max_steps(1)
LIMIT_S = 120.0  # no board of these tests lives longer


@pytest.fixture(scope="module")
def program() -> Path:
    return build_board(
        convert(Top(core=StandInCore(cycles=50), link=Link(identity=IDENTITY)), "top")
    )


@pytest.fixture
def process(program: Path) -> Iterator[BoardProcess]:
    with BoardProcess(program, limit_s=LIMIT_S) as process:
        yield process


@pytest.fixture
def board(process: BoardProcess) -> Iterator[Board]:
    with Board.open(process.port) as board:
        yield board


class BadLine:
    """Loses, repeats, holds back, cuts and flips, each write and read with probability ``rate``."""

    def __init__(self, port: str, *, rate: float, rng: random.Random):
        self.inner = SerialTransport(port)
        self.rate, self.rng = rate, rng
        self.held: dict[str, list[bytes]] = {"write": [], "read": []}
        self.harm = dict.fromkeys(("lose", "repeat", "hold", "cut", "flip"), 0)
        self.pending = b""

    def _spoil(self, way: str, data: bytes) -> bytes:
        held = self.held[way]
        if (
            held and self.rng.random() < 0.3
        ):  # something from long ago, or from just now, comes first
            data = held.pop(self.rng.randrange(len(held))) + data
        if self.rng.random() >= self.rate:
            return data
        harm = self.rng.choice([*self.harm])
        self.harm[harm] += 1
        if harm == "lose":
            return b""
        if harm == "repeat":
            held.append(data)
            return data + data
        if harm == "hold":
            held.append(data)
            return b""
        if harm == "cut":
            return data[: self.rng.randrange(len(data))]
        flipped = bytearray(data)
        flipped[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        return bytes(flipped)

    def write(self, data: bytes) -> None:
        self.inner.write(self._spoil("write", data))

    def read(self, timeout_s: float) -> bytes:
        """Whole frames are spoilt, so that late ones are good ones."""
        end = time.monotonic() + timeout_s
        while self.pending.count(b"\xc0") < 2 and (left := end - time.monotonic()) > 0:
            self.pending += self.inner.read(left)
        cut = self.pending.find(b"\xc0", 1) + 1
        frame, self.pending = (
            (self.pending[:cut], self.pending[cut:]) if cut else (self.pending, b"")
        )
        return self._spoil("read", frame) if frame else b""

    def flush(self) -> None:
        self.inner.flush()

    def close(self) -> None:
        self.inner.close()


def test_identifies(board: Board):
    assert board.identity == IDENTITY
    assert board.statistics().ok == 2


def test_another_design_is_refused(process: BoardProcess):
    with pytest.raises(
        NomulError,
        match=r"^board: its design is 5354414e44494e31, expected 0{16}: load the bitstream",
    ):
        Board.open(process.port, design=bytes(8))
    with Board.open(process.port, design=IDENTITY.design):
        pass


def test_loads_only_what_differs(board: Board):
    rng = random.Random(seed())
    image = {
        Region.PROGRAM.base: rng.randbytes(REGION_BYTES),
        Region.NORMS.base + 5: rng.randbytes(999),
    }
    seen: list[tuple[int, int]] = []
    assert board.load(image, progress=lambda *step: seen.append(step)) == REGION_BYTES + 999
    assert seen[-1] == (REGION_BYTES + 999,) * 2
    assert board.load(image) == 0
    changed = image | {Region.NORMS.base + 5: rng.randbytes(999)}
    assert board.load(changed) == 999
    assert board.read(Region.NORMS.base + 5, 999) == changed[Region.NORMS.base + 5]
    assert board.read(Region.PROGRAM.base, REGION_BYTES) == image[Region.PROGRAM.base]
    parts = {Region.WEIGHTS.base + k: rng.randbytes(100) for k in (0, 100, 200)}
    assert board.load(parts) == 300
    parts[Region.WEIGHTS.base + 100] = rng.randbytes(100)
    assert board.load(parts) == 200  # from the first difference on
    assert board.load(parts) == 0


def test_memory_that_does_not_keep_what_is_written(board: Board, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(board, "write", lambda address, data: None)
    with pytest.raises(
        NomulError,
        match=r"^board: weights memory does not keep what is written: of the 4 bytes at 0x1000003 some",
    ):
        board.load({Region.WEIGHTS.base + 3: b"lost"})


def test_external_memory(board: Board):
    data = random.Random(seed()).randbytes(MEMORY_BYTES)
    image = {Region.NORMS.base: data[:50], EXTERNAL: data}
    assert board.load(image) == MEMORY_BYTES + 50
    assert board.load(image) == 0
    assert board.read(EXTERNAL + 1000, 100) == data[1000:1100]
    board.write(EXTERNAL + 4000, bytes([data[4000] ^ 1]))
    with pytest.raises(
        NomulError, match=r"^board: external memory .* of the 4096 bytes at 0x80000000 some are wrong"
    ):
        board.verify(image)
    with pytest.raises(
        NomulError, match=r"needs 4097 bytes of external memory, the board has 4096: 1 too few"
    ):
        board.load({EXTERNAL + 1: data})


def test_a_model_too_large_is_refused_before_anything_is_written(board: Board):
    with pytest.raises(
        NomulError, match=r"needs 1028 bytes of weights, the board has 1024: 4 too few"
    ):
        board.load({Region.PROGRAM.base: b"x", Region.WEIGHTS.base + 4: bytes(1024)})
    assert board.read(Region.PROGRAM.base, 1) == b"\0"
    with pytest.raises(NomulError, match=r"needs 1 bytes of state, the board has 0: 1 too few"):
        board.load({Region.STATE.base: b"x"})
    with pytest.raises(NomulError, match=r"needs 1 bytes of region 9, the board has 0: 1 too few"):
        board.load({9 << 24: b"x"})


def test_no_memory_there(board: Board):
    with pytest.raises(
        BoardError, match=r"^board: refused READ: it has no memory at this address$"
    ) as caught:
        board.read(Region.COUNTERS.base, 1)
    assert caught.value.status is Status.BUS


@pytest.mark.parametrize(
    ("length", "count"),
    [
        (1, 1),
        (1, 2),
        (5, 0),
        (128, 1),
        (129, 3),
        (1, MAX_STEPS),
        (1, MAX_STEPS + 1),
        (700, 1500),
    ],
)
def test_generates_what_the_core_computes(board: Board, length: int, count: int):
    rng = random.Random(seed())
    prompt = [rng.randrange(FAILS) for _ in range(length)]
    for _ in range(2):  # the second as the first: nothing stale
        expected = standin_tokens(prompt, steps=length + max(count, 1) - 1)
        assert list(board.generate(prompt, count)) == expected[length - 1 :][:count]


def test_goes_on_where_it_was(board: Board):
    expected = standin_tokens([1, 2], steps=30)
    first = list(board.generate([1, 2], 10))
    second = list(board.generate(first[-1:], 19, reset=False))
    assert first + second == expected[1:]


def test_teacher_forcing(board: Board):
    rng = random.Random(seed())
    tokens = [rng.randrange(256) for _ in range(300)]
    expected = standin_tokens(tokens, steps=300)
    assert list(board.force(tokens)) == expected
    assert [board.step(token, reset=k == 0) for k, token in enumerate(tokens[:20])] == expected[:20]
    assert board.logits(2).tolist() == [expected[19], 0]


def test_tokens_come_as_they_are_made(board: Board):
    """The first token is here while the board still works on the next."""
    tokens = board.force([1, HANGS])
    assert next(tokens) == 2
    with pytest.raises(BoardError, match=r"a job runs"):
        board.read(0, 1)


def test_leaving_early_stops_the_board(board: Board):
    tokens = board.force([1, HANGS])
    assert next(tokens) == 2
    tokens.close()
    assert list(board.generate([7], 5)) == standin_tokens([7], steps=5)


def test_an_aborted_state_is_not_gone_on_from(board: Board):
    tokens = board.force([1, 2, HANGS])
    next(tokens)
    board.abort()
    with pytest.raises(
        NomulError, match=r"^board: the job ended after [12] of 3 steps: begin again with a reset$"
    ):
        list(tokens)
    with pytest.raises(
        BoardError, match=r"^board: refused JOB: its state is gone: begin with a reset$"
    ):
        list(board.generate([1], 1, reset=False))


def test_a_job_that_another_one_replaced_shows(board: Board):
    old = board.generate([1], 300)
    next(old)
    list(board.generate([2], 3))  # begins when the old one is done
    with pytest.raises(BoardError, match=r"another job was begun meanwhile"):
        list(old)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt is empty"),
        ([1, 65535], "token 1 of the prompt is 65535; it must be 0 to 65534"),
        ([-1], "token 0 of the prompt is -1; it must be 0 to 65534"),
    ],
)
def test_refuses_prompts(board: Board, prompt: list[int], message: str):
    with pytest.raises(NomulError, match=message):
        board.generate(prompt, 1)  # at once, not at the first token


def test_refuses_what_is_not_in_the_vocabulary(board: Board):
    board.vocab = 100
    message = "token 1 of the prompt is 100; it must be 0 to 99, the vocabulary of the model"
    for ask in (lambda tokens: board.generate(tokens, 1), board.force):
        with pytest.raises(NomulError, match=f"^board: {message}$"):
            ask([99, 100])
    with pytest.raises(NomulError, match=r"^board: token 0 of the prompt is 100; it must be 0 to 99"):
        board.step(100)
    assert list(board.generate([99], 1)) == standin_tokens([99], steps=1)


def test_a_prompt_of_100_000_tokens(board: Board):
    prompt = [k % 251 for k in range(100_000)]
    assert list(board.generate(prompt, 2)) == standin_tokens(prompt, steps=100_001)[-2:]


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_a_bad_line_never_makes_a_wrong_token(process: BoardProcess, rate: float):
    rng = random.Random(f"{seed()} {rate}")
    line = BadLine(process.port, rate=rate, rng=rng)
    generated = 0
    with Board(line, tries=60, wait_s=0.02, rng=rng) as board:
        image = {Region.WEIGHTS.base: rng.randbytes(REGION_BYTES)}
        board.load(image)
        for _ in range(12):
            prompt = [rng.randrange(256) for _ in range(rng.choice([1, 3, 200]))]
            count = rng.choice([1, 40, 600])
            expected = standin_tokens(prompt, steps=len(prompt) + count - 1)[-count:]
            assert list(board.generate(prompt, count)) == expected
            fed: list[int] = []
            for k in range(20):  # many small requests: every one may be harmed
                token = rng.randrange(256)
                fed = [*fed, token] if k else [token]
                assert board.step(token, reset=k == 0) == standin_tokens(fed, steps=k + 1)[-1]
            generated += count + 20
        assert board.read(Region.WEIGHTS.base, REGION_BYTES) == image[Region.WEIGHTS.base]
        assert board.retries > 0
    assert generated > 1000
    assert all(line.harm.values()) or rate < 0.1


def test_a_line_that_is_too_bad_is_an_error(process: BoardProcess):
    line = BadLine(process.port, rate=1.0, rng=random.Random(seed()))
    with pytest.raises(
        NomulError, match=r"^board: no answer to OPEN within 0\.15 s: check that"
    ):
        Board(line, tries=3, wait_s=0.05)


def test_a_board_that_dies_is_noticed(process: BoardProcess, board: Board):
    tokens = board.force([1, HANGS])
    next(tokens)
    process.kill()
    begin = time.monotonic()
    with pytest.raises(
        NomulError, match=r"^/dev/\S+: the board is gone \(.*\); attach or start it again$"
    ):
        list(tokens)
    assert time.monotonic() - begin < 5.0


def test_a_board_that_hangs_is_noticed(process: BoardProcess, board: Board):
    tokens = board.force([1, HANGS])
    next(tokens)
    process.freeze()
    begin = time.monotonic()
    with pytest.raises(NomulError, match=r"^board: no answer to POLL within 4 s"):
        list(tokens)
    assert time.monotonic() - begin < 5.0


def test_a_reset_in_mid_job_is_noticed(process: BoardProcess, board: Board):
    tokens = board.force([1, HANGS])
    next(tokens)
    process.reset()
    with pytest.raises(BoardError, match=r"^board: it was reset, or another host opened it"):
        list(tokens)
    with Board(board._transport) as again:  # a new session finds everything in order
        assert list(again.generate([1], 3)) == standin_tokens([1], steps=3)


def test_a_board_that_makes_no_tokens_is_noticed(process: BoardProcess):
    with Board(SerialTransport(process.port), stall_s=0.2) as board:
        with pytest.raises(NomulError, match=r"^board: no token within 0\.2 s: reset it$"):
            list(board.generate([1, HANGS], 1))
        board.abort()
        assert list(board.generate([1], 3)) == standin_tokens([1], steps=3)


def test_a_port_that_is_none():
    with pytest.raises(NomulError, match=r"^/dev/nothing: does not open"):
        Board.open("/dev/nothing")


def test_a_second_host_is_refused(board: Board, process: BoardProcess):
    with pytest.raises(NomulError, match=rf"^{process.port}: does not open"):
        Board.open(process.port)


@pytest.mark.parametrize("before", [0, 2])
def test_a_fault_is_told_and_the_board_works_on(board: Board, before: int):
    prompt = [*[1, 2][:before], FAILS + Fault.MEMORY]
    tokens = board.force([*prompt, 7])
    assert [next(tokens) for _ in range(before)] == standin_tokens(prompt, steps=before)
    with pytest.raises(
        NomulError,
        match=rf"^board: step {before + 1} of {before + 2} failed: its external memory gave wrong data",
    ):
        next(tokens)
    assert board.statistics().fault == Fault.MEMORY
    with pytest.raises(BoardError, match=r"^board: refused JOB: its state is gone"):
        board.step(1)
    assert list(board.generate([1], 3)) == standin_tokens([1], steps=3)
    assert board.statistics().fault == Fault.NONE


def board_of(lanes: int, slots: int) -> Path:
    link = Link(identity=standin_identity(lanes, slots))
    return build_board(convert(Top(core=StandInCore(cycles=50, lanes=lanes, slots=slots), link=link), "top"))


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_users_share_the_lanes_of_a_board(rate: float):
    rng = random.Random(f"{seed()} {rate}")
    with BoardProcess(board_of(3, 4), limit_s=LIMIT_S) as process:
        line = BadLine(process.port, rate=rate, rng=rng)
        with Board(line, tries=60, wait_s=0.02 if rate else 0.5, rng=rng) as board:
            lanes = Lanes(board)
            wanted, found = {}, dict[int, list[int]]()
            for _ in range(8):
                prompt = [rng.randrange(FAILS) for _ in range(rng.choice([1, 2, 70, 200]))]
                count = rng.choice([1, 7, 200])
                expected = standin_tokens(prompt, steps=len(prompt) + count - 1)[-count:]
                wanted[lanes.add(prompt, count)] = expected
            for user, token in lanes.run():
                found.setdefault(user, []).append(token)
            assert found == wanted
            # Alone it has all lanes for its prompt; a row is more than a job.
            prompt = [rng.randrange(FAILS) for _ in range(3 * max_rows(3) + 5)]
            expected = standin_tokens(prompt, steps=len(prompt) + 300)
            assert list(board.generate(prompt, 301)) == expected[len(prompt) - 1 :]
            assert list(board.force(prompt[:5])) == expected[:5]
            assert board.logits(2).tolist() == [expected[4], 0]
            assert board.logits(2, lane=0).tolist() == [expected[3], 0]
            board.logits_base, board.logits_stride = Region.LOGITS.base + 4, 4
            odd = board.logits(2)
            assert odd.tolist() == [expected[4], 0]
            rows = [[None, LaneToken(token=9, slot=3, fresh=True)], [None, None, LaneToken(token=None, slot=3)]]
            tokens = standin_tokens([9], steps=2)
            assert list(board.run(rows)) == [[None, tokens[0], None], [None, None, tokens[1]]]


def test_another_protocol_version_is_named(process: BoardProcess, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nomul.host.protocol.VERSION", 3)
    monkeypatch.setattr("nomul.host.protocol.encode_request.__kwdefaults__", {"version": 3})
    monkeypatch.setattr("nomul.host.session.VERSION", 3)
    assert VERSION == 2
    with pytest.raises(NomulError, match=r"^board: speaks protocol version 2, this host 3"):
        Board.open(process.port)


def test_the_board_sleeps_when_nothing_happens(process: BoardProcess, board: Board):
    before = process.statistics()["cycles"]
    time.sleep(0.3)
    assert process.statistics()["cycles"] - before <= 1024


def test_the_board_ends_at_its_limit(program: Path):
    with BoardProcess(program, limit_s=0.2) as process:
        time.sleep(0.6)
        assert not process.alive


def test_the_board_ends_with_its_parent(program: Path):
    process = BoardProcess(program, limit_s=LIMIT_S)
    assert process.close()["cycles"] > 0
    assert not process.alive
    with pytest.raises(NomulError, match=r"^simulated board: it has ended"):
        process.statistics()


def test_a_program_that_is_none():
    with pytest.raises(NomulError, match=r"^simulated board: /dev/null does not start"):
        BoardProcess(Path("/dev/null"))


def test_external_memory_of_a_board_without(program: Path):
    with pytest.raises(NomulError, match=r"^simulated board: it has ended \(status 1\)"):
        BoardProcess(program, memory=Path("/dev/null"))


def test_verilog_that_is_none():
    with pytest.raises(
        NomulError, match=r"^simulated board: the compiler failed: %Error.*; see \S+build\.log$"
    ):
        build_board("module top(input x); nonsense")


def test_the_board_is_compiled_once(program: Path):
    lines: list[str] = []
    text = convert(Top(core=StandInCore(cycles=50), link=Link(identity=IDENTITY)), "top")
    assert build_board(text, progress=lines.append) == program
    assert lines == []
    other = replace(IDENTITY, design=b"OTHERONE")
    assert text != convert(Top(core=StandInCore(cycles=50), link=Link(identity=other)), "top")


# A trace


def test_a_trace_of_what_is_busy(tmp_path: Path):
    chip = Top(core=StandInCore(cycles=50), link=Link(identity=IDENTITY))
    text = convert(chip, "top")
    program, path = build_board(text, traced=True), tmp_path / "trace.vcd"
    with BoardProcess(program, limit_s=LIMIT_S) as process, Board.open(process.port) as board:
        with pytest.raises(NomulError, match=r"no trace in .*nowhere"):
            process.trace(tmp_path / "nowhere/trace.vcd")
        process.trace(path)
        assert list(board.generate([1], 200)) == standin_tokens([1], steps=200)
        process.trace(None)
        before = path.stat().st_size
        board.step(1, reset=True)
        assert path.stat().st_size == before
    units = count_toggles(
        path,
        kinds_of(text),
        module_of=lambda scope: ".".join(scope[scope.index("top") :]) if "top" in scope else "",
        unit_of=lambda scope: "chip" if "top" in scope else None,
    )
    assert 100 < units["chip"].cycles < 200 * 60
    assert 0 < units["chip"].rates()["ff"] < 0.5


def test_no_trace_of_a_board_built_without(process: BoardProcess, tmp_path: Path):
    with pytest.raises(NomulError, match=r"no trace in .*: built without"):
        process.trace(tmp_path / "trace.vcd")
    assert process.statistics()["cycles"] > 0
