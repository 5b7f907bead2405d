"""A slow reader, or none, never stops the one who writes."""

from __future__ import annotations

import os
import threading

from tailbite.watch.line_writer import LineWriter


def test_lines_arrive_in_their_order() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing)
    for number in range(100):
        writer.put_line(f"line {number}")
    writer.close(60)
    os.close(writing)
    with os.fdopen(reading) as lines:
        assert lines.read().splitlines() == [f"line {number}" for number in range(100)]


def test_a_full_pipe_drops_lines_counts_them_and_says_so_when_read_again() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing, lambda number: f"{number} dropped", most=10)
    text = "x" * 10_000
    for _ in range(100):  # a pipe has a place for 64 KiB, the queue for 10 lines
        writer.put_line(text)
    assert writer.dropped > 50
    dropped = writer.dropped
    lines: list[str] = []

    def read() -> None:
        with os.fdopen(reading) as stream:
            lines.extend(line.rstrip() for line in stream)

    def told() -> int:
        return sum(int(line.split()[0]) for line in list(lines) if line.endswith("dropped"))

    reader = threading.Thread(target=read)
    reader.start()
    while told() < dropped:  # the test's time limit ends a failure
        writer.put_line("more")
    writer.close(60)
    os.close(writing)
    reader.join()
    assert dropped <= told() <= writer.dropped


def test_a_reader_that_is_gone_closes_it() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing)
    os.close(reading)
    writer.put_line("nobody reads this")
    writer.close(60)
    assert writer.is_closed
    assert isinstance(writer.error, BrokenPipeError)
    os.close(writing)


def test_a_full_disk_is_an_error() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(full)
    writer.put_line("there is no place for this")
    writer.close(60)
    assert writer.error is not None
    assert "No space left" in str(writer.error)
    os.close(full)
