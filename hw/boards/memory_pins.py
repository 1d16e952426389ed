# SPDX-License-Identifier: Apache-2.0
"""Where a memory's pins are on a board."""

from __future__ import annotations

from dataclasses import replace

from nomul.hw.dram.boards import DramBoard

from .board import Board, Pins

__all__ = ["memory_pins", "tied_pins"]

#: Resource, prefix of the controller's names, and parts of the resource by those names. Not all boards have all.
_KINDS = {
    "DDR3": ("ddr3", "ddram", {
        "a": "a", "ba": "ba", "cas_n": "cas", "cke": "clk_en", "clk_p": "clk", "cs_n": "cs", "dm": "dm", "dq": "dq",
        "dqs_p": "dqs", "odt": "odt", "ras_n": "ras", "reset_n": "rst", "we_n": "we",
    }),
    "SDR": ("sdram", "sdram", {
        "a": "a", "ba": "ba", "cas_n": "cas", "cke": "clk_en", "clk": "clk", "cs_n": "cs", "dm": "dqm", "dq": "dq",
        "ras_n": "ras", "we_n": "we",
    }),
}  # fmt: skip
_IN = ("dq", "dqs_p")  # others only go out, and terminate nothing
_RANK = ("cke", "clk_p", "cs_n", "odt")  # one for each rank, of which the controller has the first
_IDLE = {"cs_n": 1}  # levels at which spare pins do nothing; of others 0


def _all(board: Board) -> dict[str, Pins]:
    """All pins of a board's memory, spare ones too."""
    assert board.memory is not None
    resource, prefix, parts = _KINDS[board.memory.part.kind]
    found = {}
    for name, part in parts.items():
        if name in board.memory_pins:
            pins = board.memory_pins[name]
        elif board.has(resource, part):
            pins = board.pins(resource, part)
        else:
            continue
        if name not in _IN:  # amaranth-boards names what terminates inputs of some that are none
            kept = {key: value for key, value in pins.attributes.items() if key not in ("TERMINATION", "DIFFRESISTOR")}
            pins = replace(pins, attributes=kept)
        found[f"{prefix}_{name}"] = pins
    return found


def _used(name: str, memory: DramBoard) -> int | None:
    """How many bits of a pin's name a controller has; None: all."""
    kind = name.partition("_")[2]
    if kind == "a":
        return memory.part.rows.bit_length() - 1
    return 1 if kind in _RANK else None


def memory_pins(board: Board) -> dict[str, Pins]:
    """Where the controller's pins are on a board, those that it has."""
    assert board.memory is not None
    return {
        name: replace(pins, sites=pins.sites[: _used(name, board.memory)]) for name, pins in _all(board).items()
    }


def tied_pins(board: Board) -> dict[str, tuple[Pins, int]]:
    """Outputs that stand still, with their levels: addresses that the part has not, ranks that are not used, and what
    the board names."""
    assert board.memory is not None
    found = dict(board.tied)
    for name, pins in _all(board).items():
        used = _used(name, board.memory)
        spare = pins.sites[used:] if used is not None else ()
        if spare:
            found[f"{name}_spare"] = replace(pins, sites=spare), _IDLE.get(name.partition("_")[2], 0)
    return found
