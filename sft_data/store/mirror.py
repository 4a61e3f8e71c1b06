"""A store at a URL, worked on through a folder of this machine.

What lies at the URL, none of it ever changed:

    store.json              the store's mark: its format, its id, and of a sealed store which key opens it
    log/00000001.json ...   the log, one file for each entry, each holding the hash of the one before it
    objects/<2 hex>/<hash>  the files of all versions, named by the hash of their bytes: equal files are there once

One entry of the log is one change of the store. It is written only where there is none of its number, so of two
publishers at once one takes the number and the other the next; `latest`, tags and version numbers are what the entries
say, read in their order. A version's files are there before its entry is: a reader sees the whole version or none, and
a publisher that was killed leaves objects that nobody names, which `gc` finds.

The mirror is an ordinary local store: log, manifests and references of all versions, and the other files of those that
were asked for, so that whatever maps files into memory finds them on the disk. Every file is checked against its hash
when it arrives.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from sft_data.errors import KeyNeededError, StoreError
from sft_data.fingerprint import file_sha256
from sft_data.store.layout import BUILD, LOG, MANIFEST, NAME, draft_folder, version_folder
from sft_data.store.log import chained, locked, now, read_log, unwritable, who
from sft_data.store.refs import Refs, read_refs, replace_file, write_refs
from sft_data.store.remote import Remote, open_remote
from sft_data.store.sealing import CIPHER, Key, given_key, seal_file, unseal_file

__all__ = ["MARK", "WHERE", "Mirror", "cache_root", "mirror_folder", "mirror_of", "object_name", "shown"]

MARK = "store.json"
WHERE = ".remote.json"  # in the mirror: which store it mirrors
FORMAT = 1
# What a publish that was cut short leaves is rubbish after a day: an upload of terabytes takes hours.
ABANDONED = 86_400.0

_HASH = re.compile(r"[0-9a-f]{64}").fullmatch
_DRAFT = re.compile(r"draft-[0-9a-f]{12}").fullmatch
Index = Mapping[str, str]  # path in the version -> name of the object that holds it
Decide = Callable[[Refs], dict[str, Any]]


def cache_root() -> Path:
    """Folder of mirrors and their step caches: $SFT_DATA_CACHE, else sft_data below the user's cache folder."""
    told = os.environ.get("SFT_DATA_CACHE")
    place = Path(told) if told else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sft_data"
    return place.absolute()


def mirror_folder(url: str) -> Path:
    """Where the store at `url` is mirrored; the last word of the URL is there for people."""
    word = "".join(c if c.isalnum() or c in "-_" else "-" for c in url.rstrip("/").rpartition("/")[2])[:40] or "store"
    return cache_root() / "stores" / f"{word}-{sha256(url.rstrip('/').encode()).hexdigest()[:16]}"


def mirror_of(store: Path) -> Mirror | None:
    """The mirror that the folder is; None for a store that is simply there."""
    try:
        url = str(orjson.loads((store / WHERE).read_bytes())["url"])
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return None
    # A folder from elsewhere cannot claim to be the mirror of some store.
    return Mirror(url, store) if mirror_folder(url) == store.absolute() else None


def shown(store: Path) -> str:
    """How to name a store in a message: by its URL where it has one."""
    mirror = mirror_of(store)
    return mirror.url if mirror else str(store)


@dataclass(frozen=True)
class Mirror:
    """The store at `url`, mirrored in `folder`."""

    url: str
    folder: Path

    @cached_property
    def remote(self) -> Remote:
        """The files at the URL."""
        return open_remote(self.url)

    def begin(self) -> None:
        """Make the store where there is none, sealed where a key is given; StoreError where there cannot be one."""
        if self._told() is None:
            key = given_key()
            sealed = {"sealed": {"cipher": CIPHER, "key": key.id}} if key else {}
            mark = orjson.dumps({"format": FORMAT, "id": uuid.uuid4().hex, "made": now(), "by": who(), **sealed})
            self.remote.create(MARK, mark)
            if self.remote.create(MARK, mark + b" "):
                raise StoreError(
                    f"{self.url} cannot hold a store: it writes over a file that is there although it is asked not to, "
                    "so two publishers at once would lose a version. S3, GCS and folders can; others: `sft-data export`"
                )
            self.sync()
        if self.key() is None and given_key() is not None:
            raise StoreError(
                f"{self.url} is not sealed, and a key is given: nothing is published there. "
                "Name a new place for a sealed store, or leave the key out"
            )

    def sync(self, *, contents: bool = True) -> None:
        """Bring log, references and, with `contents`, manifests up to date."""
        mark = self._told()
        with unwritable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(self.folder / ".mirror.lock"):
                self._forget_another(mark or {})
                self._follow(contents=contents)

    def record(self, what: str, name: str | None, decide: Decide) -> dict[str, Any]:
        """Add one entry to the log: `decide` is asked for its details, again whenever another was there first."""
        self.begin()
        while True:
            self.sync()
            lines = self._lines()
            refs = read_refs(self.folder, name) if name else Refs()
            line = chained(lines[-1] if lines else b"", what, decide(refs))
            if self.remote.create(_entry_name(len(lines) + 1), line):
                self.sync()
                return dict(orjson.loads(line))

    def publish(
        self, staging: Path, name: str, found: Callable[[], Path | None], details: dict[str, Any]
    ) -> tuple[Path, bool]:
        """Upload a staged version and name it in the log; `found` looks whether somebody published the same before.

        Returns the version's folder in the mirror, and whether it was there already.
        """
        self.begin()
        index = self._upload(staging)
        taken: list[Path] = []

        def decide(refs: Refs) -> dict[str, Any]:
            there = found()
            if there is not None:
                raise _AlreadyThereError(there)
            if details["what"] == "draft":
                folder = draft_folder(self.folder, name, details["fingerprint"])
                told: dict[str, Any] = {"draft": folder.name}
            else:
                folder = version_folder(self.folder, name, refs.newest + 1)
                told = {"number": refs.newest + 1}
            taken[:] = [folder]
            rest = {key: value for key, value in details.items() if key != "what"}
            return {"name": name, **told, **rest, "index": index}

        try:
            self.record(details["what"], name, decide)
        except _AlreadyThereError as there:
            return there.folder, True
        for path in sorted(p for p in staging.rglob("*") if p.is_file()):
            _link(path, taken[0] / path.relative_to(staging))
        return taken[0], False

    def fetch(self, folder: Path, only: Collection[str] | None = None) -> None:
        """Bring the files of a mirrored version here; `only` these, else all."""
        entry = self.entry_of(folder)
        if entry is None:
            return
        index = self.index(entry["index"])
        wanted = {p: name for p, name in index.items() if (only is None or p in only) and not (folder / p).exists()}
        here = self._here() if wanted else {}
        for path, name in wanted.items():
            if name in here:
                _link(here[name], folder / path)
            else:
                self.bring(name, folder / path)
        with suppress(OSError):
            os.utime(folder)  # `gc` asks when it was last used

    def _here(self) -> dict[str, Path]:
        """Objects whose content some mirrored version holds."""
        found: dict[str, Path] = {}
        for entry in self.entries():
            folder = self._folder(entry)
            found |= {n: folder / p for p, n in self.index(entry["index"]).items() if (folder / p).exists()}
        return found

    def entries(self) -> list[dict[str, Any]]:
        """The entries of versions and drafts that are there."""
        log = read_log(self.folder)
        there: dict[str, dict[str, Any]] = {}
        for entry in log:
            if "index" in entry:
                self._admit(entry)
                there[f"{entry['name']}@{entry.get('draft') or entry['number']}"] = entry
            for spec in entry.get("dropped", ()):
                there.pop(spec, None)
        return list(there.values())

    def _admit(self, entry: Mapping[str, Any]) -> None:
        """Names that come from elsewhere become paths here: they are checked first."""
        what, number, fingerprint = entry.get("what"), entry.get("number"), str(entry.get("fingerprint"))
        fits = (number is None) if what == "draft" else isinstance(number, int) and number > 0
        if not (fits and NAME.fullmatch(str(entry.get("name"))) and _HASH(fingerprint) and _HASH(str(entry["index"]))):
            raise StoreError(f"{self.url}: its log names a version in a way that this release does not write")

    def named(self, spec: str) -> dict[str, Any]:
        """The entry of the version that `spec` names, by the log alone: manifests may be sealed."""
        name, _, selector = spec.partition("@")
        mine = [entry for entry in self.entries() if entry["name"] == name]
        refs = read_refs(self.folder, name) if mine else Refs()
        number = refs.latest if selector in ("", "latest") else refs.tags.get(selector)
        for entry in mine:
            own = entry.get("draft") or f"v{entry['number']}"
            if own == selector or (number is not None and entry.get("number") == number):
                return entry
        fits = [entry for entry in mine if len(selector) >= 4 and entry["fingerprint"].startswith(selector)]
        if len(fits) == 1:
            return fits[0]
        known = ", ".join(f"{e['name']}@{e.get('draft') or 'v' + str(e['number'])}" for e in self.entries())
        raise StoreError(f"{self.url} has no version {spec!r}; it holds: {known or 'nothing'}")

    def garbage(self, days: float) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Drafts older than `days`, and the objects that nobody needs once those are gone, with their sizes."""
        limit = time.time() - days * 86_400
        entries = self.entries()
        old = [e for e in entries if e["what"] == "draft" and _seconds(e["at"]) < limit]
        kept = self._objects(e for e in entries if e not in old)
        gone = self._objects(old)
        # A draft that was made again keeps its objects by the younger entry; what is young may be a publish at work.
        found = {
            stored.name: stored.bytes
            for stored in self.remote.all_below("objects")
            if (name := stored.name.rpartition("/")[2]) not in kept
            and (name in gone or time.time() - stored.written > ABANDONED)
        }
        return old, found

    def drop(self, drafts: list[dict[str, Any]], objects: Collection[str], removed: int, size: int) -> None:
        """Remove what `garbage` found; the drafts leave the log's view first, so that nobody meets half of one."""
        names = [f"{entry['name']}@{entry['draft']}" for entry in drafts]
        self.record("gc", None, lambda _: {"removed": removed, "bytes": size, "dropped": names})
        for name in sorted(objects):
            self.remote.remove(name)

    def unused(self, days: float) -> list[Path]:
        """Versions mirrored in full that nobody opened for so many days."""
        old = time.time() - days * 86_400
        folders = [folder for e in self.entries() if (folder := self._folder(e)).is_dir()]
        return [f for f in folders if f.stat().st_mtime < old and any(p.is_dir() for p in f.iterdir())]

    def forget(self, folder: Path) -> None:
        """Keep of a mirrored version only what lists it; the rest is fetched again when it is asked for."""
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in (MANIFEST, BUILD):
                path.unlink()

    def mark(self) -> dict[str, Any]:
        """The store's mark as it was when the mirror was last brought up to date; empty before the first publish."""
        where = self.folder / WHERE
        return dict(orjson.loads(where.read_bytes())["mark"]) if where.exists() else {}

    def _told(self) -> dict[str, Any] | None:
        raw = self.remote.read(MARK)
        if raw is None:
            return None
        try:
            mark = dict(orjson.loads(raw))
            written = int(mark["format"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{self.url}: its {MARK} is damaged or not one of ours") from error
        if written > FORMAT:
            raise StoreError(f"{self.url} was made by a newer release (format {written}): upgrade sft-data")
        return mark

    def _forget_another(self, mark: dict[str, Any]) -> None:
        """A store that was removed and made anew at the same URL is another store."""
        known = self.mark()
        if known and known.get("id") != mark.get("id"):
            for path in self.folder.iterdir():
                if path.is_dir() and not path.name.startswith("."):
                    shutil.rmtree(path)
            (self.folder / LOG).unlink(missing_ok=True)
        if known != mark or not (self.folder / WHERE).exists():
            replace_file(self.folder / WHERE, orjson.dumps({"url": self.url, "mark": mark}))

    def _lines(self) -> list[bytes]:
        path = self.folder / LOG
        return path.read_bytes().splitlines() if path.exists() else []

    def _follow(self, *, contents: bool) -> None:
        """Fetch the entries that are new, then the manifests of the versions they name."""
        lines = self._lines()
        before = len(lines)
        while (line := self.remote.read(_entry_name(len(lines) + 1))) is not None:
            lines.append(line.rstrip(b"\n"))
        if len(lines) > before:
            replace_file(self.folder / LOG, b"".join(line + b"\n" for line in lines))
        for entry in self.entries() if contents else ():
            folder = self._folder(entry)
            if (folder / MANIFEST).exists():
                continue
            index = self.index(entry["index"])
            for name in (BUILD, MANIFEST):
                if name in index and not (folder / name).exists():
                    self.bring(index[name], folder / name)
        self._fold()

    def _fold(self) -> None:
        """What the entries, read in their order, say of `latest` and tags."""
        found: dict[str, Refs] = {}
        dropped: set[str] = set()
        for entry in read_log(self.folder):
            dropped |= set(entry.get("dropped", ()))
            name = entry.get("name")
            if name:
                found[name] = _moved(found.get(name, Refs()), entry)
        for name, refs in found.items():
            if read_refs(self.folder, name) != refs:
                (self.folder / name).mkdir(exist_ok=True)
                write_refs(self.folder, name, refs)
        for spec in dropped - {f"{e['name']}@{e.get('draft')}" for e in self.entries()}:
            name, _, draft = spec.partition("@")
            if NAME.fullmatch(name) and _DRAFT(draft):
                shutil.rmtree(self.folder / name / draft, ignore_errors=True)

    def _folder(self, entry: Mapping[str, Any]) -> Path:
        if entry["what"] == "draft":
            return draft_folder(self.folder, entry["name"], entry["fingerprint"])
        return version_folder(self.folder, entry["name"], entry["number"])

    def entry_of(self, folder: Path) -> dict[str, Any] | None:
        return next((entry for entry in reversed(self.entries()) if self._folder(entry) == folder), None)

    def _objects(self, entries: Iterable[Mapping[str, Any]]) -> set[str]:
        return {name for e in entries for name in [e["index"], *self.index(e["index"]).values()]}

    def index(self, name: str) -> Index:
        """Which object holds which file of a version. It is never sealed: it holds hashes and paths alone."""
        kept = self.folder / ".listings" / name
        if not kept.exists():
            self.bring(name, kept, sealed=False)
        index = dict(orjson.loads(kept.read_bytes()))
        for path, held in index.items():
            parts = PurePosixPath(path).parts
            if not parts or ".." in parts or path.startswith("/") or "\\" in path or "\0" in path or not _HASH(held):
                raise StoreError(f"{self.url}: objects/{name} lists {path!r}, which is no path inside a version")
        return index

    def bring(self, name: str, target: Path, *, sealed: bool = True) -> None:
        """Fetch an object, check it, open it where the store is sealed, and put it in its place whole."""
        key = self.key() if sealed else None
        incoming = self.folder / ".incoming"
        incoming.mkdir(exist_ok=True)
        draft, opened = (incoming / f"{name[:16]}.{uuid.uuid4().hex[:8]}{end}" for end in ("", ".open"))
        try:
            self.remote.fetch(object_name(name), draft)
            if file_sha256(draft) != name:
                raise StoreError(f"{self.url}: {object_name(name)} was changed: its hash is not its name")
            if key is not None:
                unseal_file(draft, opened, key)
                opened.replace(draft)
            draft.chmod(0o444)
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
            opened.unlink(missing_ok=True)

    def key(self) -> Key | None:
        """The key that this store is sealed with, None where it is not; StoreError where it was not given."""
        sealed = self.mark().get("sealed")
        if sealed is None:
            return None
        key = given_key()
        if key is None:
            raise KeyNeededError(
                f"{self.url} is sealed with the key {sealed['key']}: give it by --key-file FILE or in $SFT_DATA_KEY"
            )
        if key.id != sealed["key"]:
            raise KeyNeededError(f"{self.url} is sealed with the key {sealed['key']}, and the key given is {key.id}")
        return key

    def _upload(self, staging: Path) -> str:
        """Put every file of a staged version there; returns the name of the object that lists them.

        Only what a published version names is sure to stay: whatever else is there may be rubbish that `gc` is about to
        remove, and is written again.
        """
        self.sync()
        key = self.key()
        there = self._objects(e for e in self.entries() if e["what"] != "draft")
        sealed = self.folder / ".incoming" / f"sealed.{uuid.uuid4().hex[:8]}"
        index: dict[str, str] = {}
        try:
            for path in sorted(p for p in staging.rglob("*") if p.is_file()):
                sealed.parent.mkdir(exist_ok=True)
                name = file_sha256(path) if key is None else seal_file(path, sealed, key)
                index[path.relative_to(staging).as_posix()] = name
                if name not in there:
                    self.remote.send(path if key is None else sealed, object_name(name))
                    there.add(name)
        finally:
            sealed.unlink(missing_ok=True)
        listing = orjson.dumps(index, option=orjson.OPT_SORT_KEYS)
        name = sha256(listing).hexdigest()
        self.remote.write(object_name(name), listing)
        return name


class _AlreadyThereError(Exception):
    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


def _moved(refs: Refs, entry: Mapping[str, Any]) -> Refs:
    what, number = entry["what"], entry.get("number")
    if what in ("publish", "import") and number is not None and number > refs.newest:
        return refs.model_copy(update={"latest": number, "newest": number})
    if what == "rollback":
        return refs.model_copy(update={"latest": number})
    if what == "tag":
        return refs.model_copy(update={"tags": {**refs.tags, entry["tag"]: number}})
    if what == "untag":
        return refs.model_copy(update={"tags": {tag: n for tag, n in refs.tags.items() if tag != entry["tag"]}})
    return refs


def _link(origin: Path, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(origin, target)
    except FileExistsError:
        return
    except OSError:
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        shutil.copyfile(origin, draft)
        draft.replace(target)


def _entry_name(number: int) -> str:
    return f"log/{number:08d}.json"


def object_name(name: str) -> str:
    """Where the object of this hash lies below the URL."""
    return f"objects/{name[:2]}/{name}"


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
