"""Documents as scan and doctor print them, with what a test wants in them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Document = dict[str, Any]


def owner(name: str, pid: int = 4711, **more: str) -> Document:
    return {"pid": pid, "name": name, "unit": "", "container": "", **more}


def socket_on(port: int, *owners: Document, state: str = "ESTABLISHED") -> Document:
    return {"endpoint": f"127.0.0.1:{port}", "port": port, "state": state, "owners": list(owners)}


def finding(code: str, ports: str, *owners: Document) -> Document:
    first = ports.split(",", maxsplit=1)[0].split("-")[0]
    facts = [{"name": f"{one['name']} (pid {one['pid']})", "value": ports, "unit": "", "text": ""} for one in owners]
    return {"code": code, "endpoint": f"127.0.0.1:{first}", "ports": ports, "owners": list(owners), "facts": facts}


def scan(*sockets: Document, taken: float = 1000.0) -> Document:
    return {"schema": "tailbite.scan/1", "taken": taken, "self_connects": list(sockets), "not_visible": []}


def doctor(*findings: Document, taken: float = 1000.0, not_visible: tuple[str, ...] = ()) -> Document:
    document = {"schema": "tailbite.doctor/1", "taken": taken, "findings": list(findings)}
    return {**document, "not_visible": list(not_visible)}


def write(folder: Path, name: str, document: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path
