# SPDX-License-Identifier: Apache-2.0
"""The recurrence: forget gates, recurrent state and its activation, one element a cycle."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.ports import STATE_ADDRESS_BITS, StateSignature
from nomul.hw.probe import Probe
from nomul.model.numbers import SIGMA_FRAC, STATE_BITS, STATE_FRAC, T_FRAC

from .arithmetic import delay, multiply, rounded
from .memory import block_ram
from .sigma import Sigma
from .turns import BLOCK, TagLayout, tagged

__all__ = ["Recurrence"]

_KEEP_BITS = SIGMA_FRAC + 1
_T_DROP = STATE_FRAC - T_FRAC
_AHEAD = 2  # cycles from a tag to the strobe of its element


class Recurrence(wiring.Component):
    """``h += keep · (silu - h)``, then ``activated = h · σ(h)``; ``keep`` from an earlier pass.

    Three memories in block RAM: ``keep`` and ``activated``, ``hidden`` elements a lane in the order of
    turns, and the state, 24 bits an element. A strobe announces each element; its value follows two cycles
    later.

    .. code-block:: text

        update     __/‾\\__________
        silu       _____| 2 cycles |x|
        state read 1, written 7; activated written 15 cycles after the strobe

    Lanes take turns of at most 8 elements (:mod:`.turns`). Element ``e`` of lane ``k`` lies at
    ``base[k] + address + e``. Lanes of the same base are successive tokens of one text: as the same element of
    the next lane comes 8 cycles later at the earliest, it reads what the lane before has written.

    Parameters
    ----------
    lanes, hidden : int
    state_elements : int
        Depth of the state memory.

    Attributes
    ----------
    latency : int
        Cycles from ``update`` until ``activated`` and state can be read.

    Members
    -------
    start_forget, start_update, start_read : ``In(1)``
        Begin a pass: element 0 of lane 0 is next; two cycles or more before its tag.
    address : ``In(20)``
        With ``start_update``: the layer's first element of state.
    base : ``In(ArrayLayout(20, lanes))``
        Where the state of each lane begins. This and the next two stand for a token.
    fresh : ``In(lanes)``
        State reads as zero.
    active : ``In(lanes)``
        State is written.
    tag : ``In(TagLayout(lanes))``
        Two cycles before ``forget`` or ``update``.
    forget : ``In(1)``
        ``keep`` of the next element comes in two cycles.
    keep : ``In(unsigned(17))``
    update : ``In(1)``
        ``silu`` of the next element comes in two cycles.
    silu : ``In(signed(24))``
    read : ``In(1)``
        Reads ``activated``, the next element each time.
    read_last : ``In(1)``
        With ``read``: the last of a turn.
    activated : ``Out(signed(24))``
        Two cycles after ``read``.
    state : ``In(StateSignature())``
    """

    latency = 16

    def __init__(self, *, lanes: int, hidden: int, state_elements: int):
        sizes = (("lanes", lanes), ("hidden", hidden), ("state_elements", state_elements))
        for name, value in sizes:
            if value < 1:
                raise ValueError(f"Recurrence needs at least 1 of {name}, not {value}")
        if state_elements > 1 << STATE_ADDRESS_BITS:
            raise ValueError(
                f"state_elements is {state_elements}; a pass addresses at most "
                f"{1 << STATE_ADDRESS_BITS}"
            )
        self.lanes = lanes
        self.hidden = hidden
        self.state_elements = state_elements
        self.probes = {
            "keep": Probe(unsigned(_KEEP_BITS), name="seen_keep"),
            "h": Probe(signed(STATE_BITS), name="seen_h"),
            "activated": Probe(signed(STATE_BITS), name="seen_activated"),
        }
        super().__init__({
            "start_forget": In(1),
            "start_update": In(1),
            "start_read": In(1),
            "address": In(STATE_ADDRESS_BITS),
            "base": In(data.ArrayLayout(unsigned(STATE_ADDRESS_BITS), lanes)),
            "fresh": In(lanes),
            "active": In(lanes),
            "tag": In(TagLayout(lanes)),
            "forget": In(1),
            "keep": In(_KEEP_BITS),
            "update": In(1),
            "silu": In(signed(STATE_BITS)),
            "read": In(1),
            "read_last": In(1),
            "activated": Out(signed(STATE_BITS)),
            "state": In(StateSignature()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        turns = -(-self.hidden // BLOCK)
        kept = self.hidden if self.lanes == 1 else BLOCK * turns * self.lanes
        kept = max(kept, 2)  # a memory of one row would have an address without bits

        # Strobes by the cycles since ``update``; tags, too.
        at = delay(m, self.update, self.latency - 1, name="update", strobe=True)
        tags = tagged(m, self.tag, _AHEAD + self.latency - 1, self.lanes, "tag")[_AHEAD:]
        forget = delay(m, self.forget, 2, name="forget", strobe=True)[-1]

        def counter(name: str, start: Value, step: Value, last: Value) -> Signal:
            """Of elements in the order of turns, each beginning at a multiple of 8."""
            count = Signal(range(kept), name=name)
            with m.If(step):
                full = count if self.lanes == 1 else count | Mux(last, BLOCK - 1, 0)
                m.d.sync += count.eq(full + 1)
            with m.If(start):
                m.d.sync += count.eq(0)
            return count

        keep_write = counter("keep_write", self.start_forget, forget, tags[2].last)
        keep_read = counter("keep_read", self.start_update, at[2], tags[2].last)
        activated_write = counter("activated_write", self.start_update, at[15], tags[15].last)
        activated_read = counter("activated_read", self.start_read, self.read, self.read_last)
        state_read, state_write = self.addresses(m, at, tags)

        keeps = block_ram(shape=_KEEP_BITS, depth=kept)
        states = block_ram(shape=signed(STATE_BITS), depth=max(self.state_elements, 2))
        outputs = block_ram(shape=signed(STATE_BITS), depth=kept)
        m.submodules.keep = keeps
        m.submodules.states = states
        m.submodules.activated = outputs
        m.submodules.sigma = sigma = Sigma(width=STATE_BITS - _T_DROP + 1)

        write, read = keeps.write_port(), keeps.read_port()
        keep = Signal(_KEEP_BITS, reset_less=True)
        m.d.comb += [
            write.en.eq(forget), write.addr.eq(keep_write), write.data.eq(self.keep),
            read.addr.eq(keep_read),
        ]  # fmt: skip
        m.d.sync += keep.eq(read.data)

        # Of the element's lane: whether its state counts, whether it is written.
        lane = self.tag.lane
        fresh = delay(m, self.fresh.bit_select(lane, 1), _AHEAD + 3, name="fresh")[-1]
        active = delay(m, self.active.bit_select(lane, 1), _AHEAD + 7, name="active")[-1]

        # Cycle 3: h and silu; 4: their difference and keep; 7: the new state.
        write, read = states.write_port(), states.read_port()
        old = Signal(signed(STATE_BITS), reset_less=True)
        change = Signal(signed(STATE_BITS + 1), reset_less=True)
        step = Signal(signed(STATE_BITS + 1), reset_less=True)
        h = Signal(signed(STATE_BITS), reset_less=True)
        m.d.sync += old.eq(read.data)
        before = Mux(fresh, 0, old)
        silu = delay(m, self.silu, 1, name="silu")[-1]
        m.d.sync += change.eq(silu - before)
        olds = delay(m, before, 3, name="old")
        m.d.sync += step.eq(rounded(multiply(m, change, keep), SIGMA_FRAC))
        m.d.sync += h.eq(olds[-1] + step)
        other = self.state
        m.d.comb += [
            read.addr.eq(Mux(other.read, other.address, state_read)),
            other.read_data.eq(old),
            write.en.eq((at[7] & active) | other.write),
            write.addr.eq(Mux(other.write, other.address, state_write)),
            write.data.eq(Mux(other.write, other.write_data, h)),
        ]

        # Cycle 8: its argument of σ; 13: σ and the state beside it; 15: the activated state.
        t = Signal(sigma.t.shape(), reset_less=True)
        m.d.sync += t.eq((h >> _T_DROP) + h[_T_DROP - 1])
        m.d.comb += sigma.t.eq(t)
        beside = delay(m, h, 1 + sigma.latency, name="h")[-1]
        result = Signal(signed(STATE_BITS), reset_less=True)
        m.d.sync += result.eq(rounded(multiply(m, beside, sigma.sigma), SIGMA_FRAC))
        write, read = outputs.write_port(), outputs.read_port()
        m.d.comb += [
            write.en.eq(at[15]), write.addr.eq(activated_write), write.data.eq(result),
            read.addr.eq(activated_read),
        ]  # fmt: skip
        held = Signal(signed(STATE_BITS), reset_less=True)
        self.probes["keep"].drive(m, forget, self.keep)
        self.probes["h"].drive(m, at[7], h)
        self.probes["activated"].drive(m, at[15], result)
        m.d.sync += held.eq(read.data)
        m.d.comb += self.activated.eq(held)
        return m

    def addresses(self, m: Module, at: list[Value], tags: list[Value]) -> tuple[Signal, Signal]:
        """Of the state read at 1 and written at 7 cycles after ``update``."""
        depth = range(max(self.state_elements, 2))
        read, write = Signal(depth, name="state_read"), Signal(depth, name="state_write")
        if self.lanes == 1:
            for address, step in ((read, at[1]), (write, at[7])):
                with m.If(step):
                    m.d.sync += address.eq(address + 1)
                with m.If(self.start_update):
                    m.d.sync += address.eq(self.address + self.base[0])
            return read, write

        # Where a lane's turn begins is known with its first element and stands until it is written.
        base = Signal(STATE_ADDRESS_BITS, reset_less=True)
        block, origin = Signal(STATE_ADDRESS_BITS), Signal(depth, reset_less=True)
        first, kept = Signal(), Signal.like(origin)
        m.d.comb += first.eq(self.update & tags[0].first)
        m.d.sync += [base.eq(self.base[self.tag.lane]), origin.eq(base + block)]
        with m.If(first):
            m.d.sync += kept.eq(origin)
            with m.If(tags[0].lane == self.lanes - 1):
                m.d.sync += block.eq(block + BLOCK)
        with m.If(self.start_update):
            m.d.sync += block.eq(self.address)
        with m.If(self.update):
            m.d.sync += read.eq(Mux(first, origin, read + 1))
        with m.If(at[6]):
            m.d.sync += write.eq(Mux(tags[6].first, kept, write + 1))
        return read, write
