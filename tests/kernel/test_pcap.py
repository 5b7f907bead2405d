"""tcpdump reads the files, and sees the same packets."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from support.trap import PORT, Trap
from tailbite.kernel.capture import Capture
from tailbite.kernel.pcap import pcap_header, pcap_record
from tailbite.kernel.sockopt import abort

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def connect_to_itself(host: str, message: bytes = b"") -> None:
    """One self-connect, a few bytes, an abort."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, PORT))
    sock.connect((host, PORT))
    if message:
        sock.sendall(message)
        assert sock.recv(100) == message
    abort(sock)


@pytest.mark.peers
@pytest.mark.usefixtures("network")
def test_tcpdump_reads_the_pcap_and_sees_the_same(tmp_path: Path, peer: Callable[[str], str]) -> None:
    with Capture() as capture:
        Trap().set()
        connect_to_itself("127.0.0.1", b"hello")
        connect_to_itself("::1")
        packets = capture.read()
    file = tmp_path / "lo.pcap"
    file.write_bytes(pcap_header() + b"".join(map(pcap_record, packets)))
    shown = subprocess.run(
        [peer("tcpdump"), "-nn", "-S", "-tt", "--nano", "-r", file], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    segments = [segment for packet in packets if (segment := packet.segment())]
    assert len(shown) == len(segments)
    for line, segment in zip(shown, segments, strict=True):
        seconds, rest = divmod(segment.timestamp_ns, 10**9)
        assert line.startswith(f"{seconds}.{rest:09} IP")
        assert f" {segment.source.host}.{PORT} > {segment.destination.host}.{PORT}: " in line
        assert f"Flags [{segment.flags}]" in line
        assert f"length {segment.payload_length}" in line
