# SPDX-License-Identifier: Apache-2.0
"""A bench's page in a real browser: what its console says, where its texts lie, and how much ink it has."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from serve.browser import Browser

from nomul.host.bench.page import page

__all__ = ["ink", "looked_at"]

_TEXTS = """[...document.querySelectorAll('svg')].map(svg => ({
  name: svg.getAttribute('aria-label'), frame: (b => [b.left, b.top, b.right, b.bottom])(svg.getBoundingClientRect()),
  texts: [...svg.querySelectorAll('text')].map(text => {
    const b = text.getBoundingClientRect(); return [text.textContent, b.left, b.top, b.right, b.bottom]; }) }))"""


def _apart(one: list[Any], other: list[Any]) -> bool:
    """Whether two boxes do not share more than a pixel's width and height."""
    wide = min(one[3], other[3]) - max(one[1], other[1])
    high = min(one[4], other[4]) - max(one[2], other[2])
    return wide <= 1 or high <= 1


def looked_at(browser: Browser, folder: Path, document: dict[str, Any], *, width: int = 1100) -> list[str]:
    """Opens a document's page and checks it; gives the plots' names.

    Every text of a plot lies in its plot and over no other, nothing is wider than the window, nothing was fetched, and
    the console is silent.
    """
    path = folder / "page.html"
    path.write_text(page(document))
    browser.look(width=width, height=900)
    browser.open(path.as_uri())
    plots = browser.value(_TEXTS)
    for plot in plots:
        left, top, right, bottom = plot["frame"]
        assert bottom - top > 60
        assert len(plot["texts"]) >= 4
        for number, text in enumerate(plot["texts"]):
            within = (text[1] - left, right - text[3], text[2] - top, bottom - text[4])
            assert min(within) >= -0.5, (plot["name"], text, plot["frame"])
            for other in plot["texts"][:number]:
                assert _apart(text, other), (plot["name"], text, other)
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    assert browser.value("performance.getEntriesByType('resource').length") == 0
    assert browser.complaints == []
    return [plot["name"] for plot in plots]


def ink(browser: Browser, width: int, height: int) -> float:
    """Share of what is seen, a quarter of its size, that differs from the pixel in its corner."""
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 0.25}
    png = base64.b64decode(browser.call("Page.captureScreenshot", format="png", clip=clip)["data"])
    width, height, depth, kind = struct.unpack(">IIBB", png[16:26])
    assert (depth, kind) in ((8, 2), (8, 6))
    size, at, packed = 3 if kind == 2 else 4, 8, b""
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            packed += png[at + 8 : at + 8 + length]
        at += 12 + length
    raw = np.frombuffer(zlib.decompress(packed), dtype=np.uint8).reshape(height, 1 + width * size)
    rows = np.zeros((height, width * size), dtype=np.uint8)
    above = np.zeros(width * size, dtype=np.uint8)
    for y in range(height):
        above = rows[y] = _unfiltered(int(raw[y, 0]), raw[y, 1:], above, size)
    pixels = rows.reshape(height, width, size)
    return float((pixels != pixels[0, 0]).any(axis=2).mean())


def _unfiltered(kind: int, line: np.ndarray, above: np.ndarray, size: int) -> np.ndarray:
    """A line of a PNG as it was before its filter."""
    if kind == 0:
        return line
    if kind == 2:
        return line + above
    found = [int(value) for value in line]
    up = [int(value) for value in above]
    for k in range(len(found)):
        a, b, c = (found[k - size] if k >= size else 0), up[k], (up[k - size] if k >= size else 0)
        if kind == 1:
            found[k] += a
        elif kind == 3:
            found[k] += (a + b) // 2
        else:
            p = a + b - c
            found[k] += min((a, b, c), key=lambda value: abs(p - value))
        found[k] &= 255
    return np.array(found, dtype=np.uint8)
