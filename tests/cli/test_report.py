# SPDX-License-Identifier: Apache-2.0
"""``nomul report``: units of a chip, what is shown, and streamed cores with their memory, toggles included."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from outcome import Nomul

from nomul.host.bench.traffic import step_traffic
from nomul.host.cli.activity import main, memory_activity, scope_unit
from nomul.host.cli.report_figures import figures
from nomul.host.cli.reporting import _show
from nomul.host.power.modelled import ModelledMeter
from nomul.hw.build.synth import Synthesis
from nomul.hw.build.units import unit_areas, unit_of
from nomul.hw.dram.boards import ECPIX5
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.memory_map import STATE_BYTES
from nomul.model.random_checkpoint import random_checkpoint, write_random_checkpoint
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.harness import seed

NAMES = ["engine", "counters"]
GEOMETRY = Geometry(hidden=64, intermediate=96, layers=2, vocab=256)
CONFIG = StreamedConfig.for_geometry(
    GEOMETRY, lanes=2, slots=4, state="memory", memory_bytes=ECPIX5.part.capacity
)


def synthesis(**more: Any) -> Synthesis:
    given: dict[str, Any] = {
        "comb": 7, "ff": 5, "bram": 3, "multipliers": 2, "fmax_mhz": (90.0, 110.0, 100.0, 130.0),
        "part": "LFE5U-85F", "speed": 6, "seeds": (1, 2, 3, 4), "tools": {},
    }  # fmt: skip
    return Synthesis(**given | more)


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("", "between"),
        ("core", "between"),
        ("core.acts", "between"),
        ("core.engine.accumulate.queue", "engine"),
        ("core.core.counters", "counters"),
        ("core.adaptor.queue", "between"),
        ("link.engine", "link"),
        ("stream.uart", "link"),
        ("dram.sdram", "controller"),
        ("engine", "between"),
    ],
)
def test_units_of_instances(path: str, unit: str):
    assert unit_of(path.split(".") if path else [], NAMES) == unit


@pytest.mark.parametrize(
    ("scope", "root", "unit"),
    [
        ("TOP", "top", None),
        ("TOP.board", "top", None),
        ("TOP.board.top", "top", "between"),
        ("TOP.board.top.core.counters$221", "top", "counters"),
        ("TOP.board.top.link", "top", "link"),
        ("TOP.streamed.core.core.engine.sums", "core", "engine"),
        ("TOP.streamed.core.core.core.engine", "core", "engine"),
        ("TOP.streamed.core.core.adaptor.dram", "core", None),
    ],
)
def test_units_of_scopes(scope: str, root: str, unit: str | None):
    assert scope_unit(tuple(scope.split(".")), root, NAMES) == unit


def test_area_is_summed_up_by_unit():
    counts = {"comb": 1, "ff": 2, "bram": 3, "multipliers": 4}
    owners = ["core.engine", "core.engine.adders.tree", "core.core.counters.a", "link.rx", "", "dram.x"]
    for around in ("", "top."):
        found = unit_areas({around + owner: counts for owner in owners}, NAMES)
        assert list(found) == ["engine", "counters", "link", "controller", "between"]
        assert found["engine"] == {name: 2 * count for name, count in counts.items()}
        assert sum(unit["ff"] for unit in found.values()) == 2 * len(owners)


def test_what_is_shown(capsys: pytest.CaptureFixture[str]):
    core = figures(synthesis())
    assert core["fmax_mhz"] == 105.0
    assert core["fmax_by_seed_mhz"] == [90.0, 110.0, 100.0, 130.0]
    shown: dict[str, Any] = {
        "units": {"engine": core}, "core": core, "part": "LFE5U-85F", "speed": 6, "seeds": [1],
        "tokens_per_second": 1050000.0, "how": {"area": "routed", "tokens_per_second": "so"},
        "token": {"cycles": 100, "bound_cycles": 70.0, "utilisation": 0.7,
                  "phases": {"streaming": 75, "embed": 25}},
    }  # fmt: skip
    _show(shown)
    text = capsys.readouterr().out
    for part in ("105.0 MHz", "75.0%", "70.0%", "1,050,000 tokens/s (so)", "LFE5U-85F-6; routed, median of seeds [1]"):
        assert part in text
    _show(shown | {"tokens_per_second_summed": 2100000.0})
    assert "1,050,000 tokens/s, 2,100,000 with all lanes (so)" in capsys.readouterr().out


def test_without_routing_there_is_no_clock(capsys: pytest.CaptureFixture[str]):
    core = figures(synthesis(fmax_mhz=(), seeds=()))
    assert core["fmax_mhz"] is None
    _show({
        "units": {}, "core": core, "part": "LFE5U-85F", "speed": 6, "seeds": [], "tokens_per_second": None,
        "how": {"area": "synthesised"},
        "token": {"cycles": 100, "bound_cycles": 70.0, "utilisation": 0.7, "phases": {"streaming": 100}},
    })  # fmt: skip
    text = capsys.readouterr().out
    assert "not routed" in text
    assert "give --seeds" in text


def test_what_a_memory_does():
    """Shares of the pins' time: a word of 16 bytes takes two cycles, a state is written once a step."""
    image = CONFIG.compile(fold(random_checkpoint(GEOMETRY, seed())))
    found = memory_activity(image, CONFIG, ECPIX5, cycles=10_000, words=4_000, activations=75)
    writes = step_traffic(image, CONFIG, texts=2, logits=0).writes["state"]
    assert writes == 2 * 2 * 64 * STATE_BYTES
    assert found == {
        "part": "MT41K256M16", "clock_mhz": 150.0, "read_share": 0.8,
        "write_share": round(writes / 8 / 10_000, 4), "activates_per_second": 562_500,
    }  # fmt: skip


def test_reports_of_cores_that_cannot_be(tmp_path: Path):
    path = tmp_path / "r.json"
    for report, said in [
        ({"port": "native", "wheels": 4}, "configuration: .*wheels"),
        ({"port": "native", "lanes": 99, "slots": 99}, "lanes is 99"),
    ]:
        path.write_text(json.dumps({"configuration": report, "units": {}}))
        result = CliRunner().invoke(main, [str(path)])
        assert result.exit_code == 1
        assert re.search(said, result.output)
    path.write_text(json.dumps({"configuration": {}, "units": {}, "memory": {"board": "attic"}}))
    result = CliRunner().invoke(main, [str(path)])
    assert result.exit_code == 1
    assert "board is 'attic'" in result.output


@pytest.mark.sweep
@pytest.mark.parametrize("dram", [None, "ecpix5-85f"])
def test_from_report_to_watts(nomul: Nomul, tmp_path: Path, dram: str | None):
    write_random_checkpoint(tmp_path / "model", GEOMETRY, seed=seed())
    options = ["--dram", dram] if dram else []
    found = nomul(
        "report", "--seeds", "0", "--port", "native", "--lanes", "2", *options,
        "--model", tmp_path / "model", "--json",
    ).json  # fmt: skip
    assert found["tokens_per_second_summed"] == (
        pytest.approx(2 * 75e6 / found["token"]["step_cycles"], rel=1e-3) if dram else None
    )
    assert sum(unit["bram"] for unit in found["units"].values()) == found["core"]["bram"]
    assert sum(unit["ff"] for unit in found["units"].values()) == found["core"]["ff"]
    assert ("controller" in found["units"]) == bool(dram)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(found))
    result = CliRunner().invoke(main, [str(path), "--model", str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    rates = made["activity"]["rates"]
    assert set(rates) == set(found["units"])
    assert 0.01 < rates["engine"]["ff"] < 0.6
    if not dram:
        made["activity"]["clock_mhz"] = 75
    else:
        assert made["activity"]["memory"]["activates_per_second"] > 0
    path.write_text(json.dumps(made))
    meter = ModelledMeter(path)
    assert 0.3 < meter.read() < 3
    assert ("DDR3" in meter.includes) == bool(dram)
