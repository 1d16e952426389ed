# SPDX-License-Identifier: Apache-2.0
"""Runs jobs: feeds rows of tokens to the core, arg-maxes back to it, and keeps what comes out."""

from amaranth.hdl import Array, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.model.protocol import (
    FEED_BACK,
    MAX_ENTRIES,
    MAX_RESULTS,
    SLOT_BITS,
    TOKEN_BITS,
    JobState,
    LaneFlag,
    max_rows,
    max_steps,
)

from ..core_ports import ERROR_BITS
from ..ports import TokensLayout

__all__ = ["JobRunner"]

_WORDS = 2  # of a lane of a row: token; slot and flags


class JobRunner(wiring.Component):
    """Processes ``steps`` steps: the rows in order, then the last one again and again.

    Rows and results lie in one block RAM (1024 × 16). The next row is fetched while the core works, in
    ``2 · L + 2`` cycles. :meth:`cycles` is what a step takes: ``L`` cycles more than the core, unless
    that is faster than the fetch.

    Parameters
    ----------
    lanes : int
        ``L``.
    slots : int
        Recurrent states, 1 to 256.

    Members
    -------
    start : ``In(1)``
        Begin job ``new_job`` with ``new_rows`` and ``new_steps``; only while not ``running``.
    write, write_index, write_word : ``In``
        Fills the rows: of each lane two words, the token and ``slot | flags << 8``; only while not
        ``running``. What they say must have a meaning, see :class:`~.rows.RowChecker`.
    read, read_index : ``In``
        Asks for a result, that of lane l of step s at ``s · L + l``; ``granted`` says whether
        ``read_token`` is it two cycles later.
    stop : ``In(1)``
        Gives up the job, if one runs.
    forget : ``In(1)``
        The same, and forgets that there ever was one.
    job : ``Out(16)``
        Last job; 0 is none.
    state : ``Out(JobState)``
    fault : ``Out(8)``
        What the core told when the last job failed; else 0.
    done : ``Out``
        Steps processed, so results there are.
    running : ``Out(1)``
    spoil : ``Out(1)``
        No recurrent state is worth anything any more.
    token_i, token_o, error, abort, busy
        The core's, see :class:`~nomul.hw.core_ports.CorePorts`.
    """

    def __init__(self, *, lanes: int, slots: int):
        if not 1 <= lanes <= MAX_ENTRIES:
            raise ValueError(f"JobRunner: lanes is {lanes}; it must be 1 to {MAX_ENTRIES}")
        if not 1 <= slots <= 1 << SLOT_BITS:
            raise ValueError(f"JobRunner: slots is {slots}; it must be 1 to {1 << SLOT_BITS}")
        self.lanes = lanes
        self.slots = slots
        super().__init__({
            "start": In(1),
            "new_job": In(16),
            "new_rows": In(range(max_rows(lanes) + 1)),
            "new_steps": In(range(max_steps(lanes) + 1)),
            "write": In(1),
            "write_index": In(range(_WORDS * MAX_ENTRIES)),
            "write_word": In(TOKEN_BITS),
            "read": In(1),
            "read_index": In(range(MAX_RESULTS)),
            "granted": Out(1),
            "read_token": Out(TOKEN_BITS),
            "stop": In(1),
            "forget": In(1),
            "job": Out(16),
            "state": Out(JobState, init=JobState.FINISHED),
            "fault": Out(ERROR_BITS),
            "done": Out(range(max_steps(lanes) + 1)),
            "running": Out(1),
            "spoil": Out(1),
            "token_i": Out(stream.Signature(TokensLayout(lanes))),
            "token_o": In(stream.Signature(data.ArrayLayout(unsigned(TOKEN_BITS), lanes))),
            "error": In(ERROR_BITS),
            "abort": Out(1),
            "busy": In(1),
        })

    @staticmethod
    def cycles(core: int, *, lanes: int, another: bool) -> int:
        """Cycles from the tokens of a step taken to those of the next.

        Parameters
        ----------
        core : int
            Cycles from tokens taken to their results offered.
        lanes : int
        another : bool
            The next step is another row, not the same again.
        """
        return max(core, _WORDS * lanes + 3 if another else 0) + lanes

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes
        # No result is read in the cycle in which it is written: it counts as done only then.
        m.submodules.tokens = tokens = memory.Memory(
            shape=TOKEN_BITS, depth=2 * MAX_RESULTS, init=[], attrs={"no_rw_check": 1}
        )
        put, get = tokens.write_port(), tokens.read_port()
        out = Signal(TOKEN_BITS, reset_less=True)  # a block RAM is slow enough without logic behind it
        m.d.sync += out.eq(get.data)
        m.d.comb += self.read_token.eq(out)

        # Upper half: rows. Lower half: results.
        fetch = Signal()
        row_at = Signal(range(_WORDS * MAX_ENTRIES))
        put_at = Signal(range(MAX_RESULTS))
        lane = Signal(range(max(2, lanes)))  # whose result is at work
        result = Signal(TOKEN_BITS)
        following = Signal.like(self.done)

        def of_lane(values: list[Value]) -> Value:
            return Array(values)[lane] if lanes > 1 else values[0]

        m.d.comb += [
            result.eq(of_lane(list(self.token_o.payload))),
            put.addr.eq(Mux(self.running, put_at, MAX_RESULTS | self.write_index)),
            put.data.eq(Mux(self.running, result, self.write_word)),
            get.addr.eq(Mux(fetch, MAX_RESULTS | row_at, self.read_index)),
            self.granted.eq(self.read & ~fetch),
            following.eq(self.done + 1),
            self.running.eq(self.state == JobState.RUNNING),
        ]

        # The row that is fed next, and what must be known of the one in the core.
        slot_bits = max(1, (self.slots - 1).bit_length())
        following_slot = [Signal(slot_bits, name=f"slot{k}") for k in range(lanes)]
        feeds_back = Signal(lanes)
        slot = [Signal(slot_bits, name=f"slot{k}_at_work") for k in range(lanes)]
        active = Signal(lanes)
        counts, whose = Signal(), Signal(slot_bits)  # of the lane whose result is at work
        m.d.comb += [counts.eq(of_lane(list(active))), whose.eq(of_lane(slot))]
        payload = self.token_i.payload
        m.d.comb += [payload.slot[k].eq(following_slot[k]) for k in range(lanes)]

        rows, steps = Signal.like(self.new_rows), Signal.like(self.new_steps)  # rows to be fetched
        at_end, more = Signal(), Signal()  # the step at work is the last; the next is another row
        m.d.sync += [at_end.eq(following == steps), more.eq(rows != 0)]
        arriving = Signal(range(_WORDS * lanes + 2))
        fed = Signal()  # the core has a token
        settle = Signal(2)  # cycles that abort is held at least: busy may be a cycle late

        def unless_stopped() -> None:
            """Last in a state: a stop wins over what the state chose, even over finishing now."""
            with m.If(self.stop | self.forget):
                m.d.comb += self.spoil.eq(1)
                m.d.sync += [self.state.eq(JobState.RUNNING), self.fault.eq(0)]
                m.next = "ABORT"

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += put.en.eq(self.write)
                m.d.sync += settle.eq(3)
                with m.If(self.start):
                    m.d.sync += [
                        self.job.eq(self.new_job),
                        self.done.eq(0),
                        self.fault.eq(0),
                        rows.eq(self.new_rows),
                        steps.eq(self.new_steps),
                        self.state.eq(JobState.RUNNING),
                        row_at.eq(0),
                        put_at.eq(0),
                        lane.eq(0),
                        arriving.eq(0),
                        fed.eq(0),
                    ]
                    m.next = "FETCH"
            with m.State("FETCH"):  # a word a cycle, each there two cycles later
                m.d.comb += fetch.eq(arriving < _WORDS * lanes)
                m.d.sync += arriving.eq(arriving + 1)
                with m.If(fetch):
                    m.d.sync += row_at.eq(row_at + 1)
                with m.If(arriving == 0):
                    m.d.sync += rows.eq(rows - 1)
                with m.Switch(arriving):
                    for k in range(lanes):
                        with m.Case(_WORDS * k + 2):
                            m.d.sync += [payload.token[k].eq(out), feeds_back[k].eq(out == FEED_BACK)]
                        with m.Case(_WORDS * k + 3):
                            flags = out[SLOT_BITS:]
                            m.d.sync += [
                                following_slot[k].eq(out),
                                payload.active[k].eq((flags & LaneFlag.ACTIVE).any()),
                                payload.fresh[k].eq((flags & LaneFlag.FRESH).any()),
                                payload.logits[k].eq((flags & LaneFlag.LOGITS).any()),
                            ]
                with m.If(arriving == _WORDS * lanes + 1):
                    m.d.sync += arriving.eq(0)
                    m.next = "FEED"
                    with m.If(fed):
                        m.next = "WAIT"
                unless_stopped()
            with m.State("FEED"):
                m.d.comb += self.token_i.valid.eq(1)
                with m.If(self.token_i.ready):
                    m.d.sync += [fed.eq(1), active.eq(payload.active)]
                    m.d.sync += [mine.eq(its) for mine, its in zip(slot, following_slot, strict=True)]
                    m.next = "WAIT"
                    with m.If(more):
                        m.next = "FETCH"
                unless_stopped()
            with m.State("WAIT"):
                with m.If(self.token_o.valid & (self.error != 0)):
                    m.d.comb += [self.token_o.ready.eq(1), self.spoil.eq(1)]
                    m.d.sync += self.fault.eq(self.error)
                    m.next = "DRAIN"
                with m.Elif(self.token_o.valid):
                    m.d.comb += put.en.eq(1)
                    m.d.sync += [put_at.eq(put_at + 1), lane.eq(lane + 1)]
                    for number in range(lanes):
                        with m.If(counts & feeds_back[number] & (following_slot[number] == whose)):
                            m.d.sync += payload.token[number].eq(result)
                    with m.If(lane == lanes - 1):
                        m.d.comb += self.token_o.ready.eq(1)
                        m.d.sync += [lane.eq(0), self.done.eq(following)]
                        m.next = "FEED"
                        with m.If(at_end):
                            m.next = "DRAIN"
                unless_stopped()
            with m.State("DRAIN"):
                with m.If(~self.busy):
                    m.d.sync += self.state.eq(Mux(self.fault != 0, JobState.FAILED, JobState.FINISHED))
                    m.next = "IDLE"
                unless_stopped()
            with m.State("ABORT"):
                m.d.comb += [self.abort.eq(1), self.token_o.ready.eq(1)]
                m.d.sync += settle.eq(settle - (settle != 0))
                with m.If((settle == 0) & ~self.busy & ~self.token_o.valid):
                    m.d.sync += self.state.eq(JobState.ABORTED)
                    m.next = "IDLE"

        with m.If(self.forget):
            m.d.comb += self.spoil.eq(1)
            m.d.sync += self.job.eq(0)
        return m
