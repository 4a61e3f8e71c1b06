"""Units -> groups of them that are read as one piece of work.

Five thousand files of ten rows each would be five thousand cells in every step of a build, each with a folder, a
record and a few milliseconds of its own. So small neighbours are read together. Where a group ends follows from the
names and sizes of its own files: a file that comes in between, or goes, moves the ends up to the next name that ends
a group by itself, and all groups behind it stay what they were.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from sft_data.sources.units import Unit

__all__ = ["grouped"]

SMALL = 2**20  # bytes from which on a unit is enough work for a cell
GROUP_BYTES = 8 * 2**20  # bytes that a group holds at most: some ten thousand rows
GROUP_UNITS = 1024  # units that a group holds at most, empty ones too
ENDS = 256  # one name in so many ends a group


def grouped(units: Iterable[Unit]) -> Iterator[tuple[Unit, ...]]:
    """All units, in their order, the small ones in groups."""
    group: list[Unit] = []
    size = 0
    for unit in units:
        if group and (unit.size >= SMALL or size + unit.size > GROUP_BYTES or len(group) == GROUP_UNITS):
            yield tuple(group)
            group, size = [], 0
        group.append(unit)
        size += unit.size
        if unit.size >= SMALL or zlib.crc32(unit.name.encode()) % ENDS == 0:
            yield tuple(group)
            group, size = [], 0
    if group:
        yield tuple(group)
