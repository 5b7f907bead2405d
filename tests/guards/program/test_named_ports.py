"""``tailbite run --port``: the ports are held as long as the program runs, and no longer."""

from __future__ import annotations

import subprocess

import pytest

from support.guarded import guarded, run, wait_until
from support.programs import client, counts
from support.trap import PORT, Trap, server_can_bind

pytestmark = pytest.mark.usefixtures("network")


def test_named_ports_are_held_and_a_server_may_start_all_the_same() -> None:
    """--port: 0 self-connects, and servers on 127.0.0.1, 0.0.0.0 and ::1 start without SO_REUSEADDR."""
    Trap().set().control()
    with subprocess.Popen(
        guarded(["sh", "-c", 'echo up; read line; exec "$@"', "sh", *client()], "--port", str(PORT)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin is not None and program.stdout is not None
        assert program.stdout.readline() == "up\n"
        Trap().control_fails()
        for host in ("127.0.0.1", "0.0.0.0", "::1"):
            assert server_can_bind(host), host
        assert server_can_bind("::", reuse=True)
        output, _ = program.communicate("go\n", timeout=60)
    assert counts(output) == (0, 200)
    wait_until(Trap().connects_to_itself, "the port is let go when the program has ended")


def test_a_port_that_is_never_chosen_needs_no_guard() -> None:
    """Nobody may hold a privileged port without privilege, and nobody need to."""
    done = run(guarded(["true"], "-v", "--require", "--port", "80", "--port", str(PORT), nobody=True))
    assert done.returncode == 0, done.stderr
    assert "port 80 needs no guard: source ports are not chosen from there\n" in done.stderr
    assert f"port {PORT} is held as long as true runs\n" in done.stderr


def test_a_server_that_has_the_port_on_every_address_is_followed_by_the_holder() -> None:
    """Nobody can hold the port while a server on [::] has it; once that has ended the port is held."""
    Trap().set()
    line = "echo up; read line; echo down; read line"
    import socket

    with socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        program = subprocess.Popen(
            guarded(["sh", "-c", line], "--port", str(PORT)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with program:
            assert program.stdout is not None and program.stdin is not None
            assert program.stdout.readline() == "up\n"
            server.close()
            wait_until(lambda: not server_can_bind("::"), "the port is held")
            Trap().control_fails()
            program.stdin.write("go\n")
            program.stdin.flush()
            assert program.stdout.readline() == "down\n"
            program.communicate("end\n", timeout=60)
