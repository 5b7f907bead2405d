"""From a folder of JSON files to one record for each host. Files are read one host at a time, and forgotten.

The host's name is the file's name: ``web1.json``, ``web1.scan.json``, ``web1.doctor.json``; or the folder's, when the
file is called ``scan.json`` or ``doctor.json``. The folder around that, if there is one below the top, is the host's
group. Of several documents of one kind about a host, the newest counts.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from tailbite.core.ports import PortSet
from tailbite.fleet.records import HostReport, SelfConnectOn, Unread

__all__ = ["files_by_host", "read_host"]

_YEAR_10000 = 253402300800
_KINDS: Final = ("scan", "doctor")
_EXPOSED: Final = {"TB109", "TB203", "TB204"}  # TB203: a code of tailbite 0.1
_SELF_CONNECTED: Final = {"TB101", "TB102"}

Document = dict[str, Any]


def files_by_host(folder: Path) -> tuple[dict[tuple[str, str], list[Path]], list[Unread]]:
    """Return the JSON files below a folder by group and host, and the folders that cannot be listed."""
    found: dict[tuple[str, str], list[Path]] = {}
    unread: list[Unread] = []

    def refused(error: OSError) -> None:
        unread.append(Unread(Path(error.filename), f"the folder cannot be listed: {error.strerror}"))

    files = (Path(place, name) for place, _, names in os.walk(folder, onerror=refused) for name in names)
    for path in sorted(path for path in files if path.suffix == ".json"):
        parents = list(path.relative_to(folder).parts[:-1])
        name = path.name.removesuffix(".json")
        if name in _KINDS and parents:
            name = parents.pop()
        for kind in _KINDS:
            name = name.removesuffix(f".{kind}")
        found.setdefault(("/".join(parents), name), []).append(path)
    return dict(sorted(found.items())), unread


def read_host(group: str, name: str, paths: list[Path]) -> tuple[HostReport | None, list[Unread]]:
    """Return what the files say of a host, None if none of them could be used, and those that could not."""
    newest: dict[str, Document] = {}
    unread = []
    for path in paths:
        try:
            kind, document = _read(path)
        except OSError as error:
            unread.append(Unread(path, error.strerror or str(error)))
            continue
        except ValueError as error:
            unread.append(Unread(path, str(error)))
            continue
        if kind not in newest or document["taken"] > newest[kind]["taken"]:
            newest[kind] = document
    if not newest:
        return None, unread
    try:
        return _host(group, name, newest), unread
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return None, [*unread, *(Unread(path, f"an entry is not as documented: {error!r}") for path in paths)]


def _read(path: Path) -> tuple[str, Document]:
    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")  # to open a FIFO would wait for its writer
    try:
        document = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError("nests too deeply") from None
    if isinstance(document, dict) and "document" in document and "schema" not in document:
        document = document["document"]  # a result of the Ansible modules
    schema = document.get("schema", "") if isinstance(document, dict) else ""
    for kind in _KINDS:
        if str(schema).startswith(f"tailbite.{kind}/"):
            if not _is_time(document.get("taken")):
                raise ValueError("the document does not say when it was taken")
            return kind, document
    raise ValueError("neither a document of tailbite scan --json nor of tailbite doctor --json")


def _is_time(value: object) -> bool:
    """Tell whether a value is seconds since 1970, before the year 10000, where calendars in Python end."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _YEAR_10000


def _host(group: str, name: str, documents: dict[str, Document]) -> HostReport:
    scan, doctor = documents.get("scan"), documents.get("doctor")
    findings = doctor["findings"] if doctor else []
    if scan is not None:
        sockets = [_of_scan(entry, name, group) for entry in scan["self_connects"]]
    else:
        sockets = [_of_finding(entry, name, group) for entry in findings if entry["code"] in _SELF_CONNECTED]
    exposing = [entry for entry in findings if entry["code"] in _EXPOSED]
    return HostReport(
        name=name,
        group=group,
        taken=min(document["taken"] for document in documents.values()),
        self_connects=tuple(sorted(sockets, key=lambda one: (one.port, one.endpoint))),
        exposed=PortSet.of(one for entry in exposing for one in _ports(entry).ranges),
        programs=tuple(part for entry in exposing for part in _programs(entry)),
        is_complete=not any(document.get("not_visible") for document in documents.values()),
        was_examined=doctor is not None,
    )


def _of_scan(entry: Document, host: str, group: str) -> SelfConnectOn:
    owner: Document = next(iter(entry.get("owners") or ()), {})
    return SelfConnectOn(host, group, entry["endpoint"], entry["port"], entry["state"], *_owner(owner))


def _of_finding(entry: Document, host: str, group: str) -> SelfConnectOn:
    owner: Document = next(iter(entry.get("owners") or ()), {})
    facts = {fact["name"]: fact["value"] for fact in entry.get("facts", ())}
    state = str(facts.get("state") or ("TIME-WAIT" if entry["code"] == "TB102" else "ESTABLISHED"))
    return SelfConnectOn(host, group, entry["endpoint"], _port(entry), state, *_owner(owner))


def _port(entry: Document) -> int:
    return int(entry["endpoint"].rpartition(":")[2])


def _ports(finding: Document) -> PortSet:
    """Return the ports of a finding; before tailbite 0.2 a finding was about the one port of its endpoint."""
    return PortSet.parse(finding["ports"]) if finding.get("ports") else PortSet.of([_port(finding)])


def _owner(owner: Document) -> tuple[str, str]:
    return owner.get("name", ""), owner.get("unit") or owner.get("container") or ""


def _programs(finding: Document) -> list[tuple[str, PortSet]]:
    """Return the programs of a finding with their ports; where there are several, its facts say which has which."""
    ports = _ports(finding)
    names = {f"{owner['name']} (pid {owner['pid']})": owner["name"] for owner in finding.get("owners") or ()}
    told = [
        (name, PortSet.parse(str(fact["value"])) & ports)
        for fact in finding.get("facts", ())
        if (name := names.get(fact["name"]))
    ]
    return told or [(name, ports) for name in names.values()]
