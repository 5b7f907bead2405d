"""Application and reversal of changes to this host: the one place of this package that writes.

Each change is checked again right before it is made, because the host may have changed since it was shown: a file
must have the text it had, and ports are merged with those reserved by then.
"""

from __future__ import annotations

import errno
import socket
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite._files import remove_durably, write_atomically
from tailbite.core.ports import PortSet
from tailbite.host.change.journal import Journal, JournalEntry, Step, boot_id
from tailbite.host.change.records import Change, Destroy, FileChange, SettingChange
from tailbite.host.see import namespaces
from tailbite.host.see.scan import destroy_self_connects
from tailbite.host.see.visit import inside
from tailbite.host.sysctl.tree import ENCODING, path_below, resolve_links
from tailbite.host.sysctl.value import RESERVED
from tailbite.kernel.sockopt import netns_cookie
from tailbite.kernel.sysctl import read_reserved_ports, read_sysctl, write_reserved_ports, write_sysctl

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tailbite.host.see.records import Namespace

__all__ = ["ChangedMeanwhile", "Done", "apply_changes", "revert_last"]


class ChangedMeanwhile(RuntimeError):  # noqa: N818
    """A file or setting is not as it was when its change was planned; nothing was done to it."""


@dataclass(frozen=True, slots=True)
class Done:
    """The result of one change.

    Attributes:
        change: the change.
        note: what there is to say about it, in a sentence without a full stop; empty if it went as planned.
        refused: why a socket was not destroyed, and what to do; empty if the change was made.
    """

    change: Change
    note: str = ""
    refused: str = ""


def apply_changes(changes: Sequence[Change], journal: Journal, root: Path) -> Iterator[Done]:
    """Make the changes, in order, and yield each that is made, and each socket that could not be destroyed.

    Raises:
        ChangedMeanwhile: a file has another text now.
        OSError: not permitted (EACCES, EPERM), another run is at work (EAGAIN), ...; what was yielded is done.
    """
    steps = tuple(Step(change, _cookie(change)) for change in changes if not isinstance(change, Destroy))
    with journal.locked() if steps else nullcontext():
        for change in changes:
            if isinstance(change, FileChange) and _read(root, change.path) != change.before:
                raise ChangedMeanwhile(f"{change.path} has been changed meanwhile; run the command again")
        if steps:
            journal.push(JournalEntry(time.time(), boot_id(), steps))
        for number, change in enumerate(changes):
            try:
                done = _make(change, root)
            except OSError:
                if steps and not number:
                    journal.pop()  # nothing was done, so there is nothing to revert
                raise
            yield done


def revert_last(journal: Journal, root: Path, *, dry: bool = False, files_only: bool = False) -> Iterator[Done]:
    """Revert what the last entry of the journal did, and forget it; changes that others made since stay.

    Args:
        journal: the journal.
        root: where the files are.
        dry: say what would be done, and do nothing.
        files_only: leave the running kernel alone.

    Yields:
        What is done, as a change of its own.

    Raises:
        OSError: not permitted, another run is at work (EAGAIN), ...; the entry stays.
    """
    with nullcontext() if dry else journal.locked():
        entry = journal.entries()[-1]
        for step in reversed(entry.steps):
            if isinstance(step.change, FileChange):
                yield _restore_file(step.change, root, dry)
            elif not files_only:
                yield _restore_setting(step, step.change, entry.boot, dry)
        if not dry:
            journal.pop()


def _make(change: Change, root: Path) -> Done:
    if isinstance(change, FileChange):
        _write(root, change.path, change.after)
    elif isinstance(change, SettingChange):
        with inside(change.namespace):
            is_list = change.key == RESERVED.key  # others may have reserved more since: merge again
            _set(change.key, str(read_reserved_ports() | change.added) if is_list else change.after)
    else:
        return _end(change)
    return Done(change)


def _end(change: Destroy) -> Done:
    (killed,) = destroy_self_connects([change.sighting])
    if killed.refused is not None:
        return Done(change, refused=killed.refused.why)
    if killed.had_ended:
        return Done(change, "it had ended by itself")
    bound = "its owner had bound the port, and keeps it until it closes the socket"
    return Done(change, bound if killed.still_bound else "")


def _restore_file(change: FileChange, root: Path, dry: bool) -> Done:
    now = _read(root, change.path)
    then = change.undone(now)
    back = FileChange(change.path, now, then, change.added)
    if then == now:
        return Done(back, "nothing that tailbite wrote is left in it")
    if not dry:
        _write(root, change.path, then)
    return Done(back, "" if now == change.after else "it was edited since: only what was added is removed")


def _restore_setting(step: Step, change: SettingChange, boot: str, dry: bool) -> Done:
    where = _find(change.namespace, step.cookie if boot == boot_id() else "")
    if where is None:
        return Done(change, f"the network namespace of {change.namespace} is gone, and its settings with it")
    with inside(where):
        now = read_sysctl(change.key.rpartition(".")[2]) or ""
        if change.key == RESERVED.key:
            now = str(read_reserved_ports())
            then = str(PortSet.parse(now) - change.added)
        else:
            now = " ".join(now.split())
            then = change.before if now == change.after else now
        back = SettingChange(where, change.key, now, then)
        if then == now:
            theirs = now != change.before and change.key != RESERVED.key
            return Done(
                back, "it has another value by now, which stays" if theirs else "nothing that tailbite set is left"
            )
        if not dry:
            _set(change.key, then)
        return Done(back)


def _find(namespace: Namespace, cookie: str) -> Namespace | None:
    """Return the namespace with that cookie as it can be entered now; its number and its pids may be others'.

    Raises:
        OSError: it was not found, and one of the others cannot be entered.
    """
    if not cookie:  # another boot, or a kernel before 5.14
        return namespaces.current_namespace() if namespace.is_own else None
    hindrance = None
    for candidate in namespaces.visible_namespaces()[0]:
        try:
            with inside(candidate):
                if _cookie_here() == cookie:
                    return candidate
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESRCH):  # else its last process has ended meanwhile
                hindrance = error
    if hindrance is not None:
        raise hindrance  # this may be the namespace, so it need not be gone
    return None


def _cookie(change: FileChange | SettingChange) -> str:
    if isinstance(change, FileChange):
        return ""
    with inside(change.namespace):
        return _cookie_here()


def _cookie_here() -> str:
    try:
        with socket.socket() as sock:
            return netns_cookie(sock).hex()
    except OSError:
        return ""


def _set(key: str, value: str) -> None:
    if key == RESERVED.key:
        write_reserved_ports(PortSet.parse(value))
    else:
        write_sysctl(key.rpartition(".")[2], value)


def _read(root: Path, path: str) -> str | None:
    try:
        return path_below(root, resolve_links(root, path)).read_bytes().decode(**ENCODING)
    except FileNotFoundError:
        return None


def _write(root: Path, path: str, text: str | None) -> None:
    file = path_below(root, resolve_links(root, path))  # /etc/sysctl.d itself may be a link, and not out of the root
    if text is None:
        remove_durably(file)
    else:
        write_atomically(file, text.encode(**ENCODING), mode=0o644, durable=True)
