# SPDX-License-Identifier: Apache-2.0
"""``nomul run``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

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

from nomul.host.driver import Board
from nomul.host.sampling import Sampler
from nomul.model.errors import NomulError

from .board import counters, logit_scale, open_board
from .common import (
    compile_core,
    core_options,
    dram_option,
    json_option,
    load_any,
    memory_of,
    print_json,
    tokenizer_for,
)


def _tokens(
    board: Board, first: int, count: int, sampler: Sampler, vocab: int, seed: int
) -> Iterator[int]:
    """Tokens after a prompt that has been fed, by the core's arg-max or chosen from its logits."""
    if sampler.greedy:
        yield first
        if count > 1:
            yield from board.generate([first], count - 1, reset=False)
        return
    rng = np.random.default_rng(seed)
    for number in range(count):
        token = sampler.choose(board.logits(vocab) * logit_scale(board), rng)
        yield token
        if number + 1 < count:
            board.step(token)


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


@click.command("run")
@click.argument("prompt")
@click.option("--board", "board_name", default="sim", show_default=True, metavar="sim|PORT",
              help="The simulated board, or a serial port.")  # fmt: skip
@click.option("--model", metavar="FILE", help="Model file or checkpoint; default the shipped one.")
@click.option("--ids", "as_ids", is_flag=True,
              help="PROMPT is token ids, and so is what is printed: no tokenizer is needed.")  # fmt: skip
@click.option("--tokens", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0: arg-max.")
@click.option("--top-k", type=int, default=0, help="Keep so many of the largest logits.")
@click.option("--top-p", type=float, default=1.0, help="Keep this much probability.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of sampling.")
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
      nomul run --ids "0 102 111 114" --tokens 20
      nomul run "import os" --port native --lanes 4 --dram ecpix5-85f
    """
    sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p)
    loaded = load_any(model)
    vocab = loaded.model.geometry.vocab
    coder = None if as_ids else tokenizer_for(loaded)
    ids = _ids(prompt, vocab) if coder is None else [coder.begin, *map(int, coder.encode(prompt))]
    memory = memory_of(dram, weights=weights, board=board_name)
    image, config = compile_core(
        loaded.model, weights=weights, lanes=lanes, engine=engine, bytes_per_beat=bytes_per_beat, dram=memory
    )
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
            board, process = stack.enter_context(
                open_board(board_name, image, config, dram=memory, say=say, progress=progress)
            )
        clock = board.identity.clock_hz
        before = process.statistics() if process else None
        begin = time.perf_counter()
        first = 0
        with bar("reading the prompt", MofNCompleteColumn()) as progress:
            for number, token in enumerate(board.force(ids), 1):
                progress(number, len(ids))
                first = token
        cycles = counters(board)["token_cycles"]  # every token takes as many
        decoder = _Numbers() if coder is None else coder.decoder()
        shown = "".join(map(decoder.feed, ids if coder is None else ids[1:]))
        out: list[int] = []
        if not as_json:
            click.echo(shown, nl=False)
        for token in _tokens(board, first, tokens, sampler, vocab, seed):
            if coder is not None and token == coder.end:
                break  # the model ends the document
            out.append(token)
            if not as_json:
                sys.stdout.write(decoder.feed(token))
                sys.stdout.flush()
        if not as_json:
            click.echo(decoder.finish())
        seconds = time.perf_counter() - begin
        report = {
            "prompt": prompt,
            **({} if coder is None else {"text": coder.decode(np.array(out, dtype=np.int64))}),
            "ids": out,
            "tokens": len(out),
            "prompt_tokens": len(ids),
            "board": board_name,
            "tokens_per_second": round((len(ids) + len(out)) / seconds, 1),
        }
        report["cycles_per_token"] = cycles
        report["clock_hz"] = clock
        if process is not None and before is not None:
            after = process.statistics()
            simulated = after["cycles"] - before["cycles"]
            report["simulated_cycles_per_second"] = round(
                simulated / max(after["seconds"] - before["seconds"], 1e-9)
            )
            report["modelled_tokens_per_second_at_clock"] = round(clock / cycles)
    if as_json:
        print_json(report)
        return
    line = f"{report['tokens_per_second']} tokens/s"
    if process is not None:
        line += (
            f" on the simulated board ({report['simulated_cycles_per_second']:,} cycles/s); "
            f"{cycles:,} cycles a token: {clock / cycles:,.0f} tokens/s at a clock of "
            f"{clock / 1e6:.0f} MHz (modelled)"
        )
    console.print(line, markup=False, soft_wrap=True)
