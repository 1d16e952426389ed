# SPDX-License-Identifier: Apache-2.0
"""The streamed core: program, weights, norms and embeddings come from external memory."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, ResetInserter, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped

from nomul.hw.core_ports import CorePorts
from nomul.hw.engine import TableEngine
from nomul.hw.memory import BusDecoder, CounterMemory, LogitsMemory, Slice
from nomul.hw.ports import ActsLayout, MemorySignature
from nomul.hw.vector import VectorUnit
from nomul.model.counters import counter_words
from nomul.model.isa import INSTRUCTION_BYTES
from nomul.model.numbers import VECTOR_LANES, acc_bits
from nomul.model.protocol import Fault, Region
from nomul.model.streamed_config import StreamedConfig

from .arbiter import Arbiter
from .distributor import Distributor
from .gearbox import Gearbox
from .logits import LogitWriter
from .mover import Mover
from .norms import StreamedNormMemory
from .ports import block_word
from .reader import Reader
from .rows import Rows
from .sequencer import StreamedSequencer
from .window import Window

__all__ = ["StreamedCore"]

_WEIGHTS_AHEAD = 8192  # bytes: what memory gives while the engine waits for tables
_PROGRAM_AHEAD = 64  # words


class StreamedCore(wiring.Component):
    """Runs any model that its memory holds; what does not fit the chip is streamed.

    Parameters
    ----------
    config : StreamedConfig
    patience : int
        Cycles after which memory counts as dead.

    Members
    -------
    Those of :class:`~nomul.hw.core_ports.CorePorts`, and
    memory : ``Out(MemorySignature(word_bytes))``
    """

    def __init__(self, *, config: StreamedConfig, patience: int = 1 << 20):
        self.config = config
        lanes, row, word = config.lanes, config.longest_row, config.word_bytes
        sum_bits = acc_bits(row)
        self.sequencer = StreamedSequencer(lanes=lanes)
        self.engine = TableEngine(
            bytes_per_beat=config.bytes_per_beat, lanes=lanes, outputs=config.tile_outputs,
            inputs=row, acts_per_beat=VECTOR_LANES,
        )  # fmt: skip
        self.state_on_chip = config.state == "chip"
        self.vector = VectorUnit(
            lanes=lanes, hidden=config.hidden, intermediate=config.intermediate,
            state_elements=(
                config.slots * config.state_elements if self.state_on_chip
                else lanes * config.hidden
            ),
            inputs=row, bytes_per_beat=config.bytes_per_beat, vocab=config.vocab,
            rows=config.tile_outputs, sections=config.sections,
        )  # fmt: skip
        self.norms = StreamedNormMemory(words=config.norm_words, row=config.bytes_per_beat // 8)
        self.distributor = Distributor(bytes_per_beat=config.bytes_per_beat)
        ahead = max(128, _WEIGHTS_AHEAD // word)
        self.weights = Reader(word_bytes=word, depth=ahead)
        self.program = Reader(word_bytes=word, depth=_PROGRAM_AHEAD, burst=16)
        self.rows = Rows(lanes=lanes, word_bytes=word)
        self.window = Window(word_bytes=word, memory_bytes=config.memory_bytes)
        self.counters = CounterMemory(words=counter_words(lanes))
        clients = ["window", "rows", "program"]
        self.mover: Mover | None = None
        self.logits: LogitWriter | LogitsMemory
        if config.logits == "memory":
            bits = self.vector.logits.sum.shape().width
            self.logits = LogitWriter(lanes=lanes, bits=bits, word_bytes=word)
            clients.append("logits")
        else:
            self.logits = LogitsMemory(vocab=config.vocab, bits=sum_bits, lanes=lanes)
        if not self.state_on_chip:
            self.mover = Mover(lanes=lanes, hidden=config.hidden, word_bytes=word)
            clients += ["recall", "keep"]
        self.arbiter = Arbiter(clients=[*clients, "weights"], word_bytes=word, patience=patience)
        super().__init__({
            **CorePorts(lanes=lanes).members,
            "memory": Out(MemorySignature(word_bytes=word)),
        })

    @property
    def units(self) -> dict[str, wiring.Component]:
        """What it is made of, the glue left out."""
        names = ["engine", "vector", "sequencer", "norms", "distributor", "weights", "program",
                 "rows", "window", "logits", "mover", "arbiter", "counters"]  # fmt: skip
        return {name: unit for name in names if (unit := getattr(self, name)) is not None}

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, word = self.config, self.config.word_bytes
        sequencer, engine, vector = self.sequencer, self.engine, self.vector
        arbiter, distributor, logits = self.arbiter, self.distributor, self.logits

        # Who forgets what: a flush ends a token, a loss all that has to do with memory.
        m.submodules.sequencer = sequencer
        m.submodules.arbiter = arbiter
        m.submodules.window = self.window
        m.submodules.norms = self.norms
        m.submodules.counters = self.counters
        ends, lost = sequencer.flush, arbiter.lost
        m.submodules.engine = ResetInserter(ends)(engine)
        m.submodules.vector = ResetInserter(ends)(vector)
        m.submodules.distributor = ResetInserter(ends)(distributor)
        m.submodules.rows = ResetInserter(lost)(self.rows)
        m.submodules.weights = ResetInserter(lost)(self.weights)
        m.submodules.program = ResetInserter(lost)(self.program)

        # Memory.
        connect(m, arbiter.memory, flipped(self.memory))
        clients: dict[str, Any] = {
            "window": self.window, "rows": self.rows, "program": self.program,
            "weights": self.weights,
        }  # fmt: skip
        for name, client in clients.items():
            connect(m, client.memory, getattr(arbiter, name))
        memories: dict[Region, Any] = {Region.COUNTERS: self.counters}
        pending = Signal()
        writes: Value = Const(0)
        if isinstance(logits, LogitWriter):
            m.submodules.logits = ResetInserter(lost)(logits)
            connect(m, logits.memory, arbiter.logits)
            m.d.comb += [
                logits.token.eq(sequencer.token),
                logits.bases.eq(sequencer.bases),
                logits.idle.eq(vector.idle),
            ]
            writes = logits.busy
        else:
            m.submodules.logits = logits
            memories[Region.LOGITS] = logits
        connect(m, vector.logits, logits.port)
        # A cycle late, which no token notices: the first logits come long before the End, and the mover is busy
        # until its last word was taken.
        m.d.sync += pending.eq(writes | arbiter.unacknowledged)

        # The host's bus: bit 31 of an address is memory.
        decoder = BusDecoder(regions=memories)
        m.submodules.decoder = decoder
        for region, unit in memories.items():
            connect(m, getattr(decoder, region.name.lower()), unit.bus)
        outside = self.bus.address[-1]
        for unit, chosen in ((decoder, ~outside), (self.window, outside)):
            m.d.comb += [
                unit.bus.address.eq(self.bus.address),
                unit.bus.write_data.eq(self.bus.write_data),
                unit.bus.read.eq(self.bus.read & chosen),
                unit.bus.write.eq(self.bus.write & chosen),
            ]
            with m.If(chosen):
                m.d.comb += [
                    self.bus.read_data.eq(unit.bus.read_data),
                    self.bus.done.eq(unit.bus.done),
                    self.bus.error.eq(unit.bus.error),
                ]
        m.d.comb += [self.window.forget.eq(sequencer.start), self.window.lost.eq(lost)]

        # The program: from the beginning of memory, until the token ends.
        m.submodules.words = words = ResetInserter(sequencer.start | ends)(
            Gearbox(i_bytes=word, o_bytes=INSTRUCTION_BYTES)
        )
        m.submodules.fetched = fetched = ResetInserter(sequencer.start | ends)(
            Slice(shape=unsigned(8 * INSTRUCTION_BYTES))
        )
        connect(m, self.program.o, words.i)
        connect(m, words.o, fetched.i)
        connect(m, fetched.o, sequencer.words)
        m.d.comb += [
            self.program.start.eq(sequencer.start | ends),
            self.program.words.eq(sequencer.start << 24),
        ]

        # The weight stream.
        begin = sequencer.stream_o
        ratio = config.bytes_per_beat // word, word // config.bytes_per_beat
        count = begin.payload.beats
        m.submodules.beats = beats = ResetInserter(begin.valid | ends)(
            Gearbox(i_bytes=word, o_bytes=config.bytes_per_beat)
        )
        connect(m, self.weights.o, beats.i)
        m.d.comb += [
            self.weights.start.eq(begin.valid | ends),
            self.weights.address.eq(begin.payload.block << block_word(word)),
            self.weights.words.eq(
                count * ratio[0] if ratio[0] else (count + ratio[1] - 1) >> (ratio[1].bit_length() - 1)
            ),
            distributor.i.valid.eq(beats.o.valid),
            distributor.i.payload.eq(beats.o.payload),
            beats.o.ready.eq(distributor.i.ready),
        ]
        with m.If(ends):
            m.d.comb += self.weights.words.eq(0)
        connect(m, sequencer.order_o, distributor.order)
        connect(m, distributor.o, engine.weights)
        connect(m, distributor.norms, self.norms.write)

        # Work from the sequencer, data between the units.
        connect(m, sequencer.pass_o, vector.pass_i)
        connect(m, sequencer.quant_o, vector.quant_i)
        connect(m, sequencer.tile_o, engine.tile)
        connect(m, sequencer.row_o, self.rows.request)
        rows = self.rows.rows
        if config.sections:
            connect(m, rows, vector.rows)
        else:
            m.d.comb += [
                vector.rows.valid.eq(rows.valid),
                vector.rows.payload.value.eq(rows.payload.value),
                vector.rows.payload.scale.eq(rows.payload.scale),
                rows.ready.eq(vector.rows.ready),
            ]
        m.submodules.acts = acts = ResetInserter(ends)(Slice(shape=ActsLayout))
        connect(m, vector.acts, acts.i)
        connect(m, acts.o, engine.acts)
        connect(m, engine.sums, vector.sums)
        connect(m, vector.norm_a, self.norms.a)
        connect(m, vector.norm_b, self.norms.b)
        m.d.comb += [
            distributor.tile_end.eq(engine.tile_end),
            sequencer.stats.eq(vector.stats),
            vector.stats_lane.eq(sequencer.stats_lane),
            sequencer.idle.eq(vector.idle),
            sequencer.best.eq(vector.best.index),
            sequencer.saturated.eq(vector.saturated),
            sequencer.beat.eq(engine.weights.valid & engine.weights.ready),
            sequencer.starved.eq(engine.weights.ready & ~engine.weights.valid),
            sequencer.loading.eq(distributor.passing),
            sequencer.owed.eq(distributor.loading),
            sequencer.pending.eq(pending),
            vector.fresh.eq(sequencer.token.fresh),
            vector.active.eq(sequencer.token.active),
            self.rows.bases.eq(sequencer.bases),
            self.rows.stop.eq(ends),
            self.counters.words_i.eq(sequencer.counters),
        ]
        with m.If(arbiter.failed):
            m.d.comb += sequencer.memory_fault.eq(Fault.MEMORY)
        with m.If(lost):
            m.d.comb += sequencer.memory_fault.eq(Fault.SILENCE)

        # Recurrent state: of every slot on the chip, or of a layer at a time.
        mover = self.mover
        if mover is None:
            m.d.comb += sequencer.move_o.ready.eq(1)  # a program that moves states gets wrong ones, not stuck
            m.d.sync += [
                vector.base[k].eq(sequencer.token.slot[k] * config.state_elements)
                for k in range(config.lanes)
            ]
        else:
            m.submodules.mover = ResetInserter(lost)(mover)
            connect(m, sequencer.move_o, mover.move)
            connect(m, mover.state, vector.state)
            connect(m, mover.read, arbiter.recall)
            connect(m, mover.write, arbiter.keep)
            move = sequencer.move_o
            m.d.comb += [mover.bases.eq(sequencer.bases), mover.token.eq(sequencer.token)]
            m.d.sync += sequencer.moving.eq(mover.busy | move.valid & move.ready)  # high without a gap
            m.d.sync += [
                vector.base[k].eq(mover.home[k] * config.hidden) for k in range(config.lanes)
            ]

        # Tokens.
        connect(m, flipped(self.token_i), sequencer.token_i)
        connect(m, sequencer.token_o, flipped(self.token_o))
        m.d.comb += [
            sequencer.give_up.eq(self.abort),
            self.busy.eq(sequencer.busy),
            self.error.eq(sequencer.fault),
        ]
        return m
