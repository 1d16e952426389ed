# SPDX-License-Identifier: Apache-2.0
"""Boards: what is on them, and the top that joins a core to their clocks, pins and link."""
