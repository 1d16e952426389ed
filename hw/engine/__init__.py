# SPDX-License-Identifier: Apache-2.0
"""Ternary engines: the table engine and the select-and-add engine, behind the same ports."""
