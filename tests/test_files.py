"""Files are replaced as a whole; devices, pipes and links stay what they are."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from tailbite._files import read_whole, write_atomically


def test_a_file_is_replaced_as_a_whole_with_the_rights_of_a_new_one(tmp_path: Path) -> None:
    file = tmp_path / "report"
    file.write_text("old")
    before = file.open()
    write_atomically(file, "new ü")
    assert before.read() == "old"
    before.close()
    assert file.read_bytes() == "new ü".encode()
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", b"data")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"data"


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    """As a device would: /dev/null must not become a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, b"data")
    reader.join(60)
    assert received == [b"data"]
    assert pipe.is_fifo()


def test_nothing_stays_behind_when_the_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_read_to_its_end_and_one_without_a_writer_is_refused_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OSError, match="it is a pipe that no program writes to") as refused:
        read_whole(fifo)
    assert refused.value.filename == str(fifo)
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as stream:  # as with <(...)
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(read_whole(Path(f"/dev/fd/{reading}"))))
        reader.start()
        stream.write(b"x" * 100_000)
    reader.join()
    os.close(reading)
    assert found == [b"x" * 100_000]
    fifo.unlink()
    fifo.write_bytes(b"\xff")
    assert read_whole(fifo) == b"\xff"


def test_a_file_without_an_end_is_refused_and_so_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="it is larger than 64 MiB"):
        read_whole(Path("/dev/zero"))
    with pytest.raises(IsADirectoryError):
        read_whole(tmp_path)
    assert read_whole(Path(os.devnull)) == b""
