# SPDX-License-Identifier: Apache-2.0
"""Stop strings, in whatever pieces a text comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nomul.host.stopping import StopStrings

letters = st.text("ab", max_size=12)


@given(letters, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_any_cut_ends_at_the_same_place(text: str, stop: list[str], data: st.DataObject):
    strings, shown, left = StopStrings(stop), "", text
    whole = ""  # what has come
    while left and not strings.stopped:
        cut = data.draw(st.integers(1, len(left)))
        shown += strings.feed(left[:cut])
        whole, left = whole + left[:cut], left[cut:]
        assert text.startswith(shown)
        if not strings.stopped:
            assert not any(s in whole for s in stop)
            # No more is held back than may begin a stop string.
            held = whole[len(shown) :]
            assert not held or any(s.startswith(held) for s in stop)
    shown += strings.finish()
    places = [whole.find(s) for s in stop if s in whole]
    assert strings.stopped == bool(places)
    assert shown == (whole[: min(places)] if places else text)
    assert strings.feed("x") == ("" if strings.stopped else "x")
