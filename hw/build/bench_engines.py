# SPDX-License-Identifier: Apache-2.0
"""Area and clock of both engines: ``python -m nomul.hw.build.bench_engines OUT.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nomul.hw.engine import Engine, SelectEngine, TableEngine

from .synth import synthesise

__all__ = ["CONFIGURATIONS", "measure"]

#: What is measured: the streaming core's engine (370M) at three widths, either kind; the shipped
#: on-chip core's.
CONFIGURATIONS: dict[str, Engine] = {
    f"{kind.__name__.removesuffix('Engine').lower()}_g{g}": kind(
        bytes_per_beat=g, lanes=1, outputs=4096, inputs=2816, acts_per_beat=4)
    for g in (8, 16, 32) for kind in (TableEngine, SelectEngine)
} | {
    "select_onchip": SelectEngine(
        bytes_per_beat=36, lanes=1, outputs=256, inputs=540, acts_per_beat=4),
}


def measure(name: str) -> dict[str, object]:
    """Synthesises and routes one configuration, out of context, with four seeds."""
    engine = CONFIGURATIONS[name]
    result = synthesise(engine, name=name, limit_s=1800)
    return {
        "engine": type(engine).__name__,
        "bytes_per_beat": engine.bytes_per_beat,
        "trits_per_cycle": engine.chunk,
        "lanes": engine.lanes,
        "outputs": engine.outputs,
        "inputs": engine.inputs,
        "acts_per_beat": engine.acts_per_beat,
        "latency": engine.latency,
        "label": "routed, out of context",
        **result.as_dict(),
    }


def main(path: str, *names: str) -> None:
    """Measures all configurations, or those named, and writes them as JSON."""
    results = {}
    for name in names or CONFIGURATIONS:
        results[name] = measure(name)
        Path(path).write_text(json.dumps(results, indent=2) + "\n")
        row = results[name]
        print(f"{name}: {row['comb']} comb, {row['ff']} ff, {row['bram']} bram, "
              f"{row['multipliers']} multipliers, {row['fmax_median_mhz']} MHz {row['fmax_mhz']}",
              flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit("usage: python -m nomul.hw.build.bench_engines OUT.json [NAME …]")
    main(*sys.argv[1:])
