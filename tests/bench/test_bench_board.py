# SPDX-License-Identifier: Apache-2.0
"""A bench on simulated boards: cycles of the core's counters, tokens of the golden model, users at once, the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from bench_cases import nomul, write_tiny

from nomul.host.bench.figures import LABELS
from nomul.host.bench.measure import Case, prompts_of
from nomul.host.bench.page import page
from nomul.host.bench.peers import peers
from nomul.host.bench.targets import BoardTarget, GoldenTarget
from nomul.host.cli.board import counters
from nomul.host.driver import Board
from nomul.hw.build.design import design_hash
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.image import external_regions
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.board import BoardProcess
from nomul.sim.board.streamed import build_streamed_board
from nomul.sim.harness import seed

# The board of tests/streamed/test_streamed_board.py, so that it is compiled once.
STREAMED = Geometry(hidden=64, intermediate=96, layers=2, vocab=64)
CONFIG = StreamedConfig.for_geometry(
    STREAMED, lanes=3, slots=4, state="memory", word_bytes=8, tile_outputs=32,
    memory_bytes=1 << 20,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bench of the released core, as the command leaves it."""
    place = tmp_path_factory.mktemp("bench")
    model = write_tiny(place / "tiny")
    shown = nomul("bench", "--model", model, "--prompts", "2,5", "--outputs", "3", "--repeat", "2",
                  "--meter", "constant:2.5W", "-o", place / "out")  # fmt: skip
    assert shown.status == 0, shown.err
    for part in ("simulated board", "golden model", "simulated", "measured", "first token"):
        assert part in shown.out
    assert "J a token" in shown.out
    return place / "out"


@pytest.fixture(scope="module")
def document(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "bench.json").read_text())


def test_time_is_cycles_over_the_clock(document: dict[str, Any]):
    board = document["targets"][0]
    assert (board["key"], board["label"]) == ("board", "simulated")
    assert document["core"]["clock_hz"] == 100e6
    assert "nominal" in document["core"]["clock_from"]
    step = board["runs"][0]["samples"][0]["decode"]["cycles"] / 2
    for run in board["runs"]:
        assert run["samples"][0] | {"worked_cycles": 0} == run["samples"][1] | {"worked_cycles": 0}
        sample = run["samples"][0]
        # A token takes as many cycles whatever it is, on the chip.
        assert sample["prefill"]["cycles"] == run["prompt"] * step
        assert sample["decode"]["cycles"] == 2 * step
        assert sample["worked_cycles"] > sample["prefill"]["cycles"] + sample["decode"]["cycles"]
        assert run["figures"]["ttft"]["value"] == pytest.approx(run["prompt"] * step / 100e6)
        assert run["figures"]["decode"]["value"] == pytest.approx(100e6 / step)
        assert run["energy"]["decode"]["joules_per_token"]["value"] == pytest.approx(2.5 * step / 100e6)
        assert run["energy"]["decode"]["joules_per_token"]["label"] == "constant"
        assert run["link"]["label"] == "computed"
        assert "traffic" not in run
    assert step >= document["core"]["bound_cycles"]


def test_the_cpu_is_in_the_same_file(document: dict[str, Any]):
    golden = next(t for t in document["targets"] if t["key"] == "golden")
    assert golden["label"] == "measured"
    board = document["targets"][0]
    assert [run["tokens"] for run in golden["runs"]] == [run["tokens"] for run in board["runs"]]
    torch = [t for t in document["targets"] if t["key"] == "torch"]
    missing = [part for part in document["absent"] if part["key"] == "torch"]
    assert len(torch) + len(missing) == 1
    for part in missing:
        assert "not installed: pip install 'nomul[train]'" in part["why"]


def test_a_bench_verifies(folder: Path, tmp_path: Path):
    shown = nomul("bench", "--verify", folder / "bench.json", "--json")
    assert shown.status == 0, shown.out
    found = json.loads(shown.out)
    assert found["good"] is True
    assert found["counts"]["differs"] == 0
    cycles = [c for c in found["checks"] if "cycles of" in c["what"]]
    assert len(cycles) == 4
    assert {c["outcome"] for c in cycles} == {"equal"}

    # A file that lies and is consistent with itself: only a run can tell.
    lie = json.loads((folder / "bench.json").read_text())
    run = lie["targets"][0]["runs"][0]
    for sample in run["samples"]:
        sample["decode"]["cycles"] -= 2
        sample["decode"]["phases"]["streaming"] -= 2
        sample["last_s"] = (sample["prefill"]["cycles"] + sample["decode"]["cycles"]) / 100e6
    from nomul.host.bench.measure import figures_of

    case = Case(prompt=run["prompt"], output=run["output"])
    run["figures"] = figures_of(case, [(s["first_s"], s["last_s"]) for s in run["samples"]], "simulated")
    (tmp_path / "lie.json").write_text(json.dumps(lie))
    shown = nomul("bench", "--verify", tmp_path / "lie.json", "--no-cpu", "--json")
    assert shown.status == 1
    (wrong,) = [c for c in json.loads(shown.out)["checks"] if c["outcome"] == "differs"]
    assert wrong["what"] == "simulated board, prompt 2, output 3: cycles of decode"

    # Another version of the hardware: its cycles say nothing about the file's.
    lie["core"]["design"] = "0" * 16
    (tmp_path / "lie.json").write_text(json.dumps(lie))
    shown = nomul("bench", "--verify", tmp_path / "lie.json", "--no-cpu", "--json")
    assert shown.status == 1
    assert "check out the version" in shown.out


def test_users_at_once():
    image = CONFIG.compile(fold(random_checkpoint(STREAMED, seed())))
    golden = GoldenTarget(image)
    with (
        BoardProcess(build_streamed_board(CONFIG)) as process,
        Board.open(process.port, design=design_hash(CONFIG)) as board,
    ):
        board.load(dict(external_regions(image)))
        board.logits_base, board.logits_stride = CONFIG.logits_place(image)
        board.vocab = STREAMED.vocab
        target = BoardTarget(board, process, counters=counters, clock_hz=75e6)
        found = {}
        for users in (1, 3):
            case = Case(prompt=7, output=4, users=users)
            prompts = prompts_of(case, STREAMED.vocab, seed())
            sample = found[users] = target.run(case, prompts)
            assert sample.tokens == golden.run(case, prompts).tokens
            assert sample.prefill is not None
            assert sample.decode is not None
            assert sample.decode.rows == 3
            for part in (sample.prefill, sample.decode):
                assert sum(part.phases.values()) == part.cycles
            assert sample.first_s == sample.prefill.cycles / 75e6
        # One user's prompt goes over all lanes: 3, 3 and 1 tokens.
        assert found[1].prefill is not None
        assert found[3].prefill is not None
        assert (found[1].prefill.rows, found[3].prefill.rows) == (3, 7)
        assert found[1].first_s < found[3].first_s


# The page


class _Tags(HTMLParser):
    """Whether tags nest, and what the page would fetch."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert len(given) == len(attrs), (tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given["href"] or ""] if tag == "a" else []
        self.loads += [f"{tag} {k}={v}" for k, v in attrs if k in ("src", "srcset", "data", "xlink:href", "poster")]
        self.loads += [f"{tag} {given}"] if tag in ("link", "script", "iframe", "img", "image", "use", "object") else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing(folder: Path, document: dict[str, Any]):
    text = (folder / "bench.html").read_text()
    assert text == page(document)
    assert text.startswith("<!DOCTYPE html>")
    tags = _Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == []
    assert tags.loads == []
    assert "url(" not in text
    assert "@import" not in text
    assert len(set(tags.ids)) == len(tags.ids)
    assert {link[1:] for link in tags.links if link.startswith("#")} <= set(tags.ids)
    for used in set(re.findall(r"var\(--([a-z0-9-]+)\)", text)):
        assert f"--{used}:" in text


def test_every_label_is_on_the_page(folder: Path, document: dict[str, Any]):
    text = (folder / "bench.html").read_text()
    for label in LABELS:
        assert f'class="label {label}"' in text
    for peer in peers():
        assert f"{peer['tokens_per_second']:,g} {peer['speed_kind']}" in text
    for target in document["targets"]:
        assert target["name"] in text
    assert text.count("<svg") == 5


def test_names_are_not_markup(document: dict[str, Any]):
    document = json.loads(json.dumps(document))
    document["model"]["name"] = "<script>alert(1)</script>"
    assert "<script" not in page(document)


def test_in_a_browser(folder: Path, tmp_path: Path):
    """Laid out by a real browser: no error in its console, nothing wider than the window, and ink in the picture."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on PATH (apt-get install chromium)")
    probe = (
        "<script>window.onload=()=>{document.title=JSON.stringify({wide:document.documentElement.scrollWidth,"
        "window:innerWidth,plots:[...document.querySelectorAll('svg')].map(s=>s.getBoundingClientRect().height),"
        "fetched:performance.getEntriesByType('resource').length})}</script></body>"
    )
    text = (folder / "bench.html").read_text().replace("</body>", probe)
    (tmp_path / "probe.html").write_text(text)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--virtual-time-budget=2000"]  # fmt: skip
    for width in (1100, 500):
        done = subprocess.run(
            [browser, *flags, f"--user-data-dir={tmp_path / f'profile-{width}'}", f"--window-size={width},900",
             "--dump-dom", f"file://{tmp_path / 'probe.html'}"],
            capture_output=True, text=True, timeout=180, check=True,
        )  # fmt: skip
        title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
        assert title, done.stdout[:500]
        found = json.loads(title[1].replace("&quot;", '"'))
        assert found["wide"] <= found["window"]
        assert len(found["plots"]) == 5
        assert min(found["plots"]) > 60
        assert found["fetched"] == 0
