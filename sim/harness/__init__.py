# SPDX-License-Identifier: Apache-2.0
"""What every testbench shares: stream drivers and monitors, packing from layouts, the simulator build."""
