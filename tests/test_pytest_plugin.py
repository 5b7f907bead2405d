"""The pytest plugin in test runs of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.usefixtures("network")

ITSELF = """
import socket

def reach_itself():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sock = socket.socket()
    sock.bind(("127.0.0.1", port))
    sock.connect(("127.0.0.1", port))
    return sock
"""

ENDINGS = {
    "closed": "reach_itself().close()",
    "in a with block": "with reach_itself(): pass",
    "reset": "from tailbite.kernel.sockopt import abort; abort(reach_itself())",
    "left open": "global kept; kept = reach_itself()",
    "closed behind its back": "import os; s = reach_itself(); os.close(s.detach())",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_a_test_that_reaches_itself_fails_by_name_and_the_next_does_not(
    pytester: pytest.Pytester, ending: str
) -> None:
    pytester.makepyfile(f"{ITSELF}\ndef test_it():\n    {ending}\n\ndef test_next():\n    pass\n")
    done = pytester.runpytest_subprocess("--tailbite=fail")
    done.assert_outcomes(failed=1, passed=1)
    done.stdout.re_match_lines([r".*::test_it connected to itself: 127\.0\.0\.1:(\d+) -> 127\.0\.0\.1:\1 \(.+\).*"])


def test_warn_names_it_and_lets_it_pass(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(f"{ITSELF}\ndef test_it():\n    reach_itself().close()\n")
    done = pytester.runpytest_subprocess("--tailbite=warn")
    done.assert_outcomes(passed=1, warnings=1)
    done.stdout.fnmatch_lines(["*SelfConnectWarning: *::test_it connected to itself*"])


def test_off_is_the_default_and_loads_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"{ITSELF}\ndef test_it():\n    reach_itself().close()\n    import sys\n"
        "    ours = {m for m in sys.modules if m.startswith('tailbite')}\n"
        "    assert ours == {'tailbite', 'tailbite._version', 'tailbite.pytest_plugin'}\n"
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_the_mode_may_stand_in_the_configuration(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ntailbite = fail\n")
    pytester.makepyfile(f"{ITSELF}\ndef test_it():\n    reach_itself().close()\n")
    pytester.runpytest_subprocess().assert_outcomes(failed=1)
    pytester.runpytest_subprocess("--tailbite=off").assert_outcomes(passed=1)
    pytester.makeini("[pytest]\ntailbite = loud\n")
    done = pytester.runpytest_subprocess()
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*'loud'; it takes one of: off, warn, fail*"])


def test_fixtures_are_reported_too_and_a_failing_test_stays_the_failure_it_is(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"{ITSELF}\nimport pytest\n"
        "@pytest.fixture\ndef before():\n    reach_itself().close()\n"
        "def test_setup(before):\n    pass\n"
        "@pytest.fixture\ndef after():\n    yield\n    reach_itself().close()\n"
        "def test_teardown(after):\n    pass\n"
        "def test_fails():\n    reach_itself().close()\n    assert 1 == 2\n"
    )
    done = pytester.runpytest_subprocess("--tailbite=fail")
    done.assert_outcomes(errors=2, failed=1, passed=1)
    done.stdout.fnmatch_lines_random(
        ["*test_setup*fixtures were set up*", "*test_teardown*fixtures were torn down*", "*assert 1 == 2*"]
    )


def test_ordinary_connections_are_not_reported(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import socket\n"
        "def test_it():\n"
        "    with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "        with socket.create_connection(server.getsockname()):\n"
        "            server.accept()[0].close()\n"
        "    one, other = socket.socketpair(); one.close(); other.close()\n"
    )
    pytester.runpytest_subprocess("--tailbite=fail").assert_outcomes(passed=1)


def test_under_xdist_each_worker_reports_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"{ITSELF}\nimport pytest\n@pytest.mark.parametrize('n', range(8))\ndef test_it(n):\n"
        "    if n % 4 == 0:\n        reach_itself().close()\n"
    )
    done = pytester.runpytest_subprocess("--tailbite=fail", "-n", "2")
    done.assert_outcomes(failed=2, passed=6)


def test_asyncio_is_seen(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import asyncio\n"
        "def test_it(self_connect_trap):\n"
        "    async def dial():\n"
        "        _, writer = await asyncio.open_connection(*self_connect_trap.address)\n"
        "        writer.transport.abort()\n"
        "        await asyncio.sleep(0)\n"
        "    asyncio.run(dial())\n"
    )
    pytester.runpytest_subprocess("--tailbite=fail").assert_outcomes(failed=1)


def test_the_trap_catches_a_plain_client_and_spares_a_guarded_one(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import asyncio, socket, pytest, tailbite\n"
        "def test_plain(self_connect_trap):\n"
        "    with socket.create_connection(self_connect_trap.address) as sock:\n"
        "        assert tailbite.is_self_connected(sock)\n"
        "        assert [s.state.label for s in self_connect_trap.sockets()] == ['ESTABLISHED']\n"
        "    assert self_connect_trap.self_connects == 1\n"
        "def test_guarded(self_connect_trap):\n"
        "    for _ in range(50):\n"
        "        with pytest.raises(ConnectionRefusedError):\n"
        "            tailbite.create_connection(self_connect_trap.address)\n"
        "        with pytest.raises(ConnectionRefusedError):\n"
        "            asyncio.run(tailbite.open_connection(*self_connect_trap.address))\n"
        "    assert self_connect_trap.self_connects == 0\n"
        "    assert self_connect_trap.sockets() == []\n"
        "def test_another_port_is_left_alone(self_connect_trap, refused_port):\n"
        "    with pytest.raises(ConnectionRefusedError):\n"
        "        socket.create_connection(('127.0.0.1', refused_port))\n"
        "    self_connect_trap.control()\n"
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=3)


def test_a_refused_port_refuses_and_is_nobodys_source_port(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import socket, pytest\n"
        "@pytest.mark.parametrize('host', ['127.0.0.1', '::1', 'localhost'])\n"
        "def test_it(refused_port, host):\n"
        "    for _ in range(2000):\n"
        "        with pytest.raises(ConnectionRefusedError):\n"
        "            socket.create_connection((host, refused_port), timeout=5)\n"
        "def test_not_even_when_it_is_all_there_is(refused_port):\n"
        "    from tailbite.core.ports import PortRange\n"
        "    from tailbite.kernel.sockopt import set_local_port_range\n"
        "    with socket.socket() as sock:\n"
        "        set_local_port_range(sock, PortRange(refused_port, refused_port))\n"
        "        with pytest.raises(OSError):\n"
        "            sock.connect(('127.0.0.1', refused_port))\n"
    )
    pytester.runpytest_subprocess("--tailbite=fail").assert_outcomes(passed=4)


def test_a_server_port_can_be_bound_while_clients_dial_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import socket, pytest\n"
        "@pytest.mark.parametrize('n', range(20))\n"
        "def test_it(server_port, n):\n"
        "    for _ in range(500):\n"
        "        with pytest.raises(ConnectionRefusedError):\n"
        "            socket.create_connection(('127.0.0.1', server_port))\n"
        "    with socket.socket() as server:\n"
        "        server.bind(('', server_port))\n"
        "        server.listen()\n"
        "        socket.create_connection(('127.0.0.1', server_port)).close()\n"
    )
    pytester.runpytest_subprocess("--tailbite=fail", "-n", "2").assert_outcomes(passed=20)


def test_two_reservations_never_meet() -> None:
    """Held in two processes at once, all ports differ, though there are hardly more ports than reservations."""
    code = (
        "from contextlib import ExitStack\n"
        "from tailbite.testkit import ports\n"
        "from tailbite.core.ports import PortSet\n"
        "ports.safe_ports = lambda ephemeral: PortSet.parse('20000-20059')\n"
        "with ExitStack() as stack:\n"
        "    print(*[stack.enter_context(ports.reserve_server_port()) for _ in range(25)], flush=True)\n"
        "    input()\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    seen = []
    for process in both:
        assert process.stdout is not None
        seen += process.stdout.readline().split()
    for process in both:
        process.communicate("\n")
    assert len(seen) == len(set(seen)) == 50


def test_no_port_outside_the_range_is_a_sentence() -> None:
    from tailbite.core.ports import PortRange
    from tailbite.kernel.sysctl import write_ephemeral_range
    from tailbite.testkit.ports import reserve_server_port

    write_ephemeral_range(PortRange(1024, 65535))
    with pytest.raises(OSError, match="leaves no port outside"), reserve_server_port():
        pass


def test_a_client_is_audited_from_a_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "from tailbite.audit import Word\n"
        "PLAIN = \"import socket, time; s = socket.create_connection(('{host}', {port})); time.sleep(60)\"\n"
        "GUARDED = \"import tailbite; tailbite.create_connection(('{host}', {port}))\"\n"
        "def test_plain(audit_client):\n"
        "    assert audit_client(['{python}', '-c', PLAIN], timeout=60).verdict is Word.HOLDS\n"
        "def test_guarded(audit_client):\n"
        "    assert audit_client(['{python}', '-c', GUARDED], timeout=60).verdict is Word.IMMUNE\n"
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=2)


def test_a_verdict_that_is_not_good_enough_fails_the_test_with_the_reason(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "PLAIN = \"import socket, time; s = socket.create_connection(('{host}', {port})); time.sleep(60)\"\n"
        "def test_it(audit_client):\n"
        "    audit_client(['{python}', '-c', PLAIN], name='my client', timeout=60).require('immune')\n"
    )
    done = pytester.runpytest_subprocess()
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*AssertionError: my client is not immune: holds: it stayed connected to itself*"])
    done.stdout.no_fnmatch_line("*verdict.py*raise*")


def test_a_client_that_was_not_seen_to_come_back_does_not_pass(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import pytest\n"
        "ONCE = '''\n"
        "import contextlib, time, tailbite\n"
        "with contextlib.suppress(OSError): tailbite.create_connection(('{host}', {port}))\n"
        "time.sleep(600)\n"
        "'''\n"
        "def test_it(audit_client):\n"
        "    with pytest.raises(AssertionError, match='its reconnects were not seen'):\n"
        "        audit_client(['{python}', '-c', ONCE], patience=1, timeout=60).require()\n"
        "    with pytest.raises(ValueError, match='choose immune or aborts'):\n"
        "        audit_client(['true', '{port}']).require('blocks')\n"
        "    with pytest.raises(ValueError, match='must contain {port}'):\n"
        "        audit_client('true')\n"
        "    with pytest.raises(ValueError, match='watch must be more than 0'):\n"
        "        audit_client(['true', '{port}'], watch=0)\n"
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_marked_test_may_connect_to_itself(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"{ITSELF}\nimport pytest\n@pytest.mark.allow_self_connect\ndef test_it():\n    reach_itself().close()\n\n"
        "def test_another():\n    reach_itself().close()\n"
    )
    pytester.runpytest_subprocess("--tailbite=fail", "--strict-markers").assert_outcomes(passed=1, failed=1)


def test_a_project_with_fixtures_of_the_short_names_uses_the_long_ones(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import socket, pytest\n"
        "@pytest.fixture\ndef refused_port():\n    return 'mine'\n"
        "@pytest.fixture\ndef server_port():\n    return 'mine'\n"
        "def test_it(refused_port, tailbite_refused_port, server_port, tailbite_server_port):\n"
        "    assert refused_port == server_port == 'mine'\n"
        "    with pytest.raises(ConnectionRefusedError):\n"
        "        socket.create_connection(('127.0.0.1', tailbite_refused_port))\n"
        "    socket.create_server(('127.0.0.1', tailbite_server_port)).close()\n"
        "def test_more(tailbite_self_connect_trap, tailbite_audit_client):\n"
        "    tailbite_self_connect_trap.control()\n"
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=2)
