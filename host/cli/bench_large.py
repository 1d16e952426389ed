# SPDX-License-Identifier: Apache-2.0
"""Published sizes on the host: import and golden model, and beside them the same model in PyTorch.

``python -m nomul.host.cli.bench_large`` writes a random checkpoint of each size, measures every step in
a process of its own and prints JSON. PyTorch gets what an inference program would have: trits unpacked
once to the dtype of its products, one token at a time with the recurrent state.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from nomul.model.checkpoint import read_checkpoint
from nomul.model.errors import NomulError
from nomul.model.geometry import PUBLISHED, Geometry
from nomul.model.random_checkpoint import write_random_checkpoint
from nomul.model.store import load

from .models import convert

_SEED = 1
_WARM = 1  # tokens before the clock runs


def _memory() -> dict[str, float]:
    """MB of this process: now and at most, and what of now is not a mapped file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    names = {"resident_mb": "VmRSS", "anonymous_mb": "RssAnon", "peak_mb": "VmHWM"}
    return {name: round(int(found[key].split()[0]) * 1024 / 1e6, 1) for name, key in names.items()}


def _measured(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the clock and on all cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _tokens(geometry: Geometry, count: int) -> list[int]:
    rng = np.random.default_rng(_SEED)
    return rng.integers(0, geometry.vocab, _WARM + count).tolist()


def _speed(step: Callable[[int], object], tokens: list[int]) -> dict[str, float]:
    """Tokens per second, seconds of all cores a token, and memory while it runs."""
    for token in tokens[:_WARM]:
        step(token)
    timed = tokens[_WARM:]

    def run() -> None:
        for token in timed:
            step(token)

    wall, cpu = _measured(run)
    return {
        "tokens_per_second": round(len(timed) / wall, 2),
        "cpu_seconds_per_token": round(cpu / len(timed), 4),
        **_memory(),
    }


def measure_generation(folder: Path, size: str) -> dict[str, float]:
    """Writing a random checkpoint in two shards."""
    wall, cpu = _measured(
        lambda: write_random_checkpoint(folder, PUBLISHED[size], seed=_SEED, shards=2)
    )
    return {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), **_memory()}


def measure_import(folder: Path, file: Path) -> dict[str, float]:
    """From checkpoint to model file, SHA-256 of the source included."""
    source = read_checkpoint(folder)

    wall, cpu = _measured(lambda: convert(source, folder.name, file))
    return {
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "checkpoint_mb": round(source.size / 1e6, 1),
        "file_mb": round(file.stat().st_size / 1e6, 1),
        "mb_per_second": round(source.size / 1e6 / wall, 1),
        **_memory(),
    }


def measure_golden(file: Path, count: int, bytes_per_beat: int, tile_outputs: int) -> dict[str, Any]:
    """The golden model, one lane, from the model file."""
    from nomul.model.program import compile_model
    from nomul.sim.golden import Golden

    begin = time.perf_counter()
    model, _ = load(file)
    image = compile_model(model, bytes_per_beat=bytes_per_beat, tile_outputs=tile_outputs)
    del model
    golden = Golden(image)
    ready = time.perf_counter() - begin
    return {
        "load_and_compile_seconds": round(ready, 2),
        "bits_per_weight": round(8 * image.weights.size / image.geometry.ternary_weights, 3),
        **_speed(golden.step, _tokens(image.geometry, count)),
        "saturated": golden.saturated,
    }


def measure_torch(folder: Path, count: int, dtype: str) -> dict[str, Any]:
    """The same model in PyTorch on all cores, products in a dtype."""
    import torch

    from nomul.host.bench.torch_model import deployed

    model = deployed(read_checkpoint(folder), threads=os.cpu_count() or 1, dtype=dtype)
    state = model.state(1)

    def step(token: int) -> None:
        nonlocal state
        _, state = model.step(torch.tensor([[token]]), state)

    with torch.no_grad():
        found = _speed(step, _tokens(model.geometry, count))
    return {"torch": torch.__version__, **found}


def _apart(work: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """Runs a measurement in a process of its own, so that memory is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *arguments).result()


def measure(size: str, place: Path, count: int, *, torch: bool) -> dict[str, Any]:
    """All figures of one size; what was written is removed again.

    Parameters
    ----------
    size : str
        Of :data:`~nomul.model.geometry.PUBLISHED`.
    place : Path
        A folder with room for the checkpoint, 2 bytes a parameter, and twice the model file.
    count : int
        Tokens that are timed.
    torch : bool
        Whether PyTorch is measured.
    """
    folder, file = place / f"random-{size}", place / f"random-{size}.nomul"
    found: dict[str, Any] = {}
    try:
        found["generate"] = _apart(measure_generation, folder, size)
        found["import"] = _apart(measure_import, folder, file)
        found["golden"] = _apart(measure_golden, file, count, 36, 256)
        if torch:
            for dtype in ("float32", "bfloat16"):
                found[f"torch_{dtype}"] = _apart(measure_torch, folder, count, dtype)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        file.unlink(missing_ok=True)
    return found


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m nomul.host.cli.bench_large", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=f"of {', '.join(PUBLISHED)}")
    parser.add_argument("--place", type=Path, default=Path("build"), help="folder for the files")
    parser.add_argument("--tokens", type=int, default=10)
    given = parser.parse_args()
    sizes = given.sizes or ["370M"]
    if unknown := set(sizes) - PUBLISHED.keys():
        parser.error(f"no size is called {min(unknown)}; one of {', '.join(PUBLISHED)}")
    load_before = round(os.getloadavg()[0], 2)
    try:
        given.place.mkdir(parents=True, exist_ok=True)
        # PyTorch beside the smallest only: in float32 the largest takes 11 GB
        models = {
            size: measure(size, given.place, given.tokens, torch=size == "370M") for size in sizes
        }
    except (NomulError, OSError) as error:
        print(f"nomul: {error}", file=sys.stderr)
        return 1
    machine = {
        "cores": os.cpu_count(),
        "load_before": load_before,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    print(json.dumps({"machine": machine, "models": models}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
