# SPDX-License-Identifier: Apache-2.0
"""Every command that README.md shows exists and takes the options it is shown with."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from nomul.host.cli import _nomul

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def commands(text: str) -> list[str]:
    """Command lines in the blocks of shell, joined where they are continued."""
    blocks = re.findall(r"^```(?:sh|bash|shell|console)\n(.*?)^```", text, re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    lines = [re.sub(r"^\$ ", "", line.strip()) for line in lines]
    return [line for line in lines if re.match(r"(nomul|make)\b", line)]


def words(line: str) -> list[str]:
    """Words of a command up to a comment, a redirection or a pipe."""
    found = shlex.split(line, comments=True)
    ends = [k for k, word in enumerate(found) if re.match(r"\d?[<>]|[|;&]", word)]
    return found[: min(ends, default=len(found))]


def parse(arguments: list[str]) -> None:
    """As the command line would, without doing anything."""
    with _nomul.make_context("nomul", list(arguments)) as context:
        name, command, rest = _nomul.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert command is not None
        command.make_context(name, rest, parent=context).close()


TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
SHOWN = commands(README.read_text()) if README.is_file() else []


def test_there_are_commands():
    assert any(line.startswith("make demo") for line in SHOWN)
    assert any(line.startswith("nomul run") for line in SHOWN)


@pytest.mark.parametrize("line", SHOWN)
def test_command(line: str):
    program, *arguments = words(line)
    if program == "make":
        targets = [a for a in arguments if "=" not in a]
        assert targets
        assert set(targets) <= set(TARGETS)
    else:
        parse(arguments)


@pytest.mark.parametrize("line", ["fly", "run", "run a --speed 9", "eval a b c", "report x"])
def test_wrong_commands_are_found(line: str):
    with pytest.raises(click.UsageError):
        parse(line.split())
