# SPDX-License-Identifier: Apache-2.0
"""The golden model, the float reference, testbenches and the simulated board."""
