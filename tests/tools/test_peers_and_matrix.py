"""The tools around the catalogue: every entry says where its client comes from; the page says what was measured."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tailbite.audit.catalogue import load

if TYPE_CHECKING:
    from types import ModuleType

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
    entries = load(["all"])
    assert len(entries) >= 70
    for entry in entries:
        registry, colon, names = entry.install.partition(":")
        assert colon == "" or (registry in ("apt", "pip", "npm") and names.strip()), entry.name


def test_the_postgresql_group_is_complete() -> None:
    names = {entry.name for entry in load(["postgres"])}
    assert names >= {
        *("psql", "pg_isready", "psycopg", "psycopg2", "psycopg_pool", "asyncpg", "pg8000", "sqlalchemy", "node-pg"),
        *("pgjdbc", "pgbouncer", "pgpool", "haproxy-pgsql-check", "postgres-walreceiver"),
    }


def test_packages_are_named_once_per_registry() -> None:
    packages = tool("peers").wanted()
    assert set(packages) == {"apt", "pip", "npm"}
    assert "redis-tools" in packages["apt"]
    assert "pg" in packages["npm"]
    assert all(len(names) == len(set(names)) for names in packages.values())


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
    page = matrix.page(load(["all"]), {"psql": verdict})
    assert "| psql (libpq) | 15.1 | **blocks** | no | 0.001 s | time-wait |" in page
    assert "| **blocks** | 1 |" in page
    assert "2026-01-02" in page
    assert "immune" not in page


def test_no_client_has_the_name_of_a_group_of_others() -> None:
    """So that a word after --catalogue means one thing."""
    entries = load(["all"])
    for entry in entries:
        assert all(other.name == entry.name for other in entries if entry.name in other.groups), entry.name
