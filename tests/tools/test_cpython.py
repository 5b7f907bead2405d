"""CPython's own tests pass with tailbite's functions as they pass with the standard library's.

A choice of modules that takes seconds; ``make cpython`` runs all of them.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import cpython

SHORT = (
    "test_socket.NetworkConnectionNoServer",
    "test_socket.NetworkConnectionAttributesTest",
    "test_socket.NetworkConnectionBehaviourTest",
    "test_httplib",
    "test_smtplib",
    "test_urllib2_localnet",
    "test_asyncio.test_streams",
)


@pytest.mark.usefixtures("network")
@pytest.mark.timeout(900)
def test_no_test_of_cpython_fails_only_with_tailbite() -> None:
    if importlib.util.find_spec("test.test_socket") is None:
        pytest.skip("this Python has no tests of the standard library (Debian: libpython3-testsuite)")
    plain, replaced, only = cpython.differences(SHORT, timeout=400)
    assert only == frozenset()
    assert replaced.run == plain.run > 250
    assert replaced.guarded > 100
