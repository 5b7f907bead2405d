"""Every command that ends a self-connect gives the same reason when the kernel refuses, for every errno."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import time

import pytest
from click.testing import CliRunner

from conftest import find_peer
from support.abilities import SLOW_LOOPBACK, has_ability
from support.old_kernel import refuse_to_destroy
from support.trap import PORT, leftovers, wait_for_time_wait
from tailbite.cli import fix, scan
from tailbite.core.address import Endpoint
from tailbite.host.see import abilities
from tailbite.host.see.end_refusal import cannot_destroy, why_not_ended
from tailbite.host.see.namespaces import current_namespace
from tailbite.kernel import end_socket
from tailbite.kernel.inet_diag import TcpState
from tailbite.watch.killer import destroy_noticed
from tailbite.watch.records import Moment, SelfConnectEvent, SourceKind

END = Endpoint("127.0.0.1", PORT)
LACKS = cannot_destroy(END)
REFUSED = "the kernel refused to end it (Device or resource busy): end the program that has it"
NEITHER = "this kernel can end a TIME-WAIT neither by SOCK_DESTROY nor by TCP_REPAIR; wait for its end, which takes a"
KEPT = (
    "the kernel did not let the TIME-WAIT be replaced: TCP timestamps or net.ipv4.tcp_tw_reuse are off; wait for its"
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")


@pytest.fixture(autouse=True)
def _ask_again() -> None:
    abilities.can_destroy.cache_clear()
    abilities._can_destroy_time_wait.cache_clear()


@as_root
@pytest.mark.needs("SCH_TBF")
@pytest.mark.usefixtures("network")
def test_the_ability_is_found_out_although_loopback_delivers_late() -> None:
    """A close(2) returns before its FIN has arrived; the TIME-WAIT comes a moment later."""
    subprocess.run([find_peer("tc"), *SLOW_LOOPBACK], check=True)
    assert abilities._try_time_wait() is has_ability("SOCK_DESTROY_TIME_WAIT")


@pytest.mark.parametrize(
    ("number", "state", "sentence"),
    [
        (errno.EOPNOTSUPP, TcpState.ESTABLISHED, LACKS),
        (errno.EINVAL, TcpState.SYN_SENT, LACKS),
        (errno.EBUSY, TcpState.ESTABLISHED, REFUSED),
        (errno.EOPNOTSUPP, TcpState.TIME_WAIT, NEITHER),
        (errno.ENOPROTOOPT, TcpState.TIME_WAIT, NEITHER),
        (errno.EADDRNOTAVAIL, TcpState.TIME_WAIT, KEPT),
        (errno.EADDRNOTAVAIL, TcpState.ESTABLISHED, KEPT),
        (errno.EBUSY, TcpState.TIME_WAIT, "the kernel refused to end it (Device or resource busy); wait for its end"),
        (errno.ENOENT, TcpState.ESTABLISHED, "its network namespace can no longer be entered"),
    ],
)
def test_each_answer_of_the_kernel_has_a_sentence_that_says_what_to_do(
    number: int, state: TcpState, sentence: str
) -> None:
    assert why_not_ended(OSError(number, os.strerror(number)), END, state).startswith(sentence)


def _applied(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(fix.command, [*words, "--netns", "self", "--no-files"], standalone_mode=False)
    return done.return_value, done.stderr


@as_root
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.EBUSY])
def test_scan_fix_and_watch_say_of_a_connection_what_the_dry_run_says(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse_to_destroy(monkeypatch, number=number)
    sentence = REFUSED if number == errno.EBUSY else LACKS
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", PORT))
        sock.connect(("127.0.0.1", PORT))
        shown = CliRunner().invoke(fix.command, ["--kill", str(PORT), "--netns", "self"], standalone_mode=False)
        assert (LACKS in shown.stdout) is (sentence == LACKS)
        number, said = _applied("--kill", str(PORT), "--apply")
        assert (number, said) == (4, f"tailbite: not destroyed: {END} in this namespace: {sentence}\n")
        told = CliRunner().invoke(
            scan.command, ["--kill", "--apply", "--netns", "self", "--json"], standalone_mode=False
        )
        assert told.return_value == 4
        assert json.loads(told.stdout)["killed"][0]["refused"]["why"] == sentence
        event = SelfConnectEvent(
            time.time(), Moment.ESTABLISHED, SourceKind.BPF, END, socket.AF_INET, current_namespace()
        )
        assert destroy_noticed(event).refused == sentence


@as_root
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("number", [errno.ENOPROTOOPT, errno.EADDRNOTAVAIL])
def test_of_a_time_wait_too(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    refuse_to_destroy(monkeypatch)
    monkeypatch.setattr(end_socket, "replace_time_wait", refuse)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", PORT))
        sock.connect(("127.0.0.1", PORT))
    wait_for_time_wait()
    status, said = _applied("--kill", str(PORT), "--apply")
    assert status == 4
    assert (NEITHER if number == errno.ENOPROTOOPT else KEPT) in said
    event = SelfConnectEvent(time.time(), Moment.ENDED, SourceKind.DESTROY, END, socket.AF_INET, current_namespace())
    assert f": {destroy_noticed(event).refused}\n" in said


@as_root
@pytest.mark.usefixtures("network")
def test_what_cannot_be_destroyed_does_not_keep_the_rest_from_being_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_destroy(monkeypatch)
    with socket.socket() as left, socket.socket() as closed:
        for number, sock in ((PORT, left), (PORT + 1, closed)):
            sock.bind(("127.0.0.1", number))
            sock.connect(("127.0.0.1", number))
        closed.close()
        wait_for_time_wait(PORT + 1)
        done = CliRunner().invoke(
            fix.command,
            ["--kill", f"{PORT}-{PORT + 1}", "--apply", "--netns", "self", "--json"],
            standalone_mode=False,
        )
        changes = json.loads(done.stdout)["changes"]
        assert done.return_value == 4
        assert {change["endpoint"]: change["refused"] for change in changes} == {
            f"127.0.0.1:{PORT}": LACKS,
            f"127.0.0.1:{PORT + 1}": None,
        }
        assert leftovers(PORT + 1) == []
        assert len(leftovers(PORT)) == 1


@as_root
@pytest.mark.usefixtures("network")
def test_a_connection_that_has_ended_meanwhile_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_destroy(monkeypatch, number=errno.ENOENT)
    monkeypatch.setattr(end_socket, "_is_listed", lambda *_: False)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", PORT))
        sock.connect(("127.0.0.1", PORT))
        status, said = _applied("--kill", str(PORT), "--apply")
        assert (status, said) == (0, "tailbite: it had ended by itself\ntailbite: done\n")
        told = CliRunner().invoke(
            scan.command, ["--kill", "--apply", "--netns", "self", "--json"], standalone_mode=False
        )
        (killed,) = json.loads(told.stdout)["killed"]
        assert (told.return_value, killed["had_ended"], killed["refused"]) == (0, True, None)
