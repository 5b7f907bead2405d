"""``tailbite lab handshake`` as a user calls it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from support.lab import DATA, run_lab

if TYPE_CHECKING:
    from pathlib import Path


def test_handshake_is_drawn_as_text_mermaid_and_pcap(tmp_path: Path) -> None:
    pcap = tmp_path / "self.pcap"
    done = run_lab("handshake", "--pcap", str(pcap))
    assert done.returncode == 0
    assert "SYN-SENT      --> <SEQ=0><CTL=SYN>" in done.stdout
    assert "TIME-WAIT on 32246 <-> 32246" in done.stdout
    assert pcap.read_bytes()[:4] == (0xA1B23C4D).to_bytes(4, sys.byteorder)
    stored = run_lab("handshake", "--from", str(DATA / "handshake.jsonl"), "--mermaid")
    assert stored.stdout.count("sequenceDiagram") == 3
