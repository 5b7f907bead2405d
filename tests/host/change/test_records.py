"""The way back of a file change: exact where nobody touched the file since."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailbite.host.change.records import FileChange


@given(st.text(), st.text(), st.text())
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_undoing_a_file_change_is_exact_when_nobody_touched_it(before: str, after: str, other: str) -> None:
    change = FileChange("/x", before, after)
    assert change.undone(after) == before
    assert change.undone(before) == before
    assert change.undone(None) in (None, before)
    if other not in (before, after):
        change.undone(other)
