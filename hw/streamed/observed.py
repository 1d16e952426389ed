# SPDX-License-Identifier: Apache-2.0
"""A streamed core whose inside a simulation can watch."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from nomul.hw.boundary import expose

from .core import StreamedCore
from .joined import Joined

__all__ = ["PROBES", "ObservedCore"]

#: What is watched, by name, with its bits. ``acts``: beats of four activations; ``sums``: a row of all
#: lanes; ``store``: elements of residual stream and product; the rest is the recurrence's.
PROBES = {"acts": 32, "sums": 32, "store": 32, "keep": 32, "h": 32, "activated": 32}


class ObservedCore(wiring.Component):
    """A core with its probes as ports.

    Parameters
    ----------
    core : StreamedCore or Joined

    Members
    -------
    Those of the core, and
    seen_word : ``Out(1)``
        A word came from memory in this cycle.
    and for each of :data:`PROBES`
    seen_NAME : ``Out(1)``
        A value was taken or stored in this cycle.
    NAME : ``Out(32 · L)`` for the sums, else ``Out(32)``
    """

    def __init__(self, *, core: StreamedCore | Joined):
        self.core = core
        self.inner = core.core if isinstance(core, Joined) else core
        lanes = self.inner.config.lanes
        members = dict(core.signature.members)
        members["seen_word"] = Out(1)
        for name, bits in PROBES.items():
            members[f"seen_{name}"] = Out(1)
            members[name] = Out(bits * lanes if name == "sums" else bits)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = self.core
        core = self.inner
        expose(m, self.core, self, self.core.signature.members)
        sums = core.engine.sums
        m.d.comb += [
            self.seen_word.eq(core.memory.read_valid),
            self.seen_acts.eq(core.vector.acts.valid & core.vector.acts.ready),
            self.acts.eq(core.vector.acts.payload.x.as_value()),
            self.seen_sums.eq(sums.valid & sums.ready),
        ]
        for lane in range(core.config.lanes):
            m.d.comb += self.sums.word_select(lane, 32).eq(sums.payload.sum[lane])
        for name, probe in core.vector.probes.items():
            m.d.comb += [
                getattr(self, f"seen_{name}").eq(probe.strobe),
                getattr(self, name).eq(probe.value),
            ]
        return m
