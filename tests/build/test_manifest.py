# SPDX-License-Identifier: Apache-2.0
"""Manifests that somebody has edited: one line that names the file and the field, and no traceback of a command."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outcome import Nomul

from nomul.host.cli import flashing
from nomul.host.cli.flashing import core_of
from nomul.host.cli.rebuild import released
from nomul.model.dram_control import DramControl
from nomul.model.errors import NomulError
from nomul.model.manifest import read_manifest

CHIP = json.loads(next(path for path in released() if path.stem == "ulx3s-85f-onchip").read_text())
MEMORY = json.loads(next(path for path in released() if path.stem == "ulx3s-85f-lanes1").read_text())
GONE = object()


def edited(found: dict[str, Any], place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """With another value at a place, or none."""
    found = copy.deepcopy(found)
    inner: Any = found
    for key in place[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return found


def write(folder: Path, found: dict[str, Any]) -> Path:
    path = folder / "ulx3s-85f-onchip.json"
    path.write_text(json.dumps(found))
    return path


WRONG = [
    (("timing",), {}, "field timing.fmax_mhz is missing; build the bitstream again"),
    (("timing",), None, "timing is null; it must be an object"),
    (("timing", "fmax_mhz"), "105", 'timing.fmax_mhz is "105"; it must be a number'),
    (("timing", "clocks"), {}, "timing.clocks is {}; it must be a list"),
    (("timing", "clocks", 0), 90, "timing.clocks[0] is 90; it must be an object"),
    (("timing", "clocks", 0, "routed_mhz"), GONE, "field timing.clocks[0].routed_mhz is missing"),
    (("link",), {}, "field link.kind is missing"),
    (("link",), [], "link is []; it must be an object"),
    (("link",), {"kind": "pigeon"}, "link.kind is 'pigeon'; one of uart, usb"),
    (("link",), {"kind": "uart"}, "field link.baud is missing"),
    (("link", "baud"), 3e6, "link.baud is 3000000.0; it must be a whole number"),
    (("link", "kind"), ["uart"], 'link.kind is ["uart"]; it must be text'),
    (("loader",), None, "loader is null; it must be a list"),
    (("loader", 1), 85, "loader[1] is 85; it must be text"),
    (("cables",), None, "cables is null; it must be a list"),
    (("cables",), "0403:6015", 'cables is "0403:6015"; it must be a list'),
    (("core",), [], "core is []; it must be an object or null"),
    (("core", "lanes"), [8], "core.lanes is [8]; it must be a whole number or text"),
    (("core", "lanes"), -1, "core: lanes is -1; it must be a positive integer"),
    (("memory",), 5, "memory is 5; it must be an object or null"),
    (("memory",), {}, "field memory.name is missing"),
    (("memory",), "x" * 100, f'memory is "{"x" * 59}…; it must be an object or null'),
    (("area",), [], "area is []; it must be an object"),
    (("area", "DP16KD"), 193, "area.DP16KD is 193; it must be an object"),
    (("area", "DP16KD", "used"), True, "area.DP16KD.used is true; it must be a whole number"),
    (("units",), None, "units is null; it must be an object"),
    (("tools",), None, "tools is null; it must be an object"),
    (("tools", "yosys"), 0.7, "tools.yosys is 0.7; it must be text"),
    (("pll",), None, "pll is null; it must be an object"),
    (("geometry",), "large", 'geometry is "large"; it must be an object or null'),
    (("size",), True, "size is true; it must be a whole number"),
    (("seed",), GONE, "field seed is missing"),
    (("device",), "LFE5U-12F", "device is 'LFE5U-12F'; one of LFE5U-25F, "),
    (("command",), 5, "command is 5; it must be text"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "message"), WRONG)
def test_an_edited_field_is_named(tmp_path: Path, place: tuple[str | int, ...], value: Any, message: str):
    path = write(tmp_path, edited(CHIP, place, value))
    with pytest.raises(NomulError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("memory", "init"), None, "memory.init is null; it must be a list"),
        (("memory", "init", 0), None, "memory.init[0] is null; it must be an object"),
        (("memory", "init", 1, "cycles"), "many", 'memory.init[1].cycles is "many"; it must be a whole number'),
        (("memory", "init", 1, "speed"), 1, "manifest: memory is not as it should be ("),
        (("memory", "registers"), [], "memory.registers is []; it must be an object"),
        (("memory", "phases"), GONE, "field memory.phases is missing"),
        (("memory", "colour"), 1, "manifest: memory is not as it should be ("),
    ],
)  # fmt: skip
def test_what_a_host_needs_of_a_memory_is_checked(
    tmp_path: Path, place: tuple[str | int, ...], value: Any, message: str
):
    path = write(tmp_path, edited(MEMORY, place, value))
    with pytest.raises(NomulError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def places(value: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """All that can be edited."""
    if above:
        yield above
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*above, key))
    elif isinstance(value, list):
        for key, inner in enumerate(value):
            yield from places(inner, (*above, key))


values = st.sampled_from(
    [None, True, 0, -1, 10**30, 0.5, "", "x", "usb", [], [None], ["x"], [[]], {}, {"x": 1}, {"kind": "uart"}, GONE]
)


@settings(max_examples=300)
@given(st.sampled_from([(found, place) for found in (CHIP, MEMORY) for place in places(found)]), values)
def test_no_edit_gets_past_it_to_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, where: tuple[dict[str, Any], tuple[str | int, ...]], value: Any
):
    path = write(tmp_path_factory.getbasetemp(), edited(*where, value))
    refused = ""
    try:
        manifest = read_manifest(path)
    except NomulError as error:
        refused = str(error)
    if refused:
        assert refused.startswith(f"{path}: ")
        return
    try:  # what doctor, flash and build take from it
        core_of(manifest)
    except NomulError as error:
        refused = str(error)
    assert not refused or "its core is of another version of nomul" in refused
    if manifest.memory is not None:
        DramControl.from_dict(manifest.memory)
    assert f"{manifest.timing['fmax_mhz']} MHz"
    assert manifest.link["kind"] == "usb" or manifest.link["baud"] + 0 is not None
    assert " ".join(manifest.loader + manifest.cables) is not None
    for row in manifest.units.values():
        assert f"{row['comb']:,}"
    for cell in manifest.area.values():
        assert f"{cell['used']:,} of {cell['available']:,}"


def test_doctor_and_flash_name_it(nomul: Nomul, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flashing, "build_folder", lambda *parts: tmp_path)
    (tmp_path / "ulx3s-85f-onchip").mkdir()
    path = write(tmp_path / "ulx3s-85f-onchip", edited(CHIP, ("timing",), {}))
    message = f"{path}: field timing.fmax_mhz is missing; build the bitstream again"
    assert nomul("flash", "ulx3s-85f").failed() == f"nomul: {message}"
    checks = nomul("doctor", "--board", "ulx3s-85f", "--json").json["checks"]
    assert {"name": "bitstream", "ok": False, "needed": True, "found": message} in checks
