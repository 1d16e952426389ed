# SPDX-License-Identifier: Apache-2.0
"""The one exception that users see."""

from __future__ import annotations

__all__ = ["NomulError"]


class NomulError(Exception):
    """Something the user can mend: one line that names the file, field, pin or value, and the mend.

    The command line prints the line and exits with status 1; library users catch it.
    """
