# SPDX-License-Identifier: Apache-2.0
"""The golden model in a board's place: the same tokens, on the CPU, without a link."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from nomul.model.errors import NomulError
from nomul.model.program import Image
from nomul.model.protocol import REGIONS, Identity, LaneToken

from .golden import Golden

__all__ = ["GoldenBoard"]

_DESIGN = b"golden  "  # in place of a hash of gateware


class GoldenBoard:
    """Runs rows as a board does; see :class:`nomul.host.lanes.LanesBoard`.

    Parameters
    ----------
    image : Image
    lanes : int
        Tokens of a step.
    slots : int, optional
        Recurrent states; by default one a lane.

    Attributes
    ----------
    identity : Identity
        Its design is ``golden``, its clock 1 Hz: there is none.
    vocab : int
    """

    def __init__(self, image: Image, *, lanes: int, slots: int | None = None):
        slots = lanes if slots is None else slots
        self.identity = Identity(
            design=_DESIGN, bytes_per_beat=image.bytes_per_beat, lanes=lanes, slots=slots,
            clock_hz=1, memory_bytes=0, region_bytes=(0,) * REGIONS,
        )  # fmt: skip
        self.vocab = image.geometry.vocab
        self._golden = Golden(image, lanes=lanes, slots=slots)
        self._held: set[int] = set()  # slots with a state

    def run(
        self, rows: Sequence[Sequence[LaneToken | None]], steps: int | None = None
    ) -> Iterator[list[int | None]]:
        """Processes rows in order, then the last one again and again.

        Leaving the iterator early loses all recurrent states.

        Parameters
        ----------
        rows : sequence of rows
            At least one; ``None`` in them, or left out at the end, are lanes that are not active.
        steps : int, optional
            By default as many as there are rows; not fewer.

        Yields
        ------
        list of int or None, one a lane
            The arg-max of each active lane in a step.

        Raises
        ------
        NomulError
            If a lane goes on in a slot without a state, or feeds back where there is nothing; or if
            a token or a slot is none.
        """
        count = len(rows) if steps is None else steps
        if not 1 <= len(rows) <= count:
            raise NomulError(f"golden board: {len(rows)} rows and {count} steps; give each row a step")
        lanes, last = self.identity.lanes, dict[int, int]()
        try:
            for done in range(count):
                row = list(rows[min(done, len(rows) - 1)])
                row += [None] * (lanes - len(row))
                tokens, seen = [0] * lanes, set[int]()
                for lane, entry in enumerate(row):
                    if entry is None:
                        continue
                    if entry.fresh and entry.slot in seen:
                        raise NomulError(f"golden board: slot {entry.slot} is fresh in mid-row")
                    if not entry.fresh and entry.slot not in self._held | seen:
                        raise NomulError(f"golden board: slot {entry.slot} holds no state: begin it fresh")
                    if entry.token is None and entry.slot not in last:
                        raise NomulError(f"golden board: nothing to feed back to slot {entry.slot}")
                    tokens[lane] = last[entry.slot] if entry.token is None else entry.token
                    seen.add(entry.slot)
                    if entry.fresh:
                        self._golden.reset(entry.slot)
                found = self._golden.step(
                    tokens, slots=[entry.slot if entry else 0 for entry in row],
                    active=[entry is not None for entry in row],
                )  # fmt: skip
                self._held |= seen
                result = [int(token) if entry else None for token, entry in zip(found, row, strict=True)]
                last = {
                    entry.slot: token for entry, token in zip(row, result, strict=True)
                    if entry is not None and token is not None
                }  # fmt: skip
                yield result
        except BaseException:
            self._held.clear()
            raise

    def logits(self, lane: int) -> np.ndarray:
        """Float logits ``[V]`` of a lane in the last step."""
        return np.asarray(self._golden.logits[lane] * self._golden.logit_scale[lane])
