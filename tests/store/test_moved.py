"""A store in a folder with an odd name, moved, linked and named by a relative path, in the locale C."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trees import ROOT, hashes

PIPELINE = """
name: mine
sources: [{name: a, path: samples/alpaca_en.json}, {name: b, path: samples/alpaca_zh.jsonl}]
stages: [{kind: exact-dedup}]
"""


def sft(*arguments: str, cwd: Path = ROOT) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "sft_data.cli", *arguments, "--json"], cwd=cwd, capture_output=True, check=False,
        env={**os.environ, "LC_ALL": "C", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.slow
def test_a_store_goes_where_it_is_moved_whatever_its_folder_is_called(tmp_path: Path) -> None:
    home = tmp_path / "a b%20#c?d 数据"
    home.mkdir()
    (home / "mine.yaml").write_text(PIPELINE, encoding="utf-8")
    build = ("build", str(home / "mine.yaml"), "--workers", "1", "--store")
    first = sft(*build, str(home / "st ore"))
    assert Path(first["path"]).is_relative_to(home)
    sft("export", "mine", "--out", str(home / "x y.tar.zst"), "--store", str(home / "st ore"))
    whole = hashes(home / "st ore" / "mine" / "v1")
    (home / "st ore").rename(home / "moved")
    (home / "link").symlink_to("moved")
    for place in ("moved", "link", "./moved/"):
        assert sft("verify", "mine@v1", "--store", place, cwd=home)["ok"]
    again = sft(*build, str(home / "link"))
    assert (again["version"], again["reused"]) == ("mine@v1", True)
    sft("import", str(home / "x y.tar.zst"), "--store", "other 店", cwd=home)
    assert hashes(home / "other 店" / "mine" / "v1") == whole
