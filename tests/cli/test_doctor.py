# SPDX-License-Identifier: Apache-2.0
"""``nomul doctor --board``, with the simulated board; the checks themselves are tested in ``tests/link``."""

from __future__ import annotations

from outcome import Nomul


def test_the_simulated_board(nomul: Nomul):
    found = nomul("doctor", "--board", "sim", "--json")
    checks = {one["name"]: one for one in found.json["checks"]}
    assert all(checks[name]["ok"] for name in ("identity", "fabric clock", "known prompt")), checks
    assert "it is simulated, and its clock stands when it is idle" in checks["fabric clock"]["found"]
    assert checks["known prompt"]["found"] == "32 tokens after 'for line in f' equal golden's"
    assert "memory" not in checks


def test_a_board_without_a_bitstream(nomul: Nomul):
    shown = nomul("doctor", "--board", "ecpix", "--json")
    assert shown.status == 1
    (check,) = [one for one in shown.json["checks"] if one["name"] == "bitstream"]
    assert not check["ok"]
    assert check["found"] == "no board is called 'ecpix'; did you mean ecpix5-85f?"
