"""The examples of the page on flaky tests run as they stand, with a client and a server filled in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/howto/flaky-tests.md"

GIVEN = """
import contextlib, socket, sys
import pytest
import tailbite

class my_client:
    @staticmethod
    def connect(host, port):
        tailbite.create_connection((host, port)).close()

@contextlib.contextmanager
def start_server(port):
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        yield
"""


@pytest.mark.usefixtures("network")
def test_every_example_passes(pytester: pytest.Pytester) -> None:
    examples = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    program = pytester.path / "my-client"
    program.write_text('#!/bin/sh\nexec "$PYTHON" -c "import tailbite; tailbite.create_connection((\'$2\', $4))"\n')
    program.chmod(0o755)
    pytester.makepyfile(GIVEN + "\n".join(examples))
    with pytest.MonkeyPatch.context() as patch:
        import os
        import sys

        patch.setenv("PATH", f"{pytester.path}:{os.environ['PATH']}")
        patch.setenv("PYTHON", sys.executable)
        pytester.runpytest_subprocess("--tailbite=fail").assert_outcomes(passed=5)
