"""Tests: each module has tests of its own, and each test asks for the programs of others before it starts them."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from checks.offence import Offence, modules, parsed

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["modules_without_tests", "tests_without_module", "unasked_programs"]

TESTED_ELSEWHERE = Path(__file__).with_name("tested_elsewhere.toml")
"""``[modules]``: module without tests of its own -> the test file that covers it.
``[tests]``: test file that is not about one module -> the subject it tests."""

FOREIGN = {
    *("bash-completion", "busybox", "cc", "chromium", "clang", "curl", "docker", "fish", "gcc", "git", "go"),
    *(
        "haproxy",
        "ip",
        "ip6tables",
        "iptables",
        "iptables-legacy",
        "iptables-nft",
        "java",
        "javac",
        "kcat",
        "ldapsearch",
    ),
    *("lsof", "mandoc", "man", "mariadb", "mariadbd", "mosquitto_sub", "mysql", "mysqld", "nc", "ncat", "netstat"),
    *(
        "nft",
        "nginx",
        "node",
        "npm",
        "openssl",
        "patch",
        "pg_isready",
        "pgbouncer",
        "pgpool",
        "php",
        "podman",
        "postgres",
    ),
    *("prometheus", "promtool", "psql", "redis-cli", "redis-server", "ruby", "rustc", "socat", "ss", "ssh", "sshd"),
    *("strace", "sudo", "sysctl", "systemctl", "systemd-analyze", "systemd-run", "tcpdump", "telnet", "tmux", "wget"),
    *("zsh", "ps", "pgrep", "pkill", "ping", "ansible", "ansible-playbook", "helm", "kubectl", "dpkg-deb", "rpm"),
}
"""Programs that a Debian with only Python and make does not have."""


STARTERS = {
    *("run", "Popen", "call", "check_call", "check_output", "create_subprocess_exec", "guarded", "execvp", "spawnvp"),
}
"""Functions that start a program: subprocess's, asyncio's, and those of tests/support."""


def modules_without_tests(root: Path) -> Iterator[Offence]:
    """Yield the modules of the product without ``tests/PACKAGE/test_MODULE.py`` that the list does not name."""
    listed: dict[str, str] = tomllib.loads(TESTED_ELSEWHERE.read_text(encoding="utf-8"))["modules"]
    bare = set()
    for relative, path in modules(root, "src"):
        if not _has_code(path) or (root / _test_of(relative)).exists():
            continue
        bare.add(relative)
        where = listed.get(relative)
        if where is None:
            yield Offence("untested modules", relative, 0, f"has no {_test_of(relative)}")
        elif not (root / where).exists():
            yield Offence("untested modules", relative, 0, f"the list says {where}, which does not exist")
    for relative in sorted(set(listed) - bare):
        yield Offence("untested modules", TESTED_ELSEWHERE.name, 0, f"{relative} needs no entry any more; remove it")


def tests_without_module(root: Path) -> Iterator[Offence]:
    """Yield the test files that neither a module of their name nor an entry of the list explains."""
    listed: dict[str, str] = tomllib.loads(TESTED_ELSEWHERE.read_text(encoding="utf-8"))["tests"]
    of_modules = {_test_of(relative) for relative, _ in modules(root, "src")}
    found = {relative for relative, _ in modules(root, "tests") if Path(relative).name.startswith("test_")}
    for relative in sorted(found - of_modules - set(listed)):
        yield Offence(
            "homeless tests", relative, 0, "no module has its name; move it, or name its subject in the list"
        )
    for relative in sorted(set(listed) - (found - of_modules)):
        yield Offence("homeless tests", TESTED_ELSEWHERE.name, 0, f"{relative} needs no entry any more; remove it")


def unasked_programs(root: Path) -> Iterator[Offence]:
    """Yield the commands in tests that start a program of others without ``find_peer()`` or ``peer()``."""
    for relative, path in modules(root, "tests"):
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.Call) or _called(node) not in STARTERS:
                continue
            for program in {_program(part) for argument in node.args for part in ast.walk(argument)} & FOREIGN:
                yield Offence("unasked programs", relative, node.lineno, f"ask find_peer({program!r})")


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _program(node: ast.AST) -> str:
    """Return the program that a command written as list, tuple or ``"...".split()`` starts, if its name is there."""
    if isinstance(node, ast.List | ast.Tuple) and node.elts and isinstance(node.elts[0], ast.Constant):
        return str(node.elts[0].value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "split":
        text = node.func.value.values[0] if isinstance(node.func.value, ast.JoinedStr) else node.func.value
        if isinstance(text, ast.Constant) and isinstance(text.value, str) and text.value.strip():
            return text.value.split()[0]
    return ""


def _has_code(path: Path) -> bool:
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in ast.walk(parsed(path))
    )


def _test_of(relative: str) -> str:
    place = Path(relative.removeprefix("src/tailbite/"))
    stem = place.stem.strip("_") if place.stem != "__init__" else "init"
    return (Path("tests") / place.with_name(f"test_{stem}.py")).as_posix()
