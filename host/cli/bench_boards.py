# SPDX-License-Identifier: Apache-2.0
"""One model over several boards: ``python -m nomul.host.cli.bench_boards model`` and ``… simulate``.

``model`` works out published sizes on ECPIX-5s: bytes and links are *computed*, cycles *modelled* from them and from
what was simulated of 370M through the board's memory controller. ``simulate`` runs the sections of a random model of a
published shape in RTL and puts their cycles (*simulated*) in place of the modelled ones. Both print JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from nomul.host.bench.several import Link, Several, model_boards
from nomul.hw.dram.boards import BOARDS, ECPIX5
from nomul.model.errors import NomulError
from nomul.model.geometry import PUBLISHED, Geometry
from nomul.model.protocol import MAX_LANES
from nomul.model.sections import compile_sections
from nomul.sim.streamed import Lane, StreamedSimulation

from .bench_streamed import published_model
from .common import streamed_config

#: Share of the pins' peak that is read, simulated through the controller of an ECPIX-5 (docs/streamed-core.md).
SHARE_OF_PEAK = {1: 0.9645, 8: 0.926}
LINKS = [
    Link(name="serial, 3 Mbaud", bytes_per_second=300e3),
    Link(name="serial, 12 Mbaud", bytes_per_second=1.2e6),
    Link(name="10 MB/s", bytes_per_second=10e6),
    Link(name="100 MB/s", bytes_per_second=100e6),
]
_LIMIT_S = 3600.0
_MOST_BOARDS, _MOST_LAYERS = 256, 1024


def _figures(found: Several, one: Several) -> dict[str, Any]:
    boards = len(found.sections)
    return {
        "boards": boards,
        "layers": [s.layers for s in found.sections],
        "memory_mb": [round(s.memory_bytes / 1e6, 1) for s in found.sections],
        "step_ms": [round(1e3 * s.step_s, 2) for s in found.sections],
        "link_ms": [round(1e3 * s.link_s, 2) for s in found.sections],
        "tokens_per_second_single": round(found.single_tokens_per_second, 2),
        "tokens_per_second_summed": round(found.tokens_per_second, 2),
        "driver": {
            "groups": found.groups, "lanes": found.groups * found.lanes,
            "tokens_per_second_summed": round(found.driver_tokens_per_second, 2),
        },
        "of_n_times_one": round(found.tokens_per_second / one.tokens_per_second / boards, 3),
    }


def modelled(geometry: Geometry, lanes: int, link: Link, boards: list[int]) -> list[dict[str, Any]]:
    """Figures of a shape over so many boards each."""
    def over(count: int) -> Several:
        return model_boards(
            geometry, count, lanes=lanes, link=link, clock_hz=ECPIX5.clock_hz,
            bytes_per_cycle=ECPIX5.bytes_per_cycle, share_of_peak=SHARE_OF_PEAK[1 if lanes == 1 else 8],
        )  # fmt: skip

    one = over(1)
    return [_figures(over(count), one) for count in boards]


def simulated(
    size: str, lanes: int, boards: list[int], dram: str | None, layers: int | None, logits: bool
) -> dict[str, Any]:
    """The same with simulated cycles: of a step of each board, the second one, all lanes for users of their own.

    With ``logits`` the board of the head writes them to its memory, as for users who sample; without, tokens are its
    arg-max.
    """
    geometry = PUBLISHED[size]
    if layers is not None:
        geometry = Geometry(**{**asdict(geometry), "layers": layers})
    model = published_model(geometry)
    board = BOARDS[dram] if dram else None
    clock = board.clock_hz if board else ECPIX5.clock_hz
    cycles: dict[int, list[int]] = {}
    for count in boards:
        config = streamed_config(
            geometry, port="native", bytes_per_beat=8, lanes=lanes, dram=board, boards=count
        )
        simulation = StreamedSimulation(config, board=board)
        cycles[count] = []
        for number, image in enumerate(compile_sections(model, config, count)):
            given = logits or image.section.gives  # residual streams go where logits do
            steps = [[Lane(token=k, slot=k, fresh=t == 0, logits=given) for k in range(lanes)] for t in range(2)]
            cycles[count].append(simulation.run(image, steps, limit_s=_LIMIT_S)[-1].cycles)
            print(f"{count} boards, section {number + 1}: {cycles[count][-1]:,} cycles", file=sys.stderr, flush=True)
    by_link = {}
    for link in LINKS:
        made = {
            count: model_boards(
                geometry, count, lanes=lanes, link=link, clock_hz=clock, bytes_per_cycle=1, share_of_peak=1,
                steps_s=[c / clock for c in cycles[count]],
            )
            for count in boards
        }  # fmt: skip
        by_link[link.name] = [_figures(made[count], made[boards[0]]) for count in boards]
    return {
        "geometry": asdict(geometry), "lanes": lanes, "logits": logits, "memory": dram or "ideal",
        "clock_hz": clock, "cycles": cycles,
        "how": {"cycles": "simulated", "link": "computed: least time, no byte escaped, nobody waits"},
        "links": by_link,
    }  # fmt: skip


def _check(asked: argparse.Namespace) -> None:
    counts = [("--lanes", one, MAX_LANES) for one in asked.lanes]
    counts += [("--boards", one, _MOST_BOARDS) for one in asked.boards]
    if asked.layers is not None:
        counts.append(("--layers", asked.layers, _MOST_LAYERS))
    for name, value, most in counts:
        if not 1 <= value <= most:
            raise NomulError(f"bench_boards: {name} {value}; it must be 1 to {most}")


def main() -> None:
    """Prints JSON."""
    parser = argparse.ArgumentParser(prog="bench_boards", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["model", "simulate"])
    parser.add_argument("--sizes", nargs="+", choices=[*PUBLISHED], default=["370M", "1.3B", "2.7B"])
    parser.add_argument("--boards", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--lanes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--dram", choices=[*BOARDS], help="Memory of the simulation; else an ideal one.")
    parser.add_argument("--layers", type=int, help="Simulate a model of the shape with so many layers.")
    parser.add_argument("--logits", action="store_true", help="Simulate users who sample: logits are written.")
    asked = parser.parse_args()
    try:
        _check(asked)
        found: Any
        if asked.what == "model":
            found = {
                size: {
                    f"{lanes} lanes": {
                        link.name: modelled(PUBLISHED[size], lanes, link, asked.boards) for link in LINKS
                    }
                    for lanes in asked.lanes
                }
                for size in asked.sizes
            }
        else:
            if asked.boards[0] != 1:
                raise NomulError("bench_boards: --boards begins with 1, which the others are compared with")
            found = [
                simulated(size, lanes, asked.boards, asked.dram, asked.layers, asked.logits)
                for size in asked.sizes for lanes in asked.lanes
            ]  # fmt: skip
    except NomulError as error:
        sys.exit(str(error))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
