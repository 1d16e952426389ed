# SPDX-License-Identifier: Apache-2.0
"""Memory and time of a training step, fused against plain, and both loss curves.

``python -m nomul.train.bench_fused -o FILE.json`` needs a CUDA GPU. ``docs/training.md`` says what
the versions are and what peak memory counts.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nomul.model.errors import NomulError
from nomul.model.geometry import PUBLISHED, Geometry

from .fused import FusedLM
from .machine import compile_first, describe, median_seconds, require_gpu
from .model import BitLinear, MatMulFreeLM
from .scan import use_kernel

__all__ = ["VERSIONS", "straight_through"]

#: Sequence length of every measurement.
LENGTH = 1024

Loss = Callable[[Tensor, Tensor], Tensor]


def _straight_through(self: BitLinear, x: Tensor) -> Tensor:
    """A BitLinear in plain operations, as the published code writes it: both roundings behind a detach."""
    y = self.norm(x)
    step = 127 / y.abs().amax(-1, keepdim=True).clamp_min(1e-5)
    y = y + ((y * step).round().clamp(-128, 127) / step - y).detach()
    s = 1 / self.weight.abs().mean().clamp_min(1e-5)
    w = self.weight + ((self.weight * s).round().clamp(-1, 1) / s - self.weight).detach()
    return F.linear(y, w)


def straight_through(model: MatMulFreeLM) -> MatMulFreeLM:
    """The model with every BitLinear in plain operations of PyTorch; returns it."""
    for module in model.modules():
        if isinstance(module, BitLinear):
            module.forward = MethodType(_straight_through, module)  # type: ignore[method-assign]
    return model


def _autocast_loss(model: MatMulFreeLM) -> Loss:
    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            logits, _ = model(tokens)
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    return loss


def _plain(model: MatMulFreeLM) -> Loss:
    return _autocast_loss(straight_through(model))


def _compiled(model: MatMulFreeLM) -> Loss:
    straight_through(model)
    for block in model.model.layers:
        block.compile(dynamic=False)
    model.lm_head.compile(dynamic=False)
    return _autocast_loss(model)


def _own_function(model: MatMulFreeLM) -> Loss:
    model.set_exact(torch.bfloat16)

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        logits, _ = model(tokens)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    return loss


def _fused(model: MatMulFreeLM) -> Loss:
    fused = FusedLM(model)
    return lambda tokens, targets: fused(tokens, targets)[0]


def _lean(model: MatMulFreeLM) -> Loss:
    fused = FusedLM(model, lean=True)
    return lambda tokens, targets: fused(tokens, targets)[0]


#: What is measured, by name; each makes a loss of ``(tokens, targets)`` from a model.
VERSIONS: dict[str, Callable[[MatMulFreeLM], Loss]] = {
    "plain": _plain, "compiled": _compiled, "model": _own_function, "fused": _fused, "lean": _lean,
}


def _made(geometry: Geometry, device: torch.device, seed: int) -> MatMulFreeLM:
    torch.manual_seed(seed)
    with device:
        return MatMulFreeLM(geometry)


def _adam(model: MatMulFreeLM, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), fused=True)


def measure_step(version: str, geometry: Geometry, batch: int, device: torch.device) -> dict[str, Any]:
    """Time and memory of one step: forward, backward, AdamW.

    Returns
    -------
    dict
        ``seconds`` (median of 7); ``peak_bytes``, all that PyTorch had allocated at the worst moment;
        ``static_bytes``, weights and both moments, which are part of it. Or ``failed``.
    """
    row: dict[str, Any] = {"version": version, "batch": batch, "length": LENGTH}
    gc.collect()  # models that hold themselves by their methods
    torch.cuda.empty_cache()
    try:
        model = _made(geometry, device, 1)
        loss_of, optimiser = VERSIONS[version](model), _adam(model, 1e-4)
        tokens, targets = torch.randint(0, geometry.vocab, (2, batch, LENGTH), device=device)

        def step() -> None:
            optimiser.zero_grad(set_to_none=True)
            loss_of(tokens, targets).backward()
            optimiser.step()

        step()
        optimiser.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        row["static_bytes"] = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        row["seconds"] = median_seconds(step, repeats=7, warmup=2)
        row["peak_bytes"] = torch.cuda.max_memory_allocated()
    except torch.OutOfMemoryError:
        row["failed"] = "out of memory"
    return row


def _run_once(size: str) -> None:
    """One layer of a shape through every version with kernels."""
    device = torch.device("cuda")
    use_kernel(device)
    tokens = torch.zeros(1, LENGTH, dtype=torch.int64, device=device)
    for version in ("plain", "fused", "lean"):
        VERSIONS[version](_made(replace(PUBLISHED[size], layers=1), device, 1))(tokens, tokens).backward()
    torch.cuda.synchronize()


def _text_batches(batch: int, steps: int, seed: int, device: torch.device) -> Tensor:
    """Bytes of this Python's library, ``[steps, batch, LENGTH + 1]``."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = torch.frombuffer(bytearray(b"".join(f.read_bytes() for f in sorted(folder.glob("*.py")))), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, len(text) - LENGTH - 1, (steps, batch, 1), generator=generator)
    return text[starts + torch.arange(LENGTH + 1)].to(device)


def loss_curve(
    version: str, geometry: Geometry, batch: int, steps: int, seed: int, device: torch.device
) -> list[float]:
    """Losses of a short run on text: warm-up over 20 steps to 1e-3, then constant."""
    model = _made(geometry, device, seed)
    loss_of, optimiser = VERSIONS[version](model), _adam(model, 1e-3)
    windows = _text_batches(batch, steps, seed, device)
    losses = torch.empty(steps, device=device)
    for k, window in enumerate(windows.long()):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1.0, (k + 1) / 20)
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of(window[:, :-1], window[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses[k] = loss.detach()
    return [round(v, 5) for v in losses.tolist()]


def compare_curves(geometry: Geometry, batch: int, steps: int, device: torch.device) -> dict[str, Any]:
    """Plain and fused from the same weights and data, and plain from another seed."""
    curves = {"plain": loss_curve("plain", geometry, batch, steps, 1, device),
              "fused": loss_curve("fused", geometry, batch, steps, 1, device),
              "plain, seed 2": loss_curve("plain", geometry, batch, steps, 2, device)}
    plain, fused, other = (torch.tensor(curve) for curve in curves.values())
    smooth = torch.ones(1, 1, 20) / 20

    def gap(left: Tensor, right: Tensor) -> dict[str, float]:
        means = F.conv1d((left - right)[None, None], smooth)[0, 0].abs()
        return {"largest": float((left - right).abs().max()), "largest_of_20": float(means.max()),
                "last_50": float((left[-50:].mean() - right[-50:].mean()).abs())}
    return {"batch": batch, "length": LENGTH, "steps": steps, "curves": curves,
            "fused_to_plain": gap(fused, plain), "seed_to_seed": gap(other, plain)}


def compare_gradients(device: torch.device) -> dict[str, Any]:
    """Every gradient of two layers of the 370M shape against float64, relative L2 error."""
    shape = PUBLISHED["370M"]
    geometry = Geometry(hidden=shape.hidden, intermediate=shape.intermediate, layers=2, vocab=4096)
    tokens, targets = torch.randint(0, geometry.vocab, (2, 2, LENGTH), device=device)
    gradients: dict[str, dict[str, Tensor]] = {}
    for name in ("exact", "plain", "fused", "lean"):
        model = _made(geometry, device, 5)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.uniform_(0.5, 1.5)
        if name == "exact":
            model.double().set_exact(torch.float64)
            F.cross_entropy(model(tokens)[0].flatten(0, 1), targets.flatten()).backward()
        else:
            VERSIONS[name](model)(tokens, targets).backward()
        gradients[name] = {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}
    exact = gradients.pop("exact")
    errors = {name: {n: float((g - exact[n]).norm() / exact[n].norm()) for n, g in made.items()}
              for name, made in gradients.items()}
    return {"relative_error": errors,
            "worst": {name: max(of.values()) for name, of in errors.items()},
            "median": {name: sorted(of.values())[len(of) // 2] for name, of in errors.items()}}


def _cases(texts: Sequence[str]) -> list[tuple[str, int]]:
    """Sizes and batches, from ``SIZE:BATCH,BATCH``."""
    cases = []
    for text in texts:
        size, _, batches = text.partition(":")
        if size not in PUBLISHED:
            raise NomulError(f"bench_fused: no size {size!r}; there are {', '.join(PUBLISHED)}")
        if not all(batch.isdecimal() and int(batch) > 0 for batch in batches.split(",")):
            raise NomulError(f"bench_fused: {text!r} must be SIZE:BATCH,BATCH, such as 1.3B:1,8")
        cases += [(size, int(batch)) for batch in batches.split(",")]
    return cases


def _line(row: dict[str, Any]) -> str:
    start = f"{row['size']:>5} {row['version']:>9} batch {row['batch']:>2}"
    if "failed" in row:
        return f"{start}  {row['failed']}"
    return (f"{start}  {row['seconds'] * 1e3:8.1f} ms  peak {row['peak_bytes'] / 1e9:6.2f} GB"
            f"  without weights and moments {(row['peak_bytes'] - row['static_bytes']) / 1e9:6.2f} GB")


def _main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m nomul.train.bench_fused", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--cases", nargs="*", default=["370M:1,4,8,16", "1.3B:1,2,4,8"],
                        metavar="SIZE:BATCH,BATCH")
    parser.add_argument("--versions", nargs="*", default=["plain", "model", "fused", "lean"],
                        choices=list(VERSIONS))
    parser.add_argument("--steps", type=int, default=200, help="of the loss curves; 0: none")
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no measurement after so long")
    parser.add_argument("--compile", action="store_true",
                        help="compile all kernels first, in many processes; with no --cases nothing else")
    given = parser.parse_args(arguments)
    begin = time.monotonic()
    try:
        cases = _cases(given.cases)
        device = require_gpu("bench_fused")
        given.out.parent.mkdir(parents=True, exist_ok=True)
        if given.compile:
            sizes = {size for size, _ in cases} or {"370M", "1.3B"}
            compile_first(_run_once, [(size,) for size in sizes])
            print(f"compiled in {time.monotonic() - begin:.0f} s", flush=True)
        if not given.cases:
            return 0
        reason = use_kernel(device)
        if reason is not None:
            raise NomulError(f"bench_fused: the plain version would run without its scan kernel: {reason}")
        made: dict[str, Any] = {"machine": describe(device), "steps": []}

        def save() -> None:
            made["seconds"] = round(time.monotonic() - begin, 1)
            given.out.write_text(json.dumps(made, indent=1) + "\n")

        made["gradients"] = compare_gradients(device)
        print({k: made["gradients"][k] for k in ("worst", "median")}, flush=True)
        if given.steps:
            made["curves"] = compare_curves(PUBLISHED["370M"], 4, given.steps, device)
            print({k: made["curves"][k] for k in ("fused_to_plain", "seed_to_seed")}, flush=True)
            save()
        for size, batch in cases:
            for version in given.versions:
                if time.monotonic() - begin > given.seconds:
                    made.setdefault("left_out", []).append(f"{size} {version} batch {batch}")
                    continue
                row = {"size": size, **measure_step(version, PUBLISHED[size], batch, device)}
                made["steps"].append(row)
                print(_line(row), flush=True)
                save()
        print("left out:", made.get("left_out", "nothing"), flush=True)
        save()
    except NomulError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
