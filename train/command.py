# SPDX-License-Identifier: Apache-2.0
"""Behind ``nomul train``: one entry that needs PyTorch only once it is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nomul.model.errors import NomulError

from .data import load_corpus, standard_library

__all__ = ["main_train"]


def main_train(out: Path, *, settings: Sequence[str] = (), device: str = "auto",
               corpus: Path | None = None, card: str | None = None, config: Path | None = None,
               resume: bool = False, bar: bool = False, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains a model: checkpoint, ``run.json`` and, on request, a model card in ``out``.

    Without a configuration that is the recipe of the on-chip model (:mod:`nomul.train.recipe`), with one
    :func:`nomul.train.loop.run_config`.

    Parameters
    ----------
    out : Path
        Folder that gets the files.
    settings : sequence of str
        ``NAME=VALUE`` changes to :class:`nomul.train.recipe.Recipe`, or to the configuration, such as
        ``seconds=600``.
    device : str
        ``"cuda"``, ``"cpu"``, or ``"auto"``, which asks for CUDA.
    corpus : Path, optional
        Folder with an exported corpus; default: the running interpreter's standard library.
    card : str, optional
        Title of a model card to write as ``README.md``.
    config : Path, optional
        Configuration file (:mod:`nomul.train.config`).
    resume : bool
        Go on from the checkpoint in ``out``; with a configuration.
    bar : bool
        Show a bar, where standard error is a terminal; with a configuration.
    say : callable
        Takes progress, a line at a time.

    Returns
    -------
    dict
        The record of the run, as in ``run.json``; ``held_out_bpb`` is its result. Of several processes the
        first has all of it.

    Raises
    ------
    NomulError
        If PyTorch or the GPU is missing, a setting is wrong, or the run fails.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise NomulError("train: PyTorch is not installed; pip install 'nomul[train]'") from error
    if device not in ("auto", "cuda", "cpu"):
        raise NomulError(f"train: device is {device!r}; it is auto, cuda or cpu")
    if config is not None:
        from .config import read_config
        from .loop import run_config
        from .processes import count_of
        from .reporter import shown

        with shown(say, bar=bar and count_of()[0] == 0) as reporter:
            record = run_config(read_config(config).with_settings(settings), corpus, out,
                                device="cuda" if device == "auto" else device, resume=resume, say=reporter)
        if card and "steps" in record:
            from .config_card import write_config_card
            write_config_card(out, title=card)
        return record
    if resume:
        raise NomulError("train: --resume is for runs from a configuration; give --config")
    from .processes import count_of
    from .recipe import Recipe, train

    if count_of()[1] > 1:
        raise NomulError("train: the on-chip model's recipe is for one process; give --config, or leave torchrun out")
    recipe = Recipe().with_settings(list(settings))
    text = load_corpus(corpus) if corpus else standard_library()
    run = train(recipe, text, out, device="cuda" if device == "auto" else device, say=say)
    if card:
        from .card import write_card
        write_card(out, text, title=card)
    return run
