# SPDX-License-Identifier: Apache-2.0
"""A core with the ports of the real one and a definition that fits a line."""

from collections.abc import Sequence

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import memory, wiring

from nomul.hw.core_ports import CorePorts
from nomul.model.protocol import Identity

__all__ = [
    "FAILS", "HANGS", "IDENTITY", "MEMORY_BYTES", "REGION_BYTES", "StandInCore", "StandInModel",
    "standin_identity", "standin_tokens",
]  # fmt: skip

FAILS = 0xFFF0  #: tokens FAILS + 1 to FAILS + 7 fail with that fault
HANGS = 0xFFF8  #: a token that the core never finishes
REGION_BYTES = 1024
MEMORY_BYTES = 4096
LOGITS_BYTES = 8  # of a lane: a vocabulary of two tokens


def standin_identity(lanes: int, slots: int) -> Identity:
    """What a board with such a core says."""
    return Identity(
        design=bytes.fromhex("5354414e44494e31"),
        bytes_per_beat=4,
        lanes=lanes,
        slots=slots,
        clock_hz=100_000_000,
        memory_bytes=MEMORY_BYTES,
        region_bytes=(REGION_BYTES,) * 4 + (LOGITS_BYTES,) + (0,) * 3,
    )


IDENTITY = standin_identity(1, 1)


class StandInModel:
    """The definition: a state a slot, ``5·state + token + 1`` modulo 65536; its bytes' XOR is the result."""

    def __init__(self, slots: int = 1):
        self.states = [0] * slots

    def step(self, token: int, *, slot: int = 0, fresh: bool = False) -> int:
        before = 0 if fresh else self.states[slot]
        state = self.states[slot] = (5 * before + token + 1) & 0xFFFF
        return (state ^ state >> 8) & 0xFF


def standin_tokens(
    tokens: Sequence[int], *, steps: int, history: Sequence[int] = ()
) -> list[int]:
    """The arg-maxes of a job for one user, ``history`` what was fed before it."""
    model, out = StandInModel(), []
    for token in history:
        model.step(token)
    for k in range(steps):
        out.append(model.step(tokens[k] if k < len(tokens) else out[-1]))
    return out


class StandInCore(wiring.Component):
    """:class:`StandInModel` in every active lane, the lowest first; gets stuck at ``HANGS``, fails
    at some tokens.

    Regions 0 to 3 are one memory of 1024 bytes each; region 4 reads the last result of each lane, as
    the logit of token 0 of 2; external memory has 4096 bytes; nothing else answers.

    Parameters
    ----------
    cycles : int
        Time of tokens of which one is odd. Others take one cycle.
    lanes, slots : int
    """

    def __init__(self, *, cycles: int, lanes: int = 1, slots: int = 1):
        if cycles < 1:
            raise ValueError(f"StandInCore takes at least 1 cycle for a token, not {cycles}")
        self.cycles = cycles
        self.lanes = lanes
        self.slots = slots
        super().__init__(CorePorts(lanes=lanes))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = mem = memory.Memory(shape=8, depth=4 * REGION_BYTES, init=[])
        m.submodules.external = external = memory.Memory(shape=8, depth=MEMORY_BYTES, init=[])
        put, get = mem.write_port(), mem.read_port()
        far_put, far_get = external.write_port(), external.read_port()

        lanes, tokens = range(self.lanes), self.token_i.payload
        states = [Signal(16, name=f"state{k}") for k in range(self.slots)]
        results = Array(Signal(8, name=f"result{k}") for k in lanes)
        hung, fault, odd = Signal(), Signal(8), Signal()
        left = Signal(range(self.cycles + 1))
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.token_i.ready.eq(1)
                with m.If(self.token_i.valid):
                    m.d.sync += [hung.eq(0), fault.eq(0)]
                    now = list(states)
                    any_odd = 0
                    for k in lanes:
                        token, active = tokens.token[k], tokens.active[k]
                        before = Signal(16, name=f"before{k}")
                        after = Signal(16, name=f"after{k}")
                        m.d.comb += before.eq(Array(now)[tokens.slot[k]])
                        m.d.comb += after.eq(Mux(tokens.fresh[k], 0, before) * 5 + token + 1)
                        m.d.sync += results[k].eq(after[:8] ^ after[8:])
                        now = [
                            Mux(active & (tokens.slot[k] == slot), after, state)
                            for slot, state in enumerate(now)
                        ]
                        with m.If(active & (token == HANGS)):
                            m.d.sync += hung.eq(1)
                        with m.If(active & (token > FAILS) & (token < HANGS)):
                            m.d.sync += fault.eq(token[:3])
                        any_odd |= active & token[0]
                    m.d.comb += odd.eq(any_odd)
                    m.d.sync += [
                        left.eq(Mux(odd, self.cycles, 1)),
                        *(state.eq(value) for state, value in zip(states, now, strict=True)),
                    ]
                    m.next = "WORK"
            with m.State("WORK"):
                m.d.comb += self.busy.eq(1)
                with m.If(left != 1):
                    m.d.sync += left.eq(left - 1)
                with m.If(self.abort):
                    m.d.sync += [state.eq(0xBAD) for state in states]
                    m.next = "IDLE"
                with m.Elif((left == 1) & ~hung):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += [
                    self.busy.eq(1),
                    self.token_o.valid.eq(~self.abort),
                    *(self.token_o.payload[k].eq(results[k]) for k in lanes),
                    self.error.eq(fault),
                ]
                with m.If(fault != 0):
                    m.d.sync += [state.eq(0xBAD) for state in states]
                with m.If(self.token_o.ready | self.abort):
                    m.next = "IDLE"

        # The bus: done two cycles after a strobe.
        bus, place = self.bus, self.bus.address[:24]
        region, far = bus.address[24:31], bus.address[31]
        logits = ~far & (region == 4)
        known = Mux(
            far,
            bus.address[:31] < MEMORY_BYTES,
            (region < 4) & (place < REGION_BYTES)
            | logits & (place < LOGITS_BYTES * self.lanes) & ~bus.write,
        )
        pending, fine, which, first = Signal(), Signal(), Signal(2), Signal()
        lane = Signal(range(max(2, self.lanes)))
        m.d.comb += [
            put.addr.eq(region[:2] * REGION_BYTES + place[:10]),
            put.data.eq(bus.write_data),
            put.en.eq(bus.write & known & ~far),
            get.addr.eq(put.addr),
            far_put.addr.eq(bus.address),
            far_put.data.eq(bus.write_data),
            far_put.en.eq(bus.write & known & far),
            far_get.addr.eq(bus.address),
        ]
        m.d.sync += [
            pending.eq(bus.read | bus.write),
            fine.eq(known),
            which.eq(Mux(far, 2, logits)),
            first.eq(place[:3] == 0),
            lane.eq(place[3:]),
            bus.done.eq(pending),
            bus.error.eq(pending & ~fine),
        ]
        with m.Switch(which):
            with m.Case(0):
                m.d.sync += bus.read_data.eq(get.data)
            with m.Case(1):
                m.d.sync += bus.read_data.eq(Mux(first, results[lane], 0))
            with m.Default():
                m.d.sync += bus.read_data.eq(far_get.data)
        return m
