"""``tailbite check``: this host once, in the format of a monitoring system."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from tailbite._extras import needed
from tailbite.cli.output import Unsupported, emit_json, note, reason_of
from tailbite.cli.params import DURATION
from tailbite.watch.check import CheckFormat, CheckResult, Item, check_result, exit_status, render, unknown_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.watch.inspector import InspectionRound

__all__ = ["command"]


class _Check(click.Command):
    """A command that reports its failures in the requested format too: a typo must not alert anybody at night."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        form = _wanted_format(args)
        try:
            return super().make_context(info_name, list(args), *rest, **extra)
        except click.UsageError as error:
            _end_unknown(form, error.format_message())
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            text = (
                error.format_message()
                if isinstance(error, click.ClickException)
                else reason_of(error, with_file=True)
            )
            _end_unknown(CheckFormat(ctx.params.get("form", "text")), text or type(error).__name__)
            raise


def _wanted_format(args: Sequence[str]) -> CheckFormat:
    words = [*args, ""]
    for place, word in enumerate(args):
        value = words[place + 1] if word == "--as" else word.removeprefix("--as=") if word.startswith("--as=") else ""
        if value in [one.value for one in CheckFormat]:
            return CheckFormat(value)
    return CheckFormat.TEXT


def _end_unknown(form: CheckFormat, reason: str) -> None:
    if (said := unknown_line(form, reason)) is not None:
        click.echo(said[0])
        sys.stdout.flush()
        sys.exit(said[1])


@click.command("check", cls=_Check)
@click.option(
    "--as",
    "form",
    type=click.Choice([one.value for one in CheckFormat]),
    default="text",
    show_default=True,
    help="Whose format and exit statuses: nagios (also Icinga, NRPE), npd (node-problem-detector), zabbix "
    "(UserParameter), telegraf (inputs.exec, influx), prometheus (metrics).",
)
@click.option(
    "--item",
    type=click.Choice([one.value for one in Item]),
    default=Item.SELF_CONNECTS.value,
    show_default=True,
    help="With --as zabbix: the value to print; discovery prints the ports of self-connects as JSON.",
)
@click.option(
    "-n",
    "--netns",
    "place",
    type=click.Choice(["all", "self"]),
    default="all",
    show_default=True,
    help="Which network namespaces: all that are permitted (root sees all), or this one.",
)
@click.option(
    "--timeout",
    type=DURATION,
    default="3s",
    show_default=True,
    help="Begin no further namespace after this time; those left out count as not visible.",
)
@click.option("-j", "--json", "as_document", is_flag=True, help="Print one JSON document; not together with --as.")
def command(form: str, item: str, place: str, timeout: float, as_document: bool) -> int:
    """Check this host once for self-connects, in the format of a monitoring system.

    \b
    Examples:
      tailbite check
      tailbite check --as nagios
      tailbite check --as prometheus

    Exit status: 0 fine, 1 found, 3 unknown, 2 wrong usage; with --as those of that format (see below).

    \b
    format        fine  found        unknown  wrong usage
    text          0     1            3        2
    nagios        0     1 or 2       3        3
    npd           0     1            2        2
    others        0     0            0        2

    For Nagios a self-connect that is held open is CRITICAL (2), one that was closed and still blocks its port
    (TIME-WAIT) is a WARNING (1). Telegraf, Zabbix and Prometheus get numbers and always 0, because they drop the
    output of a command that fails. Unknown means: nothing was found, but not everything was visible.
    """
    chosen = CheckFormat(form)
    if as_document and chosen is not CheckFormat.TEXT:
        raise click.UsageError("--json is a format of its own: leave out --as.")
    found = _inspect(only_own=place == "self", timeout=timeout)
    result = _sum_up(found, timeout)
    if as_document:
        emit_json("check", **_fields(result))
    elif chosen is CheckFormat.PROMETHEUS:
        click.echo(_metrics(found), nl=False)
    else:
        click.echo(render(result, chosen, Item(item)))
    if chosen is CheckFormat.TEXT:  # others take stderr for part of the value
        for one in result.not_visible:
            note(f"could not see {one}")
    return exit_status(result, chosen)


def _inspect(*, only_own: bool, timeout: float) -> InspectionRound:
    from tailbite.watch.inspector import Inspector

    # The budget is time on the wall here: the caller waits.
    inspector = Inspector(only_own=only_own, every=timeout, budget=1.0, cpu_clock=time.monotonic)
    return inspector.inspect_round(time.monotonic())


def _sum_up(found: InspectionRound, timeout: float) -> CheckResult:
    if not found.deferred:
        return check_result(found)
    from tailbite.host.see.records import NotVisible

    what = f"{found.deferred} network namespace{'' if found.deferred == 1 else 's'}"
    return check_result(found, NotVisible(what, f"they did not fit into --timeout {timeout:g}s"))


def _fields(result: CheckResult) -> dict[str, Any]:
    return {
        "self_connects": [{"endpoint": end, "place": place.removeprefix(" in ")} for end, place in result.held],
        "time_waits": [{"endpoint": end, "place": place.removeprefix(" in ")} for end, place in result.time_waits],
        "exposed_listeners": result.exposed,
        "namespaces": result.namespaces,
        "not_visible": result.not_visible,
    }


def _metrics(found: InspectionRound) -> str:
    try:
        with needed("the Prometheus format", extra="prometheus"):
            from prometheus_client import CollectorRegistry, generate_latest

            from tailbite.watch.metrics import ExporterState, StateCollector
    except ModuleNotFoundError as error:
        raise Unsupported(str(error)) from None
    from tailbite.watch.records import SourceKind, SourceState

    state = ExporterState(SourceState(SourceKind.POLL))
    state.take_round(found)
    registry = CollectorRegistry()
    registry.register(StateCollector(state))
    return generate_latest(registry).decode()
