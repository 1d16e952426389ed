# SPDX-License-Identifier: Apache-2.0
"""One thread: the tensors are tiny, and idle threads that spin slow the other test processes."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for child processes

try:
    import torch
except ImportError:  # the tests that need it are skipped
    pass
else:
    torch.set_num_threads(1)
