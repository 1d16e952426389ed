# SPDX-License-Identifier: Apache-2.0
"""An executable in openFPGALoader's place."""

from __future__ import annotations

import json
import sys
from pathlib import Path

__all__ = ["RECORDED", "Fake"]

RECORDED = Path(__file__).parent / "boards/recorded"
SCRIPT = """#!{python}
import json, os, sys, time
sys.stdout.reconfigure(newline="")
here = {here!r}
arguments = sys.argv[1:]
with open(os.path.join(here, "calls"), "a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
with open(os.path.join(here, "answers")) as file:
    answers = json.load(file)
key = next((k for k in answers if k in arguments), None)
if key is None:
    sys.exit("unexpected: " + str(arguments))
name, status = answers[key]
if name == "hang":
    print("SRAM erase: DONE", flush=True)
    time.sleep(60)
with open(os.path.join({recorded!r}, name + ".txt"), newline="") as text:
    sys.stdout.write(text.read())
sys.exit(status)
"""


class Fake:
    """The program; ``answers`` maps an argument to a recording and an exit status."""

    def __init__(self, folder: Path):
        self.folder = folder
        path = folder / "openFPGALoader"
        path.write_text(SCRIPT.format(python=sys.executable, here=str(folder), recorded=str(RECORDED)))
        path.chmod(0o755)
        self.says()

    def says(self, **answers: tuple[str, int]) -> None:
        known = {"Version": ("version", 0), "detect": ("detect-85f", 0), "write-sram": ("sram", 0),
                 "write-flash": ("flash", 0)}  # fmt: skip
        known |= {name.replace("_", "-"): answer for name, answer in answers.items()}
        (self.folder / "answers").write_text(json.dumps({f"--{name}": answer for name, answer in known.items()}))

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]
