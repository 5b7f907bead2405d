"""The tools around the catalogue: every entry says where its client comes from; the page says what was measured."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import Mock

import psutil  # type: ignore[import-untyped]

from audit.test_known_clients import OTHERS, OWN, POSTGRES
from tailbite.audit.catalogue import CatalogueEntry, load_entries

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    import pytest

TOOLS = Path(__file__).parents[2] / "tools"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tools_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_catalogue_is_as_large_as_promised_and_every_client_can_be_had() -> None:
    entries = load_entries(["all"])
    assert len(entries) >= 380
    for entry in entries:
        registry, colon, names = entry.install.partition(":")
        assert colon == "" or (registry in ("apt", "deb", "pip", "npm") and names.strip()), entry.name


def test_the_postgresql_group_is_complete() -> None:
    names = {entry.name for entry in load_entries(["postgres"])}
    assert names >= {
        *("psql", "pg_isready", "psycopg", "psycopg2", "psycopg_pool", "asyncpg", "pg8000", "sqlalchemy", "node-pg"),
        *("pgjdbc", "pgbouncer", "pgpool", "haproxy-pgsql-check", "postgres-walreceiver"),
    }


def test_packages_are_named_once_per_registry() -> None:
    packages = tool("peers").packages_by_registry()
    assert set(packages) == {"apt", "deb", "pip", "npm"}
    assert "redis-tools" in packages["apt"]
    assert "pg" in packages["npm"]
    assert all(len(names) == len(set(names)) for names in packages.values())


def test_a_package_that_cannot_be_installed_is_missing_only_if_its_client_is(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = tool("peers")
    here, missing = (Mock(spec=CatalogueEntry, install=f"apt: {name}, shared") for name in ("here", "missing"))
    here.find.return_value, missing.find.return_value = "a client", None
    monkeypatch.setattr(peers, "load_entries", lambda _: [here, missing])
    assert peers.needed(["here", "missing", "shared"]) == ["missing", "shared"]


def test_a_package_that_debian_has_installed_is_not_installed_again(peer: Callable[[str], str]) -> None:
    peer("dpkg-query")
    assert tool("peers").without_installed(["dpkg", "no-such-package"]) == ["no-such-package"]


def test_the_page_is_made_of_the_verdicts_alone() -> None:
    matrix = tool("matrix")
    verdict = {
        "client": "psql",
        "version": "15.1",
        "verdict": "blocks",
        "believed": "no",
        "longest_hold": 0.0014,
        "left": "time-wait",
        "date": "2026-01-02",
    }
    page = matrix.page(load_entries(["all"]), {"psql": verdict})
    assert "| psql (libpq) | 15.1 | **blocks** | no | 0.001 s | time-wait |" in page
    assert "| **blocks** | 1 |" in page
    assert "2026-01-02" in page
    assert "immune" not in page
    assert "Notes" not in page
    noted = matrix.page(load_entries(["all"]), {"pgbouncer": {**verdict, "client": "pgbouncer"}})
    assert "| PgBouncer [1] |" in noted
    assert "1. tries the server again after 0.3 s instead of 15 s." in noted


def test_the_clients_that_are_pinned_were_steady_five_times_quietly_and_five_times_busily() -> None:
    header, *lines = (TOOLS.parent / "docs/data/steady.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(header)["schema"] == "tailbite.steady/1"
    rows = {row["client"]: row for row in map(json.loads, lines)}
    for name, verdict in {**POSTGRES, **OTHERS, **dict.fromkeys(OWN, ("immune", "no"))}.items():
        for kind in ("quiet", "busy"):
            assert len(rows[name][kind]) >= 5, (name, kind)
            assert {tuple(told) for told in rows[name][kind]} == {verdict}, (name, kind)


def test_every_client_was_steady_in_all_passes_and_the_slow_ones_in_five_of_each_kind() -> None:
    _, *lines = (TOOLS.parent / "docs/data/steady.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row["client"]: row for row in map(json.loads, lines)}
    assert set(rows) == {entry.name for entry in load_entries(["all"])}
    matrix = json.loads((TOOLS.parent / "docs/matrix.json").read_text(encoding="utf-8"))
    for client in matrix["clients"]:
        row = rows[client["client"]]
        every = [tuple(told) for kind in ("quiet", "busy", "quick") for told in row.get(kind, ())]
        # A client that had not started within the ten seconds of --quick has no verdict: that is not another one.
        words = {verdict for verdict, _ in every} - {"unexercised", "inconclusive"}
        assert words == {client["verdict"]}, row
        assert not {"yes", "no"} <= {client["believed"], *(believed for _, believed in every)}, row
    for name in tool("steady").SLOW:
        for kind in ("busy", "quick"):
            assert len(rows[name][kind]) >= 5, (name, kind)
            assert len({tuple(told) for told in rows[name][kind]}) == 1, (name, kind)


def test_the_burners_of_steady_burn_on_every_core_and_end_with_it() -> None:
    me = psutil.Process()
    before = {child.pid for child in me.children()}
    with tool("steady").burners():
        assert len({child.pid for child in me.children()} - before) == os.cpu_count()
    assert {child.pid for child in me.children()} <= before


def test_no_client_has_the_name_of_a_group_of_others() -> None:
    """So that a word after --catalogue means one thing."""
    entries = load_entries(["all"])
    for entry in entries:
        assert all(other.name == entry.name for other in entries if entry.name in other.groups), entry.name
