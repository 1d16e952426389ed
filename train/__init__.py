# SPDX-License-Identifier: Apache-2.0
"""Training: the architecture in PyTorch and the recipe (optional extra: torch)."""
