"""Changes are made, shown and reverted as they should be: in real namespaces, on copies of this system's files."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import find_peer
from support.boot import READERS, SYSTEMD, boot, copy_of_this_system
from support.trap import PORT, Trap, leftovers, server_can_bind, wait_for_time_wait
from tailbite.core.ports import PortRange, PortSet
from tailbite.host.change.apply import ChangedMeanwhile, apply_changes, revert_last
from tailbite.host.change.journal import Journal
from tailbite.host.change.plan import FixRequest, plan_boot_changes, plan_changes, plan_running_changes
from tailbite.host.change.records import Destroy, FileChange, SettingChange
from tailbite.host.see import namespaces
from tailbite.host.see.scan import scan
from tailbite.host.see.snapshot import Snapshot, Sysctl, take_snapshot
from tailbite.host.sysctl.text import OWN_FILE, value_at_boot
from tailbite.host.sysctl.tree import read_tree
from tailbite.host.sysctl.value import RESERVED
from tailbite.kernel.sysctl import (
    read_ephemeral_range,
    read_reserved_ports,
    write_ephemeral_range,
    write_reserved_ports,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailbite.host.change.records import Change

OURS = PortSet.parse("32246,50051-50053")
THEIRS = PortSet.parse("8080,9000-9010")
KEY = "net.ipv4.ip_local_reserved_ports"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """This machine's own files, and what people do to them: conflicts, comments, CRLF, links, masks."""
    root = copy_of_this_system(tmp_path / "root")
    etc = root / "etc/sysctl.d"
    (etc / "50-app.conf").write_bytes(f"# caf\xe9\r\n{KEY} = 8080\r\n\r\n; {KEY} = 1\r\n".encode("latin-1"))
    (etc / "90-shared.conf").symlink_to("../shared.conf")
    (root / "etc/shared.conf").write_text("#shared\n\tnet/ipv4/ip_local_reserved_ports=9000-9010,8080\nvm.x = 1")
    (etc / "99-protect-links.conf").unlink(missing_ok=True)
    (etc / "99-protect-links.conf").symlink_to("/dev/null")
    (root / "usr/lib/sysctl.d/10-vendor.conf").write_text(f"{KEY} = 1234\n")
    return root


def texts(root: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file() and not file.is_symlink() and "var" not in file.relative_to(root).parts
    }


def changes_for(root: Path, ports: PortSet = OURS, ephemeral: PortRange | None = None) -> list[Change]:
    own = namespaces.current_namespace()  # without the sockets, which the settings do not need
    start = (Sysctl("ip_unprivileged_port_start", "1024"),)
    here = Snapshot(own, 0.0, read_ephemeral_range(), read_reserved_ports(), start, (), (), ())
    return [*plan_boot_changes(read_tree(root), ports, ephemeral), *plan_running_changes(here, ports, ephemeral)]


def apply(root: Path, changes: Sequence[Change]) -> None:
    list(apply_changes(changes, Journal(root), root))


def undo(root: Path) -> list[str]:
    return [done.note for done in revert_last(Journal(root), root)]


@pytest.mark.usefixtures("network")
def test_ports_are_merged_in_the_kernel_and_in_the_file_that_wins_and_taken_back_to_the_byte(root: Path) -> None:
    write_reserved_ports(THEIRS)
    before = texts(root)
    apply(root, changes_for(root))
    assert read_reserved_ports() == THEIRS | OURS
    after = texts(root)
    assert {name for name in after if after[name] != before.get(name)} == {"etc/shared.conf"}
    assert after["etc/shared.conf"] == before["etc/shared.conf"].replace(
        b"=9000-9010,8080", b"=8080,9000-9010,32246,50051-50053"
    )
    assert (root / "etc/sysctl.d/90-shared.conf").is_symlink()

    assert undo(root) == ["", ""]
    assert read_reserved_ports() == THEIRS
    assert texts(root) == before


@pytest.mark.usefixtures("network")
def test_doing_it_twice_is_doing_it_once(root: Path) -> None:
    apply(root, changes_for(root, ephemeral=PortRange(40000, 60999)))
    once = texts(root)
    assert changes_for(root, ephemeral=PortRange(40000, 60999)) == []
    assert texts(root) == once
    assert len(Journal(root).entries()) == 1


@pytest.mark.peers
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("reader", READERS)
def test_the_next_boot_sets_it_and_theirs_too(root: Path, reader: str, peer: Callable[[str], str]) -> None:
    """Real programs apply the edited copy of this system's real files to a fresh namespace."""
    peer(SYSTEMD if reader == "systemd-sysctl" else "sysctl")
    boot(root, reader)
    assert read_reserved_ports() == THEIRS
    apply(root, plan_boot_changes(read_tree(root), OURS, PortRange(40000, 60999)))
    boot(root, reader)
    assert read_reserved_ports() == THEIRS | OURS
    assert read_ephemeral_range() == PortRange(40000, 60999)
    list(revert_last(Journal(root), root))
    write_ephemeral_range(PortRange(32768, 60999))
    boot(root, reader)
    assert read_reserved_ports() == THEIRS
    assert read_ephemeral_range() == PortRange(32768, 60999)


@pytest.mark.peers
@pytest.mark.usefixtures("network")
def test_what_is_shown_is_what_a_person_can_type(root: Path, peer: Callable[[str], str], tmp_path: Path) -> None:
    """The commands in a shell and the diffs through patch(1) do the same as --apply."""
    peer("patch"), peer("sysctl")
    write_reserved_ports(THEIRS)
    changes = changes_for(root, ephemeral=PortRange(40000, 60999))
    by_hand = tmp_path / "by-hand"
    shutil.copytree(root, by_hand, symlinks=True)
    apply(root, changes)
    ours = read_reserved_ports(), read_ephemeral_range()
    list(revert_last(Journal(root), root))
    assert read_reserved_ports() == THEIRS

    for change in changes:
        if isinstance(change, FileChange):
            diff = change.diff().replace(" /etc/", " etc/").encode("utf-8", "surrogateescape")
            subprocess.run([find_peer("patch"), "-p0", "--binary", "--quiet"], cwd=by_hand, input=diff, check=True)
        elif isinstance(change, SettingChange):
            find_peer("sysctl")
            subprocess.run(change.command(), shell=True, check=True, capture_output=True)
    assert (read_reserved_ports(), read_ephemeral_range()) == ours
    apply(root, plan_boot_changes(read_tree(root), OURS, PortRange(40000, 60999)))
    assert texts(by_hand) == texts(root)


@pytest.mark.peers
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("count", [10, 2000])
def test_the_command_that_is_shown_sets_a_list_of_any_length(count: int) -> None:
    """sysctl(8) sets only the first page of a list, so another command is shown for a longer one."""
    ports = PortSet.of(range(10001, 10001 + 2 * count, 2))
    (change,) = plan_running_changes(take_snapshot(namespaces.current_namespace()), ports, None)
    find_peer("sysctl")
    subprocess.run(change.command(), shell=True, check=True, capture_output=True)
    assert read_reserved_ports() == ports


@pytest.mark.usefixtures("network")
def test_a_link_does_not_lead_out_of_the_root(root: Path, tmp_path: Path) -> None:
    """In an image /etc/sysctl.d may be a link to /opt/settings: the image's, not ours."""
    outside, inside = tmp_path / "settings", root / f"{tmp_path}/settings".lstrip("/")
    outside.mkdir()
    shutil.rmtree(root / "etc/sysctl.d")
    inside.mkdir(parents=True)
    (root / "etc/sysctl.d").symlink_to(outside)
    apply(root, plan_boot_changes(read_tree(root), OURS, None))
    assert list(outside.iterdir()) == []
    assert [file.name for file in inside.iterdir()] == ["60-tailbite.conf"]
    assert undo(root) == [""]
    assert list(inside.iterdir()) == []


@pytest.mark.usefixtures("network")
def test_a_refusal_before_anything_was_done_leaves_nothing_to_take_back(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/etc/sysctl.d")

    changes = changes_for(root)
    monkeypatch.setattr("tailbite.host.change.apply._write", refuse)
    with pytest.raises(PermissionError):
        apply(root, changes)
    assert Journal(root).entries() == []


@pytest.mark.usefixtures("network")
def test_what_others_did_since_stays_when_it_is_taken_back(root: Path) -> None:
    write_reserved_ports(THEIRS)
    apply(root, changes_for(root, ephemeral=PortRange(40000, 60999)))
    shared, own = root / "etc/shared.conf", root / OWN_FILE.lstrip("/")
    shared.write_text(shared.read_text().replace("50051-50053", "50051-50053,7000") + "\n# more\n")
    own.write_text(own.read_text() + "vm.swappiness = 5\n")
    write_reserved_ports(read_reserved_ports() | PortSet.parse("7000"))
    write_ephemeral_range(PortRange(41000, 60999))

    notes = undo(root)

    assert read_reserved_ports() == THEIRS | PortSet.parse("7000")
    assert read_ephemeral_range() == PortRange(41000, 60999)
    assert "=7000,8080,9000-9010\n" in shared.read_text()
    assert shared.read_text().endswith("\n# more\n")
    assert "port_range" not in own.read_text()
    assert own.read_text().endswith("vm.swappiness = 5\n")
    assert len([note for note in notes if note]) == 3


wishes = st.tuples(
    st.sampled_from(["7000", "7000-7002", "50051,32246", ""]).map(PortSet.parse),
    st.sampled_from([None, PortRange(40000, 60999), PortRange(49152, 65535)]),
)


@pytest.mark.usefixtures("network")
@given(st.lists(wishes, max_size=4))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_taking_everything_back_restores_every_byte_and_every_setting(wished: list[Any]) -> None:
    """Whatever was done, one step after the other."""
    with tempfile.TemporaryDirectory() as folder:
        root = copy_of_this_system(Path(folder) / "root")
        (root / "etc/sysctl.d/50-app.conf").write_text(f"{KEY} = 8080\r\n")
        write_reserved_ports(THEIRS)
        write_ephemeral_range(PortRange(32768, 60999))
        before = texts(root)
        for ports, ephemeral in wished:
            apply(root, changes_for(root, ports, ephemeral))
            assert changes_for(root, ports, ephemeral) == []
        while Journal(root).entries():
            undo(root)
        assert (texts(root), read_reserved_ports()) == (before, THEIRS)
        assert read_ephemeral_range() == PortRange(32768, 60999)


@pytest.mark.usefixtures("network")
def test_a_file_that_changed_after_it_was_shown_is_not_touched(root: Path) -> None:
    changes = changes_for(root)
    (root / "etc/shared.conf").write_text("# theirs\n")
    with pytest.raises(ChangedMeanwhile, match=r"/etc/shared\.conf"):
        apply(root, changes)
    assert (root / "etc/shared.conf").read_text() == "# theirs\n"
    assert Journal(root).entries() == []


@pytest.mark.usefixtures("network")
def test_ports_that_were_reserved_after_it_was_shown_stay(root: Path) -> None:
    changes = changes_for(root)
    write_reserved_ports(PortSet.parse("1111"))
    apply(root, changes)
    assert read_reserved_ports() == OURS | PortSet.parse("1111")


@pytest.mark.usefixtures("network")
def test_two_runs_at_once_do_not_mix(root: Path) -> None:
    changes = changes_for(root)
    with Journal(root).locked(), pytest.raises(BlockingIOError):
        apply(root, changes)


STEPS = ("fsync", "replace", "fchmod", "rename", "unlink")


def crash_at(number: int, root: Path, work: Callable[[], None]) -> bool:
    """Do ``work`` in a child that is killed right before its ``number``-th step that touches the disk.

    Returns True if it was killed, False if it came to its end.
    """
    child = os.fork()
    if child == 0:  # pragma: no cover - it never comes back
        left = number

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def step(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)

            return step

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.usefixtures("network")
def test_a_crash_at_any_step_leaves_valid_files_and_can_be_taken_back(root: Path) -> None:
    """Killed (SIGKILL) before each step on the disk in turn: every file is old or new; undo and redo both work."""
    write_reserved_ports(THEIRS)
    original = texts(root)
    changes = changes_for(root, ephemeral=PortRange(40000, 60999))
    finished = {**original}
    for change in changes:
        if isinstance(change, FileChange) and change.after is not None:
            finished[change.path.lstrip("/")] = change.after.encode("utf-8", "surrogateescape")
    crashes = 0
    while crash_at(crashes + 1, root, lambda: apply(root, changes)):
        crashes += 1
        for name, text in texts(root).items():
            if not name.endswith(".tmp"):
                assert text in (original.get(name), finished[name]), name
        assert all(name in finished for name in texts(root) if name.endswith(".conf"))
        if Journal(root).entries():
            undo(root)
        for left in root.rglob(".*.tmp"):
            left.unlink()
        assert texts(root) == original
        assert read_reserved_ports() == THEIRS
        assert read_ephemeral_range() == PortRange(32768, 60999)
        assert crashes < 60
    assert crashes >= 8
    assert texts(root) == finished
    assert read_reserved_ports() == THEIRS | OURS


@pytest.mark.usefixtures("network")
def test_owner_and_mode_of_a_file_stay(root: Path) -> None:
    shared = root / "etc/shared.conf"
    shared.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(shared, 0, 0)
    apply(root, changes_for(root))
    assert shared.stat().st_mode & 0o777 == 0o640
    apply(root, plan_boot_changes(read_tree(root), PortSet(), PortRange(40000, 60999)))
    assert (root / OWN_FILE.lstrip("/")).stat().st_mode & 0o777 == 0o644


@pytest.mark.usefixtures("network")
def test_what_a_broken_line_was_meant_to_reserve_is_not_lost(root: Path) -> None:
    """A line that the kernel refuses sets nothing; the one that is written beside it, and wins, has its ports too."""
    broken = root / "etc/sysctl.d/70-broken.conf"
    broken.write_text(f"{KEY} = 7000, 7002 # metrics\n")
    apply(root, changes_for(root))
    order = read_tree(root).orders[0]
    assert value_at_boot(order, RESERVED) == THEIRS | OURS | PortSet.parse("7000,7002")
    assert broken.read_text() == f"{KEY} = 7000, 7002 # metrics\n"


@pytest.mark.peers
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("by", ["us", "the command that is shown"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize(
    "closed",
    [pytest.param(False, marks=pytest.mark.needs("SOCK_DESTROY"), id="held"), pytest.param(True, id="time-wait")],
)
def test_a_self_connect_and_its_time_wait_go_and_the_server_starts(
    by: str, host: str, closed: bool, peer: Callable[[str], str]
) -> None:
    peer("ss")
    Trap().set().control(host)
    with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as sock:
        for _ in range(4):
            try:
                sock.connect((host, PORT))
                break
            except ConnectionRefusedError:
                continue
        if closed:
            sock.close()
            wait_for_time_wait()
        server = "::1" if host == "::1" else "127.0.0.1"
        assert not server_can_bind(server, reuse=True)
        here = namespaces.current_namespace()
        changes = plan_changes(
            [take_snapshot(here)], scan([here]), {here: FixRequest(kill=PortSet.parse(str(PORT)))}, None
        )
        assert [type(change) for change in changes] == [Destroy]
        if by == "us":
            assert [done.note for done in apply_changes([*changes], Journal(Path("/nonexistent")), Path("/"))] == [""]
        else:
            assert isinstance(changes[0], Destroy)
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where the kernel needs tailbite for it
            environment = {**os.environ, "PATH": path}
            subprocess.run(changes[0].command(), shell=True, check=True, capture_output=True, env=environment)
        assert leftovers() == []
        assert server_can_bind(server)
        if not closed:
            with pytest.raises(ConnectionAbortedError):
                sock.send(b"x")
