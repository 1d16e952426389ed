# SPDX-License-Identifier: Apache-2.0
"""The trained models that ship: a folder each, with its card."""
