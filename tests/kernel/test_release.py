"""Releases as distributions write them."""

from __future__ import annotations

import platform

import pytest

from tailbite.kernel.release import kernel_release, kernel_version, parse_version


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.18.44-amd64", (6, 18)),
        ("4.18.0-553.el8_10.x86_64", (4, 18)),
        ("5.15-rc1", (5, 15)),
        ("6", None),
        ("generic", None),
        ("", None),
    ],
)
def test_the_first_two_numbers(release: str, version: tuple[int, int] | None) -> None:
    assert parse_version(release) == version


def test_the_running_kernel() -> None:
    assert kernel_release() == platform.release()
    assert kernel_version() >= (4, 18)
