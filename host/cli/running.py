# SPDX-License-Identifier: Apache-2.0
"""``nomul run``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
)

from nomul.host.boards import Boards
from nomul.host.connection import Connection
from nomul.host.conversation import Conversation
from nomul.host.driver import Board
from nomul.host.sampling import Sampler
from nomul.host.stopping import Decoder, pieces
from nomul.hw.dram.boards import DramBoard
from nomul.model.errors import NomulError
from nomul.model.fold import Model
from nomul.model.program import compile_model
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.board import BoardProcess
from nomul.sim.golden import Golden

from .attached import compiled
from .board import connected, counters, several
from .common import (
    Loaded,
    board_names,
    core_options,
    dram_option,
    json_option,
    load_any,
    memory_of,
    print_json,
    tokenizer_for,
)


def _golden(loaded: Loaded, ids: list[int], count: int, sampler: Sampler, seed: int) -> Iterator[int]:
    """What a board generates, by the golden model; how it cuts matrices into tiles changes nothing."""
    golden = Golden(compile_model(loaded.model, bytes_per_beat=36, tile_outputs=256))
    rng = np.random.default_rng(seed)
    given = ids
    for _ in range(count):
        for token in given:
            best = int(golden.step(np.array([token]))[0])
        given = [best if sampler.greedy else sampler.choose(golden.logits[0] * golden.logit_scale[0], rng)]
        yield given[0]


class _Numbers:
    """Token ids in place of a text."""

    @staticmethod
    def feed(token: int) -> str:
        return f"{token} "

    @staticmethod
    def finish() -> str:
        return ""


def _ids(text: str, vocab: int) -> list[int]:
    """Token ids separated by spaces or commas.

    Raises
    ------
    NomulError
        Naming the word that is none.
    """
    words = text.replace(",", " ").split()
    if not words:
        raise NomulError("prompt: no token ids; give at least one, as in --ids '1 450 3'")
    for word in words:
        if not (word.isascii() and word.isdigit() and int(word) < vocab):
            raise NomulError(f"prompt: {word!r} is no token id; they are 0 to {vocab - 1}")
    return [int(word) for word in words]


@contextmanager
def _opened(
    names: list[str],
    model: Model,
    core: dict[str, Any],
    *,
    dram: DramBoard | None,
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> Iterator[tuple[Connection | Boards, Sequence[Board], list[BoardProcess]]]:
    """What a conversation is with, the boards in it, and the processes of those that are simulated."""
    made = compiled(names, model, **core)
    more: dict[str, Any] = {"dram": dram, "say": say, "progress": progress, "manifest": made.manifest}
    if len(names) > 1:
        assert isinstance(made.config, StreamedConfig)
        with several(names, made.images, made.config, **more) as (boards, processes):
            yield boards, boards.board.boards, processes
        return
    with connected(names[0], made.images[0], made.config, **more) as (connection, process):
        yield connection, [connection.board], [] if process is None else [process]


@click.command("run")
@click.argument("prompt")
@click.option("--board", "board_name", default="sim", show_default=True, metavar="sim|golden|NAME",
              help="The simulated board, the golden model on this CPU, a serial port, or tcp://HOST:PORT; several, "
              "with commas, share the model.")  # fmt: skip
@click.option("--model", metavar="FILE", help="Model file, its folder, or checkpoint; default the shipped one.")
@click.option("--ids", "as_ids", is_flag=True,
              help="PROMPT is token ids, and so is what is printed: no tokenizer is needed.")  # fmt: skip
@click.option("--tokens", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0: arg-max.")
@click.option("--top-k", type=int, default=0, help="Keep so many of the largest logits.")
@click.option("--top-p", type=float, default=1.0, help="Keep this much probability.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of sampling.")
@click.option("--stop", multiple=True, metavar="TEXT",
              help="End before this text; may be given several times.")  # fmt: skip
@core_options
@dram_option
@json_option
def run_command(
    prompt: str,
    board_name: str,
    model: str | None,
    as_ids: bool,
    tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    stop: tuple[str, ...],
    weights: str,
    lanes: int,
    engine: str | None,
    bytes_per_beat: int | None,
    dram: str | None,
    as_json: bool,
) -> None:
    """Continue PROMPT on a board, tokens as they come.

    \b
    Example:
      nomul run "def read_lines(path):" --tokens 200
      nomul run "import os" --stop "def "
      nomul run --ids "0 102 111 114" --tokens 20
      nomul run "import os" --model models/python-33m --board golden
      nomul run "import os" --port native --lanes 4 --dram ecpix5-85f
      nomul run "import os" --port native --lanes 2 --board sim,sim
    """
    sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p)
    if stop and as_ids:
        raise click.UsageError("--stop with --ids: there is no text to stop at; leave one out")
    if "" in stop:
        raise click.UsageError("--stop is empty; give at least one character")
    loaded = load_any(model)
    vocab = loaded.model.geometry.vocab
    coder = None if as_ids else tokenizer_for(loaded)
    ids = _ids(prompt, vocab) if coder is None else [coder.begin, *map(int, coder.encode(prompt))]
    memory = memory_of(dram, weights=weights, board=board_name)

    def begin_text() -> Decoder:
        """Shows the prompt."""
        decoder = _Numbers() if coder is None else coder.decoder()
        shown = "".join(map(decoder.feed, ids if coder is None else ids[1:]))
        if not as_json:
            click.echo(shown, nl=False)
        return decoder

    def generate(tokens_of: Iterator[int], decoder: Decoder) -> list[int]:
        """Shows tokens as they come; gives those before the one that ends the document."""
        end = None if coder is None else coder.end
        out: list[int] = []

        def kept() -> Iterator[int]:
            for token in tokens_of:
                out.append(token)
                yield token

        for piece in pieces(kept(), decoder, stop=stop, end=end):
            if not as_json:
                sys.stdout.write(piece)
                sys.stdout.flush()
        if not as_json:
            click.echo()
        return out[:-1] if out and out[-1] == end else out

    def report_of(out: list[int], seconds: float) -> dict[str, Any]:
        return {
            "prompt": prompt,
            **({} if coder is None else {"text": "".join(pieces(out, coder.decoder(), stop=stop))}),
            "ids": out,
            "tokens": len(out),
            "prompt_tokens": len(ids),
            "board": board_name,
            "tokens_per_second": round((len(ids) + len(out)) / seconds, 1),
        }

    if board_name == "golden":
        begin = time.perf_counter()
        out = generate(_golden(loaded, ids, tokens, sampler, seed), begin_text())
        report = report_of(out, time.perf_counter() - begin)
        if as_json:
            print_json(report)
        else:
            click.echo(f"{report['tokens_per_second']} tokens/s, golden model on this CPU", err=True)
        return
    names = board_names(board_name)
    core = {"weights": weights, "lanes": lanes, "engine": engine, "bytes_per_beat": bytes_per_beat, "dram": memory}
    console = Console(stderr=True, highlight=False)
    quiet = as_json or not console.is_terminal

    @contextmanager
    def bar(task: str, amount: ProgressColumn) -> Iterator[Callable[[int, int], None]]:
        with Progress(
            TextColumn("{task.description}"), BarColumn(), amount,
            console=console, transient=True, disable=quiet,
        ) as shown:  # fmt: skip
            number = shown.add_task(task, total=None)
            yield lambda done, total: shown.update(number, completed=done, total=total)

    def say(line: str) -> None:
        console.print(line, markup=False)

    with ExitStack() as stack:
        with bar("loading the model", DownloadColumn()) as progress:
            connection, boards, processes = stack.enter_context(
                _opened(names, loaded.model, core, dram=memory, say=say, progress=progress)
            )
        board = connection.board
        clock = board.identity.clock_hz
        before = [process.statistics() for process in processes]
        begin = time.perf_counter()
        if len(ids) == 1:
            board.step(ids[0], reset=True)  # for its cycles: every token takes as many
        talk = Conversation(connection, ids)
        with bar("reading the prompt", MofNCompleteColumn()) as progress:
            talk.feed(progress=progress)
        by_board = [counters(one)["token_cycles"] for one in boards]
        cycles = sum(by_board)
        out = generate(talk.generate(tokens, sampler=sampler, seed=seed), begin_text())
        report = report_of(out, time.perf_counter() - begin)
        report["cycles_per_token"] = cycles
        report["clock_hz"] = clock
        if len(boards) > 1:
            report["cycles_per_token_by_board"] = by_board
        if processes:
            after = [process.statistics() for process in processes]
            simulated, spent = (
                sum(b[name] - a[name] for a, b in zip(before, after, strict=True)) for name in ("cycles", "seconds")
            )
            report["simulated_cycles_per_second"] = round(simulated / max(spent, 1e-9))
        if processes and len(boards) == 1:
            report["modelled_tokens_per_second_at_clock"] = round(clock / cycles)
    if as_json:
        print_json(report)
        return
    line = f"{report['tokens_per_second']} tokens/s"
    if processes and len(boards) == 1:
        line += (
            f" on the simulated board ({report['simulated_cycles_per_second']:,} cycles/s); "
            f"{cycles:,} cycles a token: {clock / cycles:,.0f} tokens/s at a clock of "
            f"{clock / 1e6:.0f} MHz (modelled)"
        )
    elif len(boards) > 1:
        line += f" on {len(boards)} boards; cycles a token: {' + '.join(f'{c:,}' for c in by_board)}, links not counted"
    console.print(line, markup=False, soft_wrap=True)
