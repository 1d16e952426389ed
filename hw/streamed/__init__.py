# SPDX-License-Identifier: Apache-2.0
"""Units of a core whose weights come from external memory."""
