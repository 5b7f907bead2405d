"""Programs of the world, at their defaults: the verdicts that were measured by hand are the audit's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from audit.leftovers import nothing_left
from conftest import CI
from tailbite.audit.catalogue import load_entries
from tailbite.audit.client import Client
from tailbite.audit.records import Limits
from tailbite.audit.report.data import verdict_as_data
from tailbite.audit.verdict import Word
from tailbite.audit.warden import audit

if TYPE_CHECKING:
    from collections.abc import Callable

QUICK = Limits.of_quick()

POSTGRES = {
    "psql": ("blocks", "no"),
    "psql-nossl": ("blocks", "no"),
    "pg_isready": ("blocks", "no"),
    "psycopg": ("blocks", "no"),
    "psycopg2": ("blocks", "no"),
    "psycopg_pool": ("blocks", "no"),
    "asyncpg": ("blocks", "no"),
    "pg8000": ("aborts", "no"),
    "sqlalchemy": ("blocks", "no"),
    "node-pg": ("holds", "unknown"),
    "pgjdbc": ("blocks", "no"),
    "go-lib-pq": ("blocks", "unknown"),
    "go-pgx": ("blocks", "unknown"),
    "perl-dbd-pg": ("blocks", "no"),
    "php-pgsql": ("blocks", "no"),
    "ruby-pg": ("blocks", "no"),
    "pgbouncer": ("aborts", "no"),
    "pgpool": ("blocks", "no"),
    "haproxy-pgsql-check": ("blocks", "no"),
    "postgres-walreceiver": ("blocks", "no"),
}
OTHERS = {
    "telnet": ("holds", "yes"),
    "socat": ("holds", "yes"),
    "socat-forever": ("holds", "yes"),
    "ncat": ("holds", "yes"),
    "nc": ("holds", "yes"),
    "nc-z": ("blocks", "yes"),
    "bash-dev-tcp": ("blocks", "yes"),
    "curl-http": ("blocks", "no"),
    "curl-retry": ("blocks", "no"),
    "curl-https": ("aborts", "no"),
    "wget": ("holds", "yes"),
    "openssh": ("holds", "unknown"),
    "redis-cli": ("blocks", "yes"),
    "redis-py": ("holds", "yes"),
    "redis-py-resp3": ("holds", "yes"),
    "mysql-client": ("holds", "unknown"),
    "pymysql": ("holds", "unknown"),
    "pymongo": ("aborts", "no"),
    "requests": ("blocks", "no"),
    "urllib": ("blocks", "no"),
    "urllib3": ("blocks", "no"),
    "httpx": ("blocks", "no"),
    "aiohttp": ("blocks", "no"),
    "websockets": ("blocks", "no"),
    "paho-mqtt": ("blocks", "no"),
    "pymodbus": ("holds", "yes"),
    "python-socket": ("holds", "yes"),
    "python-asyncio": ("holds", "yes"),
    "uvloop": ("holds", "yes"),
    "trio": ("holds", "yes"),
    "anyio": ("holds", "yes"),
    "gevent": ("holds", "yes"),
    "twisted": ("holds", "yes"),
    "go-net-dial": ("blocks", "unknown"),
    "node-net": ("holds", "yes"),
    "java-socket": ("holds", "yes"),
    "rust-tcpstream": ("holds", "yes"),
    "haproxy-check": ("aborts", "yes"),
    "haproxy-tcp": ("blocks", "yes"),
    "nginx-proxy": ("holds", "unknown"),
    "prometheus": ("blocks", "no"),
}
OWN = {
    "tailbite-sync": "python-socket",
    "tailbite-connections": "python-socket",
    "tailbite-aio": "python-asyncio",
    "tailbite-aio-connections": "python-asyncio",
    "tailbite-guard": "urllib",
    "tailbite-run": "socat-forever",
}
"""Ours, and the same without us, which shows that the trap works."""

MAY_BE_MISSING = {"node-pg"}
"""Only npm has it in a form that goes with every build of Node."""

Told = dict[str, dict[str, Any]]


def told_by_the_command(*arguments: str) -> Told:
    """Audit clients of the catalogue as a user does; nothing is left."""
    # The path of a unix socket has 107 bytes at most (unix(7)): pytest's folders are longer.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, nothing_left(Path(folder)) as mark:
        Path(folder).chmod(0o755)  # PgBouncer and PostgreSQL run as nobody
        peers = os.environ.get("TAILBITE_PEERS", str(Path(__file__).parents[2] / ".peers"))
        done = subprocess.run(
            [sys.executable, "-m", "tailbite", "audit", "--json", "--jobs", "6", *arguments],
            env={**os.environ, **mark, "TAILBITE_PEERS": peers},
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    return {client["client"]: client for client in json.loads(done.stdout)["clients"]}


def must_have(told: Told, name: str) -> dict[str, Any]:
    """Return the verdict on a client; one that is not installed is a failure in CI, a skip at home."""
    if name not in told:
        (pytest.fail if CI and name not in MAY_BE_MISSING else pytest.skip)(f"{name} is not installed")
    return told[name]


@pytest.fixture(scope="module")
def postgres() -> Told:
    return told_by_the_command(*(word for name in POSTGRES for word in ("--catalogue", name)))


@pytest.fixture(scope="module")
def others() -> Told:
    words = [word for name in (*OTHERS, *OWN) for word in ("--catalogue", name)]
    return told_by_the_command(*words)


@pytest.mark.peers
@pytest.mark.timeout(900)  # the first waits for all audits
@pytest.mark.parametrize("name", POSTGRES)
def test_each_of_the_postgresql_group_gets_the_verdict_that_was_measured(name: str, postgres: Told) -> None:
    client = must_have(postgres, name)
    # What a client printed decides about belief; on a busy machine it may have printed too little: unknown.
    verdict, believed = POSTGRES[name]
    assert client["verdict"] == verdict, json.dumps(client, indent=1)
    assert client["believed"] in {believed, "unknown"}, json.dumps(client, indent=1)


@pytest.mark.peers
@pytest.mark.timeout(900)  # the first waits for all audits
@pytest.mark.parametrize("name", OTHERS)
def test_it_gets_the_verdict_that_was_measured(name: str, others: Told) -> None:
    client = must_have(others, name)
    verdict, believed = OTHERS[name]
    assert client["verdict"] == verdict, json.dumps(client, indent=1)
    assert client["believed"] in {believed, "unknown"}, json.dumps(client, indent=1)


@pytest.mark.peers
@pytest.mark.timeout(900)  # the first waits for all audits
@pytest.mark.parametrize("name", OWN)
def test_ours_are_immune_where_the_same_without_us_is_not(name: str, others: Told) -> None:
    client = must_have(others, name)
    assert client["verdict"] == "immune", json.dumps(client, indent=1)
    assert must_have(others, OWN[name])["verdict"] in ("holds", "blocks")


def test_each_client_of_the_postgresql_group_is_here_or_in_the_matrix() -> None:
    group = {entry.name for entry in load_entries(["postgres"])}
    assert set(POSTGRES) <= group
    matrix = json.loads((Path(__file__).parents[2] / "docs/matrix.json").read_text(encoding="utf-8"))
    assert group - set(POSTGRES) <= {client["client"] for client in matrix["clients"]}


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
    assert guarded.verdict is Word.IMMUNE, json.dumps(verdict_as_data(guarded), indent=1)
