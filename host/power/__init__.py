# SPDX-License-Identifier: Apache-2.0
"""Power meters, their samples over time, and the energy of tokens.

.. code-block:: python

    meter = open_meter("hwmon:ina226")
    with record(meter) as recorder:
        ...  # idle, work with a time.monotonic() for each token, idle
    report = measure(meter, recorder.trace(), begin=begin, tokens=stamps,
                     idle_before=(t0, t1), idle_after=(t2, t3))

A new kind of meter has the attributes and methods of :class:`Meter`, and a line in :mod:`.kinds`.
"""

from .csv_log import CsvLog
from .energy import EnergyReport, measure, token_energies
from .kinds import KINDS, open_meter
from .live import Live
from .meter import Meter, Unreadable
from .recorder import LogRecorder, Recorder, record
from .trace import Gap, Trace

__all__ = ["KINDS", "CsvLog", "EnergyReport", "Gap", "Live", "LogRecorder", "Meter", "Recorder", "Trace", "Unreadable",
           "measure", "open_meter", "record", "token_energies"]  # fmt: skip
