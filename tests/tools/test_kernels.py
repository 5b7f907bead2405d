"""make kernels: the page is written from its data, and what cannot be fetched is reported, in CI as a failure."""

from __future__ import annotations

import gzip
import json
import lzma
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import boot_kernels
from kernels import boot, inside, page, vm
from kernels.packages import PackageUnavailableError, Suite
from kernels.records import HOST, KERNELS, Cell, debian, ubuntu

PAGE = Path(__file__).parents[2] / "docs/kernels.md"
ROWS = ("ability X", "demo", "scan", "why")


def result(release: str, *cells: Cell, complete: bool = True) -> boot.Result:
    return boot.Result(release, list(cells), complete, "", ROWS)


def kept(data: Path) -> dict[str, dict[str, Any]]:
    return {cell["row"]: cell for cell in json.loads(data.read_text())["host"]["cells"]}


def test_a_result_replaces_its_own_rows_and_keeps_the_others_with_their_date(tmp_path: Path) -> None:
    data = tmp_path / "kernels.json"
    page.keep_result(data, "host", result("6.1", Cell("scan", "ok", "b"), Cell("demo", "ok", "a")), "2026-01-01")
    page.keep_result(data, "host", result("6.1", Cell("scan", "fault", "c")), "2026-01-02")
    assert [(row, cell["outcome"], cell["date"]) for row, cell in kept(data).items()] == [
        ("demo", "ok", "2026-01-01"),
        ("scan", "fault", "2026-01-02"),
    ]
    assert "2026-01-01 to 2026-01-02" in page.render_page(json.loads(data.read_text()))


def test_cells_of_another_release_and_rows_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    data = tmp_path / "kernels.json"
    page.keep_result(data, "host", result("6.1", Cell("demo", "ok", "a")), "2026-01-01")
    page.keep_result(data, "host", result("6.2", Cell("scan", "ok", "b"), Cell("gone", "ok", "")), "2026-01-02")
    page.keep_result(data, "host", result("6.2", Cell("tests/core", "ok", "9 passed")), "2026-01-02")
    assert list(kept(data)) == ["scan", "tests/core"]


def test_the_page_names_each_cell_with_its_reason(tmp_path: Path) -> None:
    data, text = tmp_path / "kernels.json", tmp_path / "kernels.md"
    cells = (Cell("ability X", "not run", "no"), Cell("scan", "fault", "a | b"), Cell("why", "not run", "x"))
    page.keep_result(data, "host", result("6.1", *cells), "2026-01-01")
    page.keep_result(data, "uml-5.10", result("5.10", Cell("demo", "ok", "fine")), "2026-01-01")
    page.write_page(text, data)
    written = text.read_text()
    assert "{tables}" not in written
    for line in ("| X | no | ? |", "| scan | **fault** | a / b |", "| why | – | x |", "| demo | – | ok |"):
        assert line in written
    assert "Not run: demo. Reason: not run on this kernel yet." in written


def test_what_the_kernel_lacks_is_marked_and_what_was_left_out_has_its_reason(tmp_path: Path) -> None:
    data = tmp_path / "kernels.json"
    lacking = Cell("watch", "not run", "the kernel lacks BPF_TRACEPOINT; exit status 4")
    found = boot.Result("5.4.0", [Cell("demo", "ok", ""), lacking], True, "", ("demo", "watch", "server starts"))
    page.keep_result(data, "vm-5.4", found, "2026-01-01")
    whole = replace(found, cells=[*found.cells, Cell("server starts", "ok", ""), Cell("tests/core", "ok", "")])
    page.keep_result(data, "uml-5.10", whole, "2026-01-01")
    written = page.render_page(json.loads(data.read_text()))
    assert "| watch | lacks | the kernel lacks BPF_TRACEPOINT; exit status 4 |" in written
    assert f"Not run: server starts. Reason: {page.IN_TIME}." in written
    assert f"Not run: tests/core. Reason: {page.OWN_TESTS}." in written


def test_the_page_in_the_repository_is_the_one_of_its_data() -> None:
    known = json.loads((PAGE.parent / "data/kernels.json").read_text(encoding="utf-8"))
    assert page.render_page(known) == PAGE.read_text(encoding="utf-8")
    assert set(known) <= {kernel.name for kernel in (HOST, *KERNELS)}


def test_a_suite_that_cannot_be_fetched_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PackageUnavailableError, match="apt-get update"):
        Suite("bookworm", tmp_path)


@pytest.mark.parametrize(("ci", "status"), [("true", 1), ("", 0)])
def test_a_kernel_that_cannot_be_fetched_fails_in_ci_and_is_skipped_visibly_at_home(
    tmp_path: Path, ci: str, status: int
) -> None:
    """The tool finds no apt-get on its PATH."""
    command = [sys.executable, boot_kernels.__file__, "--ci", "--store", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={"PATH": str(tmp_path), "CI": ci}, check=False
    )
    assert done.returncode == status, done.stderr
    assert "skipped: apt-get" in done.stdout


def test_ci_fails_if_a_cell_faults_does_not_run_or_is_missing() -> None:
    options = boot_kernels.parse(["--ci"])
    rows = [*boot_kernels.CI_ROWS, *boot_kernels.CI_TESTS]
    fine = [Cell(row, "ok", "") for row in rows]
    assert not boot_kernels.has_failed([result("5.10", *fine)], options)
    assert boot_kernels.has_failed([result("5.10", *fine, complete=False)], options)
    for place, row in enumerate(rows):
        others = fine[:place] + fine[place + 1 :]
        assert boot_kernels.has_failed([result("5.10", *others)], options)
        for outcome in ("fault", "not run"):
            assert boot_kernels.has_failed([result("5.10", *others, Cell(row, outcome, ""))], options)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (debian("6.1"), {"linux-image-6.1.0-50-cloud-amd64", "linux-image-6.1.0-9-cloud-amd64"}),
        (debian("6.12"), {"linux-image-6.12.117+deb13-cloud-amd64"}),
        (ubuntu("5.4"), {"linux-image-5.4.0-216-generic", "linux-image-5.4.0-9-generic"}),
    ],
)
def test_a_pattern_names_one_kind_of_package(pattern: str, names: set[str]) -> None:
    others = {
        *(
            "linux-image-6.1.0-50-cloud-amd64-unsigned",
            "linux-image-6.1.0-50-amd64",
            "linux-image-6.10.0-1-cloud-amd64",
        ),
        *("linux-image-5.4.0-1133-kvm", "linux-image-unsigned-5.4.0-216-generic", "linux-image-5.40.0-1-generic"),
    }
    assert {name for name in names | others if re.fullmatch(pattern, name)} == names


@pytest.mark.parametrize(
    ("listed", "built_in", "sharing"),
    [
        ("kernel/fs/fuse/virtiofs.ko.xz:\n", "", vm.VIRTIOFS),
        ("", "kernel/fs/fuse/virtiofs.ko\n", vm.VIRTIOFS),
        ("kernel/fs/9p/9p.ko:\n", "kernel/fs/fuse/fuse.ko\n", vm.NINE_P),
    ],
)
def test_a_kernel_without_virtiofs_gets_its_root_over_9p(
    tmp_path: Path, listed: str, built_in: str, sharing: vm.Sharing
) -> None:
    (tmp_path / "modules.dep").write_text(listed)
    (tmp_path / "modules.builtin").write_text(built_in)
    assert vm.sharing_of(tmp_path) is sharing


def test_modules_are_loaded_after_those_they_need_in_whatever_way_they_are_compressed(tmp_path: Path) -> None:
    data = b"module" * 100
    (tmp_path / "a.ko").write_bytes(data)
    (tmp_path / "b.ko.xz").write_bytes(lzma.compress(data))
    (tmp_path / "c.ko.gz").write_bytes(gzip.compress(data))
    (tmp_path / "modules.dep").write_text("a.ko: b.ko.xz c.ko.gz\nb.ko.xz: c.ko.gz\nc.ko.gz:\n")
    order = vm.with_dependencies(tmp_path, ("c", "a", "not_there"))
    assert [path.name for path in order] == ["c.ko.gz", "b.ko.xz", "a.ko"]
    assert {vm.decompressed(path) for path in order} == {data}


@pytest.mark.usefixtures("network")
def test_a_shell_command_is_run_in_the_repository_and_its_output_is_kept(tmp_path: Path) -> None:
    (job,) = boot_kernels.jobs(HOST, boot_kernels.parse(["host", "--shell", "ls README.md; tailbite --version"]))
    found = boot.run_on(HOST, tmp_path, job, 110)
    assert found.complete, found.console
    assert re.fullmatch(r"README\.md\ntailbite.*\n", found.output)
    assert found.cells == []


def test_a_detail_names_no_folder_of_the_machine_that_ran_it() -> None:
    python = Path(sys.executable)
    said = f"cannot guard {python}; see {boot.ROOT}/docs/guards.md"
    assert inside.without_folders(said) == f"cannot guard {python.name}; see docs/guards.md"


@pytest.mark.usefixtures("network")
def test_a_job_on_this_kernel_runs_to_its_end(tmp_path: Path) -> None:
    rows = ["trap: create_connection", "scan"]
    job = {"seconds": 100, "run": {"connects": 20}, "rows": rows, "tests": []}
    found = boot.run_on(HOST, tmp_path, job, 110)
    assert found.complete, found.console
    assert set(rows) <= set(found.rows)
    assert [(cell.row, cell.outcome) for cell in found.cells if not cell.row.startswith("ability")] == [
        (row, "ok") for row in rows
    ], found.console
