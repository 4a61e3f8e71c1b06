"""A Ray cluster: the same cells as plain Ray tasks, for those who outgrow one machine.

The store must lie on storage that every node sees under the same path, and `sft_data` must be installed there. A task
is `execute(cache, task)`, a pure function over files named by their content; so a task that Ray runs again, because a
node died, writes the same bytes or finds them written.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from sft_data.cells import Cell, Task, execute, find_cell
from sft_data.engine.local import ONE_THREAD
from sft_data.errors import EngineError, MissingExtraError

__all__ = ["RayEngine"]

# A task whose worker or node died is run so often again before its shard is named in an error.
RETRIES = 3
# Tasks handed to Ray at a time, for each core: enough to keep all busy, few enough to stop soon.
AHEAD = 4

# A curation job is no service: no dashboard, no metrics, no usage report, no log lines of the workers between ours.
# Workers of a cluster that is started here have the priority of this command, as those of the local engine have: Ray's
# own choice is to step back behind all other programs, and beside four busy ones a build took 118 s instead of 24.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",
}


class RayEngine:
    """Cells as Ray tasks, on the cluster at `address` or on one that is started here with `workers` cores."""

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        self.workers = workers
        self.address = address
        self._ray: Any = None
        self._remote: Any = None
        self._aside = ExitStack()

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None
        self._aside.close()

    def run(
        self, cache: Path, tasks: Sequence[Task], done: Callable[[Cell], None], *, light: bool = False
    ) -> list[Cell]:
        """Cells of `tasks`, in their order; those already made are found. Light work is done here."""
        cells: dict[str, Cell] = {}
        left: dict[str, Task] = {}
        for task in tasks:
            found = find_cell(cache, task.key)
            if found is None and light:
                found = execute(cache, task)
            if found is None:
                left[task.key] = task
            elif task.key not in cells:
                cells[task.key] = found
                done(found)
        for cell in self._finished(cache, left) if left else ():
            cells[cell.key] = cell
            done(cell)
        return [cells[task.key] for task in tasks]

    def _finished(self, cache: Path, left: Mapping[str, Task]) -> Iterator[Cell]:
        """Cells as they are finished; a bounded number of tasks is under way at any time."""
        ray = self._start()
        waiting = iter(sorted(left.values(), key=lambda task: -task.cost))
        most = max(2, int(AHEAD * ray.cluster_resources().get("CPU", 1)))
        here = os.getcwd()  # noqa: PTH109  # a plain text, for another process
        running = {self._remote.remote(here, cache, task): task for task in islice(waiting, most)}
        try:
            while running:
                [ready], _ = ray.wait(list(running), num_returns=1)
                task = running.pop(ready)
                yield self._result(ready, task)
                running |= {self._remote.remote(here, cache, more): more for more in islice(waiting, 1)}
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def _result(self, ready: Any, task: Task) -> Cell:  # noqa: ANN401  # an ObjectRef
        try:
            cell: Cell = self._ray.get(ready)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise EngineError(
                f"{task.label} could not be finished: its worker or node died {RETRIES + 1} times "
                f"({type(error).__name__}); finished shards are kept: run again when the cluster is well"
            ) from None
        return cell

    def _start(self) -> Any:  # noqa: ANN401  # the module, which ships its own types
        if self._ray is None:
            for name, value in _SETTINGS.items():
                os.environ.setdefault(name, value)
            try:
                import ray
            except ImportError:
                raise MissingExtraError("The Ray engine", "ray") from None
            # Ray tells of dead workers on standard output, where a result may be read by a program.
            self._aside.enter_context(redirect_stdout(sys.stderr))
            settings: dict[str, Any] = {"address": self.address} if self.address else {"num_cpus": self.workers}
            settings |= {"log_to_driver": False, "logging_level": logging.ERROR}
            settings["runtime_env"] = {"env_vars": ONE_THREAD}
            if not self.address:
                settings["include_dashboard"] = False
            try:
                ray.init(**settings)
            except (ConnectionError, ValueError) as error:
                raise EngineError(f"no Ray cluster at {self.address!r}: {error}") from None
            self._ray = ray
            self._remote = ray.remote(num_cpus=1, max_retries=RETRIES)(_execute)
        return self._ray


def _execute(folder: str, cache: Path, task: Task) -> Cell:
    """On a worker: paths of a pipeline are relative to the folder in which the command runs."""
    os.chdir(folder)
    return execute(cache, task)
