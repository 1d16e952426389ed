# SPDX-License-Identifier: Apache-2.0
"""A core with the ports of the real one and a definition that fits a line."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, wiring

from nomul.hw.core_ports import CorePorts
from nomul.model.protocol import Identity

__all__ = ["HANGS", "IDENTITY", "REGION_BYTES", "StandInCore", "standin_tokens"]

HANGS = 0xFFFF  #: a token that the core never finishes
REGION_BYTES = 1024
IDENTITY = Identity(
    design=bytes.fromhex("5354414e44494e31"),
    bytes_per_beat=4,
    lanes=1,
    clock_hz=100_000_000,
    region_bytes=(REGION_BYTES,) * 4 + (0,) * 4,
)


def standin_tokens(tokens: list[int], *, steps: int, count: int = 0) -> list[int]:
    """The arg-maxes of a job: each ``token·5 + tokens since reset``, modulo 256."""
    out: list[int] = []
    for k in range(steps):
        token = tokens[k] if k < len(tokens) else out[-1]
        out.append((token * 5 + count + k) % 256)
    return out


class StandInCore(wiring.Component):
    """Answers each token with ``token·5 + count`` modulo 256, ``count`` the tokens since the last
    reset; gets stuck at token ``HANGS``.

    Regions 0 to 3 are one memory of 1024 bytes each, region 4 reads the last result; nothing else
    answers.

    Parameters
    ----------
    cycles : int
        Time of an odd token. An even one takes one cycle.
    """

    def __init__(self, *, cycles: int):
        if cycles < 1:
            raise ValueError(f"StandInCore takes at least 1 cycle for a token, not {cycles}")
        self.cycles = cycles
        super().__init__(CorePorts())

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = mem = memory.Memory(shape=8, depth=4 * REGION_BYTES, init=[])
        put, get = mem.write_port(), mem.read_port()

        count, result, hung = Signal(16), Signal(8), Signal()
        left = Signal(range(self.cycles + 1))
        with m.FSM():
            with m.State("IDLE"):
                token = self.token_i.payload.token[0]
                m.d.comb += self.token_i.ready.eq(1)
                m.d.sync += left.eq(Mux(token[0], self.cycles, 1))
                with m.If(self.token_i.valid):
                    now = Mux(self.token_i.payload.fresh[0], 0, count)
                    m.d.sync += [
                        result.eq(token * 5 + now),
                        count.eq(now + 1),
                        hung.eq(token == HANGS),
                    ]
                    m.next = "WORK"
            with m.State("WORK"):
                m.d.comb += self.busy.eq(1)
                with m.If(left != 1):
                    m.d.sync += left.eq(left - 1)
                with m.If(self.abort):
                    m.d.sync += count.eq(0xBAD)
                    m.next = "IDLE"
                with m.Elif((left == 1) & ~hung):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += [
                    self.busy.eq(1),
                    self.token_o.valid.eq(~self.abort),
                    self.token_o.payload[0].eq(result),
                ]
                with m.If(self.token_o.ready | self.abort):
                    m.next = "IDLE"

        # The bus: done two cycles after a strobe.
        bus, place = self.bus, self.bus.address[:24]
        region = bus.address[24:]
        known = (region < 4) & (place < REGION_BYTES) | (region == 4) & (place == 0)
        pending, fine, is_result = Signal(), Signal(), Signal()
        m.d.comb += [
            put.addr.eq(region[:2] * REGION_BYTES + place[:10]),
            put.data.eq(bus.write_data),
            put.en.eq(bus.write & known & (region < 4)),
            get.addr.eq(put.addr),
        ]
        m.d.sync += [
            pending.eq(bus.read | bus.write),
            fine.eq(known & ~(bus.write & (region == 4))),
            is_result.eq(region == 4),
            bus.done.eq(pending),
            bus.error.eq(pending & ~fine),
            bus.read_data.eq(Mux(is_result, result, get.data)),
        ]
        return m
