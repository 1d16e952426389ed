# SPDX-License-Identifier: Apache-2.0
"""``nomul bench``: speed, energy and memory traffic of a board and of this machine's CPU, as JSON and as a page.

:mod:`.targets` are what is measured, :mod:`.measure` how, :mod:`.traffic` what goes through the memory,
:mod:`.session` one run of all of it, :mod:`.document` its file, :mod:`.page` what is looked at and :mod:`.verify` the
check of a published file.
"""
