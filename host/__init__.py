# SPDX-License-Identifier: Apache-2.0
"""The driver, its transports and the command line."""
