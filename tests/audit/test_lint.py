"""Checks of catalogue entries: each known mistake is found, and the package's entries have none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailbite.audit.catalogue import load_entries, parse_entry
from tailbite.audit.lint import check

ENTRY = """
name = "mine"
groups = ["own"]
command = ["{{python}}", "client", "{{host}}", "{{port}}"]
install = "apt: mine"
{more}
[installed]
programs = ["mine"]
[files]
"{file}" = '''
{text}
'''
"""


def rules(text: str, file: str = "client.py", more: str = "") -> list[str]:
    entry = parse_entry(ENTRY.format(text=text, file=file, more=more), Path("mine.toml"))
    return [fault.rule for fault in check(entry)]


LOOP = """
import sys, time, multiprocessing.connection
while True:
    try:
        {body}
        time.sleep(600)
    except Exception as error:
        print("error:", error)
    time.sleep(1)
"""


def test_no_entry_of_the_package_has_a_fault() -> None:
    assert [str(fault) for entry in load_entries(["all"]) for fault in check(entry)] == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("kept = multiprocessing.connection.Client(sys.argv[1])", []),
        ("multiprocessing.connection.Client(sys.argv[1])", ["object"]),
        ("kept = connect(1, timeout=5)", ["timeout"]),
        ("kept = connect(1); sys.exit(1)", ["exit"]),
        ("kept = await connect(", ["syntax"]),
    ],
)
def test_a_driver_keeps_its_object_and_uses_the_defaults(body: str, expected: list[str]) -> None:
    assert rules(LOOP.format(body=body)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import nats\nwhile True:\n    try:\n        await nats.connect(1)\n    except OSError: pass", ["object"]),
        (
            "from m import Client\nwhile True:\n    try:\n        Client(1).get()\n    except OSError: pass",
            ["object"],
        ),
        ("from m import dial\nwhile True:\n    try:\n        dial(1)\n    except OSError: pass", ["object"]),
        ("import m\nclient = m.Client(1)\nprint(client.get())", ["loop", "errors"]),
        ("import m\nclient = m.Client(1)\nwhile True:\n    client.connect()", ["errors"]),
        (
            "import m\nwhile True:\n    try:\n        m.x()()\n        m.log(1)\n    except OSError: pass",
            [],
        ),
        ("import tailbite\nfor kept in tailbite.connections(1):\n    pass", []),
    ],
)
def test_a_driver_comes_back_and_catches_errors(text: str, expected: list[str]) -> None:
    assert rules(text) == expected


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("client.js", "net.connect(1);", ["loop", "errors"]),
        ("client.js", 'c.on("error", () => { process.exit(1); }); setTimeout(dial, 1000);', ["exit"]),
        ("client.go", "for {\n if err != nil { os.Exit(1) }\n}", ["exit"]),
        ("client.rb", "require 'x'\nloop do\n begin\n rescue\n end\nend", []),
        ("client.exs", "{:ok, kept} = :gen_tcp.connect(host, port, [])", ["loop", "errors"]),
        ("client.c", "int main(void) { connect(1, 0, 0); exit(1); }", ["loop", "errors"]),
        ("client.c", "for (;;) { if (connect(1, 0, 0)) puts(error); }", []),
        ("client.scm", "(connect kept address)", ["loop", "errors"]),
        ("client.lisp", "(usocket:socket-connect host port)", ["loop", "errors"]),
        ("client.pas", "kept := TInetSocket.Create(host, port);", ["loop", "errors"]),
        ("client.awk", "print 1 |& server", ["loop", "errors"]),
        ("client.zsh", "ztcp $1 $2", ["loop", "errors"]),
        ("start.sh", "exec daemon", []),
    ],
)
def test_drivers_in_other_languages_are_checked_as_well(file: str, text: str, expected: list[str]) -> None:
    assert rules(text, file) == expected


def test_an_entry_that_says_how_it_differs_may_set_a_timeout() -> None:
    text = LOOP.format(body="kept = connect(1, timeout=5)")
    assert rules(text, more="differs = 'its default waits for an hour'") == []


def test_a_fault_says_where_it_is_and_what_to_do() -> None:
    entry = parse_entry(ENTRY.format(text="connect(timeout=5)", file="x.cfg", more=""), Path("mine.toml"))
    (fault,) = check(entry)
    assert str(fault).startswith("mine: files.x.cfg: timeout: 'timeout' is not the client's default; leave it out")
