"""The sysctl.d files that a system applies, in a tree with all that real ones have: links, masks, and worse."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.boot import copy_of_this_system, empty_tree
from tailbite.host.sysctl.tree import read_tree, resolve_links

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return empty_tree(tmp_path / "root")


def names(root: Path) -> list[str]:
    return [file.path for file in read_tree(root).orders[0].files]


def test_a_file_in_etc_hides_those_of_its_name_and_the_name_decides_when(root: Path) -> None:
    for place in ("usr/lib", "run", "etc"):
        (root / place / "sysctl.d/50-a.conf").write_text(f"# {place}\n")
    (root / "usr/lib/sysctl.d/40-b.conf").touch()
    (root / "run/sysctl.d/60-c.conf").touch()
    assert names(root) == ["/usr/lib/sysctl.d/40-b.conf", "/etc/sysctl.d/50-a.conf", "/run/sysctl.d/60-c.conf"]


def test_only_visible_files_that_end_in_conf_count(root: Path) -> None:
    """So a file that is half written under another name is never applied."""
    for name in ("README", "a.conf.bak", ".60-tailbite.conf.tmp", ".hidden.conf", "a.conf"):
        (root / "etc/sysctl.d" / name).touch()
    (root / "etc/sysctl.d/directory.conf").mkdir()
    os.mkfifo(root / "etc/sysctl.d/pipe.conf")
    assert names(root) == ["/etc/sysctl.d/a.conf"]
    by_procps = read_tree(root).orders[1].files
    assert [file.path for file in by_procps] == ["/etc/sysctl.d/.hidden.conf", "/etc/sysctl.d/a.conf"]


@pytest.mark.parametrize("kind", ["directory", "nowhere", "50-a.conf", "."])
def test_what_is_not_a_file_hides_files_of_its_name_all_the_same(root: Path, kind: str) -> None:
    (root / "usr/lib/sysctl.d/50-a.conf").write_text("x = 1\n")
    place = root / "etc/sysctl.d/50-a.conf"
    place.mkdir() if kind == "directory" else place.symlink_to(kind)
    tree = read_tree(root)
    assert names(root) == []
    assert [file.path for file in tree.masked] == ["/usr/lib/sysctl.d/50-a.conf"]
    assert tree.not_files == {"/etc/sysctl.d/50-a.conf"}


def test_files_that_are_not_read_are_kept_with_the_reason(root: Path) -> None:
    for place, name in (("etc", "a.conf.bak"), ("usr/lib", "b.txt"), ("run", "sub.conf")):
        (root / place / "sysctl.d" / name).write_text("x = 1\n")
    (root / "usr/lib/sysctl.d/sub.conf").write_text("y = 1\n")
    tree = read_tree(root)
    assert [file.path for file in tree.unread] == ["/etc/sysctl.d/a.conf.bak", "/usr/lib/sysctl.d/b.txt"]
    assert [file.path for file in tree.masked] == ["/usr/lib/sysctl.d/sub.conf"]


def test_links_are_followed_inside_the_root(root: Path) -> None:
    (root / "etc/sysctl.conf").write_text("# last\n")
    (root / "etc/sysctl.d/99-sysctl.conf").symlink_to("../sysctl.conf")
    (root / "etc/sysctl.d/98-absolute.conf").symlink_to("/etc/sysctl.conf")
    (root / "etc/sysctl.d/50-masked.conf").symlink_to("/dev/null")
    (root / "etc/sysctl.d/97-gone.conf").symlink_to("nowhere")
    (root / "etc/sysctl.d/96-loop.conf").symlink_to("96-loop.conf")
    tree = read_tree(root)
    assert [(file.name, file.target, file.text) for file in tree.orders[0].files] == [
        ("50-masked.conf", "/dev/null", ""),
        ("98-absolute.conf", "/etc/sysctl.conf", "# last\n"),
        ("99-sysctl.conf", "/etc/sysctl.conf", "# last\n"),
    ]
    assert [file.path for file in tree.orders[1].files][-1] == "/etc/sysctl.conf"
    assert not tree.not_visible


def test_a_path_cannot_climb_out_of_the_root(root: Path) -> None:
    (root / "etc/up").symlink_to("../../../../../../etc")
    assert resolve_links(root, "/etc/up/sysctl.d/../../../x") == "/x"
    assert resolve_links(root, "/etc/up/hostname") == "/etc/hostname"


def test_this_system_is_read_without_a_blind_spot(tmp_path: Path) -> None:
    """The files of the machine that runs the test, and a copy of them, are the same to us."""
    here, copy = read_tree(), read_tree(copy_of_this_system(tmp_path / "copy"))
    assert not copy.not_visible
    assert [file.name for file in copy.orders[0].files] == [
        file.name for file in here.orders[0].files if not file.path.startswith("/run/")
    ]


def test_what_is_not_permitted_is_named_whether_a_program_reads_it_or_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("50-a.conf", "60-b.conf", "c.bak"):
        (root / "etc/sysctl.d" / name).write_text("x = 1\n")
    read = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path.name in ("60-b.conf", "c.bak"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    tree = read_tree(root)
    assert [item.what for item in tree.not_visible] == ["what /etc/sysctl.d/60-b.conf sets at boot"]
    assert [item.what for item in tree.not_inspected] == ["/etc/sysctl.d/c.bak, which is not read at boot"]
    assert [file.name for file in tree.orders[0].files] == ["50-a.conf"]


@pytest.mark.peers
@pytest.mark.parametrize(("name", "is_host"), [("sh", "False"), ("init", "True")])
def test_process_1_of_a_pid_namespace_applies_the_files_only_if_it_is_an_init(
    peer: Callable[[str], str], name: str, is_host: str
) -> None:
    """A namespace of both kinds may see the files of the host, as with unshare(1), or have its own, as in LXC."""
    ask = (
        "from tailbite.host.see.namespaces import current_namespace\n"
        "from tailbite.host.sysctl.tree import is_host_namespace; print(is_host_namespace(current_namespace()))"
    )
    mine = (peer("unshare"), "--net", "--pid", "--fork", "--mount-proc", *(() if os.geteuid() == 0 else ("-Ur",)))
    first = ("sh", "-c", f'printf {name} > /proc/self/comm; "$@"; exit $?', "sh")
    done = subprocess.run((*mine, *first, sys.executable, "-c", ask), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{is_host}\n", "")
