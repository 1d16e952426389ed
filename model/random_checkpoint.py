# SPDX-License-Identifier: Apache-2.0
"""Writes a random checkpoint of a published size: ``python -m nomul.model.random_checkpoint 370M FOLDER``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .checkpoint import write_random_checkpoint
from .errors import NomulError
from .geometry import PUBLISHED


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m nomul.model.random_checkpoint",
        description="Writes a random checkpoint of a published size in bfloat16.",
    )
    parser.add_argument("size", choices=PUBLISHED)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, metavar="N", help="so many files instead of one")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    try:
        write_random_checkpoint(
            given.folder, PUBLISHED[given.size], seed=given.seed, shards=given.shards
        )
    except (NomulError, ValueError) as error:
        print(f"nomul: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
