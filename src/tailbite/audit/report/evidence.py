"""A folder of evidence: the packets and observations a verdict rests on, for an expert who wants to check it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tailbite.audit.report.data import observation_as_data
from tailbite.core.json_text import to_json
from tailbite.kernel.pcap import pcap_header, pcap_record

if TYPE_CHECKING:
    from pathlib import Path

    from tailbite.audit.records import Observation
    from tailbite.audit.run import Evidence

__all__ = ["folder_name", "write_evidence"]


def folder_name(client: str) -> str:
    """Return the name of a client's folder: no path that leads elsewhere, nothing a shell must quote."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", client).strip("-.") or "client"


def write_evidence(folder: Path, client: str, seen: Observation, evidence: Evidence) -> None:
    """Write one phase: ``lo.pcap``, ``observation.json``, ``output.txt`` and ``sysctls.txt``.

    Raises:
        OSError: the folder cannot be written.
    """
    place = folder / folder_name(client) / seen.phase.folder
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lo.pcap").open("wb") as file:
        file.write(pcap_header())
        file.writelines(pcap_record(packet) for packet in evidence.packets)
    (place / "observation.json").write_text(to_json(observation_as_data(seen), indent=2) + "\n", encoding="utf-8")
    (place / "output.txt").write_text(seen.output.text, encoding="utf-8", errors="replace")
    settings = "".join(f"{name} = {value}\n" for name, value in sorted(evidence.sysctls.items()))
    (place / "sysctls.txt").write_text(settings, encoding="utf-8")
