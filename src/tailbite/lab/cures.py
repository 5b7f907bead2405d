"""All strategies in the same storm: measured, stored and summarized."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tailbite.kernel.namespace import fresh_network
from tailbite.lab.cost import Cost, measure_cost
from tailbite.lab.record import NotARecord, Record
from tailbite.lab.storm import StormRound, StormSettings, run_storm
from tailbite.lab.strategies import STRATEGIES, Strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Cures", "Summary", "cures_from_record", "cures_to_record", "run_cures"]


@dataclass(frozen=True, slots=True)
class Summary:
    """Summary of one strategy.

    Attributes:
        strategy: the strategy's name.
        restarts: number of restarts of the server.
        self_connects: number of self-connects in all restarts.
        failed: number of restarts whose first attempt failed.
        down: seconds without the server in the worst restart; None if it could not have started at all.
        recovered: median seconds until all clients were served; None if most restarts did not get there.
        cost: cost of a connect as a multiple of the naive one; None if not measured.
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
        """``down`` as text."""
        if self.down is None:
            return "until killed"
        return "0" if not self.failed else f"{self.down:.1f} s"


@dataclass(frozen=True, slots=True)
class Cures:
    """Result of all strategies: the settings, every restart, and the cost per connect."""

    settings: StormSettings
    rounds: tuple[StormRound, ...]
    costs: tuple[Cost, ...]

    def summaries(self) -> list[Summary]:
        """Return one summary for each strategy, in the order they were run."""
        return [self._summarize(name) for name in dict.fromkeys(each.strategy for each in self.rounds)]

    def _summarize(self, name: str) -> Summary:
        rounds = [each for each in self.rounds if each.strategy == name]
        failed = [each for each in rounds if each.failed_starts]
        # No timer of the kernel ends an established self-connect: the client holds it until it exits.
        until_killed = any(each.helped and each.held_by != "TIME-WAIT" for each in rounds)
        served = [each.recovered for each in rounds if each.recovered is not None]
        return Summary(
            strategy=name,
            restarts=len(rounds),
            self_connects=sum(each.self_connects for each in rounds),
            failed=len(failed),
            down=None if until_killed else max(each.down for each in rounds),
            recovered=round(statistics.median(served), 3) if 2 * len(served) > len(rounds) else None,
            cost=next((each.ratio for each in self.costs if each.strategy == name), None),
        )

    @property
    def is_as_claimed(self) -> bool:
        """True if no start failed where self-connects are prevented, and some failed with the naive strategy."""
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
    progress: Callable[[StormRound], None],
    *,
    blocks: int = 120,
) -> Cures:
    """Run every strategy in a network namespace of its own.

    Args:
        strategies: the strategies.
        settings: the storm.
        begin: called with the name of each strategy before it runs.
        progress: called with each restart's result.
        blocks: number of blocks in which the cost of a connect is measured.

    Raises:
        NamespaceUnavailable: this process may not create network namespaces.
        NoControl: a plain client did not connect to itself in the namespace of a strategy.
    """
    rounds: list[StormRound] = []
    costs: list[Cost] = []
    for strategy in strategies:
        begin(strategy.name)
        with fresh_network():
            rounds += run_storm(strategy, settings, progress)
        with fresh_network():
            costs.append(measure_cost(strategy, blocks=blocks))
    return Cures(settings, tuple(rounds), tuple(costs))


def cures_to_record(cures: Cures) -> Record:
    """Return the record to store."""
    rows = [{"round": asdict(each)} for each in cures.rounds] + [{"cost": asdict(each)} for each in cures.costs]
    return Record("cures", asdict(cures.settings), tuple(rows))


def cures_from_record(record: Record) -> Cures:
    """Return the result that :func:`cures_to_record` stored.

    Raises:
        NotARecord: a field is missing or has an invalid value.
    """
    try:
        header = {name: value for name, value in record.header.items() if name != "machine"}
        return Cures(
            StormSettings(**header),
            tuple(StormRound(**row["round"]) for row in record.rows if "round" in row),
            tuple(Cost(**row["cost"]) for row in record.rows if "cost" in row),
        )
    except (KeyError, TypeError) as error:
        raise NotARecord(f"the record is damaged ({error})") from error
