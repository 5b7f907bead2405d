"""The value that a tree of sysctl.d(5) files gives a setting, and the smallest edit that changes it. Pure.

At boot every ``*.conf`` of several directories is applied, in the order of the files' names whatever directory they
lie in; of two files of one name only the one in the directory of higher rank is. A later assignment of a setting
replaces an earlier one *whole*: ``ip_local_reserved_ports = 8080`` in a file and ``= 50051`` in a later one reserve
50051 and nothing else. So to add a port is to find the assignment that wins, and to repeat or change its value.

Two programs do this, and they differ in two things (tests/host/explain/test_boot.py meets both). ``sysctl --system``
of procps reads ``/etc/sysctl.conf`` as well, after everything else; systemd-sysctl(8) reads the directories only. And
systemd collects before it writes: if the last value is one the kernel refuses, say for a comment behind it, no
earlier one is set in its place; procps writes them all in turn. Hence :class:`BootOrder`: an edit has to hold in
every order there is.

This module gets texts and returns texts; reading and writing them is :mod:`tailbite.host.sysctl.tree`'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from tailbite.host.sysctl.value import Setting

    SettingType = TypeVar("SettingType")

__all__ = [
    "OWN_FILE",
    "Assignment",
    "BootOrder",
    "ConfigFile",
    "assignments",
    "deciding_assignment",
    "edits_between",
    "later_name",
    "settle_setting",
    "value_at_boot",
    "value_in",
    "with_assignment",
    "without_assignment",
]

OWN_FILE = "/etc/sysctl.d/60-tailbite.conf"
OWN_NAME = OWN_FILE.rpartition("/")[2]

_HEADER = """\
# Made by `tailbite fix`; `tailbite fix --undo --apply` reverts it.
# The last assignment of a setting wins whole (sysctl.d(5)), so these repeat what earlier files assign.
"""
_BLANKS = " \t\n\v\f\r"  # str.strip() takes more: the no-break space is part of a value, which the kernel refuses
# A line that can be edited: both programs read it alike. Indentation, "-" for "a failure does not matter", the key,
# "=", the value, and white space, which includes the \r of a CRLF file.
_GLOB = re.compile(r"[*?\[]")
_LINE = re.compile(r"(?P<head>[ \t]*-?[^\s=#;-][^\s=]*[ \t]*=[ \t]*)[^\r\0\v\f]*?(?P<tail>[ \t]*\r?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One file that is applied at boot.

    Attributes:
        path: where it lies, e.g. ``/etc/sysctl.d/99-sysctl.conf``; its last part decides when it is applied.
        target: the file that has the text, symbolic links followed, e.g. ``/etc/sysctl.conf``.
        text: its content; bytes that are not UTF-8 as surrogates (PEP 383), line ends as they are.
    """

    path: str
    target: str
    text: str

    @property
    def name(self) -> str:
        """The file's name without its directory."""
        return self.path.rpartition("/")[2]

    @property
    def is_local(self) -> bool:
        """True if it is the administrator's: packages own /usr, and /run is gone after a boot (sysctl.d(5))."""
        return self.target.startswith("/etc/")


@dataclass(frozen=True, slots=True)
class BootOrder:
    """The files one program applies, first to last.

    Attributes:
        reader: the program.
        files: in the order of application; of an assignment repeated in several, the last counts.
        last: the path of a file that comes after all others whatever its name, such as /etc/sysctl.conf.
        in_turn: True if every assignment is written, so that one which the kernel refuses leaves an earlier one in
            place; False if all files are read first, and only the last line about a setting counts.
    """

    reader: str
    files: tuple[ConfigFile, ...]
    last: str | None = None
    in_turn: bool = False

    def with_file(self, changed: ConfigFile) -> BootOrder:
        """Return the order with one file's text changed wherever it is read, or with a new file in its place."""
        files = [replace(file, text=changed.text) if file.target == changed.target else file for file in self.files]
        if all(file.path != changed.path for file in files):
            # A file of the same name in a directory of lower rank is no longer read.
            files = [file for file in files if file.name != changed.name or file.path == self.last]
            place = sum(file.name < changed.name and file.path != self.last for file in files)
            files.insert(place, changed)
        return replace(self, files=tuple(files))


@dataclass(frozen=True, slots=True)
class Assignment:
    """One line that assigns the setting.

    Attributes:
        file: where it stands.
        line: the line's number, from 0.
        value: what it assigns, without white space around it; None for ``-key`` alone, which takes the key out of
            every glob, and for systemd cancels an assignment before it.
        is_pattern: True if the key is a glob that matches; a plain assignment anywhere beats it (sysctl.d(5)).
    """

    file: ConfigFile
    line: int
    value: str | None
    is_pattern: bool = False


def _path_of(key: str, *, resolves: bool = False) -> str:
    """Return the path below /proc/sys: if a dot comes first, dots and slashes change places (sysctl.d(5)).

    procps opens the path as it is, so that the kernel resolves "..". systemd refuses a key with "..".
    """
    first = next((char for char in key if char in "./"), ".")
    path = key if first == "/" else key.translate({ord("."): "/", ord("/"): "."})
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and resolves:
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def assignments(file: ConfigFile, key: str, *, in_turn: bool | None = None) -> list[Assignment]:
    """Return the lines of a file that assign ``key``, in their order.

    Args:
        file: the file.
        key: the setting.
        in_turn: True for the lines as procps reads them, False as systemd does, None for those that either reads.
    """
    if in_turn is None:
        either = dict.fromkeys(assignments(file, key, in_turn=False) + assignments(file, key, in_turn=True))
        return sorted(either, key=lambda item: item.line)
    wanted = _path_of(key)
    found = []
    for number, line in _lines_about(file.text, key.rpartition(".")[2], in_turn):
        left, value = _parse(line, in_turn)
        written = _path_of(left, resolves=in_turn)
        if written == wanted and not (in_turn and left.endswith((".", "/"))):
            found.append(Assignment(file, number, value))
        elif value is not None and _matches(wanted, written):
            found.append(Assignment(file, number, value, is_pattern=True))
    return found


@lru_cache(maxsize=256)
def _lines_about(text: str, name: str, in_turn: bool) -> tuple[tuple[int, str], ...]:
    """Return the lines that have the name of a setting, or a glob. A file may have many thousand others."""
    wanted = re.compile(f"{re.escape(name)}|{_GLOB.pattern}").search
    lines = ((number, line) for number, line in enumerate(text.split("\n")) if wanted(line)) if wanted(text) else ()
    return tuple((number, part) for number, line in lines for part in _parts(line, in_turn))


def _parts(line: str, in_turn: bool) -> list[str]:
    """Return what a program takes for lines: for systemd \\r and NUL end one too, for procps NUL hides the rest."""
    return [line.partition("\0")[0]] if in_turn else re.split(r"[\r\0]", line)


def _parse(line: str, in_turn: bool) -> tuple[str, str | None]:
    """Return the key and the value of a line; an empty key if it has none, None for ``-key`` alone.

    The ``-`` means that a failure does not matter. systemd takes blanks behind it, procps another ``-``.
    """
    blanks = _BLANKS if in_turn else " \t\r\n"
    text = line.strip(blanks)
    if text.startswith(("#", ";")):
        return "", None
    left, equals, value = text.partition("=")
    key = left.rstrip(blanks)
    if key.startswith("-"):
        key = key[1:].removeprefix("-") if in_turn else key[1:].lstrip(blanks)
    elif not equals:
        return "", None
    return key, value.strip(blanks) if equals else None


def _matches(path: str, pattern: str) -> bool:
    """Tell whether a path matches a glob, part by part: ``*`` is not for a slash (glob(7))."""
    parts, globs = path.split("/"), pattern.split("/")
    return any(char in pattern for char in "*?[") and len(parts) == len(globs) and all(map(fnmatchcase, parts, globs))


def deciding_assignment(order: BootOrder, setting: Setting[SettingType]) -> Assignment | None:
    """Return the line that decides what the setting is after a boot, or None if no file speaks of it.

    Its value need not be one that the kernel takes: then the setting keeps its default.
    """
    found = [item for file in order.files for item in assignments(file, setting.key, in_turn=order.in_turn)]
    if order.in_turn and any(item.value is not None and not item.is_pattern for item in found):
        found = [item for item in found if item.value is not None and not item.is_pattern]
    plain = [item for item in found if not item.is_pattern]
    deciding = plain or found
    if order.in_turn:
        deciding = [item for item in deciding if item.value is None or setting.parse(item.value) is not None]
    return deciding[-1] if deciding else None


def value_at_boot(order: BootOrder, setting: Setting[SettingType]) -> SettingType | None:
    """Return what the setting is set to at boot, or None if it keeps its default."""
    now = deciding_assignment(order, setting)
    return setting.parse(now.value) if now is not None and now.value is not None else None


def with_assignment(text: str, key: str, value: str) -> str:
    """Return the text with ``key`` set to ``value`` by its last line; every other byte, comment and line end stays.

    A blank text is that of a new file, and gets a comment on top.
    """
    found = assignments(ConfigFile("", "", text), key)
    lines = text.split("\n")
    match = _LINE.fullmatch(lines[found[-1].line]) if found else None
    if match is not None and not found[-1].is_pattern:
        lines[found[-1].line] = f"{match['head']}{value}{match['tail']}"
        return "\n".join(lines)
    if not text.strip():
        return f"{_HEADER}{key} = {value}\n"
    end = "\r\n" if "\r\n" in text else "\n"
    return f"{text}{'' if text.endswith(chr(10)) else end}{key} = {value}{end}"


def value_in(text: str, key: str) -> str | None:
    """Return what the last line about ``key`` in a text assigns; None if no line does, or it assigns nothing."""
    found = [item for item in assignments(ConfigFile("", "", text), key) if not item.is_pattern]
    return found[-1].value if found else None


def without_assignment(text: str, key: str) -> str:
    """Return the text without the line that :func:`value_in` read."""
    found = [item for item in assignments(ConfigFile("", "", text), key) if not item.is_pattern]
    if not found:
        return text
    lines = text.split("\n")
    del lines[found[-1].line]
    return "\n".join(lines)


def later_name(path: str) -> str:
    """Return a file in /etc/sysctl.d that is applied right after ``path``."""
    # "t" sorts after "c": 99-x.tailbite.conf comes after 99-x.conf, where 99-x-tailbite.conf would come before.
    return f"/etc/sysctl.d/{path.rpartition('/')[2].removesuffix('.conf')}.tailbite.conf"


def settle_setting(
    orders: Sequence[BootOrder], setting: Setting[SettingType], merge: Callable[[list[SettingType]], SettingType]
) -> list[BootOrder]:
    """Edit files until every boot order gives the setting the value it should have.

    It goes to :data:`OWN_FILE` if that is where it wins. Where a later file of the administrator wins, that file's
    line is changed; where a later one of a package does, or one whose value the kernel refuses, a file of our own
    comes right after it.

    Args:
        orders: every order in which the files may be applied.
        setting: the setting.
        merge: the values that the orders give it now -> the value that all of them should.

    Returns:
        The orders with the edited texts; :func:`edits_between` tells which those are.
    """
    after = list(orders)
    value = merge([there for order in orders if (there := value_at_boot(order, setting)) is not None])
    for number in (*range(len(after)), *range(len(after))):  # an edit for one order is read by the others too
        there = value_at_boot(after[number], setting)
        if there == value:
            continue
        file = _home(after[number], deciding_assignment(after[number], setting), there is not None)
        changed = replace(file, text=with_assignment(file.text, setting.key, setting.spell(value)))
        after = [order.with_file(changed) for order in after]
    return after


def edits_between(before: Sequence[BootOrder], after: Sequence[BootOrder]) -> dict[str, tuple[str | None, str]]:
    """Return what was edited: the file -> its text before (None: no such file) and after."""
    old = {file.target: file.text for order in before for file in order.files}
    new = {file.target: file.text for order in after for file in order.files}
    return {path: (old.get(path), text) for path, text in sorted(new.items()) if old.get(path) != text}


def _home(order: BootOrder, now: Assignment | None, is_valid: bool) -> ConfigFile:
    """Choose the file that decides after the edit."""
    if now is None or now.is_pattern:
        return _existing(order, OWN_FILE)
    if now.file.path == order.last:
        return now.file
    if now.file.name <= OWN_NAME:
        return _existing(order, OWN_FILE)
    if now.file.is_local and is_valid:
        return now.file
    return _existing(order, later_name(now.file.path))


def _existing(order: BootOrder, path: str) -> ConfigFile:
    """Return a file of our own as it is now; a new one keeps what the file says that it will hide."""
    name = path.rpartition("/")[2]
    hidden = [file for file in order.files if file.name == name and file.path != order.last]
    mine = [file for file in hidden if file.path == path]
    return mine[0] if mine else ConfigFile(path, path, hidden[0].text if hidden else "")
