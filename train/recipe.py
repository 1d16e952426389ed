# SPDX-License-Identifier: Apache-2.0
"""The training recipe, all of it: hyper-parameters, data order, schedule, judging.

The training text is read as a stream: every epoch shuffles the documents, joins them and cuts
them into ``batch`` rows; each step takes the next ``window`` bytes of every row and carries the
recurrent state over, detached. Now and then a row restarts as a judged segment does: zero state,
byte 0x00 as the first context.

*Held-out bits per byte* is defined by :func:`bits_per_byte`: the text is cut into consecutive
segments of 4096 bytes (the last may be shorter), each starts from zero state with byte 0x00 as
the context of its first byte, and the figure is the mean of −log₂ p over all bytes.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nomul.model.errors import NomulError
from nomul.model.geometry import Geometry
from nomul.model.tokenizer import BEGIN

from .data import Corpus, load_corpus, standard_library
from .machine import enough_memory
from .model import MatMulFreeLM, export_checkpoint, import_checkpoint
from .scan import use_kernel

__all__ = ["SEGMENT", "Recipe", "bits_per_byte", "generate", "train"]

#: Bytes of a judged segment.
SEGMENT = 4096


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyper-parameters of one run. ``steps`` makes it reproducible, ``seconds`` fits a budget.

    Parameters
    ----------
    hidden, intermediate, layers : int
        Geometry; the vocabulary is 256 bytes.
    batch, window : int
        Rows, and bytes of each row in a step.
    seconds : float
        Length of the run, which drives the schedules; used if ``steps`` is 0.
    steps : int
        Length of the run in steps, or 0.
    lr, lr_embedding, lr_vector : float
        Peak learning rates of matrices, of embeddings, and of norms and lower bounds.
    warmup : float
        Fraction of the run with rising learning rate; a cosine to ``lr_end`` of the peak follows.
    weight_decay, decay_until : float
        AdamW's decay of matrices, and the fraction of the run after which it is off.
    beta1, beta2, clip : float
        AdamW's moments and the largest gradient norm.
    dropout, noise, smoothing : float
        Dropout of embeddings and residual branches; share of input bytes replaced by random ones;
        label smoothing.
    regular_until : float
        Fraction of the run after which these three are off.
    tests, tests_end : float
        Share of the test documents in an epoch at the start and at the end, a straight line
        between.
    restart : float
        Share of rows that restart in a step.
    ema : float
        Decay of the averaged weights, which are then the ones judged and shipped; 0 for none.
    spread : float
        Standard deviation of the initial weights.
    evaluations : int
        How often the held-out text is judged.
    seed : int
        Of weights, data order and noise.

    Raises
    ------
    NomulError
        If a value is out of range; it names it.
    """

    hidden: int = 180
    intermediate: int = 540
    layers: int = 3
    batch: int = 256
    window: int = 512
    seconds: float = 460.0
    steps: int = 0
    lr: float = 8e-3
    lr_embedding: float = 8e-3
    lr_vector: float = 4e-3
    lr_end: float = 0.0
    warmup: float = 0.01
    weight_decay: float = 0.1
    decay_until: float = 0.5
    beta1: float = 0.9
    beta2: float = 0.98
    clip: float = 1.0
    dropout: float = 0.0
    noise: float = 0.0
    smoothing: float = 0.0
    regular_until: float = 1.0
    tests: float = 1.0
    tests_end: float = 1.0
    restart: float = 0.1
    ema: float = 0.998
    spread: float = 0.05
    evaluations: int = 16
    seed: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            if not math.isfinite(getattr(self, field.name)):
                raise NomulError(
                    f"recipe: {field.name} is {getattr(self, field.name)}; it must be a finite number")
        for name in ("batch", "window", "evaluations"):
            if getattr(self, name) < 1:
                raise NomulError(f"recipe: {name} is {getattr(self, name)}; it must be at least 1")
        if self.steps < 0 or (self.steps == 0 and self.seconds <= 0):
            raise NomulError(f"recipe: steps is {self.steps} and seconds {self.seconds}; "
                             f"give a length")
        for name in ("warmup", "decay_until", "dropout", "noise", "smoothing", "tests", "tests_end",
                     "restart", "ema", "regular_until"):
            if not 0 <= getattr(self, name) <= 1:
                raise NomulError(f"recipe: {name} is {getattr(self, name)}; it lies in 0..1")

    @property
    def geometry(self) -> Geometry:
        """Sizes of the model."""
        return Geometry(hidden=self.hidden, intermediate=self.intermediate, layers=self.layers,
                        vocab=256)

    def rate(self, progress: float) -> float:
        """Learning rate at a fraction of the run, relative to its peak."""
        if progress < self.warmup:
            return progress / self.warmup
        phase = (progress - self.warmup) / max(1 - self.warmup, 1e-9)
        return self.lr_end + (1 - self.lr_end) * (1 + math.cos(math.pi * min(phase, 1.0))) / 2

    def with_settings(self, settings: list[str]) -> Recipe:
        """The recipe with ``NAME=VALUE`` settings applied."""
        kinds = {field.name: type(getattr(self, field.name)) for field in fields(self)}
        changes: dict[str, Any] = {}
        for setting in settings:
            name, _, value = setting.partition("=")
            if name not in kinds:
                raise NomulError(f"recipe: no setting {name!r}; there are {', '.join(kinds)}")
            try:
                changes[name] = kinds[name](value)
            except ValueError as error:
                raise NomulError(f"recipe: {name} takes {kinds[name].__name__}, "
                                 f"not {value!r}") from error
        return replace(self, **changes)


class _Windows:
    """Endless windows of the training text (see the module's docstring).

    Iteration gives ``(inputs, targets, fresh)``: int64 ``[batch, window]`` twice, and bool
    ``[batch, 1]``, the rows whose state must be zero. Set ``tests`` to change the share of test
    documents of epochs to come.
    """

    def __init__(self, recipe: Recipe, corpus: Corpus, device: torch.device):
        self.recipe, self.device, self.tests = recipe, device, recipe.tests
        self.library, self.test_documents = corpus.documents("library"), corpus.documents("tests")
        self.epochs = 0

    def _rows(self) -> Tensor:
        rng = np.random.default_rng([self.recipe.seed, self.epochs])
        self.epochs += 1
        chosen = rng.random(len(self.test_documents)) < self.tests
        documents = self.library + [
            document for document, take in zip(self.test_documents, chosen, strict=True) if take]
        text = np.concatenate([documents[k] for k in rng.permutation(len(documents))])
        unit = self.recipe.batch * self.recipe.window
        if len(text) < unit:
            raise NomulError(f"recipe: batch × window is {unit} bytes, the training text only "
                             f"{len(text)}")
        start = rng.integers(len(text) % unit + 1)
        rows = text[start : start + len(text) // unit * unit].reshape(self.recipe.batch, -1)
        rows = np.concatenate([np.full((len(rows), 1), BEGIN, np.uint8), rows], 1)
        return torch.from_numpy(rows).to(self.device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        rng = np.random.default_rng([self.recipe.seed, 2**32])
        width = self.recipe.window
        while True:
            rows = self._rows()
            chance = rng.random((rows.shape[1] // width, len(rows), 1))
            chance[0] = -1  # a new epoch cuts the text elsewhere
            restarts = torch.from_numpy(chance < self.recipe.restart).to(self.device)
            for start in range(0, rows.shape[1] - 1, width):
                fresh = restarts[start // width]
                inputs = rows[:, start : start + width].long()
                inputs[:, :1].masked_fill_(fresh, BEGIN)
                yield inputs, rows[:, start + 1 : start + width + 1].long(), fresh


@torch.no_grad()
def bits_per_byte(model: MatMulFreeLM, text: np.ndarray, *, segment: int = SEGMENT,
                  window: int = 512) -> float:
    """Held-out bits per byte, as the module's docstring defines it.

    Parameters
    ----------
    model : MatMulFreeLM
        Judged as it is, in its own dtype and on its own device.
    text : ndarray of uint8, shape ``[bytes]``
    segment : int
        Bytes of a segment.
    window : int
        Bytes of a segment taken at once; has no influence on the result.

    Raises
    ------
    NomulError
        If the text is empty.
    """
    if text.size == 0:
        raise NomulError("bits per byte of an empty text; give at least one byte")
    device = model.model.lower_bounds.device
    count = -(-text.size // segment)
    padded = np.zeros(count * segment, dtype=np.uint8)
    padded[: text.size] = text
    targets = torch.from_numpy(padded).to(device).view(count, segment).long()
    inputs = torch.cat([torch.full_like(targets[:, :1], BEGIN), targets[:, :-1]], 1)
    valid = torch.arange(count * segment, device=device).view(count, segment) < text.size
    state, total = model.initial_state(count), 0.0
    for start in range(0, segment, window):
        part = slice(start, start + window)
        logits, state = model(inputs[:, part], state)
        nats = F.cross_entropy(logits.flatten(0, 1), targets[:, part].flatten(), reduction="none")
        total += float((nats.double() * valid[:, part].flatten()).sum())
    return total / math.log(2) / text.size


@torch.no_grad()
def generate(model: MatMulFreeLM, prompt: bytes, count: int, *, temperature: float = 1.0,
             seed: int = 0) -> bytes:
    """Samples bytes after a prompt, which the begin marker precedes.

    Parameters
    ----------
    model : MatMulFreeLM
    prompt : bytes
    count : int
        Bytes to write; fewer if the model begins another document.
    temperature : float
        0 takes the most likely byte.
    seed : int
        Of the choice.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.tensor([[BEGIN, *prompt]], device=model.model.lower_bounds.device)
    state, written = None, bytearray()
    while len(written) < count:
        logits, state = model(tokens, state)
        last = logits[0, -1].float().cpu()
        if temperature > 0:
            byte = int(torch.multinomial((last / temperature).softmax(0), 1, generator=generator))
        else:
            byte = int(last.argmax())
        if byte == BEGIN:
            break
        written.append(byte)
        tokens = torch.tensor([[byte]], device=tokens.device)
    return bytes(written)


def _optimiser(model: MatMulFreeLM, recipe: Recipe, fused: bool) -> torch.optim.AdamW:
    groups: dict[str, list[Tensor]] = {"lr": [], "lr_embedding": [], "lr_vector": []}
    for name, parameter in model.named_parameters():
        matrix = parameter.dim() == 2 and not name.endswith("lower_bounds")
        kind = "lr_embedding" if "embeddings" in name else "lr" if matrix else "lr_vector"
        groups[kind].append(parameter)
    return torch.optim.AdamW(
        [{"params": parameters, "peak": getattr(recipe, kind),
          "decay": recipe.weight_decay if kind == "lr" else 0.0}
         for kind, parameters in groups.items()],
        lr=0.0, betas=(recipe.beta1, recipe.beta2), weight_decay=0.0, fused=fused)


@enough_memory("train: out of memory; lower batch or window (--set batch=64)")
def train(recipe: Recipe, corpus: Corpus, folder: Path, *, device: str = "cuda", fast: bool = True,
          say: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains a model and writes its best checkpoint and the record of the run.

    Parameters
    ----------
    recipe : Recipe
    corpus : Corpus
    folder : Path
        Gets ``config.json``, ``model.safetensors`` (bfloat16) and ``run.json``, the returned
        record.
    device : str
        ``"cuda"`` or ``"cpu"``.
    fast : bool
        On CUDA: compile, and multiply matrices in bfloat16.
    say : callable
        Takes progress, a line at a time.

    Returns
    -------
    dict
        Recipe, corpus manifest, history, and ``held_out_bpb`` of the checkpoint as written and
        read back.

    Raises
    ------
    NomulError
        If the device is missing, memory runs out, or the loss is no longer finite.
    """
    where = torch.device(device)
    if where.type == "cuda" and not torch.cuda.is_available():
        raise NomulError("train: no CUDA GPU here; use --device cpu (slow: for trying out) "
                         "or another machine")
    fast = fast and where.type == "cuda"
    torch.manual_seed(recipe.seed)
    model = MatMulFreeLM(recipe.geometry, spread=recipe.spread).to(where)
    judged = copy.deepcopy(model).eval()  # float32, never compiled, takes the weights to judge
    average = {name: value.clone() for name, value in model.state_dict().items()}
    slow_scan = use_kernel(where)
    say(f"scan: {'one kernel' if slow_scan is None else f'plain PyTorch ({slow_scan})'}")

    def losses_of(x: Tensor, targets: Tensor, smoothing: Tensor) -> tuple[Tensor, Tensor]:
        """The loss to descend, and the plain one."""
        log_p = model.head(x).log_softmax(-1)
        plain = -log_p.gather(-1, targets[..., None]).mean()
        return plain - smoothing * (log_p.mean() + plain), plain.detach()

    def record(held_out: float) -> dict[str, Any]:
        """Writes the record as it stands: a run cut off leaves it and its best checkpoint."""
        gpu = where.type == "cuda"
        written = {
            "recipe": asdict(recipe),
            "corpus": manifest,
            "ternary_weights": recipe.geometry.ternary_weights,
            "steps": step,
            "bytes": step * recipe.batch * recipe.window,
            "epochs": windows.epochs,
            "seconds": round(time.monotonic() - start, 1),
            "device": torch.cuda.get_device_name() if gpu else f"{platform.machine()} CPU",
            "torch": torch.__version__,
            "scan": slow_scan or "kernel",
            "held_out_bpb": held_out,
            "history": history,
        }
        (folder / "run.json").write_text(json.dumps(written, indent=1) + "\n")
        return written

    if fast:
        model.set_exact(torch.bfloat16)
        for block in model.model.layers:
            block.compile(dynamic=False)
        losses_of = torch.compile(losses_of, dynamic=False)

    def regularise(on: bool) -> None:
        model.set_dropout(recipe.dropout * on)
        smoothing.fill_(recipe.smoothing * on)

    smoothing = torch.zeros((), device=where)
    regular = True
    regularise(True)
    optimiser = _optimiser(model, recipe, fused=where.type == "cuda")
    parameters = list(model.parameters())
    windows, manifest = _Windows(recipe, corpus, where), corpus.manifest()
    state = model.initial_state(recipe.batch)
    noise_source = torch.Generator(device=where).manual_seed(recipe.seed)
    history: list[dict[str, float]] = []
    best, step, losses = math.inf, 0, torch.zeros((), device=where)
    counted = 0
    folder.mkdir(parents=True, exist_ok=True)
    stream = iter(windows)
    inputs, targets, fresh = next(stream)
    losses_of(model.features(inputs, state)[0], targets, smoothing)[0].backward()  # compiles
    start = time.monotonic()
    while True:
        elapsed = time.monotonic() - start
        progress = min(step / recipe.steps if recipe.steps else elapsed / recipe.seconds, 1.0)
        if (progress >= len(history) / recipe.evaluations and step) or progress >= 1:
            source = average if recipe.ema else model.state_dict()
            judged.load_state_dict({k: v.bfloat16().float() for k, v in source.items()})
            held_out = bits_per_byte(judged, corpus.held_out)
            train_bpb = float(losses) / max(counted, 1) / math.log(2)
            if not math.isfinite(train_bpb):
                raise NomulError(f"train: the loss is {train_bpb} at step {step}; lower lr")
            rate = step * recipe.batch * recipe.window / max(elapsed, 1e-9)
            history.append({"progress": progress, "step": step, "seconds": elapsed,
                            "train_bpb": train_bpb, "held_out_bpb": held_out})
            say(f"{progress:6.1%}  step {step}  epoch {windows.epochs}  train {train_bpb:.4f}  "
                f"held-out {held_out:.4f} bits/byte  {rate / 1e6:.2f} MB/s")
            losses.zero_()
            counted = 0
            if held_out < best:
                best = held_out
                export_checkpoint(judged, folder)
            record(best)
            if progress >= 1:
                break
        if regular and progress >= recipe.regular_until:
            regular = False
            regularise(False)
        windows.tests = recipe.tests + (recipe.tests_end - recipe.tests) * progress
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * recipe.rate(progress)
            group["weight_decay"] = group["decay"] if progress < recipe.decay_until else 0.0
        if recipe.noise and regular:
            hit = torch.rand(inputs.shape, generator=noise_source, device=where) < recipe.noise
            other = torch.randint(1, 256, inputs.shape, generator=noise_source, device=where)
            inputs = torch.where(hit, other, inputs)
        x, state = model.features(inputs, state * ~fresh)
        state = state.detach()
        loss, plain_loss = losses_of(x, targets, smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimiser.step()
        losses += plain_loss
        counted += 1
        step += 1
        if recipe.ema:
            keep = min(recipe.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.values()),
                                 [p.detach() for p in model.state_dict().values()], 1 - keep)
        inputs, targets, fresh = next(stream)
        if step % 8 == 0 and where.type == "cuda":
            torch.cuda.synchronize()  # the schedule goes by the clock

    shipped = bits_per_byte(import_checkpoint(folder).to(where), corpus.held_out)
    written = record(shipped)
    say(f"best held-out {shipped:.4f} bits/byte, as shipped; {step} steps in "
        f"{written['seconds']:.0f} s")
    return written


def _main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m nomul.train.recipe",
                                     description="Runs the recipe.")
    parser.add_argument("--corpus", type=Path,
                        help="exported corpus; default: this Python's library")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--plain", action="store_true", help="no compilation, no bfloat16")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    given = parser.parse_args(arguments)
    try:
        recipe = Recipe().with_settings(given.set)
        corpus = load_corpus(given.corpus) if given.corpus else standard_library()
        train(recipe, corpus, given.out, device=given.device, fast=not given.plain,
              say=lambda line: print(line, flush=True))
    except NomulError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
