"""How ``tailbite wait`` shows what it sees, on stderr: live on a terminal, one line for each news elsewhere."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from tailbite.cli.output import console, note

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rich.progress import TaskID

    from tailbite.readiness.sighting import Saw, Sighting
    from tailbite.readiness.target import Wanted

__all__ = ["Lines", "Live", "Progress", "Silence"]


class Progress(Protocol):
    """A context manager that is told what was seen."""

    def saw(self, sighting: Sighting) -> None: ...
    def __enter__(self) -> object: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...


class Silence(contextlib.nullcontext[None]):
    """Shows nothing."""

    def saw(self, sighting: Sighting) -> None:
        """Show nothing."""


class Lines(contextlib.nullcontext[None]):
    """Prints a line when something else is seen than before."""

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[str, Saw] = {}

    def saw(self, sighting: Sighting) -> None:
        """Print it if it is news."""
        if self._before.get(sighting.target) is not sighting.saw:
            self._before[sighting.target] = sighting.saw
            note(str(sighting))


class Live:
    """A spinner, the last sighting and the time, for each target; gone at the end."""

    def __init__(self, wanted: Sequence[Wanted]) -> None:
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
        self._tasks: dict[str, TaskID] = {str(one): self._progress.add_task(str(one), total=1) for one in wanted}

    def saw(self, sighting: Sighting) -> None:
        """Show it."""
        self._progress.update(
            self._tasks[sighting.target], description=str(sighting), completed=1 if sighting.ready else 0
        )

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
