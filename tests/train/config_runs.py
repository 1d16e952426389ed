# SPDX-License-Identifier: Apache-2.0
"""What the tests of configured runs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nomul.train.config import TrainConfig
from nomul.train.loop import run_config

TINY = TrainConfig(hidden=12, intermediate=20, layers=2, batch=8, window=24, steps=10, lr=0.02, lr_embedding=0.02,
                   lr_vector=0.02, evaluations=2, evaluated=1, checkpoint_steps=3, spread=0.1)  # fmt: skip


class Stop:
    """A reporter that remembers, and interrupts a run after a number of steps."""

    def __init__(self, after: int | None = None):
        self.after, self.lines, self.steps = after, [], 0

    def line(self, text: str) -> None:
        self.lines.append(text)

    def step(self, progress: float, text: str) -> None:
        self.steps += 1
        if self.steps == self.after:
            raise KeyboardInterrupt


def run_on_cpu(config: TrainConfig, corpus: Path, folder: Path, **options: Any) -> dict[str, Any]:
    return run_config(config, corpus, folder, device="cpu", **options)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["weights"]
