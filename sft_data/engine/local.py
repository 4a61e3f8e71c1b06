"""Local processes: one cell per task, results in the order of the tasks, the same bytes for any number of workers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol

from sft_data.cells import Cell, Task, execute, find_cell
from sft_data.errors import EngineError

__all__ = ["ONE_THREAD", "Engine", "LocalEngine"]

# How often a task is tried whose worker died; the last time alone, with the memory of the whole machine.
TRIES = 3


class Engine(Protocol):
    """Runs tasks; `done` is called in the parent after each finished cell."""

    def run(
        self, cache: Path, tasks: Sequence[Task], done: Callable[[Cell], None], *, light: bool = False
    ) -> list[Cell]:
        """Cells of `tasks`, in their order. `light` says that starting processes would cost more than it saves."""
        ...


class LocalEngine:
    """Cells over `workers` processes; with one worker everything runs in this process.

    A worker that is idle takes the next task, the costliest first; it holds one at a time, so that memory is that of as
    many tasks as there are workers, and a worker that dies (killed by the system, often for memory) costs its own task
    alone. That task is tried again, at last with no other beside it, and then named in an error.

    Processes are spawned, not forked (polars and the tokenizers hold threads), at the first run that has work for
    them, and kept for the following ones. Each computes on one thread, so that workers do not fight for cores.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._crew: list[_Worker] = []

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dismiss()

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
        elif left:
            try:
                self._share_out(cache, list(left.values()), cells, done)
            except BaseException:
                self._dismiss(now=True)
                raise
        return [cells[task.key] for task in tasks]

    def _share_out(self, cache: Path, left: list[Task], cells: dict[str, Cell], done: Callable[[Cell], None]) -> None:
        queue = deque(sorted(left, key=lambda task: -task.cost))
        tries: dict[str, int] = {}
        last_try: list[Task] = []  # each waits until nobody else is at work
        busy: dict[object, _Worker] = {}
        for _ in range(min(self.workers, len(queue)) - len(self._crew)):
            self._crew.append(_Worker())
        while queue or last_try or busy:
            for worker in list(self._crew):
                if worker.task is None and queue:
                    worker.give(cache, queue.popleft())
                    busy[worker.pipe] = worker
            if not busy:
                worker = self._crew[0]
                worker.give(cache, last_try.pop())
                busy[worker.pipe] = worker
            for pipe in connection.wait([worker.pipe for worker in busy.values()]):
                worker = busy.pop(pipe)
                task, result = worker.result()
                if isinstance(result, Cell):
                    cells[result.key] = result
                    done(result)
                elif result is not None:
                    raise result
                else:
                    self._crew[self._crew.index(worker)] = worker.replaced()
                    tries[task.key] = tries.get(task.key, 0) + 1
                    if tries[task.key] == TRIES:
                        raise EngineError(
                            f"the worker for {task.label} died {TRIES} times ({worker.fate()}); "
                            "finished shards are kept: run again with more memory, or fewer --workers"
                        )
                    (last_try if tries[task.key] == TRIES - 1 else queue).append(task)

    def _dismiss(self, *, now: bool = False) -> None:
        """End all workers: at once, or those that are at work when it is certain that nobody waits for them."""
        for worker in self._crew:
            worker.end(now=now)
        self._crew = []


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until a process has been started whole: half a start leaves a child that complains.

    Ctrl-C goes to all processes of a terminal; it is the parent's to act on. The mask is inherited, so that it holds
    while the child imports. It does not hold for us: another thread may take a signal, and Python then acts on it here.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    main = threading.current_thread() is threading.main_thread()
    came: list[tuple[int, FrameType | None]] = []
    handlers = {
        number: signal.signal(number, lambda *told: came.append(told))
        for number in ((signal.SIGINT, signal.SIGTERM) if main else ())
        if signal.getsignal(number) is not None
    }
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for told, frame in came[:1]:
        handler = handlers[signal.Signals(told)]
        if callable(handler):
            handler(told, frame)
        elif handler == signal.SIG_DFL:
            os.kill(os.getpid(), told)


class _Worker:
    """A process that makes one cell after the other, as the parent asks."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.mark = f"{uuid.uuid4().hex[:12]}-"  # begins the names of its drafts
        self.pipe, other = context.Pipe()
        self.task: Task | None = None
        self.cache: Path | None = None
        self.process: BaseProcess = context.Process(target=_work, args=(other, os.getpid(), self.mark), daemon=True)
        with _undisturbed(), _environment(ONE_THREAD):
            self.process.start()
        other.close()

    def give(self, cache: Path, task: Task) -> None:
        """Hand it a task. One that has died already is noticed when its result is asked for."""
        self.cache, self.task = cache, task
        with suppress(OSError):
            self.pipe.send((cache, task))

    def result(self) -> tuple[Task, Cell | BaseException | None]:
        """What became of the task: its cell, the error that it raised, or None where the worker died."""
        task, self.task = self.task, None
        assert task is not None  # noqa: S101  # only asked of a worker that has one
        try:
            return task, self.pipe.recv()
        except (EOFError, OSError):
            return task, None

    def replaced(self) -> _Worker:
        """A new one in its place, and its unfinished folder gone."""
        self.end(now=True)
        return _Worker()

    def fate(self) -> str:
        """How it ended."""
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"killed by {name}, often for memory" if name == "SIGKILL" else f"ended by {name}"
        return f"exit code {code}"

    def end(self, *, now: bool) -> None:
        """Stop the process; nothing of it stays, neither in memory nor on the disk."""
        if not now and self.task is None:
            with suppress(OSError):
                self.pipe.send(None)
            self.process.join(timeout=5)
        self.process.kill()
        self.process.join()
        self.pipe.close()
        for draft in (self.cache / "tmp").glob(f"{self.mark}*") if self.cache is not None else ():
            shutil.rmtree(draft, ignore_errors=True)


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


def _work(pipe: connection.Connection, parent: int, mark: str) -> None:
    """A worker's life: take a task, answer with its cell or its error; until the parent says so or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    while True:
        try:
            asked = pipe.recv()
        except (EOFError, OSError):
            return
        if asked is None:
            return
        cache, task = asked
        try:
            answer: Cell | BaseException = execute(cache, task, mark)
        except BaseException as error:  # a panic of a library in Rust is no Exception
            answer = _sendable(error, task)
        with suppress(OSError):  # the parent is gone: nobody asks any more
            pipe.send(answer)


def _sendable(error: BaseException, task: Task) -> BaseException:
    """The error itself where it survives the way to another process, else one that tells the same."""
    try:
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes of a moment ago
    except Exception:  # whatever its class does
        copy = None
    if type(copy) is type(error) and str(copy) == str(error):
        return error
    told = "".join(traceback.format_exception(error))
    return EngineError(f"{task.label} failed with {type(error).__name__}: {error}\n{told}")
