# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="valid-type"
"""Runs jobs: feeds a prompt to the core, then its own arg-maxes, and keeps what comes out."""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.model.protocol import MAX_PROMPT, MAX_STEPS, TOKEN_BITS, JobState

from ..ports import TokensLayout

__all__ = ["JobRunner"]


class JobRunner(wiring.Component):
    """Processes ``steps`` tokens: first the prompt, then each time the arg-max of the token before.

    Prompt and results lie in one block RAM (1024 × 16). A token costs at most 5 cycles beside the
    core's own.

    Members
    -------
    start : ``In(1)``
        Begin job ``new_job`` with ``new_reset``, ``new_prompt`` tokens and ``new_steps``; only
        while not ``running``.
    write, write_index, write_token : ``In``
        Fills the prompt; only while not ``running``.
    read, read_index : ``In``
        Asks for a result; ``granted`` says whether ``read_token`` is it two cycles later.
    stop : ``In(1)``
        Gives up the job, if one runs.
    forget : ``In(1)``
        The same, and forgets that there ever was one.
    job : ``Out(16)``
        Last job; 0 is none.
    state : ``Out(JobState)``
    done : ``Out(10)``
        Tokens processed, so results there are.
    running : ``Out(1)``
    resumable : ``Out(1)``
        The core's state is what the last job left: a job without reset may go on from it.
    token_i, token_o, abort, busy
        The core's, see :class:`~nomul.hw.core_ports.CorePorts`.
    """

    start: In(1)
    new_job: In(16)
    new_reset: In(1)
    new_prompt: In(range(MAX_PROMPT + 1))
    new_steps: In(range(MAX_STEPS + 1))
    write: In(1)
    write_index: In(range(MAX_PROMPT))
    write_token: In(TOKEN_BITS)
    read: In(1)
    read_index: In(range(MAX_STEPS))
    granted: Out(1)
    read_token: Out(TOKEN_BITS)
    stop: In(1)
    forget: In(1)
    job: Out(16)
    state: Out(JobState, init=JobState.FINISHED)
    done: Out(range(MAX_STEPS + 1))
    running: Out(1)
    resumable: Out(1)
    token_i: Out(stream.Signature(TokensLayout(1)))
    token_o: In(stream.Signature(data.ArrayLayout(unsigned(TOKEN_BITS), 1)))
    abort: Out(1)
    busy: In(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # No result is read in the cycle in which it is written: it counts as done only then.
        m.submodules.tokens = tokens = memory.Memory(
            shape=TOKEN_BITS, depth=2 * MAX_STEPS, init=[], attrs={"no_rw_check": 1}
        )
        put, get = tokens.write_port(), tokens.read_port()

        out = Signal(TOKEN_BITS, reset_less=True)  # a block RAM is slow enough without logic behind it
        m.d.sync += out.eq(get.data)
        m.d.comb += self.read_token.eq(out)

        # Upper half: the prompt. Lower half: results.
        fetch = Signal()
        following = Signal.like(self.done)
        m.d.comb += [
            put.addr.eq(Mux(self.running, self.done, MAX_STEPS | self.write_index)),
            put.data.eq(Mux(self.running, self.token_o.payload[0], self.write_token)),
            self.token_i.payload.active[0].eq(1),
            self.token_i.payload.logits[0].eq(1),
            get.addr.eq(Mux(fetch, MAX_STEPS | self.done[:7], self.read_index)),
            self.granted.eq(self.read & ~fetch),
            following.eq(self.done + 1),
            self.running.eq(self.state == JobState.RUNNING),
        ]

        prompt, steps = Signal.like(self.new_prompt), Signal.like(self.new_steps)
        at_end, in_prompt = Signal(), Signal()  # the token at work is the last; the next is given
        m.d.sync += [at_end.eq(following == steps), in_prompt.eq(following < prompt)]
        settle = Signal(2)  # cycles that abort is held at least: busy may be a cycle late

        def unless_stopped() -> None:
            """Last in a state: a stop wins over what the state chose, even over finishing now."""
            with m.If(self.stop | self.forget):
                m.d.sync += [self.state.eq(JobState.RUNNING), self.resumable.eq(0)]
                m.next = "ABORT"

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += put.en.eq(self.write)
                m.d.sync += settle.eq(3)
                with m.If(self.start):
                    m.d.sync += [
                        self.job.eq(self.new_job),
                        self.done.eq(0),
                        prompt.eq(self.new_prompt),
                        steps.eq(self.new_steps),
                        self.token_i.payload.fresh[0].eq(self.new_reset),
                        self.state.eq(JobState.RUNNING),
                        self.resumable.eq(1),
                    ]
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.d.comb += fetch.eq(1)
                m.next = "READ"
                unless_stopped()
            with m.State("READ"):
                m.next = "LATCH"
                unless_stopped()
            with m.State("LATCH"):
                m.d.sync += self.token_i.payload.token[0].eq(self.read_token)
                m.next = "FEED"
                unless_stopped()
            with m.State("FEED"):
                m.d.comb += self.token_i.valid.eq(1)
                with m.If(self.token_i.ready):
                    m.next = "WAIT"
                unless_stopped()
            with m.State("WAIT"):
                m.d.comb += self.token_o.ready.eq(1)
                with m.If(self.token_o.valid):
                    m.d.comb += put.en.eq(1)
                    m.d.sync += [
                        self.token_i.payload.token.eq(self.token_o.payload),
                        self.token_i.payload.fresh.eq(0),
                        self.done.eq(following),
                    ]
                    with m.If(at_end):
                        m.next = "DRAIN"
                    with m.Elif(in_prompt):
                        m.next = "FETCH"
                    with m.Else():
                        m.next = "FEED"
                unless_stopped()
            with m.State("DRAIN"):
                with m.If(~self.busy):
                    m.d.sync += self.state.eq(JobState.FINISHED)
                    m.next = "IDLE"
                unless_stopped()
            with m.State("ABORT"):
                m.d.comb += [self.abort.eq(1), self.token_o.ready.eq(1)]
                m.d.sync += settle.eq(settle - (settle != 0))
                with m.If((settle == 0) & ~self.busy & ~self.token_o.valid):
                    m.d.sync += self.state.eq(JobState.ABORTED)
                    m.next = "IDLE"

        with m.If(self.forget):
            m.d.sync += [self.job.eq(0), self.resumable.eq(0)]
        return m
