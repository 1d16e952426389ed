# SPDX-License-Identifier: Apache-2.0
"""The core that streams its model from external memory."""

from .core import StreamedCore

__all__ = ["StreamedCore"]
