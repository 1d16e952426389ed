# SPDX-License-Identifier: Apache-2.0
"""What yosys leaves on the table on ECP5: four passes over its JSON netlist, before placement.

``fold_output_registers``
    A register that does nothing but follow a block RAM becomes the RAM's own output register: clock
    to output falls from 5.6 ns to less than 1 ns.
``fold_products``
    A register that does nothing but follow a multiplier becomes the multiplier's output register:
    the way from the one to the other, which can be across the chip, is gone.
``fold_operands``
    A LUT that only prepares an operand of an adder (inverts it, gates it, or both) moves into the
    adder's own LUT, which has inputs to spare.
``repack_carries``
    nextpnr starts each carry chain with a cell that makes the carry-in and ends it with one that
    brings the carry out, needed or not. A chain begins here with a slot that makes the constant
    carry, and its last carry is left open.

None changes what a circuit does; ``tests/build`` proves that with yosys on the simulation models of
the cells. Hardware descriptions stay plain and simulate as they are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any

__all__ = ["optimise"]

Bit = int | str
Cell = dict[str, Any]

#: LUT of an adder's slot: A ^ B ^ C, with D tied to 1; below it, what it generates: A.
_ADDER = 0x96AA


class _Netlist:
    """A flat module, indexed by the readers and the driver of each net."""

    def __init__(self, module: Cell) -> None:
        self.module = module
        self.cells: dict[str, Cell] = module["cells"]
        self.next_bit = 1 + max(
            (bit for _, bits in self._connections() for bit in bits if isinstance(bit, int)),
            default=1)
        self.index()

    def _connections(self) -> Iterator[tuple[tuple[str, str, str], list[Bit]]]:
        for name, port in self.module["ports"].items():
            way = "input" if port["direction"] == "output" else "output"
            yield ("", name, way), port["bits"]
        for name, cell in self.cells.items():
            for port, bits in cell["connections"].items():
                yield (name, port, cell["port_directions"][port]), bits

    def index(self) -> None:
        """Brings :attr:`readers` and :attr:`driver` up to date."""
        self.readers: dict[Bit, list[tuple[str, str]]] = defaultdict(list)
        self.driver: dict[Bit, tuple[str, str]] = {}
        for (name, port, way), bits in self._connections():
            for bit in bits:
                if isinstance(bit, int):
                    if way == "input":
                        self.readers[bit].append((name, port))
                    else:
                        self.driver[bit] = (name, port)

    def new_bit(self) -> int:
        self.next_bit += 1
        return self.next_bit - 1

    def of_type(self, kind: str) -> list[tuple[str, Cell]]:
        return [(name, cell) for name, cell in self.cells.items() if cell["type"] == kind]

    def bit(self, cell: Cell, port: str) -> Bit | None:
        bits = cell["connections"].get(port, [])
        return bits[0] if bits else None


def _number(parameter: str | int) -> int:
    return int(parameter, 2) if isinstance(parameter, str) else parameter


def _fold_output_registers(net: _Netlist) -> int:
    folded = 0
    for _, ram in net.of_type("DP16KD"):
        wide = _number(ram["parameters"]["DATA_WIDTH_A"]) == 36  # both sides make one read port
        for sides in ("AB",) if wide else ("A", "B"):
            if any(ram["parameters"][f"REGMODE_{side}"] != "NOREG" for side in sides):
                continue
            clocks = {net.bit(ram, f"CLK{side}") for side in sides} - {"0"}  # a ROM's other side
            ports = [f"DO{side}{k}" for side in sides for k in range(18)]
            read = {port: net.readers[bit] for port in ports
                    if (bit := net.bit(ram, port)) is not None and net.readers[bit]}
            registers = {port: net.cells.get(readers[0][0]) for port, readers in read.items()
                         if len(readers) == 1 and readers[0][1] in ("DI", "M")}
            if not read or registers.keys() != read.keys() or len(clocks) > 1:
                continue
            enables = {None if ff is None else _enable(net, ff, *clocks)
                       for ff in registers.values()}
            if len(enables) > 1 or None in enables:
                continue
            for side in sides:
                ram["parameters"][f"REGMODE_{side}"] = "OUTREG"
                ram["connections"][f"CLK{side}"] = [*clocks]
                ram["connections"][f"OCE{side}"] = [*enables]
            for port, readers in read.items():
                ff = net.cells.pop(readers[0][0])
                ram["connections"][port] = ff["connections"]["Q"]
                folded += 1
    net.index()
    return folded


def _fold_products(net: _Netlist) -> int:
    folded = 0
    for _, cell in net.of_type("MULT18X18D"):
        wires = cell["connections"]
        read = {pin: readers for pin in (f"P{k}" for k in range(36))
                if (bit := net.bit(cell, pin)) is not None and (readers := net.readers[bit])}
        registers = {pin: net.cells[readers[0][0]] for pin, readers in read.items()
                     if len(readers) == 1 and readers[0][1] == "DI"}
        if not read or registers.keys() != read.keys() or "REG_OUTPUT_CLK" in cell["parameters"]:
            continue
        controls = {(clock := net.bit(ff, "CLK"), _enable(net, ff, clock))
                    for ff in registers.values()}
        clock, enable = controls.pop()
        if controls or enable is None:
            continue
        cell["parameters"] |= {
            "REG_OUTPUT_CLK": "CLK0", "REG_OUTPUT_CE": "CE0", "REG_OUTPUT_RST": "RST0"}
        control = {"CLK0": clock, "CE0": enable, "RST0": "0"}
        wires |= {pin: [bit] for pin, bit in control.items()}
        cell["port_directions"] |= dict.fromkeys(control, "input")
        for pin, readers in read.items():
            wires[pin] = net.cells.pop(readers[0][0])["connections"]["Q"]
            folded += 1
    net.index()
    return folded


def _enable(net: _Netlist, cell: Cell, clock: Bit | None) -> Bit | None:
    """What enables a flip-flop on ``clock`` that is never reset and 0 at start; None if it is no such one."""
    if cell["type"] != "TRELLIS_FF" or net.bit(cell, "CLK") != clock:
        return None
    parameters = cell["parameters"]
    mux = parameters.get("CEMUX", "1").strip()
    enable = net.bit(cell, "CE") if mux == "CE" else "1" if mux == "1" else None
    never_reset = net.bit(cell, "LSR") in (None, "0")
    rising = parameters.get("CLKMUX", "CLK") == "CLK"
    plain = never_reset and rising and parameters.get("REGSET", "RESET") == "RESET"
    return enable if plain else None


def _lut_function(net: _Netlist, lut: Cell) -> tuple[list[int], dict[tuple[int, ...], int]]:
    """Nets that a LUT4 reads, and its value for each combination of them."""
    init = _number(lut["parameters"]["INIT"])
    pins = [net.bit(lut, pin) for pin in "ABCD"]
    inputs = sorted({pin for pin in pins if isinstance(pin, int)})
    table = {}
    for k in range(1 << len(inputs)):
        values: dict[Bit | None, int] = {"1": 1}
        values |= {bit: k >> i & 1 for i, bit in enumerate(inputs)}
        index = sum(values.get(pin, 0) << i for i, pin in enumerate(pins))
        table[tuple(k >> i & 1 for i in range(len(inputs)))] = init >> index & 1
    return inputs, table


def _fold_operand(net: _Netlist, adder: Cell, slot: int) -> bool:
    """Moves the LUT before an operand of one slot into the slot, if it fits."""
    if (_number(adder["parameters"][f"INIT{slot}"]) != _ADDER
            or net.bit(adder, f"C{slot}") != "0" or net.bit(adder, f"D{slot}") != "1"):
        return False
    for operand, other in (("B", "A"), ("A", "B")):
        bit = net.bit(adder, f"{operand}{slot}")
        name, _ = net.driver.get(bit, ("", "")) if bit is not None else ("", "")
        lut = net.cells.get(name)
        if lut is None or lut["type"] != "LUT4":
            continue
        inputs, table = _lut_function(net, lut)
        for order in permutations(range(len(inputs))):
            # Sum = A ^ f(B, C, D). The slot generates A, from the same four LUT bits that hold the
            # sum for C = D = 0; so f must be 0 there, or D is 1 and f has two inputs.
            if len(inputs) == 2:
                def f(b: int, c: int, d: int, o: Any = order, t: Any = table) -> int:
                    return t[(b, c) if o == (0, 1) else (c, b)] if d else 0
            elif len(inputs) == 3:
                def f(b: int, c: int, d: int, o: Any = order, t: Any = table) -> int:
                    values = [0, 0, 0]
                    for place, value in zip(o, (b, c, d), strict=True):
                        values[place] = value
                    return int(t[tuple(values)])
            else:
                return False
            if f(0, 0, 0) or f(1, 0, 0):
                continue
            init = sum((k & 1 ^ f(k >> 1 & 1, k >> 2 & 1, k >> 3 & 1)) << k for k in range(16))
            pins: list[Bit] = [inputs[place] for place in order]
            if len(inputs) == 2:
                pins.append("1")
            kept = net.bit(adder, f"{other}{slot}")
            adder["parameters"][f"INIT{slot}"] = f"{init:016b}"
            for pin, source in zip("ABCD", [kept, *pins], strict=True):
                adder["connections"][f"{pin}{slot}"] = [source]
            return True
    return False


def _fold_operands(net: _Netlist) -> int:
    folded = sum(_fold_operand(net, adder, slot)
                 for _, adder in net.of_type("CCU2C") for slot in (0, 1))
    net.index()
    for name, lut in net.of_type("LUT4"):
        if not net.readers[net.bit(lut, "Z")]:  # type: ignore[index]
            del net.cells[name]
    net.index()
    return folded


@dataclass
class _Slot:
    """One bit of a carry chain."""

    init: int
    pins: list[Bit]
    total: Bit | None

    def carries(self, carry: int) -> int | None:
        """The generate LUT (two inputs) that makes this slot's carry from a constant carry-in."""
        if any(pin not in ("0", "1") for pin in self.pins[2:]):
            return None
        high = sum((pin == "1") << k for k, pin in enumerate(self.pins[2:], start=2))
        table = 0
        for k in range(4):
            propagates = self.init >> (high | k) & 1
            table |= (carry if propagates else self.init >> k & 1) << k
        return table


def _chains(net: _Netlist) -> list[list[str]]:
    """Carry chains, each from its first cell on; not those with carries that logic reads."""
    chains = []
    for name, cell in net.of_type("CCU2C"):
        before, _ = net.driver.get(net.bit(cell, "CIN") or "", ("", ""))
        if before and net.cells[before]["type"] == "CCU2C":
            continue
        chain = [name]
        while True:
            readers = net.readers[net.bit(net.cells[chain[-1]], "COUT") or "none"]
            if len(readers) != 1 or readers[0][1] != "CIN":
                break
            chain.append(readers[0][0])
        plain = all(net.cells[name]["parameters"][f"INJECT1_{k}"] == "NO"
                    for name in chain for k in (0, 1))
        if not readers and plain:
            chains.append(chain)
    return chains


def _repack_carries(net: _Netlist) -> int:
    saved = 0
    for chain in _chains(net):
        slots = []
        for name in chain:
            cell = net.cells[name]
            for k in (0, 1):
                total = net.bit(cell, f"S{k}")
                slots.append(_Slot(
                    _number(cell["parameters"][f"INIT{k}"]),
                    [net.bit(cell, f"{pin}{k}") or "0" for pin in "ABCD"],
                    total if total is not None and net.readers[total] else None))
        while slots and slots[-1].total is None:
            slots.pop()
        carry_in = net.bit(net.cells[chain[0]], "CIN") or "0"
        lut: Cell | None = None
        if not slots:
            pass
        elif carry_in not in ("0", "1"):
            slots.insert(0, _Slot(0x000A, [carry_in, "0", "0", "1"], None))
        else:
            first = slots[0]
            table = first.carries(int(carry_in))
            if table is not None and (first.total is None or len(slots) % 2 == 0):
                if first.total is not None:  # its sum, from a LUT of its own
                    init = first.init ^ (0xFFFF if carry_in == "1" else 0)
                    lut = {
                        "hide_name": 1, "type": "LUT4", "attributes": {},
                        "parameters": {"INIT": f"{init:016b}"},
                        "port_directions": dict.fromkeys("ABCD", "input") | {"Z": "output"},
                        "connections": {p: [b] for p, b in zip("ABCD", first.pins, strict=True)}
                        | {"Z": [first.total]},
                    }
                slots[0] = _Slot(table, [*first.pins[:2], "0", "1"], None)
            else:
                make = 0x000F if carry_in == "1" else 0
                slots.insert(0, _Slot(make, ["0", "0", "0", "1"], None))
        if len(slots) % 2:
            slots.append(_Slot(0, ["0", "0", "0", "1"], None))
        saved += 2 * len(chain) - len(slots) - (lut is not None)

        for name in chain:
            del net.cells[name]
        if lut is not None:
            net.cells[f"{chain[0]}_BIT0"] = lut
        carry: Bit | None = None
        for k in range(0, len(slots), 2):
            # nextpnr wants every port to be there. "x" leaves it open; a net on COUT, though
            # nobody reads it, would cost a cell that brings it out.
            connections: dict[str, list[Bit]] = {
                "CIN": ["x"], "S0": [net.new_bit()], "S1": [net.new_bit()], "COUT": ["x"]}
            for half, slot in enumerate(slots[k:k + 2]):
                connections |= {f"{pin}{half}": [bit]
                                for pin, bit in zip("ABCD", slot.pins, strict=True)}
                if slot.total is not None:
                    connections[f"S{half}"] = [slot.total]
            if carry is not None:
                connections["CIN"] = [carry]
            if k + 2 < len(slots):
                carry = net.new_bit()
                connections["COUT"] = [carry]
            net.cells[f"{chain[0]}_CHAIN{k // 2}"] = {
                "hide_name": 1, "type": "CCU2C", "attributes": {},
                "parameters": {
                    "INIT0": f"{slots[k].init:016b}", "INIT1": f"{slots[k + 1].init:016b}",
                    "INJECT1_0": "NO", "INJECT1_1": "NO"},
                "port_directions": {port: "output" if port in ("S0", "S1", "COUT") else "input"
                                    for port in connections},
                "connections": connections,
            }
    net.index()
    return saved


def optimise(design: dict[str, Any]) -> Counter[str]:
    """Runs the passes on the top module of a flattened JSON netlist, in place.

    Returns
    -------
    Counter
        ``registers`` folded into block RAMs, those of ``products`` into multipliers, ``operands``
        folded into adders, ``slots`` of carry chains saved (before nextpnr would have added its
        own).
    """
    top = next(module for module in design["modules"].values()
               if _number(module["attributes"].get("top", 0)))
    net = _Netlist(top)
    return Counter(
        registers=_fold_output_registers(net),
        products=_fold_products(net),
        operands=_fold_operands(net),
        slots=_repack_carries(net),
    )
