"""A remedy that root may not apply in a container is one for the host."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.holders import Holder
from tailbite.host.explain.limits import within_permissions
from tailbite.host.explain.why import explain_port
from tailbite.host.see.namespaces import current_namespace
from tailbite.host.see.permissions import Permissions
from tailbite.host.see.port import inspect_port

if TYPE_CHECKING:
    from collections.abc import Callable

PORT = 40000
CONTAINER = """
mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys || exit 90
exec setpriv --bounding-set=-net_admin --inh-caps=-net_admin "$@"
"""


def lines(allowed: Permissions) -> list[str]:
    (shot,) = inspect_port(PORT, [current_namespace()])
    found = within_permissions(explain_port(shot).findings, allowed)
    return [line for one in found for remedy in one.remedies for line in remedy.commands]


@pytest.mark.usefixtures("network")
def test_only_the_remedies_that_are_not_permitted_are_for_the_host() -> None:
    with Holder("self_chosen", "127.0.0.1", reuse=False).held(PORT):
        kill, reserve = "tailbite fix --kill 40000", "tailbite fix --reserve 40000"
        here, host = "--apply", "--netns CONTAINER --apply"
        for destroys in (True, False):
            for sets in (True, False):
                said = lines(Permissions(destroys, sets))
                assert f"{kill} {here if destroys else host}" in said
                assert f"{reserve} {here if sets else host}" in said
                assert len(said) == len(lines(Permissions()))


@pytest.mark.peers
@pytest.mark.usefixtures("network")
def test_root_without_net_admin_and_with_proc_sys_read_only_is_sent_to_the_host(peer: Callable[[str], str]) -> None:
    """As Docker starts a container."""
    peer("setpriv")
    why = (sys.executable, "-m", "tailbite", "why", str(PORT), "--netns", "self", "--json")
    with Holder("self_chosen", "127.0.0.1", reuse=False).held(PORT):
        done = subprocess.run(
            ("unshare", "--mount", "sh", "-c", CONTAINER, "sh", *why), capture_output=True, text=True, timeout=60
        )
    texts = {
        line: remedy["text"]
        for one in json.loads(done.stdout)["findings"]
        for remedy in one["remedies"]
        for line in remedy["commands"]
    }
    assert "lacks CAP_NET_ADMIN" in texts[f"tailbite fix --kill {PORT} --netns CONTAINER --apply"]
    assert "may not write /proc/sys" in texts[f"tailbite fix --reserve {PORT} --netns CONTAINER --apply"]
