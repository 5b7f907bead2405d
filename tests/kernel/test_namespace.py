"""Namespaces are entered and left, leave nothing behind, and say why when they cannot be made."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.users import python_as_nobody
from tailbite.core.ports import PortRange, PortSet
from tailbite.kernel import namespace, sysctl


def here() -> str:
    return str(Path("/proc/thread-self/ns/net").readlink())


@pytest.mark.usefixtures("network")
def test_a_fresh_network_is_another_one_and_the_way_back_is_found() -> None:
    home = here()
    with namespace.fresh_network():
        inside = here()
        assert inside != home
        with namespace.fresh_network():
            assert here() not in (home, inside)
        assert here() == inside
        with socket.create_server(("127.0.0.1", 0)) as server:  # lo is up
            socket.create_connection(server.getsockname()).close()
    assert here() == home
    with pytest.raises(RuntimeError, match="inside"), namespace.fresh_network():
        raise RuntimeError("inside")
    assert here() == home


@pytest.mark.usefixtures("network")
def test_only_the_calling_thread_moves_and_its_children_go_with_it() -> None:
    home = here()
    seen: list[str] = []
    with namespace.fresh_network():
        thread = threading.Thread(target=lambda: seen.append(here()))
        thread.start()
        thread.join()
        assert seen == [here()]
        assert Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net").readlink() != Path(home)


@pytest.mark.usefixtures("network")
def test_the_network_of_another_process_can_be_entered() -> None:
    with namespace.fresh_network():
        other = here()
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with namespace.entered(f"/proc/{child.pid}/ns/net"):
        assert here() == other
    assert here() != other
    child.communicate(b"\n")
    with pytest.raises(OSError), namespace.entered(f"/proc/{child.pid}/ns/net"):
        pass


@pytest.mark.usefixtures("network")
def test_sysctls_are_this_namespaces_own() -> None:
    home = sysctl.read_ephemeral_range()
    with namespace.fresh_network():
        sysctl.write_ephemeral_range(PortRange(40000, 40001))
        sysctl.write_reserved_ports(PortSet.parse("5-7,50051"))
        assert sysctl.read_ephemeral_range() == PortRange(40000, 40001)
        assert str(sysctl.read_reserved_ports()) == "5-7,50051"
        sysctl.write_reserved_ports(PortSet())
        assert sysctl.read_reserved_ports() == PortSet()
        with pytest.raises(OSError):
            sysctl.write_sysctl("no_such_sysctl", "1")
    assert sysctl.read_ephemeral_range() == home


@pytest.mark.skipif(os.geteuid() != 0, reason="is about becoming nobody")
def test_without_root_it_is_a_user_namespace_whose_root_we_are() -> None:
    code = (
        "from tailbite.kernel import namespace, sysctl\n"
        "from tailbite.core.ports import PortRange\n"
        "import os\n"
        "namespace.enter_private_network()\n"
        "sysctl.write_ephemeral_range(PortRange(40000, 40001))\n"
        "print(os.geteuid(), sysctl.read_ephemeral_range())\n"
    )
    done = subprocess.run(python_as_nobody("-c", code), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "40000-40001"]


@pytest.mark.skipif(os.geteuid() != 0, reason="makes limits in a user namespace of its own")
@pytest.mark.parametrize(
    ("forbid", "says"),
    [
        ("echo 0 > /proc/sys/user/max_net_namespaces", "user.max_net_namespaces is 0"),
        ('echo 1 > /proc/sys/user/max_net_namespaces; set -- unshare -n "$@"', "is reached"),
    ],
)
def test_the_error_names_the_setting_that_forbids_it(forbid: str, says: str) -> None:
    code = (
        "from tailbite.kernel import namespace\n"
        "from tailbite.errors import NamespaceUnavailable\n"
        "try: namespace.enter_private_network()\n"
        "except NamespaceUnavailable as error: print(error)\n"
    )
    done = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", f'{forbid}; exec "$@"', "sh", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert says in done.stdout


@pytest.mark.usefixtures("network")
def test_a_network_may_have_a_small_table_of_connections_and_works_as_any_other() -> None:
    setting = Path("/proc/sys/net/ipv4/tcp_child_ehash_entries")
    if not setting.exists():
        namespace.give_child_networks_small_tables()  # changes nothing
        pytest.skip("this kernel has one table for all network namespaces (before 6.1)")
    size = Path("/proc/sys/net/ipv4/tcp_ehash_entries")
    setting.write_text("0")
    with namespace.fresh_network():
        assert int(size.read_text()) < 0  # shared, as the documentation of the kernel says
    namespace.give_child_networks_small_tables()
    with namespace.fresh_network():
        assert int(size.read_text()) == 4096
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname()).close()
