"""A file as a stream of UTF-8 bytes: decompressed, transcoded, in pieces, however large it is.

Compression is known by a file's first bytes, never by its name. Bytes that are not valid in the stated encoding stay
invalid in the stream, so that the row that holds them is rejected and nothing is altered in silence.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Literal

import pyarrow as pa

from sft_data.sources.inside import open_member
from sft_data.sources.settings import Limits

__all__ = [
    "PIECE",
    "Compression",
    "Damage",
    "Text",
    "compression_of",
    "encoding_of",
    "inflation_limit",
    "read_pieces",
    "unpacked",
]

Compression = Literal["none", "gzip", "zstd", "bz2", "xz"]

PIECE = 4 * 2**20  # bytes handed on at a time: large enough for fast decoding, small beside a shard
_FREE_INFLATION = 64 * 2**20  # a compressed file may always grow to this: a small file of equal rows is no bomb
_HELD = 64 * 2**20  # bytes of an unpacked table that stay in memory
_MAGIC: dict[bytes, Compression] = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
}
_MARKS = {  # byte order marks, longest first
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


BROKEN = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    pa.ArrowException,
    zipfile.BadZipFile,
    tarfile.TarError,
    LookupError,  # a member that the archive's own list names but that is not there
    RuntimeError,  # a member that needs a password
    NotImplementedError,  # a member compressed in a way that nobody knows
    ValueError,  # names and numbers of a damaged archive
    struct.error,
    OverflowError,
)


class Damage(Exception):  # noqa: N818 - not an error of the program: the reader turns it into a rejection
    """The rest of a file cannot be read: wrong or truncated compression, or a decompression bomb."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail
        super().__init__(detail)


@dataclass(frozen=True)
class Text:
    """How the text in a file is stored."""

    compression: Compression
    encoding: str  # a codec name; "utf-8-sig" where a mark must be skipped
    archive: Literal["none", "zip", "tar"] = "none"
    member: str = ""  # of the archive; it is read where it lies and never written to disk


def compression_of(head: bytes) -> Compression:
    """Read from the first bytes of a file."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "none")


def encoding_of(sample: bytes) -> str:
    """The encoding of a text by its first megabyte: marks, then the zero bytes of UTF-16, then validity.

    A text with some invalid bytes is still UTF-8 (those rows are rejected); it is GB18030 only where UTF-8 fails on
    a fifth of the non-ASCII bytes (of Chinese in GB18030 it fails on about half) and the text is Chinese in GB18030.

    >>> encoding_of("你好，世界".encode("gb18030")), encoding_of("naïve".encode())
    ('gb18030', 'utf-8')
    """
    for mark, name in _MARKS.items():
        if sample.startswith(mark):
            return name
    zeros = (sample[0::2].count(0), sample[1::2].count(0))
    # ASCII punctuation in UTF-16: many zeros, all on one side, from the beginning. A full disk leaves them on both.
    if 0 in sample[:4] and max(zeros) * 5 > len(sample) and min(zeros) * 4 < max(zeros):
        return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    foreign = len(sample) - len(sample.translate(None, bytes(range(128, 256))))
    kept = len(sample.decode("utf-8", "ignore").encode())
    if foreign and (len(sample) - kept) * 5 > foreign and _is_chinese(sample):
        return "gb18030"
    return "utf-8"


def _is_chinese(sample: bytes) -> bool:
    """Whether a sample is valid GB18030 and nearly all its characters are of the common set, GB 2312."""
    try:
        text = codecs.getincrementaldecoder("gb18030")("strict").decode(sample)
    except UnicodeDecodeError:
        return False
    foreign = [character for character in text if character > "\x7f"]
    common = len("".join(foreign).encode("gb2312", "ignore")) // 2
    return common >= 4 and common >= len(foreign) * 0.8


def read_pieces(path: Path, text: Text, limits: Limits, start: int = 0, end: int | None = None) -> Generator[bytes]:
    """UTF-8 pieces of about PIECE bytes (`start`, `end`: of a plain file). Raises Damage behind the last good one."""
    if text.compression == "none" and text.archive == "none":
        pieces = _plain(path, start, end)
    else:
        pieces = _inflated(path, text, limits)
    if text.encoding == "utf-8":
        return pieces
    return _transcoded(pieces, text.encoding)


def _plain(path: Path, start: int, end: int | None) -> Generator[bytes]:
    with path.open("rb", buffering=0) as stream:
        stream.seek(start)
        left = (path.stat().st_size if end is None else end) - start
        while left > 0 and (piece := stream.read(min(PIECE, left))):
            left -= len(piece)
            yield piece


def inflation_limit(size: int, limits: Limits) -> int:
    """Bytes to which a compressed file of `size` bytes may grow before it is called a bomb."""
    return max(_FREE_INFLATION, size * limits.max_inflation)


@contextmanager
def unpacked(path: Path, text: Text, limits: Limits) -> Generator[IO[bytes]]:
    """A compressed table, or one in an archive, which must be read from its end: held in memory while it is small,
    else in a file without a name that is gone when it is closed. Raises Damage beyond `limits.max_unpacked_bytes`.
    """
    total = 0
    with SpooledTemporaryFile(max_size=_HELD) as copy:
        for piece in _inflated(path, text, limits):
            total += len(piece)
            if total > limits.max_unpacked_bytes:
                raise Damage("file-too-large", f"more than {limits.max_unpacked_bytes} bytes (max_unpacked_bytes)")
            copy.write(piece)
        copy.seek(0)
        yield copy


def _inflated(path: Path, text: Text, limits: Limits) -> Generator[bytes]:
    kind = text.archive if text.compression == "none" else text.compression
    limit = inflation_limit(path.stat().st_size, limits)
    total, held = 0, bytearray()
    with ExitStack() as stack:
        try:
            stream = _open(path, text, limits, stack)
            while piece := getattr(stream, "read1", stream.read)(PIECE):
                total += len(piece)
                held += piece
                if total > limit:
                    raise Damage("file-too-large", f"grows to more than {limit} bytes when unpacked (max_inflation)")
                if len(held) >= PIECE:
                    yield bytes(held)
                    held.clear()
        except BROKEN as error:
            damage = Damage("unreadable-file", f"{kind} data is damaged behind byte {total}: {error}")
        except Damage as error:
            damage = error
        else:
            yield bytes(held)
            return
    yield bytes(held)
    raise damage


def _open(path: Path, text: Text, limits: Limits, stack: ExitStack) -> IO[bytes]:
    """The bytes of a file or of a member of an archive, decompressed."""
    raw: IO[bytes]
    if text.archive != "none":
        limit = inflation_limit(path.stat().st_size, limits)
        raw = stack.enter_context(open_member(path, text.archive, text.member, limit))
    else:
        raw = stack.enter_context(path.open("rb"))
    return stack.enter_context(_decompressed(raw, text.compression)) if text.compression != "none" else raw


def _decompressed(raw: IO[bytes], compression: Compression) -> IO[bytes]:
    stream: Any
    if compression == "gzip":
        stream = gzip.GzipFile(fileobj=raw, mode="rb")
    elif compression == "bz2":
        stream = bz2.BZ2File(raw)
    elif compression == "xz":
        stream = lzma.LZMAFile(raw)  # noqa: SIM115 - the caller's stack is its context
    else:  # pyarrow reports a truncated frame; zstandard's reader ends without a word
        stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
    opened: IO[bytes] = stream
    return opened


def _mark_invalid(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udcff", error.end


codecs.register_error("sft-data-invalid", _mark_invalid)


def _transcoded(pieces: Iterator[bytes], encoding: str) -> Generator[bytes]:
    """UTF-8 of `pieces`; what is invalid in `encoding` becomes a lone surrogate, which no JSON reader accepts."""
    decoder = codecs.getincrementaldecoder(encoding)("sft-data-invalid")
    for piece in pieces:
        yield decoder.decode(piece).encode("utf-8", "surrogatepass")
    yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")
