# SPDX-License-Identifier: Apache-2.0
"""The link: framed commands over a byte stream. The protocol is docs/link.md."""

from .link import Link

__all__ = ["Link"]
