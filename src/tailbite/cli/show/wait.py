"""Progress of ``tailbite wait`` on stderr: live on a terminal, a line for each change of a status elsewhere."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from tailbite.cli.output import console, note

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rich.progress import TaskID

    from tailbite.readiness.status import Readiness, TargetStatus

__all__ = ["Hidden", "Lines", "LiveTable", "Progress"]


class Progress(Protocol):
    """A context manager that receives the outcome of every attempt."""

    def show_attempt(self, readiness: Readiness) -> None: ...
    def __enter__(self) -> object: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...


class Hidden(contextlib.nullcontext[None]):
    """No progress."""

    def show_attempt(self, readiness: Readiness) -> None:
        """Show nothing."""


class Lines(contextlib.nullcontext[None]):
    """A line whenever the status of a target changes."""

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[str, TargetStatus] = {}

    def show_attempt(self, readiness: Readiness) -> None:
        """Print the readiness if its status is new."""
        if self._before.get(readiness.target) is not readiness.status:
            self._before[readiness.target] = readiness.status
            note(str(readiness))


class LiveTable:
    """A spinner, the readiness and the time, for each target; erased at the end."""

    def __init__(self, targets: Sequence[str]) -> None:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.table import Column

        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
            TimeElapsedColumn(),
            console=console(stderr=True),
            transient=True,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {target: self._progress.add_task(target, total=1) for target in targets}

    def show_attempt(self, readiness: Readiness) -> None:
        """Update the target's line."""
        self._progress.update(
            self._tasks[readiness.target], description=str(readiness), completed=1 if readiness.ready else 0
        )

    def __enter__(self) -> LiveTable:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
