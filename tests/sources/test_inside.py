"""Members of archives: built from like files, and each archive unpacked once however many members it has."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import polars as pl
import pytest

from sft_data.build import build
from sft_data.errors import SourceError
from sft_data.pipeline import parse_pipeline
from sft_data.sources import inside
from sft_data.sources.inside import open_member
from sft_data.store.verify import verify

LIMIT = 2**30


def lines(number: int) -> bytes:
    rows = [{"instruction": f"Say {number} and {n}.", "input": "", "output": f"{number}, {n}."} for n in range(3)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def names(count: int) -> list[str]:
    """In an order that is not that of their names."""
    return [f"m/{n * 7 % count:03d}.jsonl" for n in range(count)]


def packed(path: Path, count: int) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names(count):
                archive.writestr(name, lines(int(name[2:5])))
        return path
    with tarfile.open(path, "w:" + path.suffix.removeprefix(".").replace("tar", "")) as tar:
        for name in names(count):
            content = lines(int(name[2:5]))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


ARCHIVES = ["a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.tar", "a.zip"]


@pytest.mark.parametrize("archive", ARCHIVES)
def test_build_from_an_archive_keeps_the_rows_of_its_members_in_the_order_of_their_names(tmp_path: Path, archive: str):
    packed(tmp_path / archive, 5)
    source = {"name": "s", "path": str(tmp_path / archive), "format": "alpaca"}
    built = build(parse_pipeline({"name": "packed", "sources": [source]}, "packed"), tmp_path / "store")
    assert (built.rows_in, built.rows_kept) == (15, 15)
    rows = pl.read_parquet(Path(built.path) / "conversations" / "*" / "*.parquet")
    assert rows["id"].to_list() == [f"s:{archive}/m/{n:03d}.jsonl:{row}" for n in range(5) for row in range(3)]
    assert verify(Path(built.path)).problems == []


@pytest.mark.parametrize("archive", ARCHIVES)
def test_archive_is_opened_once_for_all_its_members(tmp_path: Path, archive: str, monkeypatch: pytest.MonkeyPatch):
    path = packed(tmp_path / archive, 40)
    opened = []
    whole = inside._Held.__init__

    def counted(self, *how) -> None:
        opened.append(how)
        whole(self, *how)

    monkeypatch.setattr(inside._Held, "__init__", counted)
    for name in sorted(names(40)):
        with open_member(path, "zip" if archive.endswith("zip") else "tar", name, LIMIT) as member:
            assert member.read() == lines(int(name[2:5]))
    assert len(opened) == 1


def test_archive_that_was_written_anew_is_opened_anew(tmp_path: Path):
    path = packed(tmp_path / "a.tar.gz", 3)
    assert open_member(path, "tar", "m/000.jsonl", LIMIT).read() == lines(0)
    packed(path, 12)
    os.utime(path, (1, 1))
    assert open_member(path, "tar", "m/011.jsonl", LIMIT).read() == lines(11)


def test_members_in_front_of_the_damage_are_read_and_those_behind_it_are_not(tmp_path: Path):
    path = packed(tmp_path / "a.tar.gz", 40)
    plain = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(plain[: len(plain) // 2], 0)[:-20])
    assert open_member(path, "tar", names(40)[0], LIMIT).read() == lines(int(names(40)[0][2:5]))
    with pytest.raises((KeyError, tarfile.TarError)):
        open_member(path, "tar", names(40)[39], LIMIT).read()


def test_nothing_is_unpacked_beyond_the_limit(tmp_path: Path):
    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo("m/000.jsonl")
        member.size = 64 * 2**20
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(tarfile.TarError):
        open_member(path, "tar", "m/000.jsonl", 2**20).read()


def test_full_disk_while_unpacking_is_an_error_and_no_damage_of_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Full(io.BytesIO):
        def __init__(self, **_) -> None:
            super().__init__()

        def write(self, _) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(inside, "SpooledTemporaryFile", Full)
    with pytest.raises(SourceError, match="no room to unpack"):
        open_member(packed(tmp_path / "a.tar.gz", 3), "tar", "m/000.jsonl", LIMIT)


def test_archive_that_is_open_when_the_process_ends_is_closed_without_a_word(tmp_path: Path):
    path = packed(tmp_path / "a.tar.gz", 3)
    code = (
        "import sys; from pathlib import Path; from sft_data.sources.inside import open_member\n"
        f"with open_member(Path(sys.argv[1]), 'tar', 'm/000.jsonl', {LIMIT}) as member: member.read()"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
