# SPDX-License-Identifier: Apache-2.0
"""The card of a model that a configuration made: how well, on what, how, from the files of its run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nomul.model.errors import NomulError
from nomul.model.fold import Matrix
from nomul.model.store import load, trit_shares

__all__ = ["write_config_card"]


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / name).read_text()))
    except (OSError, ValueError) as error:
        raise NomulError(f"{folder / name}: not the record of a run ({error})") from None


def write_config_card(folder: Path, *, title: str, more: str = "") -> Path:
    """Writes ``README.md`` beside ``run.json``, ``manifest.json`` and ``model.nomul``.

    Parameters
    ----------
    folder : Path
        What :func:`nomul.train.loop.run_config` wrote.
    title : str
        Heading.
    more : str
        Further sections, Markdown.

    Returns
    -------
    Path
        The card.
    """
    run, manifest = _read(folder, "run.json"), _read(folder, "manifest.json")
    c, last = run["config"], run["history"][-1]
    tokens = "bytes" if c["vocab"] == 256 else f"{c['vocab']:,} tokens of a byte-pair encoding (`tokenizer.json`)"
    model, _ = load(folder / "model.nomul")
    matrices = [part for part in (*(p for y in model.layers for p in vars(y).values()), model.head)
                if isinstance(part, Matrix)]  # fmt: skip
    lines = [
        f"# {title}", "",
        f"A MatMul-free language model over {tokens}: d = {c['hidden']}, m = {c['intermediate']}, {c['layers']} "
        f"layers, {run['ternary_weights']:,} ternary weights in {len(matrices)} matrices, "
        f"{run['parameters']:,} parameters with embeddings and norms.", "",
        "## How well", "",
        "| held-out bits per byte | |", "|---|---|",
        f"| float, PyTorch, weights rounded to bfloat16 | {run['held_out_bpb']:.4f} |",
        f"| integers of the golden model, packed kernels | {run['held_out_bpb_integer']:.4f} |",
        "",
        "Held-out text: consecutive segments of at most 4096 bytes, each from zero state with the begin token as the "
        "context of its first token; −log₂ p of all tokens over all bytes. What is shipped is the end of the run; "
        "nothing was chosen by held-out text.", "",
        "## Data", "",
        f"{manifest['source']}; `nomul.train.packages` says what is left out. `manifest.json` has name, version, "
        f"licence, files, bytes and SHA-256 of every package.", "",
        "| part | documents | bytes | times seen | SHA-256 |", "|---|---|---|---|---|",
        *(f"| {name.replace('_', '-')} | {part['documents']:,} | {part['bytes']:,} "
          f"| {run['epochs'].get(name, 0):.2f} | `{part['sha256']}` |" for name, part in manifest["parts"].items()),
        "",
        *([f"Left out: {', '.join(f'{count} files ({why})' for why, count in manifest['files_left_out'].items())}.", ""]
          if "files_left_out" in manifest else []),
        "## Training", "",
        f"{run['steps']:,} steps, {run['tokens'] / 1e6:,.0f} M tokens in {run['seconds']:.0f} s on {run['device']} "
        f"with PyTorch {run['torch']} ({run['backend']}, products in {run['precision']}). Configuration "
        f"(`config.toml`):", "",
        "```toml", *(f"{key} = {json.dumps(value)}" for key, value in c.items()), "```", "",
        "| run | training bits per token | held-out bits per byte |", "|---|---|---|",
        *(f"| {e['progress']:.0%} | {e['train_bits_per_token']:.4f} | {e['held_out_bpb']:.4f} |"
          for e in run["history"]),
        "",
        f"Tokens a second: {run['tokens'] / last['seconds']:,.0f}, judging included.", "",
        "## Trits", "",
        "| matrix | −1 | 0 | +1 |", "|---|---|---|---|",
        *(f"| {name} | {minus:.1%} | {zero:.1%} | {plus:.1%} |"
          for name, (minus, zero, plus) in trit_shares(model).items()),
    ]
    if more:
        lines += ["", more.strip()]
    card = folder / "README.md"
    card.write_text("\n".join(lines) + "\n")
    return card
