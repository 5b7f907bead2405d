"""docs/performance.md is what make bench made of its results, and nothing else."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[1]


@pytest.fixture
def every() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_every", ROOT / "bench" / "every.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_generated_from_the_results(every: ModuleType) -> None:
    assert every.PAGE.read_text(encoding="utf-8") == every.page(every.kept_results())


def test_results_are_of_benchmarks_there_are_with_the_facts_of_the_machine(every: ModuleType) -> None:
    results = {result["script"]: result for result in every.kept_results()}
    assert set(results) <= {f"bench/{script.name}" for script in every.scripts()}
    for result in results.values():
        assert {"python", "kernel", "machine", "cpus", "load"} <= set(result["facts"])
        assert result["figures"]


def test_a_benchmark_without_results_is_named(every: ModuleType) -> None:
    (first, *_) = every.kept_results()
    others = [script.name for script in every.scripts() if f"bench/{script.name}" != first["script"]]
    assert all(f"`bench/{name}`" in every.page([first]) for name in others)


def test_a_promise_that_was_not_kept_is_written_as_such(every: ModuleType) -> None:
    (first, *_) = every.kept_results()
    broken = json.loads(json.dumps(first))
    broken["figures"][0] |= {"limit": 1.0, "ratio": 2.0}
    assert "**not kept**" in every.page([broken])
    broken["figures"][0] |= {"limit": 3.0}
    assert "at most 3: kept" in every.page([broken])
