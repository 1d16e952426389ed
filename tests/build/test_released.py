# SPDX-License-Identifier: Apache-2.0
"""The released bitstreams: whole, and made of what is here.

One that is out of date is told, not failed: whoever changes a unit makes every bitstream with it out of date, and
routing takes minutes to hours of both cores. ``make bitstreams`` is where it is an error; a board that runs
one is refused by the driver, which compares designs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nomul.host.cli.rebuild import stale
from nomul.host.cli.released import DETAILED, released, table, units_table
from nomul.hw.boards.registry import BOARDS
from nomul.model.errors import NomulError
from nomul.model.manifest import read_manifest

MANIFESTS = released()
LARGEST = 3 << 20  # bytes: they live in the repository


def test_the_tables_in_docs_are_theirs():
    """``python -m nomul.host.cli.released`` prints them."""
    text = (Path(__file__).parents[2] / "docs/boards/README.md").read_text()
    found = {path.stem: read_manifest(path) for path in MANIFESTS}
    assert table([*found.values()]) in text
    assert units_table([found[name] for name in DETAILED]) in text


def test_there_are_some():
    assert MANIFESTS


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_released_bitstream_is_what_its_manifest_says(path: Path):
    manifest = read_manifest(path)
    data = manifest.bitstream(path)
    board = BOARDS[manifest.board]
    assert path.stem == f"{manifest.board}-{manifest.configuration}"
    assert manifest.part == board.part
    assert manifest.part.encode() in data[:256]
    assert manifest.idcode.to_bytes(4, "big") in data[:4096]  # what the chip compares
    assert manifest.timing["worst_slack_ns"] >= 0
    assert manifest.timing["fmax_mhz"] * 1e6 >= manifest.clock_hz
    assert manifest.size < LARGEST
    assert manifest.command.startswith(f"nomul build {manifest.board} --config {manifest.configuration} --seed ")
    assert not set(path.parent.glob("*.bit")) - {one.with_name(read_manifest(one).file) for one in MANIFESTS}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_released_bitstream_is_up_to_date(path: Path):
    why = stale(read_manifest(path))
    if why is not None:
        pytest.skip(why)


def test_one_that_is_out_of_date_is_found():
    manifest = read_manifest(MANIFESTS[0])
    assert "out of date: its design is 0011223344556677" in str(stale(replace(manifest, design="0011223344556677")))
    if stale(manifest) is None:
        assert "out of date: it was made of another state" in str(stale(replace(manifest, sources="00" * 32)))


def test_an_edited_one_is_found(tmp_path: Path):
    path = MANIFESTS[0]
    manifest = read_manifest(path)
    data = bytearray(manifest.bitstream(path))
    data[len(data) // 2] ^= 1
    (tmp_path / manifest.file).write_bytes(data)
    with pytest.raises(NomulError, match=r"is not the bitstream that .* is about"):
        manifest.bitstream(tmp_path / path.name)
