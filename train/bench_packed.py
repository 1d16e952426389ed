# SPDX-License-Identifier: Apache-2.0
"""Memory and tokens a second of packed inference against the unoptimised model and the bandwidth floor.

``python -m nomul.train.bench_packed -o FILE.json`` needs a CUDA GPU. ``docs/training.md`` says what
is compared. Weights are random: time and memory do not depend on them.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nomul.model.errors import NomulError
from nomul.model.geometry import PUBLISHED, Geometry

from .bench_fused import straight_through
from .machine import compile_first, describe, median_seconds, require_gpu
from .model import MatMulFreeLM
from .packed import PackedLM, PackedWeights, random_weights
from .packed.kernels.barrier import barrier_seconds
from .packed.layout import FORMATS
from .packed.stepper import Stepper

__all__ = ["SHAPES", "STEPPERS"]

#: The published shapes, and one of 13 billion that the paper names but nobody published.
SHAPES = {**PUBLISHED, "13B": Geometry(hidden=5120, intermediate=13824, layers=40, vocab=32000)}

_BATCH, _PREFILL = 64, 512

_COARSE = {"gates": (16, 8), "o": (16, 4), "gate_up": (64, 8), "down": (16, 8), "head": (128, 8)}

#: Ways to decode one text: how its vector is quantised, and of how many outputs a program takes care.
STEPPERS: dict[str, dict[str, Any]] = {
    "whole": {"split": False, "overlap": False, "tiles": _COARSE}, "split": {"overlap": False, "tiles": _COARSE},
    "split, overlapped": {"tiles": _COARSE}, "split, overlapped, fine": {},
}


def _replayed(work: Callable[[], Any]) -> Callable[[], None]:
    """A piece of device work as a CUDA graph."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _times(work: Callable[[], Any], count: int = 10) -> float:
    def several() -> None:
        for _ in range(count):
            work()
    return median_seconds(several, repeats=7, warmup=2) / count


def measure_packed(size: str, format: str, device: torch.device) -> dict[str, Any]:
    """Memory and time of a packed model: one text, a batch, and a window of prefill."""
    gc.collect()  # an unoptimised model before it holds itself by its methods
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    weights = random_weights(SHAPES[size], format, device)
    row: dict[str, Any] = {"size": size, "version": format, "token_bytes": weights.token_bytes}
    row["steppers"] = {}
    for name, options in STEPPERS.items():
        stepper = Stepper(weights, **options)
        stepper.step()
        torch.cuda.synchronize()
        row.setdefault("resident_bytes", torch.cuda.memory_allocated() - before)
        row["steppers"][name] = _times(stepper.step)
        del stepper
    name = min(row["steppers"], key=row["steppers"].__getitem__)
    row["one_text"] = {"seconds": row["steppers"][name], "stepper": name,
                       "tokens_per_second": 1 / row["steppers"][name]}
    row |= _many(weights, device)
    return row


def _run_once(size: str, format: str) -> None:
    """One layer of a shape through everything that :func:`measure_packed` runs."""
    device = torch.device("cuda")
    weights = random_weights(replace(SHAPES[size], layers=1), format, device)
    for options in STEPPERS.values():
        Stepper(weights, **options).step()
    for batch, length in ((_BATCH, 1), (1, _PREFILL)):
        PackedLM(weights, batch)(torch.zeros(batch, length, dtype=torch.int64, device=device))
    torch.cuda.synchronize()


def _many(weights: PackedWeights, device: torch.device) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, batch, length in (("batch", _BATCH, 1), ("prefill", 1, _PREFILL)):
        model = PackedLM(weights, batch)
        tokens = torch.randint(0, weights.geometry.vocab, (batch, length), device=device)

        def work(model: PackedLM = model, tokens: Tensor = tokens) -> None:
            model(tokens)

        seconds = _times(_replayed(work), 3)
        made[name] = {"batch": batch, "length": length, "seconds": seconds,
                      "tokens_per_second": batch * length / seconds}
    return made


def measure_unoptimised(size: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """The plain model with latent weights, ternarised in every pass, as the published code runs."""
    row: dict[str, Any] = {"size": size, "version": str(dtype).removeprefix("torch.")}
    gc.collect()
    torch.cuda.empty_cache()
    try:
        before = torch.cuda.memory_allocated()
        torch.set_default_dtype(dtype)
        with device, torch.no_grad():
            model = straight_through(MatMulFreeLM(SHAPES[size])).eval()
        row["resident_bytes"] = torch.cuda.memory_allocated() - before
        for name, batch in (("one_text", 1), ("batch", _BATCH)):
            tokens = torch.randint(0, 32000, (batch, 1), device=device)
            state = model.initial_state(batch)

            @torch.no_grad()
            def work(tokens: Tensor = tokens, state: Tensor = state) -> None:
                model(tokens, state)

            torch.cuda.reset_peak_memory_stats()
            seconds = median_seconds(work, repeats=3, warmup=1)
            row[name] = {"batch": batch, "seconds": seconds, "tokens_per_second": batch / seconds}
            row["peak_bytes"] = torch.cuda.max_memory_allocated() - before
    except torch.OutOfMemoryError:
        row["failed"] = "out of memory"
    finally:
        torch.set_default_dtype(torch.float32)
    return row


def _line(row: dict[str, Any]) -> str:
    start = f"{row['size']:>5} {row['version']:>9}"
    if "failed" in row:
        return f"{start}  {row['failed']}"
    text = f"{start}  resident {row['resident_bytes'] / 1e9:7.3f} GB"
    text += f"  one text {row['one_text']['tokens_per_second']:8.1f} /s"
    if "floor_seconds" in row:
        text += f" ({row['of_floor']:.1%} of the floor, {row['one_text']['stepper']})"
    text += f"  batch {row['batch']['tokens_per_second']:9.0f} /s"
    return text + (f"  prefill {row['prefill']['tokens_per_second']:9.0f} /s" if "prefill" in row else "")


def _main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m nomul.train.bench_packed", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--sizes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no measurement after so long")
    parser.add_argument("--compile", action="store_true",
                        help="compile all kernels first, in many processes; with no --sizes nothing else")
    given = parser.parse_args(arguments)
    begin = time.monotonic()
    try:
        device = require_gpu("bench_packed")
        if given.compile:
            compile_first(_run_once, [(size, format) for size in given.sizes or SHAPES for format in FORMATS])
            print(f"compiled in {time.monotonic() - begin:.0f} s", flush=True)
        if not given.sizes:
            return 0
        made: dict[str, Any] = {"machine": describe(device), "models": []}
        programs = torch.cuda.get_device_properties(device).multi_processor_count
        made["barrier"] = {str(width): barrier_seconds(device, width, programs, warps=8) for width in (2048, 5120)}
        for size in given.sizes:
            for version in (*FORMATS, torch.bfloat16, torch.float32):
                if time.monotonic() - begin > given.seconds:
                    made.setdefault("left_out", []).append(f"{size} {version}")
                    continue
                if isinstance(version, str):
                    row = measure_packed(size, version, device)
                    floor = row["token_bytes"] / made["machine"]["copy_bytes_per_second"]
                    row |= {"floor_seconds": floor, "of_floor": floor / row["one_text"]["seconds"]}
                else:
                    row = measure_unoptimised(size, version, device)
                made["models"].append(row)
                print(_line(row), flush=True)
                made["seconds"] = round(time.monotonic() - begin, 1)
                given.out.write_text(json.dumps(made, indent=1) + "\n")
        print("left out:", made.get("left_out", "nothing"), flush=True)
    except NomulError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
