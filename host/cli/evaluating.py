# SPDX-License-Identifier: Apache-2.0
"""``nomul eval``."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import click
import numpy as np

from nomul.model.errors import NomulError
from nomul.model.files import atomic
from nomul.sim.evaluate import (
    Engine,
    FloatEngine,
    GoldenEngine,
    Result,
    agreement,
    evaluate,
    segment_parts,
    sequence_parts,
    text_parts,
    text_segments,
)

from .common import (
    Loaded,
    compile_for,
    core_option,
    json_option,
    load_any,
    print_json,
    tokenizer_for,
)

_ENGINES = ("float", "golden", "sim")


def _segments(loaded: Loaded, text: str) -> tuple[list[np.ndarray], int, int]:
    """Tokens of a text's segments where they are more than bytes, the begin token, the text's bytes."""
    try:
        raw = Path(text).read_bytes()
    except OSError as error:
        raise NomulError(f"{text}: {error.strerror}") from None
    if not raw:
        raise NomulError(f"{text}: empty; there is nothing to predict")
    coder = tokenizer_for(loaded)
    try:
        return text_segments(raw, coder), coder.begin, len(raw)
    except NomulError as error:
        raise NomulError(f"{text}: {error}; give token ids with --ids") from None


def _tokens(loaded: Loaded, text: str | None, ids: Path | None) -> np.ndarray:
    if ids is not None:
        try:
            with ids.open("rb") as file:
                tokens = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise NomulError(f"{ids}: no array of token ids can be read: {error}") from None
        if not isinstance(tokens, np.ndarray):
            raise NomulError(f"{ids}: is an archive of arrays; expected one array in a .npy file")
        if tokens.dtype.kind not in "iu" or tokens.ndim != 1:
            raise NomulError(f"{ids}: is {tokens.dtype} {list(tokens.shape)}; expected integers [T]")
    else:
        assert text is not None
        try:
            tokens = np.frombuffer(Path(text).read_bytes(), dtype=np.uint8)
        except OSError as error:
            raise NomulError(f"{text}: {error.strerror}") from None
    vocab = loaded.model.geometry.vocab
    if tokens.size == 0:
        raise NomulError(f"{ids or text}: empty; there is nothing to predict")
    if ids is not None and tokens.size == 1:
        raise NomulError(f"{ids}: one token; there is nothing behind it to predict")
    wrong = np.flatnonzero((tokens < 0) | (tokens >= vocab))
    if wrong.size:
        raise NomulError(
            f"{ids or text}: token {int(tokens[wrong[0]])} at position {int(wrong[0])} lies outside the "
            f"vocabulary of {vocab}"
        )
    return tokens.astype(np.int64)


def _engine(name: str, loaded: Loaded, engine: str, bytes_per_beat: int) -> Engine:
    if name == "float":
        if loaded.checkpoint is None:
            raise NomulError(
                f"{loaded.path}: its float weights are not beside it; name its checkpoint folder"
            )
        from nomul.sim.reference import Reference

        return FloatEngine(Reference(loaded.checkpoint))
    image, config = compile_for(loaded.model, engine=engine, bytes_per_beat=bytes_per_beat)
    if name == "golden":
        return GoldenEngine(image)
    from .board import SimulatedEngine

    return SimulatedEngine(image, config)


@click.command("eval")
@click.argument("model")
@click.argument("text", required=False)
@click.option("--engine", "engines", default="golden", show_default=True,
              metavar="NAME[,NAME]", help=f"Of {', '.join(_ENGINES)}; two are compared.")  # fmt: skip
@click.option("--ids", type=click.Path(path_type=Path), metavar="FILE.npy", help="Token ids [T].")
@click.option("--logits", type=click.Path(path_type=Path), metavar="FILE.npz",
              help="Write logits [T, V] of the first engine; row t follows token t.")  # fmt: skip
@partial(core_option, engine="--core-engine")
@json_option
def eval_command(
    model: str,
    text: str | None,
    engines: str,
    ids: Path | None,
    logits: Path | None,
    engine: str,
    bytes_per_beat: int,
    as_json: bool,
) -> None:
    """Bits per token, and per byte, of MODEL on a TEXT file, and how often two engines agree on the next token.

    \b
    Example:
      nomul eval models/stdlib-1m3 README.md --engine float,golden
    """
    names = engines.split(",")
    if len(names) > 2 or not set(names) <= set(_ENGINES) or len(set(names)) < len(names):
        raise click.UsageError(f"--engine {engines}: one or two of {', '.join(_ENGINES)}")
    if logits is not None and not logits.parent.is_dir():
        raise NomulError(f"{logits}: the folder {logits.parent} does not exist")
    if (text is None) == (ids is None):
        raise click.UsageError("name a TEXT file or --ids, one of the two")
    loaded = load_any(model)
    size: int | None = None
    if text is not None and loaded.header.get("tokenizer") != "bytes":
        segments, begin_token, size = _segments(loaded, text)
        parts = [*segment_parts(segments, begin_token)]
    else:
        tokens = _tokens(loaded, text, ids)
        parts = [*(text_parts(tokens) if ids is None else sequence_parts(tokens))]
    results: dict[str, Result] = {}
    seconds: dict[str, float] = {}
    for number, name in enumerate(names):
        built = _engine(name, loaded, engine, bytes_per_beat)
        begin = time.perf_counter()
        keep = logits is not None and number == 0
        results[name] = evaluate(built, parts, keep_logits=keep)
        seconds[name] = time.perf_counter() - begin
    if logits is not None:
        with atomic(logits) as file:
            np.savez(file, logits=np.asarray(results[names[0]].logits))
    report = _report(results, seconds, size)
    if as_json:
        print_json(report)
        return
    for name, figures in report["engines"].items():
        bytewise = "" if size is None else f"{figures['bits_per_byte']:.4f} bits a byte, "
        click.echo(
            f"{name:<7} {bytewise}{figures['bits_per_token']:.4f} bits a token over {report['tokens']:,} tokens, "
            f"{figures['tokens_per_second']:,.0f} tokens/s"
        )
    if "agreement" in report:
        click.echo(f"same next token at {report['agreement']:.3%} of positions")


def _report(results: dict[str, Result], seconds: dict[str, float], size: int | None) -> dict[str, Any]:
    report: dict[str, Any] = {
        "tokens": next(iter(results.values())).tokens,
        "engines": {
            name: {
                "bits_per_token": round(result.bits_per_token, 6),
                **({} if size is None else {"bits_per_byte": round(result.bits_per_token * result.tokens / size, 6)}),
                "tokens_per_second": round(result.tokens / seconds[name], 1),
            }
            for name, result in results.items()
        },
    }
    if len(results) == 2:
        a, b = results.values()
        report["agreement"] = round(agreement(a, b), 6)
        report["bits_ratio"] = round(b.bits_per_token / a.bits_per_token, 6)
    return report
