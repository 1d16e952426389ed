# SPDX-License-Identifier: Apache-2.0
"""Others' systems and what their sources say they reach; the figures are in ``peers.toml`` and nowhere else."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any

__all__ = ["KINDS", "peers"]

#: Letters of cited figures.
KINDS = {
    "M": "measured on silicon by the source",
    "S": "simulated or synthesised by the source",
    "E": "estimated or projected by the source",
    "D": "derived here from the source's figures",
}


@cache
def peers() -> tuple[dict[str, Any], ...]:
    """Each with ``name``, ``device``, ``model``, ``weights``, ``source`` and its figures with their letters."""
    text = resources.files(__package__).joinpath("peers.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["peer"])
