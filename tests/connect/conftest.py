"""Both means for the tests of the shells."""

from __future__ import annotations

import pytest

from tailbite.connect import facts


@pytest.fixture(params=[pytest.param("steered", marks=pytest.mark.needs("IP_LOCAL_PORT_RANGE")), "reset"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both means: IP_LOCAL_PORT_RANGE, and the one for kernels and systems without it."""
    if request.param == "reset":
        monkeypatch.setattr(facts, "supports_local_port_range", lambda: False)
        monkeypatch.setattr(facts, "_known", {})
    return str(request.param)
