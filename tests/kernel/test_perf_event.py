"""Records of a ring buffer, wherever they lie in it, and the running kernel's buffers."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.kernel.perf_event import PERF_TYPE_TRACEPOINT, PerfBuffer, cpu_numbers, open_perf_event, split_records

SIZE = 256


def record(data: bytes, kind: int = 9) -> bytes:
    """Return a record as the kernel writes it: padded to a multiple of 8 bytes."""
    body = struct.pack("=I", len(data)) + data
    body += bytes(-(len(body) + 8) % 8)
    return struct.pack("=IHH", kind, 0, len(body) + 8) + body


@given(start=st.integers(0, 2**40), texts=st.lists(st.binary(max_size=40), max_size=5))
def test_records_are_read_across_the_end_of_the_buffer(start: int, texts: list[bytes]) -> None:
    start -= start % 8
    written = b"".join(map(record, texts))[:SIZE]
    texts = [text for count, text in enumerate(texts) if len(b"".join(map(record, texts[: count + 1]))) <= SIZE]
    written = b"".join(map(record, texts))
    ring = bytearray(SIZE)
    for offset, byte in enumerate(written):
        ring[(start + offset) % SIZE] = byte
    assert list(split_records(memoryview(ring), start + len(written), start)) == texts


def test_what_is_not_a_sample_is_passed_over() -> None:
    lost = struct.pack("=IHHQQ", 2, 0, 24, 1, 7)  # PERF_RECORD_LOST
    data = (lost + record(b"next")).ljust(SIZE, b"\0")
    assert list(split_records(data, len(lost) + len(record(b"next")), 0)) == [b"next"]


@pytest.mark.parametrize("length", [0, 7, 4096])
def test_a_length_that_cannot_be_is_refused(length: int) -> None:
    data = struct.pack("=IHH", 9, 0, length).ljust(SIZE, b"\0")
    with pytest.raises(ValueError, match="claims"):
        list(split_records(data, 64, 0))


def test_there_are_processors() -> None:
    assert cpu_numbers("online")
    assert set(cpu_numbers("online")) <= set(cpu_numbers("possible"))


@pytest.mark.needs("BPF_TRACEPOINT")
def test_a_buffer_is_empty_until_a_program_writes_and_an_unknown_tracepoint_is_an_error() -> None:
    buffer = PerfBuffer(cpu_numbers("online")[0])
    assert buffer.read_records() == []
    buffer.close()
    with pytest.raises(OSError, match="perf_event_open") as caught:
        open_perf_event(PERF_TYPE_TRACEPOINT, 1 << 30, cpu=0)
    assert caught.value.errno in (errno.ENOENT, errno.EINVAL)
