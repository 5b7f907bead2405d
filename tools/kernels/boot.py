"""Boots a kernel with a job and brings its results back; bounded in time, ended by its process id."""

from __future__ import annotations

import json
import os
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernels.packages import find_kmod
from kernels.records import Cell
from kernels.uml import prepare_uml, uml_command
from kernels.vm import prepare_vm, start_vm

if TYPE_CHECKING:
    from kernels.records import Kernel

__all__ = ["Result", "fetch_kernel", "run_on"]

ROOT = Path(__file__).parents[2]

MODPROBE = """#!/bin/bash
export LD_LIBRARY_PATH={libraries}
exec -a modprobe {kmod} -d {tree} "$@"
"""


@dataclass(frozen=True, slots=True)
class Result:
    """Result of a job on a kernel.

    Attributes:
        release: as uname(2) of the kernel names it; empty if it did not come up.
        cells: in the order of the run.
        complete: the job ran to its end.
        console: the last lines of the console, and the output of the job, for people.
        rows: names of all rows that a job can have, without tests.
        output: everything that the job's shell command printed.
    """

    release: str
    cells: list[Cell]
    complete: bool
    console: str
    rows: tuple[str, ...] = ()
    output: str = ""


def fetch_kernel(kernel: Kernel, store: Path) -> tuple[Path, Path | None]:
    """Fetch a kernel unless the store has it; return its program or image, and the folder with its modules.

    Raises:
        PackageUnavailableError: the kernel or a program to boot it cannot be fetched.
    """
    prepare, _ = WAYS[kernel.way]
    image, modules = prepare(kernel, store)
    return image, modules


def run_on(kernel: Kernel, store: Path, job: dict[str, Any], limit: float) -> Result:
    """Boot a kernel and run a job on it.

    Args:
        kernel: the kernel.
        store: folder for packages, kept between runs.
        job: for inside.py: "seconds"; "run", the fields of :class:`~kernels.outcome.Run`; "rows", None for all
            but those of "leave_out"; "tests", paths below the repository; "shell", a command to run instead.
        limit: seconds until the kernel is killed.

    Raises:
        PackageUnavailableError: the kernel or a program to boot it cannot be fetched.
    """
    with tempfile.TemporaryDirectory(prefix="tailbite-kernel-") as folder:
        share = Path(folder)
        (share / "job.json").write_text(json.dumps(job), encoding="utf-8")
        (share / "seed").write_bytes(secrets.token_bytes(256))
        settings = {
            "share": str(share),
            "repository": str(ROOT),
            "python": sys.executable,
            "way": kernel.way,
            "extra": ",".join(_hidden_folders()),
        }
        _, start = WAYS[kernel.way]
        image, modules = fetch_kernel(kernel, store)
        if modules is not None:
            _provide_modules(share, modules, store)
        _compile_sources()
        with (share / "boot").open("wb") as console:
            process = start(image, share, settings, console)
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                pass
            finally:
                _end(process)
        return _collect(share)


def _start_uml(image: Path, share: Path, settings: dict[str, str], console: Any) -> subprocess.Popen[bytes]:
    command, environment = uml_command(image, share, settings)
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
    )


def _prepare_host(_: Kernel, __: Path) -> tuple[Path, None]:
    return Path(__file__).with_name("inside.py"), None


def _start_host(image: Path, share: Path, _: dict[str, str], console: Any) -> subprocess.Popen[bytes]:
    """Run the job on this machine's kernel, in a network namespace of its own."""
    command = ["unshare", "--net", sys.executable, str(image), str(share)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True)


WAYS: dict[str, tuple[Any, Any]] = {
    "host": (_prepare_host, _start_host),
    "uml": (prepare_uml, _start_uml),
    "vm": (prepare_vm, start_vm),
}


def _hidden_folders() -> list[str]:
    """Return the folders of the interpreter that lie below a folder that the booted kernel covers with its own."""
    covered = ("/tmp/", "/run/", "/root/", "/var/lib/")
    needed = {Path(sys.executable).resolve().parents[1], Path(sys.prefix)}
    return sorted(str(path) for path in needed if str(path).startswith(covered) and ROOT not in path.parents)


def _compile_sources() -> None:
    """Compile the repository's modules: the booted kernel cannot write them, and would compile at every start."""
    folders = [str(ROOT / name) for name in ("src", "tools", "tests/support", "bench")]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *folders], check=False)


def _provide_modules(share: Path, modules: Path, store: Path) -> None:
    """Write the program that loads a module of the booted kernel."""
    tree = share / "modules/lib/modules"
    tree.mkdir(parents=True)
    for version in modules.iterdir():
        (tree / version.name).symlink_to(version)
    script = share / "modprobe"
    kmod, libraries = find_kmod(store)
    script.write_text(MODPROBE.format(tree=share / "modules", kmod=kmod, libraries=libraries), encoding="ascii")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what the boot started: its session has the kernel and, for User Mode Linux, the processes inside."""
    for _ in range(2):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            break
        process.wait(20)


def _collect(share: Path) -> Result:
    lines = _text(share / "result.jsonl").splitlines()
    cells = [Cell(**json.loads(line)) for line in lines if line.endswith("}")]
    console = _text(share / "boot")[-3000:] + _text(share / "console")[-60000:]
    rows = tuple(json.loads(_text(share / "rows.json") or "[]"))
    return Result(
        _text(share / "release").strip(), cells, (share / "complete").exists(), console, rows, _text(share / "output")
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
