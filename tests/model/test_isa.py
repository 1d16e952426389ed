# SPDX-License-Identifier: Apache-2.0
"""The instruction set: words and text, there and back."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomul.model import isa
from nomul.model.errors import NomulError
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.program import compile_model
from nomul.model.random_checkpoint import random_checkpoint

WORD = 64


def values(field: dataclasses.Field) -> st.SearchStrategy:
    kind, width = field.metadata["kind"], field.metadata["width"]
    if kind is not int:
        return st.sampled_from(list(kind))
    if width < 0:
        return st.integers(-(1 << -width - 1), (1 << -width - 1) - 1)
    return st.integers(0, (1 << width) - 1)


instructions = st.one_of(
    [
        st.builds(kind, **{f.name: values(f) for f in dataclasses.fields(kind)})
        for kind in isa.INSTRUCTIONS
    ]
)


@given(instructions)
def test_words_there_and_back(instruction: isa.Instruction):
    word = isa.encode(instruction)
    assert 0 <= word < 1 << WORD
    assert isa.decode(word) == instruction


@given(st.lists(instructions))
def test_text_there_and_back(program: list[isa.Instruction]):
    assert isa.assemble(isa.disassemble(program)) == program


@given(st.integers(0, (1 << WORD) - 1))
def test_any_word_is_one_instruction_or_none(word: int):
    try:
        instruction = isa.decode(word)
    except NomulError:
        return
    assert isa.encode(instruction) == word


def test_compiled_programs_survive():
    model = fold(random_checkpoint(Geometry(hidden=37, intermediate=50, layers=2, vocab=19), 1))
    program = compile_model(model, bytes_per_beat=4, tile_outputs=16).program
    assert tuple(isa.assemble(isa.disassemble(program))) == program
    words = isa.pack_program(program)
    assert tuple(isa.unpack_program([*words, 1 << 4])) == program  # what follows the end is not read
    with pytest.raises(NomulError, match="there is no end instruction"):
        isa.unpack_program(words[:-1])


@pytest.mark.parametrize("word", [13 | 3 << 4, 15 | 1 << 63, 1 << 4, 6 | 7 << 8, 9 | 6 << 4, 1 << 64])
def test_no_instruction(word: int):
    with pytest.raises(NomulError, match=f"program: {word:#018x}"):
        isa.decode(word)


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (isa.Mul(rd=16, ra=0, rb=0), "mul: rd is 16; the field holds 0 to 15"),
        (isa.Const(rd=0, mantissa=1 << 18, exponent=0), "const: mantissa is 262144; the field"),
        (isa.Const(rd=0, mantissa=0, exponent=-513), "const: exponent is -513; the field"),
        (isa.Tile(outputs=-1, chunks=1), "tile: outputs is -1; the field holds 0 to 131071"),
    ],
)
def test_fields_that_do_not_fit(instruction: isa.Instruction, message: str):
    with pytest.raises(NomulError, match=f"^{re.escape(message)}"):
        isa.encode(instruction)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("end\nsub rd=r1", "line 2: no instruction is called 'sub'; one of end, const"),
        ("mul rd=r1 ra=r2", "line 1: mul lacks rb"),
        ("# comment\n\nmul rd=r1 ra=r2 rc=r3", "line 3: 'rc=r3': mul takes rd ra rb, once each"),
        ("recip rd=r1 ra=r2 ra=r3", "line 1: 'ra=r3': recip takes rd ra, once each"),
        ("recip rd=r1 ra=two", "line 1: 'ra=two': ra cannot be 'two'"),
        ("stat rd=r1 statistic=mean", "line 1: 'statistic=mean': statistic cannot be 'mean'"),
        ("tile outputs=131072 chunks=1", "line 1: tile: outputs is 131072; the field holds 0 to"),
        ("end now", "line 1: 'now': end takes nothing, once each"),
    ],
)
def test_text_that_is_wrong(text: str, message: str):
    with pytest.raises(NomulError, match=f"^{re.escape(message)}"):
        isa.assemble(text)


def test_text_is_read_freely():
    assert isa.assemble("  tile chunks=0x10 outputs=3 # all of it\nend") == [
        isa.Tile(outputs=3, chunks=16),
        isa.End(),
    ]


def test_documentation_has_every_field():
    text = (Path(__file__).parents[2] / "docs" / "isa.md").read_text()
    rows = []
    for kind in isa.INSTRUCTIONS:
        fields = [
            f"`{name}` {low if width == 1 else f'{low + width - 1}:{low}'}" + " (signed)" * is_signed
            for name, low, width, is_signed in isa.layout(kind)
        ]
        rows.append(f"| {kind.OPCODE} | `{kind.__name__.lower()}` | {', '.join(fields) or '–'} |")
    begin = text.index("| 0 | `end`")
    assert text[begin : text.index("\n\n", begin)] == "\n".join(rows)
    listing = text.split("```")[1].strip()
    assert isa.disassemble(isa.assemble(listing)).strip() == listing
