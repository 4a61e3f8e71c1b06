import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sft_data.cells import Cell, Task
from sft_data.engine import LocalEngine
from sft_data.engine.local import _undisturbed
from sft_data.errors import EngineError, SourceError


def square(folder: Path, number: int) -> dict[str, Any]:
    return {"square": number * number, "threads": os.environ.get("POLARS_MAX_THREADS")}


def die(folder: Path) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def die_once(folder: Path, mark: Path) -> dict[str, Any]:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"alive": True}


def die_while_another_works(folder: Path, others: Path) -> dict[str, Any]:
    """Dies for memory, as it were, as long as somebody else works beside it."""
    time.sleep(0.3)
    if list(others.parent.glob("*-working")):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"alone": True}


def work_a_while(folder: Path, mark: Path) -> dict[str, Any]:
    mark.touch()
    time.sleep(1.5)
    mark.unlink()
    return {"done": True}


class OddError(Exception):
    """Does not survive pickling."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class PanicError(BaseException):
    """What a library written in Rust raises: no Exception."""


def go_wrong(folder: Path, kind: str) -> dict[str, Any]:
    (folder / "half").write_text("half")
    raise OddError(1, 2) if kind == "odd" else PanicError("index out of bounds")


def tell_time(folder: Path) -> dict[str, Any]:
    began = time.monotonic_ns()
    time.sleep(0.05)
    return {"began": began, "pid": os.getpid()}


def refuse(folder: Path) -> dict[str, Any]:
    raise SourceError("cannot be read")


def squares(number: int) -> list[Task]:
    return [Task(f"{n:064d}", f"square {n}", square, (n,)) for n in range(number)]


def test_engine_results_stand_in_the_order_of_the_tasks(tmp_path: Path):
    done: list[Cell] = []
    with LocalEngine(2) as engine:
        cells = engine.run(tmp_path, squares(9), done.append)
    assert [cell.told["square"] for cell in cells] == [n * n for n in range(9)]
    assert {cell.told["threads"] for cell in cells} == {"1"}
    assert sorted(c.key for c in done) == sorted(c.key for c in cells)


def test_engine_finds_finished_cells_and_makes_only_the_rest(tmp_path: Path):
    with LocalEngine(1) as engine:
        engine.run(tmp_path, squares(3), lambda _: None)
        stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("cell.json")}
        engine.run(tmp_path, squares(5), lambda _: None)
    assert len(stamps) == 3
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())
    assert len(list(tmp_path.rglob("cell.json"))) == 5


def test_engine_worker_killed_once_is_replaced(tmp_path: Path):
    tasks = [*squares(3), Task("d" * 64, "dies once", die_once, (tmp_path / "mark",))]
    with LocalEngine(2) as engine:
        cells = engine.run(tmp_path, tasks, lambda _: None)
    assert cells[-1].told == {"alive": True}


def test_engine_worker_that_always_dies_is_named(tmp_path: Path):
    with LocalEngine(2) as engine, pytest.raises(EngineError, match="near-dedup, shard 7"):
        engine.run(tmp_path, [*squares(2), Task("d" * 64, "near-dedup, shard 7", die, ())], lambda _: None)
    assert len(list(tmp_path.rglob("cell.json"))) == 2


def test_engine_error_of_a_worker_arrives_as_it_was_raised(tmp_path: Path):
    with LocalEngine(2) as engine, pytest.raises(SourceError, match="cannot be read"):
        engine.run(tmp_path, [*squares(2), Task("e" * 64, "refused", refuse, ())], lambda _: None)


def test_engine_worker_that_dies_beside_others_is_tried_alone_at_last(tmp_path: Path):
    busy = [Task(f"{n:064d}", f"work {n}", work_a_while, (tmp_path / f"{n}-working",)) for n in range(2)]
    hungry = Task("d" * 64, "hungry", die_while_another_works, (tmp_path / "x",), cost=1)
    with LocalEngine(2) as engine:
        cells = engine.run(tmp_path, [*busy, hungry], lambda _: None)
        assert len(engine._crew) == 2
    assert [cell.told for cell in cells] == [{"done": True}, {"done": True}, {"alone": True}]


def test_engine_dead_worker_costs_no_other_task_and_leaves_no_draft(tmp_path: Path):
    made: list[str] = []
    tasks = [Task("d" * 64, "dies once", die_once, (tmp_path / "mark",)), *squares(6)]
    with LocalEngine(2) as engine:
        engine.run(tmp_path, tasks, lambda cell: made.append(cell.key))
    assert sorted(made) == sorted(task.key for task in tasks)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_engine_begins_the_costliest_task_and_idle_workers_take_the_next(tmp_path: Path):
    tasks = [Task(f"{n:064d}", f"task {n}", tell_time, (), cost=n) for n in range(12)]
    with LocalEngine(2) as engine:
        cells = engine.run(tmp_path, tasks, lambda _: None)
    order = sorted(range(12), key=lambda n: cells[n].told["began"])
    shares = [[n for n in order if cells[n].told["pid"] == pid] for pid in {cell.told["pid"] for cell in cells}]
    assert len(shares) == 2
    assert all(share == sorted(share, reverse=True) for share in shares)


@pytest.mark.parametrize("kind", ["odd", "panic"])
def test_engine_error_that_cannot_travel_still_arrives(tmp_path: Path, kind: str):
    error = EngineError if kind == "odd" else PanicError
    with LocalEngine(2) as engine, pytest.raises(error, match="1 and 2" if kind == "odd" else "out of bounds"):
        engine.run(tmp_path, [*squares(2), Task("e" * 64, "goes wrong", go_wrong, (kind,))], lambda _: None)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_engine_goes_on_after_an_error(tmp_path: Path):
    with LocalEngine(2) as engine:
        with pytest.raises(SourceError):
            engine.run(tmp_path, [*squares(2), Task("e" * 64, "refused", refuse, ())], lambda _: None)
        assert len(engine.run(tmp_path, squares(5), lambda _: None)) == 5


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_engine_workers_end_when_their_parent_is_killed(tmp_path: Path):
    program = (
        "import sys, time; from pathlib import Path; from sft_data.engine import LocalEngine;"
        "from tests.engine.test_local import squares\n"
        "if __name__ == '__main__':\n"
        "    engine = LocalEngine(2); engine.run(Path(sys.argv[1]), squares(4), lambda _: None)\n"
        "    print(*[worker.process.pid for worker in engine._crew], flush=True); time.sleep(60)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(program)
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "cache")], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert parent.stdout is not None
    with parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_alive(pid) for pid in workers)


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_ctrl_c_waits_until_a_worker_has_been_started_whole():
    started = []
    with pytest.raises(KeyboardInterrupt), _undisturbed():  # noqa: PT012 - what comes before it is the point
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        started.append("whole")
    assert started == ["whole"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
