"""How a build shows on standard error: a live line for the step at work, and one line for each that ended."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sft_data.build import StepResult
from sft_data.plan import Step
from sft_data.report.visible import visible

__all__ = ["ProgressWatch", "line_of"]


class ProgressWatch:
    """A watch that draws. Where standard error is no terminal, only the lines of finished steps are printed."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> ProgressWatch:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def begin(self, step: Step, cells: int) -> None:
        """A step has started, with so many pieces of work."""
        self._clear()
        self.task = self.bar.add_task(step.name, total=max(cells, 1))

    def advance(self) -> None:
        """A piece is done."""
        if self.task is not None:
            self.bar.advance(self.task)

    def finish(self, result: StepResult) -> None:
        """A step has ended."""
        self._clear()
        self.console.print(line_of(result), markup=False, highlight=False, soft_wrap=True)

    def _clear(self) -> None:
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None


def line_of(result: StepResult) -> str:
    """About a finished step: time, rows in, kept, rejected, edited; on a second line, why it was done again."""
    took = "reused" if result.reused else f"{result.seconds:.1f} s"
    again = f"\n    done again: {visible('; '.join(result.why))}" if result.why else ""
    if not result.rows_in:
        return f"{result.name:<24} {took:>9}{again}"
    rejected = sum(result.rejected_by.values())
    counts = f"{result.rows_in:>10,} in {result.rows_kept:>10,} kept {rejected:>8,} rejected"
    edited = sum(result.edited_by.values())
    told = f"{result.name:<24} {took:>9} {counts}" + (f" {edited:>8,} edited" if edited else "")
    if result.pieces_reused:
        told += f" ({result.pieces_reused:,} of {result.pieces:,} shards were there)"
    return told + again
