# SPDX-License-Identifier: Apache-2.0
"""Texts end where they should, and nothing is shown that must be taken back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nomul.host.serve.text import Growing
from nomul.model.tokenizer import TextDecoder

letters = st.text("abä", min_size=1, max_size=4)
END = 0


def expected(tokens: list[int], count: int, stops: list[str]) -> tuple[str, str | None, int]:
    """Text, reason and tokens, by looking at the whole text after every token."""
    decoder, text = TextDecoder(), ""
    for number, token in enumerate(tokens, 1):
        last = token == END or number == count
        if token != END:
            text += decoder.feed(token)
        found = [text.find(stop) for stop in stops if stop in text]
        if not found and last:
            text += decoder.finish()
            found = [text.find(stop) for stop in stops if stop in text]
        if found:
            return text[: min(found)], "stop", number
        if last:
            return text, "stop" if token == END else "length", number
    return text, None, len(tokens)


@given(
    text=st.text("abä", max_size=20), cut=st.integers(0, 60), count=st.integers(1, 60),
    stops=st.lists(letters, max_size=4), ends=st.booleans(), extra=st.lists(st.integers(1, 255), max_size=3),
)  # fmt: skip
def test_it_is_what_a_look_at_the_whole_text_gives(
    text: str, cut: int, count: int, stops: list[str], ends: bool, extra: list[int]
):
    tokens = [*text.encode()[:cut], *extra, *([END] if ends else [])]
    wanted, reason, used = expected(tokens, count, stops)
    growing, shown = Growing(TextDecoder(), count=count, end=END, stops=stops), ""
    for token in tokens:
        if growing.finish_reason is not None:
            break
        shown += growing.feed(token)
        assert (wanted if reason else wanted + " ").startswith(shown)
    assert (growing.finish_reason, growing.tokens) == (reason, used)
    if reason is not None:
        assert shown == wanted
    else:  # at most what may begin a stop string is held back
        assert len(wanted) - len(shown) <= max([0, *(len(stop) - 1 for stop in stops)])


def test_a_stop_string_over_several_tokens():
    growing = Growing(TextDecoder(), count=99, end=END, stops=["\nUser:"])
    assert "".join(growing.feed(token) for token in b"hi\nUse\nUser:") == "hi\nUse"
    assert (growing.finish_reason, growing.tokens) == ("stop", 12)
