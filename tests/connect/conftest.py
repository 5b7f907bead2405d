"""Both preventions for the tests of the shells."""

from __future__ import annotations

import pytest

from tailbite.connect import facts


@pytest.fixture(params=["steered", "bind-and-look"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both preventions: this kernel's, and the one for kernels before 6.3 and for other systems."""
    if request.param == "bind-and-look":
        monkeypatch.setattr(facts, "supports_local_port_range", lambda: False)
        monkeypatch.setattr(facts, "_known", {})
    return str(request.param)
