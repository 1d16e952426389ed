# SPDX-License-Identifier: Apache-2.0
"""Counts toggles in a VCD file of a simulation, by unit of the hardware."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nomul.model.errors import NomulError

__all__ = ["Kinds", "Toggles", "count_toggles", "kinds_of"]


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """Names in a Verilog module that are more than wires."""

    registers: frozenset[str]
    reads: frozenset[str]  # registers at the outputs of memories


@dataclass(kw_only=True)
class Toggles:
    """What toggled in a unit.

    Attributes
    ----------
    cycles : int
        Clock cycles that were looked at.
    bits, changes : dict
        By kind, ``ff`` or ``comb``: bits, and how often any of them changed its value.
    reads, accesses : int
        Memory outputs, and cycles in which one of them changed, summed over them.
    """

    cycles: int = 0
    bits: dict[str, int] = field(default_factory=lambda: {"ff": 0, "comb": 0})
    changes: dict[str, int] = field(default_factory=lambda: {"ff": 0, "comb": 0})
    reads: int = 0
    accesses: int = 0

    def rates(self) -> dict[str, float]:
        """Changes a bit and cycle of flip-flops and of other signals; accesses a memory output and cycle."""
        found = {
            kind: self.changes[kind] / (bits * self.cycles)
            for kind, bits in self.bits.items()
            if bits and self.cycles
        }
        if self.reads and self.cycles:
            found["bram"] = self.accesses / (self.reads * self.cycles)
        return found


_MODULE = re.compile(r"^module (\S+)\s*\(.*?^endmodule", re.M | re.S)
_REGISTER = re.compile(r"^  reg (?:signed )?(?:\[\d+:\d+\] )?(\S+)\s*=", re.M)
_READ = re.compile(r"^\s+(?:if \(.*?\)\s*)?(\S+)\s*<= (\S+?)\s*\[[^\]:]*(?:\[[\d:]+\])?\s*\];", re.M)
_MEMORY = re.compile(r"^  reg (?:signed )?(?:\[\d+:\d+\] )?(\S+)\s*\[\d+:\d+\];", re.M)
_OWN = "\\$auto$"  # yosys's own


def kinds_of(verilog: str) -> dict[str, Kinds]:
    """Flip-flops and memory outputs in Verilog as Amaranth writes it, by module.

    A flip-flop is declared with its reset value, what a process computes without; a memory's output is what an
    element of the memory is assigned to.
    """
    found = {}
    for module in _MODULE.finditer(verilog):
        text = module[0]
        memories = set(_MEMORY.findall(text))
        registers = {name for name in _REGISTER.findall(text) if not name.startswith(_OWN)}
        reads = {name for name, source in _READ.findall(text) if source in memories}
        found[_plain(module[1])] = Kinds(
            registers=frozenset(_plain(name) for name in registers - reads),
            reads=frozenset(_plain(name) for name in reads),
        )
    return found


def count_toggles(
    path: Path,
    kinds: Mapping[str, Kinds],
    *,
    module_of: Callable[[tuple[str, ...]], str],
    unit_of: Callable[[tuple[str, ...]], str | None],
    clock: str = "clk",
) -> dict[str, Toggles]:
    """Toggles in a VCD file of which a time step is a clock cycle.

    Only changes from one step to the next count: where time jumps, what changed meanwhile was not seen cycle by
    cycle. A signal under several names counts once: where it is a flip-flop or a memory's output, else where it is
    named first.

    Parameters
    ----------
    path : Path
    kinds : mapping
        Of :func:`kinds_of`.
    module_of : callable
        Name of a scope's module.
    unit_of : callable
        Unit that a scope belongs to; ``None`` leaves its signals out.
    clock : str
        Name of the clock, which is left out.

    Returns
    -------
    dict of str to Toggles

    Raises
    ------
    NomulError
        If that is no VCD file, or it shows no two cycles in a row.
    """
    if not path.is_file():
        raise NomulError(f"{path}: no such file; the simulation has written no trace")
    with path.open(encoding="latin-1") as file:
        lines = enumerate(file, 1)
        signals = _declared(path, lines, kinds, module_of, unit_of, clock)
        units: dict[str, Toggles] = {}
        for unit, kind, bits in signals.values():
            toggles = units.setdefault(unit, Toggles())
            if kind == "read":
                toggles.reads += 1
            else:
                toggles.bits[kind] += bits
        values: dict[str, int] = {}
        time, counts, cycles = None, False, 0
        for at, line in lines:
            first = line[0]
            try:
                if first == "#":
                    now = int(line[1:])
                    counts = time is not None and now == time + 1
                    cycles += counts
                    time = now
                    continue
                if first in "01xzXZ":
                    value, name = int(first == "1"), line[1:].strip()
                elif first in "bB":
                    text, name = line[1:].split()
                    value = int(text.lower().translate(_UNKNOWN), 2)
                else:
                    continue
            except ValueError:
                raise NomulError(f"{path}: line {at}: {line.strip()[:40]!r} is no VCD") from None
            if name not in signals:
                continue
            before, values[name] = values.get(name, 0), value
            if counts and before != value:
                unit, kind, _ = signals[name]
                if kind == "read":
                    units[unit].accesses += 1
                else:
                    units[unit].changes[kind] += (before ^ value).bit_count()
    if not cycles:
        raise NomulError(f"{path}: no two cycles in a row; was the simulation running?")
    for toggles in units.values():
        toggles.cycles = cycles
    return units


_UNKNOWN = str.maketrans("xz", "00")


def _declared(
    path: Path,
    lines: Iterator[tuple[int, str]],
    kinds: Mapping[str, Kinds],
    module_of: Callable[[tuple[str, ...]], str],
    unit_of: Callable[[tuple[str, ...]], str | None],
    clock: str,
) -> dict[str, tuple[str, str, int]]:
    """Unit, kind and bits of each signal in the head of a VCD file."""
    scopes: list[str] = []
    found: dict[str, tuple[str, str, int]] = {}
    nothing = Kinds(registers=frozenset(), reads=frozenset())
    for at, line in lines:
        words = line.split()
        if not words:
            continue
        if words[0] == "$scope":
            scopes.append(words[2])
        elif words[0] == "$upscope":
            scopes.pop()
        elif words[0] == "$enddefinitions":
            return found
        elif words[0] == "$var":
            try:
                bits, code, name = int(words[2]), words[3], _plain(words[4])
            except (IndexError, ValueError):
                raise NomulError(f"{path}: line {at}: {line.strip()[:60]!r} declares no signal") from None
            scope = tuple(scopes)
            unit = unit_of(scope)
            if unit is None or name == clock:
                continue
            own = kinds.get(module_of(scope), nothing)
            kind = "ff" if name in own.registers else "read" if name in own.reads else "comb"
            if code in found and (kind == "comb" or found[code][1] != "comb"):
                continue
            found[code] = unit, kind, bits
    raise NomulError(f"{path}: ends before its definitions do; is it a VCD file, and complete?")


def _plain(name: str) -> str:
    """A name without Verilog's escape and without the range that VCD may glue to it."""
    return re.sub(r"\[\d+:\d+\]$", "", name.removeprefix("\\").strip())
