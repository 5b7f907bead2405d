"""Segments fold into self-connects, polls into spans; whatever the segments are."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.guarded import wait_until
from support.trap import PORT, Trap
from tailbite.audit.observe import Recorder, SelfConnects, Timeline, cut
from tailbite.audit.records import ConnectionToItself, Ending
from tailbite.core.address import Endpoint, FourTuple
from tailbite.kernel.packets import TcpFlags, TcpOptions, TcpSegment
from tailbite.kernel.sock_diag import TcpSocket, TcpState
from tailbite.kernel.sockopt import abort

SYN, ACK, FIN, RST = TcpFlags.SYN, TcpFlags.ACK, TcpFlags.FIN, TcpFlags.RST


def segment(
    at: float, flags: TcpFlags, sequence: int, *, source: int = PORT, payload: bytes = b"", host: str = "127.0.0.1"
) -> TcpSegment:
    return TcpSegment(
        timestamp_ns=int(at * 1e9),
        source=Endpoint(host, source),
        destination=Endpoint(host, PORT),
        flags=flags,
        sequence=sequence & 0xFFFFFFFF,
        acknowledgment=0,
        window=0,
        payload_length=len(payload),
        payload=payload,
        options=TcpOptions(),
    )


lives = st.lists(
    st.tuples(
        st.integers(0, 2**32 - 1),
        st.lists(st.binary(min_size=1, max_size=20), max_size=4),
        st.sampled_from([*Ending]),
        st.booleans(),
    ),
    max_size=6,
)


@given(lives, st.sampled_from(["127.0.0.1", "::1"]))
def test_every_life_is_told_as_it_was(scripted: list[tuple[int, list[bytes], Ending, bool]], host: str) -> None:
    fold = SelfConnects(PORT)
    at = 0.0
    told = []
    for position, (initial, writes, ending, repeats) in enumerate(scripted):
        if ending is Ending.OPEN and position < len(scripted) - 1:
            ending = Ending.RESET
        fold.feed(segment(at, SYN, initial, host=host))
        fold.feed(segment(at + 0.1, SYN | ACK, initial, host=host))
        sent = 0
        for data in writes:
            for _ in range(1 + repeats):
                fold.feed(segment(at + 0.2, ACK, initial + 1 + sent, payload=data, host=host))
            sent += len(data)
        if ending is not Ending.OPEN:
            flags = (FIN if ending is Ending.CLOSED else RST) | ACK
            fold.feed(segment(at + 0.5, flags, initial + 1 + sent, host=host))
        told.append((ending, sent, None if ending is Ending.OPEN else round(at + 0.5, 6)))
        at += 1
    assert [(hit.ending, hit.sent, hit.end and round(hit.end, 6)) for hit in fold.established] == told
    assert fold.dials == len(scripted)
    assert bytes(fold.written) == b"".join(data for _, writes, _, _ in scripted for data in writes)
    assert (fold.open_since is not None) == bool(told and told[-1][0] is Ending.OPEN)


segments = st.builds(
    segment,
    st.floats(0, 100),
    st.integers(0, 255).map(TcpFlags),
    st.integers(0, 2**32 - 1),
    source=st.sampled_from([PORT, PORT + 1]),
    payload=st.binary(max_size=8),
    host=st.sampled_from(["127.0.0.1", "::1"]),
)


@given(st.lists(segments, max_size=30))
def test_any_segments_fold_without_error_and_each_end_has_its_ending(any_of_them: list[TcpSegment]) -> None:
    fold = SelfConnects(PORT)
    for one in any_of_them:
        fold.feed(one)
    for hit in fold.established:
        assert (hit.end is None) == (hit.ending is Ending.OPEN)
        assert hit.sent >= 0
    assert all(hit.end is not None for hit in cut(fold.established, 200.0, polled=200.0, held=False, time_wait=True))


def test_an_end_after_the_audit_ended_the_client_is_not_the_clients() -> None:
    opened, closed = (
        ConnectionToItself(1.0, end, ending, "::1", 3) for end, ending in ((None, Ending.OPEN), (5, Ending.CLOSED))
    )
    for hit in (opened, closed):
        assert cut([hit], 4.0, polled=3.9, held=True, time_wait=False) == (opened,)
        (lost,) = cut([hit], 4.0, polled=3.9, held=False, time_wait=False)
        assert (lost.end, lost.ending) == (4.0, Ending.RESET)
        (lost,) = cut([hit], 4.0, polled=3.9, held=False, time_wait=True)
        assert (lost.end, lost.ending) == (4.0, Ending.CLOSED)
        assert cut([hit], 4.0, polled=0.9, held=False, time_wait=False) == (opened,)
    assert cut([closed], 6.0, polled=3.9, held=True, time_wait=False) == (closed,)


def test_dials_that_lie_close_together_are_one_round() -> None:
    fold = SelfConnects(PORT)
    for at in (1.0, 1.1, 1.2, 1.26, 1.3, 5.0):
        fold.feed(segment(at, SYN, 7, source=PORT + 1))
    assert (fold.dials, fold.rounds, fold.last_end) == (6, 3, None)


def test_a_lost_end_is_noticed_when_the_same_ports_begin_anew() -> None:
    fold = SelfConnects(PORT)
    for at in (0.0, 1.0):
        fold.feed(segment(at, SYN, 7))
        fold.feed(segment(at + 0.1, SYN | ACK, 7))
    assert [hit.ending for hit in fold.established] == [Ending.RESET, Ending.OPEN]


def test_rst_after_fin_takes_the_time_wait_away() -> None:
    fold = SelfConnects(PORT)
    for at, flags in ((0.0, SYN), (0.1, SYN | ACK), (0.2, FIN | ACK), (0.3, RST)):
        fold.feed(segment(at, flags, 7))
    (hit,) = fold.established
    assert (hit.ending, hit.end) == (Ending.RESET, 0.2)


def diag(state: TcpState, remote: int) -> TcpSocket:
    ends = FourTuple(Endpoint("127.0.0.1", PORT), Endpoint("127.0.0.1", remote))
    return TcpSocket(socket.AF_INET, state, ends, 0, 0, 0, 0, 0, (0, 0))


def test_polls_become_spans() -> None:
    timeline = Timeline(PORT)
    timeline.feed(0.0, [])
    timeline.feed(1.0, [diag(TcpState.ESTABLISHED, PORT)])
    timeline.feed(2.0, [diag(TcpState.ESTABLISHED, PORT)])
    timeline.feed(3.0, [diag(TcpState.TIME_WAIT, PORT), diag(TcpState.LISTEN, 0)])
    assert [(span.state, span.start, span.end) for span in timeline.spans(4.0)] == [
        ("ESTABLISHED to itself", 1.0, 3.0),
        ("LISTEN", 3.0, 4.0),
        ("TIME-WAIT to itself", 3.0, 4.0),
    ]


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("ending", [Ending.CLOSED, Ending.RESET, Ending.OPEN])
def test_the_kernels_own_segments_tell_how_each_close_ended(host: str, ending: Ending) -> None:
    Trap().set()
    with Recorder(PORT) as watch:
        sock = socket.create_connection((host, PORT))
        sock.sendall(b"hello")
        assert sock.recv(5) == b"hello"
        if ending is Ending.CLOSED:
            sock.close()
        elif ending is Ending.RESET:
            abort(sock)
        states: set[str] = set()

        def is_noticed() -> bool:
            states.clear()
            states.update(found.state.label for found in watch.poll())
            return [hit.ending for hit in watch.self_connects.established] == [ending]

        wait_until(is_noticed, "how it ended is noticed")  # loopback delivers the last segment later, perhaps
        (hit,) = watch.self_connects.established
        assert (hit.ending, hit.sent, hit.host) == (ending, 5, host)
        assert ("ESTABLISHED" in states) is (ending is Ending.OPEN)
        assert watch.counted() == 1
        assert watch.lost == 0
        abort(sock)
