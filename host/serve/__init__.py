# SPDX-License-Identifier: Apache-2.0
"""The HTTP server: the OpenAI API over the lanes of a board."""
