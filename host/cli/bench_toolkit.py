# SPDX-License-Identifier: Apache-2.0
"""What hardware, simulation and this machine give, as JSON: ``python -m nomul.host.cli.bench_toolkit``.

Engines and the core routed, cycles of a token, how fast golden model and simulated board run here, import and Verilog
generation. Routing takes minutes a seed. ``nomul bench`` measures requests.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nomul.hw.build.bench_engines import CONFIGURATIONS, measure
from nomul.hw.build.synth import SEEDS
from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
from nomul.model.program import Image
from nomul.model.tokenizer import BEGIN
from nomul.sim.golden import Golden

from .board import open_board
from .common import Loaded, compile_for, load_any
from .reporting import report

_TOKENS = 200


def golden_speed(image: Image) -> float:
    """Tokens a second that the golden model generates, one lane."""
    golden, token = Golden(image), BEGIN
    token = int(golden.step(token)[0])
    begin = time.perf_counter()
    for _ in range(_TOKENS):
        token = int(golden.step(token)[0])
    return round(_TOKENS / (time.perf_counter() - begin), 1)


def board_speed(image: Image, config: CoreConfig) -> dict[str, float]:
    """Tokens and cycles a second of the simulated board, driven through its link."""
    with open_board("sim", image, config) as (board, process):
        assert process is not None
        before = process.statistics()
        begin = time.perf_counter()
        made = sum(1 for _ in board.generate([BEGIN], _TOKENS))
        seconds = time.perf_counter() - begin
        after = process.statistics()
    return {
        "tokens_per_second": round(made / seconds, 1),
        "cycles_per_second": round(
            (after["cycles"] - before["cycles"]) / (after["seconds"] - before["seconds"])
        ),
    }


_COMMAND = "from nomul.host.cli import main; main()"
_GENERATE = """
import json, sys
from nomul.hw.build.design import design
from nomul.hw.build.verilog import convert
from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
convert(design(CoreConfig(**json.loads(sys.argv[1]))), "top")
"""


def child(program: str, *arguments: str) -> dict[str, float]:
    """Seconds and peak memory of a Python program as a whole process."""
    begin = time.perf_counter()
    command = [sys.executable, "-c", program, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise NomulError(f"bench: {' '.join(arguments)} failed")
    return {"seconds": round(time.perf_counter() - begin, 2), "peak_mb": round(usage.ru_maxrss / 1024, 1)}


def _whole(loaded: Loaded, seeds: tuple[int, ...]) -> dict[str, Any]:
    image, config = compile_for(loaded.model, engine="select", bytes_per_beat=36)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        result: dict[str, Any] = {"verilog": child(_GENERATE, config.to_json())}
        if loaded.checkpoint is not None:
            source = str(loaded.path.parent if loaded.path.is_file() else loaded.path)
            result["import"] = child(_COMMAND, "import", source, "-o", str(target / "model.nomul"))
    result["golden"] = {"tokens_per_second": golden_speed(image)}
    result["simulated_board"] = board_speed(image, config)
    result["engines"] = {name: measure(name) for name in CONFIGURATIONS}
    result["report"] = report(image, config, seeds)
    return result


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m nomul.host.cli.bench_toolkit", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--model", help="model file or checkpoint; default the shipped one")
    parser.add_argument("--seeds", type=int, choices=range(1, 17), default=len(SEEDS), metavar="N",
                        help="placement seeds of the core, 1 to 16; engines take four")  # fmt: skip
    given = parser.parse_args()
    load_before = round(os.getloadavg()[0], 2)
    try:
        found = _whole(load_any(given.model), tuple(range(1, given.seeds + 1)))
    except (NomulError, OSError) as error:
        print(f"nomul: {error}", file=sys.stderr)
        return 1
    machine = {
        "platform": platform.platform(), "processors": os.cpu_count(), "load_before": load_before,
    }  # fmt: skip
    print(json.dumps({"machine": machine, **found}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
