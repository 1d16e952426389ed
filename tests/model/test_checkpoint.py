# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: what is read exactly, and one clear line for whatever is wrong."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given

from nomul.model import checkpoint
from nomul.model.checkpoint import (
    Checkpoint,
    config_of,
    read_checkpoint,
    tensor_shapes,
    write_checkpoint,
)
from nomul.model.errors import NomulError
from nomul.model.geometry import Geometry
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.safetensors import encode

FIXTURE = Path(__file__).parents[1] / "fixtures/upstream-a"
TINY = Geometry(hidden=4, intermediate=6, layers=2, vocab=5)

Entries = dict[str, dict[str, Any]]


def fails(path: Path, *parts: str) -> None:
    """Reading and verifying fails with one line that has all of the parts."""
    with pytest.raises(NomulError) as caught:
        read_checkpoint(path).verify()
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert part in line, line


def tensors_of(source: Checkpoint) -> dict[str, np.ndarray]:
    return {name: source.tensor(name) for name in source.names}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good checkpoint in one float32 file."""
    source = random_checkpoint(TINY, 1)
    write_checkpoint(tmp_path, source.config, tensors_of(source), dtype="float32")
    return tmp_path


def split(file: Path) -> tuple[Entries, bytes]:
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(file: Path, header: Entries | str, data: bytes) -> None:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def edit(folder: Path, change: Callable[[Entries], object]) -> Path:
    """Rewrites the header of the weights."""
    file = folder / "model.safetensors"
    header, data = split(file)
    change(header)
    join(file, header, data)
    return folder


def edit_json(file: Path, **fields: Any) -> None:
    """Sets fields; ``...`` removes one."""
    content = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


# -- good ones -----------------------------------------------------------------------------------


def test_fixture_is_what_the_safetensors_library_reads():
    loaded = read_checkpoint(FIXTURE)
    assert loaded.geometry == Geometry(hidden=128, intermediate=512, layers=3, vocab=256)
    assert loaded.eps == 1e-6
    raw = dict(safetensors.deserialize((FIXTURE / "model.safetensors").read_bytes()))
    assert raw.keys() == set(loaded.names)
    for name, entry in raw.items():
        values = loaded.tensor(name)
        assert values.dtype == np.float32
        assert list(values.shape) == entry["shape"]
        bits = values.view(np.uint32)
        assert not (bits & 0xFFFF).any()
        assert (bits >> 16).astype("<u2").tobytes() == bytes(entry["data"])


def test_fixture_has_the_published_number_of_parameters():
    loaded = read_checkpoint(FIXTURE)
    sizes = [loaded.tensor(name).size for name in loaded.names]
    assert len(sizes) == 15 * 3 + 5
    assert sum(sizes) == loaded.geometry.parameters


@pytest.mark.parametrize(
    ("sizes", "weights", "parameters", "tensors"),
    [
        ((24, 1024, 2816), 341_049_344, 374_108_160, 365),
        ((24, 2048, 5632), 1_298_661_376, 1_364_779_008, 365),
        ((32, 2560, 6912), 2_619_473_920, 2_702_357_504, 485),
    ],
)
def test_published_sizes(sizes, weights, parameters, tensors):
    layers, hidden, intermediate = sizes
    config = config_of(Geometry(hidden=hidden, intermediate=1, layers=layers, vocab=32000))
    geometry, _ = checkpoint._read_config(config | {"intermediate_size": None}, "config")
    assert geometry.intermediate == intermediate
    assert geometry.ternary_weights == weights
    assert geometry.parameters == parameters
    assert len(tensor_shapes(geometry)) == tensors
    shapes = tensor_shapes(geometry).values()
    assert sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes) == parameters


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("shard_bytes", [None, 1, 300, 10**6])
def test_written_is_read(tmp_path: Path, dtype: str, shard_bytes: int | None):
    source = random_checkpoint(TINY, 3)
    write_checkpoint(
        tmp_path, source.config, tensors_of(source), dtype=dtype, shard_bytes=shard_bytes
    )
    loaded = read_checkpoint(tmp_path)
    assert loaded.geometry == TINY
    for name in source.names:
        assert loaded.tensor(name).tobytes() == source.tensor(name).tobytes()
    files = sorted(file.name for file in tmp_path.iterdir())
    assert [file.name for file in loaded.files] == files
    lines = [f"{hashlib.sha256((tmp_path / f).read_bytes()).hexdigest()}  {f}\n" for f in files]
    assert loaded.sha256() == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_safetensors_library_reads_what_is_written(folder: Path):
    loaded = safetensors.numpy.load_file(folder / "model.safetensors")
    source = random_checkpoint(TINY, 1)
    assert loaded.keys() == set(source.names)
    for name, values in loaded.items():
        np.testing.assert_array_equal(values, source.tensor(name))


def test_half_precision_of_the_safetensors_library_is_read(folder: Path):
    source = random_checkpoint(TINY, 1)
    half = {name: values.astype(np.float16) for name, values in tensors_of(source).items()}
    safetensors.numpy.save_file(half, folder / "model.safetensors")
    loaded = read_checkpoint(folder)
    for name, values in half.items():
        np.testing.assert_array_equal(loaded.tensor(name), values.astype(np.float32))


def test_a_file_may_be_given_instead_of_its_folder(folder: Path):
    other = (folder / "model.safetensors").rename(folder / "mine.safetensors")
    assert read_checkpoint(other).geometry == TINY
    assert read_checkpoint(str(other)).files == (folder / "config.json", other)


def test_random_checkpoints_depend_on_the_seed_alone():
    first, again, other = (random_checkpoint(TINY, seed) for seed in (1, 1, 2))
    assert first.sha256() == again.sha256() != other.sha256()
    assert first.geometry == TINY
    first.tensor("model.norm.weight")[:] = 0  # a copy: does not reach the checkpoint
    assert first.sha256() == again.sha256()


@given(
    value=st.floats(width=32, min_value=2.0**-100, max_value=2.0**127),
    sign=st.sampled_from([1, -1]),
)
def test_bfloat16_rounds_to_nearest_even(value: float, sign: int):
    data = encode(np.array([sign * value]), "bfloat16", "x")
    (bits,) = struct.unpack("<H", data)

    def gap(code: int) -> float:
        return abs(struct.unpack("<f", struct.pack("<I", code << 16))[0] - sign * value)

    neighbours = [gap(bits - 1), gap(bits + 1)]
    assert gap(bits) <= min(neighbours)
    if gap(bits) in neighbours:
        assert bits % 2 == 0


# -- damaged files -------------------------------------------------------------------------------


def test_truncated_anywhere(folder: Path, rng: np.random.Generator):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    begin = 8 + struct.unpack("<Q", whole[:8])[0]
    ends = [begin + entry.get("data_offsets", [0, 0])[1] for entry in split(file)[0].values()]
    sizes = {*range(20), *(end + k for end in ends for k in (-1, 0, 1))}
    sizes |= set(rng.integers(0, len(whole), 100).tolist())
    for size in sorted(size for size in sizes if size < len(whole)):
        file.write_bytes(whole[:size])
        if size < 8:
            fails(folder, str(file), "truncated", "no header length")
        elif size < begin:
            fails(folder, str(file), "truncated in the header", f"has {size} bytes")
        else:
            fails(folder, str(file), "truncated in tensor ", f"has {size} bytes")


@pytest.mark.parametrize("extra", [1, 8, 4096])
def test_oversized(folder: Path, extra: int):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes() + bytes(extra))
    fails(folder, str(file), f"{extra} bytes too many")


@pytest.mark.parametrize("length", [0, 1, 100_000_001, 1 << 63, (1 << 64) - 1])
def test_absurd_header_length(folder: Path, length: int):
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    fails(folder, str(file), "not a safetensors file", f"{length} bytes")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not JSON", "Expecting value"),
        ("[1, 2]", "is a JSON list"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": ' + "[" * 100_000, "recursion"),
        ('{"a": ' + "9" * 5000 + "}", "integer string conversion"),
        ('{"__metadata__": {"format": 1}}', "__metadata__"),
        ('{"__metadata__": []}', "__metadata__"),
        ('{"a": {}, "a": {}}', "key 'a' occurs twice"),
        ('{"a": {"dtype": "F32", "dtype": "F32"}}', "key 'dtype' occurs twice"),
        ('{"a": 1}', "'a' needs just dtype, shape and data_offsets"),
        ('{"a": {"dtype": "F32", "shape": [1]}}', "'a' needs just dtype"),
        ("{}", "lm_head.norm.weight and 34 more missing"),
    ],
)
def test_wrong_header(folder: Path, text: str, reason: str):
    file = folder / "model.safetensors"
    join(file, text, b"")
    fails(folder, str(folder), reason)


def test_header_that_is_not_utf8(folder: Path):
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 4) + b'"\xff"}')
    fails(folder, str(file), "not valid JSON", "utf-8")


def test_a_changed_header_byte_never_crashes(folder: Path, rng: np.random.Generator):
    """Metadata or names may change unnoticed only where no tensor is concerned."""
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    begin = 8 + struct.unpack("<Q", whole[:8])[0]
    good = [read_checkpoint(folder).tensor(name).tobytes() for name in tensor_shapes(TINY)]
    unnoticed = 0
    places = [*range(12), *rng.choice(begin, 400, replace=False)]
    for at, bit in zip(places, rng.integers(0, 8, len(places)), strict=True):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        try:
            loaded = read_checkpoint(folder)
        except NomulError:
            continue
        unnoticed += 1
        assert [loaded.tensor(name).tobytes() for name in tensor_shapes(TINY)] == good
    assert unnoticed < 40  # "__metadata__": {"format": "pt"}, and spaces at the end


NAME = "model.layers.1.attn.i_proj.weight"  # [4, 4], 64 bytes


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"dtype": "I8"}, ("dtype 'I8'", "BF16, F16, F32", "quantised")),
        ({"dtype": "F64"}, ("dtype 'F64'",)),
        ({"dtype": None}, ("dtype None",)),
        ({"dtype": ["F32"]}, ("dtype ['F32']",)),
        ({"shape": [16]}, ("expected [4, 4], found [16]", "config.json")),
        ({"shape": [2, 8]}, ("expected [4, 4], found [2, 8]",)),
        ({"shape": [4, 5]}, ("64 bytes of data, F32 [4, 5] takes 80",)),
        ({"shape": [4, -4]}, ("no proper shape",)),
        ({"shape": [4, 4.0]}, ("no proper shape",)),
        ({"shape": [True, 16]}, ("no proper shape",)),
        ({"shape": "4,4"}, ("no proper shape",)),
        ({"shape": [10**18, 10**18]}, ("takes 4" + "0" * 36,)),
        ({"shape": [10**40]}, ("no proper shape",)),
        ({"shape": [1] * 4000}, ("no proper shape",)),
        ({"data_offsets": [64, 0]}, ("no proper data_offsets",)),
        ({"data_offsets": [0]}, ("no proper data_offsets",)),
        ({"data_offsets": [-64, 0]}, ("no proper data_offsets",)),
        ({"data_offsets": ["0", "64"]}, ("no proper data_offsets",)),
        ({"data_offsets": [0, 64]}, ("overlap",)),
        ({"data_offsets": [1 << 40, (1 << 40) + 64]}, ("leave a gap",)),
        ({"more": 1}, ("needs just dtype, shape and data_offsets",)),
    ],
)
def test_wrong_entry(folder: Path, fields: dict[str, Any], parts: tuple[str, ...]):
    edit(folder, lambda header: header[NAME].update(fields))
    named = () if parts[0] in ("overlap", "leave a gap") else (NAME,)  # or the one beside it
    fails(folder, str(folder), *named, *parts)


def test_shifted_data_leave_a_gap(folder: Path):
    def shift(header: Entries) -> None:
        for entry in header.values():
            if "data_offsets" in entry:
                entry["data_offsets"] = [at + 4 for at in entry["data_offsets"]]

    edit(folder, shift)
    fails(folder, "leave a gap")


@pytest.mark.parametrize("name", ["model.embeddings.weight", "model.lower_bounds", NAME])
def test_missing_tensor(tmp_path: Path, name: str):
    source = random_checkpoint(TINY, 1)
    tensors = tensors_of(source)
    del tensors[name]
    with pytest.raises(NomulError, match=re.escape(f"tensor {name} missing")):
        write_checkpoint(tmp_path, source.config, tensors)
    assert not list(tmp_path.iterdir())
    (tmp_path / "config.json").write_text(json.dumps(source.config))
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    fails(tmp_path, str(tmp_path), f"tensor {name} missing")


@pytest.mark.parametrize("name", ["model.rotary.inv_freq", "model.layers.2.attn_norm.weight"])
def test_extra_tensor(folder: Path, name: str):
    tensors = tensors_of(read_checkpoint(folder))
    safetensors.numpy.save_file(
        tensors | {name: np.ones(4, np.float32)}, folder / "model.safetensors"
    )
    fails(folder, name, "not part of this architecture", "num_hidden_layers")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_not_finite(folder: Path, value: float, dtype: type):
    tensors = {k: t.astype(dtype) for k, t in tensors_of(read_checkpoint(folder)).items()}
    tensors["lm_head.weight"][3, 2] = tensors["lm_head.weight"][4, 0] = value
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    loaded = read_checkpoint(folder)
    loaded.tensor("model.norm.weight")
    fails(folder, str(folder), "tensor lm_head.weight holds", str(value), "at [3, 2]")


@pytest.mark.parametrize(("bits", "shown"), [(0x7FC0, "nan"), (0x7F81, "nan"), (0xFF80, "-inf")])
def test_not_finite_in_bfloat16(tmp_path: Path, bits: int, shown: str):
    source = random_checkpoint(TINY, 1)
    write_checkpoint(tmp_path, source.config, tensors_of(source))
    file = tmp_path / "model.safetensors"
    header, data = split(file)
    at = header["model.norm.weight"]["data_offsets"][0] + 2 * 3
    join(file, header, data[:at] + struct.pack("<H", bits) + data[at + 2 :])
    fails(tmp_path, "tensor model.norm.weight", shown, "at [3]")


def test_weights_that_were_dequantised_from_trits(tmp_path: Path):
    source = random_checkpoint(Geometry(hidden=32, intermediate=8, layers=1, vocab=8), 1)
    tensors = tensors_of(source)
    name = "model.layers.0.attn.o_proj.weight"
    tensors[name] = np.sign(tensors[name]) * (np.abs(tensors[name]) > 0.03) * np.float32(0.04)
    write_checkpoint(tmp_path, source.config, tensors)
    fails(tmp_path, name, "dequantised from trits", "original training weights")
    tensors[name][:] = 0.04 * np.sign(source.tensor(name))  # no zeros: nothing is lost
    write_checkpoint(tmp_path, source.config, tensors)
    read_checkpoint(tmp_path).verify()


# -- config.json ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("model_type", ..., "missing"),
        ("model_type", "llama", "'llama'; nomul runs only 'hgrn_bit'"),
        ("use_short_conv", True, "True; nomul runs only False"),
        ("use_short_conv", 0, "0; nomul runs only False"),
        ("num_heads", 2, "2; nomul runs only 1"),
        ("num_heads", True, "True; nomul runs only 1"),
        ("num_heads", None, "None; nomul runs only 1"),
        ("expand_ratio", 2, "2; nomul runs only 1"),
        ("tie_word_embeddings", True, "True; nomul runs only False"),
        ("use_lower_bound", False, "False; nomul runs only True"),
        ("hidden_act", "gelu", "'gelu'; nomul runs only 'swish' or 'silu'"),
        ("hidden_act", ["swish"], "['swish']; nomul runs only"),
        ("hidden_size", ..., "missing"),
        ("hidden_size", "4", "'4'; it must be a positive integer"),
        ("hidden_size", 4.0, "4.0; it must be a positive integer"),
        ("hidden_size", True, "True; it must be a positive integer"),
        ("hidden_size", None, "None; it must be a positive integer"),
        ("hidden_size", 0, "0; it must be a positive integer"),
        ("hidden_size", 10**30, "it must be a positive integer"),
        ("num_hidden_layers", ..., "missing"),
        ("num_hidden_layers", -1, "-1; it must be a positive integer"),
        ("vocab_size", ..., "missing"),
        ("vocab_size", [256], "[256]; it must be a positive integer"),
        ("intermediate_size", 5.5, "5.5; it must be a positive integer"),
        ("rms_norm_eps", 0, "0; it must be a positive number"),
        ("rms_norm_eps", "1e-6", "'1e-6'; it must be a positive number"),
        ("rms_norm_eps", 2, "2.0; it must be a small number"),
    ],
)
def test_wrong_config(folder: Path, field: str, value: Any, reason: str):
    edit_json(folder / "config.json", **{field: value})
    fails(folder, "config.json: ", field, reason)


@pytest.mark.parametrize("ratio", [0, -4, "4", 1e-9])
def test_wrong_hidden_ratio(folder: Path, ratio: Any):
    edit_json(folder / "config.json", intermediate_size=None, hidden_ratio=ratio)
    fails(folder, "config.json: ", "hidden_ratio")


@pytest.mark.parametrize(
    ("fields", "intermediate"),
    [
        ({"intermediate_size": ..., "hidden_ratio": ...}, 256),
        ({"intermediate_size": None, "hidden_ratio": None, "hidden_size": 1024}, 2816),
        ({"intermediate_size": None, "hidden_ratio": 8, "hidden_size": 100}, 768),
        ({"intermediate_size": 300, "hidden_ratio": 8}, 300),
    ],
)
def test_intermediate_size(folder: Path, fields: dict[str, Any], intermediate: int):
    edit_json(folder / "config.json", **fields)
    config = json.loads((folder / "config.json").read_text())
    assert checkpoint._read_config(config, "config")[0].intermediate == intermediate


def test_fields_with_published_defaults_may_be_missing(folder: Path):
    names = ("use_short_conv", "num_heads", "expand_ratio", "tie_word_embeddings", "hidden_ratio",
             "use_lower_bound", "hidden_act", "rms_norm_eps")  # fmt: skip
    edit_json(folder / "config.json", **dict.fromkeys(names, ...))
    assert read_checkpoint(folder).eps == 1e-6


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1, "a": 2}', '{"a": Infinity}'])
def test_config_that_is_not_json(folder: Path, text: str):
    (folder / "config.json").write_text(text)
    fails(folder, "config.json", "JSON")


def test_config_and_weights_of_two_models(folder: Path):
    edit_json(folder / "config.json", hidden_size=5)
    fails(folder, "model.embeddings.weight", "expected [5, 5], found [5, 4]", "belong together")


# -- files ---------------------------------------------------------------------------------------


def test_files_that_are_not_there(tmp_path: Path, folder: Path):
    fails(tmp_path / "none", "none", "no such file or folder")
    (folder / "config.json").unlink()
    fails(folder, "config.json", "belongs beside the weights")
    (folder / "model.safetensors").unlink()
    fails(folder, "has neither model.safetensors nor")


def test_neither_folder_nor_safetensors(tmp_path: Path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    fails(tmp_path / "pytorch_model.bin", "neither a folder nor a .safetensors file")
    fails(tmp_path, "must be converted to safetensors")


def test_folders_in_the_place_of_files(folder: Path):
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
        (folder / name).mkdir()
        fails(folder, name)


def test_file_that_shrinks_while_it_is_read(folder: Path):
    loaded = read_checkpoint(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(NomulError, match="became shorter"):
        loaded.verify()


# -- writing -------------------------------------------------------------------------------------


def test_writer_refuses_what_the_reader_would(tmp_path: Path):
    source = random_checkpoint(TINY, 1)
    tensors = tensors_of(source)
    wrong = tensors | {"lm_head.norm.weight": np.ones(5, np.float32)}
    with pytest.raises(NomulError, match=r"lm_head.norm.weight .*expected \[4\], found \[5\]"):
        write_checkpoint(tmp_path, source.config, wrong)
    wrong = tensors | {"lm_head.norm.weight": np.array([1, 2, np.nan, 3])}
    with pytest.raises(NomulError, match=r"lm_head.norm.weight holds nan at \[2\]"):
        write_checkpoint(tmp_path, source.config, wrong)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]  # no half-written weights
    wrong = tensors | {"lm_head.norm.weight": np.array([1, 2, 3.4e38, 3], np.float32)}
    with pytest.raises(NomulError, match="too large for bfloat16"):
        write_checkpoint(tmp_path, source.config, wrong)
    with pytest.raises(NomulError, match="use_short_conv is True"):
        write_checkpoint(tmp_path, source.config | {"use_short_conv": True}, tensors)
    with pytest.raises(ValueError, match="not 'int8'"):
        write_checkpoint(tmp_path, source.config, tensors, dtype="int8")
    with pytest.raises(ValueError, match="at least 1 byte, not 0"):
        write_checkpoint(tmp_path, source.config, tensors, shard_bytes=0)


def test_writer_names_a_folder_it_cannot_make(tmp_path: Path):
    source = random_checkpoint(TINY, 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(NomulError, match=r"file/x: not a directory; check the path"):
        write_checkpoint(tmp_path / "file/x", source.config, tensors_of(source))
