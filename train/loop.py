# SPDX-License-Identifier: Apache-2.0
"""Training from a configuration: fused path, one process or several, checkpoints, held-out figures, export."""

from __future__ import annotations

import json
import math
import platform
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nomul.model.errors import NomulError
from nomul.model.store import load

from .checkpoint import FILE, full_weights, load_checkpoint, restore, save_checkpoint
from .config import TrainConfig, config_text
from .export import export_model
from .fused import FusedLM, fused_backend
from .machine import enough_memory
from .model import MatMulFreeLM
from .processes import Processes, processes
from .scan import use_kernel
from .texts import Texts
from .tokens import Windows, judged_bits, judged_bits_integer

__all__ = ["Reporter", "make_optimiser", "run_config"]

_DTYPES = {"auto": None, "bfloat16": torch.bfloat16, "float32": torch.float32}
_LOOK = 10  # steps on a GPU between two looks at the loss, or at the first process's clock, which wait for it


class Reporter(Protocol):
    """Takes what a run says."""

    def line(self, text: str) -> None:
        """A line to keep."""

    def step(self, progress: float, text: str) -> None:
        """How far the run is."""


class _Quiet:
    def line(self, text: str) -> None:
        pass

    def step(self, progress: float, text: str) -> None:
        pass


def make_optimiser(model: nn.Module, config: TrainConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW with a group for matrices, for embeddings, and for norms and lower bounds; ``kind`` names its rate."""
    groups: dict[str, list[Tensor]] = {"lr": [], "lr_embedding": [], "lr_vector": []}
    for name, parameter in model.named_parameters():
        matrix = not name.endswith(("norm.weight", "lower_bounds"))
        groups["lr_embedding" if "embeddings" in name else "lr" if matrix else "lr_vector"].append(parameter)
    return torch.optim.AdamW(
        [{"params": parameters, "kind": kind} for kind, parameters in groups.items()],
        lr=0.0, betas=(config.beta1, config.beta2), weight_decay=0.0, fused=device.type == "cuda")


class _Run:
    """One run; see :func:`run_config`."""

    def __init__(self, config: TrainConfig, texts: Texts, folder: Path, run: Processes, say: Reporter):
        self.config, self.texts, self.folder, self.run, self.say = config, texts, folder, run, say
        device = run.device
        torch.manual_seed(config.seed)
        self.own = MatMulFreeLM(config.geometry, spread=config.spread).to(device)
        # float32, takes the weights to judge
        self.judged = MatMulFreeLM(config.geometry).to(device).eval() if run.first else None
        fused = FusedLM(self.own, lean=config.lean, exact=_DTYPES[config.precision])
        self.model = run.wrap(fused, self.own.model.layers, sharded=config.sharded)
        self.optimiser = make_optimiser(self.model, config, device)
        self.windows = Windows(texts.parts, config.window, texts.coder.begin, config.seed, device)
        self.step, self.before, self.start = 0, 0.0, time.monotonic()
        self.history: list[dict[str, float]] = []
        self.losses, self.counted = torch.zeros((), device=device), 0
        self.saved: tuple[float, int] = (0.0, 0)
        self.board: Any = None
        self.integer: float | None = None
        self.every = _LOOK if device.type == "cuda" else 1
        self.clock: float | None = None
        use_kernel(device)  # for judging

    @property
    def seconds(self) -> float:
        """Of the run so far, those before its last checkpoint included."""
        return self.before + time.monotonic() - self.start

    def progress(self) -> float:
        """Fraction of the run that is done, the same on every process."""
        c = self.config
        if c.steps:
            return min(self.step / c.steps, 1.0)
        if self.run.count == 1 or self.clock is None or self.step % self.every == 0:
            self.clock = self.run.agreed(self.seconds)
        return min(self.clock / c.seconds, 1.0)

    def resume(self) -> None:
        """Goes on from the checkpoint in the folder."""
        found = load_checkpoint(self.folder, self.config, self.texts.identity)
        restore(self.model, self.optimiser, found, self.config, self.run)
        p = found["progress"]
        self.step, self.before, self.history = p["step"], p["seconds"], p["history"]
        self.windows.drawn = p["drawn"]
        self.losses.fill_(p["losses"])
        self.counted = p["counted"]
        self.saved = (self.before, self.step)
        self.say.line(f"goes on from step {self.step}")

    def advance(self, progress: float) -> None:
        """One step."""
        c, run = self.config, self.run
        for group in self.optimiser.param_groups:
            group["lr"] = getattr(c, group["kind"]) * c.rate(progress)
            group["weight_decay"] = c.weight_decay if group["kind"] == "lr" and progress < c.decay_until else 0.0
        mine = c.batch // run.count
        rows = slice(run.rank * mine, (run.rank + 1) * mine)
        inputs, targets = self.windows.draw(self.step, c.batch, c.shares(progress, list(self.texts.parts)), rows)
        self.optimiser.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=run.device)
        parts = list(zip(inputs.chunk(c.accumulate), targets.chunk(c.accumulate), strict=True))
        for number, (given, wanted) in enumerate(parts, 1):
            with run.part(self.model, last=number == len(parts)):
                part = self.model(given, wanted)[0] / len(parts)
                part.backward()
            loss += part.detach()
        nn.utils.clip_grad_norm_(self.model.parameters(), c.clip)
        self.optimiser.step()
        self.losses += loss
        self.counted += 1
        self.step += 1

    def check(self, loss: float) -> None:
        """Ends the run if its loss is no number."""
        if not math.isfinite(loss):
            raise self.broken(f"the loss is {loss}")

    def broken(self, what: str) -> NomulError:
        """What ends a run whose numbers are none."""
        step = self.saved[1]
        where = f"the last good checkpoint is {self.folder / FILE} (step {step})" if step else "no checkpoint yet"
        return NomulError(f"train: {what} at step {self.step}; lower lr; {where}")

    def look(self, progress: float) -> None:
        """Looks whether the loss is still a number; says how it goes."""
        loss = self.run.mean(self.losses) / max(self.counted, 1) / math.log(2)
        self.check(loss)
        rate = self.step * self.config.batch * self.config.window / max(self.seconds, 1e-9)
        self.say.step(progress, f"step {self.step}  {loss:.4f} bits/token  {rate / 1e3:,.0f}k tokens/s")
        if self.board is not None:
            lr = self.optimiser.param_groups[0]["lr"]
            for name, value in (("loss/bits per token", loss), ("lr", lr), ("tokens per second", rate)):
                self.board.add_scalar(name, value, self.step)

    def judge(self, progress: float, *, whole: bool = False) -> float:
        """Held-out bits per byte of the weights as they would ship, which it writes."""
        weights = full_weights(self.model, self.own, self.run, self.config.sharded)
        train = self.run.mean(self.losses) / max(self.counted, 1) / math.log(2)
        self.check(train)  # before the model in the folder is replaced
        self.losses.zero_()
        self.counted = 0
        if self.judged is None:
            return math.nan
        self.judged.load_state_dict({k: v.to(self.run.device).bfloat16().float() for k, v in weights.items()})
        segments, size = self.texts.held_out(0 if whole else self.config.evaluated)
        bits = judged_bits(self.judged, segments, self.texts.coder.begin) / size
        epochs = self.windows.epochs()
        self.history.append({"progress": progress, "step": self.step, "seconds": self.seconds,
                             "train_bits_per_token": train, "held_out_bpb": bits})
        seen = " ".join(f"{name} {count:.2f}" for name, count in epochs.items())
        self.say.line(f"{progress:6.1%}  step {self.step}  train {train:.4f} bits/token  held-out {bits:.4f} "
                      f"bits/byte  {self.step * self.config.batch * self.config.window / self.seconds / 1e3:,.0f}k "
                      f"tokens/s  epochs: {seen}")
        if self.board is not None:
            self.board.add_scalar("held-out bits per byte", bits, self.step)
        export_model(self.judged, self.folder, self.texts, last=whole)
        self.record(bits)
        if whole:
            model, _ = load(self.folder / "model.nomul")
            self.integer = judged_bits_integer(model, segments, self.texts.coder.begin, self.run.device) / size
            self.say.line(f"integer model: held-out {self.integer:.4f} bits/byte")
        return bits

    def record(self, bits: float) -> dict[str, Any]:
        """Writes ``run.json``."""
        c, device = self.config, self.run.device
        gpu = device.type == "cuda"
        written = {
            "config": {**asdict(c), "tokenizer": Path(c.tokenizer).name},
            "corpus": {k: self.texts.manifest[k] for k in ("source", "python", "parts")},
            "ternary_weights": c.geometry.ternary_weights, "parameters": c.geometry.parameters,
            "bytes_per_token": self.texts.bytes_per_token,
            "steps": self.step, "tokens": self.step * c.batch * c.window, "epochs": self.windows.epochs(),
            "seconds": round(self.seconds, 1), "processes": self.run.count,
            "device": torch.cuda.get_device_name() if gpu else f"{platform.machine()} CPU",
            "torch": torch.__version__, "backend": fused_backend(device)[1],
            "precision": ("bfloat16" if gpu else "float32") if c.precision == "auto" else c.precision,
            "held_out_bpb": bits, "held_out_bpb_integer": self.integer, "history": self.history,
        }
        (self.folder / "run.json").write_text(json.dumps(written, indent=1) + "\n")
        return written

    def save(self) -> None:
        """Writes the checkpoint; ends the run if a weight is no number."""
        seconds = self.run.agreed(self.seconds)
        progress = {"step": self.step, "seconds": seconds, "history": self.history,
                    "drawn": dict(self.windows.drawn), "losses": self.run.mean(self.losses), "counted": self.counted}
        if not save_checkpoint(self.folder, self.model, self.optimiser, self.config, self.texts.identity, progress,
                               self.run):  # fmt: skip
            raise self.broken("a weight is no number")
        self.saved = (seconds, self.step)

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        c, (seconds, step) = self.config, self.saved
        if c.checkpoint_steps:
            return self.step - step >= c.checkpoint_steps
        return self.run.agreed(self.seconds) - seconds >= c.checkpoint_seconds

    def judgings(self, progress: float) -> int:
        """How often held-out text should have been judged by then."""
        return math.floor(progress * self.config.evaluations + 1e-9)

    def all(self) -> dict[str, Any]:
        """The run to its end."""
        done = self.judgings(self.history[-1]["progress"]) if self.history else 0
        while (progress := self.progress()) < 1:
            if self.judgings(progress) > done:
                done = self.judgings(progress)
                self.judge(progress)
            self.advance(progress)
            if self.step % self.every == 0:
                self.look(progress)
                if self.due():
                    self.save()
        self.look(1.0)
        self.save()
        bits = self.judge(1.0, whole=True)
        self.run.wait()
        return self.record(bits) if self.run.first else {"held_out_bpb": bits}


def run_config(
    config: TrainConfig, corpus: Path | None, folder: Path, *, device: str = "cuda", resume: bool = False,
    say: Reporter | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Trains a model as a configuration says.

    ``folder`` gets the checkpoint of the run (``checkpoint.pt``), ``config.toml``, ``run.json``, and the
    model: ``config.json``, ``model.safetensors`` (bfloat16), ``tokenizer.json`` if it has one, and at the end
    ``model.nomul``.

    Parameters
    ----------
    config : TrainConfig
    corpus : Path, optional
        What :mod:`nomul.train.packages` or :mod:`nomul.train.data` made; None: this Python's library.
    folder : Path
    device : str
        ``"cuda"`` or ``"cpu"``.
    resume : bool
        Go on from the folder's checkpoint.
    say : Reporter, optional
        Takes progress; of several processes the first's.

    Returns
    -------
    dict
        The record of the run, as in ``run.json``, on the first process.

    Raises
    ------
    NomulError
        If a device or file is missing, memory runs out, or the loss is no longer finite.
    """
    with processes(device) as run:
        if config.batch % (run.count * config.accumulate):
            raise NomulError(f"config: batch is {config.batch}; it must be a multiple of {run.count} processes times "
                             f"accumulate, {config.accumulate}")
        out: Reporter = say if say and run.first else _Quiet()
        if run.first:
            folder.mkdir(parents=True, exist_ok=True)
        run.wait()
        read = Texts(config, corpus, folder, run, keep=resume)
        out.line(f"{fused_backend(run.device)[1]}; {read.line}")
        with enough_memory(f"train: out of memory with batch = {config.batch}, window = {config.window}, accumulate = "
                           f"{config.accumulate}; raise accumulate, lower batch or window"
                           f"{'' if config.lean else ', or set lean = true'}"):  # fmt: skip
            made = _Run(config, read, folder, run, out)
            if resume:
                made.resume()
            elif run.first:
                if (folder / FILE).exists():
                    out.line(f"{folder / FILE} is of an earlier run, which --resume goes on with; this one replaces it")
                (folder / "model.nomul").unlink(missing_ok=True)  # no longer goes with what is beside it
                (folder / "config.toml").write_text(config_text(replace(config, tokenizer="")))
                (folder / "manifest.json").write_text(json.dumps(read.manifest, indent=1) + "\n")
            if config.tensorboard and run.first:
                made.board = _board(folder, made.step)
            try:
                return made.all()
            finally:
                if made.board is not None:
                    made.board.close()


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise NomulError("train: tensorboard is not installed; pip install tensorboard, or set tensorboard = false"
                         ) from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
