# SPDX-License-Identifier: Apache-2.0
"""Random checkpoints of any size: ``python -m nomul.model.random_checkpoint 370M FOLDER`` writes one."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .checkpoint import Checkpoint, config_of, is_ternary, tensor_shapes, write_by_tensor
from .errors import NomulError
from .geometry import PUBLISHED, Geometry
from .safetensors import encode

__all__ = ["random_checkpoint", "write_random_checkpoint"]


def _drawn(geometry: Geometry, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Random tensors in the order of :func:`tensor_shapes`, float32.

    Matrices are normal, so 31 % of their trits are 0, with deviation 0.05, so their scale is 0.04;
    embeddings and lower bounds have deviation 1; norm weights lie about 1 with deviation 0.3.
    """
    rng = np.random.default_rng(seed)
    for name, shape in tensor_shapes(geometry).items():
        values = rng.standard_normal(shape, dtype=np.float32)
        if is_ternary(name):
            values *= np.float32(0.05)
        elif name.endswith("norm.weight"):
            values = 1 + np.float32(0.3) * values
        yield name, values


def write_random_checkpoint(
    folder: Path, geometry: Geometry, *, seed: int, shards: int | None = None
) -> None:
    """Writes a random checkpoint of any size in bfloat16, one tensor in memory at a time.

    It holds what :func:`random_checkpoint` gives.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.
    geometry : Geometry
    seed : int
    shards : int, optional
        Files of about equal size, with an index; one file without if left out. At most the
        number of tensors.

    Raises
    ------
    NomulError
        If a file cannot be written.
    """
    groups: list[list[str]] | None = None
    if shards is not None:
        shapes = tensor_shapes(geometry)
        if not 1 <= shards <= len(shapes):
            raise ValueError(f"shards are 1 to {len(shapes)}, one tensor each, not {shards}")
        groups = [[]]
        done, left = 0, len(shapes)
        for name, shape in shapes.items():
            full = done * shards >= len(groups) * geometry.parameters
            if groups[-1] and len(groups) < shards and (full or left == shards - len(groups)):
                groups.append([])
            groups[-1].append(name)
            done += math.prod(shape)
            left -= 1
    tensors = _drawn(geometry, seed)

    def following(wanted: str) -> np.ndarray:
        name, values = next(tensors)
        assert name == wanted
        return values

    write_by_tensor(Path(folder), config_of(geometry), groups, following, "bfloat16")


def random_checkpoint(geometry: Geometry, seed: int) -> Checkpoint:
    """A small random checkpoint in memory, bfloat16 values; its statistics are those of the upstream fixture."""
    tensors: dict[str, np.ndarray] = {}
    for name, values in _drawn(geometry, seed):
        half = np.frombuffer(encode(values, "bfloat16", name), "<u2")
        tensors[name] = (half.astype(np.uint32) << 16).view(np.float32).reshape(values.shape)
    return Checkpoint.in_memory(config_of(geometry), tensors)


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
