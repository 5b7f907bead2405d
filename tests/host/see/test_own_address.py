"""Answers of the kernel about addresses, compared with what a server and a client then meet."""

from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from support.holders import new_socket
from tailbite.host.explain.bind_forecast import BindOutcome
from tailbite.host.explain.why import explain_port
from tailbite.host.see.namespaces import current_namespace
from tailbite.host.see.own_address import ask_address
from tailbite.host.see.port import inspect_port
from tailbite.kernel.sysctl import write_sysctl

if TYPE_CHECKING:
    from collections.abc import Callable

FOREIGN = "203.0.113.5"
PORT = 40000
IP_FREEBIND = 15


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("host", "is_own"),
    [("127.0.0.1", True), ("127.0.0.2", True), ("::1", True), (FOREIGN, False), ("2001:db8::7", False)],
)
def test_a_server_may_bind_what_is_said_to_be_its_own(host: str, is_own: bool) -> None:
    seen = ask_address(host)
    assert (seen.is_own, seen.may_bind) == (is_own, is_own)
    with contextlib.closing(new_socket(host, reuse=False)) as server:
        if is_own:
            server.bind((host, PORT))
        else:
            with pytest.raises(OSError, match="assign requested"):
                server.bind((host, PORT))


@pytest.mark.usefixtures("network")
def test_an_address_that_may_be_bound_in_advance_is_not_this_hosts_own() -> None:
    write_sysctl("ip_nonlocal_bind", "1")
    with contextlib.closing(new_socket(FOREIGN, reuse=False)) as server:
        server.bind((FOREIGN, PORT))
    seen = ask_address(FOREIGN)
    assert (seen.is_own, seen.may_bind) == (False, True)
    assert ask_address("127.0.0.1").is_own


@pytest.mark.needs("BOUND_SOCKETS_LISTED")
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("listens", [True, False])
def test_a_bind_to_an_address_of_another_host_fails_for_the_address_and_not_for_the_port(listens: bool) -> None:
    """Whatever holds the port there, the kernel looks at the address first."""
    with contextlib.closing(socket.socket()) as holder:
        holder.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        holder.bind((FOREIGN, PORT))
        if listens:
            holder.listen()
        (shot,) = inspect_port(PORT, [current_namespace()])
        seen = explain_port(shot, (), FOREIGN, address=ask_address(FOREIGN))
        for reuse in (False, True):
            with contextlib.closing(new_socket(FOREIGN, reuse=reuse)) as server:
                with pytest.raises(OSError, match="assign requested"):
                    server.bind((FOREIGN, PORT))
    (forecast,) = seen.forecasts
    assert {forecast.plain, forecast.reuse_address} == {BindOutcome.NO_ADDRESS}
    assert "Address already in use" not in str(seen.findings)
    assert "Cannot assign requested address (EADDRNOTAVAIL)" in seen.findings[0].why


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
def test_a_client_reaches_itself_only_where_its_source_is_the_address_that_it_dials(host: str) -> None:
    with contextlib.closing(new_socket(host, reuse=False)) as client:
        client.bind(("::" if ":" in host else "0.0.0.0", PORT))
        error = client.connect_ex((host, PORT))
    reaches = ask_address(host).reaches_itself(host)
    assert (error == 0) == reaches
    assert reaches or error == errno.ECONNREFUSED
    (shot,) = inspect_port(PORT, [current_namespace()])
    if not reaches:  # the others have the TIME-WAIT of this client in the way
        (finding,) = explain_port(shot, (), host, address=ask_address(host)).findings
        assert finding.code == "TB110"
        assert "cannot be connected to itself, unless it binds that address first" in finding.what


@pytest.mark.peers
@pytest.mark.usefixtures("network")
def test_a_listener_on_an_address_that_was_removed_is_told(peer: Callable[[str], str]) -> None:
    with contextlib.closing(socket.socket()) as server, contextlib.closing(socket.socket()) as other:
        server.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        server.bind((FOREIGN, PORT))
        server.listen()
        (shot,) = inspect_port(PORT, [current_namespace()])
        (finding,) = explain_port(shot).findings
        assert (finding.code, FOREIGN in finding.what) == ("TB107", True)
        assert "no client reaches the server" in finding.what
        codes = [one.code for one in explain_port(shot, (), FOREIGN, address=ask_address(FOREIGN)).findings]
        assert codes == ["TB107", "TB112"]
        (elsewhere,) = explain_port(shot, (), "127.0.0.1").findings
        assert not any(f"dial {FOREIGN}" in remedy.text for remedy in elsewhere.remedies)
        other.settimeout(1)
        assert other.connect_ex((FOREIGN, PORT)) != 0
        subprocess.run([peer("ip"), "address", "add", f"{FOREIGN}/32", "dev", "lo"], check=True)
        (shot,) = inspect_port(PORT, [current_namespace()])
        (finding,) = explain_port(shot).findings
        assert finding.code == "TB106"
        with contextlib.closing(socket.create_connection((FOREIGN, PORT))):
            pass
