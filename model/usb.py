# SPDX-License-Identifier: Apache-2.0
"""By which a chip that is a USB device itself is known."""

__all__ = ["USB_IDS"]

#: ``vendor:product``: pid.codes' test ids, to be replaced in what is sold.
USB_IDS = "1209:0001"
