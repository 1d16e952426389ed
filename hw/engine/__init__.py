# SPDX-License-Identifier: Apache-2.0
"""Ternary engines: the table engine and the select-and-add engine, behind the same ports."""

from .ports import Engine
from .select import SelectEngine
from .table import TableEngine

__all__ = ["Engine", "SelectEngine", "TableEngine"]
