# SPDX-License-Identifier: Apache-2.0
"""Pieces of a bench's page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from .figures import LABELS

__all__ = ["called", "framed", "label", "last", "table", "users_of"]


def label(name: str) -> str:
    """A figure's label, with what it means."""
    return f'<span class="label {escape(name)}" title="{escape(LABELS[name], quote=True)}">{escape(name)}</span>'


def framed(svg: str, caption: str) -> str:
    """A plot with its caption."""
    return f'<figure>\n<div class="scroll">{svg}</div>\n<figcaption>{caption}</figcaption>\n</figure>\n'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> str:
    """A table; cells are HTML already, columns in ``numbers`` are set right."""
    set_right = ' class="n"'

    def row(kind: str, columns: Sequence[str]) -> str:
        made = "".join(
            f"<{kind}{set_right if k in numbers else ''}>{text}</{kind}>" for k, text in enumerate(columns)
        )
        return f"<tr>{made}</tr>\n"

    body = "".join(row("td", columns) for columns in rows)
    return f'<div class="table"><table>\n<thead>{row("th", header)}</thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'


def last(target: dict[str, Any], users: int) -> dict[str, Any]:
    """The run of the longest lengths of so many users."""
    runs = [run for run in target["runs"] if run["users"] == users]
    return max(runs, key=lambda run: (run["prompt"], run["output"]))


def users_of(target: dict[str, Any]) -> list[int]:
    """How many users at once there are runs of."""
    return sorted({run["users"] for run in target["runs"]})


def called(target: dict[str, Any], users: int) -> str:
    """A target's name, and of several users how many."""
    return str(target["name"]) if users == 1 else f"{target['name']}, {users} users"
