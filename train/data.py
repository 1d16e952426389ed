# SPDX-License-Identifier: Apache-2.0
"""The corpus: CPython's own standard library, which every machine has.

A *document* is one ``*.py`` file of the running interpreter's standard library (site-packages
left out), preceded by one byte 0x00, which is therefore the begin marker; the few files that hold
a 0x00 themselves, or nothing, are left out. The split is by file and depends on path and size
alone: a file outside any folder of tests is *held out* when the first eight bytes of its path's
SHA-256, as a fraction of 2⁶⁴, are below 1/16 and it is no larger than 128 KiB (one file, a manual
as string literals, would be most of the text). All else is for training, in two parts: the
library proper and its tests, which are larger and of another style.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from nomul.model.errors import NomulError
from nomul.model.tokenizer import BEGIN

__all__ = [
    "HELD_OUT", "HELD_OUT_LIMIT", "Corpus", "export_corpus", "load_corpus", "part_of",
    "standard_library",
]

#: Share of the files outside tests that is held out (about 5 % of the bytes), and their limit.
HELD_OUT = 1 / 16
HELD_OUT_LIMIT = 128 * 1024

_PARTS = ("library", "tests", "held_out")
_TEST_FOLDER = re.compile(r"(^|_)tests?$")
_LEFT_OUT = {"site-packages", "dist-packages", "__pycache__"}


def part_of(path: str, size: int) -> str:
    """The part a file belongs to: ``"library"``, ``"tests"`` or ``"held_out"``.

    Parameters
    ----------
    path : str
        Path relative to the standard library, with forward slashes.
    size : int
        Bytes of the file.
    """
    if any(_TEST_FOLDER.search(folder) for folder in PurePosixPath(path).parts[:-1]):
        return "tests"
    digest = hashlib.sha256(path.encode()).digest()
    chosen = int.from_bytes(digest[:8], "big") < HELD_OUT * 2**64
    return "held_out" if chosen and size <= HELD_OUT_LIMIT else "library"


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The three parts, each the concatenation of its documents in the order of their paths.

    Attributes
    ----------
    library, tests : ndarray of uint8, shape ``[bytes]``
        For training.
    held_out : ndarray of uint8, shape ``[bytes]``
        For judging, never trained on.
    python : str
        Version of the interpreter whose library it is.
    """

    library: np.ndarray
    tests: np.ndarray
    held_out: np.ndarray
    python: str

    @property
    def train(self) -> np.ndarray:
        """All training bytes, library first."""
        return np.concatenate([self.library, self.tests])

    def documents(self, part: str) -> list[np.ndarray]:
        """Documents of a part as views, each with its leading 0x00."""
        text = getattr(self, part)
        return np.split(text, np.flatnonzero(text == BEGIN)[1:]) if text.size else []

    def manifest(self) -> dict[str, object]:
        """What the corpus is: per part the number of documents, bytes, and SHA-256."""
        parts = {
            part: {
                "documents": int((getattr(self, part) == BEGIN).sum()),
                "bytes": int(getattr(self, part).size),
                "sha256": hashlib.sha256(getattr(self, part).tobytes()).hexdigest(),
            }
            for part in _PARTS
        }
        return {"source": f"CPython {self.python} standard library, *.py", "python": self.python,
                "parts": parts}


def standard_library(root: Path | None = None) -> Corpus:
    """Reads the corpus from the running interpreter's standard library, or from another folder.

    Raises
    ------
    NomulError
        If the folder lacks sources for one of the parts (some distributions leave the tests out).
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    parts: dict[str, list[bytes]] = {part: [] for part in _PARTS}
    for path in sorted(p.relative_to(root).as_posix() for p in root.rglob("*.py")):
        if _LEFT_OUT.isdisjoint(path.split("/")):
            source = (root / path).read_bytes()
            if source and BEGIN not in source:
                parts[part_of(path, len(source))].append(bytes([BEGIN]) + source)
    for part, documents in parts.items():
        if not documents:
            raise NomulError(f"{root}: no *.py files for the part '{part}' of the corpus; use a "
                             f"Python with its full standard library, sources and tests")
    version = ".".join(map(str, sys.version_info[:3]))
    return Corpus(python=version, **{part: np.frombuffer(b"".join(documents), dtype=np.uint8)
                                     for part, documents in parts.items()})


def export_corpus(corpus: Corpus, folder: Path) -> None:
    """Writes ``PART.bin.xz`` for each part and ``manifest.json``: to train elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in _PARTS:
        packed = lzma.compress(getattr(corpus, part).tobytes(), preset=6)
        (folder / f"{part}.bin.xz").write_bytes(packed)
    (folder / "manifest.json").write_text(json.dumps(corpus.manifest(), indent=1) + "\n")


def load_corpus(folder: Path) -> Corpus:
    """Reads what :func:`export_corpus` wrote and checks it against its manifest.

    Raises
    ------
    NomulError
        If the folder is empty, unreadable, or not what its manifest says.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        parts = {part: np.frombuffer(lzma.decompress((folder / f"{part}.bin.xz").read_bytes()),
                                     dtype=np.uint8) for part in _PARTS}
        corpus = Corpus(python=manifest["python"], **parts)
    except (OSError, ValueError, KeyError, TypeError, lzma.LZMAError) as error:
        raise NomulError(f"{folder}: not an exported corpus ({error}); make it with "
                         f"'python -m nomul.train.data FOLDER'") from error
    if corpus.manifest() != manifest:
        raise NomulError(f"{folder}: its files do not match manifest.json; export the corpus again")
    return corpus


def _main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m nomul.train.data FOLDER   (exports the corpus)", file=sys.stderr)
        return 2
    corpus = standard_library()
    export_corpus(corpus, Path(arguments[0]))
    print(json.dumps(corpus.manifest(), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
