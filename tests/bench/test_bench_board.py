# SPDX-License-Identifier: Apache-2.0
"""A bench on simulated boards: cycles of the core's counters, tokens of the golden model, users at once, the page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from bench_cases import nomul, write_tiny
from page_cases import looked_at
from serve.browser import Browser, chromium

from nomul.host.bench.consistency import recomputed
from nomul.host.bench.document import cells
from nomul.host.bench.energy import steady_figures
from nomul.host.bench.figures import LABELS, shown
from nomul.host.bench.measure import Case, prompts_of
from nomul.host.bench.page import page
from nomul.host.bench.peers import peers
from nomul.host.bench.targets import BoardTarget, GoldenTarget
from nomul.host.bench.traffic import step_traffic
from nomul.host.cli.board import counters
from nomul.host.cli.common import load_any
from nomul.host.driver import Board
from nomul.hw.build.design import design_hash
from nomul.model.checkpoint import write_checkpoint
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
    told = nomul("bench", "--model", model, "--prompts", "2,5", "--outputs", "3", "--repeat", "2",
                  "--meter", "constant:2.5W", "-o", place / "out")  # fmt: skip
    assert told.status == 0, told.err
    for part in ("simulated board", "golden model", "simulated", "measured", "first token"):
        assert part in told.out
    assert "J/token" in told.out
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
    told = nomul("bench", "--verify", folder / "bench.json", "--json")
    assert told.status == 0, told.out
    found = json.loads(told.out)
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
    run["energy"] |= steady_figures(run["energy"]["meter"]["watts"], case, run["figures"])
    (tmp_path / "lie.json").write_text(json.dumps(lie))
    told = nomul("bench", "--verify", tmp_path / "lie.json", "--no-cpu", "--json")
    assert told.status == 1
    (wrong,) = [c for c in json.loads(told.out)["checks"] if c["outcome"] == "differs"]
    assert wrong["what"] == "simulated board, prompt 2, output 3: cycles of decode"

    # Another version of the hardware: its cycles say nothing about the file's.
    lie["core"]["design"] = lie["targets"][0]["design"] = "0" * 16
    (tmp_path / "lie.json").write_text(json.dumps(lie))
    told = nomul("bench", "--verify", tmp_path / "lie.json", "--no-cpu", "--json")
    assert told.status == 1
    assert "check out the version" in told.out


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


def test_the_page_is_whole_and_needs_nothing(folder: Path):
    text = (folder / "bench.html").read_text()
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


def labels_in(value: Any) -> set[str]:
    """Every label of a figure."""
    if isinstance(value, dict):
        own = {value["label"]} if "unit" in value else set()
        return own.union(*map(labels_in, value.values()))
    return set().union(*map(labels_in, value)) if isinstance(value, list) else set()


def test_figures_on_the_page_are_the_files_with_their_labels(folder: Path, streamed: Path):
    for place in (folder, streamed):
        document = json.loads((place / "bench.json").read_text())
        text = (place / "bench.html").read_text()
        head, _, rest = text.partition("<h2>Labels</h2>")  # the legend has all of them
        assert set(re.findall(r'class="label (\w+)"', rest)) == set(LABELS)
        used = labels_in([run for target in document["targets"] for run in target["runs"]])
        assert used >= {"simulated", "measured", "computed"}
        assert set(re.findall(r'class="label (\w+)"', head)) == used | {"computed", "cited"}
        table = head.partition("<h2>All figures</h2>")[2].partition("</table>")[0]
        rows = re.findall(r"<tr>(.*?)</tr>", table, re.S)[1:]
        for row, (target, run, _) in zip(rows, cells(document), strict=True):
            assert f'class="label {target["label"]}"' in row
            plain = [re.sub(r"<[^>]*>.*", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)]
            assert plain[2:5] == [str(run[name]) for name in ("users", "prompt", "output")]
            rates = [run["figures"][name] for name in ("prefill", "decode")]
            several = document["settings"]["lanes"] > 1
            assert [plain[6], plain[8 if several else 7]] == [shown(f["value"]) for f in rates]
            if several:
                assert plain[9] == shown(run["figures"]["decode_summed"]["value"])
        for peer in peers():
            assert f"{peer['tokens_per_second']:,g} {peer['speed_kind']}" in head


def test_names_are_not_markup(document: dict[str, Any]):
    document = json.loads(json.dumps(document))
    document["model"]["name"] = "<script>alert(1)</script>"
    assert "<script" not in page(document)


def test_in_a_browser(folder: Path, streamed: Path, tmp_path: Path):
    if chromium() is None:
        pytest.skip("no chromium on PATH (apt-get install chromium)")
    with Browser(tmp_path / "profile") as browser:
        for place in (folder, streamed):
            document = json.loads((place / "bench.json").read_text())
            for width in (1100, 500):
                assert len(looked_at(browser, tmp_path, document, width=width)) == 5


# A streamed core


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bench of three lanes, as the command leaves it, on the board that other tests have compiled."""
    place = tmp_path_factory.mktemp("streamed")
    source = random_checkpoint(STREAMED, 9)
    write_checkpoint(place / "small", source.config, source._tensors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nomul.host.cli.common.streamed_config", lambda *_, **__: CONFIG)
        told = nomul("bench", "--model", place / "small", "--port", "native", "--lanes", "3", "--prompts", "4,7",
                       "--outputs", "4", "--repeat", "2", "--meter", "constant:2.5W", "-o", place / "out")  # fmt: skip
        assert told.status == 0, told.err
        for part in ("streamed core", "simulated board, 3 users", "summed", "memory: ", "constant 2.5 W"):
            assert part in told.out
        assert "…" not in told.out
        yield place / "out"


def test_a_streamed_bench(streamed: Path):
    document = json.loads((streamed / "bench.json").read_text())
    board = document["targets"][0]
    cases_ = [(run["users"], run["prompt"], run["output"]) for run in board["runs"]]
    assert cases_ == [(1, 4, 4), (1, 7, 4), (3, 4, 4), (3, 7, 4)]
    image = CONFIG.compile(load_any(str(streamed.parent / "small")).model)
    for run in board["runs"]:
        step = step_traffic(image, CONFIG, texts=run["users"], logits=int(run["users"] == 1))
        traffic, sample = run["traffic"], run["samples"][0]
        assert traffic["bytes_per_token"]["value"] == pytest.approx(step.total / run["users"])
        seconds = sample["decode"]["cycles"] / 100e6
        assert traffic["bandwidth"]["value"] == pytest.approx(3 * step.total / seconds)
        assert traffic["share_of_peak"]["value"] == pytest.approx(3 * step.total / seconds / (8 * 100e6))
        assert sample["decode"]["rows"] == 3
        joules = 2.5 * seconds / 3 / run["users"]
        assert run["energy"]["decode"]["joules_per_token"]["value"] == pytest.approx(joules)
    alone, together = board["runs"][1]["figures"], board["runs"][3]["figures"]
    assert together["decode_summed"]["value"] > 2 * alone["decode_summed"]["value"]
    bounds = [bound["kind"] for bound in document["roofline"]["bounds"]]
    assert (bounds[0], bounds[-1], bounds.count("own memory")) == ("own memory", "engine", 1)


def test_a_streamed_bench_verifies(streamed: Path):
    told = nomul("bench", "--verify", streamed / "bench.json", "--json")
    assert told.status == 0, told.out
    found = json.loads(told.out)
    assert found["good"] is True
    assert found["counts"]["differs"] == found["counts"]["not re-run"] == 0
    equal = [check["what"] for check in found["checks"] if check["outcome"] == "equal"]
    assert sum(what.endswith(": traffic, computed") for what in equal) == 4
    assert sum(what.endswith(": power") for what in equal) == 4


LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "bandwidth": (lambda run: run["traffic"]["bandwidth"].update(value=9e8), "traffic: bandwidth: value"),
    "share": (lambda run: run["traffic"]["share_of_peak"].update(value=0.99), "traffic: share_of_peak: value"),
    "peak": (lambda run: run["traffic"]["peak"].update(value=1e9), "traffic: peak: value"),
    "bytes a token": (lambda run: run["traffic"]["bytes_per_token"].update(value=1.0), "bytes_per_token: value"),
    "weights": (lambda run: run["traffic"]["weights_per_token"].update(value=1.0), "weights_per_token: value"),
    "parts": (lambda run: run["traffic"]["reads"].update(weights=8), "traffic: bytes_per_step: value"),
    "no traffic": (lambda run: run["traffic"].pop("peak"), "traffic: peak is missing"),
    "link": (lambda run: run["link"].update(value=1e-6), "link: value"),
    "joules": (lambda run: run["energy"]["decode"]["joules_per_token"].update(value=1e-6), "energy: decode"),
    "watts": (lambda run: run["energy"]["meter"]["watts"].update(value=1.5), "energy: decode"),
    "rows": (lambda run: run["samples"][0]["prefill"].update(rows=1), "rows of prefill"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "part"), LIES.values(), ids=LIES)
def test_lies_about_a_board_are_found(streamed: Path, change: Callable[[dict[str, Any]], Any], part: str):
    document = json.loads((streamed / "bench.json").read_text())
    target = document["targets"][0]
    for run in target["runs"]:
        assert recomputed(document, target, run) == []
        change(run)
        assert part in "; ".join(recomputed(document, target, run))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda d: d["settings"].update(board="/dev/tty0"), "board is /dev/tty0, and simulated board is simulated"),
        (lambda d: d["targets"][0].update(design="0" * 16), "simulated board: design is 0000000000000000"),
        (lambda d: d["targets"][0]["runs"][2].pop("energy"), "a run has energy if one is for it"),
        (lambda d: d["settings"].update(meters=[]), "meters are [], a run has energy if one is for it"),
    ],
)
def test_a_board_that_was_not_asked_for(streamed: Path, tmp_path: Path, change: Callable[[Any], Any], part: str):
    document = json.loads((streamed / "bench.json").read_text())
    change(document)
    (tmp_path / "lie.json").write_text(json.dumps(document))
    told = nomul("bench", "--verify", tmp_path / "lie.json", "--json")
    assert told.status == 1
    assert part in " ".join(check["detail"] for check in json.loads(told.out)["checks"])


def test_another_typed_power_is_found(streamed: Path, tmp_path: Path):
    """Consistent in itself: settings tell."""
    document = json.loads((streamed / "bench.json").read_text())
    document["settings"]["meters"] = ["constant:1.5W"]
    (tmp_path / "lie.json").write_text(json.dumps(document))
    told = nomul("bench", "--verify", tmp_path / "lie.json", "--no-cpu", "--json")
    wrong = [check for check in json.loads(told.out)["checks"] if check["outcome"] == "differs"]
    assert {check["detail"] for check in wrong} == {"constant:1.5W gives 1.5 W here, the file tells 2.5 W"}
    assert len(wrong) == 4
