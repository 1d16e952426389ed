# SPDX-License-Identifier: Apache-2.0
"""The command processor: takes requests from a byte stream, acts on the core, answers."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from nomul.model.protocol import (
    CRC_RESIDUE,
    FEED_BACK,
    HEADER_BYTES,
    LANE_BYTES,
    MAX_DATA,
    MAX_ENTRIES,
    MAX_FRAME,
    RESPONSE,
    SLOT_BITS,
    TOKEN_BITS,
    VERSION,
    Command,
    Identity,
    JobState,
    LaneFlag,
    Statistics,
    Status,
    max_steps,
    polled_steps,
)

from ..core_ports import CorePorts
from .crc import Crc32
from .rows import RowChecker
from .runner import JobRunner
from .slip import FrameByte, SlipDecoder, SlipEncoder

__all__ = ["Link"]


class Link(wiring.Component):
    """Everything between a byte stream and a core; the protocol is docs/link.md.

    One request is taken, acted on and answered before the next byte is looked at (``rx`` waits
    meanwhile). Jobs run on beside that. :meth:`cycles` is the latency.

    Parameters
    ----------
    identity : Identity
        What OPEN answers; it says how many lanes and slots the core has.

    Members
    -------
    rx : ``In(stream.Signature(8))``
        Bytes from the host.
    tx : ``Out(stream.Signature(8))``
        Bytes to the host.
    core : ``In(CorePorts(lanes=identity.lanes))``
        The core.
    busy : ``Out(1)``
        A request is acted on or answered, or a job runs. While it is low and ``rx`` idle, nothing
        ever changes but the count of cycles.
    failed : ``Out(1)``
        The last job failed.
    """

    def __init__(self, *, identity: Identity):
        if not isinstance(identity, Identity):
            raise TypeError(f"Link tells an Identity, not {identity!r}")
        self.identity = identity
        super().__init__(
            {
                "rx": In(stream.Signature(8)),
                "tx": Out(stream.Signature(8)),
                "core": In(CorePorts(lanes=identity.lanes)),
                "busy": Out(1),
                "failed": Out(1),
            }
        )

    @staticmethod
    def cycles(command: Command, count: int = 0, *, bus: int = 1) -> int:
        """Cycles from a request's last byte taken to the first byte of its response offered.

        Parameters
        ----------
        command : Command
        count : int
            Bytes of WRITE or CHECKSUM, lanes in all rows of JOB.
        bus : int
            Cycles from a strobe on the core's bus to ``done``.
        """
        work = {
            Command.WRITE: 2 + count * (2 + bus),
            Command.CHECKSUM: 1 + count * (2 + bus),
            Command.JOB: 4 + 4 * count,
        }
        return 6 + work.get(command, 0)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.decoder = decoder = SlipDecoder()
        m.submodules.encoder = encoder = SlipEncoder()
        m.submodules.crc = crc = Crc32()
        lanes, slots = self.identity.lanes, self.identity.slots
        m.submodules.runner = runner = JobRunner(lanes=lanes, slots=slots)
        m.submodules.checker = checker = RowChecker(lanes=lanes, slots=slots)
        # What is read while it is being written is read again before anybody looks at it.
        m.submodules.buffer = buffer = memory.Memory(
            shape=8, depth=1024, init=[], attrs={"no_rw_check": 1}
        )
        put, get = buffer.write_port(), buffer.read_port()
        bus = self.core.bus
        connect(m, flipped(self.rx), decoder.i)
        connect(m, encoder.o, flipped(self.tx))
        connect(m, runner.token_i, flipped(self.core.token_i))
        connect(m, flipped(self.core.token_o), runner.token_o)
        m.d.comb += [
            self.core.abort.eq(runner.abort),
            runner.busy.eq(self.core.busy),
            runner.error.eq(self.core.error),
            checker.commit.eq(runner.start),
            checker.spoil.eq(runner.spoil),
            self.failed.eq(runner.state == JobState.FAILED),
        ]
        clock = Signal(32)
        m.d.sync += clock.eq(clock + 1)

        # The request: header and first arguments in registers, everything in the buffer too.
        count = Signal(range(MAX_FRAME + 1))
        too_long, bad = Signal(), Signal()
        header = Signal(8 * HEADER_BYTES)
        kind, sequence, session = header[:8], header[8:24], header[24:40]
        words = Signal(48)  # the first six bytes of arguments
        address, length = words[:32], words[32:48]  # of WRITE, READ, CHECKSUM
        outside = address[-1]  # external memory, which has a port for the host beside the core's
        job = words[:16]  # of JOB, POLL, ABORT
        steps = since = words[16:32]  # of JOB; of POLL
        arguments = Signal(range(MAX_FRAME + 1))  # bytes of arguments
        data_bytes = Signal.like(arguments)  # behind the first four
        m.d.comb += data_bytes.eq(arguments - 4)
        command = kind[:4]

        # The session.
        open_session, latest = Signal(16), Signal(16)
        age = Signal(
            16
        )  # of the request: what follows the latest one is young, what precedes it old
        right_crc, known_session = Signal(), Signal()
        counters = {
            name: Signal(16, name=f"count_{name}") for name in Statistics.COUNTERS
        }

        def count_one(name: str) -> None:
            m.d.sync += counters[name].eq(counters[name] + 1)

        # The response: a byte in ``out`` waits for the encoder; ``free``: the next may go there.
        status = Signal(Status)
        at = Signal(range(Identity.SIZE))
        out, out_valid, free = Signal(FrameByte), Signal(), Signal()
        m.d.comb += [
            encoder.i.valid.eq(out_valid),
            encoder.i.payload.eq(out),
            free.eq(~out_valid | encoder.i.ready),
        ]
        with m.If(out_valid & encoder.i.ready):
            m.d.sync += out_valid.eq(0)

        def emit(byte: Value | int, *, last: Value | int = 0) -> None:
            """Inside ``m.If(free)``."""
            m.d.sync += [out_valid.eq(1), out.data.eq(byte), out.last.eq(last)]

        # Where the CRC takes its bytes from.
        byte = Signal(8)  # on its way between bus and frame
        receiving, summing = Signal(), Signal()
        m.d.comb += crc.byte.eq(
            Mux(receiving, decoder.o.payload.data, Mux(summing, byte, out.data))
        )

        m.d.comb += [
            put.addr.eq(count),
            put.data.eq(decoder.o.payload.data),
            bus.address.eq(address),
            bus.write_data.eq(byte),
        ]
        pointer = Signal(10)
        loaded = Signal(range(2 * MAX_ENTRIES + 1))  # words of rows: token; slot and flags
        feeds_back = Signal()
        low, fetched = Signal(8), Signal(8, reset_less=True)
        m.d.sync += fetched.eq(get.data)  # a block RAM is slow enough without logic behind it
        result = Signal(TOKEN_BITS)
        m.d.comb += [
            get.addr.eq(pointer),
            runner.new_job.eq(job),
            runner.new_steps.eq(steps),
            runner.new_rows.eq(checker.rows),
            runner.write_index.eq(loaded),
            runner.write_word.eq(Cat(low, fetched)),
            checker.feed_back.eq(feeds_back),
            checker.slot.eq(low),
            checker.active.eq((fetched & LaneFlag.ACTIVE).any()),
            checker.fresh.eq((fetched & LaneFlag.FRESH).any()),
        ]
        assert len(low) == SLOT_BITS
        if lanes == 1:
            m.d.comb += runner.read_index.eq(since)
        polled = Signal(range(polled_steps(lanes) + 1))
        polled_lane = Signal(range(max(2, lanes)))
        done = Signal.like(runner.done)  # as it was when the response began
        state, fault = Signal(JobState), Signal.like(runner.fault)

        def refuse(why: Status) -> None:
            m.d.sync += status.eq(why)

        m.d.comb += self.busy.eq(1)
        sending = Signal()  # out goes into the CRC as it leaves
        m.d.comb += sending.eq(1)
        with m.If(sending & out_valid & encoder.i.ready):
            m.d.comb += crc.step.eq(1)
        with m.FSM():
            with m.State("RECEIVE"):
                item = decoder.o.payload
                m.d.comb += [
                    self.busy.eq(runner.running | decoder.o.valid | out_valid | self.tx.valid),
                    decoder.o.ready.eq(1),
                    receiving.eq(1),
                    put.en.eq(decoder.o.valid & ~item.end),
                    crc.step.eq(decoder.o.valid & ~item.end),
                ]
                with m.If(decoder.o.valid & item.end):
                    m.d.sync += bad.eq(item.bad)
                    with m.If((count != 0) | item.bad):
                        m.next = "CHECK"
                with m.Elif(decoder.o.valid):
                    with m.If(count == MAX_FRAME):
                        m.d.sync += too_long.eq(1)
                    with m.Else():
                        m.d.sync += count.eq(count + 1)
                    with m.If(count < HEADER_BYTES):
                        m.d.sync += header.eq(Cat(header[8:], item.data))
                    with m.Switch(count):
                        for k in range(6):
                            with m.Case(HEADER_BYTES + k):
                                m.d.sync += words[8 * k : 8 * k + 8].eq(item.data)

            with m.State("CHECK"):
                m.d.sync += [
                    arguments.eq(count - (HEADER_BYTES + 4)),
                    too_long.eq(too_long | (count < HEADER_BYTES + 4)),
                    right_crc.eq(crc.register == CRC_RESIDUE),
                    known_session.eq((session == open_session) & (session != 0)),
                    age.eq(sequence - latest),
                    status.eq(Status.OK),
                    at.eq(0),
                ]
                m.d.comb += crc.clear.eq(1)
                m.next = "JUDGE"

            with m.State("JUDGE"):
                m.next = "DROP"
                with m.If(bad):
                    count_one("framing")
                with m.Elif(too_long):
                    count_one("length")
                with m.Elif(~right_crc):
                    count_one("crc")
                with m.Elif(kind & RESPONSE):
                    count_one("framing")
                with m.Elif(known_session & age[-1]):
                    count_one("stale")
                with m.Else():
                    count_one("ok")
                    m.next = "ACT"

            with m.State("DROP"):
                m.d.comb += crc.clear.eq(1)
                m.d.sync += [count.eq(0), too_long.eq(0)]
                m.next = "RECEIVE"

            with m.State("ACT"):
                # Most commands need no more than this cycle; what takes longer changes m.next.
                m.next = "HEADER"
                m.d.sync += [pointer.eq(HEADER_BYTES + 4), loaded.eq(0), polled.eq(0)]
                with m.If(kind[4:7] != VERSION):
                    refuse(Status.VERSION)
                with m.Elif((command == Command.OPEN) & (arguments == 0) & (session != 0)):
                    m.d.sync += [open_session.eq(session), latest.eq(sequence)]
                    m.d.comb += runner.forget.eq(~known_session)
                with m.Elif(command == Command.OPEN):
                    refuse(Mux(arguments == 0, Status.ARGUMENT, Status.LENGTH))
                with m.Elif(~known_session):
                    refuse(Status.SESSION)
                with m.Else():
                    m.d.sync += latest.eq(sequence)
                    with m.Switch(command):
                        with m.Case(Command.STATUS):
                            m.d.sync += address.eq(clock)
                            with m.If(arguments != 0):
                                refuse(Status.LENGTH)
                        with m.Case(Command.WRITE):
                            m.d.sync += length.eq(data_bytes)
                            with m.If((arguments < 5) | (arguments > 4 + MAX_DATA)):
                                refuse(Status.LENGTH)
                            with m.Elif(runner.running & ~outside):
                                refuse(Status.BUSY)
                            with m.Else():
                                m.next = "WRITE FETCH"
                        with m.Case(Command.READ, Command.CHECKSUM):
                            with m.If(arguments != 6):
                                refuse(Status.LENGTH)
                            with m.Elif(
                                (length == 0) | ((length > MAX_DATA) & (command == Command.READ))
                            ):
                                refuse(Status.ARGUMENT)
                            with m.Elif(runner.running & ~outside):
                                refuse(Status.BUSY)
                            with m.Elif(command == Command.CHECKSUM):
                                m.next = "BUS READ"
                        with m.Case(Command.JOB):
                            m.d.comb += checker.begin.eq(1)
                            m.d.sync += length.eq(data_bytes)
                            # No frame holds too many.
                            with m.If((arguments < 4 + LANE_BYTES) | arguments[:2].any()):
                                refuse(Status.LENGTH)
                            with m.Elif((job == 0) | (steps == 0) | (steps > max_steps(lanes))):
                                refuse(Status.ARGUMENT)
                            with m.Elif(
                                job != runner.job
                            ):  # else it runs or ran: say so again, do nothing
                                with m.If(runner.running):
                                    refuse(Status.BUSY)
                                with m.Else():
                                    m.next = "JOB FETCH"
                        with m.Case(Command.POLL):
                            m.d.sync += [
                                done.eq(runner.done), state.eq(runner.state), fault.eq(runner.fault),
                            ]
                            with m.If(arguments != 4):
                                refuse(Status.LENGTH)
                            with m.Elif((job != runner.job) | (job == 0)):
                                refuse(Status.JOB)
                        with m.Case(Command.ABORT):
                            with m.If(arguments != 2):
                                refuse(Status.LENGTH)
                            with m.Elif((job != runner.job) & (job != 0)):
                                refuse(Status.JOB)
                            with m.Else():
                                m.d.comb += runner.stop.eq(1)
                        with m.Default():
                            refuse(Status.COMMAND)

            # WRITE: from the buffer to the bus.
            with m.State("WRITE FETCH"):
                m.next = "WRITE READ"
            with m.State("WRITE READ"):
                m.next = "WRITE LOAD"
            with m.State("WRITE LOAD"):
                m.d.sync += [pointer.eq(pointer + 1), byte.eq(fetched)]
                m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += bus.write.eq(1)
                m.d.sync += length.eq(length - 1)
                m.next = "WRITE WAIT"
            with m.State("WRITE WAIT"), m.If(bus.done):
                m.d.sync += address.eq(address + 1)
                m.next = "WRITE LOAD"  # at its byte by now: the pointer moved two cycles ago
                with m.If(length == 0):
                    m.next = "HEADER"
                with m.If(bus.error):
                    refuse(Status.BUS)
                    m.next = "HEADER"

            # JOB: the rows into the runner's memory, a byte a cycle, then go.
            with m.State("JOB FETCH"):
                m.d.sync += pointer.eq(pointer + 1)
                m.next = "JOB READ"
            with m.State("JOB READ"):
                m.d.sync += pointer.eq(pointer + 1)
                m.next = "JOB LOW"
            with m.State("JOB LOW"):
                m.d.sync += [
                    pointer.eq(pointer + 1), length.eq(length - 1), low.eq(fetched),
                ]
                m.next = "JOB HIGH"
                with m.If(length == 0):
                    m.next = "JOB BEGIN"
            with m.State("JOB HIGH"):
                m.d.comb += [runner.write.eq(1), checker.valid.eq(loaded[0])]
                m.d.sync += [
                    pointer.eq(pointer + 1),
                    length.eq(length - 1),
                    loaded.eq(loaded + 1),
                    feeds_back.eq(Cat(low, fetched) == FEED_BACK),
                ]
                m.next = "JOB LOW"
            with m.State("JOB BEGIN"):
                m.next = "HEADER"
                with m.If(~checker.whole):
                    refuse(Status.LENGTH)
                with m.Elif(checker.impossible | (steps < checker.rows)):
                    refuse(Status.ARGUMENT)
                with m.Elif(checker.gone):
                    refuse(Status.STATE)
                with m.Else():
                    m.d.comb += runner.start.eq(1)

            # READ (inside its response) and CHECKSUM (before it): bytes from the bus.
            with m.State("BUS READ"):
                m.d.comb += bus.read.eq(1)
                m.next = "BUS WAIT"
            with m.State("BUS WAIT"):
                m.d.sync += byte.eq(bus.read_data)
                with m.If(bus.done):
                    m.next = "BUS BYTE"
                    with m.If(bus.error):
                        refuse(Status.BUS)
                        m.next = "STATUS"
                        with m.If(command == Command.CHECKSUM):
                            m.d.comb += crc.clear.eq(1)
                            m.next = "HEADER"
            with m.State("BUS BYTE"):
                m.d.comb += summing.eq(command == Command.CHECKSUM)
                with m.If(summing):
                    m.d.comb += crc.step.eq(1)
                with m.If(summing | free):
                    m.d.sync += [address.eq(address + 1), length.eq(length - 1)]
                    m.next = "BUS READ"
                    with m.If(~summing):
                        emit(byte)
                    with m.If(length == 1):
                        m.next = "STATUS"
                        with m.If(summing):
                            m.next = "SUMMED"
            with m.State("SUMMED"):
                m.d.comb += crc.clear.eq(1)
                m.d.sync += address.eq(crc.value)
                m.next = "HEADER"

            with m.State("HEADER"), m.If(free):
                if lanes > 1:
                    m.d.sync += runner.read_index.eq(since * lanes)
                with m.Switch(at):
                    for k, field in enumerate(
                        (
                            Cat(command, Const(VERSION, 3), Const(1, 1)),
                            sequence[:8],
                            sequence[8:],
                            open_session[:8],
                            open_session[8:],
                        )
                    ):
                        with m.Case(k):
                            emit(field)
                m.d.sync += at.eq(at + 1)
                with m.If(at == HEADER_BYTES - 1):
                    m.d.sync += at.eq(0)
                    m.next = "STATUS"
                    with m.If(status == Status.OK), m.Switch(command):
                        with m.Case(Command.READ):
                            m.next = "BUS READ"
                        with m.Case(
                            Command.OPEN, Command.STATUS, Command.CHECKSUM, Command.POLL
                        ):
                            m.next = "FIELDS"

            # Results of fixed size, a byte at a time.
            with m.State("FIELDS"):
                fields = {
                    Command.OPEN: Const(
                        int.from_bytes(self.identity.pack(), "little"), 8 * Identity.SIZE
                    ),
                    Command.STATUS: Cat(counters.values(), runner.fault, Const(0, 8), address),
                    Command.CHECKSUM: address,
                    Command.POLL: Cat(
                        state, Const(0, 8 - len(state)), fault, done, Const(0, 16 - len(done))
                    ),
                }
                with m.If(free):
                    m.d.sync += at.eq(at + 1)
                    with m.Switch(command):
                        for which, value in fields.items():
                            with m.Case(which):
                                emit(value.word_select(at, 8))
                                with m.If(at == len(value) // 8 - 1):
                                    m.next = "TOKEN READ" if which is Command.POLL else "STATUS"

            # POLL: arg-maxes.
            with m.State("TOKEN READ"):
                with m.If((polled_lane == 0) & ((since >= done) | (polled == polled_steps(lanes)))):
                    m.next = "STATUS"
                with m.Else():
                    m.d.comb += runner.read.eq(1)
                    with m.If(runner.granted):
                        m.d.sync += polled_lane.eq(polled_lane + 1)
                        if lanes > 1:
                            m.d.sync += runner.read_index.eq(runner.read_index + 1)
                        with m.If(polled_lane == lanes - 1):
                            m.d.sync += [
                                polled_lane.eq(0), since.eq(since + 1), polled.eq(polled + 1),
                            ]
                        m.next = "TOKEN WAIT"
            with m.State("TOKEN WAIT"):
                m.next = "TOKEN LATCH"
            with m.State("TOKEN LATCH"):
                m.d.sync += result.eq(runner.read_token)
                m.next = "TOKEN LOW"
            with m.State("TOKEN LOW"), m.If(free):
                emit(result[:8])
                m.next = "TOKEN HIGH"
            with m.State("TOKEN HIGH"), m.If(free):
                emit(result[8:])
                m.next = "TOKEN READ"

            with m.State("STATUS"), m.If(free):
                emit(status)
                m.d.sync += at.eq(0)
                m.next = "CRC"
            with m.State("CRC"):  # the byte before must have left for the CRC to be whole
                m.d.comb += sending.eq(at == 0)
                with m.If(~out_valid):
                    emit(crc.value[:8], last=at == 3)
                    m.d.comb += crc.shift.eq(1)
                    m.d.sync += at.eq(at + 1)
                    with m.If(at == 3):
                        m.next = "FLUSH"
            with m.State("FLUSH"):
                m.d.comb += sending.eq(0)
                with m.If(~out_valid):
                    m.next = "DROP"
        return m
