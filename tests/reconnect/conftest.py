"""Fixtures: the shell of a parametrized test, and that nothing is left open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.server import no_socket_left
from support.shells import ALL, Shell

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=ALL, ids=lambda shell: shell.name)
def shell(request: pytest.FixtureRequest) -> Shell:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def nothing_left(network: None) -> Iterator[None]:
    """The test ends with the sockets it began with."""
    with no_socket_left():
        yield
