# SPDX-License-Identifier: Apache-2.0
"""Runs variants of the recipe side by side on one GPU, a process each.

``python -m nomul.train.sweep --corpus FOLDER --out FOLDER NAME:KEY=VALUE,KEY=VALUE ...`` leaves
what :func:`nomul.train.recipe.train` writes in ``OUT/NAME`` and a table, best first, in
``OUT/sweep.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from nomul.model.errors import NomulError

__all__ = ["sweep"]


def sweep(variants: dict[str, list[str]], out: Path, *,
          common: list[str]) -> list[dict[str, object]]:
    """Trains every variant at the same time.

    Parameters
    ----------
    variants : dict of str to list of str
        ``NAME=VALUE`` settings of each variant, by its name.
    out : Path
        Gets a folder for each variant.
    common : list of str
        Arguments for every run, as :mod:`nomul.train.recipe` takes them, ``--set`` last.

    Returns
    -------
    list of dict
        ``name``, ``held_out_bpb``, ``steps`` and ``settings``, best first; a run that failed has
        no figures.
    """
    def follow(name: str, run: subprocess.Popen[str]) -> None:
        assert run.stdout is not None
        for line in run.stdout:
            print(f"{name:>12}  {line.rstrip()}", flush=True)

    threads = max(1, (os.cpu_count() or 1) // len(variants))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads),
                   "TORCHINDUCTOR_COMPILE_THREADS": str(threads)}
    runs = {name: subprocess.Popen(
        [sys.executable, "-m", "nomul.train.recipe", "--out", str(out / name), *common, *settings],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        for name, settings in variants.items()}
    followers = [threading.Thread(target=follow, args=run) for run in runs.items()]
    for follower in followers:
        follower.start()
    for follower in followers:
        follower.join()
    table: list[dict[str, object]] = []
    for name, run in runs.items():
        row: dict[str, object] = {"name": name, "settings": variants[name], "status": run.wait()}
        record = out / name / "run.json"
        if record.exists():
            read = json.loads(record.read_text())
            row |= {"held_out_bpb": read["held_out_bpb"], "steps": read["steps"]}
        table.append(row)
    table.sort(key=lambda row: float(str(row.get("held_out_bpb", "inf"))))
    out.mkdir(parents=True, exist_ok=True)
    (out / "sweep.json").write_text(json.dumps(table, indent=1) + "\n")
    return table


def _variants(arguments: list[str]) -> dict[str, list[str]]:
    variants = {}
    for argument in arguments:
        name, _, settings = argument.partition(":")
        if not name or name in variants or "/" in name:
            raise NomulError(f"sweep: {argument!r} must be NAME:KEY=VALUE,… with a new name "
                             f"without '/'")
        variants[name] = [setting for setting in settings.split(",") if setting]
    return variants


def _main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m nomul.train.sweep", description=__doc__)
    parser.add_argument("variant", nargs="+", help="NAME:KEY=VALUE,KEY=VALUE")
    parser.add_argument("--corpus", type=Path,
                        help="exported corpus; default: this Python's library")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE",
                        help="for all variants")
    given = parser.parse_args(arguments)
    common = ["--device", given.device]
    if given.corpus:
        common += ["--corpus", str(given.corpus)]
    try:
        table = sweep(_variants(given.variant), given.out, common=[*common, "--set", *given.set])
    except NomulError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for row in table:
        print(f"{row['name']:>12}  {row.get('held_out_bpb', 'failed')}  steps {row.get('steps')}  "
              f"{' '.join(variant for variant in row['settings'])}")  # type: ignore[attr-defined]
    return int(any(row["status"] for row in table))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
