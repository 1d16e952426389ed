# SPDX-License-Identifier: Apache-2.0
"""A whole design from a configuration: core, link, and the hash by which a host knows it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from amaranth.lib import wiring

from nomul.hw.axi import AxiMaster
from nomul.hw.core import Core
from nomul.hw.dram.native import NativePort
from nomul.hw.link import Link
from nomul.hw.streamed import StreamedCore
from nomul.hw.streamed.joined import Joined
from nomul.hw.top import Top
from nomul.model.core_config import CoreConfig
from nomul.model.dram_control import CONTROL_BYTES
from nomul.model.image import plane_bits
from nomul.model.isa import INSTRUCTION_BYTES
from nomul.model.protocol import REGIONS, Identity, Region
from nomul.model.streamed_config import StreamedConfig

from .sources import hash_sources
from .tools import build_folder, versions
from .verilog import convert

__all__ = ["NOMINAL_CLOCK_HZ", "cached_verilog", "design", "design_hash", "design_verilog", "identity"]

NOMINAL_CLOCK_HZ = 100_000_000  #: What a design says of itself where no board gives it a clock.


def design_hash(config: CoreConfig | StreamedConfig) -> bytes:
    """8 bytes that change whenever the generated hardware may: its sources, configuration, generator version."""
    modules = [Core.__module__] if isinstance(config, CoreConfig) else [
        StreamedCore.__module__, Joined.__module__, _adaptor(config).__module__,
    ]  # fmt: skip
    salt = f"{config.to_json()} {versions()['amaranth']}"
    return hash_sources(*modules, Link.__module__, Top.__module__, salt=salt)[:8]


def _adaptor(config: StreamedConfig) -> type[wiring.Component]:
    return AxiMaster if config.port == "axi" else NativePort


def identity(
    config: CoreConfig | StreamedConfig,
    clock_hz: int = NOMINAL_CLOCK_HZ,
    *,
    hosted: bool = False,
    design: bytes | None = None,
) -> Identity:
    """What a board answers when asked.

    Parameters
    ----------
    config : CoreConfig or StreamedConfig
    clock_hz : int
    hosted : bool
        The host brings its memory up.
    design : bytes, optional
        By default that of core and link, :func:`design_hash`.
    """
    sizes = [0] * REGIONS
    slots, memory = config.lanes, 0
    if isinstance(config, CoreConfig):
        sizes[Region.PROGRAM] = config.program_words * INSTRUCTION_BYTES
        sizes[Region.WEIGHTS] = config.bytes_per_beat << plane_bits(config.weight_beats)
        sizes[Region.NORMS] = config.norm_words * 8
        sizes[Region.EMBEDDINGS] = config.embedding_bytes
        sizes[Region.LOGITS] = config.vocab * 4
    else:
        slots, memory = config.slots, config.memory_bytes
        if config.logits == "chip":
            sizes[Region.LOGITS] = config.vocab * 4
    if hosted:
        sizes[Region.CONTROL] = CONTROL_BYTES
    return Identity(
        design=design or design_hash(config),
        bytes_per_beat=config.bytes_per_beat,
        lanes=config.lanes,
        slots=slots,
        clock_hz=clock_hz,
        memory_bytes=memory,
        region_bytes=tuple(sizes),
    )


def design(config: CoreConfig | StreamedConfig, clock_hz: int = NOMINAL_CLOCK_HZ) -> Top:
    """The top: a core of this configuration behind its link.

    A streamed core's memory is an AXI4 master's port or LiteDRAM's native port, as its configuration says.
    """
    core: wiring.Component
    if isinstance(config, CoreConfig):
        core = Core(config=config)
    else:
        bits = (config.memory_bytes - 1).bit_length()
        adaptor: wiring.Component
        if config.port == "axi":
            adaptor = AxiMaster(word_bytes=config.word_bytes, address_bits=max(12, bits))
        else:
            adaptor = NativePort(
                word_bytes=config.word_bytes,
                address_bits=bits - (config.word_bytes.bit_length() - 1),
            )
        core = Joined(core=StreamedCore(config=config), adaptor=adaptor)
    return Top(core=core, link=Link(identity=identity(config, clock_hz)))


def design_verilog(config: CoreConfig | StreamedConfig, clock_hz: int = NOMINAL_CLOCK_HZ) -> str:
    """Verilog of the top, called ``top``; generated once for each design and generator."""
    return cached_verilog(f"{design_hash(config).hex()} {clock_hz}", lambda: design(config, clock_hz))


def cached_verilog(key: str, make: Callable[[], Top]) -> str:
    """Verilog of a top, called ``top``; made once for each key and versions of the tools."""
    name = hashlib.sha256(f"{key} {versions()}".encode()).hexdigest()
    path = build_folder("design") / f"top-{name[:16]}.v"
    if not path.is_file():
        text = convert(make(), "top")
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(text)
        partial.replace(path)
    return path.read_text()
