"""A file as a stream of UTF-8 bytes: decompressed, transcoded, in pieces, however large it is.

Compression is known by a file's first bytes, never by its name. Bytes that are not valid in the stated encoding stay
invalid in the stream, so that the row that holds them is rejected and nothing is altered in silence.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import pyarrow as pa

from sft_data.sources.settings import Limits

__all__ = ["PIECE", "Compression", "Damage", "Text", "compression_of", "encoding_of", "read_pieces"]

Compression = Literal["none", "gzip", "zstd", "bz2", "xz"]

PIECE = 2 * 2**20  # bytes handed on at a time: large enough for fast decoding, small beside a shard
_FREE_INFLATION = 64 * 2**20  # a compressed file may always grow to this: a small file of equal rows is no bomb
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


def compression_of(head: bytes) -> Compression:
    """Read from the first bytes of a file."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "none")


def encoding_of(sample: bytes) -> str:
    """The encoding of a text by its first megabyte: marks, then the zero bytes of UTF-16, then validity.

    A text with some invalid bytes is still UTF-8 (those rows are rejected); it is GB18030 only where UTF-8 fails on
    a fifth of its non-ASCII bytes (of Chinese text in GB18030 it fails on about half) and GB18030 on none.

    >>> encoding_of("你好，世界".encode("gb18030")), encoding_of("naïve".encode())
    ('gb18030', 'utf-8')
    """
    for mark, name in _MARKS.items():
        if sample.startswith(mark):
            return name
    zeros = (sample[0::2].count(0), sample[1::2].count(0))
    if max(zeros) * 5 > len(sample):  # ASCII punctuation in UTF-16: many zeros, all on one side
        return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    foreign = len(sample) - len(sample.translate(None, bytes(range(128, 256))))
    kept = len(sample.decode("utf-8", "ignore").encode())
    if foreign and (len(sample) - kept) * 5 > foreign and _decodes(sample, "gb18030"):
        return "gb18030"
    return "utf-8"


def _decodes(sample: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)("strict").decode(sample)
    except UnicodeDecodeError:
        return False
    return True


def read_pieces(path: Path, text: Text, limits: Limits, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """UTF-8 pieces of about PIECE bytes (`start`, `end`: of a plain file). Raises Damage behind the last good one."""
    if text.compression == "none":
        pieces = _plain(path, start, end)
    else:
        size = path.stat().st_size
        pieces = _inflated(path, text.compression, max(_FREE_INFLATION, size * limits.max_inflation))
    if text.encoding == "utf-8":
        return pieces
    return _transcoded(pieces, text.encoding)


def _plain(path: Path, start: int, end: int | None) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as stream:
        stream.seek(start)
        left = (path.stat().st_size if end is None else end) - start
        while left > 0 and (piece := stream.read(min(PIECE, left))):
            left -= len(piece)
            yield piece


def _inflated(path: Path, compression: Compression, limit: int) -> Iterator[bytes]:
    total, held = 0, bytearray()
    damage = None
    with closing(_open(path, compression)) as stream:
        while True:
            try:
                piece = getattr(stream, "read1", stream.read)(PIECE)
            except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, ValueError) as error:
                damage = Damage("unreadable-file", f"{compression} data is damaged behind byte {total}: {error}")
                break
            total += len(piece)
            held += piece
            if total > limit:
                damage = Damage("file-too-large", f"grows to more than {limit} bytes when decompressed (max_inflation)")
                break
            if len(held) >= PIECE or not piece:
                yield bytes(held)
                held.clear()
            if not piece:
                return
    yield bytes(held)
    raise damage


def _open(path: Path, compression: Compression) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile | IO[bytes]:
    if compression == "gzip":
        return gzip.open(path, "rb")
    if compression == "bz2":
        return bz2.open(path, "rb")
    if compression == "xz":
        return lzma.open(path, "rb")
    # pyarrow reports a truncated frame; zstandard's reader ends without a word.
    stream: IO[bytes] = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
    return stream


def _mark_invalid(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udcff", error.end


codecs.register_error("sft-data-invalid", _mark_invalid)


def _transcoded(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """UTF-8 of `pieces`; what is invalid in `encoding` becomes a lone surrogate, which no JSON reader accepts."""
    decoder = codecs.getincrementaldecoder(encoding)("sft-data-invalid")
    for piece in pieces:
        yield decoder.decode(piece).encode("utf-8", "surrogatepass")
    yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")
