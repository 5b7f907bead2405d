"""Layout of the changes of ``tailbite fix``: commands to type, diffs of files, and refusals as one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any

from tailbite.cli.output import Unsupported, plain, reason_of
from tailbite.core.ports import shortened
from tailbite.host.change.apply import ChangedMeanwhile
from tailbite.host.change.records import Destroy, FileChange, SettingChange
from tailbite.host.sysctl.tree import ENCODING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tailbite.host.change.apply import Done
    from tailbite.host.change.records import Change

__all__ = ["as_bytes", "as_fields", "change_name", "done_fields", "refusals"]


def change_name(change: Change) -> str:
    """Return what is changed, in a few words."""
    if isinstance(change, FileChange):
        return change.path
    if isinstance(change, SettingChange):
        return f"{change.key} in {change.namespace}"
    return f"{change.sighting.socket.endpoints.local} in {change.sighting.namespace}"


def as_bytes(change: Change) -> bytes:
    """Return a change for people: a command to type, or a diff, under a comment that says what it is about.

    Bytes, because a file may hold text that is not UTF-8.
    """
    return _as_text(change).encode(**ENCODING)


def _as_text(change: Change) -> str:
    if isinstance(change, FileChange):
        what = "made" if change.before is None else "removed" if change.after is None else "changed"
        return f"# for the next boot: {change.path} is {what}\n{change.diff()}"
    if isinstance(change, SettingChange):
        where = plain(str(change.namespace))  # a line break in a name would make what follows a command
        return f"# at once, in {where}; was: {shortened(change.before) or 'nothing'}\n{change.command()}\n"
    found = change.sighting.socket
    who = plain(", ".join(str(owner) for owner in change.sighting.owners))
    return f"# {found.state.label} to itself{f', held by {who}' if who else ''}\n{change.command()}\n"


def as_fields(change: Change, note: str = "") -> dict[str, Any]:
    """Return a change for JSON."""
    if isinstance(change, FileChange):
        fields: dict[str, Any] = {"kind": "file", "path": change.path, "diff": change.diff()}
    elif isinstance(change, SettingChange):
        fields = {
            "kind": "setting",
            "namespace": change.namespace.inode,
            "key": change.key,
            "before": change.before,
            "after": change.after,
            "command": change.command(),
        }
    else:
        fields = {
            "kind": "destroy",
            "namespace": change.sighting.namespace.inode,
            "endpoint": change.sighting.socket.endpoints.local,
            "state": change.sighting.socket.state,
            "owners": change.sighting.owners,
            "command": change.command(),
            "refused": None,
        }
    return {**fields, "note": note or None}


def done_fields(one: Done) -> dict[str, Any]:
    """Return a change that was applied for JSON, with the reason if it was refused."""
    fields = as_fields(one.change, one.note)
    return {**fields, "refused": one.refused or None} if isinstance(one.change, Destroy) else fields


@contextlib.contextmanager
def refusals(done: list[Any], path: object, planned: Iterable[Change]) -> Iterator[None]:
    """Turn what the system refuses into one sentence, which says what has been done by then.

    Args:
        done: what has been done, as it is when the refusal comes.
        path: the journal.
        planned: the changes that were planned.
    """
    try:
        yield
    except (OSError, ChangedMeanwhile, ValueError) as error:
        so_far = f"; {len(done)} of the changes were made, `tailbite fix --undo --apply` reverts them" if done else ""
        raise Unsupported(f"{_reason(error, path, planned)}{so_far}") from None


def _reason(error: Exception, path: object, planned: Iterable[Change]) -> str:
    if isinstance(error, BlockingIOError):
        return f"another `tailbite fix` is at work (it holds the lock beside {path})"
    if isinstance(error, OSError) and error.errno in (errno.EPERM, errno.EACCES):
        what = _what(error)
        files = ", or leave the files out with --no-files" if what.startswith("/etc/") else ""
        if not what.startswith(("/proc/", "/etc/")) and os.geteuid() != 0:  # the journal's folder comes first
            what = ", ".join(map(change_name, planned)) or what
        return f"not permitted: {what}; run it as root{files}"
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return f"this file system is read-only: {_what(error)}; in a container, set it where the container is started"
    if isinstance(error, FileNotFoundError) and _what(error).startswith("/proc/"):
        return "the network namespace can no longer be entered: the process that was in it has ended"
    if isinstance(error, OSError):
        return reason_of(error, with_file=True)
    return str(error)


def _what(error: OSError) -> str:
    return str(error.filename or error)
