# SPDX-License-Identifier: Apache-2.0
"""The GPU that figures were taken on, and its two ceilings, measured; what errors for want of memory look like."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import torch

from nomul.model.errors import NomulError

__all__ = ["compile_first", "describe", "enough_memory", "median_seconds", "require_gpu"]


def require_gpu(what: str) -> torch.device:
    """The CUDA device.

    Raises
    ------
    NomulError
        If there is none, or no Triton.
    """
    if not torch.cuda.is_available():
        raise NomulError(f"{what}: no CUDA GPU here; it measures kernels, so run it on a machine with one")
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise NomulError(f"{what}: Triton is not installed; pip install triton") from error
    return torch.device("cuda")


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Makes one line of it if memory runs out: PyTorch's, or what a library of CUDA wants for itself.

    Parameters
    ----------
    advice : str
        What to lower.

    Raises
    ------
    NomulError
        With the advice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error).lower()
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
                text in said for text in ("out of memory", "not enough memory", "alloc_failed")):
            raise NomulError(advice) from error
        raise


def median_seconds(work: Callable[[], Any], *, repeats: int = 7, warmup: int = 3) -> float:
    """Median of the time of one call, by device events."""
    for _ in range(warmup):
        work()
    taken = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / 1000)
    return sorted(taken)[len(taken) // 2]


def compile_first(work: Callable[..., None], cases: Sequence[tuple[Any, ...]]) -> None:
    """Calls ``work(*case)`` for every case, each in a process of its own: Triton's kernels then lie in its cache.

    Parameters
    ----------
    work : callable
        Runs every kernel once, on small data; importable by its name.
    cases : sequence of tuple
    """
    with get_context("spawn").Pool(min(len(cases), 16), maxtasksperchild=1) as pool:
        pool.starmap(work, cases, chunksize=1)


def _copy_seconds(device: torch.device) -> float:
    """Time of a copy of 2 GiB; what it takes is free again afterwards."""
    values = torch.randint(0, 2**31 - 1, (1 << 29,), device=device, dtype=torch.int32)
    target = torch.empty_like(values)
    return median_seconds(lambda: target.copy_(values))


def describe(device: torch.device) -> dict[str, Any]:
    """Names, versions, and what a large copy and a large product reach on random data."""
    import triton

    copy = _copy_seconds(device)
    left, right = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    matmul = median_seconds(lambda: left @ right)
    try:
        driver = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=30, check=True).stdout.split()[0]  # one line a GPU, of one driver
    except (OSError, subprocess.SubprocessError, IndexError):
        driver = "unknown"
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name, "memory_bytes": properties.total_memory, "driver": driver,
        "torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version(),
        "copy_bytes_per_second": 2 * 4 * (1 << 29) / copy, "bf16_flops": 2 * 8192**3 / matmul,
    }
