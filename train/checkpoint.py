# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run: everything that it needs to go on as if it had never stopped."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint.state_dict as dcp
from torch import Tensor, nn

from nomul.model.errors import NomulError

from .config import TrainConfig
from .processes import Processes

__all__ = ["FILE", "full_weights", "load_checkpoint", "restore", "save_checkpoint"]

FILE = "checkpoint.pt"
_WHOLE = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
_ONE = dcp.StateDictOptions(full_state_dict=True)
_SHARED = dcp.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
_KEYS = ("identity", "config", "corpus", "weights", "moments", "progress")


def full_weights(model: nn.Module, own: nn.Module, run: Processes, sharded: bool) -> dict[str, Tensor]:
    """All weights by the names of :class:`~nomul.train.model.MatMulFreeLM`; with shards on the first process only.

    Parameters
    ----------
    model, own : Module
        As it trains, and the :class:`~nomul.train.model.MatMulFreeLM` in it.
    run : Processes
    sharded : bool
    """
    if run.count > 1 and sharded:
        whole = dcp.get_model_state_dict(model, options=_WHOLE)
        return {name.removeprefix("model."): value for name, value in whole.items()}
    return {name: value.detach() for name, value in own.state_dict().items()}


def save_checkpoint(
    folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, config: TrainConfig, corpus: str,
    progress: dict[str, Any], run: Processes,
) -> bool:  # fmt: skip
    """Writes ``checkpoint.pt``; what was there stays until the new file is whole, and if a weight is no number.

    It is the same file whatever the number of processes, with shares or copies.

    Parameters
    ----------
    model : Module
        As it trains.
    corpus : str
        What identifies the data.
    progress : dict
        Plain values: step, seconds, data drawn, history.

    Returns
    -------
    bool
        Whether it was written.
    """
    weights, moments = dcp.get_state_dict(model, optimiser, options=_WHOLE)
    good = 1.0
    if run.first:
        good = float(all(bool(value.isfinite().all()) for value in weights.values()))
        if good:
            part = folder / f"{FILE}.part"
            torch.save({"identity": config.identity, "config": asdict(config), "corpus": corpus, "weights": weights,
                        "moments": moments, "progress": progress}, part)  # fmt: skip
            part.replace(folder / FILE)
    return run.agreed(good) > 0


def load_checkpoint(folder: Path, config: TrainConfig, corpus: str) -> dict[str, Any]:
    """Reads a checkpoint that this configuration and corpus can go on from.

    Raises
    ------
    NomulError
        If there is none, it is damaged, or it is another run's: which settings differ.
    """
    path = folder / FILE
    if not path.is_file():
        raise NomulError(f"{path}: no such file; there is nothing to resume, leave --resume out")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        identity, theirs, *_ = (found[key] for key in _KEYS)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        line = " ".join(str(error).split())[:120]
        raise NomulError(f"{path}: no checkpoint can be read ({line}); start anew without --resume") from None
    if identity != config.identity:
        ours = asdict(config)
        names = [n for n in ours if ours[n] != theirs.get(n) and _decides(config, n, theirs.get(n))]
        shown = ", ".join(f"{n} = {theirs.get(n)!r} (now {ours[n]!r})" for n in names)
        raise NomulError(f"{path}: is of a run with {shown or 'other settings'}; give the same configuration, "
                         f"or another -o")
    if found["corpus"] != corpus:
        raise NomulError(f"{path}: is of a run with another corpus; give the same, or another -o")
    return dict(found)


def _decides(config: TrainConfig, name: str, value: Any) -> bool:
    """Whether another value of a setting makes it another run."""
    try:
        return TrainConfig(**{**asdict(config), name: value}).identity != config.identity
    except (NomulError, TypeError):
        return True


def restore(
    model: nn.Module, optimiser: torch.optim.Optimizer, found: dict[str, Any], config: TrainConfig, run: Processes
) -> None:
    """Puts weights and moments of a checkpoint in place.

    Parameters
    ----------
    model : Module
        As it trains.
    found : dict
        What :func:`load_checkpoint` gave; every process has it.
    """
    dcp.set_state_dict(model, optimiser, model_state_dict=found["weights"], optim_state_dict=found["moments"],
                       options=_SHARED if run.count > 1 and config.sharded else _ONE)  # fmt: skip
