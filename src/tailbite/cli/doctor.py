"""``tailbite doctor``: is this host at risk, and what helps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tailbite.cli import status
from tailbite.cli.output import as_json, console, emit_json, note
from tailbite.cli.services import SERVICES
from tailbite.host.explain.checkup import check_host
from tailbite.host.explain.finding import Severity
from tailbite.host.see import namespaces
from tailbite.kernel.release import kernel_release

if TYPE_CHECKING:
    from tailbite.host.explain.checkup import Checkup
    from tailbite.host.explain.subject import Service, Subject

__all__ = ["command"]

_FIXABLE = frozenset({"TB201", "TB202", "TB203", "TB204"})


@click.command("doctor")
@click.option(
    "--ports",
    "services",
    type=SERVICES,
    default=(),
    metavar="FILE|LIST",
    help="Services that should run here, and may be down now: 50051,8125, or a file with a line PORTS [NAME] each.",
)
@click.option(
    "--netns",
    "wanted",
    default="all",
    show_default=True,
    metavar="all|self|PID|NAME",
    help="Which network namespaces: all that are permitted, this one, that of a process, or one by name.",
)
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default="/",
    metavar="DIR",
    help="Read the sysctl.d files of the next boot below DIR.",
)
@click.option("--json", "as_document", is_flag=True, help="Print one JSON document.")
def command(services: tuple[Service, ...], wanted: str, root: Path, as_document: bool) -> int:
    """Tell whether this host is at risk of self-connects, and what helps.

    Looks at each network namespace: the range source ports are drawn from, the ports reserved in it, servers that
    listen there all the same, self-connects and what they left; and at the kernel, and at what the next boot will
    set. Each finding says how bad it is and how sure, the odds for a client that retries every second, and the
    remedy. Changes nothing.

    Needs no root; what only root can see is said on stderr.

    Exit status: 0 nothing worse than a notice, 1 something worse, 3 nothing found but not everything could be seen.
    """
    try:
        places, not_visible = namespaces.choose_namespaces(wanted)
    except namespaces.UnknownNamespace as error:
        raise click.BadParameter(str(error), param_hint="--netns") from None
    seen = check_host(places, services, not_visible, root=root)
    if as_document:
        _emit(seen)
    else:
        from tailbite.cli.show.doctor import report

        out = console()
        for part in report(seen):
            out.print(part)
        if any(one.code in _FIXABLE for one in seen.findings):
            note("`tailbite fix`, with the same --ports and --netns, shows what would be changed for all of these")
    for item in seen.not_visible:
        note(f"could not see {item}")
    if any(one.severity in (Severity.CRITICAL, Severity.WARNING) for one in seen.findings):
        return status.FOUND
    return status.PARTLY_BLIND if seen.not_visible else status.FINE


def _emit(seen: Checkup) -> None:
    emit_json(
        "doctor",
        taken=seen.taken,
        kernel={"release": kernel_release(), "abilities": seen.abilities},
        namespaces=[_namespace(subject) for subject in seen.subjects],
        findings=[{**as_json(one), "namespace": one.namespace.inode} for one in seen.findings],
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
