"""Journal of the changes that tailbite made on this host, for --undo: one JSON file, the last entry at the end.

An entry is written before the first of its changes is made. So whatever happens in between, ``--undo`` knows.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailbite._files import write_atomically
from tailbite.core.ports import PortSet
from tailbite.host.change.records import FileChange, SettingChange
from tailbite.host.see.records import Namespace, NamespaceKind
from tailbite.host.sysctl.tree import path_below, resolve_links

if TYPE_CHECKING:
    from collections.abc import Iterator


__all__ = ["Journal", "JournalEntry", "Step", "boot_id"]

_SCHEMA = "tailbite.undo/1"
_MOST_ENTRIES = 100


@dataclass(frozen=True, slots=True)
class Step:
    """One change that was made, or was about to be.

    Attributes:
        change: the change. One that destroys is never in a journal: there is no way back.
        cookie: the namespace of a setting, as SO_NETNS_COOKIE names it, in hexadecimal; empty if the kernel cannot.
    """

    change: FileChange | SettingChange
    cookie: str = ""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """The changes of one ``tailbite fix --apply``.

    Attributes:
        at: when, in seconds since the epoch.
        boot: which boot it was (/proc/sys/kernel/random/boot_id): namespaces and their cookies end with it.
        steps: in the order of doing.
    """

    at: float
    boot: str
    steps: tuple[Step, ...]


class Journal:
    """The journal of one system.

    Args:
        root: the system's root directory; None for the running one, where it is /var/lib/tailbite for root and
            $XDG_STATE_HOME/tailbite for others.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.path = _home(root) / "undo.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out.

        Raises:
            BlockingIOError: another run is at work.
            OSError: the directory cannot be made or written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        with open(self.path.with_suffix(".lock"), "w", encoding="ascii") as lock:  # noqa: PTH123
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield

    def entries(self) -> list[JournalEntry]:
        """Return the entries, the oldest first.

        Raises:
            ValueError: the file was not written by tailbite.
            OSError: it cannot be read.
        """
        try:
            data = json.loads(self.path.read_bytes())
            if data["schema"] != _SCHEMA:
                raise ValueError(f"schema {data['schema']!r} is not {_SCHEMA!r}")
            return [_entry(item) for item in data["entries"]]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is not a journal of tailbite: {error}") from error

    def push(self, entry: JournalEntry) -> None:
        """Add an entry."""
        self._write([*self.entries(), entry][-_MOST_ENTRIES:])

    def pop(self) -> None:
        """Forget the last entry."""
        self._write(self.entries()[:-1])

    def _write(self, entries: list[JournalEntry]) -> None:
        data = {"schema": _SCHEMA, "entries": [_plain(entry) for entry in entries]}
        write_atomically(self.path, json.dumps(data, indent=1), mode=0o600, durable=True)


def boot_id() -> str:
    """Return what names this boot; empty where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _home(root: Path | None) -> Path:
    if root is not None:
        return path_below(root, resolve_links(root, "/var/lib/tailbite"))
    # In a user namespace one is root, and may not write there all the same.
    if os.geteuid() == 0 and os.access("/var/lib", os.W_OK):
        return Path("/var/lib/tailbite")
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if state.startswith("/") else Path.home() / ".local/state") / "tailbite"


def _plain(entry: JournalEntry) -> dict[str, Any]:
    steps = []
    for step in entry.steps:
        item = {**asdict(step.change), "added": str(step.change.added), "cookie": step.cookie}
        if isinstance(step.change, SettingChange):
            item["namespace"] = {**asdict(step.change.namespace), "kind": step.change.namespace.kind.value}
        steps.append(item)
    return {"at": entry.at, "boot": entry.boot, "steps": steps}


def _entry(item: dict[str, Any]) -> JournalEntry:
    return JournalEntry(float(item["at"]), str(item["boot"]), tuple(_step(step) for step in item["steps"]))


def _step(item: dict[str, Any]) -> Step:
    cookie, added = str(item["cookie"]), PortSet.parse(item["added"])
    if "path" in item:
        return Step(FileChange(item["path"], item["before"], item["after"], added), cookie)
    where = item["namespace"]
    namespace = Namespace(where["inode"], NamespaceKind(where["kind"]), where["name"], where["path"])
    return Step(SettingChange(namespace, item["key"], item["before"], item["after"], added), cookie)
