"""Fields of the JSON output of each command, observed in real runs in a private network."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from tailbite.kernel.namespace import fresh_network

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RUNS", "fields_of", "json_page", "observe_output"]

_PORT: Final = 32246

RUNS: Final[tuple[tuple[str, ...], ...]] = (
    ("scan", "--netns", "self", "--json"),
    ("why", str(_PORT), "--netns", "self", "--json"),
    ("doctor", "--netns", "self", "--json"),
    ("fix", "--reserve", str(_PORT), "--kill", str(_PORT), "--no-files", "--json"),
    ("fix", "--reserve", str(_PORT), "--root", "docs", "--json"),
    ("wait", "--timeout", "0.1", "--json", "127.0.0.1:1"),
    ("run", "--stats-json", "-", "--", "true"),
    ("audit", "--quick", "--json", "--", "bash", "-c", "exec 3<>/dev/tcp/{host}/{port}"),
    ("audit", "--list", "--json"),
    ("demo", "--json"),
    ("lab", "odds", "--port", "32774", "--range", "32768-60999", "--outage", "1h", "--json"),
    ("lab", "loop", "--from", "docs/data/loop-story.jsonl.gz", "--json"),
    ("lab", "parity", "--json"),
    ("lab", "handshake", "--json"),
    ("lab", "cures", "--from", "docs/data/cures.jsonl", "--json"),
)
"""Commands whose outputs together have every field; each runs beside a self-connect."""

_INTRODUCTION: Final = """\
Every object has a field `schema`, `tailbite.COMMAND/VERSION`. The version changes if a field is removed or changes
its meaning; new fields may appear at any time, so programs must ignore fields that they do not know. Endpoints are
text (`127.0.0.1:32246`, `[::1]:32246`), times are seconds. The tables list the fields of real outputs; `[]` stands
for each item of a list, `{}` for each value of a map. A field whose type is *null* had no value in that run.

A command prints a whole document or none; the exit status tells why (see [exit statuses](exit-statuses.md)):

- With status 0, 1 or 3 there is a document, also where nothing was found, or the time was over.
- With status 2 (wrong usage) nothing is printed.
- With status 4 there is one if the command had begun: `scan --kill --apply` and `fix --apply` print what they could
  not do, and `audit` what could not be audited. If the system lacks what the command needs, nothing is printed.
- An interrupted command (130; 143 for SIGTERM, 129 for SIGHUP) prints none, but two print what is known by then:
  `audit` the clients that were judged, and `wait` the last status of each target, with `interrupted` set to true.
- `watch`, `scan --json-lines` and the log of `exporter` print a document on each line, and whole lines only."""


def observe_output(arguments: tuple[str, ...], root: str) -> dict[str, Any]:
    """Run ``tailbite`` in a private network beside a self-connect, and return its JSON object."""
    with fresh_network(), contextlib.closing(_self_connect()):
        done = subprocess.run(
            [sys.executable, "-m", "tailbite", *arguments], capture_output=True, text=True, cwd=root, check=False
        )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise SystemExit(f"tailbite {' '.join(arguments)}: no JSON on standard output\n{done.stderr}") from None
    return answer


def _self_connect() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", _PORT))
    sock.connect(("127.0.0.1", _PORT))
    return sock


def fields_of(value: Any, path: str = "") -> dict[str, set[str]]:
    """Return the type names of each field in an object, by path."""
    found: dict[str, set[str]] = {}

    def visit(each: Any, where: str) -> None:
        if where:
            found.setdefault(where, set()).add(_type_name(each))
        if isinstance(each, dict):
            is_map = bool(each) and all(not key.isidentifier() for key in each)
            for key, item in each.items():
                visit(item, f"{where}.{{}}" if is_map else f"{where}.{key}".lstrip("."))
        elif isinstance(each, list):
            for item in each:
                visit(item, f"{where}[]")

    visit(value, path)
    return found


def _type_name(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    names: dict[type, str] = {int: "number", float: "number", str: "text", list: "list", dict: "object"}
    return names[type(value)]


def json_page(made: str) -> str:
    """Return the page about the JSON output of every command."""
    from pathlib import Path

    root = str(Path(__file__).resolve().parent.parent)
    lines = ["# JSON output", "", made, "", _INTRODUCTION]
    commands: dict[str, list[str]] = {}
    fields: dict[str, dict[str, set[str]]] = {}
    for arguments in RUNS:
        answer = observe_output(arguments, root)
        commands.setdefault(answer["schema"], []).append(f"`{_shown(arguments)}`")
        known = fields.setdefault(answer["schema"], {})
        for path, types in fields_of(answer).items():
            known.setdefault(path, set()).update(types)
    for schema, shown in commands.items():
        lines += ["", f"## {schema}", "", ", ".join(shown), "", "| field | type |", "|---|---|"]
        lines += [f"| `{path}` | {types} |" for path, types in _rows(fields[schema])]
    return "\n".join(lines) + "\n"


def _shown(arguments: tuple[str, ...]) -> str:
    return " ".join(("tailbite", *(f"'{word}'" if " " in word else word for word in arguments)))


def _rows(fields: dict[str, set[str]]) -> Iterator[tuple[str, str]]:
    for path, types in fields.items():
        if path != "schema" and path.count("[]") + path.count(".") <= 4:
            yield path, " or ".join(sorted(types, key=lambda name: (name == "null", name)))
