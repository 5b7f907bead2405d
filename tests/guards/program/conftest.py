"""The memory that a worker shares with its successor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tailbite.guards.program.shared_page import SharedPage

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def page() -> Iterator[SharedPage]:
    """The memory of all helpers; two slots have a deposit."""
    page = SharedPage()
    page.open_deposits(2)
    yield page
    os.close(page.descriptor)
    for slot in page.slots:
        if slot.deposit is not None:
            slot.deposit.close()
