# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="valid-type"
"""What a core shows to the rest of the chip: tokens in, tokens out, one byte-wide memory bus."""

from amaranth.hdl import unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.model.protocol import ADDRESS_BITS, TOKEN_BITS

from .ports import TokensLayout

__all__ = ["ERROR_BITS", "BusSignature", "CorePorts"]

ERROR_BITS = 8  #: of a core's ``error``


class BusSignature(wiring.Signature):
    """Byte-wide access to every region of the memory image and to status, seen from the memory.

    One access is outstanding at a time. ``address`` (and ``write_data``) hold from the strobe until
    ``done``.

    Members
    -------
    address : ``In(32)``
        With bit 31, a byte's place in external memory. Else bits 30:24 are the region
        (:class:`nomul.model.protocol.Region`), the rest a byte offset in it.
    write, read : ``In(1)``
        Strobes of one cycle, never both.
    write_data : ``In(8)``
    read_data : ``Out(8)``
        Valid in the cycle of ``done``.
    done : ``Out(1)``
        One cycle, one or more cycles after each strobe, for writes too.
    error : ``Out(1)``
        In the cycle of ``done``: nothing answers at this address.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "address": In(ADDRESS_BITS),
                "write": In(1),
                "write_data": In(8),
                "read": In(1),
                "read_data": Out(8),
                "done": Out(1),
                "error": Out(1),
            }
        )


class CorePorts(wiring.Signature):
    """The ports of a core, seen from the core.

    Parameters
    ----------
    lanes : int

    Members
    -------
    token_i : ``In(stream.Signature(TokensLayout(lanes)))``
        A token for every lane.
    token_o : ``Out(stream.Signature(ArrayLayout(16, lanes)))``
        The arg-max of each lane's logits: one result for each taken from ``token_i``, in order.
        Aborted tokens give none.
    error : ``Out(8)``
        With ``token_o``: why the tokens failed (:class:`nomul.model.protocol.Fault`), 0 if they did
        not. After a failure the results mean nothing, and state is undefined until a ``fresh`` token.
    bus : ``Out(BusSignature())``
        Memory access from outside; used only while ``busy`` is low.
    abort : ``In(1)``
        Held high until ``busy`` falls: the token in progress is given up. State is undefined until
        a ``fresh`` token.
    busy : ``Out(1)``
        From the cycle after a token is taken until everything about it is done, logits readable.
    """

    def __init__(self, *, lanes: int = 1) -> None:
        super().__init__(
            {
                "token_i": In(stream.Signature(TokensLayout(lanes))),
                "token_o": Out(stream.Signature(data.ArrayLayout(unsigned(TOKEN_BITS), lanes))),
                "error": Out(ERROR_BITS),
                "bus": Out(BusSignature()),
                "abort": In(1),
                "busy": Out(1),
            }
        )
