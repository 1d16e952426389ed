# SPDX-License-Identifier: Apache-2.0
"""Geometry, number formats, checkpoints, packing and the compiler: NumPy only, imports nothing of ours."""
