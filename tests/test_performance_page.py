"""docs/performance.md is what make bench made of its results, and nothing else."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[1]


@pytest.fixture
def every(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "bench")  # as when it is run
    spec = importlib.util.spec_from_file_location("bench_every", ROOT / "bench" / "every.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_generated_from_the_results(every: ModuleType) -> None:
    assert every.PAGE.read_text(encoding="utf-8") == every.page(every.kept_results())


def test_each_benchmark_prints_its_help_and_measures_nothing(
    every: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--help"])
    scripts = every.scripts()
    assert len(scripts) > 5
    for script in scripts:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        assert not ended.value.code, script
        assert capsys.readouterr().out.startswith("usage: "), script


def test_results_are_of_benchmarks_there_are_with_the_facts_of_the_machine(every: ModuleType) -> None:
    results = {result["script"]: result for result in every.kept_results()}
    assert set(results) <= {f"bench/{script.name}" for script in every.scripts()}
    for result in results.values():
        assert "failed" not in result
        assert {"python", "kernel", "machine", "cpus", "load"} <= set(result["facts"])
        assert result["figures"]


def test_a_benchmark_without_results_is_named(every: ModuleType) -> None:
    (first, *_) = every.kept_results()
    others = [script.name for script in every.scripts() if f"bench/{script.name}" != first["script"]]
    assert all(f"`bench/{name}`" in every.page([first]) for name in others)


def test_a_promise_that_was_not_kept_is_written_and_named_as_such(every: ModuleType) -> None:
    (first, *_) = every.kept_results()
    nothing = {"limit": None, "most_added_us": None, "most_us": None}
    measured = {"plain_us": 10, "guarded_us": 20, "ratio": 2}

    def told(promise: dict[str, float]) -> tuple[str, list[str]]:
        changed = {**first, "figures": [first["figures"][0] | nothing | measured | promise]}
        return every.page([changed]), every.broken([changed])

    for promise, text in (
        ({"limit": 1.5}, "at most 1.5"),
        ({"most_added_us": 9.0}, "adds at most 9 us"),
        ({"most_us": 19.0}, "at most 19 us"),
    ):
        page, failures = told(promise)
        assert f"{text}: **not kept**" in page
        name = f"{first['script']}: {first['figures'][0]['name']}"
        assert failures == [f"{name}: promised: {text}; measured: 10 us and 20 us, x2.000"]
    for promise in ({"limit": 2.0}, {"most_added_us": 10.0}, {"most_us": 20.0}):
        page, failures = told(promise)
        assert ": kept" in page
        assert failures == []


def test_a_benchmark_that_breaks_or_hangs_is_written_and_stops_no_other(
    every: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, *_) = every.kept_results()
    result = {key: value for key, value in first.items() if key != "script"}
    ends = {"broken": "raise SystemExit(3)", "fine": f"print({json.dumps(result)!r})", "slow": "time.sleep(600)"}
    (tmp_path / "paired.py").write_text("report = print\n")
    for name, code in ends.items():
        (tmp_path / f"{name}.py").write_text(f"import time\nfrom paired import report\n{code}\n")
    monkeypatch.setattr(every, "__file__", str(tmp_path / "every.py"))
    monkeypatch.setattr(every, "RESULTS", tmp_path / "bench.jsonl")
    monkeypatch.setattr(every, "PATIENCE", 10.0)  # on a busy machine, Python may start for seconds
    every.run(every.scripts())
    kept = {result["script"]: result for result in every.kept_results()}
    assert kept["bench/broken.py"]["failed"] == "it ended with status 3 and without a result"
    assert kept["bench/slow.py"]["failed"] == "it was not done after 10 s"
    assert kept["bench/fine.py"]["figures"] == first["figures"]
    assert "**No result**: it was not done" in every.page(every.kept_results())
    assert "bench/slow.py: it was not done after 10 s" in every.broken(every.kept_results())
