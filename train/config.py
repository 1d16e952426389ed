# SPDX-License-Identifier: Apache-2.0
"""What a training run is: one flat TOML file, every key with a default.

``python -m nomul.train.config`` prints a file with all of them.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from nomul.model.errors import NomulError
from nomul.model.geometry import Geometry

__all__ = ["TrainConfig", "read_config"]

_SHARES = ("warmup", "decay_until", "mix_from", "library", "library_end", "tests", "tests_end")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one run. ``steps`` makes it reproducible, ``seconds`` fits a budget.

    Parameters
    ----------
    hidden, intermediate, layers : int
        Geometry.
    vocab : int
        256: tokens are bytes. More: a byte-pair encoding, trained on the corpus unless ``tokenizer`` names one.
    tokenizer : str
        Folder with a ``tokenizer.json``, relative to the configuration file; empty for none.
    batch, window, accumulate : int
        Rows of a step over all processes, tokens of a row, and parts that a step is computed in.
    seconds : float
        Length of the run, which drives the schedules; used if ``steps`` is 0.
    steps : int
        Length of the run in steps, or 0.
    lr, lr_embedding, lr_vector, lr_end : float
        Peak learning rates of matrices, of embeddings, of norms and lower bounds; the end's share of the peak.
    warmup : float
        Fraction of the run with rising learning rate; a cosine follows.
    weight_decay, decay_until : float
        AdamW's decay of matrices, and the fraction of the run after which it is off.
    beta1, beta2, clip : float
        AdamW's moments and the largest gradient norm.
    library, library_end, tests, tests_end, mix_from : float
        Shares of the standard library's and its tests' windows until ``mix_from`` of the run, and at its end;
        a straight line between. The packages have the rest; where there are none, the library.
    spread : float
        Standard deviation of the initial weights.
    precision : str
        Of the products: ``auto`` (bfloat16 on CUDA, else float32), ``bfloat16``, ``float32``.
    lean : bool
        Keep less between forward and backward, for a fifth more arithmetic.
    sharded : bool
        With several processes: shard weights and moments (FSDP), else copies (DDP).
    evaluations : int
        How often held-out text is judged in a run.
    evaluated : int
        Segments of it that are judged on the way, evenly spread; the end's figure is over all. 0: all.
    checkpoint_seconds : float
        Time between checkpoints.
    checkpoint_steps : int
        The same in steps, or 0 to go by time.
    tensorboard : bool
        Write TensorBoard's event files to ``OUT/tensorboard``.
    seed : int
        Of weights and data order.

    Raises
    ------
    NomulError
        If a value is out of range, or some do not go together; it names them.
    """

    hidden: int = 512
    intermediate: int = 1536
    layers: int = 8
    vocab: int = 256
    tokenizer: str = ""
    batch: int = 48
    window: int = 1024
    accumulate: int = 1
    seconds: float = 400.0
    steps: int = 0
    lr: float = 4e-3
    lr_embedding: float = 4e-3
    lr_vector: float = 4e-3
    lr_end: float = 0.0
    warmup: float = 0.02
    weight_decay: float = 0.1
    decay_until: float = 0.5
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    library: float = 0.02
    library_end: float = 0.15
    tests: float = 0.03
    tests_end: float = 0.10
    mix_from: float = 0.5
    spread: float = 0.02
    precision: str = "auto"
    lean: bool = False
    sharded: bool = False
    evaluations: int = 8
    evaluated: int = 32
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int = 0
    tensorboard: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
                raise NomulError(f"config: {field.name} is {value}; it must be a finite number from 0")
        for name in ("batch", "window", "accumulate", "evaluations"):
            if getattr(self, name) < 1:
                raise NomulError(f"config: {name} is {getattr(self, name)}; it must be at least 1")
        for name in ("evaluated", "checkpoint_steps", "seed"):
            if getattr(self, name) < 0:
                raise NomulError(f"config: {name} is {getattr(self, name)}; it must be at least 0")
        for name in ("beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise NomulError(f"config: {name} is {getattr(self, name)}; it must be below 1")
        if self.clip == 0:
            raise NomulError("config: clip is 0; it must be more, or nothing is learnt")
        for name in _SHARES:
            if getattr(self, name) > 1:
                raise NomulError(f"config: {name} is {getattr(self, name)}; it lies in 0..1")
        if self.steps < 0 or (self.steps == 0 and self.seconds == 0):
            raise NomulError(f"config: steps is {self.steps} and seconds {self.seconds}; give a length")
        for ends in ((self.library, self.tests), (self.library_end, self.tests_end)):
            if sum(ends) > 1:
                raise NomulError(f"config: library and tests are {ends[0]} and {ends[1]}, together more than 1")
        if self.batch % self.accumulate:
            raise NomulError(f"config: batch is {self.batch}; it must be a multiple of accumulate, {self.accumulate}")
        if self.precision not in ("auto", "bfloat16", "float32"):
            raise NomulError(f"config: precision is {self.precision!r}; it is auto, bfloat16 or float32")
        if self.vocab != 256 and not 258 <= self.vocab <= 65535:
            raise NomulError(f"config: vocab is {self.vocab}; it is 256 (bytes) or 258 to 65535")
        _ = self.geometry

    @property
    def geometry(self) -> Geometry:
        """Sizes of the model."""
        return Geometry(hidden=self.hidden, intermediate=self.intermediate, layers=self.layers, vocab=self.vocab)

    @property
    def identity(self) -> str:
        """SHA-256 of what decides the weights but for rounding: a run goes on only from a checkpoint with the same."""
        free = {"tokenizer", "evaluations", "evaluated", "checkpoint_seconds", "checkpoint_steps", "tensorboard",
                "lean", "sharded", "accumulate"}  # fmt: skip
        kept = {name: value for name, value in asdict(self).items() if name not in free}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    def rate(self, progress: float) -> float:
        """Learning rate at a fraction of the run, relative to its peak."""
        if progress < self.warmup:
            return progress / self.warmup
        phase = (progress - self.warmup) / max(1 - self.warmup, 1e-9)
        return self.lr_end + (1 - self.lr_end) * (1 + math.cos(math.pi * min(phase, 1.0))) / 2

    def shares(self, progress: float, parts: Sequence[str]) -> dict[str, float]:
        """Share of each part's windows at a fraction of the run."""
        along = max(0.0, progress - self.mix_from) / max(1 - self.mix_from, 1e-9)
        made = {"library": self.library + (self.library_end - self.library) * along,
                "tests": self.tests + (self.tests_end - self.tests) * along}
        rest = "packages" if "packages" in parts else "library"
        made = {name: made.get(name, 0.0) for name in parts}
        made[rest] += 1 - sum(made.values())
        return made

    def with_settings(self, settings: Sequence[str]) -> TrainConfig:
        """The configuration with ``NAME=VALUE`` settings applied.

        Raises
        ------
        NomulError
            If there is no such setting, or it does not take the value.
        """
        changes: dict[str, Any] = {}
        for setting in settings:
            name, _, value = setting.partition("=")
            changes[name] = value
        return self.with_values(changes, "--set")

    def with_values(self, values: dict[str, Any], source: str) -> TrainConfig:
        """The configuration with some values, as a file or a command line has them; ``source`` is named in errors.

        Raises
        ------
        NomulError
            If there is no such setting, or it does not take the value.
        """
        kinds = {field.name: type(getattr(self, field.name)) for field in fields(self)}
        changes = {}
        for name, value in values.items():
            if name not in kinds:
                raise NomulError(f"{source}: no setting {name!r}; there are {', '.join(kinds)}")
            changes[name] = _converted(value, kinds[name], name, source)
        return replace(self, **changes)


def _converted(value: Any, kind: type, name: str, source: str) -> Any:
    if kind is bool and value in ("true", "false"):
        return value == "true"
    right = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if right and not (kind is not bool and isinstance(value, bool)):
        return kind(value)
    if isinstance(value, str) and kind is not bool:
        try:
            return kind(value)
        except ValueError:
            pass
    raise NomulError(f"{source}: {name} takes {kind.__name__}, not {value!r}")


def read_config(path: Path) -> TrainConfig:
    """Reads a configuration file.

    Raises
    ------
    NomulError
        If it cannot be read, or a key or value is wrong.
    """
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise NomulError(f"{path}: no configuration can be read: {error}") from None
    config = TrainConfig().with_values(values, str(path))
    if config.tokenizer:
        config = replace(config, tokenizer=str(path.parent / config.tokenizer))
    return config


def config_text(config: TrainConfig) -> str:
    """The configuration as a TOML file."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in asdict(config).items())


if __name__ == "__main__":
    sys.stdout.write(config_text(TrainConfig()))
