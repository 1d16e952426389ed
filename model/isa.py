# SPDX-License-Identifier: Apache-2.0
"""The instruction set: encoding, assembler, disassembler.

A program is the work of one token. It lies in the memory image beside the weights, so one bitstream runs every
model that fits. An instruction is 64 bits: the opcode in bits 3:0, then its fields in the order of its
dataclass, each as wide as declared, lowest first. ``docs/isa.md`` says what each does to the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np

from .errors import NomulError
from .scalar import EXPONENT_BITS, MANTISSA_BITS, Scalar

__all__ = [
    "INSTRUCTIONS",
    "INSTRUCTION_BYTES",
    "REGISTERS",
    "Add",
    "Base",
    "Const",
    "Embed",
    "End",
    "Instruction",
    "Keep",
    "Load",
    "Mode",
    "Mul",
    "Part",
    "Pass",
    "Quant",
    "Recall",
    "Recip",
    "Rsqrt",
    "Source",
    "Stat",
    "Statistic",
    "Stream",
    "Tile",
    "assemble",
    "decode",
    "disassemble",
    "encode",
]

INSTRUCTION_BYTES = 8
OPCODE_BITS = 4
REGISTERS = 16  #: Scalar registers of a lane.


class Mode(IntEnum):
    """What a pass does with each finished sum of the engine."""

    FORGET = 0  #: keep 1 - f = (1 - LB)·(1 - σ(t))
    INPUT = 1  #: h += (1 - f)·(silu(t) - h); keep silu(h)
    OUTPUT = 2  #: product = sum · silu(h), reduced
    RESIDUAL = 3  #: x += sum · scale, reduced
    GATED = 4  #: sums come in pairs; product = second · silu(t of the first), reduced
    LOGITS = 5  #: kept as they are; arg-max


class Statistic(IntEnum):
    """What a reducing pass leaves behind."""

    MAX0 = 0  #: largest magnitude of source · first norm vector, at least 2¹⁷
    MAX1 = 1
    MAX2 = 2
    SQUARES = 3  #: Σ (source · last norm vector)²
    SUMS = 4  #: Σ sum², of an OUTPUT pass


class Source(IntEnum):
    """Vector that the quantiser reads."""

    RESIDUAL = 0
    PRODUCT = 1


class Part(IntEnum):
    """What lies in a memory, beside the program and the weights."""

    EMBEDDINGS = 0
    STATE = 1
    LOGITS = 2


def _bits(width: int, kind: Any = int) -> Any:
    return field(metadata={"width": width, "kind": kind})


@dataclass(frozen=True, kw_only=True)
class End:
    """The token is complete."""

    OPCODE: ClassVar[int] = 0


@dataclass(frozen=True, kw_only=True)
class Const:
    """``rd = mantissa · 2^exponent``."""

    OPCODE: ClassVar[int] = 1
    rd: int = _bits(4)
    mantissa: int = _bits(MANTISSA_BITS)
    exponent: int = _bits(-EXPONENT_BITS)


@dataclass(frozen=True, kw_only=True)
class Mul:
    """``rd = ra · rb``."""

    OPCODE: ClassVar[int] = 2
    rd: int = _bits(4)
    ra: int = _bits(4)
    rb: int = _bits(4)


@dataclass(frozen=True, kw_only=True)
class Add:
    """``rd = ra + rb``."""

    OPCODE: ClassVar[int] = 3
    rd: int = _bits(4)
    ra: int = _bits(4)
    rb: int = _bits(4)


@dataclass(frozen=True, kw_only=True)
class Recip:
    """``rd = 1/ra``."""

    OPCODE: ClassVar[int] = 4
    rd: int = _bits(4)
    ra: int = _bits(4)


@dataclass(frozen=True, kw_only=True)
class Rsqrt:
    """``rd = 1/√ra``."""

    OPCODE: ClassVar[int] = 5
    rd: int = _bits(4)
    ra: int = _bits(4)


@dataclass(frozen=True, kw_only=True)
class Stat:
    """``rd`` = a statistic of the latest reducing pass; waits until every pass issued has drained."""

    OPCODE: ClassVar[int] = 6
    rd: int = _bits(4)
    statistic: Statistic = _bits(3, Statistic)


@dataclass(frozen=True, kw_only=True)
class Embed:
    """``x[j] = row[j] · row scale / 2^shift`` for ``j < elements``, reduced.

    ``stride`` is the distance of rows in bytes. ``norm``, ``vectors`` and ``square`` as in :class:`Pass`. With
    ``wide``, in a streamed program only, rows have no scale and elements of 32 bits: ``x[j] = row[j]``.
    """

    OPCODE: ClassVar[int] = 7
    elements: int = _bits(14)
    stride: int = _bits(14)
    shift: int = _bits(5)
    norm: int = _bits(20)
    vectors: int = _bits(2)
    square: int = _bits(1)
    wide: int = _bits(1)


@dataclass(frozen=True, kw_only=True)
class Quant:
    """Quantises a vector and hands it to the engine: ``q = round(127 · v / max|v|)``, ``v = source · norm``.

    ``rs`` holds the reciprocal of ``max|v|``. The last chunk is filled with zeros.
    """

    OPCODE: ClassVar[int] = 8
    rs: int = _bits(4)
    source: Source = _bits(1, Source)
    elements: int = _bits(14)
    norm: int = _bits(20)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What becomes of the next ``outputs`` sums.

    ``rs`` holds the scale of the sums. ``norm`` is where the norm vectors that a reducing pass multiplies with
    begin (in words of four): ``vectors`` of them for the maxima, then, if ``square`` is 1, the one for the sum of
    squares (else that one is all ones). In a FORGET pass it is where the lower bounds lie. ``state`` is the
    first element of the layer's recurrent state. ``shift`` is that of the product. With ``send``, in a streamed
    program and a RESIDUAL pass only, the elements also go where logits go, 32 bits each.
    """

    OPCODE: ClassVar[int] = 9
    mode: Mode = _bits(3, Mode)
    rs: int = _bits(4)
    outputs: int = _bits(17)
    address: int = _bits(20)
    shift: int = _bits(5)
    vectors: int = _bits(2)
    square: int = _bits(1)
    send: int = _bits(1)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Streams the next ``chunks · outputs`` weight beats."""

    OPCODE: ClassVar[int] = 10
    outputs: int = _bits(17)
    chunks: int = _bits(8)


@dataclass(frozen=True, kw_only=True)
class Load:
    """The next ``⌈words · 8 / G⌉`` beats of the weight stream are ``words`` words for norm memory.

    They go to ``address`` and on, in the order of the stream: behind the beats of the tiles before, ahead of
    those of the tiles after.
    """

    OPCODE: ClassVar[int] = 11
    address: int = _bits(20)
    words: int = _bits(14)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The weight stream begins at ``block`` of memory, in blocks of 64 bytes, and has so many beats."""

    OPCODE: ClassVar[int] = 12
    block: int = _bits(30)
    beats: int = _bits(30)


@dataclass(frozen=True, kw_only=True)
class Base:
    """A part of memory begins at ``block``; of the state and the logits, that of slot or lane ``k`` lies
    ``k · stride`` behind it. In blocks of 64 bytes.
    """

    OPCODE: ClassVar[int] = 13
    part: Part = _bits(2, Part)
    block: int = _bits(30)
    stride: int = _bits(20)


@dataclass(frozen=True, kw_only=True)
class Recall:
    """The recurrent state of a layer, ``elements`` from ``address`` on, comes from memory."""

    OPCODE: ClassVar[int] = 14
    address: int = _bits(20)
    elements: int = _bits(14)


@dataclass(frozen=True, kw_only=True)
class Keep:
    """The recurrent state of a layer goes to memory, as :class:`Recall` brought it."""

    OPCODE: ClassVar[int] = 15
    address: int = _bits(20)
    elements: int = _bits(14)


Instruction = (
    End | Const | Mul | Add | Recip | Rsqrt | Stat | Embed | Quant | Pass | Tile
    | Load | Stream | Base | Recall | Keep
)  # fmt: skip
INSTRUCTIONS: tuple[type[Instruction], ...] = (
    End, Const, Mul, Add, Recip, Rsqrt, Stat, Embed, Quant, Pass, Tile,
    Load, Stream, Base, Recall, Keep,
)  # fmt: skip
_BY_OPCODE = {kind.OPCODE: kind for kind in INSTRUCTIONS}
_BY_NAME = {kind.__name__.lower(): kind for kind in INSTRUCTIONS}


def layout(kind: type) -> list[tuple[str, int, int, bool]]:
    """Fields of an instruction: ``(name, lowest bit, width, signed)``."""
    rows, low = [], OPCODE_BITS
    for f in fields(kind):
        width = abs(f.metadata["width"])
        rows.append((f.name, low, width, f.metadata["width"] < 0))
        low += width
    if low > 8 * INSTRUCTION_BYTES:
        raise AssertionError(f"{kind.__name__} takes {low} bits")
    return rows


def encode(instruction: Instruction) -> int:
    """The instruction's 64 bits.

    Raises
    ------
    NomulError
        If a field does not fit.
    """
    word = instruction.OPCODE
    for name, low, width, is_signed in layout(type(instruction)):
        value = int(getattr(instruction, name))
        least, most = (-(1 << width - 1), (1 << width - 1) - 1) if is_signed else (0, (1 << width) - 1)
        if not least <= value <= most:
            raise NomulError(
                f"{type(instruction).__name__.lower()}: {name} is {value}; the field holds {least} to {most}"
            )
        word |= (value & (1 << width) - 1) << low
    return word


def decode(word: int) -> Instruction:
    """The instruction of a 64-bit word.

    Raises
    ------
    NomulError
        If the word is no instruction.
    """
    kind = _BY_OPCODE.get(word & (1 << OPCODE_BITS) - 1)
    if kind is None or word >> 8 * INSTRUCTION_BYTES:
        raise NomulError(f"program: {word:#018x} is no instruction")
    values, rest = {}, word >> OPCODE_BITS
    for f, (name, _, width, is_signed) in zip(fields(kind), layout(kind), strict=True):
        value = rest & (1 << width) - 1
        rest >>= width
        if is_signed and value >> width - 1:
            value -= 1 << width
        try:
            values[name] = f.metadata["kind"](value)
        except ValueError:
            raise NomulError(f"program: {word:#018x}: {name} cannot be {value}") from None
    if rest:
        raise NomulError(f"program: {word:#018x} is no instruction: bits beyond its fields are set")
    return kind(**values)


def pack_program(program: Sequence[Instruction]) -> np.ndarray:
    """Program words, uint64 ``[n]``."""
    return np.array([encode(i) for i in program], dtype=np.uint64)


def unpack_program(words: Iterable[int]) -> list[Instruction]:
    """Instructions up to and including the first ``end``.

    Raises
    ------
    NomulError
        If a word is no instruction or the program does not end.
    """
    program: list[Instruction] = []
    for word in words:
        program.append(decode(int(word)))
        if isinstance(program[-1], End):
            return program
    raise NomulError("program: there is no end instruction")


def _operand(name: str, value: Any) -> str:
    if name in ("rd", "ra", "rb", "rs"):
        return f"{name}=r{value}"
    return f"{name}={value.name.lower() if isinstance(value, IntEnum) else value}"


def disassemble(program: Iterable[Instruction]) -> str:
    """One line an instruction, as :func:`assemble` reads it; constants carry their value as a comment."""
    lines = []
    for i in program:
        name = type(i).__name__.lower()
        line = " ".join([f"{name:<6}", *(_operand(f.name, getattr(i, f.name)) for f in fields(i))]).strip()
        if isinstance(i, Const):
            line += f"  # {float(Scalar(i.mantissa, i.exponent)):.6g}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def assemble(text: str) -> list[Instruction]:
    """The inverse of :func:`disassemble`; ``#`` begins a comment.

    Raises
    ------
    NomulError
        Naming the line.
    """
    program: list[Instruction] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        kind = _BY_NAME.get(words[0])
        if kind is None:
            raise NomulError(f"line {number}: no instruction is called {words[0]!r}; one of {', '.join(_BY_NAME)}")
        kinds = {f.name: f.metadata["kind"] for f in fields(kind)}
        values: dict[str, Any] = {}
        for word in words[1:]:
            name, _, value = word.partition("=")
            if name not in kinds or name in values:
                raise NomulError(f"line {number}: {word!r}: {words[0]} takes {' '.join(kinds) or 'nothing'}, once each")
            try:
                if kinds[name] is not int:
                    values[name] = kinds[name][value.upper()]
                else:
                    values[name] = int(re.sub(r"^r(?=\d)", "", value), 0)
            except (KeyError, ValueError):
                raise NomulError(f"line {number}: {word!r}: {name} cannot be {value!r}") from None
        missing = kinds.keys() - values.keys()
        if missing:
            raise NomulError(f"line {number}: {words[0]} lacks {', '.join(sorted(missing))}")
        instruction = kind(**values)
        try:
            encode(instruction)
        except NomulError as error:
            raise NomulError(f"line {number}: {error}") from None
        program.append(instruction)
    return program
