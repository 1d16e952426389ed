# SPDX-License-Identifier: Apache-2.0
"""A larger corpus: the sources of installed packages beside the standard library's.

Which packages is said by a file of ``name==version`` lines; their sources are found by the metadata that
pip leaves. A file goes in unless it

* is empty, holds a byte 0x00 or is no UTF-8, is larger than :data:`LIMIT`, or holds a marker of the
  tokenizer (``<s>``, ``</s>``);
* is, byte for byte, one that is in already;
* resembles a held-out document: of their distinct lines (stripped, at least :data:`LINE` characters, and in
  at most :data:`COMMON` files of the packages) at least :data:`SHARED` are the same, or at least
  :data:`SHARE` of either's.

The last rule holds for the standard library's training parts too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import numpy as np

from nomul.model.errors import NomulError
from nomul.model.tokenizer import BEGIN

from .data import Corpus, standard_library

__all__ = ["COMMON", "LIMIT", "LINE", "SHARE", "SHARED", "Resemblance", "export_packages", "load_parts",
           "read_packages"]  # fmt: skip

LIMIT = 256 * 1024  #: Largest file, bytes.
LINE = 16  #: Characters of a line that counts when files are compared.
COMMON = 20  #: Files of the packages that may have a line before it counts as nobody's own.
SHARED = 15  #: Lines in common that make two files alike, however long they are.
SHARE = 0.2  #: Share of lines in common that makes them alike.
_MARKERS = (b"<s>", b"</s>")
_SHARD = 32 << 20  # bytes of text in a compressed file


def _lines(source: bytes) -> set[bytes]:
    return {line for line in map(bytes.strip, source.splitlines()) if len(line) >= LINE}


class Resemblance:
    """Whether a file is (nearly) a held-out document.

    Parameters
    ----------
    held_out : sequence of bytes
        Documents.
    common : set of bytes
        Lines that do not count.
    """

    def __init__(self, held_out: Sequence[bytes], common: set[bytes]):
        self._sizes: list[int] = []
        self._of_line: dict[bytes, list[int]] = {}
        self._common = common
        for number, document in enumerate(held_out):
            lines = _lines(document) - common
            self._sizes.append(len(lines))
            for line in lines:
                self._of_line.setdefault(line, []).append(number)
        self._known = set(self._of_line)

    def __call__(self, source: bytes) -> bool:
        lines = _lines(source)
        hits = Counter(n for line in lines & self._known for n in self._of_line[line])
        own = len(lines - self._common) if hits else 0
        return any(count >= SHARED or count >= SHARE * min(own, self._sizes[n])
                   for n, count in hits.items() if count >= 3)


@dataclass(frozen=True, kw_only=True)
class Package:
    """The sources of one package that went in."""

    name: str
    version: str
    licence: str
    sources: tuple[bytes, ...]

    def manifest(self) -> dict[str, Any]:
        """Name, version, licence, files, bytes, and the SHA-256 of the sources in the order of their paths."""
        return {"name": self.name, "version": self.version, "licence": self.licence, "files": len(self.sources),
                "bytes": sum(map(len, self.sources)), "sha256": hashlib.sha256(b"\0".join(self.sources)).hexdigest()}


def _licence(found: Distribution) -> str:
    def field(name: str) -> list[str]:
        return list(found.metadata.get_all(name) or [])

    classifiers = [c.rpartition(" :: ")[2] for c in field("Classifier") if c.startswith("License ::")]
    text = "".join(field("License-Expression")) or ", ".join(classifiers) or "".join(field("License")) or "unknown"
    return text.strip().split("\n")[0][:80]


def _wanted(listing: Path) -> dict[str, str]:
    """Versions by name, from lines ``name==version``."""
    try:
        lines = [line.partition("#")[0].strip() for line in listing.read_text().splitlines()]
    except OSError as error:
        raise NomulError(f"{listing}: {error.strerror}; give a file of lines name==version") from None
    except UnicodeDecodeError:
        raise NomulError(f"{listing}: is no text; give a file of lines name==version") from None
    wanted = {}
    for line in filter(None, lines):
        name, equals, version = line.partition("==")
        if not equals or not version:
            raise NomulError(f"{listing}: {line!r} must be name==version")
        wanted[name.lower().replace("_", "-")] = version
    if not wanted:
        raise NomulError(f"{listing}: names no package; give lines name==version")
    return wanted


def _sources(found: Distribution) -> list[bytes]:
    if found.files is None:
        raise NomulError(f"{found.metadata['Name']}: its list of files is missing; install it with pip")
    sources = []
    for path in sorted(found.files, key=str):
        if path.suffix == ".py" and "node_modules" not in path.parts:
            try:
                source = path.read_binary()
                source.decode()
            except (OSError, UnicodeDecodeError):
                continue
            if 0 < len(source) <= LIMIT and BEGIN not in source and not any(m in source for m in _MARKERS):
                sources.append(source)
    return sources


def read_packages(listing: Path, folders: Sequence[Path], held_out: Iterable[bytes]) -> tuple[
    list[Package], dict[str, int], Resemblance
]:  # fmt: skip
    """Reads the packages of a list, without copies of each other and of what is held out.

    Parameters
    ----------
    listing : Path
        Lines ``name==version``.
    folders : sequence of Path
        Where pip installed them.
    held_out : iterable of bytes
        Documents that nothing may resemble.

    Returns
    -------
    packages : list of Package
        In the order of their names.
    left_out : dict of str to int
        Files that were left out: ``"copies"``, ``"like held-out"``.
    resemblance : Resemblance
        What decided the latter.

    Raises
    ------
    NomulError
        If a package or its version is not there.
    """
    wanted = _wanted(listing)
    found: dict[str, Distribution] = {}
    for each in distributions(path=[str(folder) for folder in folders]):
        found.setdefault((each.metadata["Name"] or "").lower().replace("_", "-"), each)
    for name, version in wanted.items():
        if name not in found or found[name].version != version:
            there = found[name].version if name in found else "nothing"
            raise NomulError(f"{listing}: {name}=={version} is not installed ({there} is); "
                             f"pip install --no-deps --target FOLDER -r {listing}")
    with ThreadPoolExecutor() as pool:
        read = dict(zip(sorted(wanted), pool.map(lambda n: _sources(found[n]), sorted(wanted)), strict=True))
    counts: Counter[bytes] = Counter()
    documents = list(held_out)
    lines_of_held_out = set().union(*map(_lines, documents)) if documents else set()
    for sources in read.values():
        for source in sources:
            counts.update(_lines(source) & lines_of_held_out)
    alike = Resemblance(documents, {line for line, count in counts.items() if count > COMMON})
    seen: set[bytes] = set()
    left_out = {"copies": 0, "like held-out": 0}
    packages = []
    for name, sources in read.items():
        kept = []
        for source in sources:
            digest = hashlib.sha256(source).digest()
            if digest in seen:
                left_out["copies"] += 1
            elif alike(source):
                left_out["like held-out"] += 1
            else:
                kept.append(source)
            seen.add(digest)
        packages.append(Package(name=name, version=found[name].version, licence=_licence(found[name]),
                                sources=tuple(kept)))
    return packages, left_out, alike


def _texts(documents: Iterable[np.ndarray]) -> list[bytes]:
    return [document.tobytes()[1:] for document in documents]


def _joined(documents: Iterable[bytes]) -> bytes:
    return b"".join(bytes([BEGIN]) + document for document in documents)


def _part(documents: Sequence[bytes]) -> dict[str, Any]:
    text = _joined(documents)
    return {"documents": len(documents), "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}


def _packed(text: bytes) -> bytes:
    return lzma.compress(text, preset=6)


def export_packages(corpus: Corpus, listing: Path, folders: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Writes ``PART-NN.bin.xz`` of the four parts and ``manifest.json``; returns the manifest.

    The parts are ``packages``, ``library``, ``tests`` and ``held_out``; the last is the standard library's as it is.

    Raises
    ------
    NomulError
        If the list cannot be read, or a package or its version is not there.
    """
    held_out = _texts(corpus.documents("held_out"))
    packages, left_out, alike = read_packages(listing, folders, held_out)
    parts = {"packages": [source for package in packages for source in package.sources]}
    left_out["like held-out, standard library"] = 0
    for name in ("library", "tests"):
        documents = _texts(corpus.documents(name))
        parts[name] = [d for d in documents if not (alike(d) or any(m in d for m in _MARKERS) or _undecodable(d))]
        left_out["like held-out, standard library"] += sum(map(alike, documents))
    parts["held_out"] = held_out
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[tuple[Path, bytes]] = []
    for name, documents in parts.items():
        text = _joined(documents)
        shards += [(folder / f"{name}-{number:02}.bin.xz", text[start : start + _SHARD])
                   for number, start in enumerate(range(0, len(text), _SHARD))]
    with ThreadPoolExecutor() as pool:
        for (path, _), packed in zip(shards, pool.map(lambda s: _packed(s[1]), shards), strict=True):
            path.write_bytes(packed)
    manifest = {
        "source": f"CPython {corpus.python} standard library and {len(packages)} packages, *.py",
        "python": corpus.python, "parts": {name: _part(documents) for name, documents in parts.items()},
        "files_left_out": left_out, "packages": [package.manifest() for package in packages],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def _undecodable(source: bytes) -> bool:
    try:
        source.decode()
    except UnicodeDecodeError:
        return True
    return False


def load_parts(folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Texts by part, each document behind a byte 0x00, and the manifest that they were checked against.

    Raises
    ------
    NomulError
        If the folder is empty, unreadable, or not what its manifest says.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        digests = {name: part["sha256"] for name, part in manifest["parts"].items()}
        files = {name: sorted(folder.glob(f"{name}-*.bin.xz")) for name in digests}
        with ThreadPoolExecutor() as pool:
            texts = {name: b"".join(pool.map(lambda path: lzma.decompress(path.read_bytes()), paths))
                     for name, paths in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, lzma.LZMAError) as error:
        line = " ".join(str(error).split())
        raise NomulError(f"{folder}: no corpus can be read ({line}); make it with "
                         f"'python -m nomul.train.packages'") from None
    for name, text in texts.items():
        if hashlib.sha256(text).hexdigest() != digests[name]:
            raise NomulError(f"{folder}: part {name!r} does not match manifest.json; make the corpus again")
    return texts, manifest


def _main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m nomul.train.packages", description="Makes a corpus.")
    parser.add_argument("listing", type=Path, help="file of name==version lines")
    parser.add_argument("--installed", type=Path, action="append", required=True, metavar="FOLDER",
                        help="where pip installed them; repeatable")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    given = parser.parse_args(arguments)
    try:
        manifest = export_packages(standard_library(), given.listing, given.installed, given.out)
    except NomulError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({k: manifest[k] for k in ("source", "parts", "files_left_out")}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
