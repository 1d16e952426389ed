# SPDX-License-Identifier: Apache-2.0
"""A trained model as ``nomul import`` wants it, and imported."""

from __future__ import annotations

from pathlib import Path

from nomul.model.checkpoint import read_checkpoint
from nomul.model.fold import fold_parts
from nomul.model.store import save_parts

from .model import MatMulFreeLM, export_checkpoint
from .texts import Texts

__all__ = ["export_model"]


def export_model(model: MatMulFreeLM, folder: Path, texts: Texts, *, last: bool) -> None:
    """Writes the checkpoint in the published layout, and at the end the model file.

    Parameters
    ----------
    model : MatMulFreeLM
    folder : Path
    texts : Texts
        Whose tokens they are.
    last : bool
        Also write ``model.nomul``, as ``nomul import`` does.
    """
    export_checkpoint(model, folder, begin=texts.coder.begin, end=texts.coder.end)
    if last:
        source = read_checkpoint(folder)
        save_parts(fold_parts(source), folder / "model.nomul", geometry=source.geometry, eps=source.eps,
                   description=lambda: {"name": folder.resolve().name, "tokenizer": texts.coder.kind,
                                "source": source.sha256()})  # fmt: skip
