# SPDX-License-Identifier: Apache-2.0
"""pytest side of adaptor and register writer: validation, simulation."""

from __future__ import annotations

import re

import pytest

from nomul.hw.dram.init import RegisterWriter
from nomul.hw.dram.native import NativePort
from nomul.sim.harness import run


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NativePort(word_bytes=12, address_bits=8), "word_bytes is 12, not a power of two"),
        (lambda: NativePort(word_bytes=0, address_bits=8), "word_bytes is 0, not a power of two"),
        (lambda: NativePort(word_bytes=4, address_bits=33), "address_bits is 33; 1 to 32"),
        (lambda: RegisterWriter(sequence=[]), "sequence is empty"),
        (lambda: RegisterWriter(sequence=[(6, 1)]), "address is 0x6; a multiple of 4 below 2^32"),
        (lambda: RegisterWriter(sequence=[(4, 1 << 32)]), "word is 0x100000000; 32 bits"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(("word_bytes", "address_bits"), [(16, 25), (4, 10)])
def test_adaptor(word_bytes, address_bits):
    options = {"word_bytes": word_bytes, "address_bits": address_bits}
    run(NativePort(**options), "native_tb", parameters=options)


@pytest.mark.parametrize("sequence", [[(0, 1)], [(2048, 0xDEADBEEF), (4, 0), (8, 0xFFFFFFFF)]])
def test_register_writer(sequence):
    run(RegisterWriter(sequence=sequence), "native_tb", parameters={"sequence": sequence})
