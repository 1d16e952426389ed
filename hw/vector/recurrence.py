# SPDX-License-Identifier: Apache-2.0
"""The recurrence: forget gates, recurrent state and its activation, one element a cycle."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nomul.model.numbers import SIGMA_FRAC, STATE_BITS, STATE_FRAC, T_FRAC

from .arithmetic import delay, multiply, rounded
from .memory import block_ram
from .sigma import Sigma

__all__ = ["Recurrence"]

_KEEP_BITS = SIGMA_FRAC + 1
_T_DROP = STATE_FRAC - T_FRAC


class Recurrence(wiring.Component):
    """``h += keep · (silu - h)``, then ``activated = h · σ(h)``; ``keep`` from an earlier pass.

    Three memories in block RAM: ``keep`` and ``activated``, ``hidden`` deep, and the state,
    ``layers · hidden`` deep, 24 bits an element. A strobe announces each element; its value follows
    two cycles later.

    .. code-block:: text

        update     __/‾\\__________
        silu       _____| 2 cycles |x|
        state read 1, written 7; activated written 15 cycles after the strobe

    Parameters
    ----------
    lanes, hidden, layers : int

    Attributes
    ----------
    latency : int
        Cycles from ``update`` until ``activated`` and state can be read.

    Members
    -------
    start_forget, start_update, start_read : ``In(1)``
        Begin a pass: element 0 is next.
    address : ``In(20)``
        With ``start_update``: the layer's first element of state.
    fresh : ``In(lanes)``
        State reads as zero.
    forget : ``In(1)``
        ``keep`` of the next element comes in two cycles.
    keep : ``In(ArrayLayout(unsigned(17), lanes))``
    update : ``In(1)``
        ``silu`` of the next element comes in two cycles.
    silu : ``In(ArrayLayout(signed(24), lanes))``
    read : ``In(1)``
        Reads ``activated``, the next element each time.
    activated : ``Out(ArrayLayout(signed(24), lanes))``
        Two cycles after ``read``.
    """

    latency = 16

    def __init__(self, *, lanes: int, hidden: int, layers: int):
        for name, value in (("lanes", lanes), ("hidden", hidden), ("layers", layers)):
            if value < 1:
                raise ValueError(f"Recurrence needs at least 1 of {name}, not {value}")
        self.lanes = lanes
        self.hidden = hidden
        self.layers = layers
        super().__init__({
            "start_forget": In(1),
            "start_update": In(1),
            "start_read": In(1),
            "address": In(20),
            "fresh": In(lanes),
            "forget": In(1),
            "keep": In(data.ArrayLayout(_KEEP_BITS, lanes)),
            "update": In(1),
            "silu": In(data.ArrayLayout(signed(STATE_BITS), lanes)),
            "read": In(1),
            "activated": Out(data.ArrayLayout(signed(STATE_BITS), lanes)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        hidden = max(self.hidden, 2)  # a memory of one row would have an address without bits
        depth = max(self.layers * self.hidden, 2)

        def counter(name: str, start: Signal, step: Signal, size: int, first: object = 0) -> Signal:
            count = Signal(range(size), name=name)
            with m.If(step):
                m.d.sync += count.eq(count + 1)
            with m.If(start):
                m.d.sync += count.eq(first)
            return count

        # Strobes by the cycles since ``update``.
        at = delay(m, self.update, self.latency - 1, name="update", strobe=True)
        forget = delay(m, self.forget, 2, name="forget", strobe=True)[-1]
        keep_write = counter("keep_write", self.start_forget, forget, hidden)
        keep_read = counter("keep_read", self.start_update, at[2], hidden)
        state_read = counter("state_read", self.start_update, at[1], depth, self.address)
        state_write = counter("state_write", self.start_update, at[7], depth, self.address)
        activated_write = counter("activated_write", self.start_update, at[15], hidden)
        activated_read = counter("activated_read", self.start_read, self.read, hidden)

        for lane in range(self.lanes):
            keeps = block_ram(shape=_KEEP_BITS, depth=hidden)
            states = block_ram(shape=signed(STATE_BITS), depth=depth)
            outputs = block_ram(shape=signed(STATE_BITS), depth=hidden)
            m.submodules[f"keep_{lane}"] = keeps
            m.submodules[f"state_{lane}"] = states
            m.submodules[f"activated_{lane}"] = outputs
            m.submodules[f"sigma_{lane}"] = sigma = Sigma(width=STATE_BITS - _T_DROP + 1)

            write, read = keeps.write_port(), keeps.read_port()
            keep = Signal(_KEEP_BITS, name=f"keep_{lane}", reset_less=True)
            m.d.comb += [
                write.en.eq(forget), write.addr.eq(keep_write), write.data.eq(self.keep[lane]),
                read.addr.eq(keep_read),
            ]  # fmt: skip
            m.d.sync += keep.eq(read.data)

            # Cycle 3: h and silu; 4: their difference and keep; 7: the new state.
            write, read = states.write_port(), states.read_port()
            old = Signal(signed(STATE_BITS), name=f"old_{lane}", reset_less=True)
            change = Signal(signed(STATE_BITS + 1), name=f"change_{lane}", reset_less=True)
            step = Signal(signed(STATE_BITS + 1), name=f"step_{lane}", reset_less=True)
            h = Signal(signed(STATE_BITS), name=f"h_{lane}", reset_less=True)
            m.d.comb += read.addr.eq(state_read)
            m.d.sync += old.eq(read.data)
            before = Mux(self.fresh[lane], 0, old)
            silu = delay(m, self.silu[lane], 1, name=f"silu_{lane}")[-1]
            m.d.sync += change.eq(silu - before)
            olds = delay(m, before, 3, name=f"old_{lane}")
            m.d.sync += step.eq(rounded(multiply(m, change, keep), SIGMA_FRAC))
            m.d.sync += h.eq(olds[-1] + step)
            m.d.comb += [write.en.eq(at[7]), write.addr.eq(state_write), write.data.eq(h)]

            # Cycle 8: its argument of σ; 13: σ and the state beside it; 15: the activated state.
            t = Signal(sigma.t.shape(), name=f"t_{lane}", reset_less=True)
            m.d.sync += t.eq((h >> _T_DROP) + h[_T_DROP - 1])
            m.d.comb += sigma.t.eq(t)
            beside = delay(m, h, 1 + sigma.latency, name=f"h_{lane}")[-1]
            result = Signal(signed(STATE_BITS), name=f"activated_{lane}", reset_less=True)
            m.d.sync += result.eq(rounded(multiply(m, beside, sigma.sigma), SIGMA_FRAC))
            write, read = outputs.write_port(), outputs.read_port()
            m.d.comb += [
                write.en.eq(at[15]), write.addr.eq(activated_write), write.data.eq(result),
                read.addr.eq(activated_read),
            ]  # fmt: skip
            held = Signal(signed(STATE_BITS), name=f"held_{lane}", reset_less=True)
            m.d.sync += held.eq(read.data)
            m.d.comb += self.activated[lane].eq(held)
        return m
