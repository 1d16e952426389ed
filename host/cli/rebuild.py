# SPDX-License-Identifier: Apache-2.0
"""``python -m nomul.host.cli.rebuild``: makes the released bitstreams again and compares them."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
from rich.console import Console

from nomul.hw.build.bitstream import build, installed
from nomul.hw.build.tools import build_folder
from nomul.hw.build.toolset import YOWASP
from nomul.model.errors import NomulError
from nomul.model.manifest import Manifest, read_manifest

from .building import chip_of, ended_by_signals, placer_of, shown_progress
from .flashing import out_of_date
from .released import released

__all__ = ["main", "stale"]


def stale(manifest: Manifest) -> str | None:
    """Why a released bitstream is out of date, or ``None``."""
    why = out_of_date(manifest)
    if why is not None:
        return why
    for name, version in installed(manifest.tools).items():
        if version != manifest.tools[name]:
            return (
                f"{manifest.file} is out of date: it was made with {name} {manifest.tools[name]}, here is {version}; "
                f"build it again: {manifest.command}"
            )
    return None


def _again(path: Path, console: Console) -> tuple[Manifest, Path]:
    """Makes one again, below ``build/``."""
    old = read_manifest(path)
    with ended_by_signals(), shown_progress(path.stem, quiet=False) as seen:
        built = build(
            chip_of(old), seeds=[old.seed], placer=placer_of(old), tools=YOWASP,
            output=build_folder("rebuilt", path.stem), seen=seen,
        )  # fmt: skip
    return built.manifest, built.folder


@click.command("rebuild")
@click.argument("names", nargs=-1)
@click.option("--update", is_flag=True, help="Put what was made in the place of what differs.")
def main(names: tuple[str, ...], update: bool) -> None:
    """Make released bitstreams again (NAMES, or all), bit for bit, and say which differ.

    \b
    Example:
      python -m nomul.host.cli.rebuild ulx3s-85f-onchip
    """
    console = Console(highlight=False)
    known = {path.stem: path for path in released()}
    for name in names:
        if name not in known:
            raise click.UsageError(f"no released bitstream is called {name!r}; one of {', '.join(known)}")
    differ = []
    for name in names or known:
        path = known[name]
        try:
            old, why = read_manifest(path), None
            why = stale(old)
            made, folder = _again(path, console)
        except NomulError as error:
            differ.append(name)
            console.print(f"✗ {name}: {error}", markup=False, soft_wrap=True)
            continue
        if made.sha256 == old.sha256:
            console.print(f"✓ {name}: the same {made.size:,} bytes, {made.sha256[:16]}…", markup=False)
            if made == old:
                continue
        else:
            differ.append(name)
            console.print(
                f"✗ {name}: {made.sha256[:16]}…, released {old.sha256[:16]}…{'; ' + why if why else ''}",
                markup=False, soft_wrap=True,
            )  # fmt: skip
        if update:
            shutil.copyfile(folder / made.file, path.with_name(made.file))
            made.write(path)
            console.print(f"  {path} updated", markup=False, soft_wrap=True)
    if differ and not update:
        raise click.ClickException(f"{', '.join(differ)}: not as released; --update replaces them")


if __name__ == "__main__":
    try:
        main()
    except NomulError as error:
        raise SystemExit(f"nomul: {error}") from None
