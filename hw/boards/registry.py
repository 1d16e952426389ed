# SPDX-License-Identifier: Apache-2.0
"""All boards by name."""

from __future__ import annotations

from nomul.model.errors import NomulError
from nomul.model.names import nearest

from .bare import BARE
from .board import Board
from .butterstick import BUTTERSTICK, BUTTERSTICK_8G
from .ecpix5 import ECPIX5_85F
from .orangecrab import ORANGECRAB_85F
from .ulx3s import ULX3S_85F, ULX3S_85F_32M
from .versa import VERSA_ECP5, VERSA_ECP5_5G

__all__ = ["BOARDS", "Board", "find_board"]

#: All boards by name.
BOARDS = {
    board.name: board
    for board in (
        ULX3S_85F, ULX3S_85F_32M, ECPIX5_85F, ORANGECRAB_85F, BUTTERSTICK, BUTTERSTICK_8G, VERSA_ECP5, VERSA_ECP5_5G,
        *BARE,
    )
}  # fmt: skip


def find_board(name: str) -> Board:
    """The board of a name.

    Raises
    ------
    NomulError
        If there is none; with the names that are nearest.
    """
    if name not in BOARDS:
        raise NomulError(f"no board is called {name!r}; {nearest(name, BOARDS)}")
    return BOARDS[name]
