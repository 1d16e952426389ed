# SPDX-License-Identifier: Apache-2.0
"""Released bitstreams, each with the manifest from which it is made again; see README.md."""
