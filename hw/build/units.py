# SPDX-License-Identifier: Apache-2.0
"""Area by unit of a core, from the names of a netlist's cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

__all__ = ["unit_areas", "unit_of"]

_CONTROLLER = "dram"  # the controller's instance, in the adaptor between core and memory or beside the core
_AROUND = {"link": "link", "stream": "link", _CONTROLLER: "controller"}


def unit_of(path: Sequence[str], names: Iterable[str]) -> str:
    """Unit of a core that an instance of a chip is of.

    Parameters
    ----------
    path : sequence of str
        Names of the instances around it, below ``top``.
    names : iterable of str
        The core's units.

    Returns
    -------
    str
        One of the names, ``link``, ``controller`` (of the memory), or ``between`` for what belongs to none.
    """
    inside = list(path)
    while inside[:1] == ["core"]:  # a core within a core: the inner one has a memory adaptor beside it
        del inside[0]
    head = inside[0] if inside else ""
    if inside[:2] == ["adaptor", _CONTROLLER]:
        return "controller"
    if len(inside) < len(path):
        return head if head in set(names) else "between"
    return _AROUND.get(head, "between")


def unit_areas(parts: Mapping[str, Mapping[str, int]], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Area of a core's units, and of what is around them.

    Parameters
    ----------
    parts : mapping
        Counts by instance, as of :class:`~.synth.Synthesis`.
    names : sequence of str
        The core's units.

    Returns
    -------
    dict of dict
        Counts by unit; units without a cell are not in it.
    """
    found: dict[str, dict[str, int]] = {}
    for owner, counts in parts.items():
        path = owner.split(".")
        key = unit_of(path[1:] if path[0] == "top" else path, names)
        sums = found.setdefault(key, dict.fromkeys(counts, 0))
        for kind, count in counts.items():
            sums[kind] += count
    around = ("link", "controller", "between")
    return {name: found[name] for name in [*names, *around] if name in found}


