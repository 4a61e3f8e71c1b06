"""Files that only the holder of a key can read: AES-256-GCM, a MiB at a time.

A sealed file is `SFTSEAL1`, 32 bytes that stand for the content, then the chunks, each with its tag. The 32 bytes are
an HMAC of the content's hash under the store's key, and the file's own key is derived from them. So equal files seal
to equal bytes (a file of two versions is stored once, and no random number decides a byte), different files never
share a key and a nonce, and who has no key learns nothing but sizes and which files are equal. A chunk's nonce holds
its number and whether it is the last one: chunks cut off, added or swapped do not open.
"""

from __future__ import annotations

import hmac
import os
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from sft_data.errors import MissingExtraError, StoreError
from sft_data.fingerprint import file_sha256

__all__ = ["CIPHER", "KEY_FILE", "Key", "given_key", "new_key_file", "seal_file", "unseal_file"]

CIPHER = "AES-256-GCM"
KEY = "SFT_DATA_KEY"
KEY_FILE = "SFT_DATA_KEY_FILE"
MAGIC = b"SFTSEAL1"
CHUNK = 1 << 20
TAG = 16


@dataclass(frozen=True)
class Key:
    """A store's secret. It is shown nowhere; `id` is what manifests and messages call it."""

    secret: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """16 hex digits that tell keys apart and tell nothing of the key."""
        return self.derive(b"id")[:8].hex()

    def derive(self, use: bytes) -> bytes:
        """A key for one use only."""
        return hmac.digest(self.secret, b"sft-data " + use, "sha256")


def given_key() -> Key | None:
    """The key in $SFT_DATA_KEY or in the file that --key-file names; None where there is neither."""
    text, path = os.environ.get(KEY), os.environ.get(KEY_FILE)
    if path:
        try:
            return _parsed(Path(path).read_bytes(), path)
        except OSError as error:
            raise StoreError(f"the key file {path} cannot be read: {error.strerror}") from error
    return _parsed(text.encode(), f"${KEY}") if text else None


def _parsed(raw: bytes, where: str) -> Key:
    try:
        secret = raw if len(raw) == 32 else bytes.fromhex(raw.decode("ascii").strip())
    except ValueError:
        secret = b""
    if len(secret) != 32:
        # Nothing of what was found is told: it may be most of a key.
        raise StoreError(f"{where} holds no key: a key is 64 hex digits; `sft-data key FILE` makes a new one")
    return Key(secret)


def new_key_file(path: Path) -> Key:
    """Write a new key that only this user can read; StoreError where the file is there already."""
    key = Key(secrets.token_bytes(32))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise StoreError(f"{path} is there already; a key that is written over opens nothing any more") from None
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(key.secret.hex() + "\n")
    return key


def seal_file(source: Path, target: Path, key: Key) -> str:
    """Write `source` sealed; returns the hash of the sealed bytes."""
    mark = hmac.digest(key.derive(b"content"), bytes.fromhex(file_sha256(source)), "sha256")
    cipher, head = _cipher(key, mark), MAGIC + mark
    digest = sha256(head)
    with source.open("rb") as plain, target.open("wb") as out:
        out.write(head)
        number, chunk = 0, plain.read(CHUNK)
        while True:
            following = plain.read(CHUNK)
            sealed = cipher.encrypt(_nonce(number, last=not following), chunk, head)
            digest.update(sealed)
            out.write(sealed)
            if not following:
                return digest.hexdigest()
            number, chunk = number + 1, following


def unseal_file(source: Path, target: Path, key: Key) -> None:
    """Write the content of a sealed file; StoreError where it is none, was changed, or the key is another one."""
    with source.open("rb") as sealed, target.open("wb") as out:
        head = sealed.read(len(MAGIC) + 32)
        if head[: len(MAGIC)] != MAGIC or len(head) != len(MAGIC) + 32:
            raise StoreError(f"{source.name} is not a sealed file")
        _open_chunks(sealed, out, _cipher(key, head[len(MAGIC) :]), head, source.name)


def _open_chunks(sealed: BinaryIO, out: BinaryIO, cipher: Any, head: bytes, name: str) -> None:  # noqa: ANN401
    from cryptography.exceptions import InvalidTag

    number, chunk = 0, sealed.read(CHUNK + TAG)
    while True:
        following = sealed.read(CHUNK + TAG)
        try:
            out.write(cipher.decrypt(_nonce(number, last=not following), chunk, head))
        except InvalidTag:
            raise StoreError(f"{name} does not open: it was changed, or it was sealed with another key") from None
        if not following:
            return
        number, chunk = number + 1, following


def _cipher(key: Key, mark: bytes) -> Any:  # noqa: ANN401  # the library is optional
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise MissingExtraError("a sealed store", "encryption") from None
    return AESGCM(key.derive(b"file " + mark))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
