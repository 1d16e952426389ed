# SPDX-License-Identifier: Apache-2.0
"""``nomul serve``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from nomul.host.lanes import LanesBoard
from nomul.host.power import CsvLog, Live, open_meter
from nomul.model.errors import NomulError
from nomul.model.streamed_config import StreamedConfig

from .attached import compiled
from .board import connected, lane_logits, several
from .common import (
    Loaded,
    board_names,
    core_options,
    dram_option,
    load_any,
    memory_of,
    tokenizer_for,
)

if TYPE_CHECKING:
    from nomul.host.serve.metrics import Power

_TOKEN = "NOMUL_TOKEN"
_GOLDEN_LANES = 8

Logits = Callable[[int], np.ndarray]
Recover = Callable[[NomulError], None]


def _token(file: Path | None) -> str | None:
    """What clients must present: the file's one line, or the environment's."""
    if file is not None:
        try:
            text, where = file.read_text(), str(file)
        except UnicodeDecodeError:
            raise NomulError(f"{file}: no text; write the token on one line") from None
    elif _TOKEN in os.environ:
        text, where = os.environ[_TOKEN], _TOKEN
    else:
        return None
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise NomulError(f"{where}: a token is one line of printable ASCII without spaces, and not empty")
    return token


def model_name(loaded: Loaded) -> str:
    """What clients call the model."""
    path = loaded.path.resolve()
    return str(loaded.header.get("name") or (path.name if path.is_dir() else path.stem))


@contextmanager
def _board(
    name: str,
    loaded: Loaded,
    console: Console,
    *,
    weights: str,
    lanes: int,
    engine: str | None,
    bytes_per_beat: int | None,
    dram: str | None,
) -> Iterator[tuple[LanesBoard, Logits, Recover | None, str]]:
    """A board with the model in it, what reads its logits, what brings it back, and what to call it."""
    memory = memory_of(dram, weights=weights, board=name)
    core: dict[str, Any] = {
        "weights": weights, "lanes": lanes, "engine": engine, "bytes_per_beat": bytes_per_beat, "dram": memory
    }  # fmt: skip
    names = board_names(name)
    made = compiled(names, loaded.model, **core)
    more: dict[str, Any] = {
        "dram": memory, "say": lambda line: console.print(line, markup=False), "manifest": made.manifest
    }  # fmt: skip
    if len(names) > 1:
        assert isinstance(made.config, StreamedConfig)
        with ExitStack() as stack:
            with _loading(console) as progress:
                boards, processes = stack.enter_context(
                    several(names, made.images, made.config, progress=progress, **more)
                )
            kind = "simulated boards" if len(processes) == len(names) else "boards"
            yield boards.board, lane_logits(boards.board), boards.recover, f"{len(names)} {kind}"
        return
    (image,) = made.images
    if name == "golden":
        from nomul.sim.golden_board import GoldenBoard

        golden = GoldenBoard(image, lanes=_GOLDEN_LANES)
        yield golden, golden.logits, None, "golden model on this CPU, no board"
        return
    with ExitStack() as stack:
        with _loading(console) as progress:
            connection, process = stack.enter_context(connected(name, image, made.config, progress=progress, **more))
        what = "simulated board" if process is not None else f"board at {name}"
        yield connection.board, lane_logits(connection.board), connection.recover, what


@contextmanager
def _loading(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar for bytes loaded, on a terminal."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    ) as shown:  # fmt: skip
        number = shown.add_task("loading the model", total=None)
        yield lambda done, total: shown.update(number, completed=done, total=total)


@contextmanager
def _metered(name: str) -> Iterator[Live]:
    """What a meter shows, as long as the server runs."""
    meter = open_meter(name)
    if isinstance(meter, CsvLog):
        meter.close()
        raise NomulError(f"power: {name}: a log shows nothing live; take a meter that can be asked")
    try:
        with Live(meter) as live:
            yield live
    finally:
        meter.close()


def _power(live: Live) -> Power:
    """What the server tells of a meter."""
    from nomul.host.serve.metrics import Power

    meter = live.meter
    return Power(
        watts=live.watts, label=meter.label, meter=meter.name, includes=meter.includes, bounds_w=meter.bounds_w
    )


@click.command("serve")
@click.option("--board", "board_name", default="sim", show_default=True, metavar="sim|golden|PORT",
              help="The simulated board, the golden model on this CPU, or a serial port; several boards share a model: "
                   "sim,sim or their ports with commas.")  # fmt: skip
@click.option("--model", metavar="FILE", help="Model file or checkpoint; default the shipped one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True,
              help="0 takes a free one.")  # fmt: skip
@click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE",
              help=f"Bearer token that clients must present; default ${_TOKEN}, else none.")  # fmt: skip
@click.option("--queue", type=click.IntRange(min=0), default=64, show_default=True,
              help="Texts that may wait beyond one a lane; then 429.")  # fmt: skip
@click.option("--max-prompt", type=click.IntRange(min=1), default=4096, show_default=True,
              help="Tokens of a prompt.")  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(min=1), default=1024, show_default=True,
              help="Most tokens that a request may generate.")  # fmt: skip
@click.option("--meter", "meter_name", metavar="METER",
              help="Show the power of this meter, such as hwmon:ina226; see nomul power.")  # fmt: skip
@partial(core_options, port="--weights")
@dram_option
def serve_command(
    board_name: str,
    model: str | None,
    host: str,
    port: int,
    token_file: Path | None,
    queue: int,
    max_prompt: int,
    max_tokens: int,
    meter_name: str | None,
    weights: str,
    lanes: int,
    engine: str | None,
    bytes_per_beat: int | None,
    dram: str | None,
) -> None:
    """Serve a board's lanes over HTTP: the OpenAI API, metrics, and a page at /.

    Ctrl-C or SIGTERM ends it: requests have ten seconds to finish; a second Ctrl-C ends it at once.

    \b
    Example:
      nomul serve --board golden
      nomul serve --weights native --lanes 8
      nomul serve --weights native --lanes 4 --board sim,sim
      curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
        -d '{"model": "stdlib-1m3", "prompt": "import os", "max_tokens": 40, "temperature": 0}'
    """
    from nomul.host.serve.engine import Engine
    from nomul.host.serve.server import Server, is_loopback, listen
    from nomul.host.serve.service import Limits, Service

    token = _token(token_file)
    limits = Limits(prompt=max_prompt, tokens=max_tokens)
    loaded = load_any(model)
    coder = tokenizer_for(loaded)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with ExitStack() as stack:
        live = None if meter_name is None else stack.enter_context(_metered(meter_name))
        sock = stack.enter_context(listen(host, port, reader_s=limits.reader_s))  # before a board is built
        at = sock.getsockname()[1]
        with _board(
            board_name, loaded, console, weights=weights, lanes=lanes, engine=engine,
            bytes_per_beat=bytes_per_beat, dram=dram,
        ) as (board, logits, recover, what):  # fmt: skip
            worker = Engine(board, logits=logits, end=coder.end, queue=queue, recover=recover)
            named = {host.lower(), f"[{host.lower()}]", "localhost", "127.0.0.1", "[::1]"}
            service = Service(
                worker, coder, name=model_name(loaded), board=what, design=board.identity.design,
                limits=limits, token=token, hosts=named if is_loopback(host) and token is None else None,
                power=_power(live) if live else None,
            )  # fmt: skip
            worker.start()
            try:
                count = "1 lane" if worker.lanes == 1 else f"{worker.lanes} lanes"
                shown = f"[{host}]" if ":" in host else host
                console.print(
                    f"serving {service.name} at http://{shown}:{at} ({what}, {count})", markup=False
                )
                if token is None and not is_loopback(host):
                    console.print(
                        f"warning: no token: whoever reaches {shown}:{at} may use it; "
                        f"give --token-file or {_TOKEN}", markup=False,
                    )  # fmt: skip
                Server(service).run(sockets=[sock])
            finally:
                worker.close()
    console.print("ended", markup=False)
