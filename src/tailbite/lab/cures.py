"""All strategies in the same storm: run, store, and sum up."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tailbite.kernel.namespace import fresh_network
from tailbite.lab.cost import Cost, cost
from tailbite.lab.record import NotARecord, Record
from tailbite.lab.storm import Round, StormSettings, storm
from tailbite.lab.strategies import STRATEGIES, Strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Cures", "Summary", "from_record", "run_cures", "to_record"]


@dataclass(frozen=True, slots=True)
class Summary:
    """One line of the table.

    Attributes:
        strategy: its name.
        restarts: rounds.
        self_connects: in all rounds.
        failed: restarts of which the first try failed.
        down: seconds the server was kept down in the worst round; None if it would never have started.
        recovered: median seconds until all clients were served; None if they were not in most rounds.
        cost: what a connect costs, as a multiple of the naive one; None if it was not measured.
    """

    strategy: str
    restarts: int
    self_connects: int
    failed: int
    down: float | None
    recovered: float | None
    cost: float | None

    @property
    def kept_down(self) -> str:
        """``down`` for people."""
        if self.down is None:
            return "for good"
        return "0" if not self.failed else f"{self.down:.1f} s"


@dataclass(frozen=True, slots=True)
class Cures:
    """What came out."""

    settings: StormSettings
    rounds: tuple[Round, ...]
    costs: tuple[Cost, ...]

    def summaries(self) -> list[Summary]:
        """Return a line for each strategy, in the order they were run."""
        return [self._sum_up(name) for name in dict.fromkeys(each.strategy for each in self.rounds)]

    def _sum_up(self, name: str) -> Summary:
        mine = [each for each in self.rounds if each.strategy == name]
        failed = [each for each in mine if each.failed_starts]
        # Who holds an established self-connect holds it until it ends itself: no timer of the kernel will.
        for_good = any(each.helped and each.held_by != "TIME-WAIT" for each in mine)
        served = [each.recovered for each in mine if each.recovered is not None]
        return Summary(
            strategy=name,
            restarts=len(mine),
            self_connects=sum(each.self_connects for each in mine),
            failed=len(failed),
            down=None if for_good else max(each.down for each in mine),
            recovered=round(statistics.median(served), 3) if 2 * len(served) > len(mine) else None,
            cost=next((each.ratio for each in self.costs if each.strategy == name), None),
        )

    @property
    def is_as_claimed(self) -> bool:
        """True if no start failed where self-connects are prevented, and some did where they are not."""
        prevents = {strategy.name for strategy in STRATEGIES if strategy.prevents}
        for summary in self.summaries():
            if summary.strategy in prevents and (summary.failed or summary.self_connects):
                return False
            if summary.strategy == STRATEGIES[0].name and not summary.failed:
                return False
        return True


def run_cures(
    strategies: Sequence[Strategy],
    settings: StormSettings,
    begin: Callable[[str], None],
    progress: Callable[[Round], None],
    *,
    blocks: int = 120,
) -> Cures:
    """Run every strategy in a network namespace of its own; ``blocks`` is how thoroughly its cost is measured.

    Raises:
        NamespaceUnavailable: not permitted.
        NoControl: a plain client did not connect to itself where the strategy was to be tried.
    """
    rounds: list[Round] = []
    costs: list[Cost] = []
    for strategy in strategies:
        begin(strategy.name)
        with fresh_network():
            rounds += storm(strategy, settings, progress)
        with fresh_network():
            costs.append(cost(strategy, blocks=blocks))
    return Cures(settings, tuple(rounds), tuple(costs))


def to_record(cures: Cures) -> Record:
    """Return the lines to store."""
    rows = [{"round": asdict(each)} for each in cures.rounds] + [{"cost": asdict(each)} for each in cures.costs]
    return Record("cures", asdict(cures.settings), tuple(rows))


def from_record(record: Record) -> Cures:
    """Return what :func:`to_record` stored.

    Raises:
        NotARecord: a field is missing or makes no sense.
    """
    try:
        header = {name: value for name, value in record.header.items() if name != "machine"}
        return Cures(
            StormSettings(**header),
            tuple(Round(**row["round"]) for row in record.rows if "round" in row),
            tuple(Cost(**row["cost"]) for row in record.rows if "cost" in row),
        )
    except (KeyError, TypeError) as error:
        raise NotARecord(f"the record is damaged ({error})") from error
