"""Sentences of ``tailbite host-guard`` where iptables refuses, and the commands that work in its place."""

from __future__ import annotations

import re

import pytest

from tailbite.cli import host_guard_refusal
from tailbite.errors import FirewallError
from tailbite.host.see import abilities


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("CHAIN_ADD failed (Operation not supported): chain INPUT", "What works here: "),
        ("TABLE_ADD failed (Operation not supported): table filter", "What works here: "),
        ("can't initialize iptables table `filter': Table does not exist", "What works here: "),
        ("Failed to initialize nft: Protocol not supported", "What works here: "),
        ("Couldn't load match `bpf':No such file or directory", "has no 'bpf' match here"),
        ("No chain/target/match by that name.", "has no 'bpf' match here"),
        ("Extension bpf revision 0 not supported, missing kernel module?", "has no 'bpf' match here"),
        ("can't initialize iptables table `filter': Permission denied (you must be root)", "This needs root"),
    ],
)
def test_what_iptables_says_is_followed_by_what_to_do(said: str, advice: str) -> None:
    explained = host_guard_refusal.explain_refusal(FirewallError(("iptables",), 1, said))
    assert explained.startswith(f"iptables: {said.rstrip('.')}. ")
    assert advice in explained


@pytest.mark.parametrize(
    ("destroys", "options", "variants", "offered"),
    [
        (True, "", ("nft", "legacy"), {"--variant nft", "tailbite run", "watch --kill"}),
        (True, " --port PORT", ("legacy",), {"--variant legacy", "tailbite run --port PORT", "watch --kill"}),
        (False, None, (), set()),
    ],
)
def test_only_what_works_on_this_kernel_is_offered_in_place_of_the_rule(
    destroys: bool, options: str | None, variants: tuple[str, ...], offered: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abilities, "can_destroy", lambda: destroys)
    monkeypatch.setattr(abilities, "run_options", lambda: options)
    monkeypatch.setattr(host_guard_refusal, "can_install", lambda variant, _: variant in variants)
    error = FirewallError(("iptables",), 1, "TABLE_ADD failed (Operation not supported): table filter")
    explained = host_guard_refusal.explain_refusal(error)
    assert "fix --reserve PORT --apply" in explained
    found = re.findall(r"--variant \w+|tailbite run(?: --port PORT)?|watch --kill", explained)
    assert set(found) == offered


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(("works", "command"), [("nft", "install --variant nft --apply"), ("", "cannot be on this")])
def test_status_names_the_command_that_works_here(works: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_guard_refusal, "can_install", lambda variant, _: variant == works)
    assert command in host_guard_refusal.installing_command(None)
    monkeypatch.setattr(host_guard_refusal, "can_install", lambda *_: None)  # as a user who may not try
    assert host_guard_refusal.installing_command("legacy") == "tailbite host-guard install --variant legacy --apply"
