"""Tables of other protocols are read as the kernel writes them."""

from __future__ import annotations

import socket

import pytest

from tailbite.host.see.other_protocols import other_protocol_uses, parse_datagram_table, parse_sctp_endpoints

SCTP = """\
 ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS
ffff88 ffff99 2   10  5    7000  1000 4711  10.0.0.5
ffff88 ffff99 2   10  5    7001  1000 4712  10.0.0.5
"""


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_a_udp_socket_is_found_with_its_address_and_inode(host: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 7000))
        (use,) = other_protocol_uses(7000)
        assert other_protocol_uses(7001) == ()
    assert (use.protocol, use.host) == ("UDP", host)
    assert use.inode
    assert other_protocol_uses(7000) == ()


def test_sctp_endpoints_are_read() -> None:
    (use,) = parse_sctp_endpoints(SCTP.splitlines(), 7000)
    assert (use.protocol, use.host, use.uid, use.inode) == ("SCTP", "10.0.0.5", 1000, 4711)


def test_lines_of_another_form_are_left_out() -> None:
    assert list(parse_datagram_table("UDP", ["heading", "", "1: 0100007F:1B58"], 7000)) == []
