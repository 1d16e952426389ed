# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="valid-type"
"""What a core shows to the rest of the chip: tokens in, tokens out, one byte-wide memory bus."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.model.protocol import ADDRESS_BITS, TOKEN_BITS

__all__ = ["BusSignature", "CorePorts", "TokenIn"]


class TokenIn(data.Struct):
    """One token to process. ``reset`` clears the recurrent state before it."""

    token: TOKEN_BITS
    reset: 1


class BusSignature(wiring.Signature):
    """Byte-wide access to every region of the memory image and to status, seen from the memory.

    One access is outstanding at a time. ``address`` (and ``write_data``) hold from the strobe until
    ``done``.

    Members
    -------
    address : ``In(28)``
        Bits 27:24 are the region (:class:`nomul.model.protocol.Region`), the rest a byte offset in
        it.
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

    Members
    -------
    token_i : ``In(stream.Signature(TokenIn))``
        Tokens to process.
    token_o : ``Out(stream.Signature(16))``
        The arg-max of the logits after each processed token: one per token taken, in order. Aborted
        tokens give none.
    bus : ``Out(BusSignature())``
        Memory access from outside; used only while ``busy`` is low.
    abort : ``In(1)``
        Held high until ``busy`` falls: the token in progress is given up. State is undefined until
        a ``reset`` token.
    busy : ``Out(1)``
        From the cycle after a token is taken until everything about it is done, logits readable.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "token_i": In(stream.Signature(TokenIn)),
                "token_o": Out(stream.Signature(TOKEN_BITS)),
                "bus": Out(BusSignature()),
                "abort": In(1),
                "busy": Out(1),
            }
        )
