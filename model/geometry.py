# SPDX-License-Identifier: Apache-2.0
"""The sizes of a model."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import NomulError

__all__ = ["PUBLISHED", "Geometry"]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of a MatMul-free LM (arXiv 2406.02528, the published HGRN-bit architecture).

    Parameters
    ----------
    hidden : int
        Width of the residual stream, ``d``.
    intermediate : int
        Width of the gated unit, ``m``.
    layers : int
        Number of blocks, ``Ly``.
    vocab : int
        Number of tokens, ``V``.

    Raises
    ------
    NomulError
        If a size is not a positive integer.
    """

    hidden: int
    intermediate: int
    layers: int
    vocab: int

    def __post_init__(self) -> None:
        for name in ("hidden", "intermediate", "layers", "vocab"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise NomulError(f"geometry: {name} is {value!r}; it must be a positive integer")

    @property
    def ternary_weights(self) -> int:
        """Ternary weights of a token, lm_head included."""
        d, m = self.hidden, self.intermediate
        return self.layers * (4 * d * d + 3 * d * m) + self.vocab * d

    @property
    def parameters(self) -> int:
        """All parameters of the checkpoint: ternary weights, embeddings, norms and lower bounds."""
        d, m = self.hidden, self.intermediate
        norms = self.layers * (8 * d + m) + 2 * d
        return self.ternary_weights + self.vocab * d + norms + self.layers * d

    @property
    def state_values(self) -> int:
        """Values of recurrent state of one lane."""
        return self.layers * self.hidden


#: The published models by name.
PUBLISHED = {
    "370M": Geometry(hidden=1024, intermediate=2816, layers=24, vocab=32000),
    "1.3B": Geometry(hidden=2048, intermediate=5632, layers=24, vocab=32000),
    "2.7B": Geometry(hidden=2560, intermediate=6912, layers=32, vocab=32000),
}
