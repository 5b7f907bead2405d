"""A file that execve(2) refuses although it is there: the answer names what is missing."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tailbite.kernel.executable import GONE, explain_failure, is_binary


def refused(path: Path | str) -> int:
    """Start it, and return the kernel's error."""
    with pytest.raises(OSError) as caught:
        subprocess.run([path], timeout=60)
    assert caught.value.errno is not None
    return caught.value.errno


def script(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    path.chmod(0o755)
    return path


def patched(path: Path, at: int, data: bytes) -> Path:
    """Make a copy of this Python that differs in some bytes."""
    content = bytearray(Path(sys.executable).resolve().read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def loader() -> bytes:
    """Return the path of the program loader that this Python names."""
    content = Path(sys.executable).resolve().read_bytes()
    start = content.index(b"/lib")
    return content[start : content.index(b"\0", start)]


def test_the_interpreter_of_a_script_is_named(tmp_path: Path) -> None:
    first = script(tmp_path / "first", "#!/no/such/program -x\n")
    assert explain_failure(str(first), refused(first)) == f"/no/such/program, which {first} needs, does not exist"
    second = script(tmp_path / "second", f"#! \t{first}\n")
    assert explain_failure(str(second), refused(second)) == f"/no/such/program, which {first} needs, does not exist"


def test_a_script_with_the_line_ends_of_windows_is_called_so(tmp_path: Path) -> None:
    path = script(tmp_path / "crlf", "#!/bin/sh\r\necho\r\n")
    number = refused(path)
    assert number == errno.ENOENT
    assert "ends with a carriage return" in explain_failure(str(path), number)


def test_the_loader_of_a_program_for_another_library_is_named(tmp_path: Path) -> None:
    own = loader()
    other = b"/lib/ld-musl".ljust(len(own), b"x")
    at = Path(sys.executable).resolve().read_bytes().index(own)
    path = patched(tmp_path / "program", at, other)
    number = refused(path)
    assert number == errno.ENOENT
    assert explain_failure(str(path), number) == f"{other.decode()}, which {path} needs, does not exist"


def test_a_program_for_another_machine_is_not_taken_for_a_script(tmp_path: Path) -> None:
    path = patched(tmp_path / "program", 18, struct.pack("=H", 0x1234))  # e_machine (elf(5))
    number = refused(path)
    assert number == errno.ENOEXEC
    assert is_binary(os.fsencode(path))
    assert explain_failure(str(path), number) == "it is a program for another kind of machine, or damaged"
    assert not is_binary(os.fsencode(script(tmp_path / "plain", "echo hello\n")))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("data", "/data, which PATH needs: it is not marked as executable"),
        ("", "/, which PATH needs: it is a folder"),
    ],
)
def test_an_interpreter_that_cannot_be_executed_is_named(tmp_path: Path, target: str, says: str) -> None:
    (tmp_path / "data").write_text("")
    path = script(tmp_path / "script", f"#!{tmp_path}/{target}\n")
    number = refused(path)
    assert number == errno.EACCES
    assert says.replace("PATH", str(path)) in explain_failure(str(path), number)


def test_what_is_wrong_with_the_file_itself_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert explain_failure(str(tmp_path), refused(tmp_path)) == "it is a folder"
    assert "not marked as executable" in explain_failure(str(tmp_path / "data"), refused(tmp_path / "data"))
    missing = str(tmp_path / "missing")
    assert explain_failure(missing, refused(missing)) == "No such file or directory"


def test_a_relative_path_leads_nowhere_in_a_folder_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "gone").mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert explain_failure("./x", errno.ENOENT) == GONE
    assert explain_failure("/x", errno.ENOENT) == "No such file or directory"


@pytest.mark.parametrize(
    "content", [b"", b"#!", b"#!\n", b"\x7fELF", b"\x7fELF\x02\x01" + b"\xff" * 100, b"\0" * 300]
)
def test_a_file_of_any_content_gets_an_answer(tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / "file").write_bytes(content)
    for number in (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ELOOP, errno.EIO):
        assert explain_failure(str(path), number)
