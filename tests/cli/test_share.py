"""The man page and the completions: what the commands say, what real shells make of them, and the wheel has them."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tailbite.cli.front import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent.parent
SHARE = ROOT / "share"
BASH = SHARE / "bash-completion/completions/tailbite"
ZSH = SHARE / "zsh/site-functions/_tailbite"
FISH = SHARE / "fish/vendor_completions.d/tailbite.fish"
MAN = SHARE / "man/man8/tailbite.8"

# What is typed before TAB -> what must be offered, and what must not.
LINES = [
    ("tailbite ", set(COMMANDS), {"--json"}),
    ("tailbite do", {"doctor"}, {"fix"}),
    ("tailbite lab ", {"loop", "odds"}, {"scan"}),
    ("tailbite fix --re", {"--reserve"}, {"--range"}),
    ("tailbite fix --netns ", {"all", "self"}, {"--apply"}),
    ("tailbite fix --netns all --un", {"--undo"}, {"all"}),
    ("tailbite lab odds --system one", {"one-by-one"}, {"strides"}),
    ("tailbite doctor --root /usr/li", {"/usr/lib"}, {"--root"}),
    ("tailbite why --explain TB10", {"TB101", "TB104"}, {"TB203"}),
    ("tailbite run -- tailbi", {"tailbite"}, {"scan"}),
    ("tailbite schema sc", {"scan"}, {"schema"}),
    ("tailbite completion ", {"bash", "zsh", "fish"}, {"--help"}),
    ("tailbite host-guard re", {"remove"}, {"report"}),
    ("tailbite report /usr/li", {"/usr/lib"}, {"--html"}),
]
lines = pytest.mark.parametrize(("line", "offered", "absent"), LINES, ids=[line for line, _, _ in LINES])


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose PATH has a ``tailbite``, and a home of its own."""
    home = tmp_path_factory.mktemp("home")
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    return {"PATH": path, "HOME": str(home), "TERM": "dumb", "LC_ALL": "C.UTF-8", "COLUMNS": "200", "LINES": "500"}


def test_what_is_committed_is_what_the_commands_say() -> None:
    """After any change of a help text: make man."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools/generate.py", "--check"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.peers
def test_the_man_page_is_well_formed_and_names_every_command_and_option(peer: Callable[[str], str]) -> None:
    lint = subprocess.run([peer("mandoc"), "-T", "lint", MAN], capture_output=True, text=True, timeout=60).stdout
    assert [line for line in lint.splitlines() if "STYLE" not in line and "missing date" not in line] == []
    page = subprocess.run(
        [peer("man"), "-l", MAN], capture_output=True, text=True, timeout=60, env={**os.environ, "MANWIDTH": "80"}
    )
    assert page.stderr == ""
    for name in COMMANDS:
        assert f"   tailbite {name}\n" in page.stdout
    for option in ("--reserve PORTS", "--netns all|self|PID|NAME", "--watch [DURATION]", "-h, --help"):
        assert option in page.stdout


def complete_in_bash(words: list[str], peer: Callable[[str], str], environment: dict[str, str]) -> list[str]:
    script = f"""
        source {BASH}
        COMP_WORDS=({" ".join(f"'{word}'" for word in words)})
        COMP_CWORD={len(words) - 1}
        $(complete -p tailbite | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        [peer("bash"), "--norc", "-c", script], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.peers
@lines
def test_bash_completes(
    line: str, offered: set[str], absent: set[str], peer: Callable[[str], str], environment: dict[str, str]
) -> None:
    found = set(complete_in_bash(line.split(" "), peer, environment))
    assert offered <= found
    assert not absent & found


@pytest.mark.peers
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("tailbite watch --source = ", {"auto", "bpf", "destroy", "poll"}),
        ("tailbite watch --source =", {"auto", "bpf", "destroy", "poll"}),
        ("tailbite lab odds --system = one", {"one-by-one"}),
        ("tailbite wait localhos", {"localhost"}),
    ],
)
def test_bash_completes_values_after_an_equals_sign_and_names_of_hosts(
    words: str, offered: set[str], peer: Callable[[str], str], environment: dict[str, str]
) -> None:
    """Bash makes a word of each equals sign (COMP_WORDBREAKS)."""
    assert set(complete_in_bash(words.split(" "), peer, environment)) == offered


@pytest.mark.peers
def test_bash_completes_a_file_with_a_blank_in_its_name(
    tmp_path: Path, peer: Callable[[str], str], environment: dict[str, str]
) -> None:
    (tmp_path / "two words").touch()
    line = ["tailbite", "report", ".", "--html", f"{tmp_path}/tw"]
    assert complete_in_bash(line, peer, environment) == [f"{tmp_path}/two words"]


@pytest.mark.peers
@lines
def test_fish_completes(
    line: str, offered: set[str], absent: set[str], peer: Callable[[str], str], environment: dict[str, str]
) -> None:
    script = f"source {FISH}; complete -C '{line}'"
    done = subprocess.run(
        [peer("fish"), "--no-config", "-c", script], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stderr == ""
    found = {answer.split("\t")[0].rstrip("/") for answer in done.stdout.splitlines()}
    assert offered <= found
    assert not absent & found


@pytest.mark.peers
@lines
def test_zsh_completes(
    line: str, offered: set[str], absent: set[str], peer: Callable[[str], str], environment: dict[str, str]
) -> None:
    """A person at a terminal: the line, TAB, and what the screen shows."""
    shown = Terminal([peer("zsh"), "-f", "-i"], environment)
    with shown:
        shown.type(
            f"PROMPT=; fpath=({ZSH.parent} $fpath); autoload -Uz compinit; compinit -D -u; LISTMAX=9999;"
            " setopt no_auto_menu no_list_beep auto_list no_always_last_prompt; print READY''NOW\n"
        )
        shown.wait_for("READYNOW\r\n")
        shown.type(f"{line}\t\t")
        for word in offered:
            shown.wait_for(word.removeprefix(line.rpartition(" ")[2]) if len(offered) == 1 else word)
    words = set(shown.seen.replace("\r", " ").split())
    assert not absent & words - set(line.split())


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.seen = ""
        self._child, self._side = pty.fork()
        if self._child == 0:  # pragma: no cover - it becomes the program
            os.execve(command[0], command, environment)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._side)
        os.waitpid(self._child, 0)

    def type(self, text: str) -> None:
        """Type it; what was seen before is forgotten."""
        self.seen = ""
        os.write(self._side, text.encode())

    def wait_for(self, text: str, seconds: float = 30) -> None:
        """Read until the text has been shown."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._side], [], [], left)[0]:
                raise AssertionError(f"{text!r} was not shown within {seconds} s, but: {self.seen!r}")
            self.seen += os.read(self._side, 65536).decode(errors="replace")


def test_the_wheel_has_them_where_the_system_looks(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=100,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name.partition(".data/data/")[2]: name for name in archive.namelist() if ".data/data/" in name}
        for file in (MAN, BASH, ZSH, FISH):
            assert archive.read(inside[str(file.relative_to(ROOT))]) == file.read_bytes()
