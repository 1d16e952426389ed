# SPDX-License-Identifier: Apache-2.0
"""The page in a browser: it continues texts, chats, shows what the lanes do, in any light and at any width."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, chromium
from served import NAME, Served, alone, power, said, until

from nomul.host.serve.service import Limits

pytestmark = pytest.mark.skipif(chromium() is None, reason="no chromium here: apt-get install chromium")

#: Where pictures go, if someone wants to see them.
PICTURES = os.environ.get("NOMUL_PICTURES")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path) as found:
        yield found


def keep(browser: Browser, name: str) -> bytes:
    raw = browser.picture()
    if PICTURES:
        (Path(PICTURES) / f"{name}.png").write_bytes(raw)
    return raw


def settle(browser: Browser, text: str, *, count: int, mode: str = "text") -> None:
    browser.value(f"document.querySelector('#mode').value = '{mode}'")
    browser.type("#count", str(count))
    browser.type("#prompt", text)


def made(browser: Browser) -> str:
    """What the latest turn shows."""
    return str(browser.value("[...document.querySelectorAll('.turn .body')].at(-1).textContent"))


DONE = "!document.querySelector('#send').disabled"
SHOWN = (
    "[...document.querySelectorAll('main, aside, #send, #log')].every((e) => {"
    " const b = e.getBoundingClientRect(); return b.width > 0 && b.left >= 0 && b.right <= innerWidth + 1; })"
    " && document.documentElement.scrollWidth <= innerWidth"
)


def test_continue_chat_and_stop(browser: Browser):
    with Served(limits=Limits(tokens=100_000)) as served:
        browser.look(width=1200, height=760)
        browser.open(served.url)
        browser.wait("document.querySelector('#status').textContent === 'ready'")
        assert browser.value("document.querySelector('#model').textContent") == NAME
        assert browser.value("document.querySelectorAll('#lanes i').length") == 8
        assert browser.value("document.querySelector('#watts').textContent") == "no meter"
        assert browser.value("document.querySelector('#key').offsetWidth") == 0

        settle(browser, "def f(x):", count=30)
        browser.press("Enter", 13)
        browser.wait(f"document.querySelector('.note')?.textContent.startsWith('30 tokens in') && {DONE}")
        assert made(browser) == "def f(x):" + said(alone("def f(x):", 30))

        first = until(said(alone("User: hi\nAssistant:", 12)), "\nUser:")
        settle(browser, "hi", count=12, mode="chat")
        browser.click("#send")
        browser.wait(f"document.querySelectorAll('.turn .note:not(:empty)').length === 2 && {DONE}")
        assert made(browser) == first
        settle(browser, "so", count=12, mode="chat")
        browser.click("#send")
        browser.wait(f"document.querySelectorAll('.turn .note:not(:empty)').length === 3 && {DONE}")
        second = said(alone(f"User: hi\nAssistant: {first}\nUser: so\nAssistant:", 12))
        assert made(browser) == until(second, "\nUser:")

        settle(browser, "<b>&amp;", count=100_000)
        browser.press("Enter", 13)
        browser.wait("document.querySelectorAll('#lanes i[style]').length > 0")
        browser.wait("parseFloat(document.querySelector('#rate').textContent) > 0")
        browser.wait("document.querySelector('#rates polyline') !== null")
        keep(browser, "working")
        browser.click("#stop")
        browser.wait(f"[...document.querySelectorAll('.note')].at(-1).textContent === 'stopped' && {DONE}")
        assert made(browser).startswith("<b>&amp;")
        served.idle()

        settle(browser, "x", count=100_001)
        browser.press("Enter", 13)
        browser.wait("document.querySelector('.note.bad') !== null")
        assert "max_tokens: at most" in browser.value("document.querySelector('.note.bad').textContent")
        browser.click("#clear")
        assert browser.value("document.querySelectorAll('.turn').length") == 0
        # That one was refused is all that the browser complains about.
        assert all("400 (Bad Request)" in line for line in browser.complaints), browser.complaints


def test_it_says_when_the_server_has_ended(browser: Browser):
    with Served() as served:
        browser.open(served.url)
        browser.wait("document.querySelector('#status').className === 'up'")
    browser.wait("document.querySelector('#status').className === 'down'")
    assert browser.value("document.querySelector('#status').textContent") in ("no connection", "the server has ended")


def test_it_asks_for_the_token(browser: Browser):
    with Served(token="s3cret", power=power(2.5)) as served:
        browser.look(width=1200, height=760)
        browser.open(served.url)
        browser.wait("!document.querySelector('#key').hidden")
        assert browser.value("document.querySelector('#status').textContent") == "a token is needed"
        browser.type("#token", "s3cret")
        browser.wait("document.querySelector('#status').textContent === 'ready'")
        assert browser.value("document.querySelector('#watts').textContent") == "2.50"
        settle(browser, "a", count=5)
        browser.click("#send")
        browser.wait(f"document.querySelector('.note')?.textContent.startsWith('5 tokens in') && {DONE}")
        assert made(browser) == "a" + said(alone("a", 5))


def test_a_modelled_figure_stands_with_its_error_bar(browser: Browser):
    with Served(power=power(2.5, label="modelled", bounds=(1.5, 4.25))) as served:
        browser.look(width=1200, height=760)
        browser.open(served.url)
        browser.wait("document.querySelector('#status').textContent === 'ready'")
        figure = browser.value("document.querySelector('#watts').parentElement.textContent")
        assert figure == "2.50W, 1.50 to 4.25"
        assert browser.value("document.querySelector('#power').textContent") == "modelled, told: all of it"
        assert browser.value("document.querySelector('#joule').textContent") == "0.00, 0.00 to 0.00"
        keep(browser, "error-bar")
        assert browser.complaints == []


@pytest.mark.parametrize(
    ("name", "width", "height", "scheme", "media"),
    [
        ("wide-light", 1280, 800, "light", "screen"),
        ("wide-dark", 1280, 800, "dark", "screen"),
        ("narrow-light", 390, 844, "light", "screen"),
        ("narrow-dark", 390, 844, "dark", "screen"),
        ("print", 794, 1123, "dark", "print"),
    ],
)
def test_how_it_looks(browser: Browser, name: str, width: int, height: int, scheme: str, media: str):
    with Served(power=power(3.7)) as served:
        browser.look(width=width, height=height, scheme=scheme)
        browser.open(served.url)
        browser.wait("document.querySelector('#status').className === 'up'")
        settle(browser, "for line in file:\n    print(", count=60)
        browser.click("#send")
        browser.wait(f"document.querySelector('.note:not(:empty)') !== null && {DONE}")
        browser.look(width=width, height=height, scheme=scheme, media=media)
        if media == "screen":
            assert browser.value(SHOWN)
        else:
            assert browser.value("getComputedStyle(document.querySelector('form')).display") == "none"
        assert len(keep(browser, name)) > 5000
        light = scheme == "light" or media == "print"
        for part in ("body", "main"):
            colour = browser.value(f"getComputedStyle(document.querySelector('{part}')).backgroundColor")
            assert (int(re.findall(r"\d+", colour)[0]) > 128) == light
        ink = browser.value("getComputedStyle(document.querySelector('.turn .body')).color")
        assert (int(re.findall(r"\d+", ink)[0]) < 128) == light
        assert browser.complaints == []

