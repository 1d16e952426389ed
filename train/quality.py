# SPDX-License-Identifier: Apache-2.0
"""Loss of MatMul-free models against Transformers: same data, tokens and number of weights, at several sizes.

``python -m nomul.train.quality --corpus FOLDER --out FOLDER`` leaves ``quality.json`` and its plots. Both
kinds are tuned alike: the same number of learning rates, a factor of two apart, each tried for a share of the
run; where the best lies at an end of the list, the next beyond is tried too. The full run, with the best,
has the same steps, rows and order of data for both. What is judged is the loss at the end of the run on the
held-out text, cut into windows of the training length, with products in float32, for both.

Of a configuration it takes tokens, ``batch``, ``window``, ``steps``, ``seed``, ``warmup``, ``lr_end``,
``weight_decay`` (of all matrices but the embeddings, to the end), ``beta1``, ``beta2``, ``clip`` and the shares
of the parts.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nomul.model.checkpoint import read_checkpoint
from nomul.model.errors import NomulError
from nomul.model.fold import fold
from nomul.model.geometry import Geometry

from .config import TrainConfig, read_config
from .fused import FusedLM
from .loop import make_optimiser
from .machine import describe, enough_memory
from .model import MatMulFreeLM, export_checkpoint, import_checkpoint
from .processes import Processes
from .scan import use_kernel
from .texts import Texts
from .tokens import Windows, judged_bits, judged_bits_integer
from .transformer import TransformerLM

__all__ = ["KINDS", "SIZES", "compare", "join", "plot"]

#: Width, inner width and layers of the sizes that are compared by default.
SIZES = {"1.4M": (128, 384, 4), "6M": (256, 768, 6), "14M": (384, 1152, 6), "27M": (512, 1536, 8)}

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """An architecture: what makes its model and loss, and the middle of the learning rates that are tried."""

    make: Callable[[Geometry, torch.device], nn.Module]
    loss: Callable[[nn.Module, torch.device], Loss]
    lr: float


def _fused_loss(model: nn.Module, device: torch.device) -> Loss:
    assert isinstance(model, MatMulFreeLM)
    fused = FusedLM(model)
    return lambda inputs, targets: fused(inputs, targets)[0]


def _transformer_loss(model: nn.Module, device: torch.device) -> Loss:
    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(inputs)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
    return loss


#: Both kinds; on CUDA their products are in bfloat16, weights, norms and sums in float32.
KINDS = {
    "matmul-free": Kind(make=lambda g, d: MatMulFreeLM(g).to(d), loss=_fused_loss, lr=4e-3),
    "transformer": Kind(make=lambda g, d: TransformerLM(g).to(d), loss=_transformer_loss, lr=1e-3),
}


@enough_memory("quality: out of memory; lower batch or window (--set batch=32), for all sizes alike")
def _train(kind: Kind, config: TrainConfig, texts: Texts, device: torch.device, say: Callable[[str], None]
           ) -> tuple[nn.Module, list[float], float]:  # fmt: skip
    """Model, losses in bits per token, and seconds of a run of ``config.steps`` steps."""
    torch.manual_seed(config.seed)
    model = kind.make(config.geometry, device)
    loss_of = kind.loss(model, device)
    optimiser = make_optimiser(model, config, device)
    windows = Windows(texts.parts, config.window, texts.coder.begin, config.seed, device)
    losses = torch.empty(config.steps, device=device)
    begin = time.monotonic()
    for step in range(config.steps):
        progress = step / config.steps
        for group in optimiser.param_groups:
            group["lr"] = getattr(config, group["kind"]) * config.rate(progress)
            group["weight_decay"] = config.weight_decay if group["kind"] == "lr" else 0.0
        inputs, targets = windows.draw(step, config.batch, config.shares(progress, list(texts.parts)), slice(None))
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimiser.step()
        losses[step] = loss.detach()
    curve = (losses / math.log(2)).tolist()
    seconds = time.monotonic() - begin
    say(f"  lr {config.lr:g}: last {curve[-1]:.4f} bits/token, {seconds:.0f} s")
    return model, curve, seconds


@torch.no_grad()
def _transformer_bits(model: nn.Module, segments: list[np.ndarray], begin: int, device: torch.device) -> float:
    """Sum of −log₂ p over the tokens of segments, each from its begin token on, products in float32."""
    total = 0.0
    for segment in segments:
        targets = torch.from_numpy(segment).to(device)[None]
        logits = model(torch.cat([torch.full_like(targets[:, :1], begin), targets[:, :-1]], 1))
        total += float(F.cross_entropy(logits.double().flatten(0, 1), targets.flatten(), reduction="sum"))
    return total / math.log(2)


def _windows_of(texts: Texts, length: int) -> tuple[list[np.ndarray], int]:
    segments, size = texts.held_out()
    return [part for s in segments for part in np.split(s, range(length, len(s), length)) if len(part)], size


def _end(curve: list[float]) -> float:
    tail = curve[-max(1, len(curve) // 10):]
    return sum(tail) / len(tail)


def _tuned(kind: Kind, config: TrainConfig, texts: Texts, device: torch.device, share: float,
           say: Callable[[str], None]) -> tuple[float, dict[str, float | None]]:  # fmt: skip
    """The best learning rate, and what each gave: the mean of the last tenth of a short run; None for no number."""
    short = replace(config, steps=max(1, round(config.steps * share)))
    tried: dict[float, float] = {}

    def attempt(lr: float) -> None:
        with_rate = replace(short, lr=lr, lr_embedding=lr, lr_vector=lr)
        end = _end(_train(kind, with_rate, texts, device, say)[1])
        tried[lr] = end if math.isfinite(end) else math.inf

    for factor in (0.5, 1.0, 2.0):
        attempt(kind.lr * factor)
    best = min(tried, key=tried.__getitem__)
    if best != kind.lr:  # at an end of the list
        attempt(best * (2 if best > kind.lr else 0.5))
        best = min(tried, key=tried.__getitem__)
    return best, {f"{lr:g}": round(end, 4) if math.isfinite(end) else None for lr, end in sorted(tried.items())}


def compare(
    sizes: dict[str, tuple[int, int, int]], config: TrainConfig, texts: Texts, folder: Path, device: torch.device, *,
    share: float = 0.2, say: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """Trains both kinds at every size; writes ``quality.json`` after each.

    Parameters
    ----------
    sizes : dict of str to (hidden, intermediate, layers)
    config : TrainConfig
        Of every run; its ``steps`` must be given.
    texts : Texts
    folder : Path
    device : torch.device
    share : float
        Of the steps, for a learning rate that is tried.
    say : callable

    Returns
    -------
    dict
        ``rows``, one a size, and ``trend``: the gap in bits per byte as a line over log₁₀ of the weights. Of a
        row's MatMul-free model, ``held_out_bpb`` is that of its float32 weights, ``held_out_bpb_rounded`` of the
        same rounded to bfloat16, as its checkpoint has them, and ``held_out_bpb_integer`` of the integers that
        are made of that checkpoint.

    Raises
    ------
    NomulError
        If ``steps`` is 0, memory runs out, or a full run ends with a loss that is no number.
    """
    if config.steps == 0:
        raise NomulError("quality: steps is 0; both kinds need the same steps, give them")
    made: dict[str, Any] = {
        "machine": describe(device) if device.type == "cuda" else {"cpu": "no GPU"},
        "steps": config.steps, "tokens": config.steps * config.batch * config.window, "window": config.window,
        "corpus": texts.manifest["source"], "bytes_per_token": texts.bytes_per_token, "rows": [],
    }  # fmt: skip
    use_kernel(device)  # for judging
    segments, size = _windows_of(texts, config.window)
    for name, (hidden, intermediate, layers) in sizes.items():
        row: dict[str, Any] = {"size": name}
        for label, kind in KINDS.items():
            own = replace(config, hidden=hidden, intermediate=intermediate, layers=layers)
            say(f"{name} {label}")
            lr, tried = _tuned(kind, own, texts, device, share, say)
            model, curve, seconds = _train(kind, replace(own, lr=lr, lr_embedding=lr, lr_vector=lr), texts, device, say)
            if not math.isfinite(_end(curve)):
                raise NomulError(f"quality: {name} {label}: the loss is no number with lr {lr:g}; lower clip or warm "
                                 f"up longer (--set warmup=0.1), for both kinds alike")
            found: dict[str, Any] = {"lr": lr, "tried": tried, "seconds": round(seconds, 1),
                                     "weights": sum(p.numel() for p in model.parameters() if p.dim() == 2)}
            if isinstance(model, MatMulFreeLM):
                export_checkpoint(model, folder / name)
                model.set_exact(torch.float32).eval()
                found["held_out_bpb"] = judged_bits(model, segments, texts.coder.begin) / size
                rounded = import_checkpoint(folder / name).to(device)
                found["held_out_bpb_rounded"] = judged_bits(rounded, segments, texts.coder.begin) / size
                integers = fold(read_checkpoint(folder / name))
                found["held_out_bpb_integer"] = judged_bits_integer(
                    integers, segments, texts.coder.begin, device) / size  # fmt: skip
            else:
                found["held_out_bpb"] = _transformer_bits(model.eval(), segments, texts.coder.begin, device) / size
            found["curve"] = [round(v, 4) for v in curve]
            row[label] = found
            say(f"  held-out {found['held_out_bpb']:.4f} bits/byte")
        row["gap"] = row["matmul-free"]["held_out_bpb"] - row["transformer"]["held_out_bpb"]
        made["rows"].append(row)
        _write(made, folder)
    return made


def join(files: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Makes one comparison of several, whose sizes were trained on different GPUs; writes its ``quality.json``.

    Parameters
    ----------
    files : sequence of Path
        What :func:`compare` wrote.
    folder : Path

    Returns
    -------
    dict
        As of :func:`compare`.

    Raises
    ------
    NomulError
        If a file cannot be read, or its runs had other data, steps or GPU than the first's.
    """
    parts = []
    for file in files:
        try:
            read = json.loads(file.read_text())
            for row in read["rows"]:
                _ = row["gap"], [row[kind][key] for kind in KINDS for key in ("weights", "held_out_bpb", "curve")]
            _ = read["machine"].get
        except OSError as error:
            raise NomulError(f"{file}: {error.strerror}; give the quality.json of a comparison") from None
        except ValueError as error:
            raise NomulError(f"{file}: no JSON ({error}); give the quality.json of a comparison") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise NomulError(f"{file}: no comparison ({error}); give the quality.json of one") from None
        parts.append(read)
        for key in ("steps", "tokens", "window", "corpus", "bytes_per_token"):
            if parts[-1].get(key) != parts[0].get(key):
                raise NomulError(f"{file}: {key} is {parts[-1].get(key)}, in {files[0]} {parts[0].get(key)}; "
                                 f"only runs on the same data compare")
        gpus = [part["machine"].get("gpu") for part in (parts[0], parts[-1])]
        if gpus[0] != gpus[1]:
            raise NomulError(f"{file}: trained on {gpus[1]}, {files[0]} on {gpus[0]}; compare runs of one machine")
    rows = [row for part in parts for row in part["rows"]]
    made: dict[str, Any] = {**parts[0], "rows": sorted(rows, key=lambda row: row["matmul-free"]["weights"])}
    folder.mkdir(parents=True, exist_ok=True)
    _write(made, folder)
    return made


def _write(made: dict[str, Any], folder: Path) -> None:
    made["trend"] = _trend(made["rows"])
    (folder / "quality.json").write_text(json.dumps(made, indent=1) + "\n")


def _trend(rows: list[dict[str, Any]]) -> dict[str, float] | None:
    if len(rows) < 2:
        return None
    slope, offset = np.polyfit([math.log10(row["matmul-free"]["weights"]) for row in rows],
                               [row["gap"] for row in rows], 1)  # fmt: skip
    return {"bits_per_byte_per_decade": float(slope), "at_one_weight": float(offset)}


def plot(made: dict[str, Any], folder: Path) -> list[Path]:
    """Draws ``curves.png`` and ``gap.png`` from what :func:`compare` gives.

    Raises
    ------
    NomulError
        If matplotlib is not installed.
    """
    try:
        import matplotlib
        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise NomulError("quality: matplotlib is not installed; pip install matplotlib") from None
    colours = {"matmul-free": "tab:blue", "transformer": "tab:orange"}
    rows = made["rows"]
    figure, axes = pyplot.subplots(1, len(rows), figsize=(3 * len(rows) + 1, 3.2), sharey=True, squeeze=False)
    for axis, row in zip(axes[0], rows, strict=True):
        for label, colour in colours.items():
            curve = np.array(row[label]["curve"])
            width = max(1, len(curve) // 50)
            smooth = np.convolve(curve, np.ones(width) / width, mode="valid")
            axis.plot(np.arange(len(smooth)) + width, smooth, color=colour, label=label)
        axis.set(title=f"{row['matmul-free']['weights'] / 1e6:.1f} M weights", xlabel="step")
        axis.grid(alpha=0.3)
    axes[0][0].set(ylabel="training, bits per token")
    axes[0][-1].legend()
    figure.tight_layout()
    figure.savefig(folder / "curves.png", dpi=120)
    pyplot.close(figure)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5))
    weights = [row["matmul-free"]["weights"] / 1e6 for row in rows]
    for label, colour in colours.items():
        left.plot(weights, [row[label]["held_out_bpb"] for row in rows], "o-", color=colour, label=label)
    left.set(ylabel="held-out bits per byte")
    left.legend()
    right.plot(weights, [row["gap"] for row in rows], "o", color="black", label="gap")
    if made["trend"]:
        fit = [made["trend"]["at_one_weight"] + made["trend"]["bits_per_byte_per_decade"] * math.log10(w * 1e6)
               for w in weights]  # fmt: skip
        right.plot(weights, fit, color="grey",
                   label=f"{made['trend']['bits_per_byte_per_decade']:+.2f} for ten times the weights")
        right.legend()
    right.set(ylabel="bits per byte above the Transformer")
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_xticks(weights, [f"{w:.3g}" for w in weights])
        axis.minorticks_off()
        axis.set(xlabel="weights, millions")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(folder / "gap.png", dpi=120)
    pyplot.close(figure)
    return [folder / "curves.png", folder / "gap.png"]


def _main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m nomul.train.quality", description=__doc__)
    parser.add_argument("--config", type=Path, help="of every run; its geometry is not used")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--corpus", type=Path, help="exported corpus; default: this Python's library")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--sizes", nargs="*", default=[f"{n}:{d},{m},{y}" for n, (d, m, y) in SIZES.items()],
                        metavar="NAME:HIDDEN,INTERMEDIATE,LAYERS")
    parser.add_argument("--share", type=float, default=0.2, help="of the steps, for a learning rate that is tried")
    parser.add_argument("--join", type=Path, nargs="+", metavar="FILE",
                        help="train nothing: make one of the quality.json of several GPUs")
    given = parser.parse_args(arguments)
    try:
        if given.join:
            plot(join(given.join, given.out), given.out)
            return 0
        if given.device == "cuda" and not torch.cuda.is_available():
            raise NomulError("quality: no CUDA GPU here; use --device cpu with small --sizes and --set steps=20")
        device = torch.device(given.device)
        config = (read_config(given.config) if given.config else TrainConfig(steps=2000)).with_settings(given.set)
        given.out.mkdir(parents=True, exist_ok=True)
        texts = Texts(config, given.corpus, given.out, Processes(device, 0, 1))
        sizes = {}
        for text in given.sizes:
            name, _, numbers = text.partition(":")
            try:
                hidden, intermediate, layers = map(int, numbers.split(","))
            except ValueError:
                raise NomulError(f"quality: {text!r} must be NAME:HIDDEN,INTERMEDIATE,LAYERS") from None
            sizes[name] = (hidden, intermediate, layers)
        made = compare(sizes, config, texts, given.out, device, share=given.share,
                       say=lambda line: print(line, flush=True))
        plot(made, given.out)
    except NomulError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
