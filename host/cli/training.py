# SPDX-License-Identifier: Apache-2.0
"""``nomul train``."""

from __future__ import annotations

from pathlib import Path

import click

from nomul.train.command import main_train

from .common import json_option, print_json


@click.command("train")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FOLDER")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE.toml",
              help="What to train (docs/training.md); default: the on-chip model's recipe.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE",
              help="Change the configuration (python -m nomul.train.config lists its keys) or the recipe; "
                   "repeatable.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on from FOLDER's checkpoint; with --config.")
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto",
              show_default=True, help="auto asks for CUDA.")  # fmt: skip
@click.option("--corpus", type=click.Path(path_type=Path), metavar="FOLDER",
              help="What python -m nomul.train.packages (or .data) made; default: this Python's "
                   "standard library.")  # fmt: skip
@click.option("--card", metavar="TITLE", help="Also write a model card.")
@json_option
def train_command(
    output: Path,
    config: Path | None,
    settings: tuple[str, ...],
    resume: bool,
    device: str,
    corpus: Path | None,
    card: str | None,
    as_json: bool,
) -> None:
    """Train a model, by default on Python's standard library; checkpoint and model go to FOLDER.

    With --config it runs in several processes too, a GPU each: torchrun --nproc-per-node 2 --no-python nomul train ...

    \b
    Example:
      nomul train -o build/model --set seconds=460
      nomul train -o build/larger --config models/python-33m/config.toml --corpus build/corpus
      nomul train -o build/larger --config models/python-33m/config.toml --corpus build/corpus --resume
      nomul train -o build/tiny --device cpu --set steps=20 --set batch=4 --set evaluations=1   # minutes
    """

    def say(line: str) -> None:
        click.echo(line, err=as_json)

    run = main_train(
        output, settings=settings, device=device, corpus=corpus, card=card, config=config, resume=resume,
        bar=not as_json, say=say,
    )
    if "steps" not in run:  # of several processes, not the first
        return
    if as_json:
        print_json(run)
    else:
        click.echo(f"{output}: {run['held_out_bpb']:.4f} held-out bits per byte")
