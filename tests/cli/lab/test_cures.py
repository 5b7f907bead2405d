"""``tailbite lab cures`` with the stored data."""

from __future__ import annotations

import json

from support.lab import DATA, run_lab


def test_the_stored_cures_show_what_the_readme_says() -> None:
    """Naive and closing clients keep the server down; where self-connects are prevented, no start failed."""
    answer = json.loads(run_lab("cures", "--from", str(DATA / "cures.jsonl"), "--json").stdout)
    assert answer["as_claimed"] is True
    by_name = {line["strategy"]: line for line in answer["strategies"]}
    assert by_name["naive"]["down"] is None
    assert by_name["naive"]["failed"] == by_name["naive"]["restarts"]
    for name in ("compare and close", "as Go"):
        rounds = [each for each in answer["rounds"] if each["strategy"] == name]
        assert not any(each["helped"] for each in rounds), "really waited out"
        # A minute, or longer if a client connected to itself again over the TIME-WAIT.
        assert all(each["down"] > 55 for each in rounds)
        assert min(each["down"] for each in rounds) < 65
    for name in ("port range", "reserved port", "host guard"):
        assert (by_name[name]["failed"], by_name[name]["self_connects"]) == (0, 0)
    assert by_name["compare and reset"]["failed"] == 0
    assert by_name["compare and reset"]["self_connects"] > 0, "noticed and reset, not prevented"
