"""Targets: host and port, or the path of a Unix socket; what is neither is refused with a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailbite.connect.target import Target


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((("db", 5432),), "db:5432"),
        (("db", "postgresql"), "db:postgresql"),
        (("::1", 80), "[::1]:80"),
        (("/run/db.sock",), "unix:/run/db.sock"),
        ((b"./db.sock",), "unix:./db.sock"),
        ((Path("/run/db"),), "unix:/run/db"),
        (("\0abstract",), "unix:@abstract"),
    ],
)
def test_a_target_and_its_text(arguments: tuple[Any, ...], text: str) -> None:
    target = Target.of(*arguments)
    assert str(target) == text
    assert target.is_unix is text.startswith("unix:")


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((("db", None),), TypeError, "a port is missing"),
        ((("db",),), TypeError, "not a valid address"),
        ((5432,), TypeError, "not a valid address"),
        (("db", True), TypeError, "not a valid address"),
        (("db",), TypeError, "write ./db"),
        (("db", 0), ValueError, "1 to 65535"),
        (("db", 65536), ValueError, "1 to 65535"),
        (("/" + "x" * 107,), ValueError, "at most 107 bytes"),
    ],
)
def test_a_wrong_target_says_what_to_write(arguments: tuple[Any, ...], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Target.of(*arguments)
