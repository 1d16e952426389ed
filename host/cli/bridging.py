# SPDX-License-Identifier: Apache-2.0
"""``nomul board``."""

from __future__ import annotations

import time
from contextlib import ExitStack

import click
from rich.console import Console

from nomul.host.bridge import Bridge
from nomul.host.transport import SerialTransport
from nomul.model.errors import NomulError
from nomul.sim.board import BoardProcess

from .board import built_board
from .common import compile_for, core_option, load_any


@click.command("board")
@click.option("--listen", default="127.0.0.1:5010", show_default=True, metavar="HOST:PORT",
              help="Where hosts connect; port 0 takes a free one. There is no password.")  # fmt: skip
@click.option("--board", "board_name", default="sim", show_default=True, metavar="sim|PORT",
              help="The simulated board, or a serial port.")  # fmt: skip
@click.option("--model", metavar="FILE",
              help="The simulated board is one that this model fits; default the shipped one.")  # fmt: skip
@core_option
def board_command(
    listen: str, board_name: str, model: str | None, engine: str, bytes_per_beat: int
) -> None:
    """Offer a board over TCP, to one host at a time, until interrupted.

    \b
    Example:
      nomul board --listen 127.0.0.1:5010
      nomul run "import os" --board tcp://127.0.0.1:5010     (in another shell)
    """
    console = Console(stderr=True, highlight=False)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    with ExitStack() as stack:
        process: BoardProcess | None = None
        port = board_name
        if board_name == "sim":
            _, config = compile_for(
                load_any(model).model, engine=engine, bytes_per_beat=bytes_per_beat
            )
            process = stack.enter_context(BoardProcess(built_board(config, say=say)[1]))
            port = process.port
        bridge = stack.enter_context(Bridge(lambda: SerialTransport(port), listen, say=say))
        click.echo(bridge.name)
        while process is None or process.alive:
            time.sleep(0.2)
        raise NomulError("simulated board: it has ended; start it again")
