"""Remedies that this process may not apply although it is root: they are for the host of its container. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tailbite.host.explain.finding import Finding, Remedy
    from tailbite.host.see.permissions import Permissions

__all__ = ["within_permissions"]

_DESTROYS = ("tailbite fix --kill", "ss -K")
_SETS = ("tailbite fix --reserve", "tailbite fix --range", "tailbite fix --ports", "sysctl -w")
_CONTAINER = "CONTAINER"
"""Placeholder in commands: no process knows the name that its own container has outside."""


def within_permissions(findings: Iterable[Finding], allowed: Permissions) -> tuple[Finding, ...]:
    """Return findings whose remedies say where they can be applied; those of other namespaces stay as they are.

    Args:
        findings: the findings.
        allowed: what this process may do in its own network namespace.
    """
    return tuple(
        replace(one, remedies=tuple(_limited(remedy, allowed) for remedy in one.remedies))
        if one.namespace.is_own
        else one
        for one in findings
    )


def _limited(remedy: Remedy, allowed: Permissions) -> Remedy:
    line = remedy.commands[0] if remedy.commands else ""
    if not allowed.destroys and line.startswith(_DESTROYS):
        why = "this process lacks CAP_NET_ADMIN"
    elif not allowed.sets and line.startswith(_SETS) and "--root" not in line:
        why = "this process may not write /proc/sys"
    else:
        return remedy
    return replace(
        remedy,
        text=f"on the host of this container, because {why}: {remedy.text}",
        commands=tuple(map(_from_outside, remedy.commands)),
    )


def _from_outside(line: str) -> str:
    """Return a command that does on the host what ``line`` would do in this container."""
    if line.startswith("tailbite"):
        return line.replace(" --apply", f" --netns {_CONTAINER} --apply")
    return f"nsenter --net=/proc/PID/ns/net {line}"
