# SPDX-License-Identifier: Apache-2.0
"""Memory parts, with the timings of their data sheets."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["AS4C32M16SB_7", "IS42S16160G_7", "MT41K64M16_125", "MT41K256M16_125", "DramPart", "Time"]


@dataclass(frozen=True)
class Time:
    """The greater of ``clocks`` of the part and ``ns``."""

    clocks: int = 0
    ns: float = 0.0


@dataclass(frozen=True, kw_only=True)
class DramPart:
    """A memory part: geometry, and the timings that a controller keeps.

    Attributes
    ----------
    name : str
    kind : str
        ``"SDR"`` or ``"DDR3"``.
    banks, rows, columns : int
        Powers of two.
    data_bits : int
        Data pins.
    litedram : str
        Class of :mod:`litedram.modules` for the part, for comparisons: its timings are not used otherwise.
    t_refi_ns : float
        Average distance of refreshes.
    t_rp, t_rcd, t_wr, t_rfc, t_ras, t_rrd, t_wtr, t_ccd : Time
    t_faw, t_zqcs : Time or None
        Of DDR3.
    """

    name: str
    kind: str
    banks: int
    rows: int
    columns: int
    data_bits: int
    litedram: str
    t_refi_ns: float
    t_rp: Time
    t_rcd: Time
    t_wr: Time
    t_rfc: Time
    t_ras: Time
    t_rrd: Time
    t_wtr: Time
    t_ccd: Time
    t_faw: Time | None = None
    t_zqcs: Time | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("SDR", "DDR3"):
            raise ValueError(f"DramPart {self.name}: kind is {self.kind!r}; SDR or DDR3")
        for field in ("banks", "rows", "columns"):
            value = getattr(self, field)
            if value < 2 or value & value - 1:
                raise ValueError(f"DramPart {self.name}: {field} is {value}, not a power of two")
        if self.data_bits < 8 or self.data_bits % 8:
            raise ValueError(f"DramPart {self.name}: data_bits is {self.data_bits}, not whole bytes")

    @property
    def capacity(self) -> int:
        """Bytes."""
        return self.banks * self.rows * self.columns * self.data_bits // 8

    @property
    def beats(self) -> int:
        """Transfers that a column command makes at least: 8 of DDR3, 1 of SDR."""
        return 8 if self.kind == "DDR3" else 1


#: 4 Gb DDR3L, x16, at the timings of DDR3-1600 (-125): faster grades keep them too. Micron, "4Gb: x4, x8,
#: x16 DDR3L SDRAM", table of AC operating conditions; tRFC of 4 Gb is 260 ns, tRRD and tFAW are those of 2 KB pages.
MT41K256M16_125 = DramPart(
    name="MT41K256M16-125",
    kind="DDR3",
    banks=8,
    rows=1 << 15,
    columns=1 << 10,
    data_bits=16,
    litedram="MT41K256M16",
    t_refi_ns=7800,
    t_rp=Time(ns=13.75),
    t_rcd=Time(ns=13.75),
    t_wr=Time(ns=15),
    t_rfc=Time(ns=260),
    t_ras=Time(ns=35),
    t_rrd=Time(clocks=4, ns=7.5),
    t_wtr=Time(clocks=4, ns=7.5),
    t_ccd=Time(clocks=4),
    t_faw=Time(ns=40),
    t_zqcs=Time(clocks=64, ns=80),
)

#: 1 Gb DDR3L, x16, the same grade. Micron, "1Gb: x4, x8, x16 DDR3L SDRAM": of the timings here tRFC alone depends on
#: the size, 110 ns for 1 Gb; pages are 2 KB too.
MT41K64M16_125 = replace(
    MT41K256M16_125, name="MT41K64M16-125", rows=1 << 13, litedram="MT41K64M16", t_rfc=Time(ns=110)
)

#: 512 Mb SDR, x16, 143 MHz. Alliance Memory, AS4C32M16SB, rev. 1.0, table 16, -7. It is the slower of the
#: parts that the ULX3S came with: those of IS42S16160G-7 are within its timings, of half the size.
AS4C32M16SB_7 = DramPart(
    name="AS4C32M16SB-7",
    kind="SDR",
    banks=4,
    rows=1 << 13,
    columns=1 << 10,
    data_bits=16,
    litedram="AS4C32M16",
    t_refi_ns=7800,
    t_rp=Time(ns=21),
    t_rcd=Time(ns=21),
    t_wr=Time(ns=14),
    t_rfc=Time(ns=63),
    t_ras=Time(ns=42),
    t_rrd=Time(ns=14),
    t_wtr=Time(clocks=1),
    t_ccd=Time(clocks=1),
)

#: 256 Mb: the other's timings, rows of half the length.
IS42S16160G_7 = replace(AS4C32M16SB_7, name="IS42S16160G-7", columns=1 << 9, litedram="IS42S16160")
