# SPDX-License-Identifier: Apache-2.0
"""What kernels that hold a whole row share: norms, the int8 rounding, and how they are launched."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["inverse_root", "partials", "quantised", "root_backward", "row_settings"]


@triton.jit
def inverse_root(x, width):  # type: ignore[no-untyped-def]
    """``1/√(mean(x²) + 1e-6)`` of a row whose tail is zeros."""
    return 1.0 / tl.sqrt(tl.sum(x * x) / width + 1e-6)


@triton.jit
def root_backward(g, x, r, width):  # type: ignore[no-untyped-def]
    """Gradient of ``x`` from that of ``x · r``."""
    return r * (g - x * (r * r * (tl.sum(g * x) / width)))


@triton.jit
def quantised(y):  # type: ignore[no-untyped-def]
    """``round(127 · y / max|y|)``, half away from zero, and what one step is worth."""
    a = tl.maximum(tl.max(tl.abs(y)), 1e-5)
    q = tl.minimum(tl.floor(tl.abs(y) * (127.0 / a) + 0.5), 127.0)
    return tl.where(y < 0, -q, q), a / 127.0


def row_settings(width: int) -> dict[str, int]:
    """Elements that hold a row, and warps for them: 8 elements a thread at most 16 warps."""
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "num_warps": min(max(block // 256, 1), 16)}


def partials(rows: int, device: torch.device) -> int:
    """Programs of a kernel that sums over rows: each adds up its share."""
    if device.type != "cuda":
        return min(rows, 3)
    return min(rows, 4 * torch.cuda.get_device_properties(device).multi_processor_count)



