"""The command itself: names, statuses, and what it loads."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

import tailbite
from tailbite._version import __version__
from tailbite.cli.front import COMMANDS
from tailbite.cli.output import wrapped


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tailbite", *arguments], capture_output=True, text=True, timeout=60)


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"tailbite {__version__}\n")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_command_within_80_columns(flag: str) -> None:
    done = run(flag)
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


@pytest.mark.parametrize("group", [(), ("host-guard",)])
def test_a_group_without_a_command_shows_its_help(group: tuple[str, ...]) -> None:
    done = run(*group)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == run(*group, "--help").stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: tailbite {name}")


@pytest.mark.parametrize("arguments", [["no-such-command"], ["--no-such-option"], ["demo", "--no-such-option"]])
def test_wrong_usage_is_one_sentence_and_status_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "No such" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["demo", "--help"],
        ["audit", "--list", "--catalogue", "redis"],
        ["lab", "odds", "--port", "32246", "--json"],
    ],
)
def test_a_full_disk_is_one_sentence(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "tailbite", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 4  # 1 would mean "found something"
    assert "cannot be written: No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_the_commands_libraries_a_sentence_says_how_to_install_them() -> None:
    code = "import sys; sys.modules['click'] = None; from tailbite.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert "click is missing; install it with: pip install 'tailbite[cli]'" in done.stderr


def test_the_version_needs_no_option_parser() -> None:
    code = (
        "import sys; sys.modules['click'] = None; sys.argv[1:] = ['--version']; from tailbite.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"tailbite {tailbite.__version__}\n")


def loaded(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_import_tailbite_loads_neither_asyncio_nor_anything_heavy() -> None:
    more = loaded("import tailbite") - loaded("pass")
    assert not more & {"asyncio", "click", "rich", "psutil", "numpy", "ssl", "socket", "ipaddress", "subprocess"}
    assert "asyncio" not in loaded("import tailbite; tailbite.create_connection; tailbite.is_self_connected")


def test_help_loads_no_command() -> None:
    modules = loaded(
        "import contextlib, tailbite.cli.group as g\nwith contextlib.suppress(SystemExit): g.tailbite(['--help'])"
    )
    assert not modules & {"rich", "psutil", "asyncio", "numpy", *(module for module, _ in COMMANDS.values())}


def test_the_front_page_needs_no_option_parser() -> None:
    modules = loaded("sys.argv = ['tailbite', '--help']\nfrom tailbite.cli import main\nmain()")
    assert not modules & {"click", "inspect", "typing", "socket", "tailbite.cli.group"}


def test_a_plain_run_needs_no_option_parser() -> None:
    show = "import sys; print(sorted({'click', 'pathlib', 'asyncio'} & set(sys.modules)))"
    code = f"import os, sys\nos.execve = lambda *_: exec({show!r}) or os._exit(sys.stdout.flush() or 7)\n"
    code += "sys.argv = ['tailbite', 'run', '--', 'true']\nfrom tailbite.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (7, "[]\n"), done.stderr


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("number", [1, 12, 60])
@pytest.mark.parametrize("arguments", ["--help", "scan --netns self", "why 40000", "doctor --netns self", "fix"])
def test_an_interruption_is_status_130_while_it_still_loads_too(arguments: str, number: int) -> None:
    code = f"""
import itertools, os, sys
from tailbite.cli import main
imports = itertools.count(1)
sys.addaudithook(lambda event, _: event == "import" and next(imports) == {number} and os.kill(os.getpid(), 2))
sys.argv = ["tailbite", *{arguments.split()}]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    few = arguments == "--help" and number == 60  # it loads less than that
    assert (done.returncode, "Traceback" in done.stderr) == (0 if few else 130, False), done.stderr


@pytest.mark.usefixtures("network")
def test_a_scan_that_finds_nothing_loads_what_it_needs() -> None:
    scan = "import contextlib, tailbite.cli.group as g\nwith contextlib.suppress(SystemExit):"
    modules = loaded(f"{scan} g.tailbite(['scan', '--netns', 'self'])")
    assert "tailbite.host.see.scan" in modules
    assert not modules & {"rich", "json", "pathlib", "ctypes", "pickle", "asyncio"}


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_front_page_is_as_wide_as_the_terminal_at_most_96(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    widest = max(map(len, run("--help").stdout.splitlines()))
    assert min(columns, 96) - 10 < widest <= max(min(columns, 96), 50)  # as click, never below 50


def test_the_public_names_are_all_there() -> None:
    import tailbite

    for name in tailbite.__all__:
        assert getattr(tailbite, name) is not None
    assert set(tailbite.__all__) <= set(dir(tailbite))
    with pytest.raises(AttributeError, match="no_such_name"):
        tailbite.no_such_name  # noqa: B018


@pytest.mark.parametrize(("typed", "meant"), [("scann", "scan"), ("doctr", "doctor"), ("host-gaurd", "host-guard")])
def test_a_mistyped_command_is_answered_with_the_one_that_is_most_alike(typed: str, meant: str) -> None:
    done = run(typed)
    assert done.returncode == 2
    assert f"No such command '{typed}'. Did you mean '{meant}'?" in done.stderr


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    "arguments", ["scan --netns self", "why 80 --netns self", "why 50001 --netns self", "--help"]
)
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_a_closed_stdout_is_neither_a_traceback_nor_found(arguments: str, closed: str) -> None:
    line = f"exec {sys.executable} -m tailbite {arguments} {closed}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 141)
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [["--help"], ["why", "--explain", "TB101"], ["lab", "--help"]])
def test_a_reader_that_went_away_is_status_141(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "tailbite", *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("name", ["why", "doctor", "fix", "scan"])
def test_the_help_of_a_command_has_examples(name: str) -> None:
    assert f"Examples:\n    {'tailbite' if name != 'fix' else 'tailbite fix'}" in run(name, "--help").stdout


def test_a_sentence_is_wrapped_at_words_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    sentence = "No self-connected TCP socket in this network namespace."
    with io.StringIO() as pipe, io.StringIO() as terminal:
        terminal.isatty = lambda: True  # type: ignore[method-assign]
        assert wrapped(sentence, pipe) == sentence
        lines = wrapped(sentence, terminal).split("\n")
    assert " ".join(lines) == sentence
    assert max(map(len, lines)) <= 40


@pytest.mark.usefixtures("network")
def test_piped_output_is_not_cut_and_has_no_blanks_at_the_end_of_a_line() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    for arguments in (["why", "50001", "--netns", "self"], ["doctor", "--netns", "self", "--ports", "50001"]):
        done = subprocess.run(
            [sys.executable, "-m", "tailbite", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
        )
        lines = done.stdout.splitlines()
        assert lines == [line.rstrip() for line in lines]
        assert max(map(len, lines)) > 120
        narrow = subprocess.run(
            [sys.executable, "-m", "tailbite", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={**environment, "COLUMNS": "60"},
        )
        assert max(len(line) for line in narrow.stdout.splitlines() if not line.startswith("      ")) <= 60
