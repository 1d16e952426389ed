# SPDX-License-Identifier: Apache-2.0
"""The core: sequencer, memories, engine and vector unit, wired together."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, ResetInserter
from amaranth.lib import wiring
from amaranth.lib.wiring import connect, flipped

from nomul.model.core_config import CoreConfig
from nomul.model.counters import counter_words
from nomul.model.errors import NomulError
from nomul.model.numbers import VECTOR_LANES, acc_bits
from nomul.model.protocol import Region

from .core_ports import CorePorts
from .embedding import EmbeddingMemory
from .engine import Engine, SelectEngine, TableEngine
from .memory import (
    BusDecoder,
    CounterMemory,
    LogitsMemory,
    NormMemory,
    ProgramMemory,
    Slice,
    WeightMemory,
)
from .ports import ActsLayout
from .sequencer import Sequencer
from .vector import VectorUnit
from .vector.turns import BLOCK

__all__ = ["Core"]

_ENGINES: dict[str, type[Engine]] = {"select": SelectEngine, "table": TableEngine}


class Core(wiring.Component):
    """Runs the program of its memory image, once for each token.

    Parameters
    ----------
    config : CoreConfig
        Its sizes; one lane.

    Members
    -------
    As :class:`~nomul.hw.core_ports.CorePorts`.

    Raises
    ------
    NomulError
        If the configuration has several lanes: units take them, the core's ports do not yet.
    """

    def __init__(self, *, config: CoreConfig):
        if config.lanes != 1:
            raise NomulError(f"core: lanes is {config.lanes}; a whole core has one lane so far")
        self.config = config
        lanes, row = config.lanes, config.longest_row
        sum_bits = acc_bits(row)
        self.sequencer = Sequencer(lanes=lanes, program_words=config.program_words)
        self.engine = _ENGINES[config.engine](
            bytes_per_beat=config.bytes_per_beat,
            lanes=lanes,
            outputs=config.tile_outputs,
            inputs=row,
            acts_per_beat=VECTOR_LANES,
        )
        self.vector = VectorUnit(
            lanes=lanes,
            hidden=config.hidden,
            intermediate=config.intermediate,
            state_elements=lanes * config.layers * config.hidden,
            inputs=row,
            bytes_per_beat=config.bytes_per_beat,
            vocab=config.vocab,
            rows=max(config.tile_outputs, 2 * BLOCK),
        )
        self.program = ProgramMemory(words=config.program_words)
        self.weights = WeightMemory(
            bytes_per_beat=config.bytes_per_beat, depth=config.weight_beats
        )
        self.norms = NormMemory(words=config.norm_words)
        self.embeddings = EmbeddingMemory(size=config.embedding_bytes, lanes=lanes)
        self.logits = LogitsMemory(vocab=config.vocab, bits=sum_bits, lanes=lanes)
        self.counters = CounterMemory(words=counter_words(lanes))
        super().__init__(CorePorts())

    @property
    def units(self) -> dict[str, wiring.Component]:
        """What it is made of, the glue left out."""
        return {
            "engine": self.engine,
            "vector": self.vector,
            "sequencer": self.sequencer,
            "weights": self.weights,
            "norms": self.norms,
            "embeddings": self.embeddings,
            "program": self.program,
            "logits": self.logits,
            "counters": self.counters,
        }

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sequencer, engine, vector = self.sequencer, self.engine, self.vector
        program, weights, norms = self.program, self.weights, self.norms
        embeddings, logits, counters = self.embeddings, self.logits, self.counters
        memories: dict[Region, Any] = {
            Region.PROGRAM: program,
            Region.WEIGHTS: weights,
            Region.NORMS: norms,
            Region.EMBEDDINGS: embeddings,
            Region.LOGITS: logits,
            Region.COUNTERS: counters,
        }
        decoder = BusDecoder(regions=memories)

        m.submodules.sequencer = sequencer
        m.submodules.decoder = decoder
        for region, memory in memories.items():
            name = region.name.lower()
            if memory is embeddings:  # its reader is given up with the token
                m.submodules[name] = ResetInserter(sequencer.flush)(memory)
            else:
                m.submodules[name] = memory
            connect(m, getattr(decoder, name), memory.bus)
        m.submodules.engine = ResetInserter(sequencer.flush)(engine)
        m.submodules.vector = ResetInserter(sequencer.flush)(vector)

        # Work from the sequencer, data between the units.
        connect(m, sequencer.program, program.port)
        connect(m, sequencer.pass_o, vector.pass_i)
        connect(m, sequencer.quant_o, vector.quant_i)
        connect(m, sequencer.tile_o, engine.tile)
        connect(m, sequencer.row_o, embeddings.request)
        connect(m, embeddings.rows, vector.rows)
        connect(m, weights.o, engine.weights)
        m.submodules.acts = acts = ResetInserter(sequencer.flush)(Slice(shape=ActsLayout))
        connect(m, vector.acts, acts.i)
        connect(m, acts.o, engine.acts)
        connect(m, engine.sums, vector.sums)
        connect(m, vector.norm_a, norms.a)
        connect(m, vector.norm_b, norms.b)
        connect(m, vector.logits, logits.port)
        connect(m, flipped(self.bus), decoder.bus)
        m.d.comb += [
            sequencer.stats.eq(vector.stats),
            vector.stats_lane.eq(sequencer.stats_lane),
            sequencer.idle.eq(vector.idle),
            sequencer.best.eq(vector.best.index),
            sequencer.saturated.eq(vector.saturated),
            sequencer.beat.eq(engine.weights.valid & engine.weights.ready),
            vector.fresh.eq(sequencer.token.fresh),
            vector.active.eq(sequencer.token.active),
            vector.base.as_value().eq(0),
            weights.restart.eq(sequencer.start),
            counters.words_i.eq(sequencer.counters),
        ]

        # Tokens.
        connect(m, flipped(self.token_i), sequencer.token_i)
        connect(m, sequencer.token_o, flipped(self.token_o))
        m.d.comb += [
            sequencer.give_up.eq(self.abort),
            self.error.eq(sequencer.fault),
            self.busy.eq(sequencer.busy),
        ]
        return m
