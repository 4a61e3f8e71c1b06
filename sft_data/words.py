"""Eight bytes at a time, at any place: what lets compiled loops over text pass most of it without looking at bytes.

`load` and `store` are for use inside of kernels. They check no bounds: the caller knows that eight bytes are there.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic as _intrinsic

__all__ = ["HIGH", "holds", "leading", "letters", "load", "needs_escape", "store"]

intrinsic: Any = _intrinsic  # its own type says that it takes the arguments of the code generator

_LOW = np.uint64(0x0101010101010101)
HIGH = np.uint64(0x8080808080808080)
_SEVEN = np.uint64(0x7F7F7F7F7F7F7F7F)
_FROM_A = np.uint64(0x1F1F1F1F1F1F1F1F)  # what lifts "a" and all above it to 128
_BEHIND_Z = np.uint64(0x0505050505050505)
_SPACES = np.uint64(0x2020202020202020)
_QUOTES = np.uint64(0x2222222222222222)
_BACKSLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)


def _pointer(context, builder, kind, array, index):
    data = context.make_array(kind)(context, builder, array).data
    place = builder.gep(builder.bitcast(data, ir.IntType(8).as_pointer()), [index])
    return builder.bitcast(place, ir.IntType(64).as_pointer())


@intrinsic
def load(typing, array, index):
    """The eight bytes of an array of uint8 from `index` on, as one little-endian number."""
    del typing, index

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        return builder.load(pointer, align=1)

    return types.uint64(array, types.intp), generate


@intrinsic
def store(typing, array, index, word):
    """Put eight bytes into an array of uint8 from `index` on; gives the place behind them."""
    del typing, index, word

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], pointer, align=1)
        return builder.add(arguments[1], ir.Constant(arguments[1].type, 8))

    return types.intp(array, types.intp, types.uint64), generate


@intrinsic
def leading(typing, marks):
    """How many bytes of a word stand before the first whose high bit is set in `marks`: 0 to 8."""
    del typing

    def generate(context, builder, signature, arguments):
        del context, signature
        bits = builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))
        return builder.lshr(bits, ir.Constant(bits.type, 3))

    return types.int64(types.uint64), generate


@numba.njit(cache=True, nogil=True, inline="always")
def letters(word):
    """The high bit of each byte of `word` that is an ASCII letter, of either case."""
    low = (word | _SPACES) & _SEVEN
    return (low + _FROM_A) & ~(low + _BEHIND_Z) & ~word & HIGH


@numba.njit(cache=True, nogil=True, inline="always")
def holds(word, pattern):
    """Whether any byte of `word` is the one that `pattern` holds eight times.

    "Determine if a word has a zero byte" of Anderson's Bit Twiddling Hacks, on the difference.
    """
    other = word ^ pattern
    return ((other - _LOW) & ~other & HIGH) != 0


@numba.njit(cache=True, nogil=True, inline="always")
def needs_escape(word):
    """Whether any of the eight bytes is one that JSON escapes: a control character, a quote or a backslash."""
    quote, backslash = word ^ _QUOTES, word ^ _BACKSLASHES
    odd = ((quote - _LOW) & ~quote) | ((backslash - _LOW) & ~backslash) | ((word - _SPACES) & ~word)
    return (odd & HIGH) != 0
