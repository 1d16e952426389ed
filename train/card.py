# SPDX-License-Identifier: Apache-2.0
"""Model cards: what a shipped model was trained on, how, and how well it does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nomul.model.errors import NomulError
from nomul.model.ternary import ternarise

from .baselines import Ngram, xz_bits_per_byte
from .data import Corpus
from .model import import_checkpoint
from .recipe import SEGMENT, bits_per_byte, generate

__all__ = ["PROMPTS", "trit_statistics", "write_card"]

#: Prompt and seed of each sample in a card, fixed before any sample was seen.
PROMPTS: tuple[tuple[bytes, int], ...] = (
    (b"", 0), (b"import ", 1), (b"def ", 2), (b"class ", 3), (b'"""', 4),
    (b"    def __init__(self", 5),
)

Sampler = Callable[[bytes, int], bytes]


def trit_statistics(folder: Path) -> list[tuple[str, tuple[int, int], float, float, float]]:
    """Name, shape, and shares of -1, 0 and +1 of every ternary matrix of a checkpoint."""
    rows = []
    for name, weight in import_checkpoint(folder).state_dict().items():
        if name == "lm_head.weight" or name.endswith("proj.weight"):
            trits = ternarise(weight.numpy()).trits
            minus, zero, plus = (float((trits == value).mean()) for value in (-1, 0, 1))
            rows.append((name.removesuffix(".weight"), tuple(trits.shape), minus, zero, plus))
    return rows


def _fenced(text: bytes) -> str:
    shown = text.decode("utf-8", "replace").replace("\r", "\\r")
    fence = "```"
    while fence in shown:
        fence += "`"
    return f"{fence}text\n{shown.rstrip()}\n{fence}"


def write_card(folder: Path, corpus: Corpus, *, title: str, sampler: Sampler | None = None,
               sampler_name: str = "PyTorch model in float32, temperature 0.6",
               count: int = 400, more: dict[str, float] | None = None) -> Path:
    """Writes ``README.md`` beside a checkpoint and its ``run.json``.

    Parameters
    ----------
    folder : Path
        What :func:`nomul.train.recipe.train` wrote.
    corpus : Corpus
        The corpus of the run; another one is refused.
    title : str
        Heading.
    sampler : callable, optional
        ``(prompt, seed) -> text`` without the prompt; default: the PyTorch model.
    sampler_name : str
        Says in the card what wrote the samples.
    count : int
        Bytes of a sample of the default sampler.
    more : dict of str to float, optional
        Further held-out figures, bits per byte by label: the integer model's, say.

    Returns
    -------
    Path
        The card.
    """
    try:
        run = json.loads((folder / "run.json").read_text())
        recipe, history = run["recipe"], run["history"]
    except (OSError, ValueError, KeyError) as error:
        raise NomulError(f"{folder}/run.json: not the record of a run ({error})") from error
    if run["corpus"] != corpus.manifest():
        raise NomulError(f"{folder}/run.json: the run had another corpus "
                         f"({run['corpus']['source']}); give that one")
    model = import_checkpoint(folder)
    if sampler is None:
        def sampler(prompt: bytes, seed: int) -> bytes:
            return generate(model, prompt, count, temperature=0.6, seed=seed)

    figures = {"this model, float32 reference in PyTorch": bits_per_byte(model, corpus.held_out)}
    figures |= more or {}
    figures["byte-level 5-gram, interpolated Kneser–Ney, same training text"] = (
        Ngram(corpus.train).bits_per_byte(corpus.held_out))
    figures["`xz -9` of the held-out text alone"] = xz_bits_per_byte(corpus.held_out)
    statistics = trit_statistics(folder)
    weights = np.array([shape[0] * shape[1] for _, shape, *_ in statistics])
    shares = np.array([row[2:] for row in statistics])
    overall = weights @ shares / weights.sum()
    last = history[-1]
    lines = [
        f"# {title}",
        "",
        "A MatMul-free language model over bytes: "
        f"d = {recipe['hidden']}, m = {recipe['intermediate']}, {recipe['layers']} layers, "
        f"{run['ternary_weights']:,} ternary weights. `model.safetensors` and `config.json` have "
        "the published `hgrn_bit` layout (bfloat16).",
        "",
        "## How well",
        "",
        "| held-out bits per byte | |",
        "|---|---|",
        *(f"| {name} | {value:.4f} |" for name, value in figures.items()),
        "",
        f"Held-out text: consecutive segments of {SEGMENT} bytes, each from zero state with byte "
        "0x00 as the context of its first byte; the mean of −log₂ p over all bytes. The 5-gram "
        "reads the text as one stream. The checkpoint is the best of the run's evaluations on this "
        f"same text ({len(history)} of them; the last gave {last['held_out_bpb']:.4f}); the "
        f"training text's was then {last['train_bpb']:.4f}, with the recipe's noise.",
        "",
        "## Data",
        "",
        f"{run['corpus']['source']}; `nomul.train.data` says how it is split.",
        "",
        "| part | documents | bytes | SHA-256 |",
        "|---|---|---|---|",
        *(f"| {name.replace('_', '-')} | {part['documents']:,} | {part['bytes']:,} "
          f"| `{part['sha256']}` |"
          for name, part in run["corpus"]["parts"].items()),
        "",
        "## Training",
        "",
        f"{run['steps']:,} steps, {run['bytes'] / 1e6:,.0f} MB in {run['epochs']} epochs, "
        f"{run['seconds']:.0f} s on {run['device']} with PyTorch {run['torch']} "
        f"(scan: {run['scan']}), seed {recipe['seed']}. Recipe (`nomul.train.recipe.Recipe`):",
        "",
        "```text",
        *(f"{key} = {value}" for key, value in recipe.items()),
        "```",
        "",
        "| run | training bits per byte | held-out bits per byte |",
        "|---|---|---|",
        *(f"| {e['progress']:.0%} | {e['train_bpb']:.4f} | {e['held_out_bpb']:.4f} |"
          for e in history),
        "",
        "## Trits",
        "",
        "| matrix | shape | −1 | 0 | +1 |",
        "|---|---|---|---|---|",
        *(f"| {name} | {shape[0]} × {shape[1]} | {minus:.1%} | {zero:.1%} | {plus:.1%} |"
          for name, shape, minus, zero, plus in statistics),
        f"| all | {weights.sum():,} | {overall[0]:.1%} | {overall[1]:.1%} | {overall[2]:.1%} |",
        "",
        "## Samples, not chosen",
        "",
        f"Prompts and seeds are fixed in `nomul.train.card`; written by: {sampler_name}.",
    ]
    for prompt, seed in PROMPTS:
        lines += ["", f"Prompt `{prompt.decode()!r}`, seed {seed}:", "",
                  _fenced(prompt + sampler(prompt, seed))]
    card = folder / "README.md"
    card.write_text("\n".join(lines) + "\n")
    return card
