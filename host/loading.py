# SPDX-License-Identifier: Apache-2.0
"""Brings a memory image to a board: sends what differs, then makes sure of all of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from nomul.model.errors import NomulError
from nomul.model.protocol import EXTERNAL, REGION_SHIFT, Identity, Region

__all__ = ["Image", "Memory", "load", "verify"]

#: Bytes by address.
Image = Mapping[int, bytes | memoryview]

# Bytes under one checksum. On chip few: a slow simulation still answers in good time.
_CHUNK, _FAR_CHUNK = 1 << 10, 1 << 12


class Memory(Protocol):
    """What is needed of a :class:`~nomul.host.driver.Board`."""

    identity: Identity

    def write(self, address: int, data: bytes) -> None:
        """See :meth:`nomul.host.driver.Board.write`."""

    def checksum(self, address: int, count: int) -> int:
        """See :meth:`nomul.host.driver.Board.checksum`."""


def load(
    board: Memory, image: Image, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> int:
    """See :meth:`nomul.host.driver.Board.load`."""
    _fits(board.identity, image)
    total, done, sent = sum(map(len, image.values())), 0, 0
    differs = ""  # region in which something did: the rest of it will too
    for address, part in _pieces(image):
        region = _region(address)
        if region == differs or board.checksum(address, len(part)) != zlib.crc32(part):
            if not address & EXTERNAL:
                differs = region
            board.write(address, part)
            sent += len(part)
        done += len(part)
        progress(done, total)
    if sent:
        verify(board, image)
    return sent


def verify(board: Memory, image: Image) -> None:
    """See :meth:`nomul.host.driver.Board.verify`."""
    for address, part in _pieces(image):
        if board.checksum(address, len(part)) != zlib.crc32(part):
            raise NomulError(
                f"board: {_region(address)} memory does not keep what is written: of the "
                f"{len(part)} bytes at {address:#x} some are wrong; load it again"
            )


def _fits(identity: Identity, image: Image) -> None:
    for address, data in image.items():
        number, size = address >> REGION_SHIFT, 0
        offset = address & (1 << REGION_SHIFT) - 1
        if address & EXTERNAL:
            offset, size = address - EXTERNAL, identity.memory_bytes
        elif number < len(identity.region_bytes):
            size = identity.region_bytes[number]
        if offset + len(data) > size:
            raise NomulError(
                f"board: the model needs {offset + len(data)} bytes of {_region(address)}"
                f"{' memory' * bool(address & EXTERNAL)}, the board has "
                f"{size}: {offset + len(data) - size} too few; use a smaller model "
                f"or another board"
            )


def _region(address: int) -> str:
    """Name of the region of an address."""
    number = address >> REGION_SHIFT
    if address & EXTERNAL:
        return "external"
    return Region(number).name.lower() if number in [*Region] else f"region {number}"


def _pieces(image: Image) -> Iterator[tuple[int, bytes]]:
    """What is under one checksum each, with its address."""
    for address, data in image.items():
        chunk = _FAR_CHUNK if address & EXTERNAL else _CHUNK
        for k in range(0, len(data), chunk):
            yield address + k, bytes(data[k : k + chunk])
