"""Builds on disks that are full, read-only or cleaned meanwhile, and clocks that jump."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sft_data import build as build_module
from sft_data.build import StepResult, Work, build
from sft_data.disk import alone, at_work, disk_error
from sft_data.engine import LocalEngine
from sft_data.errors import SourceError, StoreError
from sft_data.pipeline import Pipeline, load_pipeline
from sft_data.plan import Step
from sft_data.store.manage import gc
from sft_data.store.verify import verify
from tests.trees import ROOT, hashes

QUICKSTART = ROOT / "pipelines" / "quickstart.yaml"

# The command line with shards so small that every step starts workers.
PROGRAM = """
import sys
from sft_data import build as b
b.LIGHT_ROWS, b.build.__kwdefaults__["shard_rows"] = 0, 40
from sft_data.cli import main
if __name__ == "__main__":
    main()
"""


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return load_pipeline(QUICKSTART)


@pytest.fixture(scope="module")
def whole(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return hashes(Path(build(pipeline, tmp_path_factory.mktemp("whole")).path))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)):
        pytest.skip("only a user who may mount can have a small disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def mount(*arguments: str) -> int:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode


def test_build_on_a_disk_that_fills_up_says_so_and_goes_on_when_there_is_room(
    small_disk: Path, pipeline: Pipeline, whole: dict[str, str]
):
    """The disk grows a little after each failure, so that it fills up at another place of the build each time."""
    store, size, failures = small_disk / "store", 64, 0
    while True:
        try:
            built = build(pipeline, store)
        except StoreError as error:
            assert "disk is full: free some space" in str(error)  # noqa: PT017 - whichever round it is
            assert list(store.glob("quickstart/v*")) == []
            assert list(store.glob("quickstart/.publish-*")) == []
            assert list(store.glob(".cache/tmp/*")) == []
            failures, size = failures + 1, size + 96
            assert mount("-o", f"remount,size={size}k", str(small_disk)) == 0
        else:
            break
    assert failures > 5
    assert hashes(Path(built.path)) == whole
    assert verify(Path(built.path)).ok


def test_build_on_a_full_disk_ends_without_a_traceback_also_from_a_worker(small_disk: Path):
    assert mount("-o", "remount,size=300k", str(small_disk)) == 0
    process = run_command(small_disk / "store")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "disk is full: free some space" in err
    assert "Traceback" not in err
    assert list(small_disk.glob("store/.cache/tmp/*")) == []


def test_build_in_a_store_that_cannot_be_written_says_so(small_disk: Path, pipeline: Pipeline):
    assert mount("-o", "remount,ro", str(small_disk)) == 0
    with pytest.raises(StoreError, match="is read-only: give --store a folder that can be written"):
        build(pipeline, small_disk / "store")


def test_build_where_a_file_stands_instead_of_the_store_says_so(tmp_path: Path, pipeline: Pipeline):
    (tmp_path / "store").write_text("a note")
    with pytest.raises(StoreError, match="a file stands where the store's folder should be"):
        build(pipeline, tmp_path / "store")


def test_build_in_a_folder_without_permission_says_so(tmp_path: Path):
    if os.geteuid() != 0:
        (tmp_path / "store").mkdir(mode=0o500)
        with pytest.raises(StoreError, match="permission denied"):
            build(load_pipeline(QUICKSTART), tmp_path / "store")
        return
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    error = PermissionError(13, "Permission denied", str(store / ".cache"))
    assert "permission denied: give --store" in str(disk_error(error, store / ".cache"))


def test_disk_errors_of_libraries_and_of_other_files_are_told_apart(tmp_path: Path):
    cache = tmp_path / "store" / ".cache"
    wrapped = RuntimeError("parquet: underlying IO error: No space left on device (os error 28)")
    assert "disk is full" in str(disk_error(wrapped, cache))
    elsewhere = PermissionError(13, "Permission denied", "/data/alpaca.json")
    assert isinstance(disk_error(elsewhere, cache), SourceError)
    assert disk_error(ValueError("no disk at all"), cache) is None


def test_build_whose_cache_is_removed_meanwhile_says_so_and_the_next_one_makes_it_anew(
    tmp_path: Path, pipeline: Pipeline, whole: dict[str, str]
):
    def call(step: Step, work: Work, above: list[StepResult]) -> StepResult:
        if step.kind == "exact-dedup":
            shutil.rmtree(work.cache / "cells")
        return build_module.run_step(step, work, above)

    with pytest.raises(StoreError, match=r"is gone .*somebody removed it while the build ran: run again"):
        build(pipeline, tmp_path, call=call)
    assert hashes(Path(build(pipeline, tmp_path).path)) == whole


def test_gc_leaves_everything_to_a_build_at_work_whatever_the_clock_says(
    tmp_path: Path, pipeline: Pipeline, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    real, found = time.time, []

    def call(step: Step, work: Work, above: list[StepResult]) -> StepResult:
        (work.cache / "tmp").mkdir(parents=True, exist_ok=True)
        (work.cache / "tmp" / "half").mkdir(exist_ok=True)
        with monkeypatch.context() as patch:
            for years in (10, -10):
                patch.setattr(time, "time", lambda years=years: real() + years * 365 * 86_400)
                found.append(gc(tmp_path, remove=True, cache_days=0))
        return build_module.run_step(step, work, above)

    built = build(pipeline, tmp_path, call=call)
    assert hashes(Path(built.path)) == whole
    assert all(each.busy and not each.abandoned and not each.cells for each in found)
    assert gc(tmp_path, remove=True).abandoned == [".cache/tmp/half"]
    assert not gc(tmp_path).busy


def test_what_a_killed_build_left_is_removed_by_the_next_one(tmp_path: Path):
    cache = tmp_path / ".cache"
    (cache / "tmp" / "dead").mkdir(parents=True)
    (cache / "steps").mkdir()
    (cache / "steps" / ".half").touch()
    with at_work(cache):
        assert list((cache / "tmp").iterdir()) == []
        assert list((cache / "steps").iterdir()) == []
        (cache / "tmp" / "mine").mkdir()
        with at_work(cache), alone(cache) as company:
            assert company == "busy"
            assert (cache / "tmp" / "mine").exists()
    with alone(cache) as company:
        assert company == "alone"


def test_build_does_not_use_a_tokenizer_that_changes_behind_the_plan(tmp_path: Path):
    tokenizer = tmp_path / "tokenizer"
    shutil.copytree(ROOT / "samples" / "tokenizer", tokenizer)
    before = (tokenizer / "tokenizer_config.json").read_bytes()
    pipeline = load_pipeline(QUICKSTART, [f"tokenize.tokenizer={tokenizer}"])

    def call(step: Step, work: Work, above: list[StepResult]) -> StepResult:
        if step.kind == "split":
            (tokenizer / "tokenizer_config.json").write_bytes(before + b"\n")
        return build_module.run_step(step, work, above)

    with pytest.raises(SourceError, match=r"tokenizer_config\.json was changed while it was read"):
        build(pipeline, tmp_path / "store", call=call)
    assert list((tmp_path / "store").glob("quickstart/v*")) == []


def test_build_is_the_same_while_the_clock_jumps(
    tmp_path: Path, pipeline: Pipeline, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    """Back and forth by years; times of files jump with it, as far as a program can make them."""
    real, jumps = time.time, iter(range(10**9))

    def jumping() -> float:
        return real() + (1 if next(jumps) % 2 else -1) * 3 * 365 * 86_400

    monkeypatch.setattr(time, "time", jumping)

    def call(step: Step, work: Work, above: list[StepResult]) -> StepResult:
        result = build_module.run_step(step, work, above)
        for path in (work.cache / "cells").rglob("*"):
            os.utime(path, (jumping(), jumping()))
        return result

    assert hashes(Path(build(pipeline, tmp_path, call=call).path)) == whole
    assert build(pipeline, tmp_path).reused
    assert gc(tmp_path, remove=True).abandoned == []
    with LocalEngine(1) as engine:
        assert build(pipeline, tmp_path, engine=engine).reused


@pytest.mark.slow
def test_builds_beside_each_other_share_their_work_and_do_not_disturb_each_other(tmp_path: Path, whole: dict[str, str]):
    """Two at once of the same pipeline in one store, and somebody who cleans as hard as he can."""
    store = tmp_path / "a" / "store"
    store.parent.mkdir()
    processes = [run_command(store), run_command(store)]
    while any(process.poll() is None for process in processes):
        gc(store, remove=True, cache_days=0)
        time.sleep(0.2)
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    [version] = store.glob("quickstart/v*")
    assert verify(version).ok
    assert hashes(version) == whole
    assert list(store.glob(".cache/tmp/*")) == []


def run_command(store: Path) -> subprocess.Popen[str]:
    program = store.parent.parent / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), "build", str(QUICKSTART), "--store", str(store), "--workers", "2"]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_build_that_is_told_to_stop_leaves_no_process_no_draft_and_no_traceback(tmp_path: Path, name: str, code: int):
    store = tmp_path / "a" / "store"
    store.parent.mkdir()
    # As soon as it has begun, and while it works: seen by what it writes, since machines are fast and slow.
    for sign in (".cache/*", ".cache/steps/*.json"):
        process = run_command(store)
        while process.poll() is None and not list(store.glob(sign)):
            time.sleep(0.01)
        # Ctrl-C goes to every process of the terminal, `kill` to one.
        (os.killpg if name == "SIGINT" else os.kill)(process.pid, getattr(signal, name))
        _, err = process.communicate(timeout=30)
        assert "Traceback" not in err
        assert process.returncode == code, err
        assert "stopped; finished work is kept" in err
        deadline = time.monotonic() + 5
        while group_lives(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not group_lives(process.pid)
        assert list(store.glob(".cache/tmp/*")) == []
        shutil.rmtree(store / ".cache", ignore_errors=True)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
