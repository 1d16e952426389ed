# SPDX-License-Identifier: Apache-2.0
"""Bits from values and values from bits, as the Amaranth shape has them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Shape, ShapeCastable
from amaranth.lib import data

__all__ = ["pack_bits", "unpack_bits"]


def _plain(shape: Any) -> Any:
    """The layout behind a ``data.Struct``, the shape behind an enumeration."""
    while isinstance(shape, ShapeCastable) and not isinstance(shape, data.Layout):
        shape = shape.as_shape()
    return shape


def pack_bits(shape: Any, value: Any) -> int:
    """Bits of ``value`` in ``shape``: an integer, a sequence (array) or a mapping (structure).

    Raises
    ------
    ValueError
        If an integer does not fit, or an array or structure lacks or has too many elements.
    """
    shape = _plain(shape)
    if isinstance(shape, data.Layout):
        fields = list(shape)
        items = dict(value) if hasattr(value, "keys") else dict(enumerate(value))
        if items.keys() != {key for key, _ in fields}:
            raise ValueError(f"{shape!r} has the fields {[k for k, _ in fields]}, not {[*items]}")
        bits = 0
        for key, field in fields:
            bits |= pack_bits(field.shape, items[key]) << field.offset
        return bits
    shape, value = Shape.cast(shape), int(value)
    lowest = -(1 << shape.width - 1) if shape.signed else 0
    if not lowest <= value < lowest + (1 << shape.width):
        raise ValueError(f"{value} does not fit {shape!r}")
    return value & (1 << shape.width) - 1


def unpack_bits(shape: Any, bits: int) -> Any:
    """The value in ``bits``: integers, lists for arrays, dictionaries for structures."""
    shape = _plain(shape)
    if isinstance(shape, data.Layout):
        items = {key: unpack_bits(f.shape, bits >> f.offset) for key, f in shape}
        return [*items.values()] if isinstance(shape, data.ArrayLayout) else items
    shape = Shape.cast(shape)
    bits &= (1 << shape.width) - 1
    return bits - (1 << shape.width) if shape.signed and bits >> (shape.width - 1) else bits
