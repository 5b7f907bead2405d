"""``tailbite doctor``: is this host at risk, and what helps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tailbite._files import read_whole, write_atomically
from tailbite.cli import status
from tailbite.cli.output import as_json, console, emit_json, note, reason_of
from tailbite.cli.params import chosen_namespaces, netns_option, parse_ports
from tailbite.cli.services import SERVICES
from tailbite.host.explain.baseline import KnownFinding, KnownFindings, baseline_of, parse_baseline, parse_ignored
from tailbite.host.explain.checkup import check_host
from tailbite.host.explain.finding import Severity
from tailbite.kernel.release import kernel_release

if TYPE_CHECKING:
    from tailbite.host.explain.checkup import Checkup
    from tailbite.host.explain.finding import Finding
    from tailbite.host.explain.subject import Service, Subject
    from tailbite.host.see.records import NotVisible

__all__ = ["command"]

_FIXABLE = frozenset({"TB101", "TB102", "TB109", "TB204"})


class _Ignored(click.ParamType[tuple[KnownFinding, ...]]):
    """``TB204`` or ``TB204:40000-40010``, or several with commas."""

    name = "code"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[KnownFinding, ...]:
        if isinstance(value, tuple):
            return value
        from tailbite.host.explain.pages import known_codes

        try:
            found = parse_ignored(str(value), parse_ports)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        for one in found:
            if one.code not in known_codes():
                self.fail(f"there is no finding {one.code}: tailbite why --explain lists them", param, ctx)
        return found


@click.command("doctor")
@click.option(
    "--ports",
    "services",
    type=SERVICES,
    default=(),
    metavar="FILE|LIST",
    help="Services that should run here, and may be down now: 50051,8125, or a file with a line PORTS [NAME] each.",
)
@netns_option("Which network namespaces: all that are permitted, this one, that of a process, or one by name.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default="/",
    metavar="DIR",
    help="Read the sysctl.d files of the next boot below DIR.",
)
@click.option(
    "--severity",
    "least",
    type=click.Choice([one.label for one in Severity]),
    default=Severity.FINE.label,
    metavar="LEVEL",
    help="Report only findings of at least this severity: critical, warning, notice or fine (all of them).",
)
@click.option(
    "--ignore",
    "ignored",
    type=_Ignored(),
    multiple=True,
    metavar="CODE[:PORTS]",
    help="Leave out a finding, such as TB204, or for some ports, such as TB204:40000-40010. Can be repeated.",
)
@click.option(
    "--baseline",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Leave out what FILE accepts; see --write-baseline.",
)
@click.option(
    "--write-baseline",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write what is found to FILE, so that from then on --baseline FILE reports only what is new.",
)
@click.option("-j", "--json", "as_document", is_flag=True, help="Print one JSON document.")
def command(
    services: tuple[Service, ...],
    wanted: str,
    root: Path,
    least: str,
    ignored: tuple[tuple[KnownFinding, ...], ...],
    baseline: Path | None,
    write_baseline: Path | None,
    as_document: bool,
) -> int:
    """Tell whether this host is at risk of self-connects, and what helps.

    Inspects each network namespace: the range of source ports, the ports reserved in it, servers that listen
    there all the same, self-connects and the TIME-WAIT they left, whatever else holds the port of a service that
    is down, source ports that are used up; and the kernel, and what the next boot will set. Each finding says
    how bad it is and how sure, the odds for a client that retries every second, and the remedy. Ports in the
    same state are one finding. Changes nothing.

    Needs no root; what only root can see is named on stderr.

    \b
    Examples:
      tailbite doctor
      tailbite doctor --ports 50051,30000-32767 --severity warning
      tailbite doctor --write-baseline accepted.json
      tailbite doctor --baseline accepted.json --ignore TB207

    Exit status: 0 nothing worse than a notice, 1 something worse, 3 nothing found but not everything could be seen.
    """
    places, not_visible = chosen_namespaces(wanted)
    accepted = KnownFindings((*(one for some in ignored for one in some), *_read_baseline(baseline)))
    seen = check_host(places, services, not_visible, root=root, accepted=accepted)
    levels = list(Severity)
    told = [one for one in seen.findings if levels.index(one.severity) <= levels.index(Severity(least))]
    if write_baseline is not None:
        _write_baseline(write_baseline, seen.findings)
    unseen = [item for item in seen.not_visible if not (wanted == "all" and item.is_gone)]
    if as_document:
        _emit(seen, told)
    else:
        _print(seen, told, unseen, accepts=bool(accepted.items))
    if any(one.severity.is_bad for one in told):
        return status.FOUND
    return status.PARTLY_VISIBLE if unseen else status.FINE


def _print(seen: Checkup, told: list[Finding], unseen: list[NotVisible], *, accepts: bool) -> None:
    from tailbite.cli.show.doctor import print_report, summary

    out = console()
    print_report(out, seen, told)
    hidden = len(seen.findings) - len(told)
    last = summary(told, namespaces=len(seen.subjects), hidden=hidden, accepts=accepts)
    out.print(f"\n{last}", soft_wrap=True, markup=False)
    out.file.flush()
    if any(one.code in _FIXABLE for one in told):
        note("`tailbite fix`, with the same --ports and --netns, shows the changes for all of these together")
    for item in unseen:
        note(f"could not see {item}")


def _read_baseline(file: Path | None) -> tuple[KnownFinding, ...]:
    if file is None:
        return ()
    try:
        return parse_baseline(read_whole(file).decode())
    except (OSError, ValueError) as error:
        reason = "it is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else reason_of(error)
        raise click.BadParameter(f"{file} cannot be used: {reason}", param_hint="--baseline") from None


def _write_baseline(file: Path, findings: tuple[Finding, ...]) -> None:
    try:
        write_atomically(file, baseline_of(findings))
    except OSError as error:
        reason = f"{file} cannot be written: {error.strerror}"
        raise click.BadParameter(reason, param_hint="--write-baseline") from None


def _emit(seen: Checkup, findings: list[Finding]) -> None:
    emit_json(
        "doctor",
        taken=seen.taken,
        kernel={"release": kernel_release(), "abilities": seen.abilities},
        source_ports=seen.selection,
        namespaces=[_namespace(subject) for subject in seen.subjects],
        findings=[{**as_json(one), "namespace": one.namespace.inode} for one in findings],
        not_visible=seen.not_visible,
    )


def _namespace(subject: Subject) -> dict[str, Any]:
    seen = subject.seen
    return {
        **as_json(seen.namespace),
        "ephemeral": seen.ephemeral,
        "reserved": seen.reserved,
        "listeners": len(seen.listeners),
        "self_connects": len(seen.held),
        "time_waits": len(seen.time_waits),
        "sysctls": {item.name: item.value for item in seen.sysctls},
    }
