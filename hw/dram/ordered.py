# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""A front end for LiteDRAM's controller that serves one port strictly in order, and looks ahead over banks.

LiteDRAM's crossbar keeps a port at one bank until all its accesses there are done, because data come back in
the order in which banks are served: at every change of bank the next row is opened only then. Here commands go
to their bank's queue as soon as it has room, so that rows are opened early; what keeps the order is that only
the bank whose turn it is may issue reads and writes. Imported by :mod:`nomul.hw.dram.litex` alone.
"""

from functools import reduce
from operator import or_

from litedram.common import LiteDRAMInterface, LiteDRAMNativePort, cmd_request_rw_layout
from litedram.core.bankmachine import BankMachine
from litedram.core.multiplexer import Multiplexer
from litedram.dfii import DFIInjector
from litedram.phy import dfi as dfi_bus
from litex.soc.interconnect import stream
from litex.soc.interconnect.csr import AutoCSR
from migen import Array, Cat, If, Module, Signal, log2_int

__all__ = ["OrderedCore"]

_TURNS = 32  # words on their way to the pins


class _Turn(Module):
    """A bank machine whose reads and writes wait for its turn; the rest of its commands does not."""

    def __init__(self, machine, turn):
        self.refresh_req = machine.refresh_req
        self.refresh_gnt = machine.refresh_gnt
        self.cmd = cmd = stream.Endpoint(cmd_request_rw_layout(len(machine.cmd.a), len(machine.cmd.ba)))
        may = Signal()
        self.comb += [
            may.eq(turn | ~(machine.cmd.is_read | machine.cmd.is_write)),
            machine.cmd.connect(cmd, omit={"valid", "ready"}),
            cmd.valid.eq(machine.cmd.valid & may),
            machine.cmd.ready.eq(cmd.ready & may),
        ]


class OrderedCore(Module, AutoCSR):
    """Controller with one native port, in place of ``LiteDRAMCore``.

    Attributes
    ----------
    port : LiteDRAMNativePort
        Reads and writes are done in the order of their commands. ``wdata`` is taken when the controller wants
        it and has to be there by then: a write command comes after its data.
    """

    def __init__(self, phy, geom_settings, timing_settings, clk_freq, controller_settings):
        settings = controller_settings
        settings.phy, settings.geom, settings.timing = phy.settings, geom_settings, timing_settings
        nphases, banks = phy.settings.nphases, 2**geom_settings.bankbits
        beats = {"SDR": nphases, "DDR3": 8}[phy.settings.memtype]
        align = log2_int(beats)

        self.submodules.dfii = DFIInjector(
            addressbits=geom_settings.addressbits,
            bankbits=geom_settings.bankbits,
            nranks=1,
            databits=phy.settings.dfi_databits,
            nphases=nphases,
        )
        self.comb += self.dfii.master.connect(phy.dfi)
        dfi = dfi_bus.Interface(
            geom_settings.addressbits, geom_settings.bankbits, 1, phy.settings.dfi_databits, nphases
        )
        self.comb += dfi.connect(self.dfii.slave)

        self.submodules.refresher = settings.refresh_cls(
            settings,
            clk_freq=clk_freq,
            zqcs_freq=settings.refresh_zqcs_freq,
            postponing=settings.refresh_postponing,
        )
        interface = LiteDRAMInterface(align, settings)
        turn = Signal(banks)
        machines, turns = [], []
        for n in range(banks):
            machine = BankMachine(
                n,
                address_width=interface.address_width,
                address_align=align,
                nranks=1,
                settings=settings,
            )
            gate = _Turn(machine, turn[n])
            self.submodules += machine, gate
            machines.append(machine)
            turns.append(gate)
        self.submodules.multiplexer = Multiplexer(
            settings=settings,
            bank_machines=turns,
            refresher=self.refresher,
            dfi=dfi,
            interface=interface,
        )

        # Row, bank, column, from above: a linear stream changes banks with rows.
        column_bits = geom_settings.colbits - align
        self.port = port = LiteDRAMNativePort(
            mode="both",
            address_width=interface.address_width + geom_settings.bankbits,
            data_width=interface.data_width,
        )
        bank = port.get_bank_address(geom_settings.bankbits, column_bits)
        address = port.get_row_column_address(
            geom_settings.bankbits, interface.address_width, column_bits
        )

        # Whose turn it is, a bank number for every word that was asked for and not yet served.
        order = stream.SyncFIFO([("bank", geom_settings.bankbits)], _TURNS)
        self.submodules.order = order
        ready = Array(machine.req.ready for machine in machines)[bank]
        self.comb += [
            port.cmd.ready.eq(ready & order.sink.ready),
            order.sink.valid.eq(port.cmd.valid & ready),
            order.sink.bank.eq(bank),
            If(order.source.valid, turn.eq(1 << order.source.bank)),
        ]
        for n, machine in enumerate(machines):
            self.comb += [
                machine.req.valid.eq(port.cmd.valid & order.sink.ready & (bank == n)),
                machine.req.we.eq(port.cmd.we),
                machine.req.addr.eq(address),
            ]
        writes = reduce(or_, (machine.req.wdata_ready for machine in machines))
        reads = reduce(or_, (machine.req.rdata_valid for machine in machines))
        self.comb += order.source.ready.eq(writes | reads)

        # Data come and go so much later; a cycle more because commands are registered on their way to the PHY.
        write_later = Signal(phy.settings.write_latency + 1)
        read_later = Signal(phy.settings.read_latency + 1)
        self.sync += [
            write_later.eq(_shifted(write_later, writes)),
            read_later.eq(_shifted(read_later, reads)),
        ]
        self.comb += [
            port.wdata.ready.eq(write_later[-1]),
            If(write_later[-1], interface.wdata.eq(port.wdata.data), interface.wdata_we.eq(port.wdata.we)),
            port.rdata.valid.eq(read_later[-1]),
            port.rdata.data.eq(interface.rdata),
        ]


def _shifted(register, bit):
    """``register`` with ``bit`` coming in below."""
    return Cat(bit, register)[: len(register)]
