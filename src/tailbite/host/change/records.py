"""Changes to a host, as records: what is there, what should be, how a person would do it, and how it is undone.

Records and pure decisions only; :mod:`tailbite.host.change.apply` makes and undoes them.
"""

from __future__ import annotations

import difflib
import shlex
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.core.ports import PortSet
from tailbite.host.see.abilities import socket_abilities
from tailbite.host.see.end_refusal import cannot_destroy
from tailbite.host.sysctl.text import value_in, with_assignment, without_assignment
from tailbite.host.sysctl.value import EPHEMERAL, PAGE, RESERVED, reserved_value
from tailbite.kernel.inet_diag import TcpState

if TYPE_CHECKING:
    from tailbite.host.see.records import Namespace
    from tailbite.host.see.scan import Sighting

NO_PORTS = PortSet()

__all__ = ["NO_PORTS", "Change", "Destroy", "FileChange", "SettingChange", "in_namespace"]


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that gets another text, or is made, or goes.

    Attributes:
        path: the file, symbolic links followed.
        before: its text; None if there is no such file.
        after: its text afterwards; None if it is removed.
        added: the ports that this reserves and no file did.
    """

    path: str
    before: str | None
    after: str | None
    added: PortSet = NO_PORTS

    def diff(self) -> str:
        """Return the change as patch(1) reads it; line ends as they are."""
        old, new = ((text or "").splitlines(keepends=True) for text in (self.before, self.after))
        lines = difflib.unified_diff(
            old,
            new,
            "/dev/null" if self.before is None else self.path,
            "/dev/null" if self.after is None else self.path,
        )
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)

    def undone(self, now: str | None) -> str | None:
        """Return what the text becomes when this change is reverted.

        If nobody touched the file since, that is what it was. If somebody did, only what this change brought goes:
        the ports it added, or the range if that is still ours.

        Args:
            now: the text as it is; None if the file is gone.
        """
        if now == self.after:
            return self.before
        if now is None or now == self.before or self.after is None:
            return now
        for setting in (RESERVED, EPHEMERAL):
            ours, was = value_in(self.after, setting.key), value_in(self.before or "", setting.key)
            there = value_in(now, setting.key)
            if ours is None or ours == was or there is None:
                continue
            if setting is RESERVED:
                left = (reserved_value(there) or PortSet()) - self.added
                brought = reserved_value(ours) or PortSet()
                keep = str(left) if was is not None or len(left - brought) else None
            else:
                keep = was if there == ours else there
            now = without_assignment(now, setting.key) if keep is None else with_assignment(now, setting.key, keep)
        return now


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting of the running kernel, below ``net.ipv4`` in one network namespace, that gets another value.

    Attributes:
        namespace: where.
        key: as sysctl(8) has it.
        before: its text.
        after: its text afterwards.
        added: the ports that this reserves and that were not.
    """

    namespace: Namespace
    key: str
    before: str
    after: str
    added: PortSet = NO_PORTS

    def command(self) -> str:
        """Return what to type."""
        if len(self.after) < PAGE:
            return in_namespace(self.namespace, f"sysctl -w {shlex.quote(f'{self.key}={self.after}')}")
        # The kernel takes a page per write(2); sysctl(8) leaves it at one, and a shell writes on.
        write = f"printf '%s\\n' {shlex.quote(self.after)} > /proc/sys/{self.key.replace('.', '/')}"
        return in_namespace(self.namespace, f"sh -c {shlex.quote(write)}")


@dataclass(frozen=True, slots=True)
class Destroy:
    """A self-connected socket, or the TIME-WAIT it left, that goes (SOCK_DESTROY). There is no way back."""

    sighting: Sighting

    @property
    def is_possible(self) -> bool:
        """False if this kernel has no way to end the socket."""
        state = self.sighting.socket.state
        able = socket_abilities((state,))
        if state is TcpState.TIME_WAIT:
            return able.destroy_time_wait is not False or able.repair
        return able.destroy is not False

    def command(self) -> str:
        """Return the command to type: the filter names this socket and no other (ss(8)).

        Where ``ss -K`` would end nothing, without a word, the command is tailbite's own for a TIME-WAIT, and a
        comment for a connection.
        """
        found = self.sighting.socket
        end = found.endpoints.local
        able = socket_abilities((found.state,))
        if found.state is TcpState.TIME_WAIT:
            if able.destroy_time_wait is False:
                return self.sighting.namespace.tailbite(f"fix --kill {end.port} --apply")
        elif able.destroy is False:
            return f"# {cannot_destroy(end)}"
        mapped = found.family == socket.AF_INET6 and ":" not in end.host
        name = shlex.quote(f"[::ffff:{end.host}]:{end.port}" if mapped else str(end))
        state = found.state.label.lower()
        return in_namespace(self.sighting.namespace, f"ss -K -t state {state} src {name} dst {name}")


Change = FileChange | SettingChange | Destroy


def in_namespace(namespace: Namespace, command: str) -> str:
    """Return a command that does ``command`` in that network namespace (nsenter(1))."""
    return f"nsenter --net={shlex.quote(namespace.path)} {command}" if namespace.path else command
