# SPDX-License-Identifier: Apache-2.0
"""One process or several: torchrun's, with a copy of the model each (DDP) or a share of it (FSDP)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from nomul.model.errors import NomulError

__all__ = ["Processes", "count_of", "processes"]

_LIMIT = timedelta(hours=1)  # a process that waits longer for the others, for the first's judging say, gives up
#: Gloo's threads take Python's lock to free what they sent last, and DDP's end waits for these threads with that lock.
_IDLE_S = 0.2


def count_of() -> tuple[int, int]:
    """Rank and number of processes, as torchrun says them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


class Processes:
    """What this process is among those of the run.

    Attributes
    ----------
    rank, count : int
    device : torch.device
    """

    def __init__(self, device: torch.device, rank: int, count: int):
        self.device, self.rank, self.count = device, rank, count

    @property
    def first(self) -> bool:
        """Whether this process judges, writes and speaks."""
        return self.rank == 0

    def wrap(self, model: nn.Module, blocks: Iterable[nn.Module], *, sharded: bool) -> nn.Module:
        """The model with gradients averaged over all processes.

        Parameters
        ----------
        model : Module
        blocks : iterable of Module
            Parts of it that are computed by their ``by``.
        sharded : bool
            Each process holds a share of weights, gradients and moments; the weights of a block are whole only
            while it is computed. Else each holds a copy.
        """
        if self.count == 1:
            return model
        if sharded:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
            mesh = init_device_mesh(self.device.type, (self.count,))
            for block in blocks:
                fully_shard(block, mesh=mesh)
                register_fsdp_forward_method(block, "by")
            fully_shard(model, mesh=mesh)
            return model
        from torch.nn.parallel import DistributedDataParallel
        return DistributedDataParallel(model, device_ids=None if self.device.type == "cpu" else [self.device])

    def part(self, model: nn.Module, *, last: bool) -> Any:
        """Context of a part of a step; gradients are averaged with the last."""
        if hasattr(model, "set_requires_gradient_sync"):
            model.set_requires_gradient_sync(last)
        return nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync()

    def agreed(self, value: float) -> float:
        """The first process's value."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared)

    def mean(self, value: torch.Tensor) -> float:
        """Mean over all processes."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.count
        return float(value)

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """The processes that torchrun started, or this one alone.

    Parameters
    ----------
    device : str
        ``"cuda"`` (one GPU a process) or ``"cpu"``.

    Raises
    ------
    NomulError
        If there is no such device, or fewer GPUs than processes.
    """
    rank, count = count_of()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda":
        if not torch.cuda.is_available():
            raise NomulError("train: no CUDA GPU here; use --device cpu (slow: for trying out) or another machine")
        if local >= torch.cuda.device_count():
            raise NomulError(f"train: process {local} has no GPU, there are {torch.cuda.device_count()}; "
                             f"lower torchrun's --nproc-per-node")
    where = torch.device(device, local) if device == "cuda" else torch.device(device)
    if count == 1:
        yield Processes(where, 0, 1)
        return
    if where.type == "cuda":
        torch.cuda.set_device(where)
        dist.init_process_group("nccl", timeout=_LIMIT, device_id=where)
    else:
        dist.init_process_group("gloo", timeout=_LIMIT)
    try:
        yield Processes(where, rank, count)
    finally:
        if where.type == "cpu":
            time.sleep(_IDLE_S)
        dist.destroy_process_group()
