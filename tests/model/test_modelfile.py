# SPDX-License-Identifier: Apache-2.0
"""The container: what is written is read; nothing else is."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from nomul.model import modelfile
from nomul.model.errors import NomulError
from nomul.model.files import canonical_json
from nomul.model.modelfile import ALIGNMENT, FORMAT_VERSION, MAGIC

PREAMBLE = 20
HEADER = {"name": "tiny", "geometry": {"hidden": 4}, "µ": [1, 2.5, None, True, "§"]}
SECTIONS: dict[str, bytes | np.ndarray] = {
    "bytes": b"\x00\xff" * 33,
    "nothing": b"",
    "shorts": np.arange(-6, 6, dtype=np.int16).reshape(3, 4),
    "scalar": np.array(0.1),
}
DTYPES = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]


def fails(path: Path, *parts: str) -> None:
    """Reading and verifying fails with one line that names the file and has all of the parts."""
    with pytest.raises(NomulError) as caught:
        modelfile.read(path).verify()
    line = str(caught.value)
    assert "\n" not in line
    for part in (str(path), *parts):
        assert part in line, line


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.nomul"
    modelfile.write(file, HEADER, SECTIONS)
    return file


def header_of(raw: bytes) -> tuple[dict[str, Any], int]:
    """Header JSON and where it ends."""
    end = PREAMBLE + struct.unpack_from("<I", raw, 12)[0]
    return json.loads(raw[PREAMBLE:end]), end


def assemble(content: object, rest: bytes) -> bytes:
    """A file with a right checksum over whatever header; ``rest`` begins aligned."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    start = struct.pack("<8sII", MAGIC, FORMAT_VERSION, len(text))
    raw = start + struct.pack("<I", zlib.crc32(start + text)) + text
    return raw + bytes(-len(raw) % ALIGNMENT) + rest


def edit(path: Path, change: Any) -> None:
    """Changes the header and mends its checksum."""
    raw = path.read_bytes()
    content, end = header_of(raw)
    change(content)
    path.write_bytes(assemble(content, raw[-(-end // ALIGNMENT) * ALIGNMENT :]))


# -- good ones -----------------------------------------------------------------------------------


def test_written_is_read(path: Path):
    loaded = modelfile.read(path)
    loaded.verify()
    assert loaded.header == HEADER
    assert list(loaded.sections) == list(SECTIONS)
    assert len(loaded.sections) == 4
    assert "shorts" in loaded.sections
    assert "longs" not in loaded.sections
    assert loaded.sections["bytes"].tobytes() == SECTIONS["bytes"]
    assert loaded.sections["bytes"].dtype == np.uint8
    assert loaded.sections["nothing"].shape == (0,)
    np.testing.assert_array_equal(loaded.sections["shorts"], SECTIONS["shorts"])
    assert loaded.sections["shorts"].dtype == np.int16
    assert loaded.sections["scalar"] == 0.1
    assert not loaded.sections["shorts"].flags.writeable
    assert all(section.offset % ALIGNMENT == 0 for section in loaded.table.values())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_any_arrays(tmp_path: Path, data: st.DataObject):
    sections: dict[str, np.ndarray] = {}
    for name in data.draw(st.lists(st.text(max_size=8), unique=True, max_size=4)):
        dtype = np.dtype(data.draw(st.sampled_from("<>")) + data.draw(st.sampled_from(DTYPES)))
        shape = data.draw(st.lists(st.integers(0, 5), max_size=3))
        size = int(np.prod(shape)) * dtype.itemsize
        raw = data.draw(st.binary(min_size=size, max_size=size))
        sections[name] = np.frombuffer(raw, dtype).reshape(shape)
    path = tmp_path / "any.nomul"
    identity = modelfile.write(path, {}, sections)
    loaded = modelfile.read(path)
    loaded.verify()
    assert loaded.identity == identity
    assert list(loaded.sections) == list(sections)
    for name, array in sections.items():
        again = loaded.sections[name]
        assert (again.dtype.kind, again.shape) == (array.dtype.kind, array.shape)
        assert again.astype(array.dtype).tobytes() == array.tobytes()


def test_an_array_that_is_not_contiguous(path: Path):
    array = np.arange(24, dtype=np.int32).reshape(4, 6)[::2, ::-1]
    modelfile.write(path, {}, {"a": array, "t": array.T})
    loaded = modelfile.read(path)
    np.testing.assert_array_equal(loaded.sections["a"], array)
    np.testing.assert_array_equal(loaded.sections["t"], array.T)


def test_identity_is_of_the_sections_alone(tmp_path: Path):
    file = tmp_path / "a.nomul"
    one = modelfile.write(file, {"name": "one"}, {"a": b"abc", "b": np.ones(2, np.float32)})
    lines = b'["a","u1",[3]]\nabc' + b'["b","f4",[2]]\n' + np.ones(2, "<f4").tobytes()
    assert one == hashlib.sha256(lines).hexdigest()
    assert modelfile.write(file, {"name": "two"}, {"a": b"abc", "b": np.ones(2, ">f4")}) == one
    others = [{"a": b"abd"}, {"a": np.frombuffer(b"abc", np.int8)}, {"b": b"abc"}]
    assert len({modelfile.write(file, {}, sections) for sections in others} | {one}) == 4


def test_equal_content_makes_equal_files(tmp_path: Path):
    a, b = tmp_path / "a", tmp_path / "b"
    modelfile.write(a, {"x": 1, "y": {"q": 1, "p": 2}}, {"w": b"1"})
    modelfile.write(b, {"y": {"p": 2, "q": 1}, "x": 1}, {"w": b"1"})
    assert a.read_bytes() == b.read_bytes()


def test_writer_refuses_what_it_cannot_store(tmp_path: Path):
    file = tmp_path / "a.nomul"
    with pytest.raises(TypeError, match="section 'c' has dtype complex128"):
        modelfile.write(file, {}, {"c": np.ones(1, complex)})
    with pytest.raises(TypeError, match="section 'o' has dtype object"):
        modelfile.write(file, {}, {"o": np.array([None])})
    with pytest.raises(ValueError, match="not JSON compliant"):
        modelfile.write(file, {"loss": float("nan")}, {})
    assert not list(tmp_path.iterdir())


# -- whole or not at all -------------------------------------------------------------------------


def test_writing_replaces_a_file_that_is_mapped(path: Path):
    before = modelfile.read(path)
    modelfile.write(path, {}, {"shorts": b"other"})
    np.testing.assert_array_equal(before.sections["shorts"], SECTIONS["shorts"])
    assert modelfile.read(path).sections["shorts"].tobytes() == b"other"


def test_an_exception_while_writing_leaves_the_old_file(path: Path, monkeypatch):
    whole = path.read_bytes()

    def no_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_disk)
    with pytest.raises(NomulError, match=re.escape(f"{path}: no space left on device")):
        modelfile.write(path, {}, {"a": b"1"})
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]


def _killed(path: Path) -> None:
    os.fsync = lambda _: os.kill(os.getpid(), 9)
    modelfile.write(path, {}, {"a": bytes(100_000)})


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path: Path):
    path = tmp_path / "a.nomul"
    process = multiprocessing.get_context("forkserver").Process(target=_killed, args=(path,))
    process.start()
    process.join(30)
    assert process.exitcode == -9
    assert not path.exists()


@pytest.mark.parametrize("name", ["none/a.nomul", "", "folder"])
def test_writing_where_it_cannot(tmp_path: Path, name: str):
    (tmp_path / "folder").mkdir()
    with pytest.raises(NomulError, match="check the path"):
        modelfile.write(tmp_path / name, {}, {})


# -- damaged files -------------------------------------------------------------------------------


def test_truncated_anywhere(path: Path, rng: np.random.Generator):
    raw = path.read_bytes()
    _, end = header_of(raw)
    edges = [end, *(s.offset for s in modelfile.read(path).table.values()), len(raw)]
    sizes = {*range(PREAMBLE + 2), *(e + k for e in edges for k in (-1, 0, 1))}
    sizes |= set(rng.integers(0, len(raw), 100).tolist())
    for size in sorted(size for size in sizes if size < len(raw)):
        path.write_bytes(raw[:size])
        if size == 0:
            fails(path, "not a nomul model file")
        elif size < len(MAGIC):
            fails(path, "truncated in its first bytes", f"({size} bytes)")
        elif size < PREAMBLE:
            fails(path, "truncated before the header", f"({size} bytes)")
        elif size < end:
            fails(path, "truncated in the header", f"has {size - PREAMBLE} after")
        else:
            fails(path, "truncated in section", f"has {size} bytes")


@pytest.mark.parametrize("extra", [1, 64, 5000])
def test_oversized(path: Path, extra: int):
    path.write_bytes(path.read_bytes() + bytes(extra))
    fails(path, f"{extra} bytes too many")


def test_bit_flips_are_caught(path: Path, rng: np.random.Generator):
    """Every bit of the preamble, one of every byte behind it."""
    raw = bytearray(path.read_bytes())
    flips = [(at, bit) for at in range(PREAMBLE + 4) for bit in range(8)]
    flips += enumerate(rng.integers(0, 8, len(raw)).tolist())
    for at, bit in flips:
        raw[at] ^= 1 << bit
        path.write_bytes(raw)
        with pytest.raises(NomulError):
            modelfile.read(path).verify()
        raw[at] ^= 1 << bit


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(data=st.data())
def test_other_damage_is_caught(tmp_path: Path, data: st.DataObject):
    """Overwritten, inserted and removed stretches of a larger file."""
    path = tmp_path / "large.nomul"
    modelfile.write(path, HEADER, SECTIONS | {"large": np.arange(3000, dtype=np.uint32)})
    raw = path.read_bytes()
    at = data.draw(st.integers(0, len(raw)))
    removed = data.draw(st.integers(0, 40))
    damaged = raw[:at] + data.draw(st.binary(max_size=40)) + raw[at + removed :]
    path.write_bytes(damaged)
    if damaged == raw:
        modelfile.read(path).verify()
    else:
        fails(path)


def test_a_damaged_section_leaves_the_others_readable(path: Path):
    raw = bytearray(path.read_bytes())
    loaded = modelfile.read(path)
    raw[loaded.table["shorts"].offset] ^= 1
    path.write_bytes(raw)
    loaded = modelfile.read(path)
    assert loaded.sections["bytes"].tobytes() == SECTIONS["bytes"]
    for _ in range(2):  # an error once is an error ever
        with pytest.raises(NomulError, match="section 'shorts' is damaged"):
            loaded.sections["shorts"]


def test_missing_section(path: Path):
    with pytest.raises(NomulError, match=r"tiny.nomul: section 'longs' is missing; .*import"):
        modelfile.read(path).sections["longs"]


@pytest.mark.parametrize("start", [b"PK\3\4", b"\0" * 100, b"NOMUL\n\x1a" + b"\0" * 90, b"N0"])
def test_other_files(path: Path, start: bytes):
    path.write_bytes(start)
    fails(path, "not a nomul model file", "nomul import")


@pytest.mark.parametrize(
    ("version", "mend"), [(FORMAT_VERSION + 1, "update nomul"), (1 << 31, "update"), (0, "copy")]
)
def test_other_versions(path: Path, version: int, mend: str):
    raw = path.read_bytes()
    path.write_bytes(raw[:8] + struct.pack("<I", version) + raw[12:])
    fails(path, f"format {version}, this nomul reads {FORMAT_VERSION}", mend)


@pytest.mark.parametrize("length", [10_000, 1 << 27, (1 << 32) - 1])
def test_absurd_header_length(path: Path, length: int):
    raw = path.read_bytes()
    path.write_bytes(raw[:12] + struct.pack("<I", length) + raw[16:])
    fails(path, "truncated in the header", f"takes {length} bytes")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not valid JSON"),
        (b"\xff{}", "not valid JSON"),
        (b"[]", "not an object"),
        (b'{"header":{"loss":NaN},"sections":[]}', "NaN is not a JSON number"),
        (b'{"header":{},"header":{},"sections":[]}', "key 'header' occurs twice"),
        (b'{"sections":[],"sha256":""}', "lacks 'header'"),
        (b'{"header":{},"sections":[]}', "lacks a proper 'sha256'"),
        (b'{"header":{},"sections":[],"sha256":"' + b"A" * 64 + b'"}', "proper 'sha256'"),
        (b'{"header":{},"sha256":"' + b"a" * 64 + b'"}', "lacks the list of sections"),
        (b'{"header":{},"sections":{},"sha256":"' + b"a" * 64 + b'"}', "lacks the list"),
        (b'{"header":{},"sections":[1],"sha256":"' + b"a" * 64 + b'"}', "a section has no name"),
        (b'{"header":{},"sections":[],"sha256":"' + b"a" * 64 + b'"}', "SHA-256"),
    ],
)
def test_wrong_header_with_a_right_checksum(path: Path, text: bytes, reason: str):
    path.write_bytes(assemble(text, b"")[: PREAMBLE + len(text)])
    fails(path, reason)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": 5}, "has no name"),
        ({"dtype": "c16"}, "'shorts' has dtype 'c16', not one of i1,"),
        ({"dtype": None}, "'shorts' has dtype None"),
        ({"dtype": []}, "'shorts' has dtype []"),
        ({"shape": [3, 5]}, "'shorts' has 24 bytes, but i2 [3, 5] takes 30"),
        ({"shape": [3, -4]}, "'shorts' has no proper shape"),
        ({"shape": [1] * 9}, "'shorts' has no proper shape"),
        ({"shape": [12.0]}, "'shorts' has no proper shape"),
        ({"shape": None}, "'shorts' has no proper shape"),
        ({"shape": [0, 1 << 60], "size": 0}, "'shorts' has 0 bytes, but"),
        ({"size": -24}, "size -24, no natural number"),
        ({"size": 1 << 70}, "no natural number"),
        ({"size": True}, "size True"),
        ({"size": 1 << 61, "shape": [1 << 60]}, "'shorts' has 23058430"),
        ({"size": 1 << 50, "shape": [1 << 49]}, "truncated in section 'shorts'"),
        ({"offset": 0}, "'shorts' overlaps the section before it (offset"),
        ({"offset": 192}, "'shorts' is out of place"),
        ({"offset": 1 << 50}, "'shorts' is out of place"),
        ({"offset": "128"}, "offset 128, no natural number"),
        ({"crc32": None}, "crc32 None, no natural number"),
        ({"crc32": 5}, "'shorts' is damaged"),
        ({"name": "bytes"}, "'bytes' occurs twice"),
        ({"name": "longs"}, "SHA-256 over all sections"),
        ({"shape": [4, 3]}, "SHA-256 over all sections"),
    ],
)
def test_wrong_section_with_a_right_checksum(path: Path, fields: dict[str, Any], reason: str):
    edit(path, lambda content: content["sections"][2].update(fields))
    fails(path, reason)


def test_missing_fields_of_a_section(path: Path):
    for key in ("name", "dtype", "shape", "offset", "size", "crc32"):
        modelfile.write(path, HEADER, SECTIONS)
        edit(path, lambda content, key=key: content["sections"][0].pop(key))
        fails(path, "has no name" if key == "name" else "'bytes' has")


def test_section_left_out_of_the_header(path: Path):
    edit(path, lambda content: content["sections"].pop())
    fails(path, "bytes too many")


def test_bytes_between_sections(path: Path):
    raw = bytearray(path.read_bytes())
    raw[modelfile.read(path).table["scalar"].offset - 1] = 1
    path.write_bytes(raw)
    fails(path, "bytes other than 0 before section 'scalar'")


def test_files_that_are_not_there(tmp_path: Path):
    fails(tmp_path / "none.nomul", "no such file or directory", "check the path")
    fails(tmp_path, "is a directory")


def test_header_is_canonical(path: Path):
    raw = path.read_bytes()
    content, end = header_of(raw)
    assert canonical_json(content) == raw[PREAMBLE:end]
