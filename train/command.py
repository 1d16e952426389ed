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
               corpus: Path | None = None, card: str | None = None,
               say: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains a model: checkpoint, ``run.json`` and, on request, a model card in ``out``.

    Parameters
    ----------
    out : Path
        Folder that gets the files.
    settings : sequence of str
        ``NAME=VALUE`` changes to :class:`nomul.train.recipe.Recipe`, such as ``seconds=600``.
    device : str
        ``"cuda"``, ``"cpu"``, or ``"auto"``, which asks for CUDA.
    corpus : Path, optional
        Folder with an exported corpus; default: the running interpreter's standard library.
    card : str, optional
        Title of a model card to write as ``README.md``.
    say : callable
        Takes progress, a line at a time.

    Returns
    -------
    dict
        The record of the run, as in ``run.json``; ``held_out_bpb`` is its result.

    Raises
    ------
    NomulError
        If PyTorch or the GPU is missing, a setting is wrong, or the run fails.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise NomulError("train: PyTorch is not installed; pip install 'nomul[train]'") from error
    from .recipe import Recipe, train

    if device not in ("auto", "cuda", "cpu"):
        raise NomulError(f"train: device is {device!r}; it is auto, cuda or cpu")
    recipe = Recipe().with_settings(list(settings))
    text = load_corpus(corpus) if corpus else standard_library()
    run = train(recipe, text, out, device="cuda" if device == "auto" else device, say=say)
    if card:
        from .card import write_card
        write_card(out, text, title=card)
    return run
