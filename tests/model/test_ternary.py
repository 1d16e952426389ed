# SPDX-License-Identifier: Apache-2.0
"""Ternarisation, and five trits to a byte."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from nomul.model.ternary import DECODE, ENCODE, TRITS_PER_BYTE, pack, ternarise, unpack, valid_codes

TRITS = hnp.arrays(
    np.int8, hnp.array_shapes(min_dims=1, max_dims=3, max_side=23), elements=st.integers(-1, 1)
)
FLOATS = st.floats(-4, 4, width=32)


def test_every_combination_has_one_byte():
    combinations = np.array(list(itertools.product((-1, 0, 1), repeat=5)), dtype=np.int8)
    codes = pack(combinations)
    assert codes.shape == (243, 1)
    assert len(set(codes.ravel().tolist())) == 243
    np.testing.assert_array_equal(DECODE[codes[:, 0]], combinations)


def test_tables_are_each_others_inverse():
    for byte in ENCODE:
        assert ENCODE[(DECODE[byte].astype(int) % 3) @ 3 ** np.arange(5)] == byte
    assert pack(np.zeros(5, np.int8)).tolist() == [0]
    for table in (DECODE, ENCODE):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 0


def test_known_blocks():
    """By hand from the decoding procedure of the ASTC specification: t0 … t4, 2 is -1."""
    known = {0: "00000", 1: "10000", 2: "20000", 4: "01000", 8: "02000", 16: "00100"}
    known |= {32: "00010", 64: "00020", 128: "00001", 3: "00200", 12: "02200", 28: "00022"}
    known |= {0x7E: "22222", 0xFF: "21222"}
    for byte, digits in known.items():
        assert (DECODE[byte] % 3).tolist() == [int(digit) for digit in digits], byte


@given(trits=TRITS)
def test_packing_round_trip(trits: np.ndarray):
    n = trits.shape[-1]
    code = pack(trits)
    assert code.dtype == np.uint8
    assert code.shape == (*trits.shape[:-1], -(-n // TRITS_PER_BYTE))
    assert valid_codes(code)
    np.testing.assert_array_equal(unpack(code, n), trits)
    rest = unpack(code, code.shape[-1] * TRITS_PER_BYTE)[..., n:]
    assert not rest.any()


@given(codes=hnp.arrays(np.uint8, (3, 4)))
def test_unpacking_round_trip(codes: np.ndarray):
    """Byte values outside the code decode to trits that another byte has, and only they."""
    again = pack(unpack(codes, 20))
    assert valid_codes(codes) == bool((again == codes).all())


def test_valid_codes():
    assert valid_codes(ENCODE)
    strange = sorted(set(range(256)) - set(ENCODE.tolist()))
    assert len(strange) == 13
    assert not any(valid_codes(np.array([0, byte], np.uint8)) for byte in strange)
    assert valid_codes(np.zeros((0, 4), np.uint8))


@pytest.mark.parametrize(("wrong", "shown"), [(2, "0..2"), (-2, "-2..0"), (127, "0..127")])
def test_what_is_no_trit(wrong: int, shown: str):
    with pytest.raises(ValueError, match=f"trits are -1, 0 and 1, not {shown}"):
        pack(np.array([0, wrong], np.int8))


def test_nothing_packs_to_nothing():
    assert pack(np.zeros((3, 0), np.int8)).shape == (3, 0)
    assert unpack(np.zeros((3, 0), np.uint8), 0).shape == (3, 0)


@given(weight=hnp.arrays(np.float32, (4, 7), elements=FLOATS))
def test_ternarisation(weight: np.ndarray):
    ternary = ternarise(weight)
    assert ternary.trits.dtype == np.int8
    scale = max(np.abs(weight.astype(np.float64)).mean(), 1e-5)
    assert ternary.scale == pytest.approx(scale, rel=1e-6)
    # away from a tie, a weight rounds as the specification says
    ratio = weight / scale
    clear = np.abs(np.abs(ratio) - 0.5) > 1e-5
    expected = np.where(np.abs(ratio) < 0.5, 0, np.sign(ratio))
    np.testing.assert_array_equal(ternary.trits[clear], expected[clear])


def test_ternarisation_rounds_half_to_even():
    weight = np.array([[0.5, -0.5, 1.5, -1.5]], np.float32)  # mean magnitude 1
    assert ternarise(weight).trits.tolist() == [[0, 0, 1, -1]]
    assert ternarise(weight).scale == 1.0


def test_ternarisation_of_zeros():
    ternary = ternarise(np.zeros((2, 3), np.float32))
    assert not ternary.trits.any()
    assert ternary.scale == pytest.approx(1e-5)
