# SPDX-License-Identifier: Apache-2.0
"""What chips have, and whether something fits."""

from __future__ import annotations

from collections.abc import Mapping

from nomul.model.errors import NomulError

__all__ = ["CAPACITY", "check_fit"]

#: Cells of the chips that a design may run out of (Lattice, FPGA-DS-02012, table "selection guide"). nextpnr packs
#: LUT4s, so how many are needed it says.
CAPACITY = {
    "25F": {"DP16KD": 56, "MULT18X18D": 28, "TRELLIS_FF": 24288, "TRELLIS_COMB": 24288},
    "45F": {"DP16KD": 108, "MULT18X18D": 72, "TRELLIS_FF": 43848, "TRELLIS_COMB": 43848},
    "85F": {"DP16KD": 208, "MULT18X18D": 156, "TRELLIS_FF": 83640, "TRELLIS_COMB": 83640},
}
_WORDS = {"DP16KD": "block RAMs", "MULT18X18D": "multipliers", "TRELLIS_FF": "flip-flops", "TRELLIS_COMB": "LUT4s"}


def check_fit(name: str, device: str, needed: Mapping[str, int]) -> None:
    """Refuses what needs more cells of a kind than a chip has.

    Raises
    ------
    NomulError
        With how many too many.
    """
    for kind, there in CAPACITY[device.rpartition("-")[2]].items():
        count = needed.get(kind, 0)
        if count > there:
            raise NomulError(
                f"{name}: needs {count:,} {_WORDS[kind]}, an {device} has {there:,}: {count - there:,} too many; "
                f"take a smaller model or a larger chip"
            )
