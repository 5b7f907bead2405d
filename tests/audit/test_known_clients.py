"""Programs of the world, at their defaults: the verdicts that were measured by hand are the audit's."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from audit.leftovers import nothing_left
from conftest import CI
from tailbite.audit.catalogue import load
from tailbite.audit.records import Client, Limits, Verdict, Word
from tailbite.audit.report.data import verdict_as_data
from tailbite.audit.warden import audit

if TYPE_CHECKING:
    from collections.abc import Callable

QUICK = Limits(dial=6, watch=0.6, hold=1.3, total=9, quick=True)

MEASURED = {
    "telnet": (Word.HOLDS, "yes"),
    "socat": (Word.HOLDS, "yes"),
    "socat-forever": (Word.HOLDS, "yes"),
    "ncat": (Word.HOLDS, "yes"),
    "nc": (Word.HOLDS, "yes"),
    "nc-z": (Word.BLOCKS, "yes"),
    "bash-dev-tcp": (Word.BLOCKS, "yes"),
    "curl-http": (Word.BLOCKS, "no"),
    "curl-retry": (Word.BLOCKS, "no"),
    "curl-https": (Word.ABORTS, "no"),
    "wget": (Word.HOLDS, "yes"),
    "openssh": (Word.HOLDS, "unknown"),
    "psql": (Word.BLOCKS, "no"),
    "psql-nossl": (Word.BLOCKS, "no"),
    "pg_isready": (Word.BLOCKS, "no"),
    "psycopg": (Word.BLOCKS, "no"),
    "psycopg2": (Word.BLOCKS, "no"),
    "asyncpg": (Word.BLOCKS, "no"),
    "pg8000": (Word.ABORTS, "no"),
    "redis-cli": (Word.BLOCKS, "yes"),
    "redis-py": (Word.HOLDS, "yes"),
    "redis-py-resp3": (Word.BLOCKS, "no"),
    "mysql-client": (Word.HOLDS, "unknown"),
    "python-socket": (Word.HOLDS, "yes"),
    "python-asyncio": (Word.HOLDS, "yes"),
    "haproxy-check": (Word.ABORTS, "yes"),
    "haproxy-tcp": (Word.BLOCKS, "yes"),
    "tailbite": (Word.IMMUNE, "no"),
}


def told(verdict: Verdict) -> str:
    """What an assertion's reader wants to know."""
    return json.dumps(verdict_as_data(verdict), indent=1)


@pytest.mark.peers
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("name", MEASURED)
def test_it_gets_the_verdict_that_was_measured(name: str) -> None:
    (entry,) = load([name])
    client = entry.find()
    if client is None:
        (pytest.fail if CI else pytest.skip)(f"{name} is not installed ({entry.install})")
    # The path of a unix socket has 107 bytes at most (unix(7)): no room for pytest's folders.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, nothing_left(Path(folder)):
        verdict = audit(client, QUICK)
    word, believed = MEASURED[name]
    assert verdict.verdict is word, told(verdict)
    assert verdict.believed.value == believed, told(verdict)


@pytest.mark.peers
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("words", [("telnet", "{host}", "{port}"), ("nc.openbsd", "-z", "{host}", "{port}")])
def test_the_same_program_under_tailbite_run_is_immune(
    words: tuple[str, ...], tmp_path: Path, peer: Callable[[str], str]
) -> None:
    plain = (peer(words[0]), *words[1:])
    with nothing_left(tmp_path):
        assert audit(Client("plain", plain), QUICK).verdict in (Word.HOLDS, Word.BLOCKS)
        guarded = audit(Client("guarded", (sys.executable, "-m", "tailbite", "run", "--", *plain)), QUICK)
    assert guarded.verdict is Word.IMMUNE, told(guarded)
