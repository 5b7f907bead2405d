"""Checks of a catalogue entry: does its driver behave like the programs that use such a client?

A driver decides the verdict as much as the client does. One that drops its object has it closed by the garbage
collector; one that ends after an error is gone before a server could be kept down; a timeout that is not the client's
default ends a connection that a program would keep. So a driver keeps its object, catches errors, comes back, and
uses the defaults; an entry that must differ says how and why in ``differs``. Pure: the files are read, not run.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.audit.catalogue import CatalogueEntry

__all__ = ["Fault", "check"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of an entry.

    Attributes:
        entry: its name.
        where: the file inside it, or the key.
        rule: timeout, object, errors, loop, exit or syntax.
        reason: what is wrong, and what to do.
    """

    entry: str
    where: str
    rule: str
    reason: str

    def __str__(self) -> str:
        return f"{self.entry}: {self.where}: {self.rule}: {self.reason}"


_TIMEOUT: Final = re.compile(
    r"(?<!set)time_?out|TimeoutMS|--max-time|--tries|max[-_]tries|\+time=|\+tries=|max[-_]retries|[-_]attempts\b|"
    r"deadline|retry[-_](?:delay|wait)|heartbeat\s*=",
    re.IGNORECASE,
)
_SCRIPTS: Final = {
    ".js": (
        r"\bsetInterval\(|\bsetTimeout\(|\bwhile \(true\)|\bfor \(;;\)",
        r"\.catch\(|\bcatch\b|\"error\"|\(error",
    ),
    ".java": (r"\bwhile \(true\)|\bfor \(;;\)", r"\bcatch \("),
    ".go": (r"\bfor \{", r"err != nil|err == nil"),
    ".rs": (r"\bloop \{", r"\bErr\(|is_ok\(|if let Ok"),
    ".rb": (r"\bloop do\b|\bwhile true\b", r"\brescue\b"),
    ".pl": (r"\bwhile \(1\)", r"\beval \{|\bor |\|\|"),
    ".php": (r"\bwhile \(true\)|\bfor \(;;\)", r"\bcatch \(|\?|\bif \("),
    ".lua": (r"\bwhile true do\b", r"\bpcall\(|\bif |\bor\b"),
    ".tcl": (r"\bwhile (?:1|true)\b", r"\bcatch \{"),
    ".erl": (r"\bloop\(", r"\{error,"),
    ".exs": (r"\bloop\(", r"\{:error,"),
    ".c": (r"\bfor \(;;\)|\bwhile \(1\)|\buv_run\(|_dispatch\(", r"->err\b|\bif \(| \? "),
    ".scm": (r"\(let loop \(", r"\(catch #t|\(guard "),
    ".lisp": (r"\(loop\b", r"\(handler-case"),
    ".pas": (r"\bwhile true do\b", r"\bexcept\b"),
    ".awk": (r"\bwhile \(1\)", r"NONFATAL"),
    ".zsh": (r"\bwhile true\b", r"&&|\|\|"),
}
"""By suffix: a pattern that every driver matches because it comes back, and one because it catches errors."""

_EXITS: Final = re.compile(
    r"process\.exit\(|\bsys\.exit\(|\bos\.Exit\(|System\.exit\(|process::exit\(|^\s*exit\b", re.MULTILINE
)
_KEEPING: Final = re.compile(r"connect|open_|^dial|^client$", re.IGNORECASE)


def check(entry: CatalogueEntry) -> list[Fault]:
    """Return the faults of an entry, none if its driver behaves like the programs it stands for."""
    return [Fault(entry.name, *found) for found in (*_timeouts(entry), *_scripts(entry))]


def _timeouts(entry: CatalogueEntry) -> Iterator[tuple[str, str, str]]:
    if entry.differs:
        return
    client = entry.client
    texts = {"command": " ".join(client.command), **{f"files.{name}": text for name, text in client.files.items()}}
    texts |= {f"environment.{name}": f"{name}={value}" for name, value in client.environment.items()}
    for where, text in texts.items():
        if found := _TIMEOUT.search(text):
            yield (
                where,
                "timeout",
                f"{found.group()!r} is not the client's default; leave it out, or say in 'differs' why it must be",
            )


def _scripts(entry: CatalogueEntry) -> Iterator[tuple[str, str, str]]:
    for name, text in entry.client.files.items():
        where = f"files.{name}"
        suffix = "." + name.rpartition(".")[2]
        if suffix == ".py":
            yield from ((where, *found) for found in _python(text))
        elif suffix in _SCRIPTS:
            loop, errors = _SCRIPTS[suffix]
            if not re.search(loop, text):
                yield where, "loop", "it does not come back after an error; dial again in a loop"
            if not re.search(errors, text):
                yield where, "errors", "an error ends it; catch errors, print them and continue"
        if suffix in (".py", *_SCRIPTS) and (found := _EXITS.search(text)):
            yield where, "exit", f"{found.group().strip()!r} ends it; programs that use such a client live on"


def _python(text: str) -> Iterator[tuple[str, str]]:
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield "syntax", f"line {error.lineno}: {error.msg}"
        return
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.While | ast.For | ast.AsyncFor)]
    if not loops:
        yield "loop", "it does not come back after an error; dial again in a loop"
    if not any(isinstance(node, ast.Try) for node in ast.walk(tree)) and not _catches_itself(tree):
        yield "errors", "an error ends it; catch errors, print them and continue"
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {(alias.asname or alias.name).partition(".")[0] for node in imports for alias in node.names}
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Expr) and (call := _dropped(statement.value, modules)):
            yield (
                "object",
                f"line {statement.lineno}: the result of {call} is dropped and closed at once; keep it in a name",
            )


def _catches_itself(tree: ast.AST) -> bool:
    """Tell whether the loop is one that handles errors inside: ``tailbite.connections``, ``logging``, ``Twisted``."""
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return bool(names & {"connections", "addHandler", "addErrback", "addCallbacks", "suppress"})


def _dropped(value: ast.expr, modules: set[str]) -> str | None:
    """Return the call that makes a connection whose result a statement drops."""
    while isinstance(value, ast.Await):
        value = value.value
    if not isinstance(value, ast.Call):
        return None
    function = value.func
    if isinstance(function, ast.Name):
        makes = function.id[:1].isupper() or (function.id in modules and _KEEPING.search(function.id))
        return f"{function.id}()" if makes else None
    if isinstance(function, ast.Attribute):
        owner = function.value
        if isinstance(owner, ast.Call):  # Client(...).get("k"): the client is dropped with the statement
            return _dropped(owner, modules) or None
        if _root(owner) in modules:
            makes = function.attr[:1].isupper() or _KEEPING.search(function.attr)
            return f"{ast.unparse(function)}()" if makes else None
    return None


def _root(owner: ast.expr) -> str | None:
    """Return the first name of ``a.b.c``."""
    while isinstance(owner, ast.Attribute):
        owner = owner.value
    return owner.id if isinstance(owner, ast.Name) else None
