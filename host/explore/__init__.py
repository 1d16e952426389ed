# SPDX-License-Identifier: Apache-2.0
"""Sweeps over configurations and long regressions, as jobs in Dask: see ``docs/explore.md``."""
