"""Stored results of an experiment as JSON lines: a header with facts of the machine, then one row per result.

A file whose name ends in ``.gz`` is compressed without a time stamp, so the same data give the same file.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailbite._files import read_whole, write_atomically
from tailbite._version import __version__

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NotARecord", "Record", "machine_facts", "read_record", "write_record"]


class NotARecord(ValueError):  # noqa: N818 - named like BlockingIOError
    """The file is not a record of that experiment; the text says why."""


@dataclass(frozen=True, slots=True)
class Record:
    """One file of measurements.

    Attributes:
        experiment: name of the command that made it: ``loop``, ``cures``, ...
        header: settings, and facts of the machine.
        rows: the results.
    """

    experiment: str
    header: dict[str, Any]
    rows: tuple[dict[str, Any], ...]

    @property
    def machine(self) -> str:
        """One line about the machine, for captions."""
        facts = self.header.get("machine") or machine_facts()
        return f"{facts.get('system')} {facts.get('kernel')}, {facts.get('cpus')} CPUs, Python {facts.get('python')}"


def machine_facts() -> dict[str, Any]:
    """Return the facts that a figure states about its machine; the kernel's version without its build."""
    return {
        "system": platform.system(),
        "kernel": ".".join(platform.release().split("-")[0].split(".")[:2]),
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "tailbite": __version__,
    }


def write_record(path: Path, record: Record) -> None:
    """Write a record atomically.

    Raises:
        OSError: the file cannot be written.
    """
    header = {"schema": f"tailbite.lab.{record.experiment}/1", "machine": machine_facts(), **record.header}
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in (header, *record.rows))
    data = text.encode()
    write_atomically(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def read_record(path: Path, experiment: str) -> Record:
    """Read a record of this experiment.

    Raises:
        OSError: the file cannot be read.
        NotARecord: the file has other content.
    """
    data = read_whole(path)
    try:
        lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode().splitlines()
        header, *rows = [json.loads(line) for line in lines if line]
        schema = header.pop("schema")
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotARecord(f"{path} is not a record of 'tailbite lab {experiment}'") from error
    if schema != f"tailbite.lab.{experiment}/1":
        raise NotARecord(f"{path} is a record of another experiment ({schema}), not of 'tailbite lab {experiment}'")
    return Record(experiment, header, tuple(rows))
