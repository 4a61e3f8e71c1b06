"""Local processes: one cell per task, results in the order of the tasks, the same bytes for any number of workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Protocol

from sft_data.cells import Cell, Task, execute, find_cell
from sft_data.errors import EngineError

__all__ = ["ONE_THREAD", "Engine", "LocalEngine"]

# How often a pool whose worker died is started anew before every task left runs alone, to name the one that kills.
RESTARTS = 2


class Engine(Protocol):
    """Runs tasks; `done` is called in the parent after each finished cell."""

    def run(
        self, cache: Path, tasks: Sequence[Task], done: Callable[[Cell], None], *, light: bool = False
    ) -> list[Cell]:
        """Cells of `tasks`, in their order. `light` says that starting processes would cost more than it saves."""
        ...


class LocalEngine:
    """Cells over `workers` processes; with one worker everything runs in this process.

    Processes are spawned, not forked (polars and the tokenizers hold threads), at the first run that has work for
    them, and kept for the following ones. Each computes on one thread, so that workers do not fight for cores.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(wait=error is None)

    def run(
        self, cache: Path, tasks: Sequence[Task], done: Callable[[Cell], None], *, light: bool = False
    ) -> list[Cell]:
        """Cells of `tasks`, in their order; those already made are found, not made again."""
        cells: dict[str, Cell] = {}
        for task in tasks:
            found = None if task.key in cells else find_cell(cache, task.key)
            if found is not None:
                cells[task.key] = found
                done(found)
        left = {task.key: task for task in tasks if task.key not in cells}
        if self.workers == 1 or light or len(left) < 2:
            for task in left.values():
                cells[task.key] = execute(cache, task)
                done(cells[task.key])
        else:
            self._run_in_processes(cache, left, cells, done)
        return [cells[task.key] for task in tasks]

    def _run_in_processes(
        self, cache: Path, left: dict[str, Task], cells: dict[str, Cell], done: Callable[[Cell], None]
    ) -> None:
        for _ in range(1 + RESTARTS):
            try:
                self._drain(cache, list(left.values()), cells, left, done)
            except BrokenProcessPool:
                self._stop(wait=False)
                continue
            return
        for task in list(left.values()):
            try:
                self._drain(cache, [task], cells, left, done)
            except BrokenProcessPool:
                self._stop(wait=False)
                raise EngineError(
                    f"the worker for {task.label} died {RESTARTS + 2} times (killed by the system, often for memory); "
                    "finished shards are kept: run again with fewer --workers"
                ) from None

    def _drain(
        self,
        cache: Path,
        batch: Sequence[Task],
        cells: dict[str, Cell],
        left: dict[str, Task],
        done: Callable[[Cell], None],
    ) -> None:
        pool = self._start()
        futures: list[Future[Cell]] = [pool.submit(execute, cache, task) for task in batch]
        try:
            for future in as_completed(futures):
                cell = future.result()
                cells[cell.key] = cell
                left.pop(cell.key, None)
                done(cell)
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            with _environment(ONE_THREAD):
                self._pool = ProcessPoolExecutor(
                    self.workers, mp_context=context, initializer=_begin_worker, initargs=(os.getpid(),)
                )
                # Spawn all workers now, while the environment says one thread each.
                for future in [self._pool.submit(os.getpid) for _ in range(self.workers)]:
                    future.result()
        return self._pool

    def _stop(self, *, wait: bool) -> None:
        if self._pool is None:
            return
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=wait, cancel_futures=True)
        if not wait:
            for process in processes:
                process.kill()
        self._pool = None


ONE_THREAD = {
    "POLARS_MAX_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class _environment:  # noqa: N801  # reads as a verb where it is used
    """Environment variables for the processes started inside the block."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.settings = settings
        self.before: dict[str, str | None] = {}

    def __enter__(self) -> None:
        self.before = {name: os.environ.get(name) for name in self.settings}
        os.environ.update(self.settings)

    def __exit__(self, *_: object) -> None:
        for name, value in self.before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _begin_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end when the parent is gone (a killed parent closes nothing)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
