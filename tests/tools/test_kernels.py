"""make kernels: the page is written from its data, and a package that cannot be fetched is reported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from kernels import boot, page
from kernels.packages import PackageUnavailableError, Suite
from kernels.records import HOST, KERNELS, Cell

PAGE = Path(__file__).parents[2] / "docs/kernels.md"


def result(release: str, *cells: Cell) -> boot.Result:
    return boot.Result(release, list(cells), True, "")


def test_a_result_replaces_its_own_rows_and_keeps_the_others(tmp_path: Path) -> None:
    data = tmp_path / "kernels.json"
    page.keep_result(data, "host", result("6.1", Cell("demo", "ok", "a"), Cell("scan", "ok", "b")), "2026-01-01")
    page.keep_result(data, "host", result("6.1", Cell("scan", "fault", "c")), "2026-01-02")
    kept = json.loads(data.read_text())["host"]
    assert kept["date"] == "2026-01-02"
    assert {cell["row"]: cell["outcome"] for cell in kept["cells"]} == {"demo": "ok", "scan": "fault"}


def test_cells_of_another_release_are_forgotten(tmp_path: Path) -> None:
    data = tmp_path / "kernels.json"
    page.keep_result(data, "host", result("6.1", Cell("demo", "ok", "a")), "2026-01-01")
    page.keep_result(data, "host", result("6.2", Cell("scan", "ok", "b")), "2026-01-02")
    assert [cell["row"] for cell in json.loads(data.read_text())["host"]["cells"]] == ["scan"]


def test_the_page_names_each_cell_with_its_reason(tmp_path: Path) -> None:
    data, text = tmp_path / "kernels.json", tmp_path / "kernels.md"
    page.keep_result(
        data, "host", result("6.1", Cell("scan", "fault", "a | b"), Cell("why", "not run", "x")), "2026-01-01"
    )
    text.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.write_page(text, data)
    written = text.read_text()
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert "old" not in written
    assert "| scan | **fault** | a / b |" in written
    assert "| why | – | x |" in written


def test_the_page_in_the_repository_is_the_one_of_its_data() -> None:
    known = json.loads((PAGE.parent / "data/kernels.json").read_text(encoding="utf-8"))
    assert page.table(known) in PAGE.read_text(encoding="utf-8")
    assert set(known) <= {kernel.name for kernel in (HOST, *KERNELS)}


def test_a_suite_that_cannot_be_fetched_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PackageUnavailableError, match="apt-get update"):
        Suite("bookworm", tmp_path)


@pytest.mark.usefixtures("network")
def test_a_job_on_this_kernel_runs_to_its_end(tmp_path: Path) -> None:
    found = boot.run_on(HOST, tmp_path, {"seconds": 60, "connects": 50, "rows": ["scan"]}, 100)
    assert found.complete, found.console
    assert [(cell.row, cell.outcome) for cell in found.cells if not cell.row.startswith("ability")] == [
        ("scan", "ok")
    ]
