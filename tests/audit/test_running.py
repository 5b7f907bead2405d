"""Preparation: it runs once before the first trap, and a failure is reported."""

from __future__ import annotations

import pytest

from tailbite.audit.client import Client
from tailbite.audit.records import Limits
from tailbite.audit.verdict import Word
from tailbite.audit.warden import audit

SOURCE = "exec python3 -c \"import socket, time; s = socket.create_connection(('$1', $2)); time.sleep(60)\"\n"


@pytest.mark.usefixtures("network")
def test_a_prepared_client_runs() -> None:
    client = Client(
        "made",
        ("{build}/client", "{host}", "{port}"),
        files={"client.sh": f"#!/bin/sh\n{SOURCE}"},
        prepare=("sh", "-c", "cp {build}/client.sh {build}/client && chmod +x {build}/client"),
        in_scratch=True,
    )
    assert audit(client, Limits(quick=True, dial=60)).verdict is Word.HOLDS


@pytest.mark.usefixtures("network")
def test_a_preparation_that_fails_says_what_it_said() -> None:
    client = Client("made", ("{build}/client", "{port}"), prepare=("sh", "-c", "echo no compiler; exit 1"))
    with pytest.raises(OSError, match="preparation failed: no compiler"):
        audit(client, Limits(quick=True, dial=60))
