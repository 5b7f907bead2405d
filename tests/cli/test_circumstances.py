"""Every command where something is wrong around it: one sentence, the right status, and nothing left behind."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.forked_cli import CIRCUMSTANCES, Case, Ended, forked_commands
from support.holders import Holder
from support.promised import PORT, PROMISED
from tailbite.cli.schema import read_schema
from tailbite.core.ports import PortRange
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.forked_cli import RunAll

    Check = Callable[[list[Case], Callable[[Case, int, bool, Ended], bool]], None]

HERE = "--netns self"
ENDED_BY = {
    int(signal.SIGINT): (130,),
    int(signal.SIGTERM): (143, -signal.SIGTERM),
    int(signal.SIGHUP): (129, -signal.SIGHUP),
}
LINES: dict[str, tuple[int, bool]] = {
    # What is typed: the exit status where nothing is wrong, and whether the answer goes to standard output.
    "--help": (0, True),
    "--version": (0, True),
    "run --in-process -- true": (0, False),
    "wait -t 0 127.0.0.1:1": (1, False),
    "wait -t 0 --free 8080 -- true": (0, False),
    f"scan {HERE}": (0, True),
    f"why 40000 {HERE}": (1, True),
    f"doctor {HERE}": (0, True),
    "fix --reserve 8125 --no-files": (1, True),
    f"watch --for 20ms --source poll {HERE}": (0, False),
    f"check --timeout 10m {HERE}": (0, True),
    "lab odds --port 40000 --range 40000-42999": (0, True),
    "schema": (0, True),
}
PRIVATE = ("demo", "lab handshake", "lab loop --hits 1", "lab parity")
"""Those that need a private network."""
HAVE_JSON = ("wait", "scan", "why", "doctor", "fix", "watch", "check", "lab", "demo")
Draft202012Validator: Any = import_module("jsonschema").Draft202012Validator


@pytest.fixture(scope="module")
def run_all() -> Iterator[RunAll]:
    with forked_commands() as run:
        yield run


@pytest.fixture(autouse=True)
def small_range(network: None) -> None:
    """The odds are calculated fastest for some thousand ports: fewer of them mean more laps."""
    write_ephemeral_range(PortRange(40000, 42999))


@pytest.fixture
def check(run_all: RunAll) -> Check:
    """Run each case; ``is_right`` gets it with the usual status, whether it prints, and what came of it."""

    def check(cases: list[Case], is_right: Callable[[Case, int, bool, Ended], bool]) -> None:
        for case, found in zip(cases, run_all(cases), strict=True):
            assert "Traceback" not in found.err, (case, found.err)
            assert found.left == [], case
            line = " ".join(word for word in case.line if word != "-j")
            assert is_right(case, *LINES.get(line, (0, True)), found), (case, found)
            check_documents(case, found)

    return check


def check_documents(case: Case, found: Ended) -> None:
    """A command with --json prints a document as its schema has it, or nothing."""
    if "-j" in case.line and found.out:
        lines = found.out.splitlines() if case.line[0] == "watch" else [found.out]
        for document in map(json.loads, lines):
            name = document["schema"].removeprefix("tailbite.").partition("/")[0]
            Draft202012Validator(json.loads(read_schema(name))).validate(document)


def with_json(cases: list[Case]) -> list[Case]:
    """Return the cases, those of commands that have it with --json."""
    return [replace(case, line=_with_json(case.line)) if case.line[0] in HAVE_JSON else case for case in cases]


def _with_json(line: list[str]) -> list[str]:
    place = 2 if line[0] == "lab" else 1
    return [*line[:place], "-j", *line[place:]]


def everywhere(*circumstances: str, more: tuple[str, ...] = ()) -> list[Case]:
    return [Case(line.split(), name) for name in circumstances for line in (*LINES, *more)]


def test_each_command_answers_where_nothing_is_wrong_and_does_not_repeat_a_very_long_argument(check: Check) -> None:
    def is_right(case: Case, status: int, prints: bool, found: Ended) -> bool:
        if " ".join(case.line) not in LINES:
            return found.status == 2 and 0 < len(found.err) < 1000
        return (found.status, found.out != "") == (status, prints)

    word = "x" * 70_000
    lines = (word, f"why {word}", f"scan --netns {word}", f"wait {word}", f"wait http://{word}:{word}/")
    check(everywhere("nothing unusual", more=lines), is_right)


def test_an_output_that_nobody_reads_is_no_finding_and_notes_decide_nothing(check: Check) -> None:
    """Status 1 means "found", so a command that cannot print ends with another one; notes may be lost."""

    def is_right(case: Case, status: int, prints: bool, found: Ended) -> bool:
        if case.circumstance in ("stderr closed", "notes on a full disk"):
            return (found.status, found.out != "") == (status, prints)
        if case.line[0] in ("run", "wait"):  # their status is the program's, or the server's
            return found.status == status
        if case.circumstance == "reader gone":
            return found.status == (141 if prints else status)
        if case.circumstance == "disk full":
            return found.status == (4 if prints else status) and (
                not prints or found.err.splitlines()[-1].endswith("; free space, or write elsewhere")
            )
        return found.status == (141 if status == 1 else 0)

    outputs = ("reader gone", "stdout closed", "all closed", "disk full")
    check(everywhere(*outputs, "stderr closed", "notes on a full disk"), is_right)


def test_an_odd_environment_changes_no_answer(check: Check) -> None:
    def is_right(case: Case, status: int, prints: bool, found: Ended) -> bool:
        runs = case.line[-1] == "true" and case.circumstance == "no home"  # where no program can be found
        if "-j" in case.line:
            return bool(json.loads(found.out)["schema"].startswith("tailbite."))
        return (found.status, found.out != "") == (127 if runs else status, prints) and "\x1b" not in found.out

    documents = (
        f"scan -j {HERE}",
        f"why 40000 -j {HERE}",
        f"check -j --timeout 10m {HERE}",
        "wait -j -t 0 127.0.0.1:1",
    )
    cases = everywhere("folder gone", "no environment", "no home", "40 columns", "odd terminal")
    check([*cases, *(Case(line.split(), "odd terminal") for line in documents)], is_right)


def test_what_the_system_refuses_is_one_sentence_and_status_4(check: Check) -> None:
    def is_right(case: Case, status: int, _: bool, found: Ended) -> bool:
        measures = case.line[0] in ("demo", "lab")  # and may find what it did not expect
        return (
            found.status in (status, 3)
            or (measures and found.status == 1)
            or (found.status == 4 and "tailbite: " in found.err)
        )

    check(everywhere("5 descriptors", "little memory", more=PRIVATE[:3]), is_right)
    if os.geteuid() == 0:
        check(everywhere("no more processes"), is_right)
    check(with_json(everywhere("8 descriptors", "no file may grow", more=PRIVATE[:3])), is_right)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_proc_that_lacks_something_is_named(check: Check) -> None:
    """Containers have a read-only /proc/sys, and some sandboxes none."""

    def is_right(case: Case, status: int, _: bool, found: Ended) -> bool:
        if " ".join(word for word in case.line if word != "-j") in PRIVATE:
            return found.status == 4 and "/proc" in found.err
        return found.status in (status, 3) or (found.status == 4 and "tailbite: " in found.err)

    check(everywhere("no settings", "no processes", more=PRIVATE), is_right)
    check(with_json(everywhere("settings read-only", more=PRIVATE)), is_right)


LATER = 3
MIDST = (
    "wait -t never 127.0.0.1:1",
    "wait -t never --free 1",
    *(line for line in LINES if HERE in line),
    "lab parity",
)


def test_a_signal_in_the_midst_ends_a_command_and_leaves_nothing(run_all: RunAll) -> None:
    held = socket.create_server(("127.0.0.1", 1))
    with held:
        cases = [
            Case(line.split(), signal=number, after=after)
            for line in MIDST
            for number in ENDED_BY
            for after in (1, LATER)
        ]
        cases = [each for case in cases for each in (with_json([case]) if case.after == LATER else [case])]
        for case, found in zip(cases, run_all(cases), strict=True):
            assert "Traceback" not in found.err, (case, found.err)
            assert found.left == [], case
            assert found.status in ENDED_BY[case.signal], (case, found)
            check_documents(case, found)
            if case.line[0] == "wait" and "-j" in case.line:
                assert found.out == "" or json.loads(found.out)["interrupted"]


def test_a_change_is_complete_though_nobody_reads_of_it(run_all: RunAll, tmp_path: Path) -> None:
    """`fix --apply | head -1` makes all of its changes, as does one whose output fills the disk; so does --undo."""
    theirs = "net.ipv4.ip_local_port_range = 9000 65500\n"
    cases = []
    for circumstance in ("reader gone", "disk full"):
        (folder := tmp_path / circumstance / "etc/sysctl.d").mkdir(parents=True)
        (folder / "90-theirs.conf").write_text(theirs)
        root = ("--root", str(tmp_path / circumstance))
        wanted = ("fix", "--reserve", "8125", "--range", "49152-65535", "--apply", *root)
        back = ("fix", "--undo", "--apply", *root)
        cases += [Case([*wanted], circumstance), Case([*wanted]), Case([*back], circumstance)]
    found = run_all(cases)
    assert [one.status for one in found] == [141, 0, 141, 4, 0, 4], [one.err for one in found]
    assert all("nothing to do" in one.err for one in found[1::3])
    for folder in tmp_path.glob("*/etc/sysctl.d"):
        assert {path.name: path.read_text() for path in folder.iterdir()} == {"90-theirs.conf": theirs}


def _reports(folder: Path) -> None:
    """Make what four groups of hosts have to say."""
    scan = {"schema": "tailbite.scan/1", "taken": 0, "namespaces": [], "self_connects": [], "not_visible": []}
    for name in ("fine", "found", "part", "empty"):
        (folder / name).mkdir()
    for name in ("fine", "part"):
        (folder / name / "host.scan.json").write_text(json.dumps(scan))
    (folder / "part/other.scan.json").write_text("{")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_each_command_ends_with_the_statuses_that_its_help_promises(run_all: RunAll, tmp_path: Path) -> None:
    _reports(tmp_path)
    cases: list[tuple[int, Case, bool]] = []
    for name, lines in PROMISED.items():
        for wanted, line in lines.items():
            if isinstance(line, str):
                continue
            words = f"{name} {line[0]}".replace("TMP", str(tmp_path)).split()
            number = signal.SIGINT if line[1] == "SIGINT" else 0
            plain = line[1] if line[1] in CIRCUMSTANCES else "nothing unusual"
            cases.append((wanted, Case(words, plain, number, 3 if number else 0), line[1] == "self-connect"))
    with Holder("self_chosen", "127.0.0.1", reuse=False).held(PORT):
        found = run_all([Case(["scan", "--netns", "self", "-j"]), *(case for _, case, held in cases if held)])
    (tmp_path / "found/host.scan.json").write_text(found[0].out)
    quiet = [each for each in cases if not each[2]]
    results = run_all([case for _, case, _ in quiet])
    loud = [each for each in cases if each[2]]
    pairs = zip([*quiet, *loud], [*results, *found[1:]], strict=True)
    assert [(wanted, case, one) for (wanted, case, _), one in pairs if one.status != wanted] == []


@pytest.fixture
def odd_name() -> Iterator[None]:
    """Give this thread, and so the process, a name of two alphabets and a byte that is not text."""
    libc = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(16)
    libc.prctl(16, before, 0, 0, 0)  # PR_GET_NAME
    libc.prctl(15, b"n\xc3\xa4\xff\xe6\x97\xa5", 0, 0, 0)  # PR_SET_NAME
    yield
    libc.prctl(15, before, 0, 0, 0)


@pytest.mark.usefixtures("odd_name")
def test_names_of_any_characters_are_shown_in_any_encoding(run_all: RunAll, tmp_path: Path) -> None:
    _reports(tmp_path)
    odd = tmp_path / "gr\u00fcn\udcff"
    (tmp_path / "fine").rename(odd)
    names = tmp_path / "names"
    names.write_bytes(f"{PORT} s\u00e4rvice".encode() + b"\xff\n")
    lines = (
        *(f"scan {HERE}", f"scan -j {HERE}", f"scan --json-lines {HERE}", f"why {PORT} {HERE}"),
        *(f"why -j {PORT} {HERE}", f"exporter --once --textfile {odd}/m --source poll {HERE}"),
        *(f"doctor {HERE}", f"doctor -j {HERE}", f"check {HERE}", f"watch --for 20ms --source poll {HERE}"),
        *(f"watch -j --for 20ms --source poll {HERE}", "wait -t 0 -j ./\u00e4\udcff", "wait -t 0 ./\u00e4\udcff"),
        *(f"doctor {HERE} --ports {names}", f"report {tmp_path}", f"report -j {tmp_path}", f"report {odd}/x"),
        *(f"fix --root {odd} --reserve 8125", f"doctor {HERE} --write-baseline {odd}/base", "lab odds --port \u00e4"),
        "audit --quick -- echo \u00e4\udcff {port}",
    )
    with Holder("self_chosen", "127.0.0.1", reuse=False).held(PORT):
        found = run_all([Case(line.split(), "ASCII output") for line in lines])
    for line, one in zip(lines, found, strict=True):
        assert one.status in (0, 1, 2, 3), (line, one)
        assert "Traceback" not in one.err, (line, one)
        assert "codec" not in one.err, (line, one)
        check_documents(Case(line.split()), one)
        if "-j" in line.split():
            assert re.findall(r"(?<!\\ud[89ab]..)\\ud[c-f]..", one.out) == []
    assert any("n\\xe4" in one.out for one in found)


START = {
    "run --": "tailbite: ",
    "wait -q -t 0 --free 8080 --": "tailbite: cannot run ",
    "audit --quick --": "cannot run ",
    "lab loop --hits 1 --client": "cannot run ",
}


def test_the_reason_why_a_program_cannot_be_started_is_the_same_in_every_command(
    run_all: RunAll, tmp_path: Path
) -> None:
    for name, content, mode in (
        ("script", "#!/no/such/interpreter\n", 0o755),
        ("binary", "\x7fELF\0\n", 0o755),
        ("data", "", 0o644),
    ):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    reasons = {
        f"{tmp_path}/script": f"/no/such/interpreter, which {tmp_path}/script needs, does not exist",
        f"{tmp_path}/binary": "it is a program for another kind of machine, or damaged",
        f"{tmp_path}/data": "it is not marked as executable (chmod +x)",
        str(tmp_path): "it is a folder",
        "no-such-program": "No such file or directory",
    }
    lines = [(start, program) for start in START for program in reasons]
    found = run_all([Case([*start.split(), program, *["{port}"] * start.endswith("--")]) for start, program in lines])
    for (start, program), one in zip(lines, found, strict=True):
        assert f"{START[start]}{program}: {reasons[program]}" in one.err, one
        exists = program not in (f"{tmp_path}/script", "no-such-program")
        assert one.status == (2 if start.startswith(("audit", "lab")) else 126 if exists else 127), one


def test_a_path_that_leads_nowhere_since_the_working_directory_is_gone_is_explained(check: Check) -> None:
    lines = (
        *("run -- ./x", "wait -t 0 --free 8080 -- ./x", "audit --quick -- ./x {port}", "report x"),
        *("doctor --ports ./x", "lab loop --from x", "audit --catalogue ./x.toml", "wait --tls --cacert x a:1"),
        *("exporter --textfile x --once --source poll --netns self", "lab parity", "audit --quick -- true {port}"),
    )

    def is_right(case: Case, _: int, __: bool, found: Ended) -> bool:
        says = "the working directory has been removed; change to another one" in found.err
        return says == ("x" in " ".join(case.line).replace("exporter", "").replace("textfile", ""))

    check([Case(line.split(), "folder gone") for line in lines], is_right)


def test_each_circumstance_is_used() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    elsewhere = {"host of examples", "programs of examples"}  # tests/cli/test_examples.py
    assert {name for name in CIRCUMSTANCES if f'"{name}"' not in text} <= elsewhere
